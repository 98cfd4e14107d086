import { index, integer, primaryKey, sqliteTable, text } from "drizzle-orm/sqlite-core";
import { TASK_TYPES } from "../../shared/task-types.ts";
import { projects, users } from "./people.ts";

export type DatasetWarning = { code: string; message: string };
export type SplitCounts = { train: number; val: number; test: number };

export const datasets = sqliteTable(
  "datasets",
  {
    id: text().primaryKey(),
    projectId: integer("project_id")
      .notNull()
      .references(() => projects.id),
    ownerId: integer("owner_id")
      .notNull()
      .references(() => users.id),
    name: text().notNull(),
    description: text(),
    format: text({ enum: ["dice", "yolo", "imagefolder", "coco"] }).notNull(),
    /** Which of the layouts under one format name this is, for example dice `A`. */
    layout: text(),
    visibility: text({ enum: ["private", "public"] }).notNull(),
    taskType: text("task_type", { enum: TASK_TYPES }),
    fileCount: integer("file_count").notNull(),
    totalSizeBytes: integer("total_size_bytes").notNull(),
    numClasses: integer("num_classes"),
    classNames: text("class_names", { mode: "json" }).$type<string[]>().notNull(),
    classDistribution: text("class_distribution", { mode: "json" }).$type<Record<string, number>>().notNull(),
    splits: text({ mode: "json" }).$type<SplitCounts>(),
    warnings: text({ mode: "json" }).$type<DatasetWarning[]>().notNull(),
    /** SHA-256 over the sorted list of paths and file hashes: two datasets with one hash have the same content. */
    contentHash: text("content_hash").notNull(),
    createdAt: integer("created_at").notNull(),
    updatedAt: integer("updated_at").notNull(),
  },
  (table) => [
    index("datasets_project").on(table.projectId, table.createdAt),
    index("datasets_public").on(table.visibility, table.createdAt),
  ],
);

export const datasetFiles = sqliteTable(
  "dataset_files",
  {
    datasetId: text("dataset_id")
      .notNull()
      .references(() => datasets.id),
    fileId: integer("file_id").notNull(),
    path: text().notNull(),
    sizeBytes: integer("size_bytes").notNull(),
    sha256: text().notNull(),
    storageKey: text("storage_key").notNull(),
    /** Where the entry's data begin in the zip object; null for a file that is an object of its own. */
    zipOffset: integer("zip_offset"),
    compressedSizeBytes: integer("compressed_size_bytes"),
    /** Zip method: 0 stored, 8 deflated; null for a file that is an object of its own. */
    method: integer(),
    split: text(),
    label: text(),
  },
  (table) => [
    primaryKey({ columns: [table.datasetId, table.fileId] }),
    // Each filter of the file list goes on from a file id, which follows the order of the paths.
    index("dataset_files_path").on(table.datasetId, table.path),
    index("dataset_files_split").on(table.datasetId, table.split, table.fileId),
    index("dataset_files_label").on(table.datasetId, table.label, table.fileId),
  ],
);

/**
 * Uploads of a zip in parts, until a day after their last sign of life. `id` is the dataset's own id. No reference to the
 * project: one that begins while its project goes is found by the day's end.
 */
export const datasetUploads = sqliteTable(
  "dataset_uploads",
  {
    id: text().primaryKey(),
    projectId: integer("project_id").notNull(),
    ownerId: integer("owner_id")
      .notNull()
      .references(() => users.id),
    name: text().notNull(),
    description: text(),
    format: text({ enum: ["dice", "yolo", "imagefolder", "coco"] }).notNull(),
    visibility: text({ enum: ["private", "public"] }).notNull(),
    sizeBytes: integer("size_bytes").notNull(),
    /** Of the whole zip, when the client gave it. */
    sha256: text(),
    partBytes: integer("part_bytes").notNull(),
    /** Of R2's multipart upload. */
    storageUploadId: text("storage_upload_id").notNull(),
    /** open: parts come in; assembled: the zip is one object, not read to its end yet; then completed or refused. */
    state: text({ enum: ["open", "assembled", "completed", "refused"] }).notNull(),
    /** Why it was refused. */
    refusal: text({ mode: "json" }).$type<UploadRefusal>(),
    createdAt: integer("created_at").notNull(),
    updatedAt: integer("updated_at").notNull(),
  },
  (table) => [
    index("dataset_uploads_owner").on(table.ownerId, table.state),
    index("dataset_uploads_project").on(table.projectId),
    index("dataset_uploads_updated").on(table.updatedAt),
  ],
);

export type UploadRefusal = { message: string; field: string };

/** Parts that arrived whole. */
export const datasetUploadParts = sqliteTable(
  "dataset_upload_parts",
  {
    uploadId: text("upload_id")
      .notNull()
      .references(() => datasetUploads.id),
    n: integer().notNull(),
    etag: text().notNull(),
  },
  (table) => [primaryKey({ columns: [table.uploadId, table.n] })],
);
