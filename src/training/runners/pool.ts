import { DurableObject } from "cloudflare:workers";
import { parseConfig } from "../../config.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { fail, ok, type Result } from "../../shared/result.ts";
import {
  type Capacity,
  capacityFor,
  pickJob,
  type QueuedJob,
  type Requirements,
  type RunnerFacts,
  whyQueued,
} from "./match.ts";
import type { Timers } from "./protocol.ts";

const MIGRATIONS: string[] = [
  `CREATE TABLE queue (job_id INTEGER PRIMARY KEY, job TEXT NOT NULL);
   CREATE TABLE live (runner_id TEXT PRIMARY KEY, instance_id TEXT NOT NULL, facts TEXT NOT NULL, seen_at INTEGER NOT NULL);`,
];

/** A runner that is silent for longer than a claim and a lease is not counted as live. */
const LIVE_SLACK_MS = 5_000;

export type ClaimAnswer = { type: "offer"; jobId: number; fence: number; offerMs: number } | { type: "nothing" };

type Waiter = { runner: RunnerFacts; instanceId: string; answer: (answer: ClaimAnswer) => void };

/**
 * Who waits for work, and which jobs wait for a runner: one object per pool. It only matches; whether an offer stands is
 * decided by the job's own object. Waiting claims live in memory: they end with their connections.
 */
export class RunnerPool extends DurableObject<Env> {
  readonly #timers: Timers;
  readonly #waiters = new Map<string, Waiter>();
  #dispatching: Promise<void> = Promise.resolve();

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#timers = parseConfig(env).timers;
    const version = ctx.storage.kv.get<number>("schema") ?? 0;
    if (version < MIGRATIONS.length) {
      ctx.storage.transactionSync(() => {
        for (const migration of MIGRATIONS.slice(version)) ctx.storage.sql.exec(migration);
        ctx.storage.kv.put("schema", MIGRATIONS.length);
      });
    }
  }

  /**
   * A runner asks for work and waits for it. One process per runner: another `instanceId` is refused while the first was
   * seen within one lease.
   */
  async claim(
    runner: RunnerFacts,
    instanceId: string,
    freeSlots: number,
    waitMs: number,
  ): Promise<Result<ClaimAnswer>> {
    const now = Date.now();
    const known = this.ctx.storage.sql
      .exec<{ instance_id: string; seen_at: number }>(
        "SELECT instance_id, seen_at FROM live WHERE runner_id = ?",
        runner.runnerId,
      )
      .toArray()[0];
    const waiting = this.#waiters.get(runner.runnerId);
    const holder = waiting?.instanceId ?? known?.instance_id;
    const seenAtMs = waiting ? now : (known?.seen_at ?? 0);
    if (holder !== undefined && holder !== instanceId && now - seenAtMs < this.#timers.lease_s * 1000) {
      return fail("INSTANCE_CONFLICT", "Another process of this runner is alive; one runner token is for one process");
    }
    this.#see(runner, instanceId, now);
    // The same process asks again: the connection of its earlier claim is gone.
    waiting?.answer({ type: "nothing" });
    const answer = await new Promise<ClaimAnswer>((resolve) => {
      const timer = setTimeout(() => waiter.answer({ type: "nothing" }), waitMs);
      const waiter: Waiter = {
        runner,
        instanceId,
        answer: (given) => {
          clearTimeout(timer);
          if (this.#waiters.get(runner.runnerId) === waiter) this.#waiters.delete(runner.runnerId);
          resolve(given);
        },
      };
      this.#waiters.set(runner.runnerId, waiter);
      if (freeSlots > 0) this.ctx.waitUntil(this.#dispatch());
      else this.#resting.add(waiter);
    });
    this.ctx.storage.sql.exec(
      "UPDATE live SET seen_at = ? WHERE runner_id = ? AND instance_id = ?",
      Date.now(),
      runner.runnerId,
      instanceId,
    );
    return ok(answer);
  }

  /** Claims of runners without a free slot: they keep the runner live and get nothing. */
  readonly #resting = new WeakSet<Waiter>();

  /** A job waits for a runner. The same job again replaces its entry. */
  async enqueue(job: QueuedJob): Promise<void> {
    this.ctx.storage.sql.exec(
      "INSERT OR REPLACE INTO queue (job_id, job) VALUES (?, ?)",
      job.jobId,
      JSON.stringify(job),
    );
    this.ctx.waitUntil(this.#dispatch());
  }

  /** The job does not wait any more. */
  async withdraw(jobId: number): Promise<void> {
    this.ctx.storage.sql.exec("DELETE FROM queue WHERE job_id = ?", jobId);
  }

  /** How many live runners could do such a job, busy or not. */
  async capacity(needs: Requirements): Promise<Capacity> {
    return capacityFor(this.#live(), needs);
  }

  /** Where a queued job stands and why it waits; null when it does not wait here. */
  async position(jobId: number): Promise<ReturnType<typeof whyQueued> | null> {
    const queue = this.#queue();
    const job = queue.find((queued) => queued.jobId === jobId);
    return job === undefined ? null : whyQueued(job, queue, this.#live());
  }

  /** A runner that is busy with a job has been heard of. */
  async touch(runnerId: string): Promise<void> {
    this.ctx.storage.sql.exec("UPDATE live SET seen_at = ? WHERE runner_id = ?", Date.now(), runnerId);
  }

  /** The process has ended: its place is free at once. */
  async offline(runnerId: string, instanceId: string): Promise<void> {
    const waiting = this.#waiters.get(runnerId);
    if (waiting?.instanceId === instanceId) waiting.answer({ type: "nothing" });
    this.ctx.storage.sql.exec("DELETE FROM live WHERE runner_id = ? AND instance_id = ?", runnerId, instanceId);
  }

  #see(runner: RunnerFacts, instanceId: string, now: number): void {
    this.ctx.storage.sql.exec(
      "INSERT OR REPLACE INTO live (runner_id, instance_id, facts, seen_at) VALUES (?, ?, ?, ?)",
      runner.runnerId,
      instanceId,
      JSON.stringify(runner),
      now,
    );
  }

  #queue(): QueuedJob[] {
    return this.ctx.storage.sql
      .exec<{ job: string }>("SELECT job FROM queue")
      .toArray()
      .map((row) => JSON.parse(row.job) as QueuedJob);
  }

  #live(): RunnerFacts[] {
    const windowMs = (this.#timers.claim_wait_s + this.#timers.lease_s) * 1000 + LIVE_SLACK_MS;
    return this.ctx.storage.sql
      .exec<{ facts: string }>("SELECT facts FROM live WHERE seen_at >= ?", Date.now() - windowMs)
      .toArray()
      .map((row) => JSON.parse(row.facts) as RunnerFacts);
  }

  /** Rounds of matching run one after the other, so that no job and no runner is in two offers at once. */
  #dispatch(): Promise<void> {
    this.#dispatching = this.#dispatching
      .then(() => this.#match())
      .catch((thrown: unknown) => logger.error("matching failed", { error: errorText(thrown) }));
    return this.#dispatching;
  }

  async #match(): Promise<void> {
    for (const waiter of [...this.#waiters.values()]) {
      if (this.#resting.has(waiter)) continue;
      // The job's own object has the last word; one that is not queued any more leaves the queue here.
      for (let job = pickJob(this.#queue(), waiter.runner); job !== null; job = pickJob(this.#queue(), waiter.runner)) {
        if (this.#waiters.get(waiter.runner.runnerId) !== waiter) break;
        await this.withdraw(job.jobId);
        const offer = await this.env.TRAINING_JOB.getByName(String(job.jobId)).offer(waiter.runner.runnerId);
        if (!offer.ok) continue;
        // If the runner is gone by now, the offer lapses and the job queues itself again.
        waiter.answer({ type: "offer", jobId: job.jobId, fence: offer.value.fence, offerMs: offer.value.offerMs });
        break;
      }
    }
  }
}
