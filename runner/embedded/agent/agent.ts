import { randomUUID } from "node:crypto";
import type { z } from "zod";
import { Attempt, type AttemptResult } from "./attempt.ts";
import { ApiError, type Client, isRetryable, Reachability, type RetryOptions, retrying } from "./client.ts";
import type { Clock } from "./clock.ts";
import type { ContentCache } from "./dataset/cache.ts";
import { errorText } from "./files.ts";
import type { Runner } from "./registration.ts";
import { AcceptAnswer, ClaimAnswer } from "./wire.ts";

/** The answer to a claim may come this much later than asked for. */
const CLAIM_SLACK_MS = 20_000;
/** An answer of nothing that comes sooner than this is not a long poll: the next claim waits a little. */
const SHORT_POLL_MS = 1_000;
const OFFLINE_TIMEOUT_MS = 3_000;
/** Another process of this runner: asked again so often within a lease, and for so many leases. */
const CONFLICT_TRIES_PER_LEASE = 2;
const CONFLICT_LEASES = 4;
/** After attempts that failed for want of something here, this runner leaves the next job to others for a while. */
const TROUBLE_BASE_MS = 2_000;
const TROUBLE_CAP_MS = 60_000;
const TROUBLES = new Set(["dataset_unavailable", "checkpoint_corrupt", "runner_lost"]);

export type AgentDeps = {
  client: Client;
  clock: Clock;
  cache: ContentCache;
  trainers: ReadonlyMap<string, string>;
  attemptsFolder: string;
  slots: number;
  once: boolean;
  runner: Runner;
  /** Makes a new runner of this machine when the server does not know its token any more. */
  renew: () => Promise<Runner>;
  log: (line: string) => void;
  /** The server knows this runner as live: from now on a job can be started. */
  onReady: () => void;
};

/** The runner cannot go on; the message says why. */
export class AgentStopped extends Error {
  override readonly name = "AgentStopped";
}

/** Claims jobs and works on them until it is drained. */
export class Agent {
  readonly #deps: AgentDeps;
  readonly #instanceId = randomUUID();
  readonly #draining = new AbortController();
  readonly #reachability: Reachability;
  readonly #active = new Map<Attempt, Promise<void>>();
  #runner: Runner;
  #troubles = 0;
  #taken = 0;
  #isReady = false;

  constructor(deps: AgentDeps) {
    this.#deps = deps;
    this.#runner = deps.runner;
    this.#reachability = new Reachability(deps.clock);
  }

  /** Jobs at work. */
  get activeJobs(): number {
    return this.#active.size;
  }

  /** Claims no more; `run` ends when the running jobs have. */
  drain(): void {
    if (this.#draining.signal.aborted) return;
    this.#draining.abort(new Error("draining"));
    // Ends a waiting claim on the server's side, so that no job is offered to a runner that is leaving.
    void this.#offline();
  }

  /** Saves checkpoints and gives the running jobs back. */
  release(): void {
    this.drain();
    for (const attempt of this.#active.keys()) attempt.release();
  }

  /** Ends trainers at once. */
  kill(): void {
    this.drain();
    for (const attempt of this.#active.keys()) attempt.kill();
  }

  /** @throws AgentStopped */
  async run(): Promise<void> {
    try {
      await this.#loop();
    } finally {
      this.#draining.abort(new Error("draining"));
      await Promise.all(this.#active.values());
      await this.#offline();
    }
  }

  async #loop(): Promise<void> {
    const { slots, once } = this.#deps;
    const draining = this.#draining.signal;
    while (!draining.aborted) {
      if (this.#active.size >= slots || (once && this.#taken > 0)) {
        if (this.#active.size === 0) return;
        await Promise.race(this.#active.values());
        continue;
      }
      const offer = await this.#claim();
      if (draining.aborted) return;
      if (offer === null) continue;
      if ("drain" in offer) {
        this.#deps.log("the server wants this runner drained");
        this.drain();
        return;
      }
      await this.#take(offer);
    }
  }

  /** Null: nothing came. */
  async #claim(): Promise<z.infer<typeof ClaimAnswer> | null> {
    const { client, clock, slots, log } = this.#deps;
    const { timers } = this.#runner;
    const startedMs = clock.now();
    let conflicts = 0;
    for (;;) {
      // The first claim does not wait: its answer says that the server knows this runner as live.
      const waitS = this.#isReady ? timers.claim_wait_s : 0;
      try {
        const response = await retrying(
          () =>
            client.send("POST", "/api/v1/internal/runners/claim", {
              token: this.#runner.runnerToken,
              json: { instance_id: this.#instanceId, free_slots: slots - this.#active.size, wait_s: waitS },
              timeoutMs: waitS * 1000 + CLAIM_SLACK_MS,
              signal: this.#draining.signal,
            }),
          this.#retry(),
        );
        if (!this.#isReady) {
          this.#isReady = true;
          this.#deps.onReady();
        }
        if (response.status !== 204) {
          const parsed = ClaimAnswer.safeParse(await response.json().catch(() => null));
          if (parsed.success) return parsed.data;
          log("the answer to a claim was not understood");
        } else if (waitS === 0) return null;
        if (clock.now() - startedMs < SHORT_POLL_MS) await clock.sleep(SHORT_POLL_MS, this.#draining.signal);
        return null;
      } catch (error) {
        if (this.#draining.signal.aborted) return null;
        if (!(error instanceof ApiError)) throw error;
        if (error.code === "INSTANCE_CONFLICT") {
          if (conflicts === CONFLICT_TRIES_PER_LEASE * CONFLICT_LEASES) {
            throw new AgentStopped("another process of this runner is alive; stop it, or use another --state-dir");
          }
          if (conflicts++ === 0) log("the server still sees another process of this runner; waiting for it to be gone");
          await clock.sleep((timers.lease_s * 1000) / CONFLICT_TRIES_PER_LEASE, this.#draining.signal);
        } else if (error.status === 401) {
          log("the server does not know this runner's token any more; registering again");
          this.#runner = await this.#deps.renew();
        } else throw new AgentStopped(`the server refuses to give work: ${error.message}`);
      }
    }
  }

  async #take(offer: { job_id: number; fence: number; offer_s: number }): Promise<void> {
    const { client, log } = this.#deps;
    let accepted: z.infer<typeof AcceptAnswer>;
    try {
      accepted = await retrying(
        () =>
          client.call("POST", `/api/v1/internal/jobs/${offer.job_id}/accept`, AcceptAnswer, {
            token: this.#runner.runnerToken,
            json: { fence: offer.fence },
          }),
        // Not cut by a drain: the server may have counted the attempt already, and then it is ours.
        { ...this.#retry(), signal: new AbortController().signal, giveUpAfterMs: offer.offer_s * 1000 },
      );
    } catch (error) {
      if (!isRetryable(error) && !(error instanceof ApiError)) throw error;
      log(`job ${offer.job_id} was not taken: ${error.message}`);
      return;
    }
    this.#taken += 1;
    this.#runner = { ...this.#runner, timers: accepted.timers };
    const { clock, cache, trainers, attemptsFolder } = this.#deps;
    const attempt = new Attempt(
      {
        client,
        clock,
        cache,
        trainers,
        folder: attemptsFolder,
        secrets: [this.#runner.runnerToken],
        log,
      },
      offer.job_id,
      accepted,
    );
    log(`${attempt.name}: accepted`);
    const running = attempt
      .run()
      .then((result) => this.#afterwards(result))
      .catch((error: unknown) => {
        log(`${attempt.name}: ${errorText(error)}`);
        return this.#afterwards({ event: "failed", reason: "runner_lost" });
      })
      .finally(() => this.#active.delete(attempt));
    this.#active.set(attempt, running);
  }

  /** Holds the slot for a while after trouble of this machine, so that the same job does not come back at once. */
  async #afterwards({ reason }: AttemptResult): Promise<void> {
    if (reason === null || !TROUBLES.has(reason)) {
      this.#troubles = 0;
      return;
    }
    const { clock, once, log } = this.#deps;
    if (once) return;
    const pauseMs = Math.min(TROUBLE_CAP_MS, TROUBLE_BASE_MS * 2 ** this.#troubles) * (0.5 + clock.random() / 2);
    this.#troubles += 1;
    log(`pausing for ${Math.ceil(pauseMs / 1000)} s`);
    await clock.sleep(pauseMs, this.#draining.signal);
  }

  #retry(): RetryOptions {
    const { clock, log } = this.#deps;
    const { retry_base_s, retry_cap_s } = this.#runner.timers;
    return {
      clock,
      backoff: { baseMs: retry_base_s * 1000, capMs: retry_cap_s * 1000 },
      signal: this.#draining.signal,
      reachability: this.#reachability,
      onRetry: (error, delayMs, failures) => {
        if ((failures & (failures - 1)) === 0) log(`${error.message}; again in ${(delayMs / 1000).toFixed(1)} s`);
      },
    };
  }

  async #offline(): Promise<void> {
    await this.#deps.client
      .send("POST", "/api/v1/internal/runners/offline", {
        token: this.#runner.runnerToken,
        json: { instance_id: this.#instanceId },
        timeoutMs: OFFLINE_TIMEOUT_MS,
      })
      // The server finds out by itself, later.
      .catch(() => undefined);
  }
}
