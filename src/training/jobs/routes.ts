import { createRoute, z } from "@hono/zod-openapi";
import { serveContent } from "../../http/content.ts";
import { createRouter, jsonBody, jsonContent, problems } from "../../http/create-api.ts";
import { readCursor, writeCursor } from "../../http/cursor.ts";
import { boolQuery, idParam, intQuery } from "../../http/fields.ts";
import { AppError } from "../../shared/errors.ts";
import { idempotencyKey, keyHeader } from "../idempotency.ts";
import { JOB_SORTS } from "./list-order.ts";
import {
  AskedCheckpointSchema,
  CheckpointListSchema,
  CloneJobSchema,
  CreatedJobSchema,
  CreateJobSchema,
  JobListSchema,
  JobSchema,
  JobStatusSchema,
  LogLineSchema,
  MetricSchema,
  StartedJobSchema,
  StoppedJobSchema,
  UpdateJobSchema,
} from "./schemas.ts";

const tags = ["Training"];
const security = [{ bearer: [] }];
const params = z.object({ job_id: idParam("job_id") });
const cursor = (description: string) => z.string().min(1).max(1_000).optional().openapi({ description });
const pagesAround = {
  headers: z.object({
    link: z
      .string()
      .optional()
      .openapi({ description: '`rel="prev"`: the page before this one; `rel="next"`: what has come since' }),
  }),
};

const create = createRoute({
  method: "post",
  path: "/training/jobs",
  operationId: "createJob",
  tags,
  summary: "Create a training job",
  security,
  request: { headers: keyHeader, body: jsonBody(CreateJobSchema) },
  responses: { 201: jsonContent(CreatedJobSchema, "The job, pending"), ...problems(400, 401, 403, 404, 415, 422) },
});

const list = createRoute({
  method: "get",
  path: "/training/jobs",
  operationId: "listJobs",
  tags,
  summary: "Jobs of the caller's projects",
  description: "Page with `cursor`, which no job made meanwhile shifts, or with `skip`.",
  security,
  request: {
    query: z.strictObject({
      project_id: idParam("project_id")
        .optional()
        .openapi({ param: { name: "project_id", in: "query" } }),
      status: JobStatusSchema.optional(),
      framework: z.string().min(1).max(50).optional(),
      tag: z.string().min(1).max(100).optional().openapi({ description: "One of the job's tags, whole" }),
      q: z
        .string()
        .min(1)
        .max(200)
        .optional()
        .openapi({ description: "Text in the name, the model or the notes, whatever its case" }),
      sort: z.enum(JOB_SORTS).default("-created_at"),
      cursor: cursor("`next_cursor` of the page before, with the same `sort`"),
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

const update = createRoute({
  method: "patch",
  path: "/training/jobs/{job_id}",
  operationId: "updateJob",
  tags,
  summary: "Change a job's name, tags, notes or scheduling",
  description: "The scheduling of a job that a runner has stays as it is: 409 then, and nothing is changed.",
  security,
  request: { params, body: jsonBody(UpdateJobSchema) },
  responses: { 200: jsonContent(JobSchema, "The job"), ...problems(403, 404, 409) },
});

const remove = createRoute({
  method: "delete",
  path: "/training/jobs/{job_id}",
  operationId: "deleteJob",
  tags,
  summary: "Delete a job that is not live, with everything it has",
  security,
  request: { params },
  responses: { 204: { description: "Deleted" }, ...problems(403, 404, 409) },
});

const clone = createRoute({
  method: "post",
  path: "/training/jobs/{job_id}/clone",
  operationId: "cloneJob",
  tags,
  summary: "Create a job with the settings of another one, changed where the body says so",
  security,
  request: { params, headers: keyHeader, body: jsonBody(CloneJobSchema) },
  responses: { 201: jsonContent(CreatedJobSchema, "The new job, pending"), ...problems(403, 404) },
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

const askCheckpoint = createRoute({
  method: "post",
  path: "/training/jobs/{job_id}/checkpoint",
  operationId: "askCheckpoint",
  tags,
  summary: "Ask the runner of a running job to save a checkpoint and go on",
  description:
    "The runner hears it once, in the answer to its next call; the checkpoint is listed when it has arrived.",
  security,
  request: { params },
  responses: { 202: jsonContent(AskedCheckpointSchema, "Asked"), ...problems(401, 403, 404, 409, 422) },
});

const metrics = createRoute({
  method: "get",
  path: "/training/jobs/{job_id}/metrics",
  operationId: "getJobMetrics",
  tags,
  summary: "Points of the curves, in ascending order",
  description:
    "Without a cursor the newest `limit` points. `max_points` answers the whole curve instead, thinned out: the first and " +
    "the last point and the lowest and highest ones of `series` between them.",
  security,
  request: {
    params,
    query: z.object({
      limit: intQuery({ min: 1, max: 10_000, default: 100 }),
      before: cursor("From `rel=prev` of the Link header"),
      after: cursor("From `rel=next` of the Link header: what has come since"),
      attempt: z
        .string()
        .regex(/^[1-9]\d{0,8}$/, "must be an integer from 1")
        .transform(Number)
        .optional()
        .openapi({
          type: "integer",
          minimum: 1,
          description:
            "All points of this attempt, those included that a later attempt has taken back by going on before them",
        }),
      max_points: z
        .string()
        .regex(/^[1-9]\d{0,4}$/, "must be an integer")
        .transform(Number)
        .pipe(z.number().int().min(4).max(10_000))
        .optional()
        .openapi({ type: "integer", minimum: 4, maximum: 10_000, example: 500 }),
      series: z
        .string()
        .min(1)
        .max(200)
        .default("loss")
        .openapi({ description: "`loss`, `accuracy`, `learning_rate` or the name of another metric" }),
    }),
  },
  responses: {
    200: { ...jsonContent(z.array(MetricSchema), "Points"), ...pagesAround },
    ...problems(401, 404, 422),
  },
});

const logs = createRoute({
  method: "get",
  path: "/training/jobs/{job_id}/logs",
  operationId: "getJobLogs",
  tags,
  summary: "Log lines, in ascending order",
  description: "Without a cursor the newest `limit` lines.",
  security,
  request: {
    params,
    query: z.object({
      limit: intQuery({ min: 1, max: 5_000, default: 500 }),
      log_type: z.enum(["stdout", "stderr"]).optional(),
      before: cursor("From `rel=prev` of the Link header"),
      after: cursor("From `rel=next` of the Link header: what has come since"),
    }),
  },
  responses: {
    200: { ...jsonContent(z.array(LogLineSchema), "Lines"), ...pagesAround },
    ...problems(401, 404, 422, 503),
  },
});

const checkpoints = createRoute({
  method: "get",
  path: "/training/jobs/{job_id}/checkpoints",
  operationId: "listCheckpoints",
  tags,
  summary: "Checkpoints and exported models of a job, newest first",
  security,
  request: {
    params,
    query: z.object({
      skip: intQuery({ min: 0, max: 1_000_000, default: 0 }),
      limit: intQuery({ min: 1, max: 500, default: 50 }),
    }),
  },
  responses: { 200: jsonContent(CheckpointListSchema, "One page"), ...problems(404) },
});

const bytes = (description: string) => ({
  description,
  content: { "application/octet-stream": { schema: z.string().openapi({ format: "binary" }) } },
});

const checkpointContent = createRoute({
  method: "get",
  path: "/training/jobs/{job_id}/checkpoints/{artifact_id}/content",
  operationId: "downloadCheckpoint",
  tags,
  summary: "The bytes of a checkpoint, whole or by range",
  security,
  request: {
    params: params.extend({ artifact_id: z.uuid().openapi({ param: { name: "artifact_id", in: "path" } }) }),
  },
  responses: {
    200: bytes("The bytes"),
    206: bytes("A range of them"),
    304: { description: "Known by its ETag" },
    ...problems(404, 416),
  },
});

const MetricCursor = z.tuple([z.number().int(), z.number().int()]);
const LogCursor = z.tuple([z.number().int().positive()]);
const JobCursor = z.tuple([
  z.enum(JOB_SORTS),
  z.union([z.number().int(), z.string().max(400)]),
  z.number().int().positive(),
]);

/** Refuses parameters that say two different things. */
function onlyOne(query: Record<string, unknown>, ...names: string[]): void {
  const [first, second] = names.filter((name) => query[name] !== undefined);
  if (first !== undefined && second !== undefined) {
    throw new AppError("VALIDATION_ERROR", `${second}: not together with ${first}`, { field: second });
  }
}

/** The pages around this one, with the caller's own parameters kept. */
function linksTo(url: string, pages: { prev: string | null; next: string | null }): string | null {
  const link = (rel: "prev" | "next", parameter: "before" | "after", text: string | null) => {
    if (text === null) return [];
    const target = new URL(url);
    target.searchParams.delete("before");
    target.searchParams.delete("after");
    target.searchParams.set(parameter, text);
    return [`<${target.pathname}${target.search}>; rel="${rel}"`];
  };
  const links = [...link("prev", "before", pages.prev), ...link("next", "after", pages.next)];
  return links.length === 0 ? null : links.join(", ");
}

export const jobRoutes = createRouter()
  .openapi(create, async (c) => {
    const { jobs } = c.get("services");
    const input = c.req.valid("json");
    const key = await idempotencyKey(c.req.valid("header")["idempotency-key"], "createJob", input);
    return c.json(await jobs.create(c.get("principal"), input, key), 201);
  })
  .openapi(list, async (c) => {
    const { jobs } = c.get("services");
    const query = c.req.valid("query");
    if (query.skip > 0) onlyOne(query, "cursor", "skip");
    const { sort, limit, skip } = query;
    const after = query.cursor === undefined ? null : readCursor(query.cursor, "jobs", JobCursor, "cursor");
    if (after !== null && after[0] !== sort) {
      throw new AppError("VALIDATION_ERROR", "cursor: is of a list with another sort", { field: "cursor" });
    }
    const { page, next } = await jobs.list(c.get("principal"), {
      projectId: query.project_id,
      status: query.status,
      framework: query.framework,
      tag: query.tag,
      text: query.q,
      sort,
      after: after === null ? null : { value: after[1], id: after[2] },
      skip,
      limit,
    });
    const next_cursor = next === null ? null : writeCursor("jobs", [sort, next.value, next.id]);
    return c.json({ ...page, next_cursor }, 200);
  })
  .openapi(detail, async (c) => {
    const { jobs } = c.get("services");
    return c.json(await jobs.detail(c.get("principal"), c.req.valid("param").job_id), 200);
  })
  .openapi(update, async (c) => {
    const { jobs } = c.get("services");
    return c.json(await jobs.update(c.get("principal"), c.req.valid("param").job_id, c.req.valid("json")), 200);
  })
  .openapi(remove, async (c) => {
    const { jobs, removals } = c.get("services");
    await jobs.remove(c.get("principal"), c.req.valid("param").job_id, c.get("requestId"));
    // Its files are found by nobody any more; the cron goes on where this ends.
    c.executionCtx.waitUntil(removals.run());
    return c.body(null, 204);
  })
  .openapi(clone, async (c) => {
    const { jobs } = c.get("services");
    const { job_id } = c.req.valid("param");
    const input = c.req.valid("json");
    const key = await idempotencyKey(c.req.valid("header")["idempotency-key"], `cloneJob ${job_id}`, input);
    return c.json(await jobs.clone(c.get("principal"), job_id, input, key), 201);
  })
  .openapi(start, async (c) => {
    const { jobs } = c.get("services");
    const { resume, checkpoint_path } = c.req.valid("query");
    const options = { resume: resume ?? false, checkpoint_path };
    return c.json(await jobs.start(c.get("principal"), c.req.valid("param").job_id, options), 200);
  })
  .openapi(stop, async (c) => {
    const { jobs } = c.get("services");
    return c.json(await jobs.stop(c.get("principal"), c.req.valid("param").job_id, c.get("requestId")), 200);
  })
  .openapi(askCheckpoint, async (c) => {
    const { jobs } = c.get("services");
    return c.json(await jobs.askCheckpoint(c.get("principal"), c.req.valid("param").job_id), 202);
  })
  .openapi(metrics, async (c) => {
    const { jobs } = c.get("services");
    const { job_id } = c.req.valid("param");
    const query = c.req.valid("query");
    onlyOne(query, "before", "after", "max_points");
    onlyOne(query, "attempt", "max_points");
    if (query.max_points !== undefined) {
      return c.json(await jobs.curve(c.get("principal"), job_id, query.max_points, query.series), 200);
    }
    const position = (text: string | undefined, field: string) => {
      if (text === undefined) return null;
      const [epoch, step] = readCursor(text, "metrics", MetricCursor, field);
      return { epoch, step };
    };
    const { older, newer, body } = await jobs.metrics(c.get("principal"), job_id, {
      limit: query.limit,
      before: position(query.before, "before"),
      after: position(query.after, "after"),
      attempt: query.attempt ?? null,
    });
    const write = (at: { epoch: number; step: number } | null) =>
      at === null ? null : writeCursor("metrics", [at.epoch, at.step]);
    const links = linksTo(c.req.url, { prev: write(older), next: write(newer) });
    if (links !== null) c.header("link", links);
    return c.json(body, 200);
  })
  .openapi(logs, async (c) => {
    const { jobs } = c.get("services");
    const query = c.req.valid("query");
    onlyOne(query, "before", "after");
    const line = (text: string | undefined, field: string) =>
      text === undefined ? null : readCursor(text, "logs", LogCursor, field)[0];
    const { older, newer, body } = await jobs.logs(c.get("principal"), c.req.valid("param").job_id, {
      limit: query.limit,
      stream: query.log_type,
      beforeLine: line(query.before, "before"),
      afterLine: line(query.after, "after"),
    });
    const write = (at: number | null) => (at === null ? null : writeCursor("logs", [at]));
    const links = linksTo(c.req.url, { prev: write(older), next: write(newer) });
    if (links !== null) c.header("link", links);
    return c.json(body, 200);
  })
  .openapi(checkpoints, async (c) => {
    const { jobs } = c.get("services");
    const { job_id } = c.req.valid("param");
    return c.json(await jobs.checkpoints(c.get("principal"), job_id, c.req.valid("query")), 200);
  })
  .openapi(checkpointContent, async (c) => {
    const { jobs } = c.get("services");
    const { job_id, artifact_id } = c.req.valid("param");
    return serveContent(c.req.raw, await jobs.checkpointContent(c.get("principal"), job_id, artifact_id));
  });
