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
      reason: "no_runner_has_labels",
    });
    expect(whyQueued(job(1), queue, [runner("r")])).toMatchObject({ position: 2, reason: "runners_busy", capable: 1 });
  });

  it("names the first thing that is missing", ({ expect }) => {
    const why = (requirements: Partial<QueuedJob["requirements"]>, runners: RunnerFacts[]) => {
      const one = job(1, { requirements: needs(requirements) });
      return whyQueued(one, [one], runners).reason;
    };
    const labelled = runner("labelled", { labels: { zone: "a" } });
    const large = runner("large", { gpus: [{ model: "H100", vram_mb: 80_000 }] });
    const both = { labels: { zone: "a" }, gpuMemoryMb: 40_000 };
    expect(why({ framework: "ultralytics" }, [labelled, large])).toBe("no_live_runner");
    expect(why(both, [large])).toBe("no_runner_has_labels");
    expect(why(both, [labelled])).toBe("no_runner_has_gpu_memory");
    expect(why(both, [labelled, large])).toBe("no_runner_fits");
    expect(why(both, [labelled, large, { ...large, labels: { zone: "a" } }])).toBe("runners_busy");
  });
});

describe("the limit of a project", () => {
  const load = (running: number, limit: number) => ({
    running: new Map([[1, running]]),
    limits: new Map([[1, limit]]),
  });
  const ids = (queue: QueuedJob[], free: RunnerFacts[], of: ReturnType<typeof load>) =>
    pairUp(queue, free, of).map((pair) => pair.job.jobId);
  const free = ["a", "b", "c"].map((id) => runner(id));

  it("is never passed, also within one round, and lets other projects by", ({ expect }) => {
    const queue = [job(1), job(2), job(3), job(4, { projectId: 2, queuedAtMs: 9_000 })];
    expect(ids(queue, free, load(0, 2))).toEqual([1, 2, 4]);
    expect(ids(queue, free, load(1, 2))).toEqual([1, 4]);
    expect(ids(queue, free, load(2, 2))).toEqual([4]);
    expect(ids(queue, free, load(5, 2))).toEqual([4]);
    expect(ids(queue, free, load(0, 0))).toEqual([4]);
    expect(ids(queue, free, { running: new Map([[1, 9]]), limits: new Map() })).toEqual([1, 2, 3]);
  });

  it("is not used up by a job that fits nobody", ({ expect }) => {
    const picky = job(1, { requirements: needs({ labels: { zone: "b" } }) });
    expect(ids([picky, job(2)], free, load(0, 1))).toEqual([2]);
  });

  it("is why a job waits for which there are runners", ({ expect }) => {
    const one = job(1);
    expect(whyQueued(one, [one], free, load(2, 2))).toMatchObject({ reason: "project_limit", capable: 3, position: 1 });
    expect(whyQueued(one, [one], free, load(1, 2))).toMatchObject({ reason: "runners_busy" });
    expect(whyQueued(one, [one], [], load(2, 2))).toMatchObject({ reason: "no_live_runner" });
  });

  it.for(Array.from({ length: 50 }, (_, seed) => seed + 1))(
    "holds for any queue and load, and no free runner stays idle that a job could have (%d)",
    (seed, { expect }) => {
      let state = seed;
      const random = (below: number) => {
        state = (state * 48_271) % 2_147_483_647;
        return state % below;
      };
      const queue = Array.from({ length: random(12) }, (_, i) =>
        job(i, {
          projectId: random(3),
          priority: random(3),
          queuedAtMs: random(5),
          requirements: needs({ gpuMemoryMb: random(2) * 10, labels: random(3) === 0 ? { zone: "a" } : {} }),
        }),
      );
      const runners = Array.from({ length: random(6) }, (_, i) =>
        runner(String(i), {
          labels: random(2) === 0 ? { zone: "a" } : {},
          gpus: random(2) === 0 ? [] : [{ model: "x", vram_mb: 10 }],
        }),
      );
      const of = {
        running: new Map([0, 1, 2].map((id) => [id, random(3)])),
        limits: new Map([0, 1].map((id) => [id, random(4)])),
      };
      const pairs = pairUp(queue, runners, of);
      expect(new Set(pairs.map((pair) => pair.job.jobId)).size).toBe(pairs.length);
      expect(new Set(pairs.map((pair) => pair.runner.runnerId)).size).toBe(pairs.length);
      for (const pair of pairs) expect(fits(pair.runner, pair.job.requirements)).toBe(true);
      const after = new Map(of.running);
      for (const pair of pairs) after.set(pair.job.projectId, (after.get(pair.job.projectId) ?? 0) + 1);
      for (const [id, limit] of of.limits) {
        expect(after.get(id) ?? 0).toBeLessThanOrEqual(Math.max(limit, of.running.get(id) ?? 0));
      }
      const idle = runners.filter((one) => !pairs.some((pair) => pair.runner === one));
      const left = queue.filter((one) => !pairs.some((pair) => pair.job === one));
      for (const one of left) {
        const isFull = (after.get(one.projectId) ?? 0) >= (of.limits.get(one.projectId) ?? Number.POSITIVE_INFINITY);
        expect(isFull || !idle.some((candidate) => fits(candidate, one.requirements))).toBe(true);
      }
    },
  );
});
