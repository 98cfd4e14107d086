import { describe, it } from "vitest";
import { coalesce, eventsOf, type LiveEvent, type NumberedEvent } from "../../../src/training/jobs/live/events.ts";
import type { StoredMetric } from "../../../src/training/jobs/projection.ts";

const T0 = 1_800_000_000_000;
const point = (epoch: number, part: Partial<StoredMetric> = {}): StoredMetric => ({
  id: epoch,
  epoch,
  step: 0,
  attempt: 1,
  loss: 1 / epoch,
  accuracy: null,
  learningRate: null,
  extraMetrics: {},
  nonFinite: null,
  createdAt: T0,
  ...part,
});
const metrics = (...epochs: number[]): LiveEvent[] =>
  eventsOf(5, { kind: "metrics", rows: epochs.map((epoch) => point(epoch)), segments: null });
const status = (phase: string, epoch: number): LiveEvent[] =>
  eventsOf(5, {
    kind: "job",
    row: {
      status: "running",
      phase,
      reason: null,
      message: null,
      attempt: 1,
      runnerId: "r1",
      currentEpoch: epoch,
      totalEpochs: 9,
      mlflowRunId: null,
      bestValue: null,
      bestEpoch: null,
      dataComplete: null,
      logTruncated: false,
      startedAt: T0,
      completedAt: null,
      updatedAt: T0,
      rev: epoch,
    },
  });
const end: LiveEvent = { type: "end", data: { job_id: 5, status: "completed", reason: "done" } };
const numbered = (...events: LiveEvent[]): NumberedEvent[] => events.map((event, i) => ({ id: 10 + i, event }));
const seen = (events: NumberedEvent[]) =>
  events.map(({ id, event }) => [
    id,
    event.type,
    event.type === "metrics" ? event.data.points.map(({ epoch }) => epoch) : null,
  ]);

describe("live events", () => {
  it("have the points, lines and names that readers get elsewhere", ({ expect }) => {
    const [event] = eventsOf(5, {
      kind: "metrics",
      rows: [point(2, { nonFinite: ["loss"], loss: null })],
      segments: null,
    });
    expect(event?.data).toMatchObject({
      points: [{ id: 2, job_id: 5, epoch: 2, loss: null, non_finite: ["loss"], created_at: "2027-01-15T08:00:00Z" }],
    });
    const log = { firstLine: 8, lineCount: 3, attempt: 2, stream: "stderr" as const, seq: 1, createdAt: T0 };
    expect(eventsOf(5, { kind: "log", row: { ...log, text: "a\r\n\nb" } })[0]?.data).toMatchObject({
      first_id: 8,
      lines: ["a", "", "b"],
      log_type: "stderr",
    });
    expect(eventsOf(5, { kind: "metrics", rows: [], segments: null })).toEqual([]);
    expect(eventsOf(5, { kind: "images", attempt: 1, epoch: 1, offset: 0, images: [], replaceAll: true })).toEqual([]);
  });

  it("are joined where they say the same, under the number of the newest", ({ expect }) => {
    const flow = [metrics(1), status("running", 1), metrics(2, 3), status("running", 3), metrics(4)].flat();
    expect(seen(coalesce(numbered(...flow)))).toEqual([
      [12, "metrics", [1, 2, 3]],
      [13, "status", null],
      [14, "metrics", [4]],
    ]);
  });

  it("keep every turn of the job", ({ expect }) => {
    const turns = ["running", "suspect", "running"].flatMap((phase) => status(phase, 1));
    expect(coalesce(numbered(...turns))).toHaveLength(3);
  });

  it("never lose the newest number, nor a point", ({ expect }) => {
    const parts = [metrics(1), metrics(2), status("running", 2), status("running", 2), [end]];
    for (let mask = 0; mask < 2 ** 6; mask++) {
      const flow = Array.from({ length: 6 }, (_, i) => parts[(i * 3 + ((mask >> i) & 1)) % parts.length] ?? []).flat();
      const before = numbered(...flow);
      const after = coalesce(before);
      expect(after.at(-1)?.id).toBe(before.at(-1)?.id);
      const points = (events: NumberedEvent[]) =>
        events.flatMap(({ event }) => (event.type === "metrics" ? event.data.points.map(({ epoch }) => epoch) : []));
      expect(points(after)).toEqual(points(before));
      const ids = after.map(({ id }) => id);
      expect(ids).toEqual([...ids].sort((a, b) => a - b));
    }
  });

  it("do not end before the end, and hold no more than 500 points each", ({ expect }) => {
    expect(seen(coalesce(numbered(end, ...metrics(1), end))).map(([id]) => id)).toEqual([11, 12]);
    const many = Array.from({ length: 3 }, () => metrics(...Array.from({ length: 300 }, (_, i) => i + 1))).flat();
    expect(
      coalesce(numbered(...many)).map(({ event }) => event.type === "metrics" && event.data.points.length),
    ).toEqual([300, 300, 300]);
  });
});
