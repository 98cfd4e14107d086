import { describe, it } from "vitest";
import {
  desiredOf,
  initialState,
  type JobEvent,
  type JobState,
  nextDeadline,
  type Phase,
  type Policy,
  STATUS_OF,
  transition,
} from "../../../src/training/jobs/machine.ts";
import { REASONS, type Reason } from "../../../src/training/jobs/reasons.ts";
import {
  accept,
  applied,
  called,
  deadlineOf,
  finish,
  OFFER,
  outcomeOf,
  POLICY,
  plain,
  SETTLE,
  START,
  STOP,
  situations,
  T0,
  TICK,
} from "./machine-support.ts";

/** Every event, given the fence that the job has. */
const EVENTS: Record<string, (fence: number) => JobEvent> = {
  start: () => START,
  offer: () => OFFER,
  accept: (fence) => accept(fence),
  "accept, other runner": (fence) => accept(fence, "r2"),
  "accept, old fence": (fence) => accept(fence - 1),
  call: (fence) => called(fence),
  "call, old fence": (fence) => called(fence - 1),
  completed: (fence) => finish(fence),
  "completed, data missing": (fence) => finish(fence, { complete: false }),
  "failed, user": (fence) => finish(fence, { outcome: "failed", reason: "exit_nonzero" }),
  "failed, infra": (fence) => finish(fence, { outcome: "failed", reason: "dataset_unavailable" }),
  stopped: (fence) => finish(fence, { outcome: "stopped", reason: "user_stop" }),
  released: (fence) => finish(fence, { outcome: "released", reason: "runner_shutdown" }),
  "completed, old fence": (fence) => finish(fence - 1),
  progress: () => ({ type: "progress" }),
  settle: () => SETTLE,
  "plain event": () => plain(),
  "plain started": () => plain({ opens: true }),
  "plain completed": () => plain({ end: { outcome: "completed", reason: "done", message: null } }),
  stop: () => STOP,
  "project deleted": () => ({ type: "stop", reason: "project_deleted" }),
  evict: () => ({ type: "evict", runnerId: "r1" }),
  "evict, other runner": () => ({ type: "evict", runnerId: "r2" }),
  "tick, early": () => TICK,
  "tick, at deadline": () => TICK,
  "tick, years late": () => TICK,
};

/**
 * What each event does in each situation. `=` nothing, `~` the phase stays, `!CODE` refused; else the new phase, how far the
 * fence and the attempt move, and what is to be done.
 */
const TABLE: Record<string, Record<string, string[]>> = {
  pending: {
    "queued enqueue": ["start"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "!STALE_LEASE": [
      "call",
      "call, old fence",
      "completed",
      "completed, data missing",
      "failed, user",
      "failed, infra",
      "stopped",
      "released",
      "completed, old fence",
    ],
    "=": ["evict, other runner", "evict", "progress", "settle", "tick, early", "tick, at deadline", "tick, years late"],
    "running attempt+1 attemptStarted": ["plain event", "plain started"],
    "completed attempt+1 attemptStarted ended:completed/done": ["plain completed"],
    stopped: ["stop"],
    "stopped fence+1": ["project deleted"],
  },
  queued: {
    "!INVALID_STATUS": ["start"],
    "offered fence+1": ["offer"],
    "!OFFER_GONE": ["accept", "accept, other runner", "accept, old fence"],
    "!STALE_LEASE": [
      "call",
      "call, old fence",
      "completed",
      "completed, data missing",
      "failed, user",
      "failed, infra",
      "stopped",
      "released",
      "completed, old fence",
    ],
    "=": ["evict, other runner", "evict", "progress", "settle", "tick, early", "tick, at deadline", "tick, years late"],
    "running attempt+1 attemptStarted withdraw": ["plain event", "plain started"],
    "completed attempt+1 attemptStarted withdraw ended:completed/done": ["plain completed"],
    "stopped withdraw": ["stop"],
    "stopped fence+1 withdraw": ["project deleted"],
  },
  requeued: {
    "!INVALID_STATUS": ["start"],
    "offered fence+1": ["offer"],
    "!OFFER_GONE": ["accept", "accept, other runner", "accept, old fence"],
    "!STALE_LEASE": [
      "call",
      "call, old fence",
      "completed",
      "completed, data missing",
      "failed, user",
      "failed, infra",
      "stopped",
      "released",
      "completed, old fence",
    ],
    "=": [
      "evict, other runner",
      "evict",
      "progress",
      "settle",
      "plain event",
      "plain completed",
      "tick, early",
      "tick, at deadline",
      "tick, years late",
    ],
    "running attempt+1 attemptStarted withdraw": ["plain started"],
    "stopped withdraw": ["stop"],
    "stopped fence+1 withdraw": ["project deleted"],
  },
  offered: {
    "!INVALID_STATUS": ["start"],
    "!OFFER_GONE": ["offer", "accept, other runner", "accept, old fence"],
    "running attempt+1 attemptStarted": ["accept"],
    "!STALE_LEASE": [
      "call",
      "call, old fence",
      "completed",
      "completed, data missing",
      "failed, user",
      "failed, infra",
      "stopped",
      "released",
      "completed, old fence",
    ],
    "=": ["evict, other runner", "evict", "progress", "settle", "tick, early"],
    "running attempt+1 attemptStarted withdraw": ["plain event", "plain started"],
    "completed attempt+1 attemptStarted withdraw ended:completed/done": ["plain completed"],
    "stopped withdraw": ["stop"],
    "stopped fence+1 withdraw": ["project deleted"],
    "queued enqueue": ["tick, at deadline", "tick, years late"],
  },
  "running, lease": {
    "!INVALID_STATUS": ["start"],
    "!OFFER_GONE": ["offer", "accept, other runner", "accept, old fence"],
    "~": ["accept", "call", "progress"],
    "!STALE_LEASE": ["call, old fence", "completed, old fence", "plain event", "plain started", "plain completed"],
    "completed ended:completed/done": ["completed"],
    finalizing: ["completed, data missing"],
    "failed ended:failed/exit_nonzero": ["failed, user"],
    "queued fence+1 ended:failed/dataset_unavailable enqueue": ["failed, infra"],
    "stopped ended:stopped/user_stop": ["stopped"],
    "queued fence+1 ended:released/runner_shutdown enqueue": ["released"],
    "=": ["evict, other runner", "settle", "tick, early"],
    leaving: ["stop"],
    "stopped fence+1 ended:stopped/project_deleted": ["project deleted"],
    suspect: ["tick, at deadline"],
    "queued fence+1 ended:lost/runner_lost enqueue": ["evict", "tick, years late"],
  },
  "running, plain": {
    "!INVALID_STATUS": ["start"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "!STALE_LEASE": [
      "call",
      "call, old fence",
      "completed",
      "completed, data missing",
      "failed, user",
      "failed, infra",
      "stopped",
      "released",
      "completed, old fence",
    ],
    "~": ["progress", "plain event", "plain started"],
    "=": ["evict, other runner", "evict", "settle", "tick, early"],
    "completed ended:completed/done": ["plain completed"],
    "stopped ended:stopped/user_stop": ["stop"],
    "stopped fence+1 ended:stopped/project_deleted": ["project deleted"],
    "failed fence+1 ended:failed/stalled": ["tick, at deadline", "tick, years late"],
  },
  suspect: {
    "!INVALID_STATUS": ["start"],
    "!OFFER_GONE": ["offer", "accept, other runner", "accept, old fence"],
    running: ["accept", "call"],
    "!STALE_LEASE": ["call, old fence", "completed, old fence", "plain event", "plain started", "plain completed"],
    "completed ended:completed/done": ["completed"],
    finalizing: ["completed, data missing"],
    "failed ended:failed/exit_nonzero": ["failed, user"],
    "queued fence+1 ended:failed/dataset_unavailable enqueue": ["failed, infra"],
    "stopped ended:stopped/user_stop": ["stopped"],
    "queued fence+1 ended:released/runner_shutdown enqueue": ["released"],
    "=": ["evict, other runner", "progress", "settle", "tick, early"],
    leaving: ["stop"],
    "stopped fence+1 ended:stopped/project_deleted": ["project deleted"],
    "queued fence+1 ended:lost/runner_lost enqueue": ["evict", "tick, at deadline", "tick, years late"],
  },
  finalizing: {
    "completed fence+1 ended:completed/done": ["evict"],
    "!INVALID_STATUS": ["start", "stop"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "~": ["call", "completed", "completed, data missing", "failed, user", "failed, infra", "stopped", "released"],
    "!STALE_LEASE": ["call, old fence", "completed, old fence", "plain event", "plain started", "plain completed"],
    "=": ["evict, other runner", "progress", "tick, early"],
    "completed ended:completed/done": ["settle", "tick, at deadline", "tick, years late"],
    "stopped fence+1 ended:stopped/project_deleted": ["project deleted"],
  },
  leaving: {
    "queued fence+1 ended:stopped/user_stop enqueue": ["start"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "~": ["call"],
    "!STALE_LEASE": ["call, old fence", "completed, old fence", "plain event", "plain started", "plain completed"],
    "stopped ended:stopped/user_stop": [
      "completed",
      "completed, data missing",
      "failed, user",
      "failed, infra",
      "stopped",
      "released",
    ],
    "=": ["evict, other runner", "progress", "settle", "stop", "tick, early"],
    "stopped fence+1 ended:stopped/project_deleted": ["project deleted"],
    "stopped fence+1 ended:stopped/user_stop": ["evict", "tick, at deadline", "tick, years late"],
  },
  "completed, tail": {
    "!INVALID_STATUS": ["start", "stop"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "~": ["call", "completed", "completed, data missing", "failed, user", "failed, infra", "stopped", "released"],
    "!STALE_LEASE": ["call, old fence", "completed, old fence"],
    "=": [
      "evict, other runner",
      "progress",
      "settle",
      "plain event",
      "plain started",
      "plain completed",
      "tick, early",
    ],
    "~ fence+1": ["evict", "project deleted", "tick, at deadline", "tick, years late"],
  },
  "failed, tail": {
    "queued fence+1 enqueue": ["start"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "~": ["call", "completed", "completed, data missing", "failed, user", "failed, infra", "stopped", "released"],
    "!STALE_LEASE": ["call, old fence", "completed, old fence"],
    "=": [
      "evict, other runner",
      "progress",
      "settle",
      "plain event",
      "plain started",
      "plain completed",
      "tick, early",
    ],
    "!INVALID_STATUS": ["stop"],
    "~ fence+1": ["evict", "project deleted", "tick, at deadline", "tick, years late"],
  },
  "stopped, tail": {
    "queued fence+1 enqueue": ["start"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "~": ["call", "completed", "completed, data missing", "failed, user", "failed, infra", "stopped", "released"],
    "!STALE_LEASE": ["call, old fence", "completed, old fence"],
    "=": [
      "evict, other runner",
      "progress",
      "settle",
      "plain event",
      "plain started",
      "plain completed",
      "stop",
      "tick, early",
    ],
    "~ fence+1": ["evict", "project deleted", "tick, at deadline", "tick, years late"],
  },
  "completed, closed": {
    "!INVALID_STATUS": ["start", "stop"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "!STALE_LEASE": [
      "call",
      "call, old fence",
      "completed",
      "completed, data missing",
      "failed, user",
      "failed, infra",
      "stopped",
      "released",
      "completed, old fence",
    ],
    "=": [
      "evict, other runner",
      "evict",
      "progress",
      "settle",
      "plain event",
      "plain started",
      "plain completed",
      "project deleted",
      "tick, early",
      "tick, at deadline",
      "tick, years late",
    ],
  },
  "stopped, never ran": {
    "queued fence+1 enqueue": ["start"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "!STALE_LEASE": [
      "call",
      "call, old fence",
      "completed",
      "completed, data missing",
      "failed, user",
      "failed, infra",
      "stopped",
      "released",
      "completed, old fence",
    ],
    "=": [
      "evict, other runner",
      "evict",
      "progress",
      "settle",
      "plain event",
      "plain started",
      "plain completed",
      "stop",
      "project deleted",
      "tick, early",
      "tick, at deadline",
      "tick, years late",
    ],
  },
  "completed, plain": {
    "!INVALID_STATUS": ["start", "stop"],
    "!OFFER_GONE": ["offer", "accept", "accept, other runner", "accept, old fence"],
    "!STALE_LEASE": [
      "call",
      "call, old fence",
      "completed",
      "completed, data missing",
      "failed, user",
      "failed, infra",
      "stopped",
      "released",
      "completed, old fence",
    ],
    "=": [
      "evict, other runner",
      "evict",
      "progress",
      "settle",
      "plain event",
      "plain started",
      "plain completed",
      "tick, early",
    ],
    "~ fence+1": ["project deleted", "tick, at deadline", "tick, years late"],
  },
};

const at = (label: string, state: JobState): number => {
  const deadline = deadlineOf(state) ?? T0;
  if (label === "tick, early") return deadline - 1;
  if (label === "tick, at deadline") return deadline;
  return label === "tick, years late" ? T0 + 1e11 : T0 + 1_000;
};

describe("every event in every situation", () => {
  for (const [situation, state] of Object.entries(situations())) {
    const expected = Object.entries(TABLE[situation] ?? {}).flatMap(([outcome, labels]) =>
      labels.map((label) => [label, outcome] as const),
    );

    it(`is decided for: ${situation}`, ({ expect }) => {
      expect(expected.map(([label]) => label).sort()).toEqual(Object.keys(EVENTS).sort());
      const actual = Object.entries(EVENTS).map(([label, make]) => [
        label,
        outcomeOf(Object.freeze(state), make(state.fence), at(label, state)),
      ]);
      expect(Object.fromEntries(actual)).toEqual(Object.fromEntries(expected));
    });
  }

  it("covers every phase, and every phase has a status", ({ expect }) => {
    const covered = new Set(Object.values(situations()).map((state) => state.phase));
    expect([...covered].sort()).toEqual(Object.keys(STATUS_OF).sort());
  });
});

describe("the life of a lease", () => {
  const running = () => situations()["running, lease"] ?? initialState();

  it("is suspect after a lease without a call and lost after the grace, by the server's clock alone", ({ expect }) => {
    const state = running();
    expect(deadlineOf(state)).toBe(T0 + 60_000);
    const suspect = applied([TICK], state, T0 + 60_000);
    expect(suspect).toMatchObject({ phase: "suspect", fence: 1, attempt: 1 });
    expect(deadlineOf(suspect)).toBe(T0 + 360_000);
    expect(applied([TICK], suspect, T0 + 359_999)).toBe(suspect);
    expect(applied([TICK], suspect, T0 + 360_000)).toMatchObject({
      phase: "queued",
      fence: 2,
      attempt: 1,
      runnerId: null,
      infraRetries: 1,
      reason: "runner_lost",
    });
  });

  it("is revived by a call with the same fence, and loses nothing", ({ expect }) => {
    const state = running();
    const suspect = applied([TICK], state, T0 + 60_000);
    expect(applied([called(1)], suspect, T0 + 359_999)).toEqual({ ...state, lastCallAtMs: T0 + 359_999 });
  });

  it("is lost at once by an alarm that comes after both deadlines", ({ expect }) => {
    expect(applied([TICK], running(), T0 + 400_000)).toMatchObject({ phase: "queued", reason: "runner_lost" });
  });

  it("gives the same attempt to the runner that asks again, and to no other", ({ expect }) => {
    const state = running();
    expect(applied([accept(1)], state, T0 + 5)).toMatchObject({ attempt: 1, fence: 1, lastCallAtMs: T0 + 5 });
    expect(transition(state, accept(1, "r2"), POLICY, T0 + 5)).toMatchObject({ ok: false });
  });

  it("spends no attempt on an offer that nobody takes, and keeps the job's place in the queue", ({ expect }) => {
    const state = [1, 2, 3].reduce(
      (queued, i) => {
        const offered = applied([OFFER], queued, T0 + i * 60_000);
        return applied([TICK], offered, T0 + i * 60_000 + POLICY.offerMs);
      },
      applied([START]),
    );
    expect(state).toMatchObject({ phase: "queued", fence: 3, attempt: 0, queuedAtMs: T0 });
  });

  it("ends after the longest duration, however busy it is", ({ expect }) => {
    const state = applied([called(1)], running(), T0 + 86_399_000);
    expect(deadlineOf(state)).toBe(T0 + 86_400_000);
    expect(applied([TICK], state, T0 + 86_400_000)).toMatchObject({
      phase: "failed",
      reason: "max_duration",
      fence: 2,
      dataComplete: false,
    });
  });

  it("ends without progress only where a limit is set for it", ({ expect }) => {
    const policy: Policy = { ...POLICY, progressTimeoutMs: 30_000 };
    const state = applied([{ type: "progress" }], running(), T0 + 10_000);
    expect(nextDeadline(state, policy)).toBe(T0 + 40_000);
    expect(transition(state, TICK, policy, T0 + 40_000)).toMatchObject({
      ok: true,
      value: { state: { phase: "failed", reason: "stalled", fence: 2 } },
    });
    expect(nextDeadline(state, POLICY)).toBe(T0 + 60_000);
  });

  it("does by a late alarm what alarms in time would have done", ({ expect }) => {
    const policy: Policy = { ...POLICY, maxDurationMs: 200_000 };
    for (const [name, state] of Object.entries(situations())) {
      const end = T0 + 10_000_000;
      let inTime = state;
      for (;;) {
        const next = nextDeadline(inTime, policy);
        if (next === null || next > end) break;
        const moved = transition(inTime, TICK, policy, next);
        if (!moved.ok) throw new Error("a tick is never refused");
        inTime = moved.value.state;
      }
      let late = state;
      for (let i = 0; i < 3; i++) {
        const moved = transition(late, TICK, policy, end);
        if (moved.ok) late = moved.value.state;
      }
      expect([name, late.phase, late.reason]).toEqual([name, inTime.phase, inTime.reason]);
    }
  });
});

describe("the end of an attempt", () => {
  const running = () => situations()["running, lease"] ?? initialState();

  it("waits for what was announced, and says whether all of it came", ({ expect }) => {
    const finalizing = applied([finish(1, { complete: false })], running(), T0 + 1_000);
    expect([STATUS_OF[finalizing.phase], deadlineOf(finalizing)]).toEqual(["running", T0 + 601_000]);
    expect(applied([SETTLE], finalizing)).toMatchObject({ phase: "completed", dataComplete: true, reason: "done" });
    const late = applied([TICK], finalizing, T0 + 601_000);
    expect(late).toMatchObject({ phase: "completed", dataComplete: false, completedAtMs: T0 + 601_000 });
    expect(applied([finish(1, { intact: false })], running())).toMatchObject({ dataComplete: false });
  });

  it("takes a tail for a while and moves the fence after it", ({ expect }) => {
    const completed = applied([finish(1)], running(), T0 + 1_000);
    expect(applied([called(1)], completed, T0 + 600_999).fence).toBe(1);
    const closed = applied([TICK], completed, T0 + 601_000);
    expect(closed).toMatchObject({ phase: "completed", fence: 2, tailUntilMs: null });
    expect(transition(completed, called(1), POLICY, T0 + 601_000)).toMatchObject({ error: { code: "STALE_LEASE" } });
  });

  it("tries an infrastructure failure again while its budget lasts", ({ expect }) => {
    const policy: Policy = { ...POLICY, infraRetries: 2 };
    let state = applied([START]);
    for (let fence = 1; state.phase === "queued"; fence += 2) {
      state = applied([OFFER, accept(fence)], state);
      const moved = transition(state, TICK, policy, T0 + 400_000);
      if (!moved.ok) throw new Error("a tick is never refused");
      state = moved.value.state;
    }
    expect(state).toMatchObject({
      phase: "failed",
      attempt: 3,
      infraRetries: 2,
      reason: "retries_exhausted",
      message: "Tried 3 times; the last one ended with runner_lost",
    });
  });

  it("tries a user error again only where that is allowed", ({ expect }) => {
    const failed = finish(1, { outcome: "failed", reason: "oom", message: "out of memory" });
    expect(applied([failed], running())).toMatchObject({ phase: "failed", reason: "oom", message: "out of memory" });
    const policy: Policy = { ...POLICY, userRetries: 1 };
    expect(transition(running(), failed, policy, T0)).toMatchObject({
      value: { state: { phase: "queued", userRetries: 1, infraRetries: 0, reason: "oom" } },
    });
    const longest = transition(applied([called(1)], running(), T0 + 86_399_999), TICK, policy, T0 + 86_400_000);
    expect(longest).toMatchObject({ value: { state: { phase: "queued", userRetries: 1, reason: "max_duration" } } });
  });

  it("charges no budget for a drain", ({ expect }) => {
    const released = finish(1, { outcome: "released", reason: "runner_shutdown", complete: false });
    expect(applied([released], running())).toMatchObject({
      phase: "queued",
      infraRetries: 0,
      userRetries: 0,
      fence: 2,
    });
  });

  it("knows for every reason a status and a budget", ({ expect }) => {
    for (const reason of Object.keys(REASONS) as Reason[]) {
      if (REASONS[reason].status !== "failed") continue;
      const state = applied([finish(1, { outcome: "failed", reason })], running());
      expect([reason, state.phase]).toEqual([reason, REASONS[reason].budget === "infra" ? "queued" : "failed"]);
    }
  });
});

describe("stop", () => {
  const { "running, lease": running = initialState() } = situations();

  it("is true at once, and lets the runner leave within its grace", ({ expect }) => {
    const leaving = applied([STOP], running, T0 + 1_000);
    expect(STATUS_OF[leaving.phase]).toBe("stopped");
    expect([leaving.completedAtMs, leaving.reason]).toEqual([T0 + 1_000, "user_stop"]);
    expect([desiredOf(leaving, 1), desiredOf(leaving, 0), desiredOf(running, 1)]).toEqual(["stop", "abandon", "run"]);
    // Two leases without a call, or the grace and the tail, whichever is first.
    expect(deadlineOf(leaving)).toBe(T0 + 120_000);
    const heard = applied([called(1)], leaving, T0 + 700_000);
    expect(deadlineOf(heard)).toBe(T0 + 721_000);
    expect(applied([TICK], heard, T0 + 721_000)).toMatchObject({ phase: "stopped", fence: 2, dataComplete: false });
    expect(applied([finish(1)], heard)).toMatchObject({ phase: "stopped", fence: 1, completedAtMs: T0 + 1_000 });
  });

  it("fences a runner off at once when the job is started again before it has left", ({ expect }) => {
    const restarted = applied([STOP, START], running);
    expect(restarted).toMatchObject({
      phase: "queued",
      fence: 2,
      startedAtMs: null,
      completedAtMs: null,
      reason: null,
    });
    expect(desiredOf(restarted, 1)).toBe("abandon");
  });

  it("fences off whoever works on a job of a deleted project, in every phase", ({ expect }) => {
    for (const state of Object.values(situations())) {
      const gone = applied([{ type: "stop", reason: "project_deleted" }], state);
      expect(["completed", "failed", "stopped"]).toContain(gone.phase);
      expect(transition(gone, called(state.fence), POLICY, T0)).toMatchObject({ error: { code: "STALE_LEASE" } });
    }
  });
});

describe("plain callbacks", () => {
  it("drive a job alone, and time out when they stay away", ({ expect }) => {
    const state = applied([plain(), plain()], initialState());
    expect(state).toMatchObject({ phase: "running", owner: "plain", attempt: 1, fence: 0, startedAtMs: T0 });
    expect(deadlineOf(state)).toBe(T0 + 7_200_000);
    expect(applied([TICK], state, T0 + 7_200_000)).toMatchObject({ phase: "failed", reason: "stalled" });
  });

  it("open a second attempt with `started` only", ({ expect }) => {
    const again = applied([STOP, START], situations()["running, plain"]);
    expect(applied([plain()], again)).toBe(again);
    expect(applied([plain({ end: { outcome: "completed", reason: "done", message: null } })], again)).toBe(again);
    expect(applied([plain({ opens: true })], again)).toMatchObject({ phase: "running", attempt: 2, owner: "plain" });
  });
});

/** mulberry32: small, seeded, good enough to shuffle. */
function randomFrom(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

describe("whatever happens in whatever order", () => {
  const isTerminal = (phase: Phase) => phase === "completed" || phase === "failed" || phase === "stopped";
  // Those that lead on are drawn more often, or few sequences would get anywhere.
  const leading = [
    "start",
    "start",
    "offer",
    "offer",
    "offer",
    "offer",
    "accept",
    "accept",
    "accept",
    "accept",
    "call",
  ];
  const makers = [...Object.values(EVENTS), ...leading.flatMap((label) => EVENTS[label] ?? [])];

  it("keeps fence, attempt, owner and end as they have to be", ({ expect }) => {
    const seen = new Set<Phase>();
    for (let seed = 1; seed <= 300; seed++) {
      const random = randomFrom(seed);
      const policy: Policy = { ...POLICY, infraRetries: seed % 3, userRetries: seed % 2, progressTimeoutMs: 900_000 };
      let state: JobState = Object.freeze(initialState());
      let now = T0;
      const endsOf = new Map<number, number>();
      for (let i = 0; i < 120; i++) {
        now += Math.floor(random() ** 4 * 500_000);
        const make = makers[Math.floor(random() * makers.length)] ?? (() => TICK);
        const fence = random() < 0.8 ? state.fence : state.fence - 1 + Math.floor(random() * 3);
        const event = make(fence);
        const moved = transition(state, event, policy, now);
        const where = `seed ${seed}, step ${i}, ${JSON.stringify(event)} in ${state.phase}`;
        if ("fence" in event && event.fence !== state.fence && moved.ok) throw new Error(`old fence taken: ${where}`);
        if (!moved.ok) continue;
        const { state: next, effects } = moved.value;
        seen.add(next.phase);
        if (next.fence < state.fence || next.attempt < state.attempt) throw new Error(`went back: ${where}`);
        if (next.attempt > state.attempt + 1) throw new Error(`skipped an attempt: ${where}`);
        if (next.attempt === state.attempt && next.owner !== state.owner) throw new Error(`two owners: ${where}`);
        if (isTerminal(state.phase) && event.type !== "start" && next.phase !== state.phase) {
          throw new Error(`terminal was not final: ${where}`);
        }
        if (STATUS_OF[next.phase] === undefined) throw new Error(`no status: ${where}`);
        if ((next.phase === "offered") !== (next.offer !== null)) throw new Error(`offer left over: ${where}`);
        if ((next.ending !== null) !== (next.phase === "finalizing" || next.phase === "leaving")) {
          throw new Error(`ending left over: ${where}`);
        }
        for (const effect of effects) {
          if (effect.type === "attemptStarted" && state.attempt > 0 && endsOf.get(state.attempt) !== 1) {
            throw new Error(`attempt never ended: ${where}`);
          }
          if (effect.type === "attemptEnded") endsOf.set(next.attempt, (endsOf.get(next.attempt) ?? 0) + 1);
        }
        if ([...endsOf.values()].some((ends) => ends > 1)) throw new Error(`attempt ended twice: ${where}`);
        state = Object.freeze(next);
      }
    }
    expect([...seen].sort()).toEqual(Object.keys(STATUS_OF).sort());
  });
});
