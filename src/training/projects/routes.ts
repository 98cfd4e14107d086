import { createRoute, z } from "@hono/zod-openapi";
import { createRouter, intQuery, jsonBody, jsonContent, problems } from "../../http/create-api.ts";
import { CreateProjectSchema, ProjectListSchema, ProjectSchema } from "./schemas.ts";

const create = createRoute({
  method: "post",
  path: "/projects",
  operationId: "createProject",
  tags: ["Projects"],
  summary: "Create a project; the caller owns it",
  security: [{ bearer: [] }],
  request: { body: jsonBody(CreateProjectSchema) },
  responses: { 201: jsonContent(ProjectSchema, "The project"), ...problems(400, 401, 415, 422) },
});

const list = createRoute({
  method: "get",
  path: "/projects",
  operationId: "listProjects",
  tags: ["Projects"],
  summary: "The caller's projects, newest first",
  security: [{ bearer: [] }],
  request: {
    query: z.object({
      skip: intQuery({ min: 0, max: 1_000_000, default: 0 }),
      limit: intQuery({ min: 1, max: 500, default: 50 }),
    }),
  },
  responses: { 200: jsonContent(ProjectListSchema, "One page"), ...problems(401, 422) },
});

export const projectRoutes = createRouter()
  .openapi(create, async (c) => {
    const { projects } = c.get("services");
    return c.json(await projects.create(c.get("principal"), c.req.valid("json")), 201);
  })
  .openapi(list, async (c) => {
    const { projects } = c.get("services");
    return c.json(await projects.list(c.get("principal"), c.req.valid("query")), 200);
  });
