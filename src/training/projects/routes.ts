import { createRoute, z } from "@hono/zod-openapi";
import { createRouter, jsonBody, jsonContent, problems } from "../../http/create-api.ts";
import { idParam, intQuery } from "../../http/fields.ts";
import { idempotencyKey, keyHeader } from "../idempotency.ts";
import {
  ChangedRoleSchema,
  ChangeRoleSchema,
  CreateProjectSchema,
  InviteSchema,
  MemberListSchema,
  MemberSchema,
  ProjectListSchema,
  ProjectSchema,
  UpdateProjectSchema,
} from "./schemas.ts";

const tags = ["Projects"];
const security = [{ bearer: [] }];
const params = z.object({ project_id: idParam("project_id") });
const memberParams = params.extend({ user_id: idParam("user_id") });

const create = createRoute({
  method: "post",
  path: "/projects",
  operationId: "createProject",
  tags,
  summary: "Create a project; the caller owns it",
  security,
  request: { headers: keyHeader, body: jsonBody(CreateProjectSchema) },
  responses: { 201: jsonContent(ProjectSchema, "The project"), ...problems(400, 401, 415, 422) },
});

const list = createRoute({
  method: "get",
  path: "/projects",
  operationId: "listProjects",
  tags,
  summary: "The caller's projects, newest first",
  security,
  request: {
    query: z.object({
      skip: intQuery({ min: 0, max: 1_000_000, default: 0 }),
      limit: intQuery({ min: 1, max: 500, default: 50 }),
    }),
  },
  responses: { 200: jsonContent(ProjectListSchema, "One page"), ...problems(401, 422) },
});

const get = createRoute({
  method: "get",
  path: "/projects/{project_id}",
  operationId: "getProject",
  tags,
  summary: "One project",
  security,
  request: { params },
  responses: { 200: jsonContent(ProjectSchema, "The project"), ...problems(404) },
});

const update = createRoute({
  method: "patch",
  path: "/projects/{project_id}",
  operationId: "updateProject",
  tags,
  summary: "Change a project's name, description or task (its owner)",
  security,
  request: { params, body: jsonBody(UpdateProjectSchema) },
  responses: { 200: jsonContent(ProjectSchema, "The project"), ...problems(403, 404) },
});

const remove = createRoute({
  method: "delete",
  path: "/projects/{project_id}",
  operationId: "deleteProject",
  tags,
  summary: "Delete a project with its jobs and datasets (its owner)",
  description: "Its running jobs are fenced off. The project of things that name none cannot be deleted.",
  security,
  request: { params },
  responses: { 204: { description: "Deleted" }, ...problems(400, 403, 404) },
});

const members = createRoute({
  method: "get",
  path: "/projects/{project_id}/members",
  operationId: "listMembers",
  tags,
  summary: "Who is in a project",
  security,
  request: { params },
  responses: { 200: jsonContent(MemberListSchema, "The members, the owner first"), ...problems(404) },
});

const invite = createRoute({
  method: "post",
  path: "/projects/{project_id}/members",
  operationId: "addMember",
  tags,
  summary: "Take a user in, by e-mail (its owner)",
  security,
  request: { params, body: jsonBody(InviteSchema) },
  responses: { 201: jsonContent(MemberSchema, "The member"), ...problems(400, 403, 404) },
});

const changeRole = createRoute({
  method: "patch",
  path: "/projects/{project_id}/members/{user_id}",
  operationId: "changeMemberRole",
  tags,
  summary: "Change a member's role (its owner)",
  security,
  request: { params: memberParams, body: jsonBody(ChangeRoleSchema) },
  responses: { 200: jsonContent(ChangedRoleSchema, "The role"), ...problems(400, 403, 404) },
});

const removeMember = createRoute({
  method: "delete",
  path: "/projects/{project_id}/members/{user_id}",
  operationId: "removeMember",
  tags,
  summary: "Remove a member (its owner), or leave",
  security,
  request: { params: memberParams },
  responses: { 204: { description: "Removed" }, ...problems(400, 403, 404) },
});

export const projectRoutes = createRouter()
  .openapi(create, async (c) => {
    const { projects } = c.get("services");
    const input = c.req.valid("json");
    const key = await idempotencyKey(c.req.valid("header")["idempotency-key"], "createProject", input);
    return c.json(await projects.create(c.get("principal"), input, key), 201);
  })
  .openapi(list, async (c) => {
    const { projects } = c.get("services");
    return c.json(await projects.list(c.get("principal"), c.req.valid("query")), 200);
  })
  .openapi(get, async (c) => {
    const { projects } = c.get("services");
    return c.json(await projects.get(c.get("principal"), c.req.valid("param").project_id), 200);
  })
  .openapi(update, async (c) => {
    const { projects } = c.get("services");
    const { project_id } = c.req.valid("param");
    return c.json(await projects.update(c.get("principal"), project_id, c.req.valid("json")), 200);
  })
  .openapi(remove, async (c) => {
    const { projects, projectRemoval } = c.get("services");
    const { project_id } = c.req.valid("param");
    await projects.close(c.get("principal"), project_id, c.get("requestId"));
    await projectRemoval.fence(project_id);
    // What is left of it is nobody's to see any more; the cron goes on where this ends.
    c.executionCtx.waitUntil(projectRemoval.sweep());
    return c.body(null, 204);
  })
  .openapi(members, async (c) => {
    const { projects } = c.get("services");
    return c.json(await projects.members(c.get("principal"), c.req.valid("param").project_id), 200);
  })
  .openapi(invite, async (c) => {
    const { projects } = c.get("services");
    const { project_id } = c.req.valid("param");
    const member = await projects.invite(c.get("principal"), project_id, c.req.valid("json"), c.get("requestId"));
    return c.json(member, 201);
  })
  .openapi(changeRole, async (c) => {
    const { projects } = c.get("services");
    const { project_id, user_id } = c.req.valid("param");
    const { role } = c.req.valid("json");
    const changed = await projects.changeRole(c.get("principal"), project_id, user_id, role, c.get("requestId"));
    return c.json(changed, 200);
  })
  .openapi(removeMember, async (c) => {
    const { projects } = c.get("services");
    const { project_id, user_id } = c.req.valid("param");
    await projects.removeMember(c.get("principal"), project_id, user_id, c.get("requestId"));
    return c.body(null, 204);
  });
