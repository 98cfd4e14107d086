import type { z } from "zod";
import { jittered, retryDelayMs } from "./backoff.ts";
import { type Client, isRetryable, type Reachability } from "./client.ts";
import type { Clock } from "./clock.ts";
import { HeartbeatAnswer, type Timers } from "./wire.ts";

const TIMEOUT_MS = 10_000;

export type HeartbeatDeps = {
  client: Client;
  jobId: number;
  token: string;
  timers: Timers;
  clock: Clock;
  signal: AbortSignal;
  reachability: Reachability;
  /** What the next heartbeat tells beside that the runner lives. */
  report: () => { outbox: number; progress: Record<string, unknown> };
  onAnswer: (answer: z.infer<typeof HeartbeatAnswer>) => void;
  onTrouble: (error: unknown) => void;
};

/**
 * Renews the lease for as long as the attempt lives: through training, drain and the last uploads.
 *
 * It runs in the agent's own process, not in a thread of its own: training is another process with lower priority, and the
 * agent itself only waits for disk and network, so nothing here holds the event loop for more than milliseconds. A call that
 * fails is made again sooner than the next beat; that never ends anything, only the server's word does.
 * @throws the final error, or the signal's reason
 */
export async function keepLease(deps: HeartbeatDeps): Promise<never> {
  const { client, jobId, token, timers, clock, signal, reachability } = deps;
  const intervalMs = timers.heartbeat_s * 1000;
  for (let failures = 0; ; ) {
    signal.throwIfAborted();
    try {
      const answer = await client.call("POST", `/api/v1/internal/jobs/${jobId}/heartbeat`, HeartbeatAnswer, {
        token,
        json: { ...deps.report(), sent_at: new Date(clock.now()).toISOString() },
        timeoutMs: TIMEOUT_MS,
        signal,
      });
      failures = 0;
      reachability.worked();
      deps.onAnswer(answer);
      await clock.sleep(jittered(intervalMs, clock.random()), signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!isRetryable(error)) throw error;
      reachability.failed(error);
      deps.onTrouble(error);
      const backoff = { baseMs: timers.retry_base_s * 1000, capMs: Math.min(intervalMs, timers.retry_cap_s * 1000) };
      await clock.sleep(retryDelayMs(backoff, failures, clock.random(), error.retryAfterMs), signal);
      failures += 1;
    }
  }
}
