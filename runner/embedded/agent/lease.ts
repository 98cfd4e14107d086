import { z } from "zod";
import { LimitsIn, TimersIn } from "./wire.ts";

/**
 * What the agent holds of an attempt, and keeps beside its outbox so that a restarted agent can still say how it ended.
 * Persisted: fields may be added as optional ones, never renamed.
 */
export const LeaseSchema = z.object({
  url: z.string(),
  jobId: z.int().positive(),
  attempt: z.int().positive(),
  jobToken: z.string(),
  timers: TimersIn,
  limits: LimitsIn,
});
export type Lease = z.infer<typeof LeaseSchema>;

/** The trainer's process, to be ended by a restarted agent if it outlived its own. */
export const TrainerMarkSchema = z.object({ pid: z.int(), identity: z.string().nullable() });

/** How the attempt ended; there from the moment that this is known. */
export const EndingSchema = z.object({
  event: z.enum(["completed", "failed", "stopped", "released"]),
  reason: z.enum([
    "done",
    "user_stop",
    "runner_shutdown",
    "runner_lost",
    "invalid_config",
    "dataset_unavailable",
    "checkpoint_corrupt",
    "exit_nonzero",
  ]),
  message: z.string().nullable(),
  exitCode: z.number().nullable(),
  signal: z.string().nullable(),
});

export const LEASE_FILE = "lease.json";
export const TRAINER_FILE = "trainer.json";
export const ENDING_FILE = "ending.json";
