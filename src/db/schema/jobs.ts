import { index, integer, primaryKey, real, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import { TASK_TYPES } from "../../shared/task-types.ts";
import { projects, users } from "./people.ts";

export type JsonObject = Record<string, unknown>;

/**
 * What readers see of a training job. The object `TrainingJob` decides and writes; `rev` is its version number, and a
 * projection with an older one changes nothing.
 */
export const trainingJobs = sqliteTable(
  "training_jobs",
  {
    id: integer().primaryKey({ autoIncrement: true }),
    projectId: integer("project_id")
      .notNull()
      .references(() => projects.id),
    createdBy: integer("created_by")
      .notNull()
      .references(() => users.id),
    sessionId: integer("session_id"),
    experimentName: text("experiment_name"),
    tags: text({ mode: "json" }).$type<string[]>().notNull(),
    notes: text(),
    framework: text().notNull(),
    modelName: text("model_name").notNull(),
    taskType: text("task_type", { enum: TASK_TYPES }).notNull(),
    datasetId: text("dataset_id").notNull(),
    datasetFormat: text("dataset_format").notNull(),
    numClasses: integer("num_classes"),
    classNames: text("class_names", { mode: "json" }).$type<string[]>().notNull(),
    imageSize: integer("image_size").notNull(),
    epochs: integer().notNull(),
    batchSize: integer("batch_size").notNull(),
    learningRate: real("learning_rate").notNull(),
    advancedConfig: text("advanced_config", { mode: "json" }).$type<JsonObject>().notNull(),
    primaryMetric: text("primary_metric").notNull(),
    primaryMetricMode: text("primary_metric_mode", { enum: ["max", "min"] }).notNull(),
    /** Among queued jobs the higher one goes first. */
    priority: integer().notNull().default(0),
    /** Labels that a runner must have, with these values. */
    requiredLabels: text("required_labels", { mode: "json" }).$type<Record<string, string>>().notNull().default({}),
    /** Of one GPU; 0: none is needed. */
    minGpuMemoryMb: integer("min_gpu_memory_mb").notNull().default(0),
    /** Timers of the job's own; null: the deployment's. */
    lostAfterS: integer("lost_after_s"),
    maxDurationS: integer("max_duration_s"),
    createdAt: integer("created_at").notNull(),

    status: text({ enum: ["pending", "queued", "running", "completed", "failed", "stopped"] }).notNull(),
    phase: text().notNull(),
    reason: text(),
    message: text(),
    attempt: integer().notNull().default(0),
    runnerId: text("runner_id"),
    currentEpoch: integer("current_epoch").notNull().default(0),
    totalEpochs: integer("total_epochs"),
    mlflowRunId: text("mlflow_run_id"),
    bestValue: real("best_value"),
    bestEpoch: integer("best_epoch"),
    dataComplete: integer("data_complete", { mode: "boolean" }),
    logTruncated: integer("log_truncated", { mode: "boolean" }).notNull().default(false),
    startedAt: integer("started_at"),
    completedAt: integer("completed_at"),
    updatedAt: integer("updated_at").notNull(),
    rev: integer().notNull().default(0),
  },
  (table) => [
    index("training_jobs_project").on(table.projectId, table.createdAt),
    index("training_jobs_project_status").on(table.projectId, table.status, table.createdAt),
    index("training_jobs_moving").on(table.status, table.updatedAt),
    index("training_jobs_dataset").on(table.datasetId, table.status),
  ],
);

/** One row an attempt. A point of an older attempt is superseded when a later attempt resumed at an earlier epoch. */
export const jobAttempts = sqliteTable(
  "job_attempts",
  {
    jobId: integer("job_id").notNull(),
    attempt: integer().notNull(),
    owner: text({ enum: ["lease", "plain"] }).notNull(),
    runnerId: text("runner_id"),
    /** Epoch of the checkpoint it went on from; 0 when it began anew. */
    resumeEpoch: integer("resume_epoch").notNull(),
    /** Lowest epoch of its points; null before the first one. */
    firstEpoch: integer("first_epoch"),
    startedAt: integer("started_at").notNull(),
    endedAt: integer("ended_at"),
    outcome: text(),
    reason: text(),
  },
  (table) => [primaryKey({ columns: [table.jobId, table.attempt] })],
);

export const trainingMetrics = sqliteTable(
  "training_metrics",
  {
    jobId: integer("job_id").notNull(),
    epoch: integer().notNull(),
    step: integer().notNull(),
    attempt: integer().notNull(),
    /** Running number inside the job. */
    id: integer().notNull(),
    loss: real(),
    accuracy: real(),
    learningRate: real("learning_rate"),
    extraMetrics: text("extra_metrics", { mode: "json" }).$type<Record<string, number | null>>().notNull(),
    /** Names of the values that arrived as NaN or Infinity and are stored as null. */
    nonFinite: text("non_finite", { mode: "json" }).$type<string[]>(),
    createdAt: integer("created_at").notNull(),
  },
  (table) => [primaryKey({ columns: [table.jobId, table.epoch, table.step, table.attempt] })],
);

/**
 * Points of one attempt that are neighbours in (epoch, step), counted together so that a chart need not read them: level 1
 * stands for 64 points and more, each further level for 8 segments and more of the one below. A key is `epoch << 40 | step`;
 * it is read by SQL only, JavaScript numbers do not hold it. Segments of a level follow each other without a hole from the
 * attempt's first point on: one reaches from behind the last key of the one before to its own.
 */
export const metricSegments = sqliteTable(
  "metric_segments",
  {
    jobId: integer("job_id").notNull(),
    attempt: integer().notNull(),
    level: integer().notNull(),
    lastKey: integer("last_key").notNull(),
    firstKey: integer("first_key").notNull(),
    points: integer().notNull(),
  },
  (table) => [primaryKey({ columns: [table.jobId, table.attempt, table.level, table.lastKey] })],
);

/** Lowest and highest value of a series in a segment, and where they are. No row: the series has no value there. */
export const metricExtremes = sqliteTable(
  "metric_extremes",
  {
    jobId: integer("job_id").notNull(),
    attempt: integer().notNull(),
    level: integer().notNull(),
    lastKey: integer("last_key").notNull(),
    series: text().notNull(),
    low: real().notNull(),
    lowKey: integer("low_key").notNull(),
    high: real().notNull(),
    highKey: integer("high_key").notNull(),
  },
  (table) => [primaryKey({ columns: [table.jobId, table.attempt, table.level, table.lastKey, table.series] })],
);

/** Logs as received: one row a chunk of lines. `firstLine` counts the lines of the job in order of arrival, from 1. */
export const logChunks = sqliteTable(
  "log_chunks",
  {
    jobId: integer("job_id").notNull(),
    firstLine: integer("first_line").notNull(),
    lineCount: integer("line_count").notNull(),
    attempt: integer().notNull(),
    stream: text({ enum: ["stdout", "stderr"] }).notNull(),
    seq: integer().notNull(),
    text: text().notNull(),
    createdAt: integer("created_at").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.jobId, table.firstLine] }),
    index("log_chunks_stream").on(table.jobId, table.stream, table.firstLine),
  ],
);

/**
 * Where the lines of attempts that are over are: their chunks lie in one object of R2 for each attempt, and a block is a few
 * neighbours of them. Attempts are put away in their order, so that every line up to the last one of the last block is here.
 */
export const logBlocks = sqliteTable(
  "log_blocks",
  {
    jobId: integer("job_id").notNull(),
    firstLine: integer("first_line").notNull(),
    lineCount: integer("line_count").notNull(),
    /** The rest of the lines are of stderr. */
    stdoutLines: integer("stdout_lines").notNull(),
    attempt: integer().notNull(),
    offsetBytes: integer("offset_bytes").notNull(),
    sizeBytes: integer("size_bytes").notNull(),
  },
  (table) => [primaryKey({ columns: [table.jobId, table.firstLine] })],
);

/** Complete uploads only; the state of an unfinished one is the object's. */
export const artifacts = sqliteTable(
  "artifacts",
  {
    id: text().primaryKey(),
    jobId: integer("job_id").notNull(),
    attempt: integer().notNull(),
    kind: text({ enum: ["checkpoint", "model", "plot", "file"] }).notNull(),
    name: text().notNull(),
    role: text({ enum: ["best", "last"] }),
    epoch: integer(),
    sizeBytes: integer("size_bytes").notNull(),
    sha256: text().notNull(),
    storageKey: text("storage_key").notNull(),
    manifest: text({ mode: "json" }).$type<JsonObject>(),
    /** False once a runner found that the bytes do not match the hash. */
    usable: integer({ mode: "boolean" }).notNull().default(true),
    createdAt: integer("created_at").notNull(),
  },
  (table) => [index("artifacts_job").on(table.jobId, table.kind, table.createdAt)],
);

export const validationResults = sqliteTable(
  "validation_results",
  {
    id: integer().primaryKey({ autoIncrement: true }),
    jobId: integer("job_id").notNull(),
    attempt: integer().notNull(),
    epoch: integer().notNull(),
    taskType: text("task_type", { enum: TASK_TYPES }).notNull(),
    primaryMetricName: text("primary_metric_name"),
    primaryMetricValue: real("primary_metric_value"),
    overallLoss: real("overall_loss"),
    metrics: text({ mode: "json" }).$type<Record<string, number | null>>().notNull(),
    perClassMetrics: text("per_class_metrics", { mode: "json" }).$type<Record<string, JsonObject>>(),
    confusionMatrix: text("confusion_matrix", { mode: "json" }).$type<number[][]>(),
    classNames: text("class_names", { mode: "json" }).$type<string[]>(),
    checkpointPath: text("checkpoint_path"),
    createdAt: integer("created_at").notNull(),
  },
  (table) => [uniqueIndex("validation_results_epoch").on(table.jobId, table.attempt, table.epoch)],
);

export type TopPrediction = { label: string; label_id?: number; confidence: number | null };

export const validationImages = sqliteTable(
  "validation_images",
  {
    id: integer().primaryKey({ autoIncrement: true }),
    resultId: integer("result_id").notNull(),
    position: integer().notNull(),
    imagePath: text("image_path"),
    imageName: text("image_name").notNull(),
    trueLabel: text("true_label"),
    trueLabelId: integer("true_label_id"),
    predictedLabel: text("predicted_label"),
    predictedLabelId: integer("predicted_label_id"),
    confidence: real(),
    isCorrect: integer("is_correct", { mode: "boolean" }),
    top5Predictions: text("top5_predictions", { mode: "json" }).$type<TopPrediction[]>(),
    extraData: text("extra_data", { mode: "json" }).$type<JsonObject>(),
  },
  (table) => [
    uniqueIndex("validation_images_position").on(table.resultId, table.position),
    index("validation_images_correct").on(table.resultId, table.isCorrect, table.position),
  ],
);
