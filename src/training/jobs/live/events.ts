import type { z } from "@hono/zod-openapi";
import { isoSeconds, isoSecondsOrNull } from "../../../shared/time.ts";
import type { JobRow, ProjectionItem } from "../projection.ts";
import { bestOf, linesOf, toCheckpoint, toPoint } from "../wire.ts";
import type {
  CheckpointEventSchema,
  EndEventSchema,
  LogEventSchema,
  MetricsEventSchema,
  ResetEventSchema,
  StatusEventSchema,
  ValidationEventSchema,
} from "./schemas.ts";

/** Live events: what they are made of, and how neighbours become one. Pure. */

export type LiveEvent =
  | { type: "status"; data: z.infer<typeof StatusEventSchema> }
  | { type: "metrics"; data: z.infer<typeof MetricsEventSchema> }
  | { type: "log"; data: z.infer<typeof LogEventSchema> }
  | { type: "validation"; data: z.infer<typeof ValidationEventSchema> }
  | { type: "checkpoint"; data: z.infer<typeof CheckpointEventSchema> }
  | { type: "reset"; data: z.infer<typeof ResetEventSchema> }
  | { type: "end"; data: z.infer<typeof EndEventSchema> };

/** An event with its place in the job's order: the `id` of the stream. */
export type NumberedEvent = { id: number; event: LiveEvent };

/** One event of metrics has at most so many points, however many came at once. */
const MAX_POINTS = 500;

/** The status event of a job's row. */
export const statusEvent = (jobId: number, row: JobRow): LiveEvent => ({
  type: "status",
  data: {
    job_id: jobId,
    status: row.status,
    phase: row.phase,
    reason: row.reason,
    message: row.message,
    attempt: row.attempt,
    runner_id: row.runnerId,
    current_epoch: row.currentEpoch,
    total_epochs: row.totalEpochs,
    best: bestOf(row),
    data_complete: row.dataComplete,
    log_truncated: row.logTruncated,
    started_at: isoSecondsOrNull(row.startedAt),
    completed_at: isoSecondsOrNull(row.completedAt),
    updated_at: isoSeconds(row.updatedAt),
  },
});

/** What watchers hear of one thing that the job's object stores for D1; most things for one reader only are none. */
export function eventsOf(jobId: number, item: ProjectionItem): LiveEvent[] {
  switch (item.kind) {
    case "job":
      return [statusEvent(jobId, item.row)];
    case "metrics":
      if (item.rows.length === 0) return [];
      return [{ type: "metrics", data: { job_id: jobId, points: item.rows.map((point) => toPoint(jobId, point)) } }];
    case "log": {
      const { attempt, stream, firstLine, text, createdAt } = item.row;
      const data = { job_id: jobId, attempt, log_type: stream, first_id: firstLine, lines: linesOf(text) };
      return [{ type: "log", data: { ...data, created_at: isoSeconds(createdAt) } }];
    }
    case "validation": {
      const { attempt, createdAt, result } = item;
      return [
        {
          type: "validation",
          data: {
            job_id: jobId,
            attempt,
            epoch: result.epoch,
            task_type: result.taskType,
            primary_metric_name: result.primaryMetricName,
            primary_metric_value: result.primaryMetricValue,
            overall_loss: result.overallLoss,
            metrics: result.metrics,
            checkpoint_path: result.checkpointPath,
            created_at: isoSeconds(createdAt),
          },
        },
      ];
    }
    case "artifact": {
      const { row } = item;
      if (row.kind !== "checkpoint" && row.kind !== "model") return [];
      return [{ type: "checkpoint", data: { job_id: jobId, ...toCheckpoint(row) } }];
    }
    default:
      return [];
  }
}

/** What makes two states of a job different for somebody who watches, beside how far it is. */
const turnOf = ({ data }: Extract<LiveEvent, { type: "status" }>) =>
  JSON.stringify([data.phase, data.attempt, data.reason, data.message, data.runner_id]);

/**
 * Fewer events that say the same: a state that only says how far the job was is dropped before one that says how far it is,
 * neighbouring points are joined under the number of the last one, and an end after which the job went on is none. The
 * newest number always stays, so whoever got the result has everything up to it.
 */
export function coalesce(events: NumberedEvent[]): NumberedEvent[] {
  const kept: NumberedEvent[] = [];
  let laterTurn: string | null = null;
  for (const [i, numbered] of [...events.entries()].reverse()) {
    const { event } = numbered;
    if (event.type === "end" && i < events.length - 1) continue;
    if (event.type === "status") {
      const turn = turnOf(event);
      if (turn === laterTurn) continue;
      laterTurn = turn;
    }
    kept.push(numbered);
  }
  const joined: NumberedEvent[] = [];
  for (const numbered of kept.reverse()) {
    const before = joined.at(-1)?.event;
    const { event } = numbered;
    const joins =
      before?.type === "metrics" &&
      event.type === "metrics" &&
      before.data.points.length + event.data.points.length <= MAX_POINTS;
    if (!joins) joined.push(numbered);
    else {
      const points = [...before.data.points, ...event.data.points];
      joined[joined.length - 1] = { id: numbered.id, event: { type: "metrics", data: { ...event.data, points } } };
    }
  }
  return joined;
}
