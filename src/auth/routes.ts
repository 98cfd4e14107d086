import { createRoute } from "@hono/zod-openapi";
import { createRouter, jsonBody, jsonContent, problems } from "../http/create-api.ts";
import { LoginRequestSchema, LoginResponseSchema } from "./schemas.ts";

const login = createRoute({
  method: "post",
  path: "/auth/login",
  operationId: "login",
  tags: ["Auth"],
  summary: "Log in with e-mail and password",
  request: { body: jsonBody(LoginRequestSchema) },
  responses: { 200: jsonContent(LoginResponseSchema, "An access token"), ...problems(400, 401, 415, 422, 429) },
});

export const authRoutes = createRouter().openapi(login, async (c) => {
  const { auth } = c.get("services");
  // Only the platform sets this header for a deployed Worker; a caller cannot.
  const address = c.req.header("cf-connecting-ip") ?? "local";
  return c.json(await auth.login({ ...c.req.valid("json"), address }), 200);
});
