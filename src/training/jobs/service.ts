import { unauthorized } from "../../auth/bearer.ts";
import type { Principal } from "../../auth/principal.ts";
import type { Config } from "../../config.ts";
import type { IdempotencyKey } from "../../db/idempotency.ts";
import type { Content } from "../../http/content.ts";
import { AppError, unwrap } from "../../shared/errors.ts";
import { isoSeconds, isoSecondsOrNull } from "../../shared/time.ts";
import { keys } from "../../storage/keys.ts";
import { type AdvancedConfig, readSetting } from "../config/fields.ts";
import { checkTrainer } from "../config/trainers.ts";
import { validateAdvancedConfig } from "../config/validate.ts";
import { createOnce } from "../idempotency.ts";
import { findModel } from "../models/catalogue.ts";
import type { TaskType } from "../models/schemas.ts";
import type { RunnerPool } from "../runners/pool.ts";
import { secondsLeft } from "./estimate.ts";
import { type JobPosition, positionOf } from "./list-order.ts";
import { readBlocks } from "./log-archive.ts";
import type { ResumeChoice } from "./machine.ts";
import { POOL_NAME, type TrainingJob } from "./object.ts";
import { type JobRemoval, LIVE_STATUSES } from "./removal.ts";
import type { JobFilter, JobRepository, JobRow, JobScheduling, MetricPage, MetricPosition } from "./repository.ts";
import { MAX_OWN_PRIORITY } from "./schemas.ts";
import { specOf } from "./spec.ts";
import { bestOf, linesOf, toCheckpoint, toPoint } from "./wire.ts";

export type JobService = ReturnType<typeof createJobService>;

/** How a job is scheduled, in wire form. */
type Scheduling = {
  priority: number;
  required_labels: Record<string, string>;
  min_gpu_memory_mb: number;
  lost_after_s: number | null;
  max_duration_s: number | null;
};

type CreateInput = Scheduling & {
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

/** The columns of what is given; what is left out is not among them. */
const schedulingOf = (input: Partial<Scheduling>): Partial<JobScheduling> => ({
  ...(input.priority === undefined ? {} : { priority: input.priority }),
  ...(input.required_labels === undefined ? {} : { requiredLabels: input.required_labels }),
  ...(input.min_gpu_memory_mb === undefined ? {} : { minGpuMemoryMb: input.min_gpu_memory_mb }),
  ...(input.lost_after_s === undefined ? {} : { lostAfterS: input.lost_after_s }),
  ...(input.max_duration_s === undefined ? {} : { maxDurationS: input.max_duration_s }),
});

/** Runners serve all projects: who may run jobs of one may not put them before everybody else's. @throws FORBIDDEN */
function checkPriority(priority: number | undefined, isAdmin: boolean): void {
  if (priority === undefined || priority <= MAX_OWN_PRIORITY || isAdmin) return;
  throw new AppError("FORBIDDEN", `Only admins give a job a priority above ${MAX_OWN_PRIORITY}`, { field: "priority" });
}

/** The metric a job is judged by when it names none. */
const PRIMARY_METRIC: Record<TaskType, { name: string; mode: "max" | "min" }> = {
  image_classification: { name: "accuracy", mode: "max" },
  object_detection: { name: "mAP50", mode: "max" },
  instance_segmentation: { name: "mAP50", mode: "max" },
  pose_estimation: { name: "mAP50", mode: "max" },
  semantic_segmentation: { name: "mean_iou", mode: "max" },
};

/** Whether labels made for one task can train another: masks and keypoints come with boxes. */
const labelsServe = (labelled: TaskType, task: TaskType): boolean =>
  labelled === task ||
  (task === "object_detection" && (labelled === "instance_segmentation" || labelled === "pose_estimation"));

const notFound = () => new AppError("JOB_NOT_FOUND", "Job not found");
const invalid = (field: string, message: string) => new AppError("VALIDATION_ERROR", `${field}: ${message}`, { field });

/** A number among the explicit advanced settings, by its dotted name. */
const numberAt = (config: AdvancedConfig, name: string): number | undefined => {
  const value = readSetting(config, name);
  return typeof value === "number" ? value : undefined;
};

type Identity = Omit<
  JobRow,
  | "createdBy"
  | "classNames"
  | "imageSize"
  | "advancedConfig"
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
  | "updatedAt"
  | "rev"
>;

const identityOf = (job: Identity) => ({
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
  priority: job.priority,
  required_labels: job.requiredLabels,
  min_gpu_memory_mb: job.minGpuMemoryMb,
  lost_after_s: job.lostAfterS,
  max_duration_s: job.maxDurationS,
  created_at: isoSeconds(job.createdAt),
  started_at: isoSecondsOrNull(job.startedAt),
  completed_at: isoSecondsOrNull(job.completedAt),
});

type Besides = {
  projectName: string | null;
  runnerName: string | null;
  attemptStartedAt: number | null;
  resumeEpoch: number | null;
};

const progressOf = (job: JobRow, besides: Besides, now: number) => {
  const totalEpochs = job.totalEpochs ?? job.epochs;
  const { attemptStartedAt, resumeEpoch, runnerName } = besides;
  return {
    project_name: besides.projectName ?? "",
    runner: job.runnerId === null || runnerName === null ? null : { id: job.runnerId, name: runnerName },
    estimated_seconds_left:
      job.status !== "running" || attemptStartedAt === null
        ? null
        : secondsLeft(
            {
              attemptStartedAtMs: attemptStartedAt,
              resumeEpoch: resumeEpoch ?? 0,
              currentEpoch: job.currentEpoch,
              totalEpochs,
              lastNewsAtMs: job.updatedAt,
            },
            now,
          ),
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
    best: bestOf(job),
    data_complete: job.dataComplete,
    log_truncated: job.logTruncated,
    updated_at: isoSeconds(job.updatedAt),
  };
};

/** What a clone takes over, and what it has of its own. */
export type CloneInput = Partial<Omit<CreateInput, "config">> & { config?: Partial<CreateInput["config"]> };

export function createJobService(deps: {
  jobs: JobRepository;
  objects: DurableObjectNamespace<TrainingJob>;
  pools: DurableObjectNamespace<RunnerPool>;
  removal: JobRemoval;
  bucket: R2Bucket;
  config: Config;
  now: () => number;
}) {
  const { jobs, objects, pools, removal, bucket, now } = deps;

  /** The job for a caller who may read it. @throws UNAUTHORIZED · JOB_NOT_FOUND, the same for an unknown and a foreign one */
  async function readable(principal: Principal, jobId: number) {
    const found = await jobs.find(principal, jobId);
    if (found === undefined) throw unauthorized();
    if (found.job === null || found.role === null) throw notFound();
    return { ...found, job: found.job, role: found.role };
  }

  async function writable(principal: Principal, jobId: number) {
    const found = await readable(principal, jobId);
    if (found.role === "viewer") throw new AppError("FORBIDDEN", "Viewers of a project cannot run its jobs");
    return found;
  }

  const toCreated = (job: Parameters<typeof identityOf>[0] & { advancedConfig: JobRow["advancedConfig"] }) => ({
    ...identityOf(job),
    advanced_config: job.advancedConfig,
  });

  async function toDetail(found: { job: JobRow } & Besides) {
    const { job } = found;
    return {
      ...identityOf(job),
      advanced_config: job.advancedConfig,
      ...progressOf(job, found, now()),
      queue: job.status === "queued" ? await pools.getByName(POOL_NAME).position(job.id) : null,
    };
  }

  /**
   * Stores a job after checking project, dataset, model and settings together.
   * @throws PROJECT_NOT_FOUND · DATASET_NOT_FOUND · FORBIDDEN · VALIDATION_ERROR with the dotted field
   */
  async function createNew(principal: Principal, input: CreateInput, key: IdempotencyKey | null) {
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
    checkPriority(input.priority, facts.isAdmin);
    const { dataset } = facts;
    if (dataset === null || (facts.datasetRole === null && dataset.visibility !== "public")) {
      throw new AppError("DATASET_NOT_FOUND", "Dataset not found", { field: "config.dataset_id" });
    }
    if (dataset.taskType !== null && !labelsServe(dataset.taskType, config.task_type)) {
      throw invalid(
        "config.dataset_id",
        `the dataset is labelled for ${dataset.taskType}, not for ${config.task_type}`,
      );
    }
    const classes = dataset.numClasses;
    if (config.num_classes && classes !== null && config.num_classes < classes) {
      throw invalid("config.num_classes", `the dataset has ${classes} classes`);
    }

    unwrap(checkTrainer(config.framework, { datasetFormat: dataset.format, primaryMetric: config.primary_metric }));

    const primary = PRIMARY_METRIC[config.task_type];
    const at = now();
    const values = {
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
      imageSize: numberAt(advanced, "preprocessing.image_size") ?? model.default_image_size,
      epochs: config.epochs,
      batchSize: config.batch_size,
      // Given twice: the explicit advanced setting wins, a default never does.
      learningRate: numberAt(advanced, "optimizer.learning_rate") ?? config.learning_rate,
      advancedConfig: advanced,
      primaryMetric: config.primary_metric ?? primary.name,
      primaryMetricMode: config.primary_metric_mode ?? (config.primary_metric === undefined ? primary.mode : "max"),
      priority: input.priority,
      requiredLabels: input.required_labels,
      minGpuMemoryMb: input.min_gpu_memory_mb,
      lostAfterS: input.lost_after_s,
      maxDurationS: input.max_duration_s,
      createdAt: at,
      updatedAt: at,
      status: "pending" as const,
      phase: "pending",
      totalEpochs: config.epochs,
    };
    const id = await jobs.create(values, key);
    return toCreated({ ...values, id, startedAt: null, completedAt: null });
  }

  return {
    readable,

    /**
     * Stores a pending job; with a key, once.
     * @throws as `createNew` · JOB_NOT_FOUND when the job that the key made was deleted since
     */
    create: (principal: Principal, input: CreateInput, key: IdempotencyKey | null = null) =>
      createOnce(
        { binding: jobs.binding, now },
        principal,
        key,
        () => createNew(principal, input, key),
        async (jobId) => toCreated((await readable(principal, Number(jobId))).job),
      ),

    /**
     * Makes a pending job with the settings of another one, changed where `input` says so; the settings are checked anew.
     * @throws as `create`, and JOB_NOT_FOUND
     */
    async clone(principal: Principal, jobId: number, input: CloneInput, key: IdempotencyKey | null) {
      const { job, isAdmin } = await readable(principal, jobId);
      return this.create(
        principal,
        {
          // What an admin gave the original is not handed on.
          priority: input.priority ?? (isAdmin ? job.priority : Math.min(job.priority, MAX_OWN_PRIORITY)),
          required_labels: input.required_labels ?? job.requiredLabels,
          min_gpu_memory_mb: input.min_gpu_memory_mb ?? job.minGpuMemoryMb,
          lost_after_s: input.lost_after_s === undefined ? job.lostAfterS : input.lost_after_s,
          max_duration_s: input.max_duration_s === undefined ? job.maxDurationS : input.max_duration_s,
          session_id: input.session_id === undefined ? job.sessionId : input.session_id,
          project_id: input.project_id ?? job.projectId,
          experiment_name: input.experiment_name === undefined ? job.experimentName : input.experiment_name,
          tags: input.tags ?? job.tags,
          notes: input.notes === undefined ? job.notes : input.notes,
          config: {
            framework: job.framework,
            model_name: job.modelName,
            task_type: job.taskType,
            dataset_id: job.datasetId,
            num_classes: job.numClasses,
            epochs: job.epochs,
            batch_size: job.batchSize,
            learning_rate: job.learningRate,
            primary_metric: job.primaryMetric,
            primary_metric_mode: job.primaryMetricMode,
            advanced_config: job.advancedConfig,
            // A rate that is given here is meant, so the one in the settings does not win over it.
            ...(input.config?.learning_rate === undefined || input.config.advanced_config
              ? {}
              : { advanced_config: withoutRate(job.advancedConfig) }),
            ...input.config,
          },
        },
        key,
      );
    },

    /**
     * Changes name, tags and notes, and how the job is scheduled.
     * @throws FORBIDDEN for viewers, and for a priority of admins · INVALID_STATUS for the scheduling of a job that runs
     */
    async update(
      principal: Principal,
      jobId: number,
      input: Partial<Scheduling> & { experiment_name?: string | null; tags?: string[]; notes?: string | null },
    ) {
      const found = await writable(principal, jobId);
      const scheduling = schedulingOf(input);
      if (scheduling.priority !== found.job.priority) checkPriority(scheduling.priority, found.isAdmin);
      const changes = { experimentName: input.experiment_name, tags: input.tags, notes: input.notes, ...scheduling };
      const given = Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined));
      const job = { ...found.job, ...given };
      // The object says whether it is too late; what it took over and the row did not, the next start makes equal.
      if (Object.keys(scheduling).length > 0) unwrap(await objects.getByName(String(jobId)).reschedule(specOf(job)));
      await jobs.update(jobId, changes);
      return toDetail({ ...found, job });
    },

    /**
     * Deletes a job with its metrics, logs, results and files. Its maker and the owner of its project may.
     * @throws INVALID_STATUS while it is live · FORBIDDEN
     */
    async remove(principal: Principal, jobId: number, requestId: string): Promise<void> {
      const { job, role, userId } = await writable(principal, jobId);
      if (role !== "owner" && job.createdBy !== userId) {
        throw new AppError("FORBIDDEN", "Only who made a job, or the owner of its project, deletes it");
      }
      if (LIVE_STATUSES.some((status) => status === job.status)) {
        throw new AppError("INVALID_STATUS", `A job that is ${job.status} cannot be deleted; stop it first`);
      }
      await removal.remove(jobId, { userId, requestId });
    },

    async detail(principal: Principal, jobId: number) {
      return toDetail(await readable(principal, jobId));
    },

    /** One page and the position at which the next one begins, null behind the last. */
    async list(principal: Principal, filter: JobFilter) {
      const rows = await jobs.list(principal, filter);
      if (rows.length === 0) throw unauthorized();
      const found = rows.flatMap(({ job, ...besides }) => (job === null ? [] : [{ job, besides }]));
      const last = found.at(-1)?.job;
      const next: JobPosition | null = found.length === filter.limit && last ? positionOf(filter.sort, last) : null;
      const at = now();
      return {
        next,
        page: {
          jobs: found.map(({ job, besides }) => ({ ...identityOf(job), ...progressOf(job, besides, at) })),
          total: rows[0]?.total ?? 0,
          skip: filter.skip,
          limit: filter.limit,
        },
      };
    },

    /** @throws INVALID_STATUS · CHECKPOINT_NOT_FOUND · TRAINING_SERVICE_UNAVAILABLE, the job then stays as it was */
    async start(principal: Principal, jobId: number, options: { resume: boolean; checkpoint_path?: string }) {
      const { job } = await writable(principal, jobId);
      // Who may run the job need not be in the dataset's project: its maker was. But it can be gone.
      const startable = job.status === "pending" || job.status === "stopped" || job.status === "failed";
      const { hasDataset, maxRunningJobs } = await jobs.startFacts(job);
      if (startable && !hasDataset) throw new AppError("DATASET_NOT_FOUND", "Dataset not found");
      const object = objects.getByName(String(jobId));
      const view = unwrap(await object.start(specOf(job), resumeChoice(jobId, options), maxRunningJobs));
      return {
        id: jobId,
        status: view.status,
        started_at: isoSecondsOrNull(view.startedAtMs),
        attempt: view.attempt,
      };
    },

    /**
     * Stops a job. An admin may stop anybody's: the job says so, and the audit log who it was.
     * @throws INVALID_STATUS · FORBIDDEN for viewers
     */
    async stop(principal: Principal, jobId: number, requestId: string) {
      const found = await jobs.find(principal, jobId);
      if (found === undefined) throw unauthorized();
      const { job, role, isAdmin, userId } = found;
      if (job === null || (role === null && !isAdmin)) throw notFound();
      const isOwn = role === "owner" || role === "editor";
      if (!isOwn && !isAdmin) throw new AppError("FORBIDDEN", "Viewers of a project cannot run its jobs");
      unwrap(await objects.getByName(String(jobId)).stop(specOf(job), isOwn ? "user_stop" : "admin_stop"));
      if (!isOwn && job.status !== "stopped") await jobs.noteStop({ userId, requestId }, jobId, now());
      return { job_id: jobId, status: "stopped" as const, message: "Training job stopped successfully" };
    },

    /** Asks the runner of a job to save a checkpoint and go on. @throws INVALID_STATUS unless a runner trains it */
    async askCheckpoint(principal: Principal, jobId: number) {
      await writable(principal, jobId);
      const { attempt } = unwrap(await objects.getByName(String(jobId)).askCheckpoint());
      return { job_id: jobId, attempt, message: "The runner saves a checkpoint after its next report" };
    },

    /** One page of points in ascending order, and the positions of the pages around it. */
    async metrics(principal: Principal, jobId: number, page: MetricPage) {
      const rows = await jobs.metrics(principal, jobId, page);
      if (rows.length === 0) throw unauthorized();
      if (rows[0]?.role === null) throw notFound();
      const points = rows.flatMap(({ point }) => (point === null ? [] : [point]));
      if (page.after === null) points.reverse();
      const isFull = points.length === page.limit;
      const [first, last] = [points[0], points.at(-1)];
      return {
        older: first && (page.after !== null || isFull) ? positionOfPoint(first) : null,
        // There may be more at any time: a caller that polls goes on from here.
        newer: last ? positionOfPoint(last) : page.after,
        body: points.map((point) => toPoint(jobId, point)),
      };
    },

    /** The curve of a series in at most `maxPoints` points. */
    async curve(principal: Principal, jobId: number, maxPoints: number, series: string) {
      const rows = await jobs.curve(principal, jobId, maxPoints, series);
      if (rows.length === 0) throw unauthorized();
      if (rows[0]?.role === null) throw notFound();
      return rows.flatMap(({ point }) => (point === null ? [] : [toPoint(jobId, point)]));
    },

    /** One page of lines in ascending order, and the numbers of the lines at which the pages around it end and begin. */
    async logs(
      principal: Principal,
      jobId: number,
      options: {
        limit: number;
        stream?: "stdout" | "stderr";
        beforeLine: number | null;
        afterLine: number | null;
      },
    ) {
      const rows = await jobs.logPieces(principal, jobId, options);
      if (rows.length === 0) throw unauthorized();
      if (rows[0]?.role === null) throw notFound();
      const { limit, beforeLine, afterLine } = options;
      // Blocks come before chunks: what is put away is older than what is not.
      const blocks = rows.flatMap(({ block }) => (block === null ? [] : [block]));
      const chunks = rows.flatMap(({ chunk }) => (chunk === null ? [] : [chunk]));
      const lines = [...(await readBlocks(bucket, jobId, blocks, options.stream)), ...chunks]
        .flatMap((chunk) => linesOf(chunk.text).map((message, i) => ({ id: chunk.firstLine + i, message, chunk })))
        .filter(({ id }) => (beforeLine === null || id < beforeLine) && (afterLine === null || id > afterLine));
      const page = afterLine === null ? lines.slice(-limit) : lines.slice(0, limit);
      const first = page[0]?.id;
      return {
        older: first !== undefined && first > 1 && (afterLine !== null || page.length === limit) ? first : null,
        newer: page.at(-1)?.id ?? afterLine,
        body: page.map(({ id, message, chunk }) => ({
          id,
          job_id: jobId,
          log_type: chunk.stream,
          message,
          attempt: chunk.attempt,
          created_at: isoSeconds(chunk.createdAt),
        })),
      };
    },

    async checkpoints(principal: Principal, jobId: number, window: { skip: number; limit: number }) {
      const rows = await jobs.checkpoints(principal, jobId, window);
      if (rows.length === 0) throw unauthorized();
      if (rows[0]?.role === null) throw notFound();
      return {
        job_id: jobId,
        checkpoints: rows.flatMap(({ artifact }) => (artifact === null ? [] : [toCheckpoint(artifact)])),
        total: rows[0]?.total ?? 0,
        ...window,
      };
    },

    /** The bytes of a checkpoint. @throws JOB_NOT_FOUND · CHECKPOINT_NOT_FOUND, also for one of another job */
    async checkpointContent(principal: Principal, jobId: number, artifactId: string): Promise<Content> {
      const found = await jobs.checkpoint(principal, jobId, artifactId);
      if (found === undefined) throw unauthorized();
      if (found.role === null) throw notFound();
      const { artifact } = found;
      const missing = new AppError("CHECKPOINT_NOT_FOUND", "Checkpoint not found");
      if (artifact === null) throw missing;
      return {
        sizeBytes: artifact.sizeBytes,
        sha256: artifact.sha256,
        contentType: "application/octet-stream",
        downloadName: artifact.name,
        open: async (range) => {
          const stored = await bucket.get(artifact.storageKey, range ? { range } : {});
          if (stored === null) throw missing;
          return stored.body;
        },
      };
    },
  };
}

const positionOfPoint = ({ epoch, step }: MetricPosition): MetricPosition => ({ epoch, step });

/** The settings without their own learning rate. */
function withoutRate(config: Record<string, unknown>): Record<string, unknown> {
  const { optimizer, ...rest } = config;
  if (typeof optimizer !== "object" || optimizer === null) return config;
  const { learning_rate: _, ...others } = optimizer as Record<string, unknown>;
  return { ...rest, optimizer: others };
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
