import type { TextStatement } from "../../db/batch.ts";
import { columnsOf } from "../../db/columns.ts";
import { artifacts, jobAttempts, type logChunks, trainingJobs } from "../../db/schema/index.ts";
import type { ImageResult, Metric, Validation } from "./events.ts";
import { joinWork, type SegmentWork, segmentStatements, trimStatements } from "./segments.ts";

/**
 * What a job's object tells D1, item by item, and the statements that do it. Every statement may run twice without harm:
 * rows have keys made by the object, and a job row only takes a newer revision. The texts are made once: this runs for every
 * callback.
 */
export type JobRow = Pick<
  typeof trainingJobs.$inferSelect,
  | "status"
  | "phase"
  | "reason"
  | "message"
  | "attempt"
  | "runnerId"
  | "currentEpoch"
  | "totalEpochs"
  | "mlflowRunId"
  | "bestValue"
  | "bestEpoch"
  | "dataComplete"
  | "logTruncated"
  | "startedAt"
  | "completedAt"
  | "updatedAt"
  | "rev"
>;

export type StoredMetric = Omit<Metric, "type"> & { id: number; attempt: number; createdAt: number };
export type StoredLogChunk = Omit<typeof logChunks.$inferSelect, "jobId">;
export type StoredArtifact = Omit<typeof artifacts.$inferSelect, "jobId">;
export type StoredAttempt = Omit<typeof jobAttempts.$inferSelect, "jobId">;

export type ProjectionItem =
  | { kind: "job"; row: JobRow }
  | { kind: "attemptStart"; row: StoredAttempt }
  | { kind: "attemptEnd"; attempt: number; row: Pick<StoredAttempt, "endedAt" | "outcome" | "reason"> }
  | { kind: "metrics"; rows: StoredMetric[]; segments?: SegmentWork | null }
  | { kind: "log"; row: StoredLogChunk }
  | { kind: "artifact"; row: StoredArtifact }
  | { kind: "artifactGone"; id: string }
  | {
      kind: "validation";
      attempt: number;
      createdAt: number;
      result: Omit<Validation, "images" | "type"> & { taskType: string };
    }
  | { kind: "images"; attempt: number; epoch: number; offset: number; images: ImageResult[]; replaceAll: boolean };

const jsonText = (value: unknown) => (value === null || value === undefined ? null : JSON.stringify(value));

const assign = (names: string[]) => names.map((name) => `${name} = ?`).join(", ");
const marks = (names: string[]) => names.map(() => "?").join(", ");

const JOB_ROW = [
  "status",
  "phase",
  "reason",
  "message",
  "attempt",
  "runnerId",
  "currentEpoch",
  "totalEpochs",
  "mlflowRunId",
  "bestValue",
  "bestEpoch",
  "dataComplete",
  "logTruncated",
  "startedAt",
  "completedAt",
  "updatedAt",
  "rev",
] as const satisfies (keyof JobRow)[];
const ATTEMPT = [
  "attempt",
  "owner",
  "runnerId",
  "resumeEpoch",
  "startedAt",
  "endedAt",
  "outcome",
  "reason",
] as const satisfies (keyof StoredAttempt)[];
const ARTIFACT = [
  "id",
  "attempt",
  "kind",
  "name",
  "role",
  "epoch",
  "sizeBytes",
  "sha256",
  "storageKey",
  "manifest",
  "usable",
  "createdAt",
] as const satisfies (keyof StoredArtifact)[];

const jobColumns = columnsOf(trainingJobs, JOB_ROW);
const attemptColumns = columnsOf(jobAttempts, ATTEMPT);
const artifactColumns = columnsOf(artifacts, ARTIFACT);

const UPDATE_JOB = `update training_jobs set ${assign(jobColumns.names)} where id = ? and rev < ?`;
const BEGIN_ATTEMPT = `insert into job_attempts (job_id, ${attemptColumns.names.join(", ")})
  values (?, ${marks(attemptColumns.names)}) on conflict do nothing`;
const END_ATTEMPT = "update job_attempts set ended_at = ?, outcome = ?, reason = ? where job_id = ? and attempt = ?";
const PUT_ARTIFACT = `insert into artifacts (job_id, ${artifactColumns.names.join(", ")})
  values (?, ${marks(artifactColumns.names)})
  on conflict (id) do update set role = excluded.role, epoch = excluded.epoch, usable = excluded.usable`;
const PUT_VALIDATION = `insert into validation_results
    (job_id, attempt, epoch, task_type, primary_metric_name, primary_metric_value, overall_loss, metrics,
     per_class_metrics, confusion_matrix, class_names, checkpoint_path, created_at)
  values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
  on conflict (job_id, attempt, epoch) do update set
    task_type = excluded.task_type, primary_metric_name = excluded.primary_metric_name,
    primary_metric_value = excluded.primary_metric_value, overall_loss = excluded.overall_loss,
    metrics = excluded.metrics, per_class_metrics = excluded.per_class_metrics,
    confusion_matrix = excluded.confusion_matrix, class_names = excluded.class_names,
    checkpoint_path = excluded.checkpoint_path, created_at = excluded.created_at`;
const RESULT = "select id from validation_results where job_id = ?1 and attempt = ?2 and epoch = ?3";
const DELETE_IMAGES = `delete from validation_images where result_id = (${RESULT})`;
const PUT_IMAGES = `insert into validation_images
    (result_id, position, image_path, image_name, true_label, true_label_id, predicted_label, predicted_label_id,
     confidence, is_correct, top5_predictions, extra_data)
  select r.id, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8,
    value->>9, value->>10
  from (${RESULT}) r, json_each(?4) where true
  on conflict (result_id, position) do update set
    image_path = excluded.image_path, image_name = excluded.image_name, true_label = excluded.true_label,
    true_label_id = excluded.true_label_id, predicted_label = excluded.predicted_label,
    predicted_label_id = excluded.predicted_label_id, confidence = excluded.confidence,
    is_correct = excluded.is_correct, top5_predictions = excluded.top5_predictions, extra_data = excluded.extra_data`;
// A point that is there already stays: a repeated callback changes nothing.
const ADD_METRICS = `insert into training_metrics
    (job_id, epoch, step, attempt, id, loss, accuracy, learning_rate, extra_metrics, non_finite, created_at)
  select ?1, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9
  from json_each(?2) where true on conflict do nothing`;
const ADD_LOGS = `insert into log_chunks (job_id, first_line, line_count, attempt, stream, seq, text, created_at)
  select ?1, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6
  from json_each(?2) where true on conflict do nothing`;

const metricRow = (m: StoredMetric) => [
  m.epoch,
  m.step,
  m.attempt,
  m.id,
  m.loss,
  m.accuracy,
  m.learningRate,
  // Taken out of the array as the JSON text that the column holds.
  m.extraMetrics,
  m.nonFinite,
  m.createdAt,
];

const logRow = (l: StoredLogChunk) => [l.firstLine, l.lineCount, l.attempt, l.stream, l.seq, l.text, l.createdAt];

const imageRow = (image: ImageResult, position: number) => [
  position,
  image.imagePath,
  image.imageName,
  image.trueLabel,
  image.trueLabelId,
  image.predictedLabel,
  image.predictedLabelId,
  image.confidence,
  image.isCorrect === null ? null : Number(image.isCorrect),
  jsonText(image.top5Predictions),
  jsonText(image.extraData),
];

/** The statements for some items of one job, in their order, neighbours of one kind joined into one statement. */
export function statementsFor(jobId: number, items: ProjectionItem[]): TextStatement[] {
  const statements: TextStatement[] = [];
  const metrics: StoredMetric[] = [];
  const logs: StoredLogChunk[] = [];
  const summaries = new Map<number, SegmentWork>();
  const trims: TextStatement[] = [];
  // Of several revisions of the job row only the newest matters.
  let newest: JobRow | null = null;

  for (const item of items) {
    switch (item.kind) {
      case "attemptStart":
        statements.push({ sql: BEGIN_ATTEMPT, params: [jobId, ...attemptColumns.values(item.row)] });
        if (item.row.attempt > 1) trims.push(...trimStatements(jobId, item.row.attempt, item.row.resumeEpoch));
        break;
      case "attemptEnd": {
        const { endedAt, outcome, reason } = item.row;
        statements.push({ sql: END_ATTEMPT, params: [endedAt, outcome, reason, jobId, item.attempt] });
        break;
      }
      case "artifact":
        statements.push({ sql: PUT_ARTIFACT, params: [jobId, ...artifactColumns.values(item.row)] });
        break;
      case "artifactGone":
        statements.push({ sql: "delete from artifacts where job_id = ? and id = ?", params: [jobId, item.id] });
        break;
      case "validation": {
        const r = item.result;
        statements.push({
          sql: PUT_VALIDATION,
          params: [
            jobId,
            item.attempt,
            r.epoch,
            r.taskType,
            r.primaryMetricName,
            r.primaryMetricValue,
            r.overallLoss,
            JSON.stringify(r.metrics),
            jsonText(r.perClassMetrics),
            jsonText(r.confusionMatrix),
            jsonText(r.classNames),
            r.checkpointPath,
            item.createdAt,
          ],
        });
        break;
      }
      case "images": {
        const result = [jobId, item.attempt, item.epoch];
        if (item.replaceAll) statements.push({ sql: DELETE_IMAGES, params: result });
        if (item.images.length === 0) break;
        const rows = item.images.map((image, i) => imageRow(image, item.offset + i));
        statements.push({ sql: PUT_IMAGES, params: [...result, JSON.stringify(rows)] });
        break;
      }
      case "metrics":
        metrics.push(...item.rows);
        if (item.segments) {
          const { attempt } = item.segments;
          summaries.set(attempt, joinWork(summaries.get(attempt), item.segments));
        }
        break;
      case "log":
        logs.push(item.row);
        break;
      case "job":
        newest = item.row;
        break;
    }
  }
  if (metrics.length > 0) {
    statements.push({ sql: ADD_METRICS, params: [jobId, JSON.stringify(metrics.map(metricRow))] });
  }
  // Behind the points that they stand for, and before a later attempt takes some of them back.
  for (const work of summaries.values()) statements.push(...segmentStatements(jobId, work));
  statements.push(...trims);
  if (logs.length > 0) statements.push({ sql: ADD_LOGS, params: [jobId, JSON.stringify(logs.map(logRow))] });
  if (newest !== null) {
    statements.push({ sql: UPDATE_JOB, params: [...jobColumns.values(newest), jobId, newest.rev] });
  }
  return statements;
}
