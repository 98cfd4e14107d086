import { z } from "@hono/zod-openapi";
import { isTooDeep } from "./lenient-json.ts";
import { LimitsSchema, TimersSchema } from "./protocol.ts";

/** Wire shapes of the runner protocol. Times are seconds, sizes bytes. */

const name = z.string().min(1).max(200);

export const RegistrationTokenRequestSchema = z
  .object({
    pool: z.literal("default").default("default"),
    uses: z.number().int().min(1).max(1_000).default(1),
    ttl_s: z.number().int().min(1).max(3_600).default(3_600),
  })
  .openapi("RegistrationTokenRequest", { example: { pool: "default", uses: 1, ttl_s: 3600 } });

export const RegistrationTokenSchema = z
  .object({ registration_token: z.string(), pool: z.string(), uses: z.number().int(), expires_at: z.string() })
  .openapi("RegistrationToken");

const GpuSchema = z.object({ model: z.string(), vram_mb: z.number().int() });

export const RunnerSchema = z
  .object({
    id: z.string(),
    name: z.string(),
    machine_id: z.string(),
    pool: z.string(),
    os: z.string().nullable(),
    version: z.string().nullable(),
    gpus: z.array(GpuSchema),
    frameworks: z.array(z.string()),
    labels: z.record(z.string(), z.string()),
    slots: z.number().int(),
    live: z.boolean().openapi({ description: "Heard of within a claim and a lease" }),
    waiting: z.boolean().openapi({ description: "Waiting for a job right now" }),
    busy: z.boolean(),
    job_ids: z.array(z.number().int()),
    draining: z.boolean().openapi({ description: "It claims no more jobs until it registers again" }),
    skew_s: z.number().int().nullable().openapi({ description: "How far its clock is behind the server's" }),
    last_seen_at: z.string().nullable(),
    registered_at: z.string(),
  })
  .openapi("Runner");

export const RunnerListSchema = z
  .object({
    runners: z.array(RunnerSchema),
    total: z.number().int(),
    skip: z.number().int(),
    limit: z.number().int(),
  })
  .openapi("RunnerList");

export const DrainingRunnerSchema = z.object({ id: z.string(), draining: z.literal(true) }).openapi("DrainingRunner");

export const RegisterRequestSchema = z
  .object({
    machine_id: name,
    name,
    os: z.string().max(200).optional(),
    gpus: z
      .array(z.object({ model: z.string().max(200), vram_mb: z.number().int().min(0).max(10_000_000) }))
      .max(64)
      .default([]),
    frameworks: z.array(z.string().min(1).max(50)).min(1).max(20),
    labels: z
      .record(z.string().min(1).max(100), z.string().max(200))
      .refine((labels) => Object.keys(labels).length <= 50, "at most 50 labels")
      .default({}),
    slots: z.number().int().min(1).max(64).default(1),
    version: z.string().max(50).optional(),
    protocol: z.literal(1),
  })
  .openapi("RegisterRunner", {
    example: { machine_id: "m1", name: "gpu-1", frameworks: ["timm"], slots: 1, protocol: 1 },
  });

export const RegisterResponseSchema = z
  .object({ runner_id: z.string(), runner_token: z.string(), timers: TimersSchema, limits: LimitsSchema })
  .openapi("RegisteredRunner");

export const ClaimRequestSchema = z
  .object({
    instance_id: z.string().min(1).max(200),
    free_slots: z.number().int().min(0).max(64).default(1),
    wait_s: z.number().min(0).max(60).default(25),
  })
  .openapi("Claim", { example: { instance_id: "i1", free_slots: 1, wait_s: 25 } });

export const ClaimResponseSchema = z
  .union([
    z.object({ job_id: z.number().int(), fence: z.number().int(), offer_s: z.number() }).openapi("Offer"),
    z.object({ drain: z.literal(true) }).openapi("Drain"),
  ])
  .openapi("ClaimAnswer");

export const AcceptRequestSchema = z
  .object({ fence: z.number().int().positive() })
  .openapi("Accept", { example: { fence: 1 } });

export const AcceptResponseSchema = z
  .object({
    job_token: z.string(),
    attempt: z.number().int(),
    lease_s: z.number(),
    spec: z.record(z.string(), z.unknown()),
    resume: z
      .object({
        artifact_id: z.string(),
        epoch: z.number().int(),
        size: z.number().int(),
        sha256: z.string(),
        weights_only: z.boolean(),
      })
      .nullable(),
    timers: TimersSchema,
    limits: LimitsSchema,
  })
  .openapi("AcceptedJob");

export const HeartbeatRequestSchema = z
  .object({
    outbox: z.number().int().min(0).nullish(),
    progress: z.unknown().optional(),
    gpu: z.unknown().optional(),
    sent_at: z.string().max(40).nullish(),
  })
  .openapi("Heartbeat", { example: { outbox: 0, sent_at: "2025-11-06T12:00:00Z" } });

export const DesiredSchema = z.enum(["run", "checkpoint", "stop", "abandon"]);

export const HeartbeatResponseSchema = z
  .object({
    lease_s: z.number(),
    desired: DesiredSchema,
    grace_s: z.number(),
    ack_seq: z.number().int(),
    server_time: z.string(),
    skew_s: z
      .number()
      .int()
      .nullable()
      .openapi({ description: "How far the runner's clock is behind `server_time`; shown, never a reason to refuse" }),
  })
  .openapi("HeartbeatAnswer");

export const OfflineRequestSchema = z.object({ instance_id: z.string().min(1).max(200) }).openapi("Offline");

/** The body of the callback, single or batch; read leniently by the route, documented here. */
export const CallbackRequestSchema = z
  .union([
    z
      .object({
        job_id: z.number().int(),
        event: z.string(),
        data: z.record(z.string(), z.unknown()).optional(),
        seq: z.number().int().optional(),
      })
      .openapi("CallbackEvent", {
        example: {
          job_id: 5,
          event: "epoch_complete",
          data: { epoch: 10, loss: 0.45, accuracy: 0.85, learning_rate: 0.0008 },
        },
      }),
    z
      .object({
        job_id: z.number().int(),
        events: z.array(
          z.object({
            seq: z.number().int(),
            event: z.string(),
            data: z.record(z.string(), z.unknown()).optional(),
            emitted_at: z.string().optional(),
          }),
        ),
      })
      .openapi("CallbackBatch"),
  ])
  .openapi("Callback");

export const CallbackResponseSchema = z
  .object({
    status: z.literal("received"),
    job_id: z.number().int(),
    ack_seq: z.number().int().optional(),
    missing: z.array(z.tuple([z.number().int(), z.number().int()])).optional(),
    rejected: z
      .array(z.object({ seq: z.number().int(), code: z.string(), field: z.string().nullable(), message: z.string() }))
      .optional(),
    desired: DesiredSchema.optional(),
  })
  .openapi("CallbackAnswer", { example: { status: "received", job_id: 5 } });

export const LogChunkResponseSchema = z.object({ next_seq: z.number().int() }).openapi("LogChunkAnswer");

export const DatasetManifestSchema = z
  .object({
    dataset_id: z.string(),
    content_hash: z.string(),
    files: z.array(
      z.object({ file_id: z.number().int(), path: z.string(), size: z.number().int(), sha256: z.string() }),
    ),
    next_cursor: z.string().nullable(),
  })
  .openapi("DatasetManifest");

/** A label for people, not a path: separators and control characters have no place in it. */
const fileLabel = z
  .string()
  .min(1)
  .max(200)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
  .regex(/^[^/\\\u0000-\u001f]+$/, "must be a plain file name");

/** Labels of a few thousand classes fit. */
const MAX_MANIFEST_CHARS = 256 * 1024;

export const ArtifactRequestSchema = z
  .object({
    kind: z.enum(["checkpoint", "model", "plot", "file"]),
    name: fileLabel.refine((value) => value !== "." && value !== "..", "must be a plain file name"),
    size: z.number().int().min(0),
    sha256: z.string().regex(/^[0-9a-f]{64}$/, "must be 64 lower-case hex digits"),
    epoch: z.number().int().min(0).max(1_000_000).nullish(),
    role: z.enum(["best", "last"]).nullish(),
    manifest: z
      .record(z.string(), z.unknown())
      .refine(
        (value) => !isTooDeep(value) && JSON.stringify(value).length <= MAX_MANIFEST_CHARS,
        "too large or too deep",
      )
      .nullish(),
  })
  .openapi("CreateArtifact");

export const ArtifactCreatedSchema = z
  .object({ artifact_id: z.string(), part_size: z.number().int(), parts: z.number().int() })
  .openapi("ArtifactCreated");

export const PartStoredSchema = z.object({ n: z.number().int() }).openapi("PartStored");

export const ArtifactStateSchema = z
  .object({
    artifact_id: z.string(),
    state: z.enum(["open", "complete", "aborted"]),
    kind: z.string(),
    name: z.string(),
    size: z.number().int(),
    sha256: z.string(),
    epoch: z.number().int().nullable(),
    role: z.string().nullable(),
    part_size: z.number().int(),
    parts: z.number().int(),
    received: z.array(z.number().int()),
  })
  .openapi("ArtifactState");

export const ArtifactCompletedSchema = z
  .object({ artifact_id: z.string(), checkpoint_path: z.string() })
  .openapi("ArtifactCompleted");
