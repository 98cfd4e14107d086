import { unauthorized } from "../../auth/bearer.ts";
import type { Principal } from "../../auth/principal.ts";
import type { Config } from "../../config.ts";
import type { trainingJobs } from "../../db/schema/index.ts";
import { AppError, unwrap } from "../../shared/errors.ts";
import { isoSeconds, isoSecondsOrNull } from "../../shared/time.ts";
import { keys } from "../../storage/keys.ts";
import { validateAdvancedConfig } from "../config/validate.ts";
import { findModel } from "../models/catalogue.ts";
import type { TaskType } from "../models/schemas.ts";
import type { RunnerPool } from "../runners/pool.ts";
import type { ResumeChoice } from "./machine.ts";
import { POOL_NAME, type TrainingJob } from "./object.ts";
import type { JobRepository, MetricPosition } from "./repository.ts";
import { specOf } from "./spec.ts";

export type JobService = ReturnType<typeof createJobService>;

type JobRow = typeof trainingJobs.$inferSelect;

type CreateInput = {
  session_id?: number | null;
  project_id?: number | null;
  experiment_name?: string | null;
  tags: string[];
  notes?: string | null;
  config: {
    framework: string;
    model_name: string;
    task_type: TaskType;
    dataset_id: string;
    num_classes?: number | null;
    epochs: number;
    batch_size: number;
    learning_rate: number;
    primary_metric?: string;
    primary_metric_mode?: "max" | "min";
    advanced_config?: Record<string, unknown> | null;
  };
};

/** The metric a job is judged by when it names none. */
const PRIMARY_METRIC: Record<TaskType, { name: string; mode: "max" | "min" }> = {
  image_classification: { name: "accuracy", mode: "max" },
  object_detection: { name: "mAP50", mode: "max" },
  instance_segmentation: { name: "mAP50", mode: "max" },
  pose_estimation: { name: "mAP50", mode: "max" },
  semantic_segmentation: { name: "mean_iou", mode: "max" },
};

const notFound = () => new AppError("JOB_NOT_FOUND", "Job not found");
const invalid = (field: string, message: string) => new AppError("VALIDATION_ERROR", `${field}: ${message}`, { field });

/** A number inside the nested advanced settings, if it was given. */
const numberAt = (config: Record<string, unknown>, section: string, key: string): number | undefined => {
  const nested = config[section];
  const value = typeof nested === "object" && nested !== null ? (nested as Record<string, unknown>)[key] : undefined;
  return typeof value === "number" ? value : undefined;
};

const identityOf = (job: JobRow) => ({
  id: job.id,
  session_id: job.sessionId,
  project_id: job.projectId,
  experiment_name: job.experimentName,
  tags: job.tags,
  notes: job.notes,
  framework: job.framework,
  model_name: job.modelName,
  task_type: job.taskType,
  dataset_id: job.datasetId,
  dataset_path: job.datasetId,
  dataset_format: job.datasetFormat,
  num_classes: job.numClasses,
  output_dir: keys.jobPrefix(job.id).slice(0, -1),
  epochs: job.epochs,
  batch_size: job.batchSize,
  learning_rate: job.learningRate,
  status: job.status,
  primary_metric: job.primaryMetric,
  primary_metric_mode: job.primaryMetricMode,
  created_at: isoSeconds(job.createdAt),
  started_at: isoSecondsOrNull(job.startedAt),
  completed_at: isoSecondsOrNull(job.completedAt),
});

const progressOf = (job: JobRow) => {
  const totalEpochs = job.totalEpochs ?? job.epochs;
  return {
    current_epoch: job.currentEpoch,
    total_epochs: totalEpochs,
    progress_percent:
      job.status === "completed" ? 100 : Math.min(100, Math.round((1000 * job.currentEpoch) / totalEpochs) / 10),
    mlflow_run_id: job.mlflowRunId,
    phase: job.phase,
    reason: job.reason,
    message: job.message,
    attempt: job.attempt,
    runner_id: job.runnerId,
    best: job.bestValue === null || job.bestEpoch === null ? null : { value: job.bestValue, epoch: job.bestEpoch },
    data_complete: job.dataComplete,
    log_truncated: job.logTruncated,
    updated_at: isoSeconds(job.updatedAt),
  };
};

/** Splits a chunk into its lines with their numbers in the job; a last line without an end counts. */
const linesOf = (chunk: { text: string; firstLine: number }) =>
  (chunk.text.endsWith("\n") ? chunk.text.slice(0, -1) : chunk.text)
    .split("\n")
    .map((line, i) => ({ id: chunk.firstLine + i, message: line.endsWith("\r") ? line.slice(0, -1) : line }));

export function createJobService(deps: {
  jobs: JobRepository;
  objects: DurableObjectNamespace<TrainingJob>;
  pools: DurableObjectNamespace<RunnerPool>;
  config: Config;
  now: () => number;
}) {
  const { jobs, objects, pools, now } = deps;

  /** The job for a caller who may read it. @throws UNAUTHORIZED · JOB_NOT_FOUND, the same for an unknown and a foreign one */
  async function readable(principal: Principal, jobId: number) {
    const found = await jobs.find(principal, jobId);
    if (found === undefined) throw unauthorized();
    if (found.job === null || found.role === null) throw notFound();
    return { job: found.job, role: found.role, projectName: found.projectName ?? "" };
  }

  async function writable(principal: Principal, jobId: number) {
    const found = await readable(principal, jobId);
    if (found.role === "viewer") throw new AppError("FORBIDDEN", "Viewers of a project cannot run its jobs");
    return found;
  }

  return {
    readable,

    /**
     * Stores a job after checking project, dataset, model and settings together.
     * @throws PROJECT_NOT_FOUND · DATASET_NOT_FOUND · FORBIDDEN · VALIDATION_ERROR with the dotted field
     */
    async create(principal: Principal, input: CreateInput) {
      const { config } = input;
      const model = findModel(config.framework, config.model_name);
      if (model === undefined || !model.trainable) {
        throw invalid("config.model_name", `no trainable model of this name for ${config.framework}`);
      }
      if (!model.task_types.includes(config.task_type)) {
        throw invalid("config.task_type", `${config.model_name} is trained for ${model.task_types.join(", ")}`);
      }
      const advanced = unwrap(validateAdvancedConfig(config.framework, config.advanced_config ?? {}));

      const facts = await jobs.creationFacts(principal, input.project_id ?? null, config.dataset_id);
      if (facts === undefined) throw unauthorized();
      if (facts.projectId === null || facts.role === null) {
        throw new AppError("PROJECT_NOT_FOUND", "Project not found", { field: "project_id" });
      }
      if (facts.role === "viewer") throw new AppError("FORBIDDEN", "Viewers of a project cannot create jobs in it");
      const { dataset } = facts;
      if (dataset === null || (facts.datasetRole === null && dataset.visibility !== "public")) {
        throw new AppError("DATASET_NOT_FOUND", "Dataset not found", { field: "config.dataset_id" });
      }
      if (dataset.taskType !== null && dataset.taskType !== config.task_type) {
        throw invalid(
          "config.dataset_id",
          `the dataset is labelled for ${dataset.taskType}, not for ${config.task_type}`,
        );
      }
      const classes = dataset.numClasses;
      if (config.num_classes && classes !== null && config.num_classes < classes) {
        throw invalid("config.num_classes", `the dataset has ${classes} classes`);
      }

      const primary = PRIMARY_METRIC[config.task_type];
      const at = now();
      const job = await jobs.create({
        projectId: facts.projectId,
        createdBy: facts.userId,
        sessionId: input.session_id ?? null,
        experimentName: input.experiment_name ?? null,
        tags: input.tags,
        notes: input.notes ?? null,
        framework: config.framework,
        modelName: config.model_name,
        taskType: config.task_type,
        datasetId: dataset.id,
        datasetFormat: dataset.format,
        numClasses: config.num_classes ?? classes,
        classNames: dataset.classNames,
        imageSize: numberAt(advanced, "preprocessing", "image_size") ?? model.default_image_size,
        epochs: config.epochs,
        batchSize: config.batch_size,
        // Given twice: the explicit advanced setting wins, a default never does.
        learningRate: numberAt(advanced, "optimizer", "learning_rate") ?? config.learning_rate,
        advancedConfig: advanced,
        primaryMetric: config.primary_metric ?? primary.name,
        primaryMetricMode: config.primary_metric_mode ?? (config.primary_metric === undefined ? primary.mode : "max"),
        createdAt: at,
        updatedAt: at,
        status: "pending",
        phase: "pending",
        totalEpochs: config.epochs,
      });
      if (job === undefined) throw new AppError("INTERNAL_ERROR", "Internal server error");
      return { ...identityOf(job), advanced_config: job.advancedConfig };
    },

    async detail(principal: Principal, jobId: number) {
      const { job, projectName } = await readable(principal, jobId);
      const queue = job.status === "queued" ? await pools.getByName(POOL_NAME).position(jobId) : null;
      return {
        ...identityOf(job),
        project_name: projectName,
        advanced_config: job.advancedConfig,
        ...progressOf(job),
        queue,
      };
    },

    async list(
      principal: Principal,
      filter: { project_id?: number; status?: JobRow["status"]; skip: number; limit: number },
    ) {
      const rows = await jobs.list(principal, { ...filter, projectId: filter.project_id });
      if (rows.length === 0) throw unauthorized();
      return {
        jobs: rows.flatMap(({ job, projectName }) =>
          job === null ? [] : [{ ...identityOf(job), project_name: projectName ?? "", ...progressOf(job) }],
        ),
        total: rows[0]?.total ?? 0,
        skip: filter.skip,
        limit: filter.limit,
      };
    },

    /** @throws INVALID_STATUS · CHECKPOINT_NOT_FOUND · TRAINING_SERVICE_UNAVAILABLE, the job then stays as it was */
    async start(principal: Principal, jobId: number, options: { resume: boolean; checkpoint_path?: string }) {
      const { job } = await writable(principal, jobId);
      const view = unwrap(await objects.getByName(String(jobId)).start(specOf(job), resumeChoice(jobId, options)));
      return {
        id: jobId,
        status: view.status,
        started_at: isoSecondsOrNull(view.startedAtMs),
        attempt: view.attempt,
      };
    },

    async stop(principal: Principal, jobId: number) {
      const { job } = await writable(principal, jobId);
      unwrap(await objects.getByName(String(jobId)).stop(specOf(job), "user_stop"));
      return { job_id: jobId, status: "stopped" as const, message: "Training job stopped successfully" };
    },

    /** The newest points in ascending order, and the cursor of the page before them. */
    async metrics(principal: Principal, jobId: number, options: { limit: number; before: MetricPosition | null }) {
      const rows = await jobs.metrics(principal, jobId, options);
      if (rows.length === 0) throw unauthorized();
      if (rows[0]?.role === null) throw notFound();
      const points = rows.flatMap(({ point }) => (point === null ? [] : [point])).reverse();
      return {
        older: points.length === options.limit ? (points[0] ?? null) : null,
        body: points.map((point) => ({
          id: point.id,
          job_id: point.jobId,
          epoch: point.epoch,
          step: point.step,
          attempt: point.attempt,
          loss: point.loss,
          accuracy: point.accuracy,
          learning_rate: point.learningRate,
          extra_metrics: point.extraMetrics,
          ...(point.nonFinite === null ? {} : { non_finite: point.nonFinite }),
          created_at: isoSeconds(point.createdAt),
        })),
      };
    },

    /** The newest lines in ascending order, and the number of the first of them when there are older ones. */
    async logs(
      principal: Principal,
      jobId: number,
      options: { limit: number; stream?: "stdout" | "stderr"; beforeLine: number | null },
    ) {
      const rows = await jobs.logChunks(principal, jobId, options);
      if (rows.length === 0) throw unauthorized();
      if (rows[0]?.role === null) throw notFound();
      const lines = rows
        .flatMap(({ chunk }) => (chunk === null ? [] : [chunk]))
        .flatMap((chunk) => linesOf(chunk).map((line) => ({ ...line, chunk })))
        .filter((line) => options.beforeLine === null || line.id < options.beforeLine);
      const newest = lines.slice(-options.limit);
      const first = newest[0]?.id ?? 1;
      return {
        older: lines.length > newest.length || (newest.length === options.limit && first > 1) ? first : null,
        body: newest.map(({ id, message, chunk }) => ({
          id,
          job_id: jobId,
          log_type: chunk.stream,
          message,
          attempt: chunk.attempt,
          created_at: isoSeconds(chunk.createdAt),
        })),
      };
    },
  };
}

/**
 * What `start` goes on from. A checkpoint is named by the key that was printed for it, which must be one of this job's:
 * anything else, a path or URL of another place too, is just not found.
 */
function resumeChoice(jobId: number, options: { resume: boolean; checkpoint_path?: string }): ResumeChoice {
  if (options.checkpoint_path === undefined) return options.resume ? { from: "newest" } : { from: "nothing" };
  const match = /^jobs\/(\d{1,15})\/\d{1,9}\/([0-9a-f-]{36})$/.exec(options.checkpoint_path);
  if (match === null || Number(match[1]) !== jobId || match[2] === undefined) {
    throw new AppError("CHECKPOINT_NOT_FOUND", "Checkpoint not found", { field: "checkpoint_path" });
  }
  return { from: "artifact", artifactId: match[2], weightsOnly: !options.resume };
}
