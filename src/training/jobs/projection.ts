import { and, eq, sql } from "drizzle-orm";
import { jsonRows, type Statement } from "../../db/batch.ts";
import type { Db } from "../../db/client.ts";
import { artifacts, jobAttempts, logChunks, trainingJobs, trainingMetrics } from "../../db/schema/index.ts";
import type { ImageResult, Metric, Validation } from "./events.ts";

/**
 * What a job's object tells D1, item by item, and the statements that do it. Every statement may run twice without harm:
 * rows have keys made by the object, and a job row only takes a newer revision.
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
  | { kind: "metrics"; rows: StoredMetric[] }
  | { kind: "log"; row: StoredLogChunk }
  | { kind: "artifact"; row: StoredArtifact }
  | {
      kind: "validation";
      attempt: number;
      createdAt: number;
      result: Omit<Validation, "images" | "type"> & { taskType: string };
    }
  | { kind: "images"; attempt: number; epoch: number; offset: number; images: ImageResult[]; replaceAll: boolean };

const jsonText = (value: unknown) => (value === null || value === undefined ? null : JSON.stringify(value));

/** The statements for some items of one job, in their order, neighbours of one kind joined into one statement. */
export function statementsFor(db: Db, jobId: number, items: ProjectionItem[]) {
  const statements: Statement[] = [];
  const metrics = items.flatMap((item) => (item.kind === "metrics" ? item.rows : []));
  const logs = items.flatMap((item) => (item.kind === "log" ? [item.row] : []));
  // Of several revisions of the job row only the newest matters.
  const newest = items.findLast((item) => item.kind === "job");

  for (const item of items) {
    switch (item.kind) {
      case "attemptStart":
        statements.push(
          db
            .insert(jobAttempts)
            .values({ jobId, ...item.row })
            .onConflictDoNothing(),
        );
        break;
      case "attemptEnd":
        statements.push(
          db
            .update(jobAttempts)
            .set(item.row)
            .where(and(eq(jobAttempts.jobId, jobId), eq(jobAttempts.attempt, item.attempt))),
        );
        break;
      case "artifact":
        statements.push(
          db
            .insert(artifacts)
            .values({ jobId, ...item.row })
            .onConflictDoUpdate({
              target: artifacts.id,
              set: { role: item.row.role, epoch: item.row.epoch, usable: item.row.usable },
            }),
        );
        break;
      case "validation": {
        const r = item.result;
        statements.push(
          sql`insert into validation_results
              (job_id, attempt, epoch, task_type, primary_metric_name, primary_metric_value, overall_loss, metrics,
               per_class_metrics, confusion_matrix, class_names, checkpoint_path, created_at)
            values (${jobId}, ${item.attempt}, ${r.epoch}, ${r.taskType}, ${r.primaryMetricName}, ${r.primaryMetricValue},
               ${r.overallLoss}, ${JSON.stringify(r.metrics)}, ${jsonText(r.perClassMetrics)},
               ${jsonText(r.confusionMatrix)}, ${jsonText(r.classNames)}, ${r.checkpointPath}, ${item.createdAt})
            on conflict (job_id, attempt, epoch) do update set
               task_type = excluded.task_type, primary_metric_name = excluded.primary_metric_name,
               primary_metric_value = excluded.primary_metric_value, overall_loss = excluded.overall_loss,
               metrics = excluded.metrics, per_class_metrics = excluded.per_class_metrics,
               confusion_matrix = excluded.confusion_matrix, class_names = excluded.class_names,
               checkpoint_path = excluded.checkpoint_path, created_at = excluded.created_at`,
        );
        break;
      }
      case "images": {
        const result = sql`(select id from validation_results
          where job_id = ${jobId} and attempt = ${item.attempt} and epoch = ${item.epoch})`;
        if (item.replaceAll) statements.push(sql`delete from validation_images where result_id = ${result}`);
        if (item.images.length === 0) break;
        const rows = item.images.map((image, i) => [
          item.offset + i,
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
        ]);
        statements.push(
          sql`insert into validation_images
              (result_id, position, image_path, image_name, true_label, true_label_id, predicted_label, predicted_label_id,
               confidence, is_correct, top5_predictions, extra_data)
            select r.id, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8,
               value->>9, value->>10
            from (select ${result} as id) r, ${jsonRows(rows)} where r.id is not null
            on conflict (result_id, position) do update set
               image_path = excluded.image_path, image_name = excluded.image_name, true_label = excluded.true_label,
               true_label_id = excluded.true_label_id, predicted_label = excluded.predicted_label,
               predicted_label_id = excluded.predicted_label_id, confidence = excluded.confidence,
               is_correct = excluded.is_correct, top5_predictions = excluded.top5_predictions,
               extra_data = excluded.extra_data`,
        );
        break;
      }
      case "metrics":
      case "log":
      case "job":
        break;
    }
  }
  if (metrics.length > 0) {
    const rows = metrics.map((m) => [
      m.epoch,
      m.step,
      m.attempt,
      m.id,
      m.loss,
      m.accuracy,
      m.learningRate,
      JSON.stringify(m.extraMetrics),
      jsonText(m.nonFinite),
      m.createdAt,
    ]);
    // A point that is there already stays: a repeated callback changes nothing.
    statements.push(
      sql`insert into ${trainingMetrics}
          (job_id, epoch, step, attempt, id, loss, accuracy, learning_rate, extra_metrics, non_finite, created_at)
        select ${jobId}, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8,
          value->>9
        from ${jsonRows(rows)} where true on conflict do nothing`,
    );
  }
  if (logs.length > 0) {
    const rows = logs.map((l) => [l.firstLine, l.lineCount, l.attempt, l.stream, l.seq, l.text, l.createdAt]);
    statements.push(
      sql`insert into ${logChunks} (job_id, first_line, line_count, attempt, stream, seq, text, created_at)
        select ${jobId}, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6
        from ${jsonRows(rows)} where true on conflict do nothing`,
    );
  }
  if (newest?.kind === "job") {
    statements.push(
      db
        .update(trainingJobs)
        .set(newest.row)
        .where(sql`${trainingJobs.id} = ${jobId} and ${trainingJobs.rev} < ${newest.row.rev}`),
    );
  }
  return statements;
}
