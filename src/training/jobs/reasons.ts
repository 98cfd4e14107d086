/**
 * Why an attempt ended (runner protocol, section 11). The reason is what is stored; whether the job is tried again and,
 * when no try is left, which status it gets are total maps over it.
 */
export const REASONS = {
  done: { status: "completed", budget: null },
  runner_lost: { status: "failed", budget: "infra" },
  start_timeout: { status: "failed", budget: "infra" },
  dataset_unavailable: { status: "failed", budget: "infra" },
  checkpoint_corrupt: { status: "failed", budget: "infra" },
  exit_nonzero: { status: "failed", budget: "user" },
  oom: { status: "failed", budget: "user" },
  invalid_config: { status: "failed", budget: "user" },
  max_duration: { status: "failed", budget: "user" },
  stalled: { status: "failed", budget: "user" },
  retries_exhausted: { status: "failed", budget: null },
  user_stop: { status: "stopped", budget: null },
  admin_stop: { status: "stopped", budget: null },
  project_deleted: { status: "stopped", budget: null },
  /** Given back by a drain: queued again at once, and no try is charged. */
  runner_shutdown: { status: "queued", budget: null },
} as const satisfies Record<string, { status: string; budget: "infra" | "user" | null }>;

export type Reason = keyof typeof REASONS;

export type Outcome = "completed" | "failed" | "stopped";

export const isReason = (text: string): text is Reason => Object.hasOwn(REASONS, text);

/** The reason of a last event: the sender's own when it is known and fits the event, else the event's usual one. */
export function reasonOf(event: Outcome | "released", given: string | null | undefined): Reason {
  if (event === "released") return "runner_shutdown";
  if (given && isReason(given) && REASONS[given].status === event) return given;
  return ({ completed: "done", failed: "exit_nonzero", stopped: "user_stop" } as const)[event];
}
