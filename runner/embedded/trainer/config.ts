import { z } from "zod";
import { type Failure, fail, ok, type Result } from "../../../src/shared/result.ts";
import { EMBEDDED_METRICS } from "../../../src/training/config/trainers.ts";
import type { Augmentation } from "./augment.ts";
import type { OptimizerConfig } from "./optimizer.ts";
import type { Schedule } from "./schedule.ts";

/**
 * The job's spec as this trainer understands it. A setting that it does not support is refused by name; none is ever
 * dropped in silence. Parameters of a feature that is switched off are accepted, as forms send them along. Pure.
 */

export type MetricName = "accuracy" | "loss" | "precision" | "recall" | "f1";

export type PrimaryMetric = {
  /** As the job names it. */
  name: string;
  metric: MetricName;
  mode: "max" | "min";
};

export type InputConfig = {
  /** Pixels of each side. */
  size: number;
  resize: "stretch" | "crop" | "pad";
  padValue: number;
  /** null: 1 when all images are grey, else 3. */
  channels: 3 | null;
  /** null: mean and standard deviation of the training images. One value, or one a channel, of pixels scaled to 0..1. */
  normalization: { mean: number[]; std: number[] } | null;
};

export type TrainerConfig = {
  format: "imagefolder" | "dice";
  /** null: as the dataset has them. */
  classNames: string[] | null;
  numClasses: number | null;
  epochs: number;
  batchSize: number;
  seed: number;
  input: InputConfig;
  optimizer: OptimizerConfig;
  schedule: Schedule;
  /** null: images are used as they are. */
  augmentation: Augmentation | null;
  /** Longest gradient; null: any. */
  gradientClip: number | null;
  /** null: never validated. */
  validation: {
    /** Epochs between two validations; the last epoch is always validated. */
    interval: number;
    startEpoch: number;
    saveBest: boolean;
    /** Stops when `patience` epochs brought no gain of more than `minDelta` in the primary metric. */
    earlyStopping: { patience: number; minDelta: number } | null;
  } | null;
  primaryMetric: PrimaryMetric;
  /** Epochs between two `last` checkpoints. */
  checkpointInterval: number;
  /** Files kept of each role. */
  keepCheckpoints: number;
  /** Batches between two log lines inside an epoch; null: none. */
  logInterval: number | null;
};

export const DEFAULT_IMAGE_SIZE = 28;
export const DEFAULT_SEED = 42;

/** A few must stay, so that one that is still being uploaded is not deleted under the uploader. */
const FEWEST_CHECKPOINTS = 3;

const METRICS: Record<string, MetricName> = EMBEDDED_METRICS;

const here = "is not supported by the embedded runner";

const oneOf = <const T extends readonly [string, ...string[]]>(values: T) =>
  z.enum(values, { error: (issue) => `${JSON.stringify(issue.input)} ${here}, it has ${values.join(", ")}` });

/** A switch that can only be off. */
const off = () => z.literal(false, { error: here }).nullish();

/** A parameter of something that cannot be on. */
const inert = () => z.unknown().optional();

const optimizerSchema = z.strictObject({
  type: oneOf(["adam", "adamw", "sgd"]).default("adam"),
  learning_rate: z.number().positive().max(1).nullish(),
  weight_decay: z.number().min(0).max(1).default(0),
  betas: z.tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)]).default([0.9, 0.999]),
  eps: z.number().positive().max(1).default(1e-8),
  momentum: z.number().min(0).max(1).default(0.9),
  nesterov: z.boolean().default(false),
  amsgrad: off(),
  alpha: inert(),
});

const schedulerSchema = z.strictObject({
  type: oneOf(["none", "step", "multistep", "exponential", "cosine", "cosine_warm_restarts"]).default("none"),
  step_size: z.int().min(1).default(30),
  gamma: z.number().positive().max(1).default(0.1),
  milestones: z.array(z.int().min(1)).max(1000).default([30, 60, 90]),
  /** Default: the epochs after the warm-up. */
  T_max: z.int().min(1).nullish(),
  eta_min: z.number().min(0).max(1).default(0),
  T_0: z.int().min(1).default(10),
  T_mult: z.int().min(1).default(2),
  warmup_epochs: z.int().min(0).max(1000).default(0),
  warmup_lr: z.number().min(0).max(1).default(1e-6),
  mode: inert(),
  factor: inert(),
  patience: inert(),
  threshold: inert(),
  cooldown: inert(),
  min_lr: inert(),
  max_lr: inert(),
  pct_start: inert(),
  anneal_strategy: inert(),
});

const augmentationSchema = z.strictObject({
  enabled: z.boolean().default(true),
  translate: z.number().min(0).max(0.5).default(0.07),
  scale: z.number().min(0).max(0.9).default(0.1),
  random_rotation: z.boolean().default(true),
  rotation_degrees: z.number().min(0).max(180).default(10),
  random_flip: z.boolean().default(false),
  random_flip_prob: z.number().min(0).max(1).default(0.5),
  random_crop: off(),
  crop_scale: inert(),
  crop_ratio: inert(),
  color_jitter: off(),
  brightness: inert(),
  contrast: inert(),
  saturation: inert(),
  hue: inert(),
  random_erasing: off(),
  erasing_prob: inert(),
  random_grayscale: off(),
  grayscale_prob: inert(),
  gaussian_blur: off(),
  blur_kernel_size: inert(),
  blur_sigma: inert(),
  mixup: off(),
  mixup_alpha: inert(),
  cutmix: off(),
  cutmix_alpha: inert(),
  autoaugment: off(),
  autoaugment_policy: inert(),
});

const perChannel = (value: z.ZodNumber) =>
  z.array(value).refine((values) => values.length === 1 || values.length === 3, "must have 1 or 3 values");

const imageSize = z.int().min(8).max(128);

const preprocessingSchema = z.strictObject({
  image_size: imageSize.nullish(),
  resize_mode: oneOf(["resize", "resize_crop", "pad"]).default("resize"),
  pad_value: z.int().min(0).max(255).default(0),
  normalize: z.boolean().default(true),
  mean: perChannel(z.number().min(-10).max(10)).nullish(),
  std: perChannel(z.number().min(1e-4).max(10)).nullish(),
  /** true: three channels even when all images are grey. */
  to_rgb: z.boolean().nullish(),
});

const validationSchema = z.strictObject({
  enabled: z.boolean().default(true),
  val_interval: z.int().min(1).default(1),
  val_start_epoch: z.int().min(0).default(1),
  metrics: z.array(oneOf(["accuracy", "precision", "recall", "f1", "confusion_matrix"])).nullish(),
  save_best: z.boolean().default(true),
  save_best_metric: z.string().nullish(),
  save_best_mode: z.enum(["max", "min"]).nullish(),
  /** Either way: the results of single images are always sent. */
  save_predictions: z.boolean().nullish(),
  save_visualizations: off(),
  num_visualizations: inert(),
  early_stopping: z.boolean().default(false),
  early_stopping_patience: z.int().min(1).default(10),
  early_stopping_min_delta: z.number().min(0).default(0),
});

const advancedSchema = z.strictObject({
  optimizer: optimizerSchema.prefault({}),
  scheduler: schedulerSchema.prefault({}),
  augmentation: augmentationSchema.prefault({}),
  preprocessing: preprocessingSchema.prefault({}),
  validation: validationSchema.prefault({}),
  mixed_precision: off(),
  /** 0 and null: off. */
  gradient_clip_value: z.number().min(0).nullish(),
  gradient_accumulation_steps: z.literal(1, { error: `${here}, only 1` }).nullish(),
  checkpoint_interval: z.int().min(1).default(1),
  keep_n_checkpoints: z.int().min(FEWEST_CHECKPOINTS).default(FEWEST_CHECKPOINTS),
  log_interval: z.int().min(1).nullish(),
  seed: z.int().min(0).default(DEFAULT_SEED),
});

const specSchema = z.object({
  framework: z.literal("embedded"),
  model_name: z.literal("cnn_small"),
  task_type: z.literal("image_classification", { error: here }),
  dataset_format: oneOf(["imagefolder", "dice"]),
  num_classes: z.int().min(2).nullish(),
  class_names: z.array(z.string().min(1).max(200)).max(10_000).nullish(),
  epochs: z.int().min(1).max(1000),
  batch_size: z.int().min(1).max(512),
  learning_rate: z.number().positive().max(1),
  image_size: imageSize.nullish(),
  primary_metric: z.string().nullish(),
  primary_metric_mode: z.enum(["max", "min"]).nullish(),
  advanced_config: advancedSchema.nullish().transform((given) => given ?? advancedSchema.parse({})),
});

type Spec = z.output<typeof specSchema>;

const refuse = (field: string, message: string) => fail("VALIDATION_ERROR", message, field);

/** Reads a spec; the failure's `field` is the dotted name of what is wrong, e.g. `advanced_config.scheduler.type`. */
export function parseConfig(value: unknown): Result<TrainerConfig, Failure<"VALIDATION_ERROR">> {
  const parsed = specSchema.safeParse(value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const path = issue?.path ?? [];
    if (issue?.code === "unrecognized_keys") {
      return refuse([...path, issue.keys[0] ?? ""].map(String).join("."), `${here} or unknown`);
    }
    return refuse(path.map(String).join("."), issue?.message ?? "not valid");
  }
  const spec = parsed.data;
  const { advanced_config: advanced } = spec;

  const classes = classesOf(spec);
  if (!classes.ok) return classes;
  const primaryMetric = primaryMetricOf(spec);
  if (!primaryMetric.ok) return primaryMetric;
  const input = inputOf(spec);
  if (!input.ok) return input;

  const { optimizer, augmentation, validation } = advanced;
  if (validation.early_stopping && !validation.enabled) {
    return refuse("advanced_config.validation.early_stopping", "needs validation.enabled");
  }
  return ok({
    format: spec.dataset_format,
    classNames: classes.value,
    numClasses: spec.num_classes ?? null,
    epochs: spec.epochs,
    batchSize: spec.batch_size,
    seed: advanced.seed,
    input: input.value,
    optimizer: {
      type: optimizer.type,
      weightDecay: optimizer.weight_decay,
      betas: optimizer.betas,
      eps: optimizer.eps,
      momentum: optimizer.momentum,
      nesterov: optimizer.nesterov,
    },
    schedule: scheduleOf(spec),
    augmentation: augmentation.enabled
      ? {
          translate: augmentation.translate,
          degrees: augmentation.random_rotation ? augmentation.rotation_degrees : 0,
          scale: augmentation.scale,
          flip: augmentation.random_flip ? augmentation.random_flip_prob : 0,
        }
      : null,
    gradientClip: advanced.gradient_clip_value || null,
    validation: validation.enabled
      ? {
          interval: validation.val_interval,
          startEpoch: validation.val_start_epoch,
          saveBest: validation.save_best,
          earlyStopping: validation.early_stopping
            ? { patience: validation.early_stopping_patience, minDelta: validation.early_stopping_min_delta }
            : null,
        }
      : null,
    primaryMetric: primaryMetric.value,
    checkpointInterval: advanced.checkpoint_interval,
    keepCheckpoints: advanced.keep_n_checkpoints,
    logInterval: advanced.log_interval ?? null,
  });
}

function classesOf(spec: Spec): Result<string[] | null, Failure<"VALIDATION_ERROR">> {
  const names = spec.class_names?.length ? spec.class_names : null;
  if (names === null) return ok(null);
  if (names.length < 2) return refuse("class_names", "must have at least 2 classes");
  if (new Set(names).size !== names.length) return refuse("class_names", "must not repeat a name");
  if (spec.num_classes && spec.num_classes !== names.length) {
    return refuse("num_classes", `is ${spec.num_classes}, but there are ${names.length} class names`);
  }
  return ok(names);
}

function primaryMetricOf(spec: Spec): Result<PrimaryMetric, Failure<"VALIDATION_ERROR">> {
  const name = spec.primary_metric ?? "accuracy";
  const known = (metric: string) => (Object.hasOwn(METRICS, metric) ? METRICS[metric] : undefined);
  const metric = known(name);
  if (metric === undefined) {
    return refuse("primary_metric", `${JSON.stringify(name)} ${here}, it has ${Object.keys(METRICS).join(", ")}`);
  }
  const mode = spec.primary_metric_mode ?? (metric === "loss" ? "min" : "max");
  const { save_best_metric: bestMetric, save_best_mode: bestMode } = spec.advanced_config.validation;
  if (bestMetric && known(bestMetric) !== metric) {
    return refuse("advanced_config.validation.save_best_metric", `must be the primary metric, ${name}`);
  }
  if (bestMode && bestMode !== mode) {
    return refuse("advanced_config.validation.save_best_mode", `must be the primary metric's mode, ${mode}`);
  }
  return ok({ name, metric, mode });
}

function inputOf(spec: Spec): Result<InputConfig, Failure<"VALIDATION_ERROR">> {
  const { preprocessing } = spec.advanced_config;
  const { mean, std } = preprocessing;
  if ((mean == null) !== (std == null)) {
    return refuse(`advanced_config.preprocessing.${mean == null ? "mean" : "std"}`, "mean and std come together");
  }
  if (mean && std && mean.length !== std.length) {
    return refuse("advanced_config.preprocessing.std", "must have as many values as mean");
  }
  const given = mean && std ? { mean, std } : null;
  return ok({
    size: preprocessing.image_size ?? spec.image_size ?? DEFAULT_IMAGE_SIZE,
    resize: ({ resize: "stretch", resize_crop: "crop", pad: "pad" } as const)[preprocessing.resize_mode],
    padValue: preprocessing.pad_value,
    channels: preprocessing.to_rgb || given?.mean.length === 3 ? 3 : null,
    normalization: preprocessing.normalize ? given : { mean: [0], std: [1] },
  });
}

function scheduleOf(spec: Spec): Schedule {
  const { optimizer, scheduler } = spec.advanced_config;
  const plans = {
    none: { type: "none" },
    step: { type: "step", stepSize: scheduler.step_size, gamma: scheduler.gamma },
    multistep: { type: "multistep", milestones: scheduler.milestones, gamma: scheduler.gamma },
    exponential: { type: "exponential", gamma: scheduler.gamma },
    cosine: {
      type: "cosine",
      length: scheduler.T_max ?? Math.max(spec.epochs - scheduler.warmup_epochs, 1),
      minimum: scheduler.eta_min,
    },
    cosine_warm_restarts: {
      type: "cosine_warm_restarts",
      length: scheduler.T_0,
      growth: scheduler.T_mult,
      minimum: scheduler.eta_min,
    },
  } as const satisfies Record<typeof scheduler.type, Schedule["plan"]>;
  return {
    learningRate: optimizer.learning_rate ?? spec.learning_rate,
    plan: plans[scheduler.type],
    warmupEpochs: scheduler.warmup_epochs,
    warmupLearningRate: scheduler.warmup_lr,
  };
}
