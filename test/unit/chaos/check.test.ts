import { describe, it } from "vitest";
import { check, type Reading } from "../../../scripts/chaos/check.ts";
import { planJobs } from "../../../scripts/chaos/plan.ts";
import { createRandom } from "../../../scripts/chaos/random.ts";
import type { JournalEntry } from "../../../scripts/chaos/recorder.ts";

/** A chaos run that found nothing proves nothing unless the check finds what is wrong. */

const NONCE = "0123456789ab";
const lossOf = (attempt: number, epoch: number) => attempt + epoch / 100;
const point = (attempt: number, epoch: number) => ({ attempt, epoch, loss: lossOf(attempt, epoch) });
const reported = (attempt: number, seq: number, epoch: number) => ({
  seq,
  event: "epoch_complete",
  data: { epoch, loss: lossOf(attempt, epoch) },
});

/** Attempt 1 reported epochs 1 to 3 and was lost; attempt 2 went on after epoch 2 and completed epoch 4. */
const journal = (): JournalEntry[] => [
  { type: "accept", jobId: 1, attempt: 1, token: "a", resumeEpoch: 0 },
  {
    type: "events",
    jobId: 1,
    attempt: 1,
    desired: "run",
    rejected: [],
    events: [reported(1, 1, 1), reported(1, 2, 2), reported(1, 3, 3)],
  },
  { type: "log", jobId: 1, attempt: 1, stream: "stdout", seq: 1, text: `${NONCE} line of epoch 1\n` },
  { type: "accept", jobId: 1, attempt: 2, token: "b", resumeEpoch: 2 },
  {
    type: "events",
    jobId: 1,
    attempt: 2,
    desired: "run",
    rejected: [],
    events: [
      reported(2, 1, 3),
      { seq: 2, event: "checkpoint", data: { artifact_id: "c1", epoch: 4 } },
      reported(2, 3, 4),
    ],
  },
];
const emitted = new Set(
  [point(1, 1), point(1, 2), point(1, 3), point(2, 3), point(2, 4)].map(({ epoch, loss }) => `${epoch}:${loss}`),
);
const reading = (change: Partial<Reading> = {}): Reading => ({
  jobId: 1,
  plan: { fate: "completes", epochs: 4, startAtMs: 0, stopAfterMs: 0 },
  wish: "run",
  wasStopped: false,
  job: {
    status: "completed",
    phase: "completed",
    reason: "done",
    attempt: 2,
    data_complete: true,
    log_truncated: false,
  },
  visible: [point(1, 1), point(1, 2), point(2, 3), point(2, 4)],
  history: [point(1, 1), point(1, 2), point(1, 3), point(2, 3), point(2, 4)],
  logs: [{ attempt: 1, log_type: "stdout", message: `${NONCE} line of epoch 1` }],
  checkpoints: [{ id: "c1", attempt: 2, epoch: 4 }],
  ...change,
});
const violations = (changed: Reading, entries = journal()) => check([changed], entries, emitted).violations;

describe("the check of a chaos run", () => {
  it("passes what is readable once, and counts it", ({ expect }) => {
    const { violations: found, counts } = check([reading()], journal(), emitted);
    expect(found).toEqual([]);
    expect(counts).toMatchObject({
      "events acknowledged": 6,
      "points readable": 5,
      "points superseded": 1,
      attempts: 2,
    });
  });

  it("finds an acknowledged point that is gone, doubled, changed or invented", ({ expect }) => {
    const [, ...without] = reading().history;
    expect(violations(reading({ history: without }))).toContainEqual(expect.stringContaining("1:1 was acknowledged"));
    expect(violations(reading({ history: [...reading().history, point(1, 1)] }))).toContainEqual(
      expect.stringContaining("readable 2 times"),
    );
    const changed = reading().history.map((known) => (known.epoch === 1 ? { ...known, loss: 9 } : known));
    expect(violations(reading({ history: changed }))).toEqual([
      expect.stringContaining("no trainer reported"),
      expect.stringContaining("reads 9"),
    ]);
  });

  it("finds an epoch that counts for the wrong attempt, for two, or for none", ({ expect }) => {
    const { visible, history } = reading();
    const forked = reading({ visible: [...visible, point(1, 3)] });
    expect(violations(forked)).toContainEqual(expect.stringContaining("counts for two attempts"));
    const old = reading({ visible: visible.map((known) => (known.epoch === 3 ? point(1, 3) : known)) });
    expect(violations(old)).toEqual([expect.stringContaining("1:3 counts though")]);
    const short = reading({ visible: visible.slice(0, 3), history: history.slice(0, 4) });
    expect(violations(short, journal().slice(0, 4))).toEqual([expect.stringContaining("completed without epochs 4")]);
  });

  it("lets points go that came after a stop, and no others", ({ expect }) => {
    const stopped = reading({
      wish: "stop",
      wasStopped: true,
      job: { ...reading().job, status: "stopped", phase: "stopped", reason: "user_stop" },
      visible: reading().visible.slice(0, 3),
      history: reading().history.slice(0, 4),
    });
    const heard = journal().map((entry) =>
      entry.type === "events" && entry.attempt === 2 ? { ...entry, desired: "stop" } : entry,
    );
    expect(violations(stopped, heard)).toEqual([]);
    expect(violations(stopped)).toEqual([expect.stringContaining("2:4 was acknowledged")]);
  });

  it("finds a wrong end, and one that is none", ({ expect }) => {
    const { job } = reading();
    expect(violations(reading({ job: { ...job, status: "failed", phase: "failed", reason: "exit_nonzero" } }))).toEqual(
      [expect.stringContaining("ended as failed exit_nonzero")],
    );
    expect(violations(reading({ job: { ...job, phase: "finalizing" } }))).toEqual([
      expect.stringContaining("still finalizing"),
    ]);
  });

  it("finds lost and doubled log lines, lost checkpoints and rejected events", ({ expect }) => {
    const { logs } = reading();
    expect(violations(reading({ logs: [] }))).toEqual([expect.stringContaining("of chunk 1 stdout 1")]);
    expect(violations(reading({ logs: [...logs, ...logs] }))).toEqual([expect.stringContaining("readable 2 times")]);
    const other = { id: "c2", attempt: 2, epoch: 3 };
    expect(violations(reading({ checkpoints: [other] }))).toEqual([expect.stringContaining("c1 was acknowledged")]);
    expect(violations(reading({ checkpoints: [{ ...other, epoch: 4 }] }))).toEqual([]);
    const refused = journal().map((entry) => (entry.type === "events" ? { ...entry, rejected: [1] } : entry));
    expect(violations(reading(), refused)).toHaveLength(2);
  });
});

describe("the plan of a chaos run", () => {
  it("is the same for the same seed and holds every fate", ({ expect }) => {
    const plan = (seed: number) => planJobs(createRandom(seed), 40, { startsMs: 1_000, epochs: [5, 9] });
    expect(plan(3)).toEqual(plan(3));
    expect(plan(3)).not.toEqual(plan(4));
    expect(new Set(plan(3).map(({ fate }) => fate)).size).toBe(6);
    expect(plan(3).every(({ epochs }) => epochs >= 5 && epochs <= 9)).toBe(true);
  });
});
