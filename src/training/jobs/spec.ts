import type { JsonObject, trainingJobs } from "../../db/schema/index.ts";
import type { Requirements } from "../runners/match.ts";

/**
 * What a job's object knows of its job, handed to it with the first call that needs it. Fixed at creation, but for how it is
 * scheduled: priority, requirements and timers can be changed while nobody works on it.
 */
export type JobSpec = {
  jobId: number;
  projectId: number;
  datasetId: string;
  priority: number;
  primaryMetric: string;
  primaryMetricMode: "max" | "min";
  requirements: Requirements;
  /** Timers of the job's own, seconds; absent or null: the deployment's. */
  lostAfterS?: number | null;
  maxDurationS?: number | null;
  /** What the runner gets at accept, in wire form. */
  wire: JsonObject;
};

/** The spec of a stored job. */
export const specOf = (job: typeof trainingJobs.$inferSelect): JobSpec => ({
  jobId: job.id,
  projectId: job.projectId,
  datasetId: job.datasetId,
  priority: job.priority,
  primaryMetric: job.primaryMetric,
  primaryMetricMode: job.primaryMetricMode,
  requirements: { framework: job.framework, labels: job.requiredLabels, gpuMemoryMb: job.minGpuMemoryMb },
  lostAfterS: job.lostAfterS,
  maxDurationS: job.maxDurationS,
  wire: {
    job_id: job.id,
    framework: job.framework,
    model_name: job.modelName,
    task_type: job.taskType,
    dataset_id: job.datasetId,
    dataset_format: job.datasetFormat,
    num_classes: job.numClasses,
    class_names: job.classNames,
    epochs: job.epochs,
    batch_size: job.batchSize,
    learning_rate: job.learningRate,
    advanced_config: job.advancedConfig,
    primary_metric: job.primaryMetric,
    primary_metric_mode: job.primaryMetricMode,
    image_size: job.imageSize,
  },
});
