import { z } from "zod";
import { isOneOf } from "../../auth/secret.ts";
import { type JobTokenClaims, readJobToken } from "../../auth/tokens.ts";
import type { Config } from "../../config.ts";
import type { Content } from "../../http/content.ts";
import { AppError, toAppError, unwrap } from "../../shared/errors.ts";
import { newUuid, sha256Hex, toHex } from "../../shared/ids.ts";
import { isoSeconds } from "../../shared/time.ts";
import { parseManifest } from "../inference/manifest.ts";
import type { NumberedReport, RejectedReport } from "../jobs/events.ts";
import { parseReport } from "../jobs/events.ts";
import type { TrainingJob } from "../jobs/object.ts";
import type { JobRepository } from "../jobs/repository.ts";
import { specOf } from "../jobs/spec.ts";

export type AttemptService = ReturnType<typeof createAttemptService>;

const BatchSchema = z.object({ events: z.array(z.unknown()) });
const NumberedSchema = z.object({
  seq: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER),
  event: z.string(),
  data: z.unknown().optional(),
});
const SingleSchema = z.object({
  event: z.string(),
  data: z.unknown().optional(),
  seq: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER).optional(),
});
const JobIdSchema = z.object({ job_id: z.number().int().positive().max(Number.MAX_SAFE_INTEGER) });
const RepeatedSchema = z.object({ attempt: z.number().optional(), fence: z.number().optional() });

const invalid = (field: string, message: string) => new AppError("VALIDATION_ERROR", `${field}: ${message}`, { field });

const mlflowRunIdOf = (data: unknown): string | null => {
  const id = typeof data === "object" && data !== null ? (data as Record<string, unknown>).mlflow_run_id : null;
  return typeof id === "string" && id.length > 0 && id.length <= 200 ? id : null;
};

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

  /** Reads one plain or single event. @throws VALIDATION_ERROR */
  function readSingle(body: unknown) {
    const single = SingleSchema.safeParse(body);
    if (!single.success) {
      const issue = single.error.issues[0];
      throw invalid(String(issue?.path[0] ?? "event"), issue?.message ?? "invalid");
    }
    if (single.data.data === undefined) throw invalid("data", "is required");
    const report = parseReport(single.data.event, single.data.data, limits);
    if (!report.ok) throw toAppError(report.error);
    return { seq: single.data.seq, report: report.value, mlflowRunId: mlflowRunIdOf(single.data.data) };
  }

  async function recordLeased(claims: JobTokenClaims, body: unknown) {
    const repeated = RepeatedSchema.safeParse(body);
    const { attempt, fence } = repeated.success ? repeated.data : {};
    if ((attempt !== undefined && attempt !== claims.attempt) || (fence !== undefined && fence !== claims.fence)) {
      throw new AppError("STALE_LEASE", "This attempt no longer owns the job");
    }
    const events: NumberedReport[] = [];
    const rejected: RejectedReport[] = [];
    const batch = BatchSchema.safeParse(body);
    if (batch.success) {
      const max = config.limits.events_per_batch;
      if (batch.data.events.length > max) throw invalid("events", `at most ${max} events in a batch`);
      for (const [i, raw] of batch.data.events.entries()) {
        const numbered = NumberedSchema.safeParse(raw);
        if (!numbered.success)
          throw invalid(`events.${i}.${String(numbered.error.issues[0]?.path[0] ?? "")}`, "invalid event");
        const { seq, event, data } = numbered.data;
        const report = parseReport(event, data, limits);
        if (report.ok) events.push({ seq, report: report.value, mlflowRunId: mlflowRunIdOf(data) });
        else rejected.push({ seq, ...report.error });
      }
    } else {
      const { seq, report, mlflowRunId } = readSingle(body);
      if (seq === undefined) throw invalid("seq", "a leased attempt numbers its events");
      events.push({ seq, report, mlflowRunId });
    }
    const answer = unwrap(await object(claims.jobId).record(claims, events, rejected));
    return {
      status: "received" as const,
      job_id: claims.jobId,
      ack_seq: answer.ackSeq,
      missing: answer.missing,
      rejected: answer.rejected,
      desired: answer.desired,
    };
  }

  async function recordPlain(jobId: number, body: unknown) {
    const { report, mlflowRunId } = readSingle(body);
    const digest = await sha256Hex(JSON.stringify(report));
    const target = object(jobId);
    const first = await target.recordPlain(report, digest, mlflowRunId, null);
    let result = first;
    if (result === null) {
      const row = await jobRows.byId(jobId);
      if (row === undefined) throw new AppError("JOB_NOT_FOUND", "Job not found");
      result = await target.recordPlain(report, digest, mlflowRunId, specOf(row));
    }
    if (result === null) throw new AppError("INTERNAL_ERROR", "Internal server error");
    unwrap(result);
    return { status: "received" as const, job_id: jobId };
  }

  return {
    /** The claims of a job token for this job. @throws UNAUTHORIZED · FORBIDDEN for another job's token */
    async claimsFor(token: string | null, jobId: number): Promise<JobTokenClaims> {
      const claims = token === null ? null : await readJobToken(config.jwtSecret, token);
      if (claims === null) throw new AppError("UNAUTHORIZED", "A valid job token is required");
      if (claims.jobId !== jobId) throw new AppError("FORBIDDEN", "This token is for another job");
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

    async heartbeat(claims: JobTokenClaims) {
      const answer = unwrap(await object(claims.jobId).heartbeat(claims));
      return {
        lease_s: config.timers.lease_s,
        desired: answer.desired,
        grace_s: config.timers.stop_grace_s,
        ack_seq: answer.ackSeq,
        server_time: isoSeconds(now()),
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
      return unwrap(await object(claims.jobId).touch(claims)).datasetId;
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
      const length = Number(request.headers.get("content-length") ?? Number.NaN);
      if (length !== part.sizeBytes) {
        throw invalid("content-length", `part ${n} has ${part.sizeBytes} bytes`);
      }
      const declared = request.headers.get("x-part-sha256");
      if (declared !== null && !/^[0-9a-f]{64}$/.test(declared))
        throw invalid("x-part-sha256", "must be 64 hex digits");
      const body = request.body ?? new Response(new Uint8Array()).body;
      if (body === null) throw new AppError("BAD_REQUEST", "The part has no body");
      const sha256 = part.sha256 ?? declared;
      const etag =
        part.uploadId === null
          ? await putObject(part.key, body, part.sizeBytes, sha256)
          : await putMultipart(
              { key: part.key, uploadId: part.uploadId, n, sizeBytes: part.sizeBytes },
              body,
              declared,
            );
      return unwrap(await target.partStored(claims, artifactId, n, etag, part.sizeBytes));
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
  async function putObject(
    key: string,
    body: ReadableStream,
    sizeBytes: number,
    sha256: string | null,
  ): Promise<string> {
    const fixed = new FixedLengthStream(sizeBytes);
    const piped = body.pipeTo(fixed.writable);
    try {
      const [stored] = await Promise.all([bucket.put(key, fixed.readable, sha256 === null ? {} : { sha256 }), piped]);
      return stored.etag;
    } catch (thrown) {
      await piped.catch(() => undefined);
      if (/checksum|digest|sha-?256|10037/i.test(String(thrown))) {
        throw invalid("sha256", "the bytes that arrived have another hash");
      }
      throw thrown;
    }
  }

  /** One part of several. Its declared digest is computed while it streams; a wrong one is not noted as received. */
  async function putMultipart(
    part: { key: string; uploadId: string; n: number; sizeBytes: number },
    body: ReadableStream,
    declared: string | null,
  ): Promise<string> {
    const upload = bucket.resumeMultipartUpload(part.key, part.uploadId);
    if (declared === null) return (await upload.uploadPart(part.n, body)).etag;
    const [toStore, toHash] = body.tee();
    const fixed = new FixedLengthStream(part.sizeBytes);
    const hash = new crypto.DigestStream("SHA-256");
    const [stored] = await Promise.all([
      upload.uploadPart(part.n, fixed.readable),
      toStore.pipeTo(fixed.writable),
      toHash.pipeTo(hash),
    ]);
    if (toHex(new Uint8Array(await hash.digest)) !== declared) {
      throw invalid("x-part-sha256", "the bytes that arrived have another hash");
    }
    return stored.etag;
  }
}
