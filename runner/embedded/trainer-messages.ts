import type { CheckpointManifest } from "../../src/training/inference/manifest.ts";

/**
 * What the agent process and its trainer child process say to each other over the IPC channel of `child_process.fork`
 * (plain JSON), and the job file whose path is the child's first argument. Log lines are not messages: the child writes
 * them to its stdout and stderr.
 */

/** Content of the job file. */
export type TrainerJob = {
  /** The job's spec as the server hands it out at accept: snake_case, checked by the child. */
  spec: unknown;
  /** Folder that holds the dataset's files under their manifest paths. Only read. */
  dataDir: string;
  /** Folder for what this attempt makes; checkpoints go to `workDir/checkpoints`. Made if it is not there. */
  workDir: string;
  resume: TrainerResume | null;
};

export type TrainerResume = {
  /** A resumable state (`last.state`) written by this trainer. */
  path: string;
  /** Epochs that the server believes to be complete in it; the state's own count is what is used. */
  epoch: number;
  /** true: take only the weights and begin at epoch 1. Default false: go on where the state stopped. */
  weightsOnly?: boolean;
};

/** Agent -> child. */
export type TrainerCommand =
  /** Save a checkpoint between two batches, report `finished` with `user_stop`, exit 0. */
  | { type: "stop" }
  /** Save a checkpoint between two batches and go on. */
  | { type: "checkpoint" };

/** Child -> agent. The last message is always `finished`. */
export type TrainerMessage =
  | { type: "started"; totalEpochs: number }
  | EpochMessage
  | { type: "validation"; data: ValidationData }
  | CheckpointMessage
  | { type: "finished"; reason: FinishReason; message?: string };

export type FinishReason =
  | "done"
  | "user_stop"
  /** The message names the field, e.g. `advanced_config.scheduler.type: …`. */
  | "invalid_config"
  /** Nothing of the dataset can be read. */
  | "dataset_unavailable"
  /** The state to resume from is damaged or belongs to another model. */
  | "checkpoint_corrupt"
  | "exit_nonzero";

export type EpochMessage = {
  type: "epoch";
  /** From 1. */
  epoch: number;
  /** Mean training loss of the epoch, on augmented images. */
  loss: number;
  /** 0..1: of the validation set when it was measured in this epoch, else of the training images. */
  accuracy: number;
  learningRate: number;
  /** train_accuracy, epoch_seconds, images_per_second; with validation also val_loss, val_accuracy, precision, recall, f1. */
  extraMetrics: Record<string, number>;
};

export type CheckpointMessage = {
  type: "checkpoint";
  /** Complete epochs behind these weights; 0 when the first one is still in progress. */
  epoch: number;
  role: "best" | "last";
  /**
   * Complete on disk and never written to again. A file may be gone when it is opened late: then newer messages of the
   * same role are already on their way, and this one can be dropped.
   */
  files: CheckpointFile[];
};

export type CheckpointFile = {
  kind: "model" | "checkpoint";
  /** Absolute. */
  path: string;
  /** Name of the artifact: best.onnx, last.onnx, last.state. */
  name: string;
  /** Of models only. */
  manifest?: CheckpointManifest;
};

export type ClassMetrics = { precision: number; recall: number; f1: number; support: number };

/** Field names of the contract's validation result. */
export type ValidationData = {
  epoch: number;
  task_type: string;
  primary_metric_name: string;
  primary_metric_value: number;
  overall_loss: number;
  /** 0..1; precision, recall and f1 are means over the classes weighted by support. */
  metrics: { accuracy: number; precision: number; recall: number; f1: number };
  /** By class name. */
  per_class_metrics: Record<string, ClassMetrics>;
  /** Image counts; rows = true class, columns = predicted class, in the order of `class_names`. */
  confusion_matrix: number[][];
  class_names: string[];
  images: ImageResult[];
};

export type ImageResult = {
  /** Path inside the dataset. */
  image_path: string;
  image_name: string;
  true_label: string;
  true_label_id: number;
  predicted_label: string;
  predicted_label_id: number;
  /** 0..1 */
  confidence: number;
  is_correct: boolean;
  /** Highest confidence first; fewer than five when there are fewer classes. */
  top5_predictions: { label: string; label_id: number; confidence: number }[];
};
