import { fail, ok, type Result } from "../../shared/result.ts";
import { type Outcome, REASONS, type Reason } from "./reasons.ts";

/**
 * The life of a training job as a pure function `(state, event, policy, now) -> state + effects | failure`.
 * It is the only place where a phase changes. Rules: runner protocol, sections 3, 4, 8, 9 and 11.
 *
 * A lease and its fence: the fence only grows; who calls with an old one is refused before anything else is looked at.
 */

export type Phase =
  | "pending"
  | "queued"
  | "offered"
  | "running"
  | "suspect"
  | "finalizing"
  | "leaving"
  | "completed"
  | "failed"
  | "stopped";

export type Status = "pending" | "queued" | "running" | "completed" | "failed" | "stopped";

/** What users see of a phase. */
export const STATUS_OF: Record<Phase, Status> = {
  pending: "pending",
  queued: "queued",
  offered: "queued",
  running: "running",
  suspect: "running",
  finalizing: "running",
  leaving: "stopped",
  completed: "completed",
  failed: "failed",
  stopped: "stopped",
};

/**
 * What `start` asked to go on from: nothing, the newest complete checkpoint, or a named one (optionally its weights only).
 * A later attempt of the same start goes on from the newest checkpoint of its lineage, when there is one.
 */
export type ResumeChoice =
  | { from: "nothing" }
  | { from: "newest" }
  | { from: "artifact"; artifactId: string; weightsOnly: boolean };

/** The end that was reported or decided, while its data are still arriving. */
export type Ending = { outcome: Outcome; reason: Reason; message: string | null; untilMs: number };

/** Persisted as JSON in the job's object: fields may be added as optional ones, never renamed. */
export type JobState = {
  phase: Phase;
  /** Grows with each offer, loss and end of a tail. */
  fence: number;
  /** Number of the newest attempt; 0 before the first. */
  attempt: number;
  /** Who drives the newest attempt: a runner with a lease, or plain callbacks. Never both. */
  owner: "lease" | "plain" | null;
  runnerId: string | null;
  offer: { runnerId: string; untilMs: number } | null;
  queuedAtMs: number | null;
  /** First run since the last `start`. */
  startedAtMs: number | null;
  attemptStartedAtMs: number | null;
  /** Newest valid call of the attempt. */
  lastCallAtMs: number | null;
  /** Newest point, validation or checkpoint of the attempt, or its begin. */
  lastProgressAtMs: number | null;
  completedAtMs: number | null;
  resume: ResumeChoice;
  /** First attempt whose checkpoints may be resumed from. */
  lineageFrom: number;
  ending: Ending | null;
  /** After the end: until when log chunks of the attempt are still taken. */
  tailUntilMs: number | null;
  reason: Reason | null;
  message: string | null;
  dataComplete: boolean | null;
  infraRetries: number;
  userRetries: number;
  /** Somebody wants a checkpoint of this attempt, and its runner was not told yet. */
  checkpointAsked?: boolean;
};

/** Durations in milliseconds and retry budgets; see the timers table of the protocol. */
export type Policy = {
  offerMs: number;
  leaseMs: number;
  lostAfterMs: number;
  stopGraceMs: number;
  finalizeMs: number;
  maxDurationMs: number;
  plainSilenceMs: number;
  /** Null: an attempt may go without progress for as long as its runner is heard. */
  progressTimeoutMs: number | null;
  infraRetries: number;
  userRetries: number;
};

export type StopReason = "user_stop" | "admin_stop" | "project_deleted";

export type JobEvent =
  | { type: "start"; resume: ResumeChoice }
  | { type: "offer"; runnerId: string }
  | { type: "accept"; runnerId: string; fence: number }
  /** Any call with a job token: heartbeat, events, log chunk, upload. */
  | { type: "call"; fence: number }
  /** The last event of a leased attempt. `complete`: nothing that it announced is missing. */
  | {
      type: "finish";
      fence: number;
      outcome: Outcome | "released";
      reason: Reason;
      message: string | null;
      complete: boolean;
      /** False when the runner itself gave up on some log chunks. */
      intact: boolean;
    }
  /** A point, a validation or a checkpoint is in. */
  | { type: "progress" }
  /** Ends the wait of a finalizing attempt: what was missing is in, or a stop says not to wait for it. */
  | { type: "settle"; dataComplete: boolean }
  /** A plain callback: `opens` is true for `started`; `end` for a last event. */
  | { type: "plain"; opens: boolean; end: { outcome: Outcome; reason: Reason; message: string | null } | null }
  | { type: "stop"; reason: StopReason }
  /** Somebody wants the runner to save a checkpoint and go on. */
  | { type: "askCheckpoint" }
  /** The runner is being told that in the answer to its call. */
  | { type: "tellCheckpoint" }
  /** An admin has taken the runner's rights away: whatever it holds of this job is not its own any more. */
  | { type: "evict"; runnerId: string }
  /** Time has passed. */
  | { type: "tick" };

/** What the object does after it has committed the new state. */
export type Effect =
  | { type: "enqueue" }
  | { type: "withdraw" }
  | { type: "attemptStarted" }
  | { type: "attemptEnded"; outcome: AttemptOutcome; reason: Reason };

/** How one attempt ended. One that is tried again is `failed`, `lost` or `released` while its job is queued. */
export type AttemptOutcome = Outcome | "lost" | "released";

export type Transition = { state: JobState; effects: Effect[] };
export type MachineFailure = "INVALID_STATUS" | "OFFER_GONE" | "STALE_LEASE";
type Decision = Result<Transition, { code: MachineFailure; message: string; field?: string | null }>;
type End = { outcome: Outcome; reason: Reason; message: string | null };

export const initialState = (): JobState => ({
  phase: "pending",
  fence: 0,
  attempt: 0,
  owner: null,
  runnerId: null,
  offer: null,
  queuedAtMs: null,
  startedAtMs: null,
  attemptStartedAtMs: null,
  lastCallAtMs: null,
  lastProgressAtMs: null,
  completedAtMs: null,
  resume: { from: "nothing" },
  lineageFrom: 1,
  ending: null,
  tailUntilMs: null,
  reason: null,
  message: null,
  dataComplete: null,
  infraRetries: 0,
  userRetries: 0,
});

const unchanged = (state: JobState): Decision => ok({ state, effects: [] });
const changed = (state: JobState, ...effects: Effect[]): Decision => ok({ state, effects });

/** Whether an attempt in this phase has ended for good. */
export const isTerminal = (phase: Phase): phase is Outcome =>
  phase === "completed" || phase === "failed" || phase === "stopped";

/** Whether an attempt with a lease is being worked on, heard of or not. */
const isLeased = (state: JobState) =>
  state.owner === "lease" && ["running", "suspect", "finalizing", "leaving"].includes(state.phase);

/** Ends the attempt: the status is final for it. Log chunks are taken until the tail is over, then the fence moves. */
function close(state: JobState, end: End, dataComplete: boolean, policy: Policy, now: number): Transition {
  return {
    state: {
      ...state,
      phase: end.outcome,
      offer: null,
      ending: null,
      reason: end.reason,
      message: end.message,
      dataComplete,
      completedAtMs: state.completedAtMs ?? now,
      tailUntilMs: now + policy.finalizeMs,
    },
    effects: [{ type: "attemptEnded", outcome: end.outcome, reason: end.reason }],
  };
}

/** Ends the attempt at once and for good: its runner is fenced off and has no tail. */
function cut(state: JobState, end: End, now: number): Decision {
  return changed(
    {
      ...state,
      phase: end.outcome,
      fence: state.fence + 1,
      offer: null,
      ending: null,
      reason: end.reason,
      message: end.message,
      dataComplete: false,
      completedAtMs: state.completedAtMs ?? now,
      tailUntilMs: null,
    },
    { type: "attemptEnded", outcome: end.outcome, reason: end.reason },
  );
}

/** Back into the queue with the fence moved; the next attempt goes on from the newest complete checkpoint. */
function requeue(
  state: JobState,
  ended: { outcome: AttemptOutcome; reason: Reason; message: string | null },
  now: number,
): Decision {
  return changed(
    {
      ...state,
      phase: "queued",
      fence: state.fence + 1,
      runnerId: null,
      offer: null,
      ending: null,
      queuedAtMs: now,
      reason: ended.reason,
      message: ended.message,
    },
    { type: "attemptEnded", outcome: ended.outcome, reason: ended.reason },
    { type: "enqueue" },
  );
}

/** A failed attempt with a lease: tried again while the budget of its reason lasts, else given up. */
function retryOr(
  state: JobState,
  ended: { outcome: "failed" | "lost"; reason: Reason; message: string | null },
  policy: Policy,
  now: number,
  giveUp: (end: End) => Decision,
): Decision {
  const { budget } = REASONS[ended.reason];
  if (budget === "infra" && state.infraRetries < policy.infraRetries) {
    return requeue({ ...state, infraRetries: state.infraRetries + 1 }, ended, now);
  }
  if (budget === "user" && state.userRetries < policy.userRetries) {
    return requeue({ ...state, userRetries: state.userRetries + 1 }, ended, now);
  }
  if (budget === "infra") {
    const tries = `Tried ${state.infraRetries + 1} times; the last one ended with ${ended.reason}`;
    return giveUp({ outcome: "failed", reason: "retries_exhausted", message: ended.message ?? tries });
  }
  return giveUp({ outcome: "failed", reason: ended.reason, message: ended.message });
}

/** A new attempt begins. */
function begin(state: JobState, owner: "lease" | "plain", runnerId: string | null, now: number): JobState {
  return {
    ...state,
    phase: "running",
    attempt: state.attempt + 1,
    owner,
    runnerId,
    offer: null,
    startedAtMs: state.startedAtMs ?? now,
    attemptStartedAtMs: now,
    lastCallAtMs: now,
    lastProgressAtMs: now,
    completedAtMs: null,
    ending: null,
    tailUntilMs: null,
    reason: null,
    message: null,
    dataComplete: null,
    checkpointAsked: false,
  };
}

function start(state: JobState, resume: ResumeChoice, now: number): Decision {
  switch (state.phase) {
    case "pending":
    case "stopped":
    case "failed":
    case "leaving":
      return changed(
        {
          ...state,
          phase: "queued",
          // The runner that is still leaving, or sending its tail, has no say any more.
          fence: state.phase === "pending" ? state.fence : state.fence + 1,
          runnerId: null,
          offer: null,
          queuedAtMs: now,
          startedAtMs: null,
          completedAtMs: null,
          resume,
          lineageFrom: resume.from === "newest" ? state.lineageFrom : state.attempt + 1,
          ending: null,
          tailUntilMs: null,
          reason: null,
          message: null,
          dataComplete: null,
          infraRetries: 0,
          userRetries: 0,
        },
        ...(state.phase === "leaving"
          ? [{ type: "attemptEnded", outcome: "stopped", reason: state.reason ?? "user_stop" } as const]
          : []),
        { type: "enqueue" },
      );
    case "queued":
    case "offered":
    case "running":
    case "suspect":
    case "finalizing":
    case "completed":
      return fail("INVALID_STATUS", `A job that is ${STATUS_OF[state.phase]} cannot be started`);
  }
}

function accept(state: JobState, event: { runnerId: string; fence: number }, now: number): Decision {
  if (state.phase === "offered" && state.fence === event.fence && state.offer?.runnerId === event.runnerId) {
    return changed(begin(state, "lease", event.runnerId, now), { type: "attemptStarted" });
  }
  // The answer to the first accept was lost: the same runner asks again and gets the same attempt.
  const again =
    (state.phase === "running" || state.phase === "suspect") &&
    state.owner === "lease" &&
    state.fence === event.fence &&
    state.runnerId === event.runnerId;
  if (again) return changed({ ...state, phase: "running", lastCallAtMs: now });
  return fail("OFFER_GONE", "The offer is gone; claim again");
}

/** The fence, before anything else; then whether the attempt may still send anything. */
function call(state: JobState, fence: number, now: number): Decision {
  const tailOpen =
    isTerminal(state.phase) && state.owner === "lease" && state.tailUntilMs !== null && now < state.tailUntilMs;
  if (fence !== state.fence || !(isLeased(state) || tailOpen)) {
    return fail("STALE_LEASE", "This attempt no longer owns the job");
  }
  return changed({ ...state, phase: state.phase === "suspect" ? "running" : state.phase, lastCallAtMs: now });
}

function finish(state: JobState, event: Extract<JobEvent, { type: "finish" }>, policy: Policy, now: number): Decision {
  const called = call(state, event.fence, now);
  if (!called.ok) return called;
  const current = called.value.state;
  switch (current.phase) {
    case "running": {
      const { outcome, reason, message } = event;
      if (outcome === "released") return requeue(current, { outcome, reason, message }, now);
      const end = (final: End): Decision =>
        event.complete
          ? ok(close(current, final, event.intact, policy, now))
          : changed({ ...current, phase: "finalizing", ending: { ...final, untilMs: now + policy.finalizeMs } });
      return outcome === "failed"
        ? retryOr(current, { outcome, reason, message }, policy, now, end)
        : end({ outcome, reason, message });
    }
    case "leaving":
      // The stop was decided by the server; what the runner calls its end is only the sign that it has left.
      return ok(close(current, current.ending ?? STOPPED_BY_USER, event.complete && event.intact, policy, now));
    default:
      // Finalizing or ended: the first last event won.
      return changed(current);
  }
}

const STOPPED_BY_USER: End = { outcome: "stopped", reason: "user_stop", message: null };

function plain(state: JobState, event: Extract<JobEvent, { type: "plain" }>, policy: Policy, now: number): Decision {
  if (isLeased(state)) return fail("STALE_LEASE", "A runner with a lease owns this attempt");
  const waiting = state.phase === "pending" || state.phase === "queued" || state.phase === "offered";
  // After stop and start only `started` opens a new attempt, so that a late event of the old one cannot.
  if (waiting && state.attempt > 0 && !event.opens) return unchanged(state);
  if (!waiting && state.phase !== "running") return unchanged(state);
  const current: JobState = waiting ? begin(state, "plain", null, now) : { ...state, lastCallAtMs: now };
  const effects: Effect[] = [];
  if (waiting) effects.push({ type: "attemptStarted" });
  if (waiting && state.phase !== "pending") effects.push({ type: "withdraw" });
  if (event.end === null) return changed(current, ...effects);
  const closed = close(current, event.end, true, policy, now);
  return changed(closed.state, ...effects, ...closed.effects);
}

function stop(state: JobState, reason: StopReason, policy: Policy, now: number): Decision {
  return reason === "project_deleted" ? abandon(state, reason, now) : stopOnRequest(state, reason, policy, now);
}

function stopOnRequest(state: JobState, reason: "user_stop" | "admin_stop", policy: Policy, now: number): Decision {
  const end: End = { outcome: "stopped", reason, message: null };
  const stopped: JobState = { ...state, phase: "stopped", offer: null, reason, message: null, completedAtMs: now };
  switch (state.phase) {
    case "pending":
      return changed(stopped);
    case "queued":
    case "offered":
      return changed(stopped, { type: "withdraw" });
    case "running":
    case "suspect":
      if (state.owner === "plain") return ok(close(state, end, true, policy, now));
      return changed({
        ...stopped,
        phase: "leaving",
        ending: { ...end, untilMs: now + policy.stopGraceMs + policy.finalizeMs },
      });
    case "leaving":
    case "stopped":
      return unchanged(state);
    case "finalizing":
    case "completed":
    case "failed":
      return fail("INVALID_STATUS", `A job that is ${state.phase} cannot be stopped`);
  }
}

function askCheckpoint(state: JobState): Decision {
  if (state.phase !== "running" && state.phase !== "suspect") {
    return fail("INVALID_STATUS", `A job that is ${STATUS_OF[state.phase]} has no runner that could save a checkpoint`);
  }
  if (state.owner !== "lease") return fail("INVALID_STATUS", "This job is driven by callbacks: nobody would hear it");
  return state.checkpointAsked === true ? unchanged(state) : changed({ ...state, checkpointAsked: true });
}

/** The job goes away with its project: whoever works on it is fenced off at once, and no tail is taken. */
function abandon(state: JobState, reason: "project_deleted", now: number): Decision {
  switch (state.phase) {
    case "pending":
    case "queued":
    case "offered":
      return changed(
        { ...state, phase: "stopped", fence: state.fence + 1, offer: null, reason, message: null, completedAtMs: now },
        ...(state.phase === "pending" ? [] : [{ type: "withdraw" } as const]),
      );
    case "running":
    case "suspect":
    case "finalizing":
    case "leaving":
      return cut(state, { outcome: "stopped", reason, message: null }, now);
    case "completed":
    case "failed":
    case "stopped":
      return state.tailUntilMs === null
        ? unchanged(state)
        : changed({ ...state, fence: state.fence + 1, tailUntilMs: null });
  }
}

function evict(state: JobState, runnerId: string, policy: Policy, now: number): Decision {
  // An offer needs no more than its time: a revoked runner cannot accept it.
  if (state.owner !== "lease" || state.runnerId !== runnerId) return unchanged(state);
  switch (state.phase) {
    case "running":
    case "suspect":
      return requeue(state, { outcome: "lost", reason: "runner_lost", message: "The runner was revoked" }, now);
    case "leaving":
      return cut(state, state.ending ?? STOPPED_BY_USER, now);
    case "finalizing": {
      // Its end was reported while it still had the right to; the data that are missing will not come.
      const closed = settle(state, false, policy, now);
      return closed.ok
        ? changed({ ...closed.value.state, fence: state.fence + 1, tailUntilMs: null }, ...closed.value.effects)
        : closed;
    }
    case "completed":
    case "failed":
    case "stopped":
      return state.tailUntilMs === null
        ? unchanged(state)
        : changed({ ...state, fence: state.fence + 1, tailUntilMs: null });
    default:
      return unchanged(state);
  }
}

function settle(state: JobState, dataComplete: boolean, policy: Policy, now: number): Decision {
  if (state.phase !== "finalizing" || state.ending === null) return unchanged(state);
  return ok(close(state, state.ending, dataComplete, policy, now));
}

function tick(state: JobState, policy: Policy, now: number): Decision {
  const deadline = nextDeadline(state, policy);
  if (deadline === null || now < deadline) return unchanged(state);
  switch (state.phase) {
    case "offered":
      return changed({ ...state, phase: "queued", offer: null }, { type: "enqueue" });
    case "running":
    case "suspect":
      return overdue(state, policy, now);
    case "finalizing":
      return settle(state, false, policy, now);
    case "leaving":
      return cut(state, state.ending ?? STOPPED_BY_USER, now);
    case "completed":
    case "failed":
    case "stopped":
      return changed({ ...state, fence: state.fence + 1, tailUntilMs: null });
    case "pending":
    case "queued":
      return unchanged(state);
  }
}

/**
 * What a deadline of an attempt under way means: it ran too long, made no progress, or nothing is heard of it. The deadline
 * that came first decides, so that a late alarm does what one in time would have done.
 */
function overdue(state: JobState, policy: Policy, now: number): Decision {
  const fenceOff = (end: End) => cut(state, end, now);
  const failed = (reason: Reason, message: string): Decision =>
    state.owner === "plain"
      ? fenceOff({ outcome: "failed", reason, message })
      : retryOr(state, { outcome: "failed", reason, message }, policy, now, fenceOff);
  const lastCall = state.lastCallAtMs ?? 0;
  const isPlain = state.owner === "plain";
  const goneAt = lastCall + (isPlain ? policy.plainSilenceMs : policy.leaseMs + policy.lostAfterMs);
  const longest = longestUntil(state, policy);
  if (now >= longest && longest <= goneAt) return failed("max_duration", "The longest duration was reached");
  if (isPlain) return failed("stalled", "No callback arrived any more");
  if (now >= goneAt) {
    return retryOr(state, { outcome: "lost", reason: "runner_lost", message: null }, policy, now, fenceOff);
  }
  if (now >= lastCall + policy.leaseMs) return changed({ ...state, phase: "suspect" });
  return failed("stalled", "The attempt made no progress any more");
}

const longestUntil = (state: JobState, policy: Policy) => (state.attemptStartedAtMs ?? 0) + policy.maxDurationMs;

/** When time alone changes something next, in epoch milliseconds; null when it never does. */
export function nextDeadline(state: JobState, policy: Policy): number | null {
  const lastCall = state.lastCallAtMs ?? 0;
  const longest = longestUntil(state, policy);
  switch (state.phase) {
    case "offered":
      return state.offer?.untilMs ?? null;
    case "running":
      if (state.owner === "plain") return Math.min(longest, lastCall + policy.plainSilenceMs);
      return Math.min(
        longest,
        lastCall + policy.leaseMs,
        policy.progressTimeoutMs === null
          ? Number.POSITIVE_INFINITY
          : (state.lastProgressAtMs ?? 0) + policy.progressTimeoutMs,
      );
    case "suspect":
      return Math.min(longest, lastCall + policy.leaseMs + policy.lostAfterMs);
    case "finalizing":
      return state.ending?.untilMs ?? null;
    case "leaving":
      return Math.min(state.ending?.untilMs ?? Number.POSITIVE_INFINITY, lastCall + 2 * policy.leaseMs);
    case "completed":
    case "failed":
    case "stopped":
      return state.tailUntilMs;
    case "pending":
    case "queued":
      return null;
  }
}

/**
 * Applies one event.
 * @param now the server's clock, epoch milliseconds
 * @returns the new state and what is to be done once it is stored, or why the event is refused; a refusal changes nothing
 */
export function transition(state: JobState, event: JobEvent, policy: Policy, now: number): Decision {
  switch (event.type) {
    case "start":
      return start(state, event.resume, now);
    case "offer":
      return state.phase === "queued"
        ? changed({
            ...state,
            phase: "offered",
            fence: state.fence + 1,
            offer: { runnerId: event.runnerId, untilMs: now + policy.offerMs },
          })
        : fail("OFFER_GONE", "The job is not queued");
    case "accept":
      return accept(state, event, now);
    case "call":
      return call(state, event.fence, now);
    case "finish":
      return finish(state, event, policy, now);
    case "progress":
      return state.phase === "running" ? changed({ ...state, lastProgressAtMs: now }) : unchanged(state);
    case "settle":
      return settle(state, event.dataComplete, policy, now);
    case "plain":
      return plain(state, event, policy, now);
    case "stop":
      return stop(state, event.reason, policy, now);
    case "askCheckpoint":
      return askCheckpoint(state);
    case "tellCheckpoint":
      return changed({ ...state, checkpointAsked: false });
    case "evict":
      return evict(state, event.runnerId, policy, now);
    case "tick":
      return tick(state, policy, now);
  }
}

/**
 * What the runner that called with this fence should do (runner protocol, section 8). One whose attempt has ended is not
 * told to abandon: it may still be sending its log tail.
 */
export function desiredOf(state: JobState, fence: number): "run" | "checkpoint" | "stop" | "abandon" {
  if (fence !== state.fence) return "abandon";
  if (state.phase === "leaving") return "stop";
  return state.phase === "running" && state.checkpointAsked === true ? "checkpoint" : "run";
}
