import { describe, it } from "vitest";
import { fits, pairUp, type QueuedJob, type RunnerFacts, whyQueued } from "../../../src/training/runners/match.ts";

const runner = (runnerId: string, part: Partial<RunnerFacts> = {}): RunnerFacts => ({
  runnerId,
  frameworks: ["timm"],
  labels: {},
  gpus: [],
  ...part,
});

const job = (jobId: number, part: Partial<QueuedJob> = {}): QueuedJob => ({
  jobId,
  projectId: 1,
  priority: 0,
  queuedAtMs: 1_000,
  requirements: { framework: "timm", labels: {}, gpuMemoryMb: 0 },
  ...part,
});

const needs = (part: Partial<QueuedJob["requirements"]>) => ({
  framework: "timm",
  labels: {},
  gpuMemoryMb: 0,
  ...part,
});

describe("whether a runner fits", () => {
  it("asks for framework, every label and the memory of one GPU", ({ expect }) => {
    const gpu = runner("r", { labels: { zone: "a", tier: "gold" }, gpus: [{ model: "T4", vram_mb: 16_000 }] });
    expect(fits(gpu, needs({}))).toBe(true);
    expect(fits(gpu, needs({ framework: "ultralytics" }))).toBe(false);
    expect(fits(gpu, needs({ labels: { zone: "a" } }))).toBe(true);
    expect(fits(gpu, needs({ labels: { zone: "a", tier: "silver" } }))).toBe(false);
    expect(fits(gpu, needs({ labels: { rack: "1" } }))).toBe(false);
    expect(fits(gpu, needs({ gpuMemoryMb: 16_000 }))).toBe(true);
    expect(fits(gpu, needs({ gpuMemoryMb: 16_001 }))).toBe(false);
    const two = runner("r", {
      gpus: [
        { model: "a", vram_mb: 8_000 },
        { model: "b", vram_mb: 8_000 },
      ],
    });
    expect(fits(two, needs({ gpuMemoryMb: 16_000 }))).toBe(false);
    expect(fits(runner("r"), needs({ labels: { constructor: "x" } }))).toBe(false);
  });
});

describe("one round of matching", () => {
  const pairs = (queue: QueuedJob[], free: RunnerFacts[]) =>
    pairUp(queue, free).map((pair) => [pair.job.jobId, pair.runner.runnerId]);

  it("goes by priority, then age, then id", ({ expect }) => {
    const queue = [
      job(4),
      job(3),
      job(2, { queuedAtMs: 500 }),
      job(1, { priority: -1, queuedAtMs: 0 }),
      job(5, { priority: 9 }),
    ];
    const free = ["a", "b", "c", "d", "e"].map((id) => runner(id));
    expect(pairs(queue, free)).toEqual([
      [5, "a"],
      [2, "b"],
      [3, "c"],
      [4, "d"],
      [1, "e"],
    ]);
  });

  it("gives each job and each runner once, and leaves the rest", ({ expect }) => {
    expect(pairs([job(1), job(2)], [runner("a")])).toEqual([[1, "a"]]);
    expect(pairs([job(1)], [runner("a"), runner("b")])).toEqual([[1, "a"]]);
    expect(pairs([], [runner("a")])).toEqual([]);
  });

  it("does not hold a job up behind one that fits nobody", ({ expect }) => {
    const large = job(1, { priority: 5, requirements: needs({ gpuMemoryMb: 80_000 }) });
    expect(pairs([large, job(2)], [runner("small")])).toEqual([[2, "small"]]);
  });
});

describe("why a job waits", () => {
  it("says how many could do it and where it stands", ({ expect }) => {
    const queue = [job(1), job(2, { queuedAtMs: 2_000 }), job(3, { priority: 1, queuedAtMs: 9_000 })];
    expect(whyQueued(job(2, { queuedAtMs: 2_000 }), queue, [])).toEqual({
      live: 0,
      capable: 0,
      position: 3,
      reason: "no_live_runner",
    });
    const picky = job(4, { requirements: needs({ labels: { zone: "b" } }) });
    expect(whyQueued(picky, [picky], [runner("r")])).toEqual({
      live: 1,
      capable: 0,
      position: 1,
      reason: "no_runner_fits",
    });
    expect(whyQueued(job(1), queue, [runner("r")])).toMatchObject({ position: 2, reason: "runners_busy", capable: 1 });
  });
});
