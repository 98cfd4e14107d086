import { DurableObject } from "cloudflare:workers";
import { parseConfig } from "../../config.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { fail, ok, type Result } from "../../shared/result.ts";
import { keys } from "../../storage/keys.ts";
import type { Limits, Timers } from "../runners/protocol.ts";
import type { NumberedReport, RejectedReport, Report, UnnumberedReport } from "./events.ts";
import { createIntake, type Unit } from "./intake.ts";
import { createLiveHub, type LiveHub } from "./live/hub.ts";
import { overheard } from "./live/overheard.ts";
import { archiveLines, deleteRows } from "./log-archive.ts";
import {
  desiredOf,
  type Effect,
  isTerminal,
  type JobEvent,
  type JobState,
  nextDeadline,
  type Phase,
  type Policy,
  type ResumeChoice,
  STATUS_OF,
  type Status,
  type StopReason,
  transition,
} from "./machine.ts";
import { rewind } from "./progress.ts";
import type { JobRow } from "./projection.ts";
import { createProjector } from "./projector.ts";
import { checkedChoice, type ResumePoint, resumeEpochOf, resumePoint } from "./resume.ts";
import { surplus } from "./retention.ts";
import type { JobSpec } from "./spec.ts";
import { type Head, type JobStore, openJobStore, type Upload } from "./store.ts";

/** How long `start` waits for a runner to accept, so that it can answer `running`. */
const START_PATIENCE_MS = 2_000;
/** While queued the job reminds its pool of itself, in case a call between the two objects was lost. */
const REMIND_POOL_MS = 60_000;
/** The pool hears at most this often that a busy runner is alive. */
const TOUCH_POOL_MS = 20_000;
/** When the outbox is tried again; doubled with each failure up to the cap. */
const D1_RETRY_MS = 10_000;
const D1_RETRY_CAP_MS = 60_000;
/** When leftovers of a given-up upload are removed again after R2 failed. */
const CLEAN_UP_RETRY_MS = 60_000;

/** How long after an attempt's end its log is put away; also when that is tried again after it failed. */
const ARCHIVE_MS = 60_000;

export const POOL_NAME = "default";

/** Proof of a job token: its signature was checked, its fence is checked here. */
export type LeaseClaims = { attempt: number; fence: number };

export type JobView = {
  status: Status;
  phase: Phase;
  attempt: number;
  startedAtMs: number | null;
  completedAtMs: number | null;
};

export type AcceptAnswer = {
  attempt: number;
  fence: number;
  datasetId: string;
  /** The spec in wire form, as JSON text: RPC types know no open objects. */
  specJson: string;
  resume: { artifact_id: string; epoch: number; size: number; sha256: string; weights_only: boolean } | null;
  /** The timers that are the job's own, or else the deployment's; seconds. */
  timers: { lost_after_s: number; max_duration_s: number };
};

export type RecordAnswer = {
  /** False: too many numbers are missing before these; nothing of the batch was taken. */
  taken: boolean;
  ackSeq: number;
  missing: [number, number][];
  rejected: RejectedReport[];
  desired: ReturnType<typeof desiredOf>;
};

export type UploadRequest = {
  artifactId: string;
  kind: Upload["row"]["kind"];
  name: string;
  sizeBytes: number;
  sha256: string;
  epoch: number | null;
  role: "best" | "last" | null;
  /** JSON text. */
  manifest: string | null;
};

export type UploadInfo = Omit<Upload["row"], "manifest">;

const policyOf = (timers: Timers, limits: Limits): Policy => ({
  offerMs: timers.offer_s * 1000,
  leaseMs: timers.lease_s * 1000,
  lostAfterMs: timers.lost_after_s * 1000,
  stopGraceMs: timers.stop_grace_s * 1000,
  finalizeMs: timers.finalize_s * 1000,
  maxDurationMs: timers.max_duration_s * 1000,
  plainSilenceMs: timers.plain_silence_s * 1000,
  progressTimeoutMs: timers.progress_timeout_s === null ? null : timers.progress_timeout_s * 1000,
  infraRetries: limits.infra_retries,
  userRetries: limits.user_retries,
});

/** A unit of work and what is to be done once it is stored. */
type Work = Unit & { effects: Effect[] };

/**
 * One training job: decides, stores, and then tells D1, the pool and the callers. Every public method is one call of the
 * protocol. What it decides on and what it stores are one unit of work, in one transaction, without an `await` between:
 * other calls get in at every `await`, so after one everything is asked again. It answers only after its own storage has
 * what was sent.
 */
export class TrainingJob extends DurableObject<Env> {
  readonly #store: JobStore;
  readonly #intake: ReturnType<typeof createIntake>;
  readonly #projector: ReturnType<typeof createProjector>;
  readonly #limits: Limits;
  readonly #timers: Timers;
  readonly #deployment: Policy;
  readonly #live: LiveHub;
  /** When the alarm rings; there is one, for the earliest of all deadlines. */
  #alarmAtMs: number | null = null;
  #remindedPoolAtMs = 0;
  #toldPoolAtMs = 0;
  #toldSkewMs: number | null = null;
  #isArchiving = false;
  /** Whether the newest call to the pool led to an offer at once. */
  #enqueued: Promise<boolean> = Promise.resolve(false);
  /** Calls of `start` that wait until the job has left the queue. */
  #untilTaken: (() => void)[] = [];

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const config = parseConfig(env);
    this.#limits = config.limits;
    this.#timers = config.timers;
    this.#deployment = policyOf(config.timers, config.limits);
    this.#store = overheard(openJobStore(ctx.storage), (items) => this.#live.note(items));
    this.#live = createLiveHub(
      ctx,
      () => this.#store.spec()?.jobId,
      () => {
        const head = this.#store.head();
        return { state: head.state, row: jobRowOf(head, Date.now()) };
      },
    );
    this.#intake = createIntake(this.#store, config.limits);
    this.#projector = createProjector(env.DB, this.#store.outbox, () => this.#store.spec()?.jobId);
    void ctx.blockConcurrencyWhile(async () => {
      this.#alarmAtMs = await ctx.storage.getAlarm();
    });
  }

  /**
   * Queues the job and gives a waiting runner a moment to take it. `spec` is the job as D1 has it.
   * @param maxRunning how many jobs of the project may run at once, see `RunnerPool.limit`; undefined: not known
   */
  async start(spec: JobSpec, resume: ResumeChoice, maxRunning?: number | null): Promise<Result<JobView>> {
    this.#store.putSpec(spec);
    const allowed = this.#startable(this.#store.head().state, resume);
    if (!allowed.ok) return allowed;
    this.#store.replaceSpec(spec);
    const { framework } = spec.requirements;
    const capacity = await this.#capacity(spec, maxRunning);
    if (capacity.live === 0) {
      return fail(
        "TRAINING_SERVICE_UNAVAILABLE",
        `No live runner has the framework ${framework}; start one and try again`,
      );
    }
    if (capacity.queuedInProject >= this.#limits.queued_jobs_per_project) {
      return fail("QUOTA_EXCEEDED", `A project has at most ${this.#limits.queued_jobs_per_project} jobs in the queue`);
    }
    // The call to the pool let others in: asked again with the write.
    const started = this.#commit((work) => {
      const still = this.#startable(work.head.state, resume);
      return still.ok ? this.#move(work, still.value) : still;
    });
    if (!started.ok) return started;
    if (await this.#enqueued) await this.#taken();
    await this.#projector.settle();
    return ok(viewOf(this.#store.head().state));
  }

  /**
   * Takes over how the job is scheduled now: in the queue at once, else with the next start.
   * @returns INVALID_STATUS while a runner has it or is being offered it
   */
  async reschedule(spec: JobSpec): Promise<Result<null>> {
    const { phase } = this.#store.head().state;
    if (this.#store.spec() !== undefined && !RESCHEDULABLE.has(phase)) {
      const state = phase === "offered" ? "being handed to a runner" : STATUS_OF[phase];
      return fail("INVALID_STATUS", `A job that is ${state} keeps its scheduling`);
    }
    this.#store.replaceSpec(spec);
    if (phase === "queued") await this.#enqueue();
    return ok(null);
  }

  /** Stops the job in one commit; from then on nothing its attempt sends changes status or metrics. */
  async stop(spec: JobSpec, reason: StopReason): Promise<Result<JobView>> {
    this.#store.putSpec(spec);
    const stopped = this.#commit((work) => {
      const moved = this.#move(work, { type: "stop", reason });
      // Its end was reported already: that outcome stands, and nothing is waited for any more.
      if (!moved.ok) this.#move(work, { type: "settle", dataComplete: false });
      return moved;
    });
    await this.#projector.settle();
    return stopped.ok ? ok(viewOf(stopped.value)) : stopped;
  }

  /** Lets the runner save a checkpoint and go on: it hears it once, in the next answer that it gets. */
  async askCheckpoint(): Promise<Result<{ attempt: number }>> {
    if (this.#store.spec() === undefined) return fail("INVALID_STATUS", "A job that is pending has no runner");
    return this.#commit((work) => {
      const asked = this.#move(work, { type: "askCheckpoint" });
      return asked.ok ? ok({ attempt: asked.value.attempt }) : asked;
    });
  }

  /** The pool offers the job to a runner. Fence + 1. */
  async offer(runnerId: string): Promise<Result<{ fence: number; offerMs: number }>> {
    const offered = this.#commit((work) => this.#move(work, { type: "offer", runnerId }));
    this.ctx.waitUntil(this.#projector.settle());
    return offered.ok ? ok({ fence: offered.value.fence, offerMs: this.#policy.offerMs }) : offered;
  }

  /** A runner takes its offer. Attempt + 1; the same accept again (its answer was lost) gets the same attempt. */
  async accept(runnerId: string, fence: number): Promise<Result<AcceptAnswer>> {
    const spec = this.#store.spec();
    if (spec === undefined) return fail("OFFER_GONE", "The offer is gone; claim again");
    const accepted = this.#commit((work): Result<AcceptAnswer> => {
      const moved = this.#move(work, { type: "accept", runnerId, fence });
      if (!moved.ok) return moved;
      const point = this.#resumePoint(moved.value);
      return ok({
        attempt: moved.value.attempt,
        fence: moved.value.fence,
        datasetId: spec.datasetId,
        specJson: JSON.stringify(spec.wire),
        resume: point && {
          artifact_id: point.upload.id,
          epoch: point.upload.row.epoch ?? 0,
          size: point.upload.row.sizeBytes,
          sha256: point.upload.row.sha256,
          weights_only: point.weightsOnly,
        },
        timers: { lost_after_s: this.#policy.lostAfterMs / 1000, max_duration_s: this.#policy.maxDurationMs / 1000 },
      });
    });
    await this.#projector.settle();
    return accepted;
  }

  /**
   * Renews the lease and hears what the server wants.
   * @param skewMs how far the runner's clock is behind ours, for display
   */
  async heartbeat(
    claims: LeaseClaims,
    skewMs: number | null,
  ): Promise<Result<{ desired: RecordAnswer["desired"]; ackSeq: number }>> {
    const beat = this.#commit((work) => {
      const called = this.#call(work, claims);
      if (!called.ok) return called;
      return ok({ desired: this.#desired(work, claims), ackSeq: work.head.mark });
    });
    if (beat.ok) this.#tellPool(false, skewMs);
    this.ctx.waitUntil(this.#projector.settle());
    return beat;
  }

  /**
   * Takes numbered events of a leased attempt. A number that is there already changes nothing; a rejected event counts as
   * received, so that one bad event never blocks the rest.
   */
  async record(
    claims: LeaseClaims,
    events: NumberedReport[],
    rejected: RejectedReport[],
  ): Promise<Result<RecordAnswer>> {
    return this.#recording(claims, (work) => {
      const { head } = work;
      const { attempt } = head.state;
      const numbers = [...events.map((event) => event.seq), ...rejected.map((event) => event.seq)];
      const fresh = this.#store.events.fresh(attempt, head.mark, numbers);
      if (Math.max(0, ...fresh) > head.mark + this.#limits.seq_window) return { taken: false, rejected: [] };

      const refused = [...rejected];
      const taken = new Map<number, NumberedReport>();
      for (const event of events) {
        const first = taken.get(event.seq);
        if (first === undefined) taken.set(event.seq, event);
        else if (JSON.stringify(first.report) !== JSON.stringify(event.report)) {
          const message = "seq: used twice in this batch; the first stays";
          refused.push({ seq: event.seq, code: "VALIDATION_ERROR", field: "seq", message });
        }
      }
      let end: { seq: number; report: EndReport } | null = null;
      for (const event of [...taken.values()].sort((a, b) => a.seq - b.seq)) {
        if (!fresh.has(event.seq)) continue;
        if (event.mlflowRunId !== null) head.progress.mlflowRunId = event.mlflowRunId;
        if (event.report.type === "end") end ??= { seq: event.seq, report: event.report };
        const problem = this.#take(work, event.report, event.seq);
        if (problem !== null) refused.push({ seq: event.seq, ...problem });
      }
      if (fresh.size > 0) {
        head.mark = this.#store.events.add(attempt, head.mark, [...fresh]);
        work.changed = true;
      }
      if (end !== null) this.#finish(work, claims, end.seq, end.report);
      return { taken: true, rejected: refused };
    });
  }

  /** Takes one event without a number of a leased attempt: the same one twice is stored once. */
  async recordUnnumbered(claims: LeaseClaims, event: UnnumberedReport): Promise<Result<RecordAnswer>> {
    return this.#recording(claims, (work) => {
      const problem = this.#takeUnnumbered(work, event);
      if (event.report.type === "end") {
        const newest = this.#store.events.newest(work.head.state.attempt, work.head.mark);
        this.#finish(work, claims, newest, event.report);
      }
      return { taken: true, rejected: problem === null ? [] : [{ seq: 0, ...problem }] };
    });
  }

  /** The common frame of events of a leased attempt: the fence first, the answer last, all of it one unit of work. */
  async #recording(
    claims: LeaseClaims,
    take: (work: Work) => Pick<RecordAnswer, "taken" | "rejected">,
  ): Promise<Result<RecordAnswer>> {
    const answer = this.#commit((work): Result<RecordAnswer> => {
      const called = this.#call(work, claims);
      if (!called.ok) return called;
      const { taken, rejected } = take(work);
      this.#settleWhenComplete(work);
      const { head } = work;
      return ok({
        taken,
        ackSeq: head.mark,
        missing: this.#store.events.missing(claims.attempt, head.mark),
        rejected,
        desired: this.#desired(work, claims),
      });
    });
    if (answer.ok) this.#tellPool(false, null);
    await this.#projector.settle();
    return answer;
  }

  /**
   * Takes one event of the contract's plain callback.
   * @returns null when this object does not know its job yet: the caller looks it up and passes `spec`
   */
  async recordPlain(
    event: UnnumberedReport,
    spec: JobSpec | null,
  ): Promise<Result<{ rejected: Omit<RejectedReport, "seq"> | null }> | null> {
    if (spec !== null) this.#store.putSpec(spec);
    if (this.#store.spec() === undefined) return null;
    const { report } = event;
    const answer = this.#commit((work): Result<{ rejected: Omit<RejectedReport, "seq"> | null }> => {
      const opens = report.type === "started";
      const moved = this.#move(work, { type: "plain", opens, end: null });
      if (!moved.ok) return moved;
      const { phase, owner, tailUntilMs } = moved.value;
      const live = phase === "running" && owner === "plain";
      // An attempt that has ended takes log lines only, and not for ever.
      const tail = report.type === "log" && owner === "plain" && tailUntilMs !== null && work.now < tailUntilMs;
      const problem = live || tail ? this.#takeUnnumbered(work, event) : null;
      if (live && report.type === "end" && report.outcome !== "released") {
        const { outcome, reason, message } = report;
        this.#move(work, { type: "plain", opens: false, end: { outcome, reason, message } });
      }
      return ok({ rejected: problem });
    });
    await this.#projector.settle();
    return answer;
  }

  /** Stores a chunk of log lines. The same chunk again is `stored: false`; other bytes under its number are refused. */
  async logChunk(
    claims: LeaseClaims,
    chunk: { stream: "stdout" | "stderr"; seq: number; text: string; bytes: number; sha256: string },
  ): Promise<Result<{ stored: boolean; nextSeq: number }>> {
    const { stream, seq, text, bytes, sha256 } = chunk;
    const answer = this.#commit((work): Result<{ stored: boolean; nextSeq: number }> => {
      const called = this.#call(work, claims);
      if (!called.ok) return called;
      const { logMarks } = work.head;
      const { attempt } = claims;
      const known = this.#store.logs.hashOf(attempt, stream, seq);
      if (known !== undefined && known !== sha256) {
        return fail("LOG_CONFLICT", `${stream} ${seq} was received with other content; the first stays`);
      }
      if (known === undefined) {
        if (seq > logMarks[stream] + this.#limits.seq_window) {
          return fail("TOO_MANY_EVENTS", `${stream}: send chunk ${logMarks[stream] + 1} first`);
        }
        this.#store.logs.add(attempt, stream, seq, sha256);
        logMarks[stream] = this.#store.logs.advance(attempt, stream, logMarks[stream]);
        this.#intake.takeLog(work, { stream, seq, text, bytes, atMs: null });
        work.changed = true;
        this.#settleWhenComplete(work);
      }
      return ok({ stored: known === undefined && text !== "", nextSeq: logMarks[stream] + 1 });
    });
    if (answer.ok) this.#tellPool(false, null);
    await this.#projector.settle();
    return answer;
  }

  /** Opens an upload. A single part is one object; several are an R2 multipart upload. */
  async createUpload(
    claims: LeaseClaims,
    request: UploadRequest,
  ): Promise<Result<{ artifactId: string; partSize: number; parts: number }>> {
    const allowed = this.#commit((work) => this.#callForFiles(work, claims));
    const spec = this.#store.spec();
    if (!allowed.ok) return allowed;
    if (spec === undefined) return fail("STALE_LEASE", "This attempt no longer owns the job");
    const { artifactId } = request;
    const partSize = this.#limits.part_bytes;
    const parts = Math.max(1, Math.ceil(request.sizeBytes / partSize));
    const storageKey = keys.artifact(spec.jobId, claims.attempt, artifactId);
    let multipart: R2MultipartUpload | null = null;
    try {
      if (parts > 1) multipart = await this.env.BUCKET.createMultipartUpload(storageKey);
    } catch (thrown) {
      logger.warn("upload not opened", { storageKey, error: errorText(thrown) });
      return fail("STORAGE_UNAVAILABLE", "The upload could not be opened; try again");
    }
    const opened = this.#commit((work) => {
      const still = this.#callForFiles(work, claims);
      if (!still.ok) return still;
      this.#store.uploads.add(
        {
          id: artifactId,
          attempt: claims.attempt,
          state: "open",
          row: {
            id: artifactId,
            attempt: claims.attempt,
            kind: request.kind,
            name: request.name,
            role: request.role,
            epoch: request.epoch,
            sizeBytes: request.sizeBytes,
            sha256: request.sha256,
            storageKey,
            manifest: request.manifest === null ? null : (JSON.parse(request.manifest) as Upload["row"]["manifest"]),
            usable: true,
            createdAt: work.now,
          },
          uploadId: multipart?.uploadId ?? null,
          partSize,
          parts,
        },
        work.now,
      );
      return ok({ artifactId, partSize, parts });
    });
    if (!opened.ok) await multipart?.abort().catch(() => undefined);
    return opened;
  }

  /** Where a part goes and how large it has to be. The Worker streams it there and then calls `partStored`. */
  async openPart(
    claims: LeaseClaims,
    artifactId: string,
    n: number,
  ): Promise<Result<{ key: string; uploadId: string | null; sizeBytes: number; sha256: string | null }>> {
    return this.#commit((work) => {
      const upload = this.#openUpload(work, claims, artifactId);
      if (!upload.ok) return upload;
      const { parts, partSize, row, uploadId } = upload.value;
      if (n < 1 || n > parts) return fail("VALIDATION_ERROR", `n: this upload has parts 1 to ${parts}`, "n");
      const sizeBytes = n < parts ? partSize : row.sizeBytes - (parts - 1) * partSize;
      return ok({ key: row.storageKey, uploadId, sizeBytes, sha256: parts === 1 ? row.sha256 : null });
    });
  }

  /** Notes a part that is in R2; the same part again replaces it. `etag` null: what R2 has for it now is no good. */
  async partStored(
    claims: LeaseClaims,
    artifactId: string,
    part: { n: number; etag: string | null; sizeBytes: number },
  ): Promise<Result<{ n: number }>> {
    const stored = this.#commit((work) => {
      const upload = this.#openUpload(work, claims, artifactId);
      if (!upload.ok) return upload;
      if (part.etag === null) this.#store.uploads.removePart(artifactId, part.n);
      else this.#store.uploads.addPart(artifactId, part.n, part.etag, part.sizeBytes);
      return ok({ n: part.n });
    });
    if (!stored.ok) await this.#removeLate(artifactId);
    return stored;
  }

  /** State of an upload, for a runner that goes on after a cut. */
  async uploadState(
    claims: LeaseClaims,
    artifactId: string,
  ): Promise<
    Result<{
      state: "open" | "complete" | "aborted";
      row: UploadInfo;
      partSize: number;
      parts: number;
      received: number[];
    }>
  > {
    return this.#commit((work) => {
      const called = this.#call(work, claims);
      if (!called.ok) return called;
      const upload = this.#store.uploads.get(artifactId);
      if (upload === undefined) return fail("ARTIFACT_NOT_FOUND", "Artifact not found");
      const { manifest: _, ...row } = upload.row;
      return ok({
        state: upload.state === "aborting" ? "aborted" : upload.state,
        row,
        partSize: upload.partSize,
        parts: upload.parts,
        received: this.#store.uploads.parts(artifactId).map((part) => part.n),
      });
    });
  }

  /** Ends an upload whose parts are all there; only now can it be listed, resumed from and used. Twice is the same. */
  async completeUpload(claims: LeaseClaims, artifactId: string): Promise<Result<{ artifactId: string; key: string }>> {
    const ready = this.#commit((work) => {
      const upload = this.#ownUpload(work, claims, artifactId);
      if (!upload.ok || upload.value.state === "complete") return upload;
      return this.#withAllParts(upload.value);
    });
    if (!ready.ok) return ready;
    const { row, state, uploadId } = ready.value;
    if (state === "complete") return ok({ artifactId, key: row.storageKey });
    if (uploadId !== null && !(await this.#joinParts(ready.value, uploadId))) {
      return fail("STORAGE_UNAVAILABLE", "The parts could not be joined; try again");
    }
    // The call to R2 let other calls in: fence and state are asked again with the write.
    const completed = this.#commit((work) => {
      const still = this.#ownUpload(work, claims, artifactId);
      if (!still.ok || still.value.state === "complete") return still;
      this.#store.uploads.put({ ...still.value, state: "complete" });
      this.#store.uploads.forgetParts(artifactId);
      this.#store.outbox.push({ kind: "artifact", row: still.value.row });
      return still;
    });
    if (!completed.ok) await this.#removeLate(artifactId);
    await this.#projector.settle();
    return completed.ok ? ok({ artifactId, key: row.storageKey }) : completed;
  }

  /** Gives an upload up and removes what R2 has of it. Twice is the same; a complete one stays. */
  async abortUpload(claims: LeaseClaims, artifactId: string): Promise<Result<null>> {
    const aborted = this.#commit((work): Result<null> => {
      const upload = this.#callForFiles(work, claims);
      if (!upload.ok) return upload;
      const known = this.#store.uploads.get(artifactId);
      if (known === undefined) return fail("ARTIFACT_NOT_FOUND", "Artifact not found");
      if (known.attempt !== claims.attempt) return fail("FORBIDDEN", "This artifact belongs to another attempt");
      if (known.state === "complete") return fail("UPLOAD_CLOSED", "This upload is complete");
      if (known.state === "open") this.#store.uploads.put({ ...known, state: "aborting" });
      return ok(null);
    });
    if (aborted.ok) await this.#cleanUp();
    return aborted;
  }

  /** A complete artifact of this job, for the runner that holds the lease (any attempt: it may resume from it). */
  async artifact(claims: LeaseClaims, artifactId: string): Promise<Result<UploadInfo>> {
    return this.#commit((work) => {
      const called = this.#call(work, claims);
      if (!called.ok) return called;
      const upload = this.#store.uploads.get(artifactId);
      if (upload?.state !== "complete") return fail("ARTIFACT_NOT_FOUND", "Artifact not found");
      const { manifest: _, ...row } = upload.row;
      return ok(row);
    });
  }

  /** Renews the lease of a runner that reads its dataset, and says which one that is. */
  async datasetOf(claims: LeaseClaims): Promise<Result<{ datasetId: string }>> {
    return this.#commit((work) => {
      const called = this.#callForFiles(work, claims);
      return called.ok ? ok({ datasetId: this.#store.spec()?.datasetId ?? "" }) : called;
    });
  }

  /**
   * Forgets a job that is being deleted, unless it is live: whatever still calls for it is answered as for one that never
   * was. Its rows and files are the caller's to remove, afterwards.
   */
  async remove(): Promise<Result<null>> {
    if (this.#store.spec() === undefined) return ok(null);
    await this.#projector.settle();
    // Asked after the wait, which let others in: the job may have been started in it.
    const { phase } = this.#store.head().state;
    if (phase !== "pending" && !isTerminal(phase)) {
      return fail("INVALID_STATUS", `A job that is ${STATUS_OF[phase]} cannot be deleted; stop it first`);
    }
    this.#live.forget();
    await this.#store.forget();
    this.#alarmAtMs = null;
    return ok(null);
  }

  /** The runner was revoked: what it held of this job goes back into the queue, or ends. */
  async evict(runnerId: string): Promise<void> {
    if (this.#store.spec() === undefined) return;
    this.#commit((work) => this.#move(work, { type: "evict", runnerId }));
    await this.#projector.settle();
  }

  /** The cron asks a job that has not moved for long to look at itself; its row moves, so that others get their turn. */
  async poke(): Promise<void> {
    if (this.#store.spec() === undefined) return;
    this.#commit((work) => {
      this.#move(work, { type: "tick" });
      work.changed = true;
      work.news = true;
    });
    if (this.#store.head().state.phase === "queued") await this.#enqueue();
    await this.#projector.settle();
  }

  /** The one alarm: recomputes from what is stored, so that early, late and repeated ones do no harm. */
  override async alarm(): Promise<void> {
    this.#alarmAtMs = null;
    if (this.#store.spec() === undefined) return;
    const now = Date.now();
    const isReminding = now >= this.#remindedPoolAtMs + REMIND_POOL_MS;
    if (isReminding) this.#remindedPoolAtMs = now;
    // Arms the next one before anything that can fail.
    this.#commit((work) => {
      this.#move(work, { type: "tick" });
      work.changed = true;
    });
    if (isReminding) await this.#enqueue();
    this.#giveUpOldUploads(now);
    this.#live.expire(now);
    await this.#cleanUp();
    await this.#projector.settle();
    this.#store.outbox.sweep();
    await this.#archiveLogs();
    this.#rearm();
  }

  /** Tells the object of a job that was never started, so that it can be watched. */
  async introduce(spec: JobSpec): Promise<void> {
    this.#store.putSpec(spec);
  }

  /** The Worker opens a watcher's socket. What came before it can then be read from D1, unless D1 is away. */
  override async fetch(request: Request): Promise<Response> {
    await this.#projector.settle();
    return this.#live.connect(request, Date.now());
  }

  override webSocketMessage(socket: WebSocket, message: string | ArrayBuffer): void {
    this.#live.message(socket, message);
  }

  override webSocketClose(socket: WebSocket): void {
    this.#live.closed(socket, Date.now());
    this.#rearm();
  }

  override webSocketError(socket: WebSocket): void {
    this.webSocketClose(socket);
  }

  // ---- one place for each thing that happens in and after a unit of work ----

  /** Runs a unit of work: all that it stores is stored together, or nothing; then the alarm, then the effects. */
  #commit<T>(run: (work: Work) => T): T {
    const work: Work = {
      head: this.#store.head(),
      now: Date.now(),
      effects: [],
      changed: false,
      news: false,
      points: [],
    };
    this.#live.begin();
    const value = this.#store.transaction(() => {
      const result = run(work);
      this.#intake.flushPoints(work);
      if (work.news) this.#pushJobRow(work);
      if (work.changed) this.#store.putHead(work.head);
      return result;
    });
    this.#live.flush(work.head.state, work.now);
    if (!work.changed) return value;
    for (const effect of work.effects) {
      if (effect.type === "enqueue") this.#enqueued = this.#enqueue();
      const isOver = effect.type === "attemptEnded" && isTerminal(work.head.state.phase);
      if (effect.type === "withdraw" || isOver) this.ctx.waitUntil(this.#withdraw());
    }
    this.#rearm(work.head);
    if (work.effects.length > 0) this.#tellPool(true, null, work.head);
    if (!isWaiting(work.head.state.phase)) for (const resolve of this.#untilTaken.splice(0)) resolve();
    return value;
  }

  /** One transition inside a unit of work. A refusal changes nothing. */
  #move(work: Work, event: JobEvent): Result<JobState> {
    const before = work.head.state;
    const moved = transition(before, event, this.#policy, work.now);
    if (!moved.ok) return moved;
    const { state, effects } = moved.value;
    work.head.state = state;
    if (state !== before) work.changed = true;
    // A renewed lease alone is no news to readers.
    if (effects.length > 0 || visible(state) !== visible(before)) work.news = true;
    for (const effect of effects) this.#note(work, effect);
    work.effects.push(...effects);
    return ok(state);
  }

  /** What the beginning and the end of an attempt store. */
  #note({ head, now }: Work, effect: Effect): void {
    const { state } = head;
    if (effect.type === "attemptStarted") {
      const resumeEpoch = resumeEpochOf(this.#resumePoint(state));
      head.mark = 0;
      head.logMarks = { stdout: 0, stderr: 0 };
      head.announced = null;
      head.progress = rewind(head.progress, resumeEpoch);
      this.#store.forgetAttempts(state.attempt);
      this.#store.outbox.push({
        kind: "attemptStart",
        row: {
          attempt: state.attempt,
          owner: state.owner ?? "plain",
          runnerId: state.runnerId,
          resumeEpoch,
          firstEpoch: null,
          startedAt: now,
          endedAt: null,
          outcome: null,
          reason: null,
        },
      });
    }
    if (effect.type === "attemptEnded") {
      const { outcome, reason } = effect;
      this.#store.outbox.push({ kind: "attemptEnd", attempt: state.attempt, row: { endedAt: now, outcome, reason } });
    }
  }

  /** The fence first; a valid call renews the lease. */
  #call(work: Work, { fence }: LeaseClaims): Result<JobState> {
    return this.#move(work, { type: "call", fence });
  }

  /** What the runner that is being answered should do; a wish that is told is told. */
  #desired(work: Work, { fence }: LeaseClaims): RecordAnswer["desired"] {
    const desired = desiredOf(work.head.state, fence);
    if (desired === "checkpoint") this.#move(work, { type: "tellCheckpoint" });
    return desired;
  }

  /** A call for or with files: refused once the attempt has ended. */
  #callForFiles(work: Work, claims: LeaseClaims): Result<JobState> {
    const called = this.#call(work, claims);
    if (called.ok && isTerminal(called.value.phase)) {
      return fail("STALE_LEASE", "The attempt has ended; only its log tail is taken");
    }
    return called;
  }

  /** An upload of this attempt that was not given up. */
  #ownUpload(work: Work, claims: LeaseClaims, artifactId: string): Result<Upload> {
    const called = this.#callForFiles(work, claims);
    if (!called.ok) return called;
    const upload = this.#store.uploads.get(artifactId);
    if (upload === undefined) return fail("ARTIFACT_NOT_FOUND", "Artifact not found");
    if (upload.attempt !== claims.attempt) return fail("FORBIDDEN", "This artifact belongs to another attempt");
    if (upload.state === "aborting" || upload.state === "aborted") {
      return fail("UPLOAD_CLOSED", "This upload was given up");
    }
    return ok(upload);
  }

  #openUpload(work: Work, claims: LeaseClaims, artifactId: string): Result<Upload> {
    const upload = this.#ownUpload(work, claims, artifactId);
    return upload.ok && upload.value.state === "complete" ? fail("UPLOAD_CLOSED", "This upload is complete") : upload;
  }

  /** The upload, or which of its parts are missing. */
  #withAllParts(upload: Upload): Result<Upload> {
    const parts = this.#store.uploads.parts(upload.id);
    const have = new Set(parts.map((part) => part.n));
    const missing = Array.from({ length: upload.parts }, (_, i) => i + 1).filter((n) => !have.has(n));
    if (missing.length > 0) {
      return fail("VALIDATION_ERROR", `parts: missing ${missing.slice(0, 20).join(", ")}`, "parts");
    }
    const total = parts.reduce((sum, part) => sum + part.size, 0);
    if (total !== upload.row.sizeBytes) {
      return fail("VALIDATION_ERROR", `size: ${total} bytes arrived of ${upload.row.sizeBytes} declared`, "size");
    }
    return ok(upload);
  }

  /** Makes one object of the parts. True also when a call whose answer, or whose commit here, was lost has done it. */
  async #joinParts({ id, row }: Upload, uploadId: string): Promise<boolean> {
    const parts = this.#store.uploads.parts(id).map(({ n, etag }) => ({ partNumber: n, etag }));
    try {
      await this.env.BUCKET.resumeMultipartUpload(row.storageKey, uploadId).complete(parts);
      return true;
    } catch (thrown) {
      logger.warn("parts not joined", { storageKey: row.storageKey, error: errorText(thrown) });
    }
    try {
      return (await this.env.BUCKET.head(row.storageKey))?.size === row.sizeBytes;
    } catch {
      return false;
    }
  }

  #giveUpOldUploads(now: number): void {
    for (const upload of this.#store.uploads.openBefore(now - this.#timers.upload_ttl_s * 1000)) {
      this.#store.uploads.put({ ...upload, state: "aborting" });
    }
  }

  /** Bytes went on arriving while their upload was given up. */
  async #removeLate(artifactId: string): Promise<void> {
    const upload = this.#store.spec() === undefined ? undefined : this.#store.uploads.get(artifactId);
    if (upload?.state !== "aborting" && upload?.state !== "aborted") return;
    await this.env.BUCKET.delete(upload.row.storageKey).catch((thrown: unknown) =>
      logger.warn("upload not removed", { storageKey: upload.row.storageKey, error: errorText(thrown) }),
    );
  }

  /** Removes from R2 what is left of uploads that were given up; what fails is tried again by the alarm. */
  async #cleanUp(): Promise<void> {
    for (const upload of this.#store.uploads.aborting()) {
      const { storageKey } = upload.row;
      try {
        // It is gone already when an earlier try got this far.
        if (upload.uploadId !== null) {
          await this.env.BUCKET.resumeMultipartUpload(storageKey, upload.uploadId)
            .abort()
            .catch((thrown: unknown) => logger.info("nothing to abort", { storageKey, error: errorText(thrown) }));
        }
        await this.env.BUCKET.delete(storageKey);
        this.#store.uploads.put({ ...upload, state: "aborted" });
        this.#store.uploads.forgetParts(upload.id);
      } catch (thrown) {
        logger.warn("upload not removed", { storageKey, error: errorText(thrown) });
      }
    }
    this.#rearm();
  }

  /** The newest attempt that is over for good, log tail included. */
  #lastOver({ attempt, phase, tailUntilMs }: JobState): number {
    const isOver = isTerminal(phase) && tailUntilMs === null;
    return isOver ? attempt : attempt - 1;
  }

  #hasLogsToPutAway({ counters, state }: Head): boolean {
    const { attempt, deleteTo } = this.#store.archive();
    return counters.lines > 0 && (deleteTo !== null || attempt < this.#lastOver(state));
  }

  /** Puts the logs of attempts that are over into files, in their order. What fails is done again by the alarm. */
  async #archiveLogs(): Promise<void> {
    if (this.#isArchiving) return;
    this.#isArchiving = true;
    const { BUCKET, DB } = this.env;
    try {
      for (;;) {
        const jobId = this.#store.spec()?.jobId;
        // Every line has to be in D1 first. A job that is gone has no outbox.
        if (jobId === undefined || this.#store.outbox.oldestId() !== null) return;
        if (!this.#hasLogsToPutAway(this.#store.head())) return;
        const archive = this.#store.archive();
        if (archive.deleteTo !== null) {
          const isDone = await deleteRows(DB, jobId, archive.deleteTo);
          if (isDone && this.#store.spec() !== undefined) this.#store.putArchive({ ...archive, deleteTo: null });
          continue;
        }
        const attempt = archive.attempt + 1;
        const deleteTo = await archiveLines(DB, BUCKET, jobId, attempt);
        if (this.#store.spec() !== undefined) {
          this.#store.putArchive({ attempt, deleteTo });
          continue;
        }
        // The job was deleted meanwhile.
        await BUCKET.delete(keys.jobLog(jobId, attempt));
        await DB.prepare("delete from log_blocks where job_id = ?").bind(jobId).run();
      }
    } catch (thrown) {
      logger.warn("log not put away", { jobId: this.#store.spec()?.jobId, error: errorText(thrown) });
    } finally {
      this.#isArchiving = false;
    }
  }

  /** Stores what one report says. */
  #take(work: Work, report: Report, seq: number): Omit<RejectedReport, "seq"> | null {
    const problem = this.#intake.takeReport(work, report, seq);
    if (problem === null && PROGRESS.has(report.type)) this.#move(work, { type: "progress" });
    if (problem === null && report.type === "checkpoint") this.#retire(work);
    return problem;
  }

  /** Gives checkpoints up that are not needed any more; the alarm removes their bytes. */
  #retire({ head }: Work): void {
    const old = surplus(
      head.state,
      head.progress.bestEpoch,
      this.#store.uploads.complete(),
      this.#limits.checkpoints_kept,
    );
    for (const upload of old) {
      this.#store.uploads.put({ ...upload, state: "aborting" });
      this.#store.outbox.push({ kind: "artifactGone", id: upload.id });
    }
  }

  #takeUnnumbered(work: Work, { identity, report, mlflowRunId }: UnnumberedReport): Omit<RejectedReport, "seq"> | null {
    if (identity !== null && !this.#store.addPlain(work.head.state.attempt, identity)) return null;
    if (mlflowRunId !== null) {
      work.head.progress.mlflowRunId = mlflowRunId;
      work.changed = true;
      work.news = true;
    }
    return this.#take(work, report, 0);
  }

  /** The last event of a leased attempt: closes it, or waits for what it announced. */
  #finish(work: Work, claims: LeaseClaims, seq: number, end: EndReport): void {
    const { head } = work;
    const intact = end.chunksFailed === 0;
    head.announced ??= { seq, logChunks: intact ? end.logChunks : null, intact };
    if (end.reason === "checkpoint_corrupt") this.#distrustResume(head.state);
    const { outcome, reason, message } = end;
    const complete = isComplete(head.announced, head);
    this.#move(work, { type: "finish", fence: claims.fence, outcome, reason, message, complete, intact });
  }

  /** Ends the wait of a finalizing attempt once all that it announced is in. */
  #settleWhenComplete(work: Work): void {
    const { announced, state } = work.head;
    if (state.phase !== "finalizing" || announced === null) return;
    if (isComplete(announced, work.head)) this.#move(work, { type: "settle", dataComplete: announced.intact });
  }

  /** The event of a `start` that is allowed and whose checkpoint exists. */
  #startable(state: JobState, resume: ResumeChoice): Result<JobEvent> {
    const allowed = transition(state, { type: "start", resume }, this.#policy, Date.now());
    if (!allowed.ok) return allowed;
    const choice = checkedChoice(state, this.#store.uploads.complete(), resume);
    return choice.ok ? ok({ type: "start", resume: choice.value }) : choice;
  }

  #resumePoint(state: JobState): ResumePoint | null {
    return resumePoint(state, this.#store.uploads.complete());
  }

  /** The runner found that the checkpoint's bytes do not fit its hash: the one before it is used from now on. */
  #distrustResume(state: JobState): void {
    const point = this.#resumePoint(state);
    if (point === null) return;
    const row = { ...point.upload.row, usable: false };
    this.#store.uploads.put({ ...point.upload, row });
    this.#store.outbox.push({ kind: "artifact", row });
  }

  #pushJobRow({ head, now }: Work): void {
    head.counters.rev += 1;
    this.#store.outbox.push({ kind: "job", row: jobRowOf(head, now) });
  }

  #pool() {
    return this.env.RUNNER_POOL.getByName(POOL_NAME);
  }

  /** The deployment's timers, where the job has none of its own. */
  get #policy(): Policy {
    const { lostAfterS, maxDurationS } = this.#store.spec() ?? {};
    return {
      ...this.#deployment,
      ...(lostAfterS == null ? {} : { lostAfterMs: lostAfterS * 1000 }),
      ...(maxDurationS == null ? {} : { maxDurationMs: maxDurationS * 1000 }),
    };
  }

  async #capacity({ jobId, projectId, requirements }: JobSpec, maxRunning?: number | null) {
    try {
      return await this.#pool().capacity(requirements, projectId, maxRunning);
    } catch (thrown) {
      logger.warn("pool not reached", { jobId, error: errorText(thrown) });
      return { live: 0, capable: 0, queuedInProject: 0 };
    }
  }

  /**
   * Tells the pool that the job waits. Idempotent; a lost call is made again by the alarm while the job is queued.
   * @returns whether a waiting runner is being offered the job
   */
  async #enqueue(): Promise<boolean> {
    const spec = this.#store.spec();
    const { state } = this.#store.head();
    if (spec === undefined || state.phase !== "queued") return false;
    const now = Date.now();
    this.#remindedPoolAtMs = now;
    const { jobId, projectId, priority, requirements } = spec;
    try {
      const queuedAtMs = state.queuedAtMs ?? now;
      const job = { jobId, projectId, priority, requirements, queuedAtMs, holdMs: this.#holdMs() };
      return (await this.#pool().enqueue(job)).offered;
    } catch (thrown) {
      logger.warn("pool not reached", { jobId, error: errorText(thrown) });
      return false;
    }
  }

  /** How long a silent runner keeps the job. */
  #holdMs(): number {
    return this.#policy.leaseMs + this.#policy.lostAfterMs;
  }

  async #withdraw(): Promise<void> {
    const jobId = this.#store.spec()?.jobId;
    if (jobId === undefined) return;
    await this.#pool()
      .withdraw(jobId)
      .catch((thrown: unknown) => logger.warn("pool not reached", { jobId, error: errorText(thrown) }));
  }

  /** Waits until a runner has taken the job, for as long as `start` should. */
  async #taken(): Promise<void> {
    if (!isWaiting(this.#store.head().state.phase)) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, START_PATIENCE_MS);
      this.#untilTaken.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  /** Lets the pool know that the runner of this job lives; nobody waits for it. */
  #tellPool(now: boolean, skewMs: number | null, head: Head = this.#store.head()): void {
    const { runnerId, phase } = head.state;
    if (runnerId === null || !["running", "finalizing", "leaving"].includes(phase)) return;
    const isNewSkew = skewMs !== null && Math.abs(skewMs - (this.#toldSkewMs ?? Number.POSITIVE_INFINITY)) > 5_000;
    if (!now && !isNewSkew && Date.now() - this.#toldPoolAtMs < TOUCH_POOL_MS) return;
    this.#toldPoolAtMs = Date.now();
    this.#toldSkewMs = skewMs ?? this.#toldSkewMs;
    const spec = this.#store.spec();
    const job = spec && { jobId: spec.jobId, projectId: spec.projectId, holdMs: this.#holdMs() };
    this.ctx.waitUntil(
      this.#pool()
        .touch(runnerId, skewMs, job)
        .catch((thrown: unknown) => logger.warn("pool not reached", { runnerId, error: errorText(thrown) })),
    );
  }

  /** Sets the alarm to the earliest thing that time alone will do; one that rings earlier stays and comes by here again. */
  #rearm(head: Head = this.#store.head()): void {
    if (this.#store.spec() === undefined) return;
    const now = Date.now();
    const { state } = head;
    const { outbox, uploads } = this.#store;
    const openSinceMs = uploads.oldestOpenAt();
    const retryMs = Math.min(D1_RETRY_CAP_MS, D1_RETRY_MS * 2 ** Math.max(0, this.#projector.failures() - 1));
    const earliest = Math.min(
      ...[
        nextDeadline(state, this.#policy),
        state.phase === "queued" ? this.#remindedPoolAtMs + REMIND_POOL_MS : null,
        openSinceMs === null ? null : openSinceMs + this.#timers.upload_ttl_s * 1000,
        this.#live.expiresAtMs(),
        uploads.aborting().length === 0 ? null : now + CLEAN_UP_RETRY_MS,
        this.#hasLogsToPutAway(head) ? now + ARCHIVE_MS : null,
        // Also when D1 answers: this object may end before it has.
        outbox.oldestId() === null ? null : now + retryMs,
      ].filter((deadline) => deadline !== null),
    );
    if (earliest >= (this.#alarmAtMs ?? Number.POSITIVE_INFINITY)) return;
    this.#alarmAtMs = earliest;
    void this.ctx.storage.setAlarm(earliest);
  }
}

/** What D1 and watchers see of a job. */
const jobRowOf = ({ counters, logTruncated, progress, state }: Head, now: number): JobRow => ({
  status: STATUS_OF[state.phase],
  phase: state.phase,
  reason: state.reason,
  message: state.message,
  attempt: state.attempt,
  runnerId: state.runnerId,
  currentEpoch: progress.currentEpoch,
  totalEpochs: progress.totalEpochs,
  mlflowRunId: progress.mlflowRunId,
  bestValue: progress.bestValue,
  bestEpoch: progress.bestEpoch,
  dataComplete: state.dataComplete,
  logTruncated,
  startedAt: state.startedAtMs,
  completedAt: state.completedAtMs,
  updatedAt: now,
  rev: counters.rev,
});

type EndReport = Extract<Report, { type: "end" }>;

/** Reports that show that an attempt gets on. */
const PROGRESS: ReadonlySet<Report["type"]> = new Set(["metric", "validation", "checkpoint"]);

const isWaiting = (phase: Phase) => phase === "queued" || phase === "offered";

/** Phases in which nobody works on the job, or is about to. */
const RESCHEDULABLE: ReadonlySet<Phase> = new Set(["pending", "queued", "completed", "failed", "stopped"]);

/** Whether all events and log chunks that the last event announced are in. */
const isComplete = ({ seq, logChunks }: NonNullable<Head["announced"]>, { mark, logMarks }: Head): boolean =>
  mark >= seq && (logChunks === null || (logMarks.stdout >= logChunks.stdout && logMarks.stderr >= logChunks.stderr));

const viewOf = (state: JobState): JobView => ({
  status: STATUS_OF[state.phase],
  phase: state.phase,
  attempt: state.attempt,
  startedAtMs: state.startedAtMs,
  completedAtMs: state.completedAtMs,
});

/** The part of a state that readers see. */
const visible = (state: JobState): string =>
  JSON.stringify([
    state.phase,
    state.attempt,
    state.runnerId,
    state.reason,
    state.message,
    state.dataComplete,
    state.startedAtMs,
    state.completedAtMs,
  ]);
