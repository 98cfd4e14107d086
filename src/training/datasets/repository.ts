import { and, desc, eq, gt, inArray, or, type SQL, sql } from "drizzle-orm";
import { me, type Principal } from "../../auth/principal.ts";
import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { datasetFiles, datasets, projectMembers } from "../../db/schema/index.ts";
import type { IndexedFile } from "./content.ts";
import type { FormatName } from "./formats/types.ts";

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

/**
 * Reads are one statement that also asks whether the caller is still valid: no row means 401; a row without the dataset
 * means 404.
 */
export function createDatasetRepository(binding: D1Database) {
  const db = createDb(binding);
  return {
    /** Stores a dataset and the index of its files, all or nothing. */
    async create(row: typeof datasets.$inferInsert, storageKey: string, files: readonly IndexedFile[]): Promise<void> {
      const inserts = [...chunksOf(files)].map(
        (chunk) => sql`
          insert into ${datasetFiles} (dataset_id, file_id, path, size_bytes, sha256, storage_key, zip_offset,
            compressed_size_bytes, method, split, label)
          select ${row.id}, value->>0, value->>1, value->>2, value->>3, ${storageKey}, value->>4,
            value->>5, value->>6, value->>7, value->>8
          from json_each(${chunk})`,
      );
      await runBatch(binding, [db.insert(datasets).values(row), ...inserts]);
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

    async file(datasetId: string, fileId: number): Promise<DatasetFileRow | undefined> {
      return db.query.datasetFiles.findFirst({
        where: and(eq(datasetFiles.datasetId, datasetId), eq(datasetFiles.fileId, fileId)),
      });
    },
  };
}

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
