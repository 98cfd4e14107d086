import { createRoute, z } from "@hono/zod-openapi";
import { createRouter, jsonContent, problems } from "../../http/create-api.ts";
import { listModels } from "./catalogue.ts";
import { FrameworkSchema, ModelListSchema, taskTypeQuery } from "./schemas.ts";

const list = createRoute({
  method: "get",
  path: "/models/list",
  operationId: "listModels",
  tags: ["Models"],
  summary: "Models that can be trained or used for inference",
  security: [{ bearer: [] }],
  request: {
    query: z.object({ framework: FrameworkSchema.optional(), task_type: taskTypeQuery() }),
  },
  responses: { 200: jsonContent(ModelListSchema, "The catalogue, filtered"), ...problems(401, 422) },
});

export const modelRoutes = createRouter().openapi(list, (c) => {
  const models = listModels(c.req.valid("query"), c.get("services").config.hosted.models);
  return c.json({ models, total: models.length }, 200);
});
