import { createRoute, z } from "@hono/zod-openapi";
import { createRouter, jsonBody, jsonContent, problems } from "../http/create-api.ts";
import { idParam } from "../http/fields.ts";
import {
  ApiTokenListSchema,
  ChangePasswordSchema,
  CreateApiTokenSchema,
  CreatedApiTokenSchema,
  LoginRequestSchema,
  LoginResponseSchema,
  MeSchema,
} from "./schemas.ts";

const tags = ["Auth"];
const security = [{ bearer: [] }];

const login = createRoute({
  method: "post",
  path: "/auth/login",
  operationId: "login",
  tags,
  summary: "Log in with e-mail and password",
  description:
    "Ten failed tries for one account from one address, or a hundred over all, are followed by 429 for a while.",
  security: [],
  request: { body: jsonBody(LoginRequestSchema) },
  responses: { 200: jsonContent(LoginResponseSchema, "An access token"), ...problems(400, 401, 413, 415, 422, 429) },
});

/** Open to everybody. */
export const loginRoutes = createRouter().openapi(login, async (c) => {
  const { auth } = c.get("services");
  // Only the platform sets this header for a deployed Worker; a caller cannot.
  const address = c.req.header("cf-connecting-ip") ?? "local";
  return c.json(await auth.login({ ...c.req.valid("json"), address, requestId: c.get("requestId") }), 200);
});

const me = createRoute({
  method: "get",
  path: "/auth/me",
  operationId: "getMe",
  tags,
  summary: "The caller",
  security,
  responses: { 200: jsonContent(MeSchema, "The caller"), ...problems(401) },
});

const changePassword = createRoute({
  method: "post",
  path: "/auth/password",
  operationId: "changePassword",
  tags,
  summary: "Change the password; every other access token ends",
  security,
  request: { body: jsonBody(ChangePasswordSchema) },
  responses: {
    200: jsonContent(LoginResponseSchema, "A new access token"),
    ...problems(400, 401, 403, 413, 415, 422, 429),
  },
});

const createToken = createRoute({
  method: "post",
  path: "/auth/tokens",
  operationId: "createApiToken",
  tags,
  summary: "Make a personal API token for scripts",
  description: "It is sent as `Authorization: Bearer cvp_…` and may do what its owner may, except make credentials.",
  security,
  request: { body: jsonBody(CreateApiTokenSchema) },
  responses: {
    201: jsonContent(CreatedApiTokenSchema, "The token, shown once"),
    ...problems(400, 401, 403, 409, 413, 415, 422),
  },
});

const listTokens = createRoute({
  method: "get",
  path: "/auth/tokens",
  operationId: "listApiTokens",
  tags,
  summary: "The caller's personal API tokens",
  security,
  responses: { 200: jsonContent(ApiTokenListSchema, "All of them"), ...problems(401) },
});

const revokeToken = createRoute({
  method: "delete",
  path: "/auth/tokens/{token_id}",
  operationId: "revokeApiToken",
  tags,
  summary: "Revoke a personal API token",
  security,
  request: { params: z.object({ token_id: idParam("token_id") }) },
  responses: { 204: { description: "Revoked" }, ...problems(401, 404, 422) },
});

/** Behind `requireUser`. */
export const accountRoutes = createRouter()
  .openapi(me, async (c) => c.json(await c.get("services").auth.me(c.get("principal")), 200))
  .openapi(changePassword, async (c) => {
    const { auth } = c.get("services");
    const changed = await auth.changePassword(c.get("principal"), c.req.valid("json"), c.get("requestId"));
    return c.json(changed, 200);
  })
  .openapi(createToken, async (c) => {
    const { auth } = c.get("services");
    return c.json(await auth.createToken(c.get("principal"), c.req.valid("json"), c.get("requestId")), 201);
  })
  .openapi(listTokens, async (c) => c.json(await c.get("services").auth.listTokens(c.get("principal")), 200))
  .openapi(revokeToken, async (c) => {
    const { token_id } = c.req.valid("param");
    await c.get("services").auth.revokeToken(c.get("principal"), token_id, c.get("requestId"));
    return c.body(null, 204);
  });
