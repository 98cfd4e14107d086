import { DurableObject } from "cloudflare:workers";
import { parseConfig } from "../../config.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { fail, ok, type Result } from "../../shared/result.ts";
import {
  type Capacity,
  capacityFor,
  type Load,
  pairUp,
  type QueuedJob,
  type Requirements,
  type RunnerFacts,
  whyQueued,
} from "./match.ts";
import type { Timers } from "./protocol.ts";

/** Each runs once and is never edited. */
const MIGRATIONS: string[] = [
  `CREATE TABLE queue (job_id INTEGER PRIMARY KEY, job TEXT NOT NULL);
   CREATE TABLE live (runner_id TEXT PRIMARY KEY, instance_id TEXT NOT NULL, facts TEXT NOT NULL,
     seen_at INTEGER NOT NULL, skew_ms INTEGER);`,
  `CREATE TABLE running (job_id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL, until INTEGER NOT NULL);
   CREATE TABLE limits (project_id INTEGER PRIMARY KEY, max_running INTEGER NOT NULL);`,
];

/** A runner that is silent for longer than a claim and a lease, and a little, is not counted as live. */
const LIVE_SLACK_MS = 5_000;
/** Added to the time for which a silent job counts as running: its object says when it ends, this is for a lost call. */
const HOLD_SLACK_MS = 60_000;

export type ClaimAnswer =
  | { type: "offer"; jobId: number; fence: number; offerMs: number }
  | { type: "nothing" }
  | { type: "drain" };

/** A runner as the pool knows it. */
export type Sighting = { runnerId: string; seenAtMs: number; live: boolean; waiting: boolean; skewMs: number | null };

type Waiter = {
  runner: RunnerFacts;
  instanceId: string;
  claimId: string;
  /** False: the runner has no free slot; its claim keeps it live and gets nothing. */
  wantsWork: boolean;
  /** A job is being offered to it; it must not go away before that is decided, or the offer would lapse unheard. */
  engaged: boolean;
  /** The time of its claim is over. */
  timedOut: boolean;
  answer: (answer: ClaimAnswer) => void;
};

/**
 * Who waits for work, and which jobs wait for a runner: one object per pool. It only matches; whether an offer stands is
 * decided by the job's own object. Waiting claims live in memory: they end with their connections.
 */
export class RunnerPool extends DurableObject<Env> {
  readonly #timers: Timers;
  readonly #waiters = new Map<string, Waiter>();
  /** The queue, as it is stored. */
  readonly #queue = new Map<number, QueuedJob>();

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
    for (const row of ctx.storage.sql.exec<{ job: string }>("SELECT job FROM queue")) {
      const job = JSON.parse(row.job) as QueuedJob;
      this.#queue.set(job.jobId, job);
    }
  }

  /**
   * A runner asks for work and waits for it. One process per runner: another `instanceId` is refused while the first was
   * seen within one lease. `claimId` names this very call, so that it can be given up.
   */
  async claim(
    runner: RunnerFacts,
    claim: { instanceId: string; claimId: string; freeSlots: number; waitMs: number },
  ): Promise<Result<ClaimAnswer>> {
    const now = Date.now();
    const { instanceId, claimId } = claim;
    const known = this.#sighting(runner.runnerId);
    const earlier = this.#waiters.get(runner.runnerId);
    const holder = earlier?.instanceId ?? known?.instance_id;
    const seenAtMs = earlier ? now : (known?.seen_at ?? 0);
    if (holder !== undefined && holder !== instanceId && now - seenAtMs < this.#timers.lease_s * 1000) {
      return fail("INSTANCE_CONFLICT", "Another process of this runner is alive; one runner token is for one process");
    }
    this.#see(runner, instanceId, now);
    const answer = await new Promise<ClaimAnswer>((resolve) => {
      const timer = setTimeout(() => {
        waiter.timedOut = true;
        if (!waiter.engaged) waiter.answer({ type: "nothing" });
      }, claim.waitMs);
      const waiter: Waiter = {
        runner,
        instanceId,
        claimId,
        wantsWork: claim.freeSlots > 0,
        engaged: earlier?.engaged ?? false,
        timedOut: false,
        answer: (given) => {
          clearTimeout(timer);
          if (this.#waiters.get(runner.runnerId) === waiter) this.#waiters.delete(runner.runnerId);
          resolve(given);
        },
      };
      this.#waiters.set(runner.runnerId, waiter);
      // The same process asks again: the connection of its earlier claim is gone. An offer under way goes to this one.
      earlier?.answer({ type: "nothing" });
      this.#dispatch();
    });
    this.ctx.storage.sql.exec(
      "UPDATE live SET seen_at = ? WHERE runner_id = ? AND instance_id = ?",
      Date.now(),
      runner.runnerId,
      instanceId,
    );
    return ok(answer);
  }

  /** The connection of a claim is gone: it must not be offered anything. */
  async dropClaim(runnerId: string, claimId: string): Promise<void> {
    const waiter = this.#waiters.get(runnerId);
    if (waiter?.claimId === claimId) waiter.answer({ type: "nothing" });
  }

  /**
   * A job waits for a runner. The same job again replaces its entry.
   * @returns whether a waiting runner is being offered it right now
   */
  async enqueue(job: QueuedJob): Promise<{ offered: boolean }> {
    this.#queue.set(job.jobId, job);
    this.#ended(job.jobId);
    this.ctx.storage.sql.exec(
      "INSERT OR REPLACE INTO queue (job_id, job) VALUES (?, ?)",
      job.jobId,
      JSON.stringify(job),
    );
    this.#dispatch();
    return { offered: !this.#queue.has(job.jobId) };
  }

  /** The job neither waits nor runs any more. */
  async withdraw(jobId: number): Promise<void> {
    this.#unqueue(jobId);
    this.#ended(jobId);
    this.#dispatch();
  }

  /** How many jobs of a project runners may have at the same time; null: any number. */
  async limit(projectId: number, maxRunning: number | null): Promise<void> {
    this.#limit(projectId, maxRunning);
    this.#dispatch();
  }

  /**
   * How many live runners could do such a job, busy or not, and how many jobs of the project wait already.
   * @param maxRunning the project's limit as it is now, see `limit`; undefined when the caller does not know it
   */
  async capacity(
    needs: Requirements,
    projectId: number,
    maxRunning?: number | null,
  ): Promise<Capacity & { queuedInProject: number }> {
    if (maxRunning !== undefined) this.#limit(projectId, maxRunning);
    const queuedInProject = [...this.#queue.values()].filter((job) => job.projectId === projectId).length;
    return { ...capacityFor(this.#live(), needs), queuedInProject };
  }

  /** Where a queued job stands and why it waits; null when it does not wait here. */
  async position(jobId: number): Promise<ReturnType<typeof whyQueued> | null> {
    const job = this.#queue.get(jobId);
    return job === undefined ? null : whyQueued(job, [...this.#queue.values()], this.#live(), this.#load());
  }

  /**
   * A runner that is busy with a job has been heard of. `skewMs`: how far its clock is behind ours, for display. `job`: what
   * it is busy with, and how long that counts as running if nothing more is heard.
   */
  async touch(
    runnerId: string,
    skewMs: number | null,
    job: { jobId: number; projectId: number; holdMs: number } | null = null,
  ): Promise<void> {
    if (job !== null) this.#runs(job.jobId, job.projectId, job.holdMs);
    this.ctx.storage.sql.exec(
      "UPDATE live SET seen_at = ?, skew_ms = coalesce(?, skew_ms) WHERE runner_id = ?",
      Date.now(),
      skewMs,
      runnerId,
    );
  }

  /** The process has ended: its place is free at once. */
  async offline(runnerId: string, instanceId: string): Promise<void> {
    const waiting = this.#waiters.get(runnerId);
    if (waiting?.instanceId === instanceId) waiting.answer({ type: "nothing" });
    this.ctx.storage.sql.exec("DELETE FROM live WHERE runner_id = ? AND instance_id = ?", runnerId, instanceId);
  }

  /** The runner is to take no more jobs: a claim that waits hears it now, a later one from its row. */
  async drain(runnerId: string): Promise<void> {
    this.#waiters.get(runnerId)?.answer({ type: "drain" });
  }

  /** The runner is no runner any more. */
  async forget(runnerId: string): Promise<void> {
    this.#waiters.get(runnerId)?.answer({ type: "nothing" });
    this.ctx.storage.sql.exec("DELETE FROM live WHERE runner_id = ?", runnerId);
  }

  /** Who was seen, and when. */
  async sightings(): Promise<Sighting[]> {
    const since = this.#liveSinceMs();
    return this.ctx.storage.sql
      .exec<{ runner_id: string; seen_at: number; skew_ms: number | null }>(
        "SELECT runner_id, seen_at, skew_ms FROM live",
      )
      .toArray()
      .map((row) => ({
        runnerId: row.runner_id,
        seenAtMs: row.seen_at,
        live: row.seen_at >= since,
        waiting: this.#waiters.has(row.runner_id),
        skewMs: row.skew_ms,
      }));
  }

  #sighting(runnerId: string) {
    return this.ctx.storage.sql
      .exec<{ instance_id: string; seen_at: number }>(
        "SELECT instance_id, seen_at FROM live WHERE runner_id = ?",
        runnerId,
      )
      .toArray()[0];
  }

  #see(runner: RunnerFacts, instanceId: string, now: number): void {
    this.ctx.storage.sql.exec(
      `INSERT INTO live (runner_id, instance_id, facts, seen_at) VALUES (?, ?, ?, ?)
       ON CONFLICT (runner_id) DO UPDATE SET instance_id = excluded.instance_id, facts = excluded.facts,
         seen_at = excluded.seen_at`,
      runner.runnerId,
      instanceId,
      JSON.stringify(runner),
      now,
    );
  }

  #unqueue(jobId: number): void {
    this.#queue.delete(jobId);
    this.ctx.storage.sql.exec("DELETE FROM queue WHERE job_id = ?", jobId);
  }

  #runs(jobId: number, projectId: number, holdMs: number): void {
    this.ctx.storage.sql.exec(
      "INSERT OR REPLACE INTO running (job_id, project_id, until) VALUES (?, ?, ?)",
      jobId,
      projectId,
      Date.now() + holdMs + HOLD_SLACK_MS,
    );
  }

  #ended(jobId: number): void {
    this.ctx.storage.sql.exec("DELETE FROM running WHERE job_id = ?", jobId);
  }

  #limit(projectId: number, maxRunning: number | null): void {
    if (maxRunning === null) this.ctx.storage.sql.exec("DELETE FROM limits WHERE project_id = ?", projectId);
    else {
      this.ctx.storage.sql.exec(
        "INSERT OR REPLACE INTO limits (project_id, max_running) VALUES (?, ?)",
        projectId,
        maxRunning,
      );
    }
  }

  /** Projects that have a limit, and what they have running; one whose jobs fell silent does not pay for them for ever. */
  #load(): Load {
    const rows = this.ctx.storage.sql
      .exec<{ project_id: number; max_running: number; running: number }>(
        `SELECT l.project_id, l.max_running, count(r.job_id) AS running FROM limits l
         LEFT JOIN running r ON r.project_id = l.project_id AND r.until >= ? GROUP BY l.project_id`,
        Date.now(),
      )
      .toArray();
    return {
      running: new Map(rows.map((row) => [row.project_id, row.running])),
      limits: new Map(rows.map((row) => [row.project_id, row.max_running])),
    };
  }

  #liveSinceMs(): number {
    return Date.now() - (this.#timers.claim_wait_s + this.#timers.lease_s) * 1000 - LIVE_SLACK_MS;
  }

  #live(): RunnerFacts[] {
    return this.ctx.storage.sql
      .exec<{ facts: string }>("SELECT facts FROM live WHERE seen_at >= ?", this.#liveSinceMs())
      .toArray()
      .map((row) => JSON.parse(row.facts) as RunnerFacts);
  }

  /**
   * One round of matching. Pairs are taken out of the queue and of the free runners before anything is awaited, so that no
   * job and no runner is in two offers at once; the offers themselves run side by side.
   */
  #dispatch(): void {
    if (this.#queue.size === 0) return;
    const free = [...this.#waiters.values()].filter(({ wantsWork, engaged }) => wantsWork && !engaged);
    const pairs = pairUp(
      [...this.#queue.values()],
      free.map(({ runner }) => runner),
      this.#load(),
    );
    for (const { job, runner } of pairs) {
      this.#unqueue(job.jobId);
      this.#runs(job.jobId, job.projectId, this.#timers.offer_s * 1000 + (job.holdMs ?? this.#defaultHoldMs()));
      const waiter = this.#waiters.get(runner.runnerId);
      if (waiter) waiter.engaged = true;
      this.ctx.waitUntil(this.#offer(job.jobId, runner.runnerId));
    }
  }

  #defaultHoldMs(): number {
    return (this.#timers.lease_s + this.#timers.lost_after_s) * 1000;
  }

  /** The job's own object has the last word; one that is not queued any more is just not offered. */
  async #offer(jobId: number, runnerId: string): Promise<void> {
    let offer: Result<{ fence: number; offerMs: number }> | null = null;
    try {
      offer = await this.env.TRAINING_JOB.getByName(String(jobId)).offer(runnerId);
    } catch (thrown) {
      // The job reminds the pool of itself while it is queued.
      logger.warn("job not reached", { jobId, error: errorText(thrown) });
    }
    if (offer !== null && !offer.ok) this.#ended(jobId);
    const waiter = this.#waiters.get(runnerId);
    // Gone meanwhile: the offer lapses, and the job queues itself again.
    if (waiter === undefined) return;
    waiter.engaged = false;
    if (offer?.ok) waiter.answer({ type: "offer", jobId, fence: offer.value.fence, offerMs: offer.value.offerMs });
    else if (waiter.timedOut) waiter.answer({ type: "nothing" });
    else this.#dispatch();
  }
}
