import { unauthorized } from "../../../auth/bearer.ts";
import type { Principal } from "../../../auth/principal.ts";
import type { IdempotencyKey } from "../../../db/idempotency.ts";
import { AppError } from "../../../shared/errors.ts";
import { newUuid } from "../../../shared/ids.ts";
import { errorText, logger } from "../../../shared/logger.ts";
import { drain, openChunkReader } from "../../../shared/streams.ts";
import { isoSeconds } from "../../../shared/time.ts";
import { keys } from "../../../storage/keys.ts";
import { objectSha256, storePart } from "../../../storage/parts.ts";
import { storedObject } from "../../../storage/ranges.ts";
import { finishRemoval } from "../../../storage/removals.ts";
import { createOnce } from "../../idempotency.ts";
import type { ProjectService } from "../../projects/service.ts";
import { readZipContent } from "../content.ts";
import { FORMATS } from "../formats/index.ts";
import type { FormatName } from "../formats/types.ts";
import { type DatasetRepository, newDatasetRow } from "../repository.ts";
import { ZIP_OBJECT } from "../upload.ts";
import { MAX_OPEN_UPLOADS, missingParts, PART_BYTES, partCount, partSize, UPLOAD_LIFE_MS } from "./plan.ts";
import { createUploadRepository, type FoundUpload, type ReceivedPart, type UploadRow } from "./repository.ts";

/** Of the refused ones more may be there; they go a day later. */
const MAX_LISTED = 100;

type UploadInput = {
  name: string;
  description?: string | null;
  format: FormatName;
  visibility: "private" | "public";
  project_id?: number | null;
  size_bytes: number;
  sha256?: string | null;
};

const notFound = () => new AppError("UPLOAD_NOT_FOUND", "Upload not found");
const invalid = (field: string, message: string) => new AppError("VALIDATION_ERROR", `${field}: ${message}`, { field });
const closed = () => new AppError("UPLOAD_CLOSED", "The upload is complete; no part of it can change");

const objectKey = (uploadId: string) => keys.datasetObject(uploadId, ZIP_OBJECT);

const toUpload = (upload: UploadRow, parts: readonly ReceivedPart[]) => ({
  upload_id: upload.id,
  state: upload.state,
  name: upload.name,
  description: upload.description,
  format: upload.format,
  visibility: upload.visibility,
  project_id: upload.projectId,
  size_bytes: upload.sizeBytes,
  sha256: upload.sha256,
  part_size: upload.partBytes,
  parts: partCount(upload.sizeBytes, upload.partBytes),
  received: parts.map(({ n }) => n),
  dataset_id: upload.state === "completed" ? upload.id : null,
  refusal: upload.refusal && { detail: upload.refusal.message, field: upload.refusal.field },
  created_at: isoSeconds(upload.createdAt),
  updated_at: isoSeconds(upload.updatedAt),
  expires_at: isoSeconds(upload.updatedAt + UPLOAD_LIFE_MS),
});

/** The upload for a member of its project. @throws UNAUTHORIZED · UPLOAD_NOT_FOUND */
function readable(found: FoundUpload | undefined) {
  if (found === undefined) throw unauthorized();
  if (found.upload === null || found.role === null) throw notFound();
  return { ...found, upload: found.upload };
}

/** The upload for the one who began it. @throws UNAUTHORIZED · UPLOAD_NOT_FOUND · FORBIDDEN */
function own(principal: Principal, found: FoundUpload | undefined) {
  const upload = readable(found);
  if (upload.role === "viewer" || upload.upload.ownerId !== principal.userId) {
    throw new AppError("FORBIDDEN", "Only who began an upload, and may still write to its project, goes on with it");
  }
  return upload;
}

/**
 * Uploads of a zip in parts, for what one request cannot hold. The upload's id is the id of the dataset that it becomes. An
 * upload that is cut off anywhere goes on from its state: parts can be sent again, and so can the completion.
 */
export function createUploadService<Dataset>(deps: {
  datasets: DatasetRepository;
  projects: ProjectService;
  bucket: R2Bucket;
  now: () => number;
  /** What a finished dataset looks like to its readers. */
  datasetFor: (principal: Principal, datasetId: string) => Promise<Dataset>;
}) {
  const { datasets, projects, bucket, now } = deps;
  const uploads = createUploadRepository(datasets.binding);

  /** Makes one object of the parts. @throws VALIDATION_ERROR while some are missing · STORAGE_UNAVAILABLE */
  async function assemble({ upload, parts }: { upload: UploadRow; parts: ReceivedPart[] }): Promise<void> {
    const { id, sizeBytes, partBytes, storageUploadId } = upload;
    const missing = missingParts(
      partCount(sizeBytes, partBytes),
      parts.map(({ n }) => n),
    );
    if (missing !== "") throw invalid("parts", `not received: ${missing}`);
    const key = objectKey(id);
    const sent = parts.map(({ n, etag }) => ({ partNumber: n, etag }));
    try {
      await bucket.resumeMultipartUpload(key, storageUploadId).complete(sent);
    } catch (thrown) {
      // An earlier call may have got so far and died, and then the object is there.
      if ((await bucket.head(key))?.size !== sizeBytes) {
        logger.error("upload not assembled", { uploadId: id, error: errorText(thrown) });
        if (!/10025|specified part/i.test(errorText(thrown))) throw unavailable();
        // The same part was sent twice at once, and storage kept the other one. Nobody can tell which part it is.
        await uploads.forgetParts(id);
        throw invalid("parts", "they have to be sent again: one was sent twice at the same time");
      }
    }
    // Removed by its owner meanwhile: nothing names the object any more.
    if (!(await uploads.assembled(id, now())) && !(await uploads.exists(id))) await bucket.delete(key);
  }

  /** Reads the assembled zip into a dataset. @throws VALIDATION_ERROR when it is none, and that stays so */
  async function read(principal: Principal, upload: UploadRow): Promise<void> {
    const key = objectKey(upload.id);
    if (upload.sha256 !== null && (await objectSha256(bucket, key)) !== upload.sha256) {
      await refuse(upload, { message: "sha256: the zip that arrived has another hash", field: "sha256" });
    }
    const content = await readZipContent(await storedObject(bucket, key), FORMATS[upload.format]);
    if (!content.ok) {
      const { message, field } = content.error;
      return refuse(upload, { message, field });
    }
    // Asked last: the caller may have lost the project meanwhile.
    const { projectId } = await projects.writable(principal, upload.projectId);
    const row = newDatasetRow({ ...upload, projectId }, content.value, now());
    await datasets.createFromUpload(row, key, content.value.files);
  }

  async function refuse(upload: UploadRow, refusal: { message: string; field: string }): Promise<never> {
    if (await uploads.refuse(upload.id, refusal, now())) await removeObjects(upload.id);
    throw refusalError(refusal);
  }

  const refusalError = ({ message, field }: { message: string; field: string }) =>
    new AppError("VALIDATION_ERROR", message, { field });

  /** What fails here is ordered already and done by the next sweep. */
  async function removeObjects(uploadId: string): Promise<void> {
    await finishRemoval(datasets.binding, bucket, keys.datasetPrefix(uploadId)).catch((error: unknown) => {
      logger.error("upload objects not removed", { uploadId, error: errorText(error) });
    });
  }

  async function beginNew(principal: Principal, input: UploadInput, key: IdempotencyKey | null) {
    const { projectId, userId } = await projects.writable(principal, input.project_id ?? null);
    const id = newUuid();
    const stored = await bucket.createMultipartUpload(objectKey(id));
    const at = now();
    const upload: UploadRow = {
      id,
      projectId,
      ownerId: userId,
      name: input.name,
      description: input.description ?? null,
      format: input.format,
      visibility: input.visibility,
      sizeBytes: input.size_bytes,
      sha256: input.sha256 ?? null,
      partBytes: PART_BYTES,
      storageUploadId: stored.uploadId,
      state: "open",
      refusal: null,
      createdAt: at,
      updatedAt: at,
    };
    try {
      if (!(await uploads.open(upload, key, MAX_OPEN_UPLOADS))) {
        throw new AppError("QUOTA_EXCEEDED", `At most ${MAX_OPEN_UPLOADS} unfinished uploads; complete or delete one`);
      }
    } catch (thrown) {
      await stored.abort();
      throw thrown;
    }
    return toUpload(upload, []);
  }

  /** @throws UNAUTHORIZED · UPLOAD_NOT_FOUND */
  async function state(principal: Principal, uploadId: string) {
    const { upload, parts } = readable(await uploads.find(principal, uploadId));
    return toUpload(upload, parts);
  }

  return {
    /**
     * Begins an upload; with a key, once.
     * @throws UNAUTHORIZED · PROJECT_NOT_FOUND · FORBIDDEN · QUOTA_EXCEEDED
     */
    async begin(principal: Principal, input: UploadInput, key: IdempotencyKey | null = null) {
      return createOnce(
        { binding: datasets.binding, now },
        principal,
        key,
        () => beginNew(principal, input, key),
        (uploadId) => state(principal, uploadId),
      );
    },

    /**
     * The caller's uploads that are no dataset (yet), the last touched first.
     * @throws UNAUTHORIZED
     */
    async list(principal: Principal) {
      const found = await uploads.unfinished(principal, MAX_LISTED);
      if (found.length === 0) throw unauthorized();
      return {
        uploads: found.flatMap(({ upload, role, parts }) => (upload && role ? [toUpload(upload, parts)] : [])),
      };
    },

    /**
     * Stores part `n`; sent again, it replaces the one before.
     * @param sha256 what the part's hash has to be, hex
     * @throws UNAUTHORIZED · UPLOAD_NOT_FOUND · FORBIDDEN · VALIDATION_ERROR (n, content-length, x-part-sha256) · UPLOAD_CLOSED ·
     *   STORAGE_UNAVAILABLE, also when the body ends early
     */
    async putPart(principal: Principal, uploadId: string, n: number, request: Request, sha256: string | null) {
      try {
        const announced = Number(request.headers.get("content-length") ?? Number.NaN);
        const found = await uploads.beginPart(principal, uploadId, n, Number.isInteger(announced) ? announced : -1);
        const { upload } = own(principal, found);
        const { storageUploadId, partBytes } = upload;
        const sizeBytes = partSize(upload.sizeBytes, partBytes, n);
        if (sizeBytes === null) throw invalid("n", `there are ${partCount(upload.sizeBytes, partBytes)} parts`);
        if (upload.state !== "open") throw closed();
        if (announced !== sizeBytes) throw invalid("content-length", `part ${n} has ${sizeBytes} bytes`);
        const part = { key: objectKey(uploadId), uploadId: storageUploadId, n, sizeBytes };
        const body = request.body ?? new Blob([]).stream();
        const etag = await storePart(bucket, part, body, sha256).catch((error: unknown) => {
          logger.warn("part not stored", { uploadId, n, error: errorText(error) });
          throw unavailable();
        });
        if (etag === null) throw invalid("x-part-sha256", "the bytes that arrived have another hash");
        if (!(await uploads.notePart(uploadId, { n, etag }, now()))) throw closed();
        return { n, size_bytes: sizeBytes };
      } catch (thrown) {
        // A client that is busy sending hears the answer only if its bytes are read.
        if (request.body !== null && !request.bodyUsed) await drain(openChunkReader(request.body), PART_BYTES);
        throw thrown;
      }
    },

    state,

    /**
     * Makes the dataset of the parts, and answers it. Repeated, it goes on where it was cut off, and then answers the same
     * dataset.
     * @throws UNAUTHORIZED · UPLOAD_NOT_FOUND · FORBIDDEN · VALIDATION_ERROR while parts are missing, or when the zip is refused:
     *   the upload stays refused then · STORAGE_UNAVAILABLE
     */
    async complete(principal: Principal, uploadId: string) {
      const found = own(principal, await uploads.find(principal, uploadId));
      const { state, refusal } = found.upload;
      if (state === "refused" && refusal !== null) throw refusalError(refusal);
      if (state === "open") await assemble(found);
      if (state !== "completed") {
        try {
          await read(principal, found.upload);
        } catch (thrown) {
          // The same call twice at once: the first one made the dataset, or refused it, or somebody removed the upload.
          const { upload } = own(principal, await uploads.find(principal, uploadId));
          if (upload.state === "refused" && upload.refusal !== null) throw refusalError(upload.refusal);
          if (upload.state !== "completed") throw thrown;
        }
      }
      return deps.datasetFor(principal, uploadId);
    },

    /**
     * Gives an upload up with everything that came in.
     * @throws UNAUTHORIZED · UPLOAD_NOT_FOUND · FORBIDDEN · UPLOAD_CLOSED when it is a dataset by now
     */
    async remove(principal: Principal, uploadId: string): Promise<void> {
      const { found, isRemoved } = await uploads.remove(principal, uploadId, now());
      const { upload } = own(principal, found);
      if (!isRemoved) throw upload.state === "completed" ? closed() : notFound();
      await discard(bucket, upload);
      await removeObjects(uploadId);
    },
  };
}

const unavailable = () =>
  new AppError("STORAGE_UNAVAILABLE", "Storage did not take it; send it again", { headers: { "retry-after": "1" } });

/** Lets go of parts that storage holds; R2 itself drops them after seven days. */
async function discard(bucket: R2Bucket, { id, state, storageUploadId }: UploadRow): Promise<void> {
  if (state !== "open") return;
  await bucket
    .resumeMultipartUpload(objectKey(id), storageUploadId)
    .abort()
    .catch((error: unknown) => logger.warn("parts not removed", { uploadId: id, error: errorText(error) }));
}

type UploadStores = { DB: D1Database; BUCKET: R2Bucket };

/** Removes uploads with all that came in; those that changed meanwhile stay. @returns how many went */
async function removeUploads(env: UploadStores, rows: UploadRow[], nowMs: number): Promise<number> {
  const uploads = createUploadRepository(env.DB);
  let removed = 0;
  for (const upload of rows) {
    if (!(await uploads.removeUnchanged(upload, nowMs))) continue;
    removed += 1;
    if (upload.state === "completed") continue;
    await discard(env.BUCKET, upload);
    await finishRemoval(env.DB, env.BUCKET, keys.datasetPrefix(upload.id)).catch((error: unknown) => {
      logger.error("upload objects not removed", { uploadId: upload.id, error: errorText(error) });
    });
  }
  return removed;
}

/**
 * Removes uploads without a sign of life for {@link UPLOAD_LIFE_MS}, at most `limit` of them; for the scheduled handler.
 * @returns how many
 */
export async function sweepUploads(env: UploadStores, nowMs: number, limit = 50): Promise<number> {
  const expired = await createUploadRepository(env.DB).expired(nowMs - UPLOAD_LIFE_MS, limit);
  return removeUploads(env, expired, nowMs);
}

/**
 * Removes the uploads into a project that was closed, at most `limit` of them. A finished dataset is left to its own removal.
 * @returns how many
 */
export async function removeProjectUploads(
  env: UploadStores,
  projectId: number,
  nowMs: number,
  limit: number,
): Promise<number> {
  return removeUploads(env, await createUploadRepository(env.DB).ofProject(projectId, limit), nowMs);
}
