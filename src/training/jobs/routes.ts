import { createRoute, z } from "@hono/zod-openapi";
import { boolQuery, createRouter, idParam, intQuery, jsonBody, jsonContent, problems } from "../../http/create-api.ts";
import { readCursor, writeCursor } from "../../http/cursor.ts";
import {
  CreatedJobSchema,
  CreateJobSchema,
  JobListSchema,
  JobSchema,
  JobStatusSchema,
  LogLineSchema,
  MetricSchema,
  StartedJobSchema,
  StoppedJobSchema,
} from "./schemas.ts";

const tags = ["Training"];
const security = [{ bearer: [] }];
const params = z.object({ job_id: idParam("job_id") });
const olderPage = {
  headers: z.object({ link: z.string().optional().openapi({ description: '`rel="prev"`: the page before this one' }) }),
};

const create = createRoute({
  method: "post",
  path: "/training/jobs",
  operationId: "createJob",
  tags,
  summary: "Create a training job",
  security,
  request: { body: jsonBody(CreateJobSchema) },
  responses: { 201: jsonContent(CreatedJobSchema, "The job, pending"), ...problems(400, 401, 403, 404, 415, 422) },
});

const list = createRoute({
  method: "get",
  path: "/training/jobs",
  operationId: "listJobs",
  tags,
  summary: "Jobs of the caller's projects, newest first",
  security,
  request: {
    query: z.object({
      project_id: idParam("project_id")
        .optional()
        .openapi({ param: { name: "project_id", in: "query" } }),
      status: JobStatusSchema.optional(),
      skip: intQuery({ min: 0, max: 1_000_000, default: 0 }),
      limit: intQuery({ min: 1, max: 500, default: 50 }),
    }),
  },
  responses: { 200: jsonContent(JobListSchema, "One page"), ...problems(401, 422) },
});

const detail = createRoute({
  method: "get",
  path: "/training/jobs/{job_id}",
  operationId: "getJob",
  tags,
  summary: "One job",
  security,
  request: { params },
  responses: { 200: jsonContent(JobSchema, "The job"), ...problems(401, 404, 422) },
});

const start = createRoute({
  method: "post",
  path: "/training/jobs/{job_id}/start",
  operationId: "startJob",
  tags,
  summary: "Start a job",
  description:
    "`running` when a waiting runner took it at once, `queued` when all capable runners are busy. `resume=true` goes on from " +
    "the newest checkpoint; `checkpoint_path` alone takes its weights only.",
  security,
  request: {
    params,
    query: z.object({ checkpoint_path: z.string().min(1).max(1024).optional(), resume: boolQuery().optional() }),
  },
  responses: { 200: jsonContent(StartedJobSchema, "Started or queued"), ...problems(401, 403, 404, 409, 422, 503) },
});

const stop = createRoute({
  method: "post",
  path: "/training/stop/{job_id}",
  operationId: "stopJob",
  tags,
  summary: "Stop a job",
  security,
  request: { params },
  responses: { 200: jsonContent(StoppedJobSchema, "Stopped"), ...problems(401, 403, 404, 409, 422) },
});

const metrics = createRoute({
  method: "get",
  path: "/training/jobs/{job_id}/metrics",
  operationId: "getJobMetrics",
  tags,
  summary: "The newest points, in ascending order",
  security,
  request: {
    params,
    query: z.object({
      limit: intQuery({ min: 1, max: 10_000, default: 100 }),
      before: z
        .string()
        .max(200)
        .optional()
        .openapi({ description: "Cursor of the page before, from the Link header" }),
    }),
  },
  responses: {
    200: { ...jsonContent(z.array(MetricSchema), "Points"), ...olderPage },
    ...problems(401, 404, 422),
  },
});

const logs = createRoute({
  method: "get",
  path: "/training/jobs/{job_id}/logs",
  operationId: "getJobLogs",
  tags,
  summary: "The newest log lines, in ascending order",
  security,
  request: {
    params,
    query: z.object({
      limit: intQuery({ min: 1, max: 5_000, default: 500 }),
      log_type: z.enum(["stdout", "stderr"]).optional(),
      before: z
        .string()
        .max(200)
        .optional()
        .openapi({ description: "Cursor of the page before, from the Link header" }),
    }),
  },
  responses: {
    200: { ...jsonContent(z.array(LogLineSchema), "Lines"), ...olderPage },
    ...problems(401, 404, 422),
  },
});

const MetricCursor = z.tuple([z.number().int(), z.number().int()]);
const LogCursor = z.tuple([z.number().int().positive()]);

/** The page before this one, with the caller's own parameters kept. */
function linkToOlder(url: string, cursor: string): string {
  const older = new URL(url);
  older.searchParams.set("before", cursor);
  return `<${older.pathname}${older.search}>; rel="prev"`;
}

export const jobRoutes = createRouter()
  .openapi(create, async (c) => {
    const { jobs } = c.get("services");
    return c.json(await jobs.create(c.get("principal"), c.req.valid("json")), 201);
  })
  .openapi(list, async (c) => {
    const { jobs } = c.get("services");
    return c.json(await jobs.list(c.get("principal"), c.req.valid("query")), 200);
  })
  .openapi(detail, async (c) => {
    const { jobs } = c.get("services");
    return c.json(await jobs.detail(c.get("principal"), c.req.valid("param").job_id), 200);
  })
  .openapi(start, async (c) => {
    const { jobs } = c.get("services");
    const { resume, checkpoint_path } = c.req.valid("query");
    const options = { resume: resume ?? false, checkpoint_path };
    return c.json(await jobs.start(c.get("principal"), c.req.valid("param").job_id, options), 200);
  })
  .openapi(stop, async (c) => {
    const { jobs } = c.get("services");
    return c.json(await jobs.stop(c.get("principal"), c.req.valid("param").job_id), 200);
  })
  .openapi(metrics, async (c) => {
    const { jobs } = c.get("services");
    const { limit, before } = c.req.valid("query");
    const at = before === undefined ? null : readCursor(before, "metrics", MetricCursor);
    const position = at === null ? null : { epoch: at[0], step: at[1] };
    const { older, body } = await jobs.metrics(c.get("principal"), c.req.valid("param").job_id, {
      limit,
      before: position,
    });
    if (older) c.header("link", linkToOlder(c.req.url, writeCursor("metrics", [older.epoch, older.step])));
    return c.json(body, 200);
  })
  .openapi(logs, async (c) => {
    const { jobs } = c.get("services");
    const { limit, log_type, before } = c.req.valid("query");
    const beforeLine = before === undefined ? null : readCursor(before, "logs", LogCursor)[0];
    const options = { limit, stream: log_type, beforeLine };
    const { older, body } = await jobs.logs(c.get("principal"), c.req.valid("param").job_id, options);
    if (older !== null) c.header("link", linkToOlder(c.req.url, writeCursor("logs", [older])));
    return c.json(body, 200);
  });
