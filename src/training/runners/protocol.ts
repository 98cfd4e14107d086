import { z } from "zod";

/**
 * Timers and limits of the runner protocol (section 10). They are sent to runners at register and accept, so a
 * deployment can change them without touching a runner. Times on the wire are seconds.
 */
export const TimersSchema = z.object({
  claim_wait_s: z.number().positive(),
  heartbeat_s: z.number().positive(),
  lease_s: z.number().positive(),
  lost_after_s: z.number().positive(),
  offer_s: z.number().positive(),
  stop_grace_s: z.number().min(0).max(1800),
  finalize_s: z.number().positive(),
  upload_ttl_s: z.number().positive(),
  max_duration_s: z.number().positive(),
  plain_silence_s: z.number().positive(),
  /** Null: off. */
  progress_timeout_s: z.number().positive().nullable(),
  terminal_retry_s: z.number().positive(),
  retry_base_s: z.number().positive(),
  retry_cap_s: z.number().positive(),
});

export const DEFAULT_TIMERS: z.infer<typeof TimersSchema> = {
  claim_wait_s: 25,
  heartbeat_s: 15,
  lease_s: 60,
  lost_after_s: 300,
  offer_s: 30,
  stop_grace_s: 120,
  finalize_s: 600,
  upload_ttl_s: 86_400,
  max_duration_s: 86_400,
  plain_silence_s: 7_200,
  progress_timeout_s: null,
  terminal_retry_s: 86_400,
  retry_base_s: 1,
  retry_cap_s: 60,
};

export const LimitsSchema = z.object({
  events_per_batch: z.number().int().positive(),
  body_bytes: z.number().int().positive(),
  inflated_bytes: z.number().int().positive(),
  seq_window: z.number().int().positive(),
  metric_names: z.number().int().positive(),
  metric_name_length: z.number().int().positive(),
  log_chunk_bytes: z.number().int().positive(),
  job_log_bytes: z.number().int().positive(),
  artifact_bytes: z.number().int().positive(),
  part_bytes: z.number().int().positive(),
  manifest_page_files: z.number().int().positive(),
  queued_jobs_per_project: z.number().int().positive(),
  /** Epochs of a lineage whose checkpoints are kept beside the best and the last one. */
  checkpoints_kept: z.number().int().positive(),
  infra_retries: z.number().int().min(0),
  user_retries: z.number().int().min(0),
});

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

export const DEFAULT_LIMITS: z.infer<typeof LimitsSchema> = {
  events_per_batch: 500,
  body_bytes: 512 * KIB,
  inflated_bytes: 4 * MIB,
  seq_window: 10_000,
  metric_names: 1_000,
  metric_name_length: 200,
  log_chunk_bytes: 256 * KIB,
  job_log_bytes: 64 * MIB,
  artifact_bytes: 50 * GIB,
  part_bytes: 16 * MIB,
  manifest_page_files: 1_000,
  queued_jobs_per_project: 1_000,
  checkpoints_kept: 3,
  infra_retries: 10,
  user_retries: 0,
};

export type Timers = z.infer<typeof TimersSchema>;
export type Limits = z.infer<typeof LimitsSchema>;
