import { and, desc, eq, gt, gte, inArray, or, type SQL, sql } from "drizzle-orm";
import { type Actor, auditIfChanged } from "../../audit/entry.ts";
import { isValidCaller, me, type Principal } from "../../auth/principal.ts";
import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { type IdempotencyKey, rememberKey } from "../../db/idempotency.ts";
import {
  datasetFiles,
  datasets,
  datasetUploads,
  type ProjectRole,
  projectMembers,
  trainingJobs,
  users,
} from "../../db/schema/index.ts";
import { keys } from "../../storage/keys.ts";
import { noteRemoval } from "../../storage/removals.ts";
import type { DatasetContent, IndexedFile } from "./content.ts";
import type { FormatName, SplitName } from "./formats/types.ts";

export type DatasetRepository = ReturnType<typeof createDatasetRepository>;
export type DatasetRow = typeof datasets.$inferSelect;
export type DatasetFileRow = typeof datasetFiles.$inferSelect;

/** D1 takes a parameter of at most 2 MB; rows are small, so chunks end well below. */
const MAX_CHUNK_BYTES = 1_500_000;
const MAX_CHUNK_ROWS = 5_000;

/** What a list shows: everything of a dataset but the lists that grow with its classes. */
const listedColumns = {
  id: datasets.id,
  name: datasets.name,
  description: datasets.description,
  format: datasets.format,
  layout: datasets.layout,
  visibility: datasets.visibility,
  projectId: datasets.projectId,
  ownerId: datasets.ownerId,
  taskType: datasets.taskType,
  fileCount: datasets.fileCount,
  totalSizeBytes: datasets.totalSizeBytes,
  numClasses: datasets.numClasses,
  contentHash: datasets.contentHash,
  createdAt: datasets.createdAt,
  updatedAt: datasets.updatedAt,
};

/** Which files of a dataset: `split` null means those in no split. */
export type FileFilter = { split?: SplitName | null; label?: string; prefix?: string };

/** What decides whether a caller may change a dataset, read in the batch of the change. */
export type ChangeFacts = {
  /** False: the caller is not valid, and nothing else was looked up. */
  isCaller: boolean;
  visibility: "private" | "public" | null;
  role: ProjectRole | null;
  isInUse: boolean;
};

/** Whether the caller is valid and owner or editor of the project that `projectId` names. */
export const mayWrite = (principal: Principal, projectId: SQL | typeof datasets.projectId): SQL => sql`exists (
  select 1 from ${users} join ${projectMembers} on ${projectMembers.userId} = ${users.id}
  where ${isValidCaller(principal)} and ${projectMembers.projectId} = ${projectId}
    and ${projectMembers.role} in ('owner', 'editor'))`;

/** Whether a job that runs or waits to run needs the dataset. */
const inUse = (datasetId: string): SQL => sql`exists (
  select 1 from ${trainingJobs} where ${trainingJobs.datasetId} = ${datasetId}
    and ${trainingJobs.status} in ('queued', 'running'))`;

/** A new dataset of what was read, ready to be stored. */
export function newDatasetRow(
  fields: Pick<DatasetRow, "id" | "projectId" | "ownerId" | "name" | "description" | "format" | "visibility">,
  content: DatasetContent,
  atMs: number,
): DatasetRow {
  const { summary } = content;
  return {
    id: fields.id,
    projectId: fields.projectId,
    ownerId: fields.ownerId,
    name: fields.name,
    description: fields.description,
    format: fields.format,
    visibility: fields.visibility,
    layout: summary.layout,
    taskType: summary.taskType,
    fileCount: content.files.length,
    totalSizeBytes: content.totalSizeBytes,
    numClasses: summary.numClasses,
    classNames: summary.classNames,
    classDistribution: summary.classDistribution,
    splits: summary.splits,
    warnings: content.warnings,
    contentHash: content.contentHash,
    createdAt: atMs,
    updatedAt: atMs,
  };
}

const fileInserts = (datasetId: string, storageKey: string, files: readonly IndexedFile[]): SQL[] =>
  [...chunksOf(files)].map(
    (chunk) => sql`
      insert into ${datasetFiles} (dataset_id, file_id, path, size_bytes, sha256, storage_key, zip_offset,
        compressed_size_bytes, method, split, label)
      select ${datasetId}, value->>0, value->>1, value->>2, value->>3, ${storageKey}, value->>4,
        value->>5, value->>6, value->>7, value->>8
      from json_each(${chunk})`,
  );

/**
 * Reads are one statement that also asks whether the caller is still valid: no row means 401; a row without the dataset
 * means 404.
 */
export function createDatasetRepository(binding: D1Database) {
  const db = createDb(binding);

  const changeFacts = (principal: Principal, datasetId: string) => {
    const caller = me(db, principal);
    return db
      .with(caller)
      .select({
        visibility: datasets.visibility,
        role: projectMembers.role,
        isInUse: sql<number>`${inUse(datasetId)}`.as("is_in_use"),
      })
      .from(caller)
      .leftJoin(datasets, eq(datasets.id, datasetId))
      .leftJoin(
        projectMembers,
        and(eq(projectMembers.projectId, datasets.projectId), eq(projectMembers.userId, caller.id)),
      )
      .limit(1);
  };

  return {
    binding,

    /** Stores a dataset, the index of its files and its key, all or nothing. @throws when the key is there already */
    async create(
      row: DatasetRow,
      storageKey: string,
      files: readonly IndexedFile[],
      key: IdempotencyKey | null,
    ): Promise<void> {
      await runBatch(binding, [
        db.insert(datasets).values(row),
        ...fileInserts(row.id, storageKey, files),
        ...(key === null ? [] : rememberKey(row.ownerId, key, row.id, row.createdAt)),
      ]);
    },

    /**
     * The same, and the upload of the same id becomes completed.
     * @throws when there is no such assembled upload (any more), and nothing is stored then
     */
    async createFromUpload(row: DatasetRow, storageKey: string, files: readonly IndexedFile[]): Promise<void> {
      // The project is read from the upload: without one it is null, which the table refuses.
      const projectId = sql<number>`(select ${datasetUploads.projectId} from ${datasetUploads}
        where ${datasetUploads.id} = ${row.id} and ${datasetUploads.state} = 'assembled')`;
      await runBatch(binding, [
        db.insert(datasets).values({ ...row, projectId }),
        sql`update ${datasetUploads} set state = 'completed', updated_at = ${row.createdAt} where id = ${row.id}`,
        ...fileInserts(row.id, storageKey, files),
      ]);
    },

    /** A dataset and the caller's role in its project. */
    async find(principal: Principal, datasetId: string) {
      const caller = me(db, principal);
      const [row] = await db
        .with(caller)
        .select({ userId: caller.id, dataset: datasets, role: projectMembers.role })
        .from(caller)
        .leftJoin(datasets, eq(datasets.id, datasetId))
        .leftJoin(
          projectMembers,
          and(eq(projectMembers.projectId, datasets.projectId), eq(projectMembers.userId, caller.id)),
        )
        .limit(1);
      return row;
    },

    /** One page of what the caller may read, newest first, and the number of all. */
    async list(principal: Principal, filter: { projectId?: number; format?: FormatName; skip: number; limit: number }) {
      const caller = me(db, principal);
      const own = sql`${datasets.projectId} in (select ${projectMembers.projectId} from ${projectMembers} where ${projectMembers.userId} = ${principal.userId})`;
      const conditions: (SQL | undefined)[] = [or(own, eq(datasets.visibility, "public"))];
      if (filter.projectId !== undefined) conditions.push(eq(datasets.projectId, filter.projectId));
      if (filter.format !== undefined) conditions.push(eq(datasets.format, filter.format));
      const readable = and(...conditions);
      const page = db
        .select({ id: datasets.id })
        .from(datasets)
        .where(readable)
        .orderBy(desc(datasets.createdAt), desc(datasets.id))
        .limit(filter.limit)
        .offset(filter.skip);
      return db
        .with(caller)
        .select({ dataset: listedColumns, total: db.$count(datasets, readable) })
        .from(caller)
        .leftJoin(datasets, inArray(datasets.id, page))
        .orderBy(desc(datasets.createdAt), desc(datasets.id));
    },

    /** Files after an id, in order, with their dataset's hash; no row at all when there is no such dataset. */
    async filesAfter(datasetId: string, afterFileId: number, limit: number) {
      return db
        .select({ contentHash: datasets.contentHash, file: datasetFiles })
        .from(datasets)
        .leftJoin(datasetFiles, and(eq(datasetFiles.datasetId, datasets.id), gt(datasetFiles.fileId, afterFileId)))
        .where(eq(datasets.id, datasetId))
        .orderBy(datasetFiles.fileId)
        .limit(limit);
    },

    /**
     * Files of a dataset in the order of their paths, with the caller's right to it; one row without a file when there is
     * none, no row at all when the caller is not valid. Each filter names its index, since the planner prefers the primary
     * key, which would read every file of the dataset; the order is the same in all of them.
     */
    async files(principal: Principal, datasetId: string, filter: FileFilter, afterFileId: number, limit: number) {
      const { split, label, prefix } = filter;
      const { path, fileId } = datasetFiles;
      const conditions: SQL[] = [eq(datasetFiles.datasetId, datasets.id)];
      if (split !== undefined) conditions.push(sql`${datasetFiles.split} is ${split}`);
      if (label !== undefined) conditions.push(eq(datasetFiles.label, label));
      if (prefix !== undefined) {
        // No path goes on with the last code point there is.
        conditions.push(gte(path, prefix), sql`${path} < ${prefix} || char(0x10ffff)`);
      }
      if (afterFileId > 0) {
        conditions.push(
          prefix === undefined
            ? gt(fileId, afterFileId)
            : sql`${path} > (select before.path from ${datasetFiles} before
                where before.dataset_id = ${datasetId} and before.file_id = ${afterFileId})`,
        );
      }
      const index =
        prefix !== undefined
          ? sql`indexed by dataset_files_path`
          : label !== undefined
            ? sql`indexed by dataset_files_label`
            : split !== undefined
              ? sql`indexed by dataset_files_split`
              : sql``;
      const caller = me(db, principal);
      const rows = await db
        .with(caller)
        .select({
          visibility: datasets.visibility,
          role: projectMembers.role,
          // As SQL, since the builder does not see which table the join below is of.
          fileId: sql<number | null>`${fileId}`,
          path: sql<string>`${path}`,
          sizeBytes: sql<number>`${datasetFiles.sizeBytes}`,
          sha256: sql<string>`${datasetFiles.sha256}`,
          split: sql<string | null>`${datasetFiles.split}`,
          label: sql<string | null>`${datasetFiles.label}`,
        })
        .from(caller)
        .leftJoin(datasets, eq(datasets.id, datasetId))
        .leftJoin(
          projectMembers,
          and(eq(projectMembers.projectId, datasets.projectId), eq(projectMembers.userId, caller.id)),
        )
        .leftJoin(sql`${datasetFiles} ${index}`, and(...conditions))
        .orderBy(prefix === undefined ? fileId : path)
        .limit(limit);
      return rows.map(({ visibility, role, fileId: id, ...file }) => ({
        visibility,
        role,
        file: id === null ? null : { ...file, fileId: id },
      }));
    },

    /** One file with the caller's right to its dataset. Undefined: the caller is not valid. */
    async fileFor(principal: Principal, datasetId: string, fileId: number) {
      const caller = me(db, principal);
      const [row] = await db
        .with(caller)
        .select({
          datasetId: datasets.id,
          visibility: datasets.visibility,
          role: projectMembers.role,
          file: datasetFiles,
        })
        .from(caller)
        .leftJoin(datasets, eq(datasets.id, datasetId))
        .leftJoin(
          projectMembers,
          and(eq(projectMembers.projectId, datasets.projectId), eq(projectMembers.userId, caller.id)),
        )
        .leftJoin(datasetFiles, and(eq(datasetFiles.datasetId, datasets.id), eq(datasetFiles.fileId, fileId)))
        .limit(1);
      return row;
    },

    /** Changes a dataset if the caller may; `changed` is null when nothing was, and `facts` say why. */
    async update(
      principal: Principal,
      datasetId: string,
      changes: Partial<Pick<DatasetRow, "name" | "description" | "visibility">>,
      atMs: number,
    ): Promise<{ facts: ChangeFacts; changed: DatasetRow | null }> {
      const [facts, changed] = await db.batch([
        changeFacts(principal, datasetId),
        db
          .update(datasets)
          .set({ ...changes, updatedAt: atMs })
          .where(and(eq(datasets.id, datasetId), mayWrite(principal, datasets.projectId)))
          .returning(),
      ]);
      return { facts: toFacts(facts[0]), changed: changed[0] ?? null };
    },

    /**
     * Deletes the rows of a dataset if the caller may and no live job needs it, and notes that its objects are to be
     * removed; all or nothing.
     */
    async delete(actor: Actor, principal: Principal, datasetId: string, atMs: number) {
      const doomed = sql`select ${datasets.id} from ${datasets} where ${datasets.id} = ${datasetId}
        and ${mayWrite(principal, datasets.projectId)} and not ${inUse(datasetId)}`;
      const { sql: factsSql, params } = changeFacts(principal, datasetId).toSQL();
      const results = await runBatch(binding, [
        { toSQL: () => ({ sql: factsSql, params }) },
        sql`delete from ${datasetFiles} where ${datasetFiles.datasetId} = (${doomed})`,
        sql`delete from ${datasetUploads} where ${datasetUploads.id} = (${doomed})`,
        noteRemoval(keys.datasetPrefix(datasetId), atMs, sql`exists (${doomed})`),
        sql`delete from ${datasets} where ${datasets.id} = (${doomed})`,
        auditIfChanged(actor, { action: "dataset.delete", target: { type: "dataset", id: datasetId } }, atMs),
      ]);
      const [facts] = results[0]?.results ?? [];
      return {
        facts: toFacts(
          facts && {
            visibility: facts.visibility as ChangeFacts["visibility"],
            role: facts.role as ProjectRole | null,
            isInUse: Number(facts.is_in_use),
          },
        ),
        isDeleted: (results[4]?.meta.changes ?? 0) > 0,
      };
    },

    async file(datasetId: string, fileId: number): Promise<DatasetFileRow | undefined> {
      return db.query.datasetFiles.findFirst({
        where: and(eq(datasetFiles.datasetId, datasetId), eq(datasetFiles.fileId, fileId)),
      });
    },
  };
}

const toFacts = (
  row: { visibility: ChangeFacts["visibility"]; role: ProjectRole | null; isInUse: number } | undefined,
): ChangeFacts =>
  row === undefined
    ? { isCaller: false, visibility: null, role: null, isInUse: false }
    : { isCaller: true, visibility: row.visibility, role: row.role, isInUse: row.isInUse === 1 };

/** Rows as JSON arrays of arrays, in chunks that D1 accepts as one parameter. */
export function* chunksOf(files: readonly IndexedFile[]): Generator<string> {
  const encoder = new TextEncoder();
  let rows: string[] = [];
  let bytes = 2;
  for (const [i, file] of files.entries()) {
    const { path, sizeBytes, sha256, dataOffset, compressedSizeBytes, method, split, label } = file;
    const row = JSON.stringify([i + 1, path, sizeBytes, sha256, dataOffset, compressedSizeBytes, method, split, label]);
    const rowBytes = encoder.encode(row).length + 1;
    if (rows.length === MAX_CHUNK_ROWS || bytes + rowBytes > MAX_CHUNK_BYTES) {
      yield `[${rows.join(",")}]`;
      rows = [];
      bytes = 2;
    }
    rows.push(row);
    bytes += rowBytes;
  }
  if (rows.length > 0) yield `[${rows.join(",")}]`;
}
