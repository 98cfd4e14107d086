import { createRoute, z } from "@hono/zod-openapi";
import { bearerToken } from "../../auth/bearer.ts";
import { readBytes, requireJsonType } from "../../http/body.ts";
import { serveContent } from "../../http/content.ts";
import { createRouter, jsonBody, jsonContent, problems } from "../../http/create-api.ts";
import { idParam } from "../../http/fields.ts";
import { AppError } from "../../shared/errors.ts";
import { isTooDeep, MAX_DEPTH, parseLenientJson } from "./lenient-json.ts";
import {
  AcceptRequestSchema,
  AcceptResponseSchema,
  ArtifactCompletedSchema,
  ArtifactCreatedSchema,
  ArtifactRequestSchema,
  ArtifactStateSchema,
  CallbackRequestSchema,
  CallbackResponseSchema,
  ClaimRequestSchema,
  ClaimResponseSchema,
  DatasetManifestSchema,
  HeartbeatRequestSchema,
  HeartbeatResponseSchema,
  LogChunkResponseSchema,
  OfflineRequestSchema,
  PartStoredSchema,
  RegisterRequestSchema,
  RegisterResponseSchema,
} from "./schemas.ts";

/** The runner protocol: every path below `/internal` is one call of its section 2. */

const tags = ["Runners"];
const registration = [{ registrationToken: [] }];
const runner = [{ runnerToken: [] }];
const job = [{ jobToken: [] }];

const jobParams = z.object({ job_id: idParam("job_id") });
const artifactParams = jobParams.extend({
  artifact_id: z.uuid().openapi({ param: { name: "artifact_id", in: "path" } }),
});
const binary = (description: string) => ({
  description,
  content: {
    "application/octet-stream": { schema: z.string().openapi({ format: "binary" }) },
    "image/*": { schema: z.string().openapi({ format: "binary" }) },
  },
});

const register = createRoute({
  method: "post",
  path: "/internal/runners/register",
  operationId: "registerRunner",
  tags,
  summary: "Register a machine",
  security: registration,
  request: { body: jsonBody(RegisterRequestSchema) },
  responses: { 201: jsonContent(RegisterResponseSchema, "The runner and its token"), ...problems(400, 401, 415, 422) },
});

const claim = createRoute({
  method: "post",
  path: "/internal/runners/claim",
  operationId: "claimJob",
  tags,
  summary: "Wait for a job (long poll)",
  security: runner,
  request: { body: jsonBody(ClaimRequestSchema) },
  responses: {
    200: jsonContent(ClaimResponseSchema, "An offer, or the word to drain"),
    204: { description: "Nothing came; claim again" },
    ...problems(400, 401, 409, 415, 422),
  },
});

const offline = createRoute({
  method: "post",
  path: "/internal/runners/offline",
  operationId: "leavePool",
  tags,
  summary: "The process ends; its place is free at once",
  security: runner,
  request: { body: jsonBody(OfflineRequestSchema) },
  responses: { 204: { description: "Noted" }, ...problems(400, 401, 415, 422) },
});

const accept = createRoute({
  method: "post",
  path: "/internal/jobs/{job_id}/accept",
  operationId: "acceptJob",
  tags,
  summary: "Take an offered job",
  security: runner,
  request: { params: jobParams, body: jsonBody(AcceptRequestSchema) },
  responses: { 200: jsonContent(AcceptResponseSchema, "The job and its token"), ...problems(400, 401, 409, 415, 422) },
});

const heartbeat = createRoute({
  method: "post",
  path: "/internal/jobs/{job_id}/heartbeat",
  operationId: "heartbeat",
  tags,
  summary: "Renew the lease and hear what to do",
  security: job,
  request: { params: jobParams, body: jsonBody(HeartbeatRequestSchema) },
  responses: {
    200: jsonContent(HeartbeatResponseSchema, "Lease renewed"),
    ...problems(400, 401, 403, 409, 415, 422),
  },
});

const callback = createRoute({
  method: "post",
  path: "/internal/training/callback",
  operationId: "trainingCallback",
  tags: ["Internal"],
  summary: "Report events of a job",
  description:
    "With `X-Internal-Auth` one plain event; with a job token one numbered event or a batch. Bare NaN and Infinity are read as null. " +
    "The body may be gzip.",
  security: [{ internalSecret: [] }, { jobToken: [] }],
  requestBody: {
    required: true,
    content: { "application/json": { schema: { $ref: "#/components/schemas/Callback" } } },
  },
  responses: {
    200: jsonContent(CallbackResponseSchema, "Stored durably"),
    ...problems(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
  },
});

const logChunk = createRoute({
  method: "put",
  path: "/internal/jobs/{job_id}/logs/{stream}/{seq}",
  operationId: "putLogChunk",
  tags,
  summary: "Store a chunk of log lines",
  security: job,
  request: {
    params: jobParams.extend({
      stream: z.enum(["stdout", "stderr"]).openapi({ param: { name: "stream", in: "path" } }),
      seq: idParam("seq"),
    }),
  },
  requestBody: { required: true, content: { "text/plain": { schema: { type: "string" } } } },
  responses: {
    200: jsonContent(LogChunkResponseSchema, "The same chunk again"),
    201: jsonContent(LogChunkResponseSchema, "Stored"),
    ...problems(400, 401, 403, 409, 413, 415, 422, 429),
  },
});

const datasetManifest = createRoute({
  method: "get",
  path: "/internal/jobs/{job_id}/dataset",
  operationId: "datasetManifest",
  tags,
  summary: "The files of the job's dataset, page by page",
  security: job,
  request: { params: jobParams, query: z.object({ cursor: z.string().max(100).optional() }) },
  responses: { 200: jsonContent(DatasetManifestSchema, "One page"), ...problems(401, 403, 404, 409, 422) },
});

const datasetFile = createRoute({
  method: "get",
  path: "/internal/jobs/{job_id}/dataset/{file_id}",
  operationId: "datasetFile",
  tags,
  summary: "One file of the job's dataset",
  security: job,
  request: { params: jobParams.extend({ file_id: idParam("file_id") }) },
  responses: {
    200: binary("The bytes"),
    206: binary("A range"),
    304: { description: "Known" },
    ...problems(401, 403, 404, 409, 416, 422),
  },
});

const createArtifact = createRoute({
  method: "post",
  path: "/internal/jobs/{job_id}/artifacts",
  operationId: "createArtifact",
  tags,
  summary: "Open an upload",
  security: job,
  request: { params: jobParams, body: jsonBody(ArtifactRequestSchema) },
  responses: {
    201: jsonContent(ArtifactCreatedSchema, "Send its parts"),
    ...problems(400, 401, 403, 409, 413, 415, 422, 503),
  },
});

const putPart = createRoute({
  method: "put",
  path: "/internal/jobs/{job_id}/artifacts/{artifact_id}/parts/{n}",
  operationId: "putArtifactPart",
  tags,
  summary: "Send one part; the same part again replaces it",
  security: job,
  request: { params: artifactParams.extend({ n: idParam("n") }) },
  requestBody: {
    required: true,
    content: { "application/octet-stream": { schema: { type: "string", format: "binary" } } },
  },
  responses: { 200: jsonContent(PartStoredSchema, "Stored"), ...problems(400, 401, 403, 404, 409, 422, 503) },
});

const artifactState = createRoute({
  method: "get",
  path: "/internal/jobs/{job_id}/artifacts/{artifact_id}",
  operationId: "getArtifactUpload",
  tags,
  summary: "State of an upload",
  security: job,
  request: { params: artifactParams },
  responses: {
    200: jsonContent(ArtifactStateSchema, "State and received parts"),
    ...problems(401, 403, 404, 409, 422),
  },
});

const artifactContent = createRoute({
  method: "get",
  path: "/internal/jobs/{job_id}/artifacts/{artifact_id}/content",
  operationId: "getArtifactContent",
  tags,
  summary: "Bytes of a complete artifact of this job",
  security: job,
  request: { params: artifactParams },
  responses: {
    200: binary("The bytes"),
    206: binary("A range"),
    304: { description: "Known" },
    ...problems(401, 403, 404, 409, 416, 422),
  },
});

const completeArtifact = createRoute({
  method: "post",
  path: "/internal/jobs/{job_id}/artifacts/{artifact_id}/complete",
  operationId: "completeArtifact",
  tags,
  summary: "End an upload; only now it can be used. Idempotent",
  security: job,
  request: { params: artifactParams },
  responses: { 200: jsonContent(ArtifactCompletedSchema, "Complete"), ...problems(401, 403, 404, 409, 422, 503) },
});

const abortArtifact = createRoute({
  method: "delete",
  path: "/internal/jobs/{job_id}/artifacts/{artifact_id}",
  operationId: "abortArtifact",
  tags,
  summary: "Give an upload up",
  security: job,
  request: { params: artifactParams },
  responses: { 204: { description: "Removed" }, ...problems(401, 403, 404, 409, 422) },
});

export const runnerRoutes = createRouter()
  .openapi(register, async (c) => {
    const { runners } = c.get("services");
    return c.json(await runners.register(bearerToken(c.req.header("authorization")), c.req.valid("json")), 201);
  })
  .openapi(claim, async (c) => {
    const { runners } = c.get("services");
    const answer = await runners.claim(bearerToken(c.req.header("authorization")), c.req.valid("json"), {
      signal: c.req.raw.signal,
      waitUntil: (work) => c.executionCtx.waitUntil(work),
    });
    return answer === null ? c.body(null, 204) : c.json(answer, 200);
  })
  .openapi(offline, async (c) => {
    const { runners } = c.get("services");
    await runners.offline(bearerToken(c.req.header("authorization")), c.req.valid("json").instance_id);
    return c.body(null, 204);
  })
  .openapi(accept, async (c) => {
    const { runners } = c.get("services");
    const { job_id } = c.req.valid("param");
    const { fence } = c.req.valid("json");
    return c.json(await runners.accept(bearerToken(c.req.header("authorization")), job_id, fence), 200);
  })
  .openapi(callback, async (c) => {
    const { attempts, config } = c.get("services");
    const header = c.req.header("authorization");
    const bearer = bearerToken(header);
    if (header !== undefined && bearer === null) throw new AppError("UNAUTHORIZED", "A valid job token is required");
    const credential = { bearer, secret: c.req.header("x-internal-auth") };
    const answer = await attempts.callback(credential, async () => {
      requireJsonType(c.req.raw);
      const bytes = await readBytes(c.req.raw, {
        bodyBytes: config.limits.body_bytes,
        inflatedBytes: config.limits.inflated_bytes,
      });
      const body = parseLenientJson(new TextDecoder().decode(bytes));
      if (body === undefined) throw new AppError("BAD_REQUEST", "Malformed JSON in request body");
      if (isTooDeep(body)) throw new AppError("VALIDATION_ERROR", `Nested deeper than ${MAX_DEPTH} levels`);
      return body;
    });
    return c.json(answer, 200);
  });

runnerRoutes.openAPIRegistry.register("Callback", CallbackRequestSchema);

/** Calls with a job token: checked against the path before the input is. */
const attemptRouter = createRouter();
attemptRouter.use("/internal/jobs/:job_id/*", async (c, next) => {
  // `accept` is the runner's own call: it has no job token yet.
  if (!/\/internal\/jobs\/[^/]+\/accept$/.test(c.req.path)) {
    const token = bearerToken(c.req.header("authorization"));
    c.set("claims", await c.get("services").attempts.claimsFor(token, c.req.param("job_id")));
  }
  await next();
});

export const attemptRoutes = attemptRouter
  .openapi(heartbeat, async (c) => {
    const { sent_at } = c.req.valid("json");
    return c.json(await c.get("services").attempts.heartbeat(c.get("claims"), sent_at ?? null), 200);
  })
  .openapi(logChunk, async (c) => {
    const { attempts, config } = c.get("services");
    const { stream, seq } = c.req.valid("param");
    const bytes = await readBytes(c.req.raw, {
      bodyBytes: config.limits.log_chunk_bytes,
      inflatedBytes: config.limits.log_chunk_bytes,
    });
    const { stored, body } = await attempts.logChunk(c.get("claims"), stream, seq, bytes);
    return stored ? c.json(body, 201) : c.json(body, 200);
  })
  .openapi(datasetManifest, async (c) => {
    const { attempts, datasets } = c.get("services");
    const datasetId = await attempts.datasetOf(c.get("claims"));
    return c.json(await datasets.manifestPage(datasetId, c.req.valid("query").cursor), 200);
  })
  .openapi(datasetFile, async (c) => {
    const { attempts, datasets } = c.get("services");
    const datasetId = await attempts.datasetOf(c.get("claims"));
    return serveContent(c.req.raw, await datasets.fileContent(datasetId, c.req.valid("param").file_id));
  })
  .openapi(createArtifact, async (c) =>
    c.json(await c.get("services").attempts.createArtifact(c.get("claims"), c.req.valid("json")), 201),
  )
  .openapi(putPart, async (c) => {
    const { artifact_id, n } = c.req.valid("param");
    return c.json(await c.get("services").attempts.putPart(c.get("claims"), artifact_id, n, c.req.raw), 200);
  })
  .openapi(artifactState, async (c) =>
    c.json(await c.get("services").attempts.artifactState(c.get("claims"), c.req.valid("param").artifact_id), 200),
  )
  .openapi(artifactContent, async (c) => {
    const { artifact_id } = c.req.valid("param");
    return serveContent(c.req.raw, await c.get("services").attempts.artifactContent(c.get("claims"), artifact_id));
  })
  .openapi(completeArtifact, async (c) =>
    c.json(await c.get("services").attempts.completeArtifact(c.get("claims"), c.req.valid("param").artifact_id), 200),
  )
  .openapi(abortArtifact, async (c) => {
    await c.get("services").attempts.abortArtifact(c.get("claims"), c.req.valid("param").artifact_id);
    return c.body(null, 204);
  });
