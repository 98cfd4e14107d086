/** Time and chance as the agent uses them; tests bring their own. */
export type Clock = {
  /** Milliseconds. Only differences count: the server never believes a runner's clock, and this agent compares none. */
  now(): number;
  /** 0 <= value < 1 */
  random(): number;
  /** Resolves after `ms`, or at once when `signal` is or becomes aborted: look at it afterwards. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
};

export const systemClock: Clock = {
  now: () => Date.now(),
  random: () => Math.random(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) {
        resolve();
        return;
      }
      const done = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal?.addEventListener("abort", done, { once: true });
    }),
};
