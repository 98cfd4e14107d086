import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { describe, it } from "vitest";
import { processorTimeOf } from "../../../scripts/bench/processor-time.ts";
import { Allowance, TICK_MS, throttle } from "../../../scripts/bench/throttle.ts";

describe("Allowance", () => {
  it("lets a process that wants everything have its share, over time", ({ expect }) => {
    const allowance = new Allowance(0.25, 0, 0);
    let [usedMs, runs] = [0, true];
    for (let now = TICK_MS; now <= 10_000; now += TICK_MS) {
      if (runs) usedMs += TICK_MS;
      runs = allowance.mayRun(now, usedMs);
    }
    expect(usedMs / 10_000).toBeCloseTo(0.25, 2);
  });

  it("pays nothing out for time that was not used", ({ expect }) => {
    const allowance = new Allowance(0.5, 0, 0);
    expect(allowance.mayRun(60_000, 0)).toBe(true);
    expect(allowance.mayRun(60_000 + TICK_MS, 3 * TICK_MS)).toBe(false);
  });

  it("goes on where the debt is paid", ({ expect }) => {
    const allowance = new Allowance(0.5, 0, 0);
    expect([allowance.mayRun(10, 25), allowance.mayRun(40, 25), allowance.mayRun(50, 25)]).toEqual([
      false,
      false,
      true,
    ]);
  });
});

// It counts in /proc and needs signals that stop.
describe.runIf(existsSync("/proc/self/stat"))("throttle", () => {
  const busy = () => spawn(process.execPath, ["-e", "for (;;);"], { stdio: "ignore" });
  const stateOf = (pid: number) => /\) (\w) /.exec(readFileSync(`/proc/${pid}/stat`, "utf8"))?.[1];

  it("holds a busy process to its share and lets it go on freely afterwards", async ({ expect }) => {
    const child = busy();
    const pid = child.pid ?? 0;
    try {
      const held = await throttle([pid], 0.2);
      const [before, from] = [processorTimeOf(pid) ?? 0, performance.now()];
      await delay(1_000);
      const used = ((processorTimeOf(pid) ?? 0) - before) / (performance.now() - from);
      await held.release();
      expect(used).toBeLessThan(0.3);
      expect(used).toBeGreaterThan(0.05);
      await delay(50);
      expect(stateOf(pid)).not.toBe("T");
    } finally {
      child.kill("SIGKILL");
    }
  });

  it("ends what it watched when whoever started it is gone", async ({ expect }) => {
    const child = busy();
    const pid = child.pid ?? 0;
    try {
      const url = new URL("../../../scripts/bench/throttle.ts", import.meta.url).href;
      const starter = spawn(
        process.execPath,
        [
          "--input-type=module",
          "-e",
          `(await import("${url}")).throttle([${pid}], 0.1).then(() => console.log("held"))`,
        ],
        { stdio: ["ignore", "pipe", "inherit"] },
      );
      await once(starter.stdout, "data");
      starter.kill("SIGKILL");
      if (child.exitCode === null && child.signalCode === null) await once(child, "close");
      expect(child.signalCode).toBe("SIGKILL");
    } finally {
      child.kill("SIGKILL");
    }
  });
});
