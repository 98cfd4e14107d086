import { z } from "zod";
import { unauthorized } from "../../auth/bearer.ts";
import type { Principal } from "../../auth/principal.ts";
import type { ByteRange, Content } from "../../http/content.ts";
import { validationError } from "../../http/create-api.ts";
import { readCursor, writeCursor } from "../../http/cursor.ts";
import { AppError, unwrap } from "../../shared/errors.ts";
import { newUuid } from "../../shared/ids.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { isoSeconds } from "../../shared/time.ts";
import { keys } from "../../storage/keys.ts";
import { openRange, storedObject } from "../../storage/ranges.ts";
import { finishRemoval } from "../../storage/removals.ts";
import { createOnce, idempotencyKey } from "../idempotency.ts";
import type { ProjectService } from "../projects/service.ts";
import { type DatasetContent, readLooseContent, readZipContent } from "./content.ts";
import { isImagePath } from "./formats/images.ts";
import { FORMATS } from "./formats/index.ts";
import type { FormatName, SplitName } from "./formats/types.ts";
import { baseName } from "./paths.ts";
import {
  type ChangeFacts,
  type DatasetFileRow,
  type DatasetRepository,
  type DatasetRow,
  newDatasetRow,
} from "./repository.ts";
import { DatasetFieldsSchema } from "./schemas.ts";
import { receiveUpload, type Upload, uploadKeys } from "./upload.ts";
import { createUploadService } from "./uploads/service.ts";

export type DatasetService = ReturnType<typeof createDatasetService>;

/** Files in one page of a manifest. */
const MANIFEST_PAGE = 1_000;
const CURSOR_KIND = "dataset_files";
const LIST_CURSOR_KIND = "dataset_file_list";
const CursorSchema = z.tuple([z.number().int().min(1)]);

type ListedRow = Omit<DatasetRow, "classNames" | "classDistribution" | "splits" | "warnings">;

const toListed = (row: ListedRow) => ({
  id: row.id,
  name: row.name,
  description: row.description,
  format: row.format,
  layout: row.layout,
  visibility: row.visibility,
  project_id: row.projectId,
  owner_id: row.ownerId,
  task_type: row.taskType,
  file_count: row.fileCount,
  total_size_bytes: row.totalSizeBytes,
  num_classes: row.numClasses,
  content_hash: row.contentHash,
  created_at: isoSeconds(row.createdAt),
  updated_at: isoSeconds(row.updatedAt),
});

const toDataset = (row: DatasetRow) => ({
  ...toListed(row),
  class_names: row.classNames,
  class_distribution: row.classDistribution,
  splits: row.splits,
  warnings: row.warnings,
});

const toFile = (file: Pick<DatasetFileRow, "fileId" | "path" | "sizeBytes" | "sha256" | "split" | "label">) => ({
  file_id: file.fileId,
  path: file.path,
  size_bytes: file.sizeBytes,
  sha256: file.sha256,
  split: SPLITS.find((split) => split === file.split) ?? null,
  label: file.label,
});
const SPLITS: readonly SplitName[] = ["train", "val", "test"];

const notFound = () => new AppError("DATASET_NOT_FOUND", "Dataset not found");

/** Throws unless the dataset is there and the caller may read it. */
function assertReadable(found: { visibility: string | null; role: string | null } | undefined): void {
  if (found === undefined) throw unauthorized();
  if (found.visibility === null || (found.role === null && found.visibility !== "public")) throw notFound();
}

/** Why a guarded write changed nothing. */
function refusalOf(facts: ChangeFacts): AppError {
  assertReadable(facts.isCaller ? facts : undefined);
  if (facts.role !== "owner" && facts.role !== "editor") {
    return new AppError("FORBIDDEN", "Only owners and editors of its project can change a dataset");
  }
  if (facts.isInUse) return new AppError("INVALID_STATUS", "A queued or running training job uses this dataset");
  // It went between the two statements of another batch.
  return notFound();
}

export function createDatasetService(deps: {
  datasets: DatasetRepository;
  projects: ProjectService;
  bucket: R2Bucket;
  now: () => number;
}) {
  const { datasets, projects, bucket, now } = deps;

  /** Reads what was uploaded as the declared format. */
  async function readContent(
    upload: Upload,
    format: FormatName,
  ): Promise<{ storageKey: string; content: DatasetContent }> {
    const { content } = upload;
    const parser = FORMATS[format];
    if (content === null)
      throw new AppError("VALIDATION_ERROR", "files: at least one file is required", { field: "files" });
    const { storageKey } = content;
    const object = await storedObject(bucket, storageKey);
    const read =
      content.kind === "zip"
        ? await readZipContent(object, parser)
        : await readLooseContent(object, content.files, parser);
    return { storageKey, content: unwrap(read) };
  }

  /** Removes what an upload left in storage; deleting what is not there is no error. */
  async function dropUpload(id: string): Promise<void> {
    await bucket.delete(uploadKeys(id)).catch((error: unknown) => {
      logger.error("dataset upload not removed", { datasetId: id, error: errorText(error) });
    });
  }

  /** @throws UNAUTHORIZED · DATASET_NOT_FOUND for an unknown one and for one the caller may not read */
  async function get(principal: Principal, datasetId: string) {
    const found = await datasets.find(principal, datasetId);
    if (found === undefined) throw unauthorized();
    const { dataset, role } = found;
    if (dataset === null || (role === null && dataset.visibility !== "public")) throw notFound();
    return toDataset(dataset);
  }

  function contentOf(file: DatasetFileRow): Content {
    const name = baseName(file.path);
    const isImage = isImagePath(name);
    return {
      sizeBytes: file.sizeBytes,
      sha256: file.sha256,
      contentType: isImage ? imageType(name) : "application/octet-stream",
      ...(isImage ? {} : { downloadName: name }),
      open: (range: ByteRange | null) =>
        openRange(
          bucket,
          {
            storageKey: file.storageKey,
            offset: file.zipOffset ?? 0,
            packedBytes: file.compressedSizeBytes ?? file.sizeBytes,
            sizeBytes: file.sizeBytes,
            deflated: file.method === 8,
          },
          range,
        ),
    };
  }

  return {
    /**
     * Creates a dataset from a multipart form: stores the files, reads them as the declared format, indexes them. Whatever
     * is wrong, nothing of it stays.
     * @param keyGiven the request's `Idempotency-Key`
     * @throws UNAUTHORIZED · PROJECT_NOT_FOUND · FORBIDDEN · VALIDATION_ERROR with the field · BAD_REQUEST · PAYLOAD_TOO_LARGE ·
     *   UNSUPPORTED_MEDIA_TYPE
     */
    async create(principal: Principal, request: Request, keyGiven?: string) {
      const id = newUuid();
      let checkedProject: number | null | undefined;
      try {
        const upload = await receiveUpload(request, bucket, id, async (early) => {
          // As far as the fields are known by now; all of them are checked again when the form is complete.
          const known = DatasetFieldsSchema.partial().safeParse(Object.fromEntries(early));
          if (!known.success) throw validationError(known.error);
          checkedProject = known.data.project_id ?? null;
          await projects.writable(principal, checkedProject);
        });
        const parsed = DatasetFieldsSchema.safeParse(Object.fromEntries(upload.fields));
        if (!parsed.success) throw validationError(parsed.error);
        const fields = parsed.data;
        const wantedProject = fields.project_id ?? null;
        if (wantedProject !== checkedProject) await projects.writable(principal, wantedProject);
        const { storageKey, content } = await readContent(upload, fields.format);
        // Asked last: an upload takes its time, and the caller may have lost the project meanwhile.
        const { projectId, userId } = await projects.writable(principal, wantedProject);
        const row = newDatasetRow(
          { ...fields, id, projectId, ownerId: userId, description: fields.description ?? null },
          content,
          now(),
        );
        // What it was made from is known by its hash; the bytes of a repetition are the same ones.
        const key = await idempotencyKey(keyGiven, "createDataset", { ...fields, content_hash: content.contentHash });
        const dataset = await createOnce(
          { binding: datasets.binding, now },
          principal,
          key,
          async () => {
            await datasets.create(row, storageKey, content.files, key);
            return toDataset(row);
          },
          (datasetId) => get(principal, datasetId),
        );
        if (dataset.id !== id) await dropUpload(id);
        return dataset;
      } catch (thrown) {
        await dropUpload(id);
        throw thrown;
      }
    },

    /** @throws UNAUTHORIZED */
    async list(principal: Principal, query: { project_id?: number; format?: FormatName; skip: number; limit: number }) {
      const { skip, limit } = query;
      const rows = await datasets.list(principal, { projectId: query.project_id, format: query.format, skip, limit });
      if (rows.length === 0) throw unauthorized();
      return {
        datasets: rows.flatMap(({ dataset }) => (dataset ? [toListed(dataset)] : [])),
        total: rows[0]?.total ?? 0,
        skip,
        limit,
      };
    },

    get,

    /** Zips in parts, for what one request cannot hold. */
    uploads: createUploadService({ datasets, projects, bucket, now, datasetFor: get }),

    /**
     * One page of the files, in the order of their paths.
     * @throws UNAUTHORIZED · DATASET_NOT_FOUND · VALIDATION_ERROR for a bad cursor
     */
    async files(
      principal: Principal,
      datasetId: string,
      query: { split?: SplitName | "none"; label?: string; prefix?: string; cursor?: string; limit: number },
    ) {
      const { split, label, prefix, cursor, limit } = query;
      const after = cursor === undefined ? 0 : readCursor(cursor, LIST_CURSOR_KIND, CursorSchema, "cursor")[0];
      const rows = await datasets.files(
        principal,
        datasetId,
        { split: split === "none" ? null : split, label, prefix },
        after,
        limit + 1,
      );
      assertReadable(rows[0]);
      const files = rows.slice(0, limit).flatMap(({ file }) => (file ? [toFile(file)] : []));
      const last = files.at(-1);
      return {
        dataset_id: datasetId,
        files,
        next_cursor: rows.length > limit && last ? writeCursor(LIST_CURSOR_KIND, [last.file_id]) : null,
      };
    },

    /** One file for a user. @throws UNAUTHORIZED · DATASET_NOT_FOUND · FILE_NOT_FOUND */
    async readableFile(principal: Principal, datasetId: string, fileId: number): Promise<Content> {
      const found = await datasets.fileFor(principal, datasetId, fileId);
      assertReadable(found);
      if (!found?.file) throw new AppError("FILE_NOT_FOUND", "File not found");
      return contentOf(found.file);
    },

    /** @throws UNAUTHORIZED · DATASET_NOT_FOUND · FORBIDDEN */
    async change(
      principal: Principal,
      datasetId: string,
      changes: { name?: string; description?: string | null; visibility?: "private" | "public" },
    ) {
      const { facts, changed } = await datasets.update(principal, datasetId, changes, now());
      // Whether a job uses it is no matter here.
      if (changed === null) throw refusalOf({ ...facts, isInUse: false });
      return toDataset(changed);
    },

    /**
     * Deletes a dataset: its rows in one batch, then its objects. What a crash leaves of the objects is removed later.
     * @throws UNAUTHORIZED · DATASET_NOT_FOUND · FORBIDDEN · INVALID_STATUS while a live job uses it
     */
    async delete(principal: Principal, datasetId: string, requestId: string): Promise<void> {
      const actor = { userId: principal.userId, requestId };
      const { facts, isDeleted } = await datasets.delete(actor, principal, datasetId, now());
      if (!isDeleted) throw refusalOf(facts);
      // The deletion stands, whatever storage says; the order to remove stays until it is done.
      await finishRemoval(datasets.binding, bucket, keys.datasetPrefix(datasetId)).catch((error: unknown) => {
        logger.error("dataset objects not removed", { datasetId, error: errorText(error) });
      });
    },

    /**
     * One page of the files of a dataset; the caller has proved its right to them.
     * @param cursor `next_cursor` of the page before
     * @throws DATASET_NOT_FOUND · VALIDATION_ERROR for a bad cursor
     */
    async manifestPage(datasetId: string, cursor: string | undefined) {
      const after = cursor === undefined ? 0 : readCursor(cursor, CURSOR_KIND, CursorSchema, "cursor")[0];
      const rows = await datasets.filesAfter(datasetId, after, MANIFEST_PAGE + 1);
      const [first] = rows;
      if (first === undefined) throw notFound();
      const files = rows
        .slice(0, MANIFEST_PAGE)
        .flatMap(({ file }) =>
          file ? [{ file_id: file.fileId, path: file.path, size: file.sizeBytes, sha256: file.sha256 }] : [],
        );
      const last = files.at(-1);
      return {
        dataset_id: datasetId,
        content_hash: first.contentHash,
        files,
        next_cursor: rows.length > MANIFEST_PAGE && last ? writeCursor(CURSOR_KIND, [last.file_id]) : null,
      };
    },

    /**
     * One file of a dataset, ready to be served whole, by range or by hash; the caller has proved its right to it.
     * @throws FILE_NOT_FOUND
     */
    async fileContent(datasetId: string, fileId: number): Promise<Content> {
      const file = await datasets.file(datasetId, fileId);
      if (file === undefined) throw new AppError("FILE_NOT_FOUND", "File not found");
      return contentOf(file);
    },
  };
}

const IMAGE_TYPES: ReadonlyMap<string, string> = new Map([
  ["jpg", "image/jpeg"],
  ["jpeg", "image/jpeg"],
  ["png", "image/png"],
  ["bmp", "image/bmp"],
  ["gif", "image/gif"],
  ["tif", "image/tiff"],
  ["tiff", "image/tiff"],
  ["webp", "image/webp"],
]);

const imageType = (name: string): string =>
  IMAGE_TYPES.get(name.slice(name.lastIndexOf(".") + 1).toLowerCase()) ?? "application/octet-stream";
