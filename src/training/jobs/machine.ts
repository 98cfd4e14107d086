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
  infraRetries: number;
  userRetries: number;
};

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
  /** The missing events and log chunks of a finalizing attempt are in. */
  | { type: "dataComplete" }
  /** A plain callback: `opens` is true for `started`; `end` for a last event. */
  | { type: "plain"; opens: boolean; end: { outcome: Outcome; reason: Reason; message: string | null } | null }
  | { type: "stop"; reason: "user_stop" | "admin_stop" | "project_deleted" }
  /** Time has passed. */
  | { type: "tick" };

/** What the object does after it has committed the new state. */
export type Effect =
  | { type: "enqueue" }
  | { type: "withdraw" }
  | { type: "attemptStarted" }
  | { type: "attemptEnded"; outcome: Outcome | "lost" | "released" };

export type Transition = { state: JobState; effects: Effect[] };
export type MachineFailure = "INVALID_STATUS" | "OFFER_GONE" | "STALE_LEASE";
type Outcome_ = Result<Transition, { code: MachineFailure; message: string; field?: string | null }>;

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

const unchanged = (state: JobState): Outcome_ => ok({ state, effects: [] });
const changed = (state: JobState, ...effects: Effect[]): Outcome_ => ok({ state, effects });

const isTerminal = (phase: Phase): phase is Outcome =>
  phase === "completed" || phase === "failed" || phase === "stopped";

/** Whether an attempt with a lease is being worked on, heard of or not. */
const isLeased = (state: JobState) =>
  state.owner === "lease" && ["running", "suspect", "finalizing", "leaving"].includes(state.phase);

/** Ends the attempt: the status is final for it. Log chunks are taken until the tail is over, then the fence moves. */
function close(
  state: JobState,
  end: { outcome: Outcome; reason: Reason; message: string | null; dataComplete: boolean | null },
  policy: Policy,
  now: number,
): Outcome_ {
  return changed(
    {
      ...state,
      phase: end.outcome,
      offer: null,
      ending: null,
      reason: end.reason,
      message: end.message,
      dataComplete: end.dataComplete,
      completedAtMs: state.completedAtMs ?? now,
      tailUntilMs: now + policy.finalizeMs,
    },
    { type: "attemptEnded", outcome: end.outcome },
  );
}

/** Ends the attempt at once and for good: its runner is fenced off and has no tail. */
function cut(
  state: JobState,
  end: { outcome: Outcome; reason: Reason; message: string | null },
  now: number,
): Outcome_ {
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
    { type: "attemptEnded", outcome: end.outcome },
  );
}

/** Back into the queue with the fence moved; the next attempt goes on from the newest complete checkpoint. */
function requeue(state: JobState, outcome: "lost" | "released", budgets: Partial<JobState>, now: number): Outcome_ {
  return changed(
    {
      ...state,
      ...budgets,
      phase: "queued",
      fence: state.fence + 1,
      runnerId: null,
      offer: null,
      ending: null,
      queuedAtMs: now,
    },
    { type: "attemptEnded", outcome },
    { type: "enqueue" },
  );
}

/** A failed attempt with a lease: tried again while its budget lasts. */
function retryOr(
  state: JobState,
  reason: Reason,
  policy: Policy,
  now: number,
  giveUp: (end: { reason: Reason; message: string | null }) => Outcome_,
  message: string | null,
): Outcome_ {
  const budget = REASONS[reason].budget;
  if (budget === "infra" && state.infraRetries < policy.infraRetries) {
    return requeue(state, "lost", { infraRetries: state.infraRetries + 1 }, now);
  }
  if (budget === "user" && state.userRetries < policy.userRetries) {
    return requeue(state, "lost", { userRetries: state.userRetries + 1 }, now);
  }
  if (budget === "infra") {
    return giveUp({
      reason: "retries_exhausted",
      message: message ?? `Tried ${state.infraRetries + 1} times; the last one ended with ${reason}`,
    });
  }
  return giveUp({ reason, message });
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
    completedAtMs: null,
    ending: null,
    tailUntilMs: null,
    reason: null,
    message: null,
    dataComplete: null,
  };
}

function start(state: JobState, resume: ResumeChoice, now: number): Outcome_ {
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
        ...(state.phase === "leaving" ? [{ type: "attemptEnded", outcome: "stopped" } as const] : []),
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

function accept(state: JobState, event: { runnerId: string; fence: number }, now: number): Outcome_ {
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
function call(state: JobState, fence: number, now: number): Outcome_ {
  const tailOpen =
    isTerminal(state.phase) && state.owner === "lease" && state.tailUntilMs !== null && now < state.tailUntilMs;
  if (fence !== state.fence || !(isLeased(state) || tailOpen)) {
    return fail("STALE_LEASE", "This attempt no longer owns the job");
  }
  return changed({ ...state, phase: state.phase === "suspect" ? "running" : state.phase, lastCallAtMs: now });
}

function finish(state: JobState, event: Extract<JobEvent, { type: "finish" }>, policy: Policy, now: number): Outcome_ {
  const called = call(state, event.fence, now);
  if (!called.ok) return called;
  const current = called.value.state;
  switch (current.phase) {
    case "running": {
      if (event.outcome === "released") return requeue(current, "released", {}, now);
      const outcome = event.outcome;
      const end = (final: { reason: Reason; message: string | null }): Outcome_ =>
        event.complete
          ? close(current, { outcome, ...final, dataComplete: event.intact }, policy, now)
          : changed({
              ...current,
              phase: "finalizing",
              ending: { outcome, ...final, untilMs: now + policy.finalizeMs },
            });
      return outcome === "failed"
        ? retryOr(current, event.reason, policy, now, end, event.message)
        : end({ reason: event.reason, message: event.message });
    }
    case "leaving":
      // The stop was decided by the server; what the runner calls its end is only the sign that it has left.
      return close(
        current,
        {
          outcome: "stopped",
          reason: current.ending?.reason ?? "user_stop",
          message: current.ending?.message ?? null,
          dataComplete: event.complete && event.intact,
        },
        policy,
        now,
      );
    default:
      // Finalizing or ended: the first last event won.
      return changed(current);
  }
}

function plain(state: JobState, event: Extract<JobEvent, { type: "plain" }>, policy: Policy, now: number): Outcome_ {
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
  const closed = close(current, { ...event.end, dataComplete: true }, policy, now);
  return closed.ok ? changed(closed.value.state, ...effects, ...closed.value.effects) : closed;
}

function stop(
  state: JobState,
  reason: "user_stop" | "admin_stop" | "project_deleted",
  policy: Policy,
  now: number,
): Outcome_ {
  const stopped: JobState = { ...state, phase: "stopped", offer: null, reason, message: null, completedAtMs: now };
  switch (state.phase) {
    case "pending":
      return changed(stopped);
    case "queued":
    case "offered":
      return changed(stopped, { type: "withdraw" });
    case "running":
    case "suspect":
      if (state.owner === "plain")
        return close(
          { ...state, completedAtMs: now },
          { outcome: "stopped", reason, message: null, dataComplete: true },
          policy,
          now,
        );
      return changed({
        ...stopped,
        phase: "leaving",
        ending: { outcome: "stopped", reason, message: null, untilMs: now + policy.stopGraceMs + policy.finalizeMs },
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

/** Stop during `finalizing` is refused, but it ends the wait: the reported outcome stands. */
export function endWait(state: JobState, policy: Policy, now: number): Transition | null {
  if (state.phase !== "finalizing" || state.ending === null) return null;
  const closed = close(state, { ...state.ending, dataComplete: false }, policy, now);
  return closed.ok ? closed.value : null;
}

function tick(state: JobState, policy: Policy, now: number): Outcome_ {
  const deadline = nextDeadline(state, policy);
  if (deadline === null || now < deadline) return unchanged(state);
  const silentMs = now - (state.lastCallAtMs ?? now);
  const overtime = state.attemptStartedAtMs !== null && now >= state.attemptStartedAtMs + policy.maxDurationMs;
  switch (state.phase) {
    case "offered":
      return changed({ ...state, phase: "queued", offer: null }, { type: "enqueue" });
    case "running":
    case "suspect":
      if (overtime) {
        return cut(
          state,
          { outcome: "failed", reason: "max_duration", message: "The longest duration was reached" },
          now,
        );
      }
      if (state.owner === "plain") {
        return cut(state, { outcome: "failed", reason: "stalled", message: "No callback arrived any more" }, now);
      }
      if (silentMs >= policy.leaseMs + policy.lostAfterMs) {
        return retryOr(
          state,
          "runner_lost",
          policy,
          now,
          (end) => cut(state, { outcome: "failed", ...end }, now),
          null,
        );
      }
      return changed({ ...state, phase: "suspect" });
    case "finalizing": {
      const closed = endWait(state, policy, now);
      return closed === null ? unchanged(state) : ok(closed);
    }
    case "leaving":
      return cut(
        state,
        { outcome: "stopped", reason: state.ending?.reason ?? "user_stop", message: state.ending?.message ?? null },
        now,
      );
    case "completed":
    case "failed":
    case "stopped":
      return changed({ ...state, fence: state.fence + 1, tailUntilMs: null });
    case "pending":
    case "queued":
      return unchanged(state);
  }
}

/** When time alone changes something next, in epoch milliseconds; null when it never does. */
export function nextDeadline(state: JobState, policy: Policy): number | null {
  const lastCall = state.lastCallAtMs ?? 0;
  const longest = (state.attemptStartedAtMs ?? 0) + policy.maxDurationMs;
  switch (state.phase) {
    case "offered":
      return state.offer?.untilMs ?? null;
    case "running":
      return Math.min(longest, lastCall + (state.owner === "plain" ? policy.plainSilenceMs : policy.leaseMs));
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
export function transition(state: JobState, event: JobEvent, policy: Policy, now: number): Outcome_ {
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
    case "dataComplete": {
      if (state.phase !== "finalizing" || state.ending === null) return unchanged(state);
      return close(state, { ...state.ending, dataComplete: true }, policy, now);
    }
    case "plain":
      return plain(state, event, policy, now);
    case "stop":
      return stop(state, event.reason, policy, now);
    case "tick":
      return tick(state, policy, now);
  }
}

/** What the runner that holds the attempt should do (runner protocol, section 8). */
export function desiredOf(state: JobState): "run" | "stop" | "abandon" {
  if (state.phase === "leaving") return "stop";
  return isTerminal(state.phase) ? "abandon" : "run";
}
