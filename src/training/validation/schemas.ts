import { z } from "@hono/zod-openapi";

const time = z.string().openapi({ example: "2025-11-06T12:15:00Z" });

export const ValidationResultSchema = z
  .object({
    id: z.number().int(),
    epoch: z.number().int(),
    attempt: z.number().int(),
    task_type: z.string(),
    primary_metric_name: z.string().nullable(),
    primary_metric_value: z.number().nullable(),
    overall_loss: z.number().nullable(),
    metrics: z.record(z.string(), z.number().nullable()),
    per_class_metrics: z.record(z.string(), z.record(z.string(), z.unknown())).nullable(),
    confusion_matrix: z.array(z.array(z.number())).nullable().openapi({ description: "Rows are true classes" }),
    class_names: z.array(z.string()).nullable(),
    checkpoint_path: z.string().nullable(),
    created_at: time,
  })
  .openapi("ValidationResult");

export const ValidationResultsSchema = z
  .object({ job_id: z.number().int(), results: z.array(ValidationResultSchema) })
  .openapi("ValidationResults");

export const ValidationImageSchema = z
  .object({
    id: z.number().int(),
    image_path: z.string().nullable(),
    image_name: z.string(),
    true_label: z.string().nullable(),
    true_label_id: z.number().int().nullable(),
    predicted_label: z.string().nullable(),
    predicted_label_id: z.number().int().nullable(),
    confidence: z.number().nullable(),
    is_correct: z.boolean().nullable(),
    top5_predictions: z
      .array(z.object({ label: z.string(), label_id: z.number().int().optional(), confidence: z.number().nullable() }))
      .nullable(),
    extra_data: z.record(z.string(), z.unknown()).nullable(),
  })
  .openapi("ValidationImage");

export const ValidationImagesSchema = z
  .object({
    validation_result_id: z.number().int(),
    images: z.array(ValidationImageSchema),
    total: z.number().int(),
    skip: z.number().int(),
    limit: z.number().int(),
  })
  .openapi("ValidationImages");

const point = z
  .object({
    id: z.number().int(),
    epoch: z.number().int(),
    attempt: z.number().int(),
    value: z.number().nullable(),
    overall_loss: z.number().nullable(),
    checkpoint_path: z.string().nullable(),
  })
  .openapi("ValidationPoint", {
    example: { id: 1, epoch: 10, attempt: 1, value: 0.85, overall_loss: 0.45, checkpoint_path: null },
  });

export const ValidationSummarySchema = z
  .object({
    job_id: z.number().int(),
    primary_metric: z.string(),
    primary_metric_mode: z.enum(["max", "min"]),
    count: z.number().int(),
    best: point.nullable().openapi({ description: "By the mode of the metric: the highest or the lowest" }),
    last: point.nullable(),
    points: z.array(point).openapi({ description: "All results, by epoch" }),
  })
  .openapi("ValidationSummary");
