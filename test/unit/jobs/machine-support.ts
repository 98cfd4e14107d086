import {
  initialState,
  type JobEvent,
  type JobState,
  nextDeadline,
  type Policy,
  transition,
} from "../../../src/training/jobs/machine.ts";

/** Times in milliseconds, far apart, so that a wrong one shows. */
export const POLICY: Policy = {
  offerMs: 30_000,
  leaseMs: 60_000,
  lostAfterMs: 300_000,
  stopGraceMs: 120_000,
  finalizeMs: 600_000,
  maxDurationMs: 86_400_000,
  plainSilenceMs: 7_200_000,
  progressTimeoutMs: null,
  infraRetries: 10,
  userRetries: 0,
};

export const T0 = 1_800_000_000_000;

export const START: JobEvent = { type: "start", resume: { from: "nothing" } };
export const OFFER: JobEvent = { type: "offer", runnerId: "r1" };
export const STOP: JobEvent = { type: "stop", reason: "user_stop" };
export const SETTLE: JobEvent = { type: "settle", dataComplete: true };
export const TICK: JobEvent = { type: "tick" };
export const accept = (fence: number, runnerId = "r1"): JobEvent => ({ type: "accept", runnerId, fence });
export const called = (fence: number): JobEvent => ({ type: "call", fence });
export const finish = (
  fence: number,
  part: Partial<Extract<JobEvent, { type: "finish" }>> = {},
): Extract<JobEvent, { type: "finish" }> => ({
  type: "finish",
  fence,
  outcome: "completed",
  reason: "done",
  message: null,
  complete: true,
  intact: true,
  ...part,
});
export const plain = (part: Partial<Extract<JobEvent, { type: "plain" }>> = {}): JobEvent => ({
  type: "plain",
  opens: false,
  end: null,
  ...part,
});

/** Applies events one after the other; a refusal is a mistake of the test. */
export function applied(
  events: (JobEvent | ((state: JobState) => JobEvent))[],
  from = initialState(),
  now = T0,
): JobState {
  return events.reduce((state, event) => {
    const moved = transition(state, typeof event === "function" ? event(state) : event, POLICY, now);
    if (!moved.ok) throw new Error(`refused: ${moved.error.code}`);
    return moved.value.state;
  }, from);
}

/** One state of each kind that a job can be in. */
export function situations(): Record<string, JobState> {
  const queued = applied([START]);
  const offered = applied([OFFER], queued);
  const running = applied([accept(1)], offered);
  const plainRunning = applied([plain({ opens: true })]);
  const requeued = applied([finish(1, { outcome: "released", reason: "runner_shutdown" })], running);
  return {
    pending: initialState(),
    queued,
    requeued,
    offered,
    "running, lease": running,
    "running, plain": plainRunning,
    suspect: applied([TICK], running, T0 + POLICY.leaseMs),
    finalizing: applied([finish(1, { complete: false })], running),
    leaving: applied([STOP], running),
    "completed, tail": applied([finish(1)], running),
    "failed, tail": applied([finish(1, { outcome: "failed", reason: "oom" })], running),
    "stopped, tail": applied([finish(1)], applied([STOP], running)),
    "completed, closed": applied([TICK], applied([finish(1)], running), T0 + POLICY.finalizeMs),
    "stopped, never ran": applied([STOP]),
    "completed, plain": applied(
      [plain({ end: { outcome: "completed", reason: "done", message: null } })],
      plainRunning,
    ),
  };
}

/** What an event did, in a few words. */
export function outcomeOf(state: JobState, event: JobEvent, now: number, policy = POLICY): string {
  const moved = transition(state, event, policy, now);
  if (!moved.ok) return `!${moved.error.code}`;
  const { state: next, effects } = moved.value;
  if (next === state) return effects.length === 0 ? "=" : "effects without a change";
  const marks = [
    next.phase === state.phase ? "~" : next.phase,
    next.fence > state.fence ? `fence+${next.fence - state.fence}` : "",
    next.attempt > state.attempt ? `attempt+${next.attempt - state.attempt}` : "",
    ...effects.map((effect) =>
      effect.type === "attemptEnded" ? `ended:${effect.outcome}/${effect.reason}` : effect.type,
    ),
  ];
  return marks.filter((mark) => mark !== "").join(" ");
}

export const deadlineOf = (state: JobState) => nextDeadline(state, POLICY);
