import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

/**
 * Holds processes to a share of a core, so that several of them on one machine are as fast as if each had a slow machine of its
 * own. Linux only: it counts in `/proc`, stops and continues.
 */

/** Ticks of the watch: shorter than any request, longer than what Linux counts in. */
export const TICK_MS = 10;

/**
 * Decides when a process has to stand still. Pure: told the times of both clocks, it answers whether the process may go on.
 * A share that was not used is lost but for one tick's worth: a process that was idle gets no more than its share afterwards.
 */
export class Allowance {
  readonly #share: number;
  #nowMs: number;
  #usedMs: number;
  #leftMs = 0;

  constructor(share: number, nowMs: number, usedMs: number) {
    this.#share = share;
    this.#nowMs = nowMs;
    this.#usedMs = usedMs;
  }

  mayRun(nowMs: number, usedMs: number): boolean {
    this.#leftMs += (nowMs - this.#nowMs) * this.#share - (usedMs - this.#usedMs);
    this.#leftMs = Math.min(this.#leftMs, TICK_MS);
    this.#nowMs = nowMs;
    this.#usedMs = usedMs;
    return this.#leftMs >= 0;
  }
}

export type Throttle = {
  /** Lets all of them run freely again, and is over. */
  release(): Promise<void>;
};

/**
 * A process of its own keeps the watch: when this one ends, however it does, the input of the other ends, and it ends those
 * that it watched, so that none stays behind, least of all a stopped one.
 */
export async function throttle(pids: number[], share: number): Promise<Throttle> {
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, "throttle-main.ts"), String(share), ...pids.map(String)],
    {
      stdio: ["pipe", "pipe", "inherit"],
    },
  );
  child.stdin.on("error", () => undefined);
  const closed = once(child, "close");
  await Promise.race([once(child.stdout, "data"), closed]);
  if (child.exitCode !== null) throw new Error("the watch over the shares of the processor did not start");
  return {
    async release() {
      child.stdin.end("release\n");
      await closed;
    },
  };
}
