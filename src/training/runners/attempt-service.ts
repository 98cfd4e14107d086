import { z } from "zod";
import { isOneOf } from "../../auth/secret.ts";
import { type JobTokenClaims, readJobToken } from "../../auth/tokens.ts";
import type { Config } from "../../config.ts";
import type { Content } from "../../http/content.ts";
import { AppError, toAppError, unwrap } from "../../shared/errors.ts";
import { newUuid, sha256Hex } from "../../shared/ids.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { fail } from "../../shared/result.ts";
import { isoSeconds } from "../../shared/time.ts";
import { storePart } from "../../storage/parts.ts";
import { parseManifest } from "../inference/manifest.ts";
import {
  identityOf,
  type NumberedReport,
  parseReport,
  type RejectedReport,
  type Report,
  type UnnumberedReport,
} from "../jobs/events.ts";
import type { TrainingJob } from "../jobs/object.ts";
import type { JobRepository } from "../jobs/repository.ts";
import { specOf } from "../jobs/spec.ts";

/** From here on an operator hears of a runner's clock; nothing is ever refused for it. */
const SKEW_WARNING_MS = 30_000;

export type AttemptService = ReturnType<typeof createAttemptService>;

const SeqSchema = z.number().int().min(1).max(Number.MAX_SAFE_INTEGER);
const BatchSchema = z.object({ events: z.array(z.unknown()) });
const NumberedSchema = z.object({ seq: SeqSchema, event: z.unknown().optional(), data: z.unknown().optional() });
const SingleSchema = NumberedSchema.extend({ seq: SeqSchema.optional() });
const JobIdSchema = z.object({ job_id: z.number().int().positive().max(Number.MAX_SAFE_INTEGER) });
const RepeatedSchema = z.object({ attempt: z.unknown().optional(), fence: z.unknown().optional() });

const invalid = (field: string, message: string) => new AppError("VALIDATION_ERROR", `${field}: ${message}`, { field });

const mlflowRunIdOf = (data: unknown): string | null => {
  const id = typeof data === "object" && data !== null ? (data as Record<string, unknown>).mlflow_run_id : null;
  return typeof id === "string" && id.length > 0 && id.length <= 200 ? id : null;
};

/** The field of what is wrong first, for messages. */
const fieldOf = (error: z.ZodError) => String(error.issues[0]?.path[0] ?? "");

/** The calls of a running attempt: what a job token, or the deployment's callback secret, allows. */
export function createAttemptService(deps: {
  jobs: DurableObjectNamespace<TrainingJob>;
  jobRows: JobRepository;
  bucket: R2Bucket;
  config: Config;
  now: () => number;
}) {
  const { jobs, jobRows, bucket, config, now } = deps;
  const limits = { names: config.limits.metric_names, nameLength: config.limits.metric_name_length };
  const object = (jobId: number) => jobs.getByName(String(jobId));

  function readReport(event: unknown, data: unknown) {
    if (typeof event !== "string") {
      return fail("VALIDATION_ERROR", "event: must be a text", "event");
    }
    if (data === undefined) return fail("VALIDATION_ERROR", "data: is required", "data");
    return parseReport(event, data, limits);
  }

  /** An event without a number. */
  async function unnumbered(report: Report, data: unknown): Promise<UnnumberedReport> {
    const identity = identityOf(report, report.type === "log" ? await sha256Hex(JSON.stringify(report)) : "");
    return { identity, report, mlflowRunId: mlflowRunIdOf(data) };
  }

  function readSingle(body: unknown) {
    const single = SingleSchema.safeParse(body);
    if (!single.success) throw invalid(fieldOf(single.error) || "event", "invalid event");
    return single.data;
  }

  function readBatch(list: unknown[]) {
    const max = config.limits.events_per_batch;
    if (list.length > max) throw invalid("events", `at most ${max} events in a batch`);
    const events: NumberedReport[] = [];
    const rejected: RejectedReport[] = [];
    for (const [i, raw] of list.entries()) {
      const numbered = NumberedSchema.safeParse(raw);
      if (!numbered.success) throw invalid(`events.${i}.${fieldOf(numbered.error)}`, "invalid event");
      const { seq, event, data } = numbered.data;
      const report = readReport(event, data);
      if (report.ok) events.push({ seq, report: report.value, mlflowRunId: mlflowRunIdOf(data) });
      else rejected.push({ seq, ...report.error });
    }
    return { events, rejected };
  }

  async function recordBatch(claims: JobTokenClaims, list: unknown[]) {
    const { events, rejected } = readBatch(list);
    return unwrap(await object(claims.jobId).record(claims, events, rejected));
  }

  /** The only event of a call holds up no others: what is wrong with it is the answer, not an entry of a list. */
  async function recordSingle(claims: JobTokenClaims, body: unknown) {
    const { seq, event, data } = readSingle(body);
    const answer =
      seq === undefined
        ? unwrap(
            await object(claims.jobId).recordUnnumbered(
              claims,
              await unnumbered(unwrap(readReport(event, data)), data),
            ),
          )
        : await recordBatch(claims, [{ seq, event, data }]);
    if (answer.rejected[0] !== undefined) throw toAppError(answer.rejected[0]);
    return answer;
  }

  async function recordLeased(claims: JobTokenClaims, body: unknown) {
    const { attempt = claims.attempt, fence = claims.fence } = RepeatedSchema.parse(body);
    if (attempt !== claims.attempt || fence !== claims.fence) {
      throw new AppError("STALE_LEASE", "This attempt no longer owns the job");
    }
    const batch = BatchSchema.safeParse(body);
    const answer = batch.success ? await recordBatch(claims, batch.data.events) : await recordSingle(claims, body);
    // A tuple comes out of the object's typed call as an array.
    const missing = answer.missing.map(([first = 0, last = 0]): [number, number] => [first, last]);
    if (!answer.taken) {
      const message = `More than ${config.limits.seq_window} numbers above ${answer.ackSeq}: send what is missing first`;
      throw new AppError("TOO_MANY_EVENTS", message, {
        headers: { "retry-after": "1" },
        details: { ack_seq: answer.ackSeq, missing },
      });
    }
    return {
      status: "received" as const,
      job_id: claims.jobId,
      ack_seq: answer.ackSeq,
      missing,
      rejected: answer.rejected,
      desired: answer.desired,
    };
  }

  async function recordPlain(jobId: number, body: unknown) {
    const { data, event: name } = readSingle(body);
    const report = unwrap(readReport(name, data));
    if (report.type === "end" && report.outcome === "released") {
      throw invalid("event", "only a runner with a lease can give a job back");
    }
    const event = await unnumbered(report, data);
    const target = object(jobId);
    let result = await target.recordPlain(event, null);
    if (result === null) {
      const row = await jobRows.byId(jobId);
      if (row === undefined) throw new AppError("JOB_NOT_FOUND", "Job not found");
      result = await target.recordPlain(event, specOf(row));
    }
    if (result === null) throw new AppError("INTERNAL_ERROR", "Internal server error");
    const { rejected } = unwrap(result);
    if (rejected !== null) throw toAppError(rejected);
    return { status: "received" as const, job_id: jobId };
  }

  return {
    /** The claims of a job token for this job. @throws UNAUTHORIZED · FORBIDDEN for another job's token */
    async claimsFor(token: string | null, jobId: string): Promise<JobTokenClaims> {
      const claims = token === null ? null : await readJobToken(config.jwtSecret, token);
      if (claims === null) throw new AppError("UNAUTHORIZED", "A valid job token is required");
      if (String(claims.jobId) !== jobId) throw new AppError("FORBIDDEN", "This token is for another job");
      return claims;
    },

    /**
     * The callback, single or batch, with a job token or with the contract's own secret. The credential is checked before
     * the body is looked at.
     */
    async callback(credential: { bearer: string | null; secret: string | undefined }, body: () => Promise<unknown>) {
      if (credential.bearer !== null) {
        const claims = await readJobToken(config.jwtSecret, credential.bearer);
        if (claims === null) throw new AppError("UNAUTHORIZED", "A valid job token is required");
        const content = await body();
        const named = JobIdSchema.safeParse(content);
        if (!named.success) throw invalid("job_id", "must be a positive integer");
        if (named.data.job_id !== claims.jobId) throw new AppError("FORBIDDEN", "This token is for another job");
        return recordLeased(claims, content);
      }
      if (!credential.secret) throw new AppError("UNAUTHORIZED", "The header X-Internal-Auth is required");
      if (config.internalSecrets.length === 0) {
        throw new AppError("CALLBACK_NOT_CONFIGURED", "This deployment has no INTERNAL_SECRET");
      }
      if (!(await isOneOf(credential.secret, config.internalSecrets))) {
        throw new AppError("FORBIDDEN", "X-Internal-Auth is not valid");
      }
      const content = await body();
      const named = JobIdSchema.safeParse(content);
      if (!named.success) throw invalid("job_id", "must be a positive integer");
      return recordPlain(named.data.job_id, content);
    },

    /** @param sentAt the runner's clock as it says, only for showing how far it is off */
    async heartbeat(claims: JobTokenClaims, sentAt: string | null) {
      const at = now();
      const sentAtMs = sentAt === null ? Number.NaN : Date.parse(sentAt);
      const skewMs = Number.isFinite(sentAtMs) ? at - sentAtMs : null;
      const answer = unwrap(await object(claims.jobId).heartbeat(claims, skewMs));
      if (skewMs !== null && Math.abs(skewMs) > SKEW_WARNING_MS) {
        logger.warn("a runner's clock is off", { jobId: claims.jobId, skewMs });
      }
      return {
        lease_s: config.timers.lease_s,
        desired: answer.desired,
        grace_s: config.timers.stop_grace_s,
        ack_seq: answer.ackSeq,
        server_time: isoSeconds(at),
        skew_s: skewMs === null ? null : Math.round(skewMs / 1000),
      };
    },

    /** Stores a chunk of log lines; invalid UTF-8 becomes replacement characters, NUL is dropped (SQLite text ends at it). */
    async logChunk(claims: JobTokenClaims, stream: "stdout" | "stderr", seq: number, bytes: Uint8Array<ArrayBuffer>) {
      const text = new TextDecoder().decode(bytes).replaceAll("\u0000", "\ufffd");
      const stored = unwrap(
        await object(claims.jobId).logChunk(claims, {
          stream,
          seq,
          text,
          bytes: bytes.byteLength,
          sha256: await sha256Hex(bytes),
        }),
      );
      return { stored: stored.stored, body: { next_seq: stored.nextSeq } };
    },

    /** The dataset of the attempt, once its fence is known to be the current one. */
    async datasetOf(claims: JobTokenClaims): Promise<string> {
      return unwrap(await object(claims.jobId).datasetOf(claims)).datasetId;
    },

    async createArtifact(
      claims: JobTokenClaims,
      input: {
        kind: "checkpoint" | "model" | "plot" | "file";
        name: string;
        size: number;
        sha256: string;
        epoch?: number | null;
        role?: "best" | "last" | null;
        manifest?: Record<string, unknown> | null;
      },
    ) {
      if (input.size > config.limits.artifact_bytes) {
        throw new AppError("PAYLOAD_TOO_LARGE", `An artifact may have at most ${config.limits.artifact_bytes} bytes`);
      }
      if (input.manifest) {
        // A task or format that this Worker cannot run is stored all the same; a contradiction is refused now.
        const manifest = parseManifest(input.manifest);
        if (!manifest.ok && manifest.error.code === "VALIDATION_ERROR") throw toAppError(manifest.error);
      }
      const created = unwrap(
        await object(claims.jobId).createUpload(claims, {
          artifactId: newUuid(),
          kind: input.kind,
          name: input.name,
          sizeBytes: input.size,
          sha256: input.sha256,
          epoch: input.epoch ?? null,
          role: input.role ?? null,
          manifest: input.manifest ? JSON.stringify(input.manifest) : null,
        }),
      );
      return { artifact_id: created.artifactId, part_size: created.partSize, parts: created.parts };
    },

    /** Streams one part into R2; its size must be the one the upload has for it. */
    async putPart(claims: JobTokenClaims, artifactId: string, n: number, request: Request) {
      const target = object(claims.jobId);
      const part = unwrap(await target.openPart(claims, artifactId, n));
      const { key, sizeBytes, uploadId } = part;
      if (Number(request.headers.get("content-length") ?? Number.NaN) !== sizeBytes) {
        throw invalid("content-length", `part ${n} has ${sizeBytes} bytes`);
      }
      const declared = request.headers.get("x-part-sha256");
      if (declared !== null && (!/^[0-9a-f]{64}$/.test(declared) || declared !== (part.sha256 ?? declared))) {
        throw invalid("x-part-sha256", "must be the hash of this part, 64 lower-case hex digits");
      }
      const body = request.body ?? new Blob([]).stream();
      const stored =
        uploadId === null
          ? await putObject(key, body, sizeBytes, part.sha256)
          : await putMultipart({ key, uploadId, n, sizeBytes }, body, declared);
      const noted = unwrap(await target.partStored(claims, artifactId, { n, etag: stored.etag, sizeBytes }));
      if (stored.etag === null) throw invalid("x-part-sha256", "the bytes that arrived have another hash");
      return noted;
    },

    async artifactState(claims: JobTokenClaims, artifactId: string) {
      const { state, row, partSize, parts, received } = unwrap(
        await object(claims.jobId).uploadState(claims, artifactId),
      );
      return {
        artifact_id: row.id,
        state,
        kind: row.kind,
        name: row.name,
        size: row.sizeBytes,
        sha256: row.sha256,
        epoch: row.epoch,
        role: row.role,
        part_size: partSize,
        parts,
        received,
      };
    },

    async artifactContent(claims: JobTokenClaims, artifactId: string): Promise<Content> {
      const row = unwrap(await object(claims.jobId).artifact(claims, artifactId));
      return {
        sizeBytes: row.sizeBytes,
        sha256: row.sha256,
        contentType: "application/octet-stream",
        downloadName: row.name,
        open: async (range) => {
          const stored = await bucket.get(row.storageKey, range ? { range } : {});
          if (stored === null) throw new AppError("ARTIFACT_NOT_FOUND", "Artifact not found");
          return stored.body;
        },
      };
    },

    async completeArtifact(claims: JobTokenClaims, artifactId: string) {
      const done = unwrap(await object(claims.jobId).completeUpload(claims, artifactId));
      return { artifact_id: done.artifactId, checkpoint_path: done.key };
    },

    async abortArtifact(claims: JobTokenClaims, artifactId: string) {
      unwrap(await object(claims.jobId).abortUpload(claims, artifactId));
    },
  };

  /** A whole artifact in one object; R2 refuses bytes that do not have the declared hash. */
  async function putObject(key: string, body: ReadableStream<Uint8Array>, sizeBytes: number, sha256: string | null) {
    const fixed = new FixedLengthStream(sizeBytes);
    const piped = body.pipeTo(fixed.writable);
    try {
      const [stored] = await Promise.all([bucket.put(key, fixed.readable, sha256 === null ? {} : { sha256 }), piped]);
      return { etag: stored.etag };
    } catch (thrown) {
      await piped.catch(() => undefined);
      if (/checksum|digest|sha-?256|10037/i.test(errorText(thrown))) {
        throw invalid("sha256", "the bytes that arrived have another hash");
      }
      throw unavailable(key, thrown);
    }
  }

  /**
   * One part of several. Its declared hash is computed while it streams; on a mismatch R2 has the wrong bytes for this
   * part, and the etag is null.
   */
  async function putMultipart(
    part: { key: string; uploadId: string; n: number; sizeBytes: number },
    body: ReadableStream<Uint8Array>,
    declared: string | null,
  ): Promise<{ etag: string | null }> {
    try {
      return { etag: await storePart(bucket, part, body, declared) };
    } catch (thrown) {
      throw unavailable(part.key, thrown);
    }
  }
}

function unavailable(storageKey: string, thrown: unknown): AppError {
  logger.warn("part not stored", { storageKey, error: errorText(thrown) });
  return new AppError("STORAGE_UNAVAILABLE", "The part could not be stored; send it again", {
    headers: { "retry-after": "1" },
  });
}
