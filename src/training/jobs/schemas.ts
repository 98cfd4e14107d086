import { z } from "@hono/zod-openapi";
import { plainText } from "../../http/fields.ts";
import { canonicalTaskType, TASK_TYPES, TaskTypeSchema } from "../models/schemas.ts";
import { QUEUE_REASONS } from "../runners/match.ts";

const TaskTypeInput = z
  .string()
  .transform(canonicalTaskType)
  .pipe(z.enum(TASK_TYPES))
  .openapi({ type: "string", enum: [...TASK_TYPES] });

const time = z.string().openapi({ example: "2025-11-06T12:00:00Z" });
const tags = z.array(plainText({ min: 1, max: 100 })).max(50);

export const JobStatusSchema = z
  .enum(["pending", "queued", "running", "completed", "failed", "stopped"])
  .openapi("JobStatus");

const configFields = {
  framework: plainText({ min: 1, max: 50 }),
  model_name: plainText({ min: 1, max: 200 }),
  task_type: TaskTypeInput,
  dataset_id: plainText({ min: 1, max: 100 }),
  dataset_format: z.enum(["dice", "yolo", "imagefolder", "coco"]),
  num_classes: z.number().int().min(2).max(100_000).nullable(),
  epochs: z.number().int().min(1).max(1_000),
  batch_size: z.number().int().min(1).max(512),
  learning_rate: z.number().gt(0).lt(1),
  primary_metric: plainText({ min: 1, max: 200 }),
  primary_metric_mode: z.enum(["max", "min"]),
  advanced_config: z.record(z.string(), z.unknown()).nullable(),
};

/** What anybody who may run jobs of a project can give them; more is for admins. */
export const MAX_OWN_PRIORITY = 10;

/** How a job is scheduled. */
const scheduling = {
  priority: z
    .number()
    .int()
    .min(-100)
    .max(100)
    .openapi({ description: `Higher ones leave the queue first. Above ${MAX_OWN_PRIORITY}: for admins only` }),
  required_labels: z
    .record(plainText({ min: 1, max: 100 }), plainText({ max: 200 }))
    .refine((labels) => Object.keys(labels).length <= 20, "must have at most 20 labels")
    .openapi({ description: "Labels that a runner must have, with these values", example: { zone: "seoul" } }),
  min_gpu_memory_mb: z.number().int().min(0).max(10_000_000).openapi({ description: "Of one GPU; 0: none is needed" }),
  lost_after_s: z
    .number()
    .int()
    .min(60)
    .max(3_600)
    .nullable()
    .openapi({ description: "How long a silent runner keeps the job after its lease; null: the deployment's time" }),
  max_duration_s: z
    .number()
    .int()
    .min(60)
    .max(2_592_000)
    .nullable()
    .openapi({ description: "Longest time of one attempt; null: the deployment's" }),
};

export const JobConfigSchema = z
  .strictObject({
    ...configFields,
    framework: configFields.framework.default("timm"),
    dataset_format: configFields.dataset_format.optional().openapi({
      description: "Accepted for the contract's sake: a dataset knows its own format",
    }),
    num_classes: configFields.num_classes.optional(),
    epochs: configFields.epochs.default(50),
    batch_size: configFields.batch_size.default(32),
    learning_rate: configFields.learning_rate.default(0.001),
    primary_metric: configFields.primary_metric.optional(),
    primary_metric_mode: configFields.primary_metric_mode.optional(),
    advanced_config: configFields.advanced_config.optional(),
  })
  .openapi("JobConfig");

export const CreateJobSchema = z
  .object({
    session_id: z.number().int().nullish(),
    project_id: z.number().int().positive().nullish(),
    experiment_name: plainText({ max: 200 }).nullish(),
    tags: tags.default([]),
    notes: plainText({ max: 10_000 }).nullish(),
    priority: scheduling.priority.default(0),
    required_labels: scheduling.required_labels.default({}),
    min_gpu_memory_mb: scheduling.min_gpu_memory_mb.default(0),
    lost_after_s: scheduling.lost_after_s.default(null),
    max_duration_s: scheduling.max_duration_s.default(null),
    config: JobConfigSchema,
  })
  .openapi("CreateJob", {
    example: {
      session_id: 1,
      project_id: 2,
      experiment_name: "ResNet-50 Experiment",
      tags: ["baseline", "classification"],
      notes: "Initial baseline training",
      config: {
        framework: "timm",
        model_name: "resnet50",
        task_type: "image_classification",
        dataset_id: "8ab5c6e4-0f92-4fff-8f4e-441c08d94cef",
        dataset_format: "dice",
        num_classes: 10,
        epochs: 50,
        batch_size: 32,
        learning_rate: 0.001,
        advanced_config: {
          optimizer: { type: "adamw", learning_rate: 0.001, weight_decay: 0.01, betas: [0.9, 0.999] },
        },
      },
    },
  });

/**
 * What may be changed of a job: its labels at any time, its scheduling while no runner has it. A name that is not known is
 * refused rather than ignored.
 */
export const UpdateJobSchema = z
  .strictObject({
    experiment_name: plainText({ max: 200 }).nullish(),
    tags: tags.optional(),
    notes: plainText({ max: 10_000 }).nullish(),
    ...z.object(scheduling).partial().shape,
  })
  .openapi("UpdateJob", { example: { experiment_name: "ResNet-50, longer", tags: ["baseline"], notes: null } });

/** What a clone has of its own; everything else is the original's. */
export const CloneJobSchema = z
  .strictObject({
    project_id: z.number().int().positive().optional(),
    session_id: z.number().int().nullish(),
    experiment_name: plainText({ max: 200 }).nullish(),
    tags: tags.optional(),
    notes: plainText({ max: 10_000 }).nullish(),
    ...z.object(scheduling).partial().shape,
    config: z.strictObject(configFields).partial().optional(),
  })
  .openapi("CloneJob", { example: { experiment_name: "ResNet-50, 100 epochs", config: { epochs: 100 } } });

const identity = {
  id: z.number().int(),
  session_id: z.number().int().nullable(),
  project_id: z.number().int(),
  experiment_name: z.string().nullable(),
  tags: z.array(z.string()),
  notes: z.string().nullable(),
  framework: z.string(),
  model_name: z.string(),
  task_type: TaskTypeSchema,
  dataset_id: z.string(),
  dataset_path: z.string(),
  dataset_format: z.string(),
  num_classes: z.number().int().nullable(),
  output_dir: z.string().openapi({ description: "A key prefix, never a path of a machine", example: "jobs/5" }),
  epochs: z.number().int(),
  batch_size: z.number().int(),
  learning_rate: z.number(),
  status: JobStatusSchema,
  primary_metric: z.string(),
  primary_metric_mode: z.enum(["max", "min"]),
  priority: z.number().int(),
  required_labels: z.record(z.string(), z.string()),
  min_gpu_memory_mb: z.number().int(),
  lost_after_s: z.number().int().nullable(),
  max_duration_s: z.number().int().nullable(),
  created_at: time,
  started_at: time.nullable(),
  completed_at: time.nullable(),
};

export const CreatedJobSchema = z
  .object({ ...identity, advanced_config: z.record(z.string(), z.unknown()) })
  .openapi("CreatedJob");

export const QueueSchema = z
  .object({
    position: z.number().int(),
    reason: z.enum(QUEUE_REASONS).openapi({
      description:
        "The first that holds: no live runner has the framework; none of them the labels; none the GPU memory; none both; " +
        "the project has as many jobs running as it may; all that fit are busy or come to others first",
    }),
    capable: z.number().int(),
    live: z.number().int(),
  })
  .openapi("Queue");

export const JobSchema = z
  .object({
    ...identity,
    project_name: z.string(),
    advanced_config: z.record(z.string(), z.unknown()),
    current_epoch: z.number().int(),
    total_epochs: z.number().int(),
    progress_percent: z.number(),
    mlflow_run_id: z.string().nullable(),
    phase: z.string(),
    reason: z.string().nullable(),
    message: z.string().nullable(),
    attempt: z.number().int(),
    runner_id: z.string().nullable(),
    runner: z.object({ id: z.string(), name: z.string() }).nullable(),
    estimated_seconds_left: z
      .number()
      .int()
      .nullable()
      .openapi({ description: "At the pace of this attempt so far; null while it has none" }),
    best: z.object({ value: z.number(), epoch: z.number().int() }).nullable(),
    data_complete: z.boolean().nullable(),
    log_truncated: z.boolean(),
    queue: QueueSchema.nullable(),
    updated_at: time,
  })
  .openapi("Job");

export const JobListSchema = z
  .object({
    jobs: z.array(JobSchema.omit({ queue: true, advanced_config: true }).openapi("JobSummary")),
    total: z.number().int(),
    skip: z.number().int(),
    limit: z.number().int(),
    next_cursor: z.string().nullable().openapi({ description: "Give it as `cursor` for the page after this one" }),
  })
  .openapi("JobList");

export const StartedJobSchema = z
  .object({
    id: z.number().int(),
    status: JobStatusSchema,
    started_at: time.nullable(),
    attempt: z.number().int(),
  })
  .openapi("StartedJob", {
    example: { id: 5, status: "running", started_at: "2025-11-06T12:05:00Z", attempt: 1 },
  });

export const StoppedJobSchema = z
  .object({ job_id: z.number().int(), status: z.literal("stopped"), message: z.string() })
  .openapi("StoppedJob", {
    example: { job_id: 5, status: "stopped", message: "Training job stopped successfully" },
  });

export const AskedCheckpointSchema = z
  .object({ job_id: z.number().int(), attempt: z.number().int(), message: z.string() })
  .openapi("AskedCheckpoint", {
    example: { job_id: 5, attempt: 1, message: "The runner saves a checkpoint after its next report" },
  });

export const MetricSchema = z
  .object({
    id: z.number().int(),
    job_id: z.number().int(),
    epoch: z.number().int(),
    step: z.number().int(),
    attempt: z.number().int(),
    loss: z.number().nullable(),
    accuracy: z.number().nullable(),
    learning_rate: z.number().nullable(),
    extra_metrics: z.record(z.string(), z.number().nullable()),
    non_finite: z.array(z.string()).optional().openapi({ description: "Values that arrived as NaN or Infinity" }),
    created_at: time,
  })
  .openapi("Metric", {
    example: {
      id: 1,
      job_id: 5,
      epoch: 1,
      step: 0,
      attempt: 1,
      // biome-ignore lint/suspicious/noApproximativeNumericConstant: the loss of the contract's example
      loss: 2.3025,
      accuracy: 0.125,
      learning_rate: 0.001,
      extra_metrics: { precision: 0.13, recall: 0.12, f1: 0.125 },
      created_at: "2025-11-06T12:10:00Z",
    },
  });

export const LogLineSchema = z
  .object({
    id: z.number().int(),
    job_id: z.number().int(),
    log_type: z.enum(["stdout", "stderr"]),
    message: z.string(),
    attempt: z.number().int(),
    created_at: time,
  })
  .openapi("LogLine", {
    example: {
      id: 1,
      job_id: 5,
      log_type: "stdout",
      message: "[INFO] Starting training...",
      attempt: 1,
      created_at: "2025-11-06T12:05:00Z",
    },
  });

export const CheckpointSchema = z
  .object({
    artifact_id: z.string(),
    checkpoint_path: z.string().openapi({ description: "What `start` and `test-inference` take" }),
    kind: z.enum(["checkpoint", "model"]).openapi({ description: "A `model` is exported for inference" }),
    name: z.string(),
    role: z.enum(["best", "last"]).nullable(),
    epoch: z.number().int().nullable(),
    attempt: z.number().int(),
    size_bytes: z.number().int(),
    sha256: z.string(),
    usable: z.boolean().openapi({ description: "False once its bytes were found not to fit its hash" }),
    created_at: time,
  })
  .openapi("Checkpoint", {
    example: {
      artifact_id: "0f8fad5b-d9cb-469f-a165-70867728950e",
      checkpoint_path: "jobs/5/1/0f8fad5b-d9cb-469f-a165-70867728950e",
      kind: "checkpoint",
      name: "best.pt",
      role: "best",
      epoch: 10,
      attempt: 1,
      size_bytes: 102400000,
      sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
      usable: true,
      created_at: "2025-11-06T12:15:00Z",
    },
  });

export const CheckpointListSchema = z
  .object({
    job_id: z.number().int(),
    checkpoints: z.array(CheckpointSchema),
    total: z.number().int(),
    skip: z.number().int(),
    limit: z.number().int(),
  })
  .openapi("CheckpointList");
