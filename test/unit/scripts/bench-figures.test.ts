import { spawn } from "node:child_process";
import { describe, it } from "vitest";
import { Connection } from "../../../scripts/bench/http.ts";
import { runSlice } from "../../../scripts/bench/load.ts";
import { readOptions, UsageError } from "../../../scripts/bench/options.ts";
import { childProcessorTime, readStat } from "../../../scripts/bench/processor-time.ts";
import { machineLine, renderMarkdown, renderText, rowOf } from "../../../scripts/bench/report.ts";
import { choose } from "../../../scripts/bench/scenario.ts";
import { median, percentile, ratioOf, type Slice, summarize } from "../../../scripts/bench/statistics.ts";

/** A slice of equally long operations, one after the other. */
const slice = (operations: number, eachMs: number, errors: string[] = []): Slice => ({
  durationsMs: Array.from({ length: operations }, () => eachMs),
  errors,
  wallMs: operations * eachMs,
  cpuMs: operations * eachMs * 0.5,
});

describe("figures", () => {
  it("takes percentiles by nearest rank and leaves the values as they were", ({ expect }) => {
    const values = [5, 1, 4, 2, 3];
    expect([percentile(values, 0.5), percentile(values, 0.99), percentile(values, 0), median([1, 2, 3, 4])]).toEqual([
      3, 5, 1, 2,
    ]);
    expect(values).toEqual([5, 1, 4, 2, 3]);
    expect(percentile([], 0.5)).toBeNaN();
  });

  it("adds slices up by their time, not by their number", ({ expect }) => {
    const summary = summarize([slice(100, 1), slice(100, 9, ["broken", "again"])]);
    expect(summary).toEqual({
      operations: 200,
      perSecond: 200,
      p50Ms: 1,
      p99Ms: 9,
      cpuMs: 2.5,
      errors: 2,
      firstError: "broken",
    });
  });

  it("knows no processor time when a slice has none", ({ expect }) => {
    expect(summarize([slice(1, 1), { ...slice(1, 1), cpuMs: null }]).cpuMs).toBeNull();
    expect(summarize([]).cpuMs).toBeNull();
  });

  it("compares round by round, so that a slow moment of both does not count", ({ expect }) => {
    const own = [slice(10, 2), slice(10, 20), slice(10, 2)];
    const reference = [slice(10, 1), slice(10, 10), slice(10, 1)];
    expect(ratioOf(own, reference)).toBeCloseTo(0.5);
    expect(ratioOf(own, [])).toBeNull();
    expect(ratioOf([slice(0, 1)], [slice(0, 1)])).toBeNull();
  });

  it("loads with as many operations at once as there are connections, and counts failures apart", async ({
    expect,
  }) => {
    const connections = Array.from({ length: 3 }, () => new Connection(new URL("http://127.0.0.1:1")));
    let running = 0;
    let most = 0;
    const result = await runSlice(connections, { forMs: 10_000, operationsPerLane: 4 }, async (_, lane) => {
      running += 1;
      most = Math.max(most, running);
      await new Promise((resolve) => setTimeout(resolve, 1));
      running -= 1;
      if (lane === 2) throw new Error(`lane ${lane}`);
    });
    expect(most).toBe(3);
    expect(result.durationsMs).toHaveLength(8);
    expect(result.errors).toEqual(Array.from({ length: 4 }, () => "lane 2"));
    expect(result.wallMs).toBeGreaterThan(0);
  });
});

describe("the table", () => {
  const slices: Record<string, Slice[]> = {
    "hello-20": [slice(100, 1), slice(100, 1)],
    "insert-20": [slice(100, 4), slice(100, 4)],
    batch: [slice(10, 100)],
  };
  const slicesOf = (name: string) => slices[name];
  const callback = { name: "callback", title: "callback | plain", concurrency: 20 };

  it("has the ratio to every baseline at the same concurrency", ({ expect }) => {
    const row = rowOf(callback, [slice(100, 5), slice(100, 5)], slicesOf);
    expect(row.ratios).toEqual({ hello: 0.2, insert: 0.8, read: null });
    expect(row.verdict).toBeNull();
    const alone = rowOf({ ...callback, concurrency: 4 }, [slice(100, 5)], slicesOf);
    expect(alone.ratios).toEqual({ hello: null, insert: null, read: null });
  });

  it("judges a target by another scenario, by the rate of its unit and by its median", ({ expect }) => {
    const of = (target: Parameters<typeof rowOf>[0]["target"], own: Slice[], perOperation = 1) =>
      rowOf({ ...callback, unit: { name: "events", perOperation }, target }, own, slicesOf).verdict?.met;
    expect(of({ atLeast: 0.8, of: "insert-20" }, [slice(100, 5)])).toBe(true);
    expect(of({ atLeast: 0.81, of: "insert-20" }, [slice(100, 5)])).toBe(false);
    expect(of({ atLeast: 0.8, of: "not measured" }, [slice(100, 5)])).toBeUndefined();
    expect(of({ atLeastPerSecond: 5_000 }, slices.batch ?? [], 500)).toBe(true);
    expect(of({ atLeastPerSecond: 5_001 }, slices.batch ?? [], 500)).toBe(false);
    expect(of({ p50AtMostMs: 5 }, [slice(100, 5)])).toBe(true);
    expect(of({ p50AtMostMs: 4.9 }, [slice(100, 5)])).toBe(false);
    expect(of({ p50AtMostMs: 5 }, [slice(0, 5, ["broken"])])).toBe(false);
  });

  it("is one line a scenario, on a terminal and as Markdown", ({ expect }) => {
    const unit = { name: "events", perOperation: 500 };
    const rows = [
      rowOf({ ...callback, target: { atLeast: 0.8, of: "insert-20" } }, slices["hello-20"] ?? [], slicesOf),
      rowOf({ ...callback, name: "batch", title: "batch", concurrency: 4, unit }, slices.batch ?? [], slicesOf),
    ];
    const text = renderText(rows).split("\n");
    expect(text).toHaveLength(3);
    expect(text[1]).toMatch(/1,000 +1\.00 +1\.00 +0\.50 +0 +1\.00 +4\.00 +– +✓ 4\.00 of insert-20, at least 0\.80$/);
    expect(text[2]).toContain("10.0 (5,000 events)");
    const markdown = renderMarkdown(rows).split("\n");
    expect(markdown).toHaveLength(4);
    expect(markdown[2]).toContain("callback \\| plain");
    expect(new Set(markdown.map((line) => line.replaceAll("\\|", "").split("|").length)).size).toBe(1);
  });

  it("says what it was measured on and that it is not production", ({ expect }) => {
    const line = machineLine({ cores: 2, memoryGiB: 23.5, processor: "CPU", storage: "in memory", loadBefore: 0.25 });
    expect(line).toMatch(/^2 cores \(CPU\), 24 GiB memory, storage in memory, .* not Cloudflare production/);
  });
});

describe("processor time of the server", () => {
  it("is read from a line of /proc, whatever the program is called", ({ expect }) => {
    const numbers = "S 42 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 12345";
    expect(readStat(`77 (work) er d) ${numbers}`)).toEqual({ name: "work) er d", parent: 42, cpuMs: 3_000 });
    expect(readStat("77 (workerd) S 42")).toBeNull();
    expect(readStat("")).toBeNull();
  });

  it.runIf(process.platform === "linux")("grows while a child of ours works", async ({ expect }) => {
    const child = spawn("sh", ["-c", "while :; do :; done"]);
    try {
      await expect.poll(() => childProcessorTime("sh")() ?? 0, { timeout: 10_000 }).toBeGreaterThan(20);
    } finally {
      child.kill("SIGKILL");
    }
  });

  it("is unknown for a program that does not run", ({ expect }) => {
    expect(childProcessorTime("no such program")()).toBeNull();
  });
});

describe("the command line", () => {
  it("has a full and a quick run, both with an end", ({ expect }) => {
    expect(readOptions([])).toMatchObject({
      only: null,
      secondsEach: 4,
      rounds: 8,
      atMostMs: 170_000,
      markdown: false,
    });
    expect(readOptions(["--quick"])).toMatchObject({ secondsEach: 0.5, rounds: 2, atMostMs: 36_000 });
    expect(readOptions(["--seconds", "10", "--only", "job, login", "--markdown"])).toMatchObject({
      only: ["job", "login"],
      secondsEach: 10,
      rounds: 20,
      markdown: true,
    });
  });

  it("refuses what it does not know", ({ expect }) => {
    for (const argv of [["--fast"], ["--seconds", "x"], ["--seconds", "0"], ["--only", "job,"], ["job"]]) {
      expect(() => readOptions(argv)).toThrow(UsageError);
    }
  });

  it("runs what a scenario is compared with along with it", ({ expect }) => {
    const all = [
      { name: "hello-20", concurrency: 20 },
      { name: "insert-20", concurrency: 20 },
      { name: "hello-1", concurrency: 1 },
      { name: "metrics-1k", concurrency: 20 },
      { name: "metrics-1m", concurrency: 20, target: { atLeast: 0.66, of: "metrics-1k" } },
      { name: "login", concurrency: 1 },
    ];
    const names = (only: string[] | null) => choose(all, only).map(({ name }) => name);
    expect(names(null)).toHaveLength(6);
    expect(names(["metrics-1m"])).toEqual(["hello-20", "insert-20", "metrics-1k", "metrics-1m"]);
    expect(names(["login"])).toEqual(["hello-1", "login"]);
    expect(() => names(["metric"])).toThrow(UsageError);
  });
});
