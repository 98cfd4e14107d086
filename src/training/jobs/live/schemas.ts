import { z } from "@hono/zod-openapi";
import { CheckpointSchema, JobStatusSchema, MetricSchema } from "../schemas.ts";

/** The `data` of live events, by the name of their event. Names and times as in the answers of the same things by GET. */

const time = z.string().openapi({ example: "2025-11-06T12:15:00Z" });
const jobId = z.number().int();

export const StatusEventSchema = z
  .object({
    job_id: jobId,
    status: JobStatusSchema,
    phase: z.string(),
    reason: z.string().nullable(),
    message: z.string().nullable(),
    attempt: z.number().int(),
    runner_id: z.string().nullable(),
    current_epoch: z.number().int(),
    total_epochs: z.number().int().nullable(),
    best: z.object({ value: z.number(), epoch: z.number().int() }).nullable(),
    data_complete: z.boolean().nullable(),
    log_truncated: z.boolean(),
    started_at: time.nullable(),
    completed_at: time.nullable(),
    updated_at: time,
  })
  .openapi("StatusEvent");

export const MetricsEventSchema = z
  .object({ job_id: jobId, points: z.array(MetricSchema).openapi({ description: "Points that arrived together" }) })
  .openapi("MetricsEvent");

export const LogEventSchema = z
  .object({
    job_id: jobId,
    attempt: z.number().int(),
    log_type: z.enum(["stdout", "stderr"]),
    first_id: z.number().int().openapi({ description: "Number of the first line; the others follow it" }),
    lines: z.array(z.string()),
    created_at: time,
  })
  .openapi("LogEvent");

export const ValidationEventSchema = z
  .object({
    job_id: jobId,
    attempt: z.number().int(),
    epoch: z.number().int(),
    task_type: z.string(),
    primary_metric_name: z.string().nullable(),
    primary_metric_value: z.number().nullable(),
    overall_loss: z.number().nullable(),
    metrics: z.record(z.string(), z.number().nullable()),
    checkpoint_path: z.string().nullable(),
    created_at: time,
  })
  .openapi("ValidationEvent", { description: "Without images and matrix: read those from the results" });

export const CheckpointEventSchema = z.object({ job_id: jobId, ...CheckpointSchema.shape }).openapi("CheckpointEvent");

export const ResetEventSchema = z
  .object({ job_id: jobId, reason: z.literal("events_missing") })
  .openapi("ResetEvent", { description: "What came after the given event is not kept any more: load the job anew" });

export const EndEventSchema = z
  .object({ job_id: jobId, status: JobStatusSchema, reason: z.string().nullable() })
  .openapi("EndEvent", { description: "The job has ended and nothing more comes" });

export const LiveEventDataSchema = z.union([
  StatusEventSchema,
  MetricsEventSchema,
  LogEventSchema,
  ValidationEventSchema,
  CheckpointEventSchema,
  ResetEventSchema,
  EndEventSchema,
]);

export const TicketSchema = z
  .object({
    ticket: z.string(),
    expires_in: z.number().int().openapi({ description: "Seconds" }),
    url: z.string().openapi({ description: "What a browser opens, once" }),
  })
  .openapi("EventTicket", {
    example: { ticket: "eyJhbGciOi…", expires_in: 60, url: "/api/v1/training/jobs/5/events?ticket=eyJhbGciOi…" },
  });
