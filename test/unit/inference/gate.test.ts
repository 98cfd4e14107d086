import { describe, it } from "vitest";
import { Gate } from "../../../src/training/inference/gate.ts";

const limits = { maxWaitingBytes: 100, maxTurnMs: 5_000 };
const later = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe("Gate", () => {
  it("lets one in at a time, in order of arrival", async ({ expect }) => {
    const gate = new Gate(limits);
    const log: string[] = [];
    let inside = 0;
    const work = (name: string) =>
      gate.run(1, async () => {
        inside += 1;
        expect(inside).toBe(1);
        await later(5);
        log.push(name);
        inside -= 1;
        return name;
      });
    const results = await Promise.all(["a", "b", "c", "d"].map(work));
    expect(log).toEqual(["a", "b", "c", "d"]);
    expect(results).toEqual(["a", "b", "c", "d"].map((value) => ({ ok: true, value })));
  });

  it("lets an answer out before the next turn, also for work that comes when the turn is over", async ({ expect }) => {
    const gate = new Gate(limits);
    const log: string[] = [];
    /** Computes without a pause; its answer leaves with the next turn of the event loop. */
    const work = (name: string) =>
      gate
        .run(1, async () => log.push(`${name} computes`))
        .then(() => new Promise<void>((resolve) => setTimeout(resolve, 0)))
        .then(() => log.push(`${name} leaves`));
    const first = work("a").then(() => undefined);
    // Comes when nobody is inside any more, before anything could leave.
    for (let i = 0; i < 10; i += 1) await Promise.resolve();
    await Promise.all([first, work("b"), work("c")]);
    expect(log).toEqual(["a computes", "a leaves", "b computes", "b leaves", "c computes", "c leaves"]);
  });

  it("does not keep anybody waiting who comes alone", async ({ expect }) => {
    const gate = new Gate(limits);
    await gate.run(1, async () => 1);
    await later(2);
    let inside = false;
    const run = gate.run(1, async () => {
      inside = true;
    });
    expect(inside).toBe(true);
    await run;
  });

  it("goes on after work that throws, and hands the error to its caller", async ({ expect }) => {
    const gate = new Gate(limits);
    const broken = gate.run(1, async () => {
      throw new Error("broken");
    });
    const next = gate.run(1, async () => 7);
    await expect(broken).rejects.toThrow("broken");
    expect(await next).toEqual({ ok: true, value: 7 });
  });

  it("refuses at once when what waits holds too much, but always lets one wait", async ({ expect }) => {
    const gate = new Gate(limits);
    const release = Promise.withResolvers<void>();
    const running = gate.run(1_000, () => release.promise);
    const first = gate.run(1_000, async () => 1);
    expect(await gate.run(1, async () => 2)).toMatchObject({ ok: false, error: { code: "BUSY" } });
    release.resolve();
    await running;
    expect(await first).toEqual({ ok: true, value: 1 });
    expect(await gate.run(1, async () => 3)).toEqual({ ok: true, value: 3 });
  });

  it("passes over a turn that was begun and never ended", async ({ expect }) => {
    const gate = new Gate({ ...limits, maxTurnMs: 30 });
    void gate.run(100, () => new Promise(() => undefined));
    const started = performance.now();
    expect(await gate.run(50, async () => 1)).toEqual({ ok: true, value: 1 });
    expect(performance.now() - started).toBeGreaterThan(20);
    expect(await gate.run(100, async () => 2)).toEqual({ ok: true, value: 2 });
  });
});
