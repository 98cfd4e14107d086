import { z } from "zod";
import { DEFAULT_LIMITS, DEFAULT_TIMERS, LimitsSchema, TimersSchema } from "../../../src/training/runners/protocol.ts";

/**
 * Answers of the server as this agent reads them. Only what it needs is asked for, so that a newer or an older server is
 * still understood; a timer or limit that is not sent has its default.
 */

export const TimersIn = TimersSchema.partial().transform((given) => ({ ...DEFAULT_TIMERS, ...given }));
export const LimitsIn = LimitsSchema.partial().transform((given) => ({ ...DEFAULT_LIMITS, ...given }));

export type Timers = z.infer<typeof TimersSchema>;
export type Limits = z.infer<typeof LimitsSchema>;
export { DEFAULT_LIMITS, DEFAULT_TIMERS };

export const LoginAnswer = z.object({ access_token: z.string() });
export const RegistrationAnswer = z.object({ registration_token: z.string() });
export const RegisterAnswer = z.object({
  runner_id: z.string(),
  runner_token: z.string(),
  timers: TimersIn,
  limits: LimitsIn,
});

export const ClaimAnswer = z.union([
  z.object({ drain: z.literal(true) }),
  z.object({ job_id: z.int().positive(), fence: z.int().positive(), offer_s: z.number() }),
]);

export const ResumeIn = z.object({
  artifact_id: z.string(),
  epoch: z.int().min(0),
  size: z.int().min(0),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  weights_only: z.boolean().default(false),
});

export const AcceptAnswer = z.object({
  job_token: z.string(),
  attempt: z.int().positive(),
  lease_s: z.number().positive(),
  spec: z.looseObject({ framework: z.string() }),
  resume: ResumeIn.nullish().transform((resume) => resume ?? null),
  timers: TimersIn,
  limits: LimitsIn,
});

const Desired = z.enum(["run", "checkpoint", "stop", "abandon"]);
export type Desired = z.infer<typeof Desired>;

export const HeartbeatAnswer = z.object({
  desired: Desired,
  grace_s: z.number().min(0),
  ack_seq: z.int().min(0),
  server_time: z.string(),
});

export const CallbackAnswer = z.object({
  ack_seq: z.int().min(0),
  missing: z.array(z.tuple([z.int(), z.int()])).default([]),
  rejected: z.array(z.object({ seq: z.int(), code: z.string(), message: z.string().default("") })).default([]),
  desired: Desired,
});

export const LogAnswer = z.object({ next_seq: z.int() });

export const ManifestPage = z.object({
  dataset_id: z.string(),
  files: z.array(
    z.object({
      file_id: z.int(),
      path: z.string(),
      size: z.int().min(0),
      sha256: z.string().regex(/^[0-9a-f]{64}$/),
    }),
  ),
  next_cursor: z.string().nullable(),
});
export type ManifestFile = z.infer<typeof ManifestPage>["files"][number];

export const UploadAnswer = z.object({
  artifact_id: z.string(),
  part_size: z.int().positive(),
  parts: z.int().positive(),
});
export const UploadState = z.object({
  state: z.enum(["open", "complete", "aborted"]),
  part_size: z.int().positive(),
  parts: z.int().positive(),
  received: z.array(z.int()),
});

export const Problem = z.object({ detail: z.string(), code: z.string(), field: z.string().nullish() });
