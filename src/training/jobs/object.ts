import { DurableObject } from "cloudflare:workers";
import { parseConfig } from "../../config.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { fail, ok, type Result } from "../../shared/result.ts";
import { keys } from "../../storage/keys.ts";
import type { Limits, Timers } from "../runners/protocol.ts";
import type { NumberedReport, RejectedReport, Report } from "./events.ts";
import { plainIdentity } from "./events.ts";
import {
  desiredOf,
  type Effect,
  endWait,
  type JobEvent,
  type JobState,
  nextDeadline,
  type Phase,
  type Policy,
  type ResumeChoice,
  STATUS_OF,
  type Status,
  transition,
} from "./machine.ts";
import { observe, rewind } from "./progress.ts";
import { createProjector } from "./projector.ts";
import type { JobSpec } from "./spec.ts";
import { type Head, type JobStore, openJobStore, type Upload } from "./store.ts";

/** How long `start` waits for a runner to accept, so that it can answer `running`. */
const START_PATIENCE_MS = 2_000;
/** While queued the job reminds its pool of itself, in case a call between the two objects was lost. */
const REMIND_POOL_MS = 60_000;
/** The pool hears at most this often that a busy runner is alive. */
const TOUCH_POOL_MS = 20_000;
const D1_RETRY_MS = 5_000;

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
};

export type RecordAnswer = {
  ackSeq: number;
  missing: [number, number][];
  rejected: RejectedReport[];
  desired: "run" | "stop" | "abandon";
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
  infraRetries: limits.infra_retries,
  userRetries: limits.user_retries,
});

/** Masks what looks like one of our credentials; a runner masks first, this is the second net. */
export const maskSecrets = (text: string): string =>
  text
    .replace(/\bcv[a-z]{1,4}_[0-9a-f]{16,}\b/g, "[masked]")
    .replace(/\b(bearer\s+)[\w.~+/=-]{16,}/gi, "$1[masked]")
    .replace(/\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}\b/g, "[masked]");

/**
 * One training job: decides, stores, and then tells D1, the pool and the callers. Every public method is one call of the
 * protocol: load, transition, one transaction, effects. It answers only after its own storage has what was sent.
 */
export class TrainingJob extends DurableObject<Env> {
  readonly #store: JobStore;
  readonly #projector: ReturnType<typeof createProjector>;
  readonly #limits: Limits;
  readonly #timers: Timers;
  readonly #policy: Policy;
  #accepted: (() => void)[] = [];
  #poolToldAtMs = 0;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const config = parseConfig(env);
    this.#limits = config.limits;
    this.#timers = config.timers;
    this.#policy = policyOf(config.timers, config.limits);
    this.#store = openJobStore(ctx.storage);
    this.#projector = createProjector(env.DB, this.#store, () => this.#wakeBy(Date.now() + D1_RETRY_MS));
  }

  /** Queues the job and gives a waiting runner a moment to take it. `spec` is the job as D1 has it. */
  async start(spec: JobSpec, resume: ResumeChoice): Promise<Result<JobView>> {
    this.#store.putSpec(spec);
    const head = this.#store.head();
    const choice = this.#checkedChoice(head.state, resume);
    if (!choice.ok) return choice;
    const event: JobEvent = { type: "start", resume: choice.value };
    const allowed = transition(head.state, event, this.#policy, Date.now());
    if (!allowed.ok) return allowed;
    const capacity = await this.#pool().capacity(spec.requirements);
    if (capacity.live === 0) {
      return fail(
        "TRAINING_SERVICE_UNAVAILABLE",
        `No live runner has the framework ${spec.requirements.framework}; start one and try again`,
      );
    }
    const accepted = new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, START_PATIENCE_MS);
      this.#accepted.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
    const started = await this.#apply(event);
    if (!started.ok) return started;
    await accepted;
    await this.#projector.settle();
    return ok(this.#view());
  }

  /** Stops the job in one commit; from then on nothing its attempt sends changes status or metrics. */
  async stop(spec: JobSpec, reason: "user_stop" | "admin_stop" | "project_deleted"): Promise<Result<JobView>> {
    this.#store.putSpec(spec);
    const stopped = await this.#apply({ type: "stop", reason });
    if (!stopped.ok) {
      const { state } = this.#store.head();
      const ended = endWait(state, this.#policy, Date.now());
      if (ended !== null) await this.#commit(state, ended.state, ended.effects);
    }
    await this.#projector.settle();
    return stopped.ok ? ok(this.#view()) : stopped;
  }

  /** The pool offers the job to a runner. Fence + 1. */
  async offer(runnerId: string): Promise<Result<{ fence: number; offerMs: number }>> {
    const offered = await this.#apply({ type: "offer", runnerId });
    if (!offered.ok) return offered;
    return ok({ fence: offered.value.fence, offerMs: this.#policy.offerMs });
  }

  /** A runner takes its offer. Attempt + 1; the same accept again (its answer was lost) gets the same attempt. */
  async accept(runnerId: string, fence: number): Promise<Result<AcceptAnswer>> {
    const spec = this.#store.spec();
    if (spec === undefined) return fail("OFFER_GONE", "The offer is gone; claim again");
    const before = this.#store.head().state.attempt;
    const accepted = await this.#apply({ type: "accept", runnerId, fence });
    if (!accepted.ok) return accepted;
    if (accepted.value.attempt !== before) {
      for (const resolve of this.#accepted.splice(0)) resolve();
      await this.#projector.settle();
    }
    const { upload, weightsOnly } = this.#resumeOf(accepted.value);
    return ok({
      attempt: accepted.value.attempt,
      fence: accepted.value.fence,
      datasetId: spec.datasetId,
      specJson: JSON.stringify(spec.wire),
      resume:
        upload === null
          ? null
          : {
              artifact_id: upload.id,
              epoch: upload.row.epoch ?? 0,
              size: upload.row.sizeBytes,
              sha256: upload.row.sha256,
              weights_only: weightsOnly,
            },
    });
  }

  /** Renews the lease and hears what the server wants. */
  async heartbeat(claims: LeaseClaims): Promise<Result<{ desired: RecordAnswer["desired"]; ackSeq: number }>> {
    const called = await this.#call(claims);
    if (!called.ok) return called;
    return ok({ desired: desiredOf(called.value), ackSeq: this.#store.head().mark });
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
    const called = await this.#call(claims);
    if (!called.ok) return called;
    const refused: RejectedReport[] = [...rejected];
    const full = this.#store.transaction(() => {
      const head = this.#store.head();
      const { attempt } = head.state;
      const numbers = [...events.map((event) => event.seq), ...rejected.map((event) => event.seq)];
      const fresh = numbers.filter((seq) => this.#store.events.isNew(attempt, head.mark, seq));
      const beyond = fresh.filter((seq) => seq > head.mark + this.#limits.seq_window);
      if (beyond.length > 0) return true;
      const isFresh = new Set(fresh);
      const taken = new Set<number>();
      for (const event of [...events].sort((a, b) => a.seq - b.seq)) {
        if (!isFresh.has(event.seq)) continue;
        if (taken.has(event.seq)) {
          refused.push({
            seq: event.seq,
            code: "VALIDATION_ERROR",
            field: "seq",
            message: "seq: used twice in this batch",
          });
          continue;
        }
        taken.add(event.seq);
        if (event.mlflowRunId !== null) head.progress.mlflowRunId = event.mlflowRunId;
        const problem = this.#takeReport(head, event.report, event.seq);
        if (problem !== null) refused.push({ seq: event.seq, ...problem });
      }
      head.mark = this.#store.events.add(attempt, head.mark, fresh);
      if (fresh.length > 0) this.#pushJobRow(head);
      this.#store.putHead(head);
      return false;
    });
    if (full) {
      const head = this.#store.head();
      const missing = this.#store.events.missing(head.state.attempt, head.mark);
      return fail(
        "TOO_MANY_EVENTS",
        `More than ${this.#limits.seq_window} numbers above ${head.mark}: send ${JSON.stringify(missing)} first`,
      );
    }
    const end = events.find((event) => event.report.type === "end");
    if (end?.report.type === "end") await this.#finish(claims, end.seq, end.report);
    else await this.#finishWhenComplete();
    await this.#projector.settle();
    const head = this.#store.head();
    return ok({
      ackSeq: head.mark,
      missing: this.#store.events.missing(head.state.attempt, head.mark),
      rejected: refused,
      desired: desiredOf(head.state),
    });
  }

  /**
   * Takes one event of the contract's plain callback.
   * @param digest stands for the content, for events whose identity is their content
   * @returns null when this object does not know its job yet: the caller looks it up and passes `spec`
   */
  async recordPlain(
    report: Report,
    digest: string,
    mlflowRunId: string | null,
    spec: JobSpec | null,
  ): Promise<Result<{ desired: RecordAnswer["desired"] }> | null> {
    if (spec !== null) this.#store.putSpec(spec);
    if (this.#store.spec() === undefined) return null;
    const end =
      report.type === "end" && report.outcome !== "released"
        ? { outcome: report.outcome, reason: report.reason, message: report.message }
        : null;
    const moved = await this.#apply({ type: "plain", opens: report.type === "started", end: null });
    if (!moved.ok) return moved;
    const { state } = this.#store.head();
    // An attempt that has ended takes log lines only.
    const live = state.phase === "running" && state.owner === "plain";
    const tail = report.type === "log" && state.owner === "plain";
    if (live || tail) {
      this.#store.transaction(() => {
        const head = this.#store.head();
        if (!this.#store.addPlain(head.state.attempt, plainIdentity(report, digest))) return;
        if (mlflowRunId !== null) head.progress.mlflowRunId = mlflowRunId;
        this.#takeReport(head, report, 0);
        this.#pushJobRow(head);
        this.#store.putHead(head);
      });
    }
    if (end !== null && live) await this.#apply({ type: "plain", opens: false, end });
    await this.#projector.settle();
    return ok({ desired: desiredOf(this.#store.head().state) });
  }

  /** Stores a chunk of log lines. The same chunk again is `stored: false`; other bytes under its number are refused. */
  async logChunk(
    claims: LeaseClaims,
    chunk: { stream: "stdout" | "stderr"; seq: number; text: string; bytes: number; sha256: string },
  ): Promise<Result<{ stored: boolean; nextSeq: number }>> {
    const called = await this.#call(claims);
    if (!called.ok) return called;
    const { attempt } = called.value;
    const known = this.#store.logs.hashOf(attempt, chunk.stream, chunk.seq);
    if (known !== undefined && known !== chunk.sha256) {
      return fail("LOG_CONFLICT", `${chunk.stream} ${chunk.seq} was received with other content; the first stays`);
    }
    if (known === undefined) {
      this.#store.transaction(() => {
        const head = this.#store.head();
        this.#store.logs.add(attempt, chunk.stream, chunk.seq, chunk.sha256);
        head.logMarks[chunk.stream] = this.#store.logs.advance(attempt, chunk.stream, head.logMarks[chunk.stream]);
        this.#takeLog(head, { stream: chunk.stream, seq: chunk.seq, text: chunk.text, bytes: chunk.bytes, atMs: null });
        this.#store.putHead(head);
      });
      await this.#finishWhenComplete();
      await this.#projector.settle();
    }
    return ok({ stored: known === undefined, nextSeq: this.#store.head().logMarks[chunk.stream] + 1 });
  }

  /** Opens an upload. A single part is one object; several are an R2 multipart upload. */
  async createUpload(
    claims: LeaseClaims,
    request: UploadRequest,
  ): Promise<Result<{ artifactId: string; partSize: number; parts: number }>> {
    const called = await this.#callForData(claims);
    if (!called.ok) return called;
    const spec = this.#store.spec();
    if (spec === undefined) return fail("STALE_LEASE", "This attempt no longer owns the job");
    const partSize = this.#limits.part_bytes;
    const parts = Math.max(1, Math.ceil(request.sizeBytes / partSize));
    const key = keys.artifact(spec.jobId, claims.attempt, request.artifactId);
    const multipart = parts > 1 ? await this.env.BUCKET.createMultipartUpload(key) : null;
    const now = Date.now();
    this.#store.uploads.add(
      {
        id: request.artifactId,
        attempt: claims.attempt,
        state: "open",
        row: {
          id: request.artifactId,
          attempt: claims.attempt,
          kind: request.kind,
          name: request.name,
          role: request.role,
          epoch: request.epoch,
          sizeBytes: request.sizeBytes,
          sha256: request.sha256,
          storageKey: key,
          manifest: request.manifest === null ? null : (JSON.parse(request.manifest) as Upload["row"]["manifest"]),
          usable: true,
          createdAt: now,
        },
        uploadId: multipart?.uploadId ?? null,
        partSize,
        parts,
      },
      now,
    );
    await this.#wakeBy(now + this.#timers.upload_ttl_s * 1000);
    return ok({ artifactId: request.artifactId, partSize, parts });
  }

  /** Where a part goes and how large it has to be. The Worker streams it there and then calls `partStored`. */
  async openPart(
    claims: LeaseClaims,
    artifactId: string,
    n: number,
  ): Promise<Result<{ key: string; uploadId: string | null; sizeBytes: number; sha256: string | null }>> {
    const upload = await this.#openUpload(claims, artifactId);
    if (!upload.ok) return upload;
    const { parts, partSize, row, uploadId } = upload.value;
    if (n < 1 || n > parts) return fail("VALIDATION_ERROR", `n: this upload has parts 1 to ${parts}`, "n");
    const sizeBytes = n < parts ? partSize : row.sizeBytes - (parts - 1) * partSize;
    return ok({ key: row.storageKey, uploadId, sizeBytes, sha256: parts === 1 ? row.sha256 : null });
  }

  /** Notes a part that is in R2; the same part again replaces it. */
  async partStored(
    claims: LeaseClaims,
    artifactId: string,
    n: number,
    etag: string,
    size: number,
  ): Promise<Result<{ n: number }>> {
    const upload = await this.#openUpload(claims, artifactId);
    if (!upload.ok) return upload;
    this.#store.uploads.addPart(artifactId, n, etag, size);
    return ok({ n });
  }

  /** State of an upload, for a runner that goes on after a cut. */
  async uploadState(
    claims: LeaseClaims,
    artifactId: string,
  ): Promise<Result<{ state: Upload["state"]; row: UploadInfo; partSize: number; parts: number; received: number[] }>> {
    const called = await this.#call(claims);
    if (!called.ok) return called;
    const upload = this.#store.uploads.get(artifactId);
    if (upload === undefined) return fail("ARTIFACT_NOT_FOUND", "Artifact not found");
    const { manifest: _, ...row } = upload.row;
    return ok({
      state: upload.state,
      row,
      partSize: upload.partSize,
      parts: upload.parts,
      received: this.#store.uploads.parts(artifactId).map((part) => part.n),
    });
  }

  /** Ends an upload whose parts are all there; only now can it be listed, resumed from and used. Twice is the same. */
  async completeUpload(claims: LeaseClaims, artifactId: string): Promise<Result<{ artifactId: string; key: string }>> {
    const called = await this.#callForData(claims);
    if (!called.ok) return called;
    const upload = this.#store.uploads.get(artifactId);
    if (upload === undefined) return fail("ARTIFACT_NOT_FOUND", "Artifact not found");
    if (upload.attempt !== claims.attempt) return fail("FORBIDDEN", "This artifact belongs to another attempt");
    if (upload.state === "aborted") return fail("UPLOAD_CLOSED", "This upload was aborted");
    if (upload.state === "open") {
      const parts = this.#store.uploads.parts(artifactId);
      const have = new Set(parts.map((part) => part.n));
      const missing = Array.from({ length: upload.parts }, (_, i) => i + 1).filter((n) => !have.has(n));
      if (missing.length > 0) {
        return fail("VALIDATION_ERROR", `parts: missing ${missing.slice(0, 20).join(", ")}`, "parts");
      }
      const total = parts.reduce((sum, part) => sum + part.size, 0);
      if (total !== upload.row.sizeBytes) {
        return fail("VALIDATION_ERROR", `size: ${total} bytes arrived of ${upload.row.sizeBytes} declared`, "size");
      }
      if (upload.uploadId !== null) {
        const multipart = this.env.BUCKET.resumeMultipartUpload(upload.row.storageKey, upload.uploadId);
        try {
          await multipart.complete(parts.map((part) => ({ partNumber: part.n, etag: part.etag })));
        } catch (thrown) {
          // Completed by a call whose answer, or whose commit here, was lost.
          const stored = await this.env.BUCKET.head(upload.row.storageKey);
          if (stored?.size !== upload.row.sizeBytes) {
            logger.warn("multipart completion failed", { artifactId, error: errorText(thrown) });
            return fail("STORAGE_UNAVAILABLE", "The parts could not be joined; try again");
          }
        }
      }
      // The call to R2 let other calls in: the fence is asked again with the write.
      const still = await this.#callForData(claims);
      if (!still.ok) return still;
      this.#store.transaction(() => {
        this.#store.uploads.put({ ...upload, state: "complete" });
        this.#store.uploads.forgetParts(artifactId);
        this.#store.outbox.push({ kind: "artifact", row: upload.row });
      });
      await this.#projector.settle();
    }
    return ok({ artifactId, key: upload.row.storageKey });
  }

  /** Gives an upload up and removes what R2 has of it. */
  async abortUpload(claims: LeaseClaims, artifactId: string): Promise<Result<null>> {
    const upload = await this.#openUpload(claims, artifactId);
    if (!upload.ok) return upload.error.code === "UPLOAD_CLOSED" ? ok(null) : upload;
    await this.#discard(upload.value);
    return ok(null);
  }

  /** A complete artifact of this job, for the runner that holds the lease (any attempt: it may resume from it). */
  async artifact(claims: LeaseClaims, artifactId: string): Promise<Result<UploadInfo>> {
    const called = await this.#call(claims);
    if (!called.ok) return called;
    const upload = this.#store.uploads.get(artifactId);
    if (upload?.state !== "complete") return fail("ARTIFACT_NOT_FOUND", "Artifact not found");
    const { manifest: _, ...row } = upload.row;
    return ok(row);
  }

  /** Whether the fence of a token is still the current one; also renews the lease. */
  async touch(claims: LeaseClaims): Promise<Result<{ datasetId: string }>> {
    const called = await this.#call(claims);
    if (!called.ok) return called;
    return ok({ datasetId: this.#store.spec()?.datasetId ?? "" });
  }

  /** The one alarm: recomputes from what is stored, so that early, late and repeated ones do no harm. */
  override async alarm(): Promise<void> {
    const now = Date.now();
    // The next slot first: whatever fails below is tried again.
    await this.ctx.storage.setAlarm(now + D1_RETRY_MS);
    await this.#apply({ type: "tick" });
    const head = this.#store.head();
    if (head.state.phase === "queued") await this.#enqueue();
    for (const upload of this.#store.uploads.openBefore(now - this.#timers.upload_ttl_s * 1000))
      await this.#discard(upload);
    const delivered = await this.#projector.flush();
    await this.ctx.storage.deleteAlarm();
    if (delivered) await this.#rearm();
    else await this.#wakeBy(now + D1_RETRY_MS);
  }

  // ---- one place for each thing that happens after a transition ----

  /** Transition, commit, effects. */
  async #apply(event: JobEvent): Promise<Result<JobState>> {
    const before = this.#store.head().state;
    const moved = transition(before, event, this.#policy, Date.now());
    if (!moved.ok) return moved;
    const { state, effects } = moved.value;
    if (state !== before || effects.length > 0) await this.#commit(before, state, effects);
    return ok(state);
  }

  async #commit(before: JobState, state: JobState, effects: Effect[]): Promise<void> {
    const now = Date.now();
    this.#store.transaction(() => {
      const head = this.#store.head();
      const next: Head = { ...head, state };
      for (const effect of effects) {
        if (effect.type === "attemptStarted") {
          const resumeEpoch = this.#resumeEpoch(state);
          next.mark = 0;
          next.logMarks = { stdout: 0, stderr: 0 };
          next.announced = null;
          next.progress = rewind(head.progress, resumeEpoch);
          this.#store.events.forgetOthers(state.attempt);
          this.#store.outbox.push({
            kind: "attempt",
            row: {
              attempt: state.attempt,
              owner: state.owner ?? "plain",
              runnerId: state.runnerId,
              resumeEpoch,
              startedAt: now,
              endedAt: null,
              outcome: null,
              reason: null,
            },
          });
        }
        if (effect.type === "attemptEnded" && state.attempt > 0) {
          this.#store.outbox.push({
            kind: "attempt",
            row: {
              attempt: state.attempt,
              owner: before.owner ?? "plain",
              runnerId: before.runnerId,
              resumeEpoch: 0,
              startedAt: before.attemptStartedAtMs ?? now,
              endedAt: now,
              outcome: effect.outcome,
              reason: state.reason,
            },
          });
        }
      }
      // A renewed lease alone is no news to readers.
      if (effects.length > 0 || visible(state) !== visible(before)) this.#pushJobRow(next);
      this.#store.putHead(next);
    });
    await this.#rearm();
    for (const effect of effects) {
      if (effect.type === "enqueue") await this.#enqueue();
      if (effect.type === "withdraw") await this.#withdraw();
    }
    if (effects.length > 0) await this.#tellPool(true);
  }

  /** The fence first; a valid call renews the lease and tells the pool that the runner lives. */
  async #call(claims: LeaseClaims): Promise<Result<JobState>> {
    const called = await this.#apply({ type: "call", fence: claims.fence });
    if (called.ok) await this.#tellPool(false);
    return called;
  }

  /** A call that brings files: refused once the attempt has ended. */
  async #callForData(claims: LeaseClaims): Promise<Result<JobState>> {
    const called = await this.#call(claims);
    if (called.ok && ["completed", "failed", "stopped"].includes(called.value.phase)) {
      return fail("STALE_LEASE", "The attempt has ended; only its log tail is taken");
    }
    return called;
  }

  async #openUpload(claims: LeaseClaims, artifactId: string): Promise<Result<Upload>> {
    const called = await this.#callForData(claims);
    if (!called.ok) return called;
    const upload = this.#store.uploads.get(artifactId);
    if (upload === undefined) return fail("ARTIFACT_NOT_FOUND", "Artifact not found");
    if (upload.attempt !== claims.attempt) return fail("FORBIDDEN", "This artifact belongs to another attempt");
    if (upload.state !== "open") return fail("UPLOAD_CLOSED", `This upload is ${upload.state}`);
    return ok(upload);
  }

  async #discard(upload: Upload): Promise<void> {
    const { storageKey } = upload.row;
    if (upload.uploadId !== null) {
      await this.env.BUCKET.resumeMultipartUpload(storageKey, upload.uploadId)
        .abort()
        .catch((thrown: unknown) => logger.warn("abort of an upload failed", { storageKey, error: errorText(thrown) }));
    }
    await this.env.BUCKET.delete(storageKey);
    this.#store.transaction(() => {
      this.#store.uploads.put({ ...upload, state: "aborted" });
      this.#store.uploads.forgetParts(upload.id);
    });
  }

  /** Stores what one report says, inside the caller's transaction. Returns what is wrong with it, if anything. */
  #takeReport(head: Head, report: Report, seq: number): { code: string; field: string | null; message: string } | null {
    const { state } = head;
    const now = Date.now();
    const spec = this.#store.spec();
    if (spec === undefined) return null;
    const counts = state.phase === "running" || state.phase === "suspect" || state.phase === "finalizing";
    switch (report.type) {
      case "started":
        if (counts) head.progress = observe(head.progress, report, primaryOf(spec));
        return null;
      case "metric": {
        // After a stop or an end nothing an attempt sends changes its metrics.
        if (!counts) return null;
        if (!this.#store.addMetricNames(Object.keys(report.extraMetrics), this.#limits.metric_names)) {
          return {
            code: "VALIDATION_ERROR",
            field: "data.extra_metrics",
            message: `a job has at most ${this.#limits.metric_names} metric names`,
          };
        }
        head.counters.metricId += 1;
        const { type: _, ...point } = report;
        this.#store.outbox.push({
          kind: "metrics",
          rows: [{ ...point, id: head.counters.metricId, attempt: state.attempt, createdAt: now }],
        });
        head.progress = observe(head.progress, report, primaryOf(spec));
        return null;
      }
      case "validation": {
        if (!counts) return null;
        const { images, type: _, ...result } = report;
        const taskType = result.taskType ?? String(spec.wire.task_type);
        this.#store.outbox.push({
          kind: "validation",
          attempt: state.attempt,
          createdAt: now,
          result: { ...result, taskType },
        });
        this.#store.outbox.push({
          kind: "images",
          attempt: state.attempt,
          epoch: report.epoch,
          offset: 0,
          images,
          replaceAll: true,
        });
        head.progress = observe(head.progress, report, primaryOf(spec));
        return null;
      }
      case "validationImages":
        if (!counts) return null;
        this.#store.outbox.push({
          kind: "images",
          attempt: state.attempt,
          epoch: report.epoch,
          offset: report.offset,
          images: report.images,
          replaceAll: false,
        });
        return null;
      case "checkpoint": {
        // A runner that leaves after a stop still hands in its last checkpoint.
        if (!counts && state.phase !== "leaving") return null;
        const upload = this.#store.uploads.get(report.artifactId);
        if (upload === undefined || upload.state !== "complete") {
          return {
            code: "VALIDATION_ERROR",
            field: "data.artifact_id",
            message: "no complete upload of this job has this id",
          };
        }
        const row = { ...upload.row, epoch: report.epoch, role: report.role ?? upload.row.role };
        this.#store.uploads.put({ ...upload, row });
        this.#store.outbox.push({ kind: "artifact", row });
        return null;
      }
      case "log":
        this.#takeLog(head, {
          stream: report.stream,
          seq,
          text: report.lines.map((line) => `${line.replaceAll("\n", " ")}\n`).join(""),
          bytes: report.lines.reduce((sum, line) => sum + line.length + 1, 0),
          atMs: report.atMs,
        });
        return null;
      case "end":
        return null;
    }
  }

  /** Stores lines as they came; over the job's quota they are acknowledged, not stored, and the job says so. */
  #takeLog(
    head: Head,
    log: { stream: "stdout" | "stderr"; seq: number; text: string; bytes: number; atMs: number | null },
  ): void {
    if (log.text === "") return;
    if (head.counters.logBytes + log.bytes > this.#limits.job_log_bytes) {
      if (!head.logTruncated) {
        head.logTruncated = true;
        this.#pushJobRow(head);
      }
      return;
    }
    const text = maskSecrets(log.text);
    const lineCount = text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
    this.#store.outbox.push({
      kind: "log",
      row: {
        firstLine: head.counters.lines + 1,
        lineCount,
        attempt: head.state.attempt,
        stream: log.stream,
        seq: log.seq,
        text,
        createdAt: log.atMs ?? Date.now(),
      },
    });
    head.counters.lines += lineCount;
    head.counters.logBytes += log.bytes;
  }

  /** The last event of a leased attempt: closes it, or waits for what it announced. */
  async #finish(claims: LeaseClaims, seq: number, end: Extract<Report, { type: "end" }>): Promise<void> {
    const head = this.#store.head();
    const intact = end.chunksFailed === 0;
    const announced = head.announced ?? { seq, logChunks: intact ? end.logChunks : null, intact };
    if (head.announced === null) this.#store.putHead({ ...head, announced });
    if (end.reason === "checkpoint_corrupt") this.#distrustResume(head.state);
    const finished = await this.#apply({
      type: "finish",
      fence: claims.fence,
      outcome: end.outcome,
      reason: end.reason,
      message: end.message,
      complete: isComplete(announced, head),
      intact,
    });
    if (!finished.ok) logger.warn("last event refused", { code: finished.error.code });
  }

  async #finishWhenComplete(): Promise<void> {
    const head = this.#store.head();
    if (head.state.phase !== "finalizing" || head.announced === null) return;
    if (isComplete(head.announced, head)) await this.#apply({ type: "dataComplete" });
  }

  /** What this attempt goes on from: the newest checkpoint of its lineage, else the one that `start` named, else nothing. */
  #resumeOf(state: JobState): { upload: Upload | null; weightsOnly: boolean } {
    const usable = (upload: Upload) => upload.row.kind === "checkpoint" && upload.row.usable;
    const newest = this.#store.uploads
      .complete(state.lineageFrom)
      .find((upload) => usable(upload) && upload.attempt < Math.max(state.attempt, 1) && upload.row.epoch !== null);
    if (newest) return { upload: newest, weightsOnly: false };
    if (state.resume.from !== "artifact") return { upload: null, weightsOnly: false };
    const named = this.#store.uploads.get(state.resume.artifactId);
    return named?.row.usable
      ? { upload: named, weightsOnly: state.resume.weightsOnly }
      : { upload: null, weightsOnly: false };
  }

  #resumeEpoch(state: JobState): number {
    const { upload, weightsOnly } = this.#resumeOf(state);
    return weightsOnly ? 0 : (upload?.row.epoch ?? 0);
  }

  /** The runner found that the checkpoint's bytes do not fit its hash: the one before it is used from now on. */
  #distrustResume(state: JobState): void {
    const { upload } = this.#resumeOf(state);
    if (upload === null) return;
    const row = { ...upload.row, usable: false };
    this.#store.transaction(() => {
      this.#store.uploads.put({ ...upload, row });
      this.#store.outbox.push({ kind: "artifact", row });
    });
  }

  /** Turns the wish of `start` into an existing checkpoint of this job, or refuses. */
  #checkedChoice(state: JobState, resume: ResumeChoice): Result<ResumeChoice> {
    const missing = fail("CHECKPOINT_NOT_FOUND", "Checkpoint not found", "checkpoint_path");
    if (resume.from === "nothing") return ok(resume);
    if (resume.from === "newest") {
      const found = this.#store.uploads
        .complete(state.lineageFrom)
        .some((upload) => upload.row.kind === "checkpoint" && upload.row.usable);
      return found ? ok(resume) : fail("CHECKPOINT_NOT_FOUND", "The job has no checkpoint to resume from", "resume");
    }
    const upload = this.#store.uploads.get(resume.artifactId);
    return upload?.state === "complete" && upload.row.kind === "checkpoint" && upload.row.usable ? ok(resume) : missing;
  }

  #pushJobRow(head: Head): void {
    head.counters = { ...head.counters, rev: head.counters.rev + 1 };
    const { state, progress } = head;
    this.#store.outbox.push({
      kind: "job",
      row: {
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
        logTruncated: head.logTruncated,
        startedAt: state.startedAtMs,
        completedAt: state.completedAtMs,
        updatedAt: Date.now(),
        rev: head.counters.rev,
      },
    });
  }

  #view(): JobView {
    const { state } = this.#store.head();
    return {
      status: STATUS_OF[state.phase],
      phase: state.phase,
      attempt: state.attempt,
      startedAtMs: state.startedAtMs,
      completedAtMs: state.completedAtMs,
    };
  }

  #pool() {
    return this.env.RUNNER_POOL.getByName(POOL_NAME);
  }

  /** Tells the pool that the job waits. Idempotent; a lost call is made again by the alarm while the job is queued. */
  async #enqueue(): Promise<void> {
    const spec = this.#store.spec();
    const { state } = this.#store.head();
    if (spec === undefined || state.phase !== "queued") return;
    const { jobId, projectId, priority, requirements } = spec;
    await this.#pool()
      .enqueue({ jobId, projectId, priority, requirements, queuedAtMs: state.queuedAtMs ?? Date.now() })
      .catch((thrown: unknown) => logger.warn("pool not reached", { jobId, error: errorText(thrown) }));
    await this.#wakeBy(Date.now() + REMIND_POOL_MS);
  }

  async #withdraw(): Promise<void> {
    const jobId = this.#store.spec()?.jobId;
    if (jobId === undefined) return;
    await this.#pool()
      .withdraw(jobId)
      .catch((thrown: unknown) => logger.warn("pool not reached", { jobId, error: errorText(thrown) }));
  }

  async #tellPool(now: boolean): Promise<void> {
    const { runnerId, phase } = this.#store.head().state;
    if (runnerId === null || !["running", "finalizing", "leaving"].includes(phase)) return;
    if (!now && Date.now() - this.#poolToldAtMs < TOUCH_POOL_MS) return;
    this.#poolToldAtMs = Date.now();
    await this.#pool()
      .touch(runnerId)
      .catch((thrown: unknown) => logger.warn("pool not reached", { runnerId, error: errorText(thrown) }));
  }

  /** Makes sure that the alarm rings by then; an earlier one stays. */
  async #wakeBy(atMs: number): Promise<void> {
    const current = await this.ctx.storage.getAlarm();
    if (current === null || current > atMs) await this.ctx.storage.setAlarm(atMs);
  }

  /** The earliest thing that time alone will change. */
  async #rearm(): Promise<void> {
    const { state } = this.#store.head();
    const openAt = this.#store.uploads.oldestOpenAt();
    const deadlines = [
      nextDeadline(state, this.#policy),
      state.phase === "queued" ? Date.now() + REMIND_POOL_MS : null,
      openAt === null ? null : openAt + this.#timers.upload_ttl_s * 1000,
    ].filter((deadline) => deadline !== null);
    if (deadlines.length > 0) await this.#wakeBy(Math.min(...deadlines));
  }
}

/** Whether all events and log chunks that the last event announced are in. */
const isComplete = ({ seq, logChunks }: NonNullable<Head["announced"]>, { mark, logMarks }: Head): boolean =>
  mark >= seq && (logChunks === null || (logMarks.stdout >= logChunks.stdout && logMarks.stderr >= logChunks.stderr));

const primaryOf = (spec: JobSpec) => ({ name: spec.primaryMetric, mode: spec.primaryMetricMode });

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
