import { createRoute, z } from "@hono/zod-openapi";
import { createRouter, jsonBody, jsonContent, problems } from "../../http/create-api.ts";
import { taskTypeQuery } from "../models/schemas.ts";
import { explainConfig } from "./explain.ts";
import { configSchema } from "./publish.ts";
import { ConfigFrameworkSchema, ConfigReportSchema, ConfigSchemaSchema, ValidateConfigSchema } from "./schemas.ts";
import { fieldUnder } from "./validate.ts";

const schema = createRoute({
  method: "get",
  path: "/training/config-schema",
  operationId: "getConfigSchema",
  tags: ["Training"],
  summary: "The advanced settings of a framework, with limits and presets",
  security: [{ bearer: [] }],
  request: { query: z.object({ framework: ConfigFrameworkSchema, task_type: taskTypeQuery() }) },
  responses: { 200: jsonContent(ConfigSchemaSchema, "Fields and presets"), ...problems(401, 422) },
});

const validate = createRoute({
  method: "post",
  path: "/training/config/validate",
  operationId: "validateConfig",
  tags: ["Training"],
  summary: "Check advanced settings without creating a job",
  description: "A configuration with errors is answered with `valid: false`, not with an error status.",
  security: [{ bearer: [] }],
  request: { body: jsonBody(ValidateConfigSchema) },
  responses: { 200: jsonContent(ConfigReportSchema, "The verdict"), ...problems(400, 401, 415, 422) },
});

export const configRoutes = createRouter()
  .openapi(schema, (c) => {
    const { framework, task_type } = c.req.valid("query");
    return c.json(configSchema(framework, task_type ?? null), 200);
  })
  .openapi(validate, (c) => {
    const { framework, learning_rate, config } = c.req.valid("json");
    const report = explainConfig(framework, config, learning_rate ?? undefined);
    const errors = report.errors.map(({ field, message }) => ({ field: fieldUnder("config", field), message }));
    return c.json({ ...report, errors }, 200);
  });
