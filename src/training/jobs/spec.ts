import type { JsonObject, trainingJobs } from "../../db/schema/index.ts";
import type { Requirements } from "../runners/match.ts";

/** What a job's object knows of its job: fixed at creation, handed to it with the first call that needs it. */
export type JobSpec = {
  jobId: number;
  projectId: number;
  datasetId: string;
  priority: number;
  primaryMetric: string;
  primaryMetricMode: "max" | "min";
  requirements: Requirements;
  /** What the runner gets at accept, in wire form. */
  wire: JsonObject;
};

/** The spec of a stored job. */
export const specOf = (job: typeof trainingJobs.$inferSelect): JobSpec => ({
  jobId: job.id,
  projectId: job.projectId,
  datasetId: job.datasetId,
  priority: 0,
  primaryMetric: job.primaryMetric,
  primaryMetricMode: job.primaryMetricMode,
  requirements: { framework: job.framework, labels: {}, gpuMemoryMb: 0 },
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
