import { createRoute, z } from "@hono/zod-openapi";
import { createRouter, jsonBody, jsonContent, problems } from "../../http/create-api.ts";
import { boolQuery, intQuery } from "../../http/fields.ts";
import {
  DrainingRunnerSchema,
  RegistrationTokenRequestSchema,
  RegistrationTokenSchema,
  RunnerListSchema,
} from "./schemas.ts";

const tags = ["Runners"];
const security = [{ bearer: [] }];
const params = z.object({
  runner_id: z.uuid().openapi({ param: { name: "runner_id", in: "path" } }),
});

const createRegistrationToken = createRoute({
  method: "post",
  path: "/runners/tokens",
  operationId: "createRegistrationToken",
  tags,
  summary: "A registration token for machines (admins only)",
  security,
  request: { body: jsonBody(RegistrationTokenRequestSchema) },
  responses: {
    201: jsonContent(RegistrationTokenSchema, "The token, shown once"),
    ...problems(400, 401, 403, 413, 415, 422),
  },
});

const list = createRoute({
  method: "get",
  path: "/runners",
  operationId: "listRunners",
  tags,
  summary: "Runners by name (admins only)",
  description:
    "A runner that was silent for 14 days (one day with the label `ephemeral=true`) is listed only with `archived=true`.",
  security,
  request: {
    query: z.object({
      archived: boolQuery().optional(),
      skip: intQuery({ min: 0, max: 1_000_000, default: 0 }),
      limit: intQuery({ min: 1, max: 500, default: 50 }),
    }),
  },
  responses: { 200: jsonContent(RunnerListSchema, "One page"), ...problems(401, 403, 422) },
});

const drain = createRoute({
  method: "post",
  path: "/runners/{runner_id}/drain",
  operationId: "drainRunner",
  tags,
  summary: "Have a runner finish its job and claim no more (admins only)",
  security,
  request: { params },
  responses: {
    200: jsonContent(DrainingRunnerSchema, "It is told at its next claim"),
    ...problems(401, 403, 404, 422),
  },
});

const revoke = createRoute({
  method: "delete",
  path: "/runners/{runner_id}",
  operationId: "revokeRunner",
  tags,
  summary: "End a runner's token and queue its jobs again (admins only)",
  security,
  request: { params },
  responses: { 204: { description: "Revoked" }, ...problems(401, 403, 404, 422) },
});

/** Behind `requireUser`. */
export const runnerAdminRoutes = createRouter()
  .openapi(createRegistrationToken, async (c) => {
    const { runners } = c.get("services");
    const created = await runners.createRegistrationToken(c.get("principal"), c.req.valid("json"), c.get("requestId"));
    return c.json(created, 201);
  })
  .openapi(list, async (c) => {
    const { archived = false, skip, limit } = c.req.valid("query");
    return c.json(await c.get("services").runners.list(c.get("principal"), { archived, skip, limit }), 200);
  })
  .openapi(drain, async (c) => {
    const { runner_id } = c.req.valid("param");
    return c.json(await c.get("services").runners.drain(c.get("principal"), runner_id, c.get("requestId")), 200);
  })
  .openapi(revoke, async (c) => {
    await c.get("services").runners.revoke(c.get("principal"), c.req.valid("param").runner_id, c.get("requestId"));
    return c.body(null, 204);
  });
