import { type AdvancedConfig, type Condition, type ConfigTable, type Field, readSetting } from "./fields.ts";
import { ADAM, ADAMW, COSINE, NO_SCHEDULER, SGD, STEP } from "./options.ts";

const optimizerIs = (...types: string[]): Condition => ({ field: "optimizer.type", in: types });
const schedulerIs = (...types: string[]): Condition => ({ field: "scheduler.type", in: types });
const AUGMENTING: Condition = { field: "augmentation.enabled", in: [true] };
const VALIDATING: Condition = { field: "validation.enabled", in: [true] };
const STOPPING_EARLY: Condition = { field: "validation.early_stopping", in: [true] };
const NORMALIZING: Condition = { field: "preprocessing.normalize", in: [true] };

const OPTIMIZER: readonly Field[] = [
  {
    type: "select",
    name: "optimizer.type",
    label: "Optimizer",
    description: "Optimization algorithm",
    omitted: "adam",
    options: [ADAM, ADAMW, SGD],
  },
  {
    type: "number",
    name: "optimizer.learning_rate",
    label: "Learning Rate",
    description: "Initial learning rate",
    omitted: 0.001,
    above: 0,
    max: 1,
    formMin: 1e-6,
    step: 1e-5,
  },
  {
    type: "number",
    name: "optimizer.weight_decay",
    label: "Weight Decay",
    description: "Strength of the L2 penalty on the weights",
    omitted: 0,
    min: 0,
    max: 1,
    step: 0.001,
  },
  {
    type: "array",
    name: "optimizer.betas",
    label: "Betas",
    description: "How slowly the running means of the gradient and of its square change",
    omitted: [0.9, 0.999],
    items: { type: "number", min: 0, below: 1 },
    minItems: 2,
    maxItems: 2,
    when: optimizerIs("adam", "adamw"),
  },
  {
    type: "number",
    name: "optimizer.eps",
    label: "Epsilon",
    description: "Added to denominators against division by zero",
    omitted: 1e-8,
    above: 0,
    max: 1,
    when: optimizerIs("adam", "adamw"),
  },
  {
    type: "number",
    name: "optimizer.momentum",
    label: "Momentum",
    description: "Share of the last step that is carried into the next",
    omitted: 0.9,
    min: 0,
    max: 1,
    step: 0.1,
    when: optimizerIs("sgd"),
  },
  {
    type: "boolean",
    name: "optimizer.nesterov",
    label: "Nesterov",
    description: "Look ahead along the momentum before the gradient is taken",
    omitted: false,
    when: optimizerIs("sgd"),
  },
];

const SCHEDULER: readonly Field[] = [
  {
    type: "select",
    name: "scheduler.type",
    label: "Scheduler",
    description: "How the learning rate changes over the epochs",
    omitted: "none",
    options: [
      NO_SCHEDULER,
      STEP,
      { value: "multistep", label: "Multi-step", description: "The rate drops at the given epochs" },
      { value: "exponential", label: "Exponential", description: "The rate shrinks by the same factor each epoch" },
      COSINE,
      { value: "cosine_warm_restarts", label: "Cosine restarts", description: "Cosine waves that begin again" },
    ],
  },
  {
    type: "integer",
    name: "scheduler.step_size",
    label: "Step Size",
    description: "Epochs between two drops",
    omitted: 30,
    min: 1,
    formMax: 100,
    step: 1,
    when: schedulerIs("step"),
  },
  {
    type: "array",
    name: "scheduler.milestones",
    label: "Milestones",
    description: "Epochs at which the rate drops",
    omitted: [30, 60, 90],
    items: { type: "integer", min: 1 },
    minItems: 1,
    maxItems: 1000,
    when: schedulerIs("multistep"),
  },
  {
    type: "number",
    name: "scheduler.gamma",
    label: "Gamma",
    description: "Factor applied at each drop",
    omitted: 0.1,
    above: 0,
    max: 1,
    formMin: 0.01,
    step: 0.01,
    when: schedulerIs("step", "multistep", "exponential"),
  },
  {
    type: "integer",
    name: "scheduler.T_max",
    label: "T max",
    description: "Epochs from the highest to the lowest rate; all epochs after the warm-up when not given",
    omitted: null,
    min: 1,
    formMax: 1000,
    step: 1,
    when: schedulerIs("cosine"),
  },
  {
    type: "number",
    name: "scheduler.eta_min",
    label: "Eta min",
    description: "Lowest learning rate of the wave",
    omitted: 0,
    min: 0,
    max: 1,
    formMax: 0.01,
    step: 1e-6,
    when: schedulerIs("cosine", "cosine_warm_restarts"),
  },
  {
    type: "integer",
    name: "scheduler.T_0",
    label: "T 0",
    description: "Epochs of the first cycle",
    omitted: 10,
    min: 1,
    when: schedulerIs("cosine_warm_restarts"),
  },
  {
    type: "integer",
    name: "scheduler.T_mult",
    label: "T mult",
    description: "Each cycle is this many times as long as the one before",
    omitted: 2,
    min: 1,
    when: schedulerIs("cosine_warm_restarts"),
  },
  {
    type: "integer",
    name: "scheduler.warmup_epochs",
    label: "Warm-up Epochs",
    description: "Epochs during which the rate rises to its start value",
    omitted: 0,
    min: 0,
    max: 1000,
    formMax: 50,
    step: 1,
  },
  {
    type: "number",
    name: "scheduler.warmup_lr",
    label: "Warm-up Rate",
    description: "Learning rate at the beginning of the warm-up",
    omitted: 1e-6,
    min: 0,
    max: 1,
    when: { field: "scheduler.warmup_epochs", above: 0 },
  },
];

const AUGMENTATION: readonly Field[] = [
  {
    type: "boolean",
    name: "augmentation.enabled",
    label: "Augmentation",
    description: "Master switch for all augmentation",
    omitted: true,
  },
  {
    type: "number",
    name: "augmentation.translate",
    label: "Shift",
    description: "Largest shift along each side, as a share of the image size",
    omitted: 0.07,
    min: 0,
    max: 0.5,
    step: 0.01,
    when: AUGMENTING,
  },
  {
    type: "number",
    name: "augmentation.scale",
    label: "Scale",
    description: "Range of the zoom around 1",
    omitted: 0.1,
    min: 0,
    max: 0.9,
    step: 0.05,
    when: AUGMENTING,
  },
  {
    type: "boolean",
    name: "augmentation.random_rotation",
    label: "Rotation",
    description: "Turn images by a random angle",
    omitted: true,
    when: AUGMENTING,
  },
  {
    type: "number",
    name: "augmentation.rotation_degrees",
    label: "Rotation Range",
    description: "Largest angle in each direction, degrees",
    omitted: 10,
    min: 0,
    max: 180,
    step: 5,
    when: { field: "augmentation.random_rotation", in: [true] },
  },
  {
    type: "boolean",
    name: "augmentation.random_flip",
    label: "Flip",
    description: "Mirror images left to right",
    omitted: false,
    when: AUGMENTING,
  },
  {
    type: "number",
    name: "augmentation.random_flip_prob",
    label: "Flip Chance",
    description: "Chance that an image is mirrored",
    omitted: 0.5,
    min: 0,
    max: 1,
    step: 0.1,
    when: { field: "augmentation.random_flip", in: [true] },
  },
];

const PREPROCESSING: readonly Field[] = [
  {
    type: "integer",
    name: "preprocessing.image_size",
    label: "Image Size",
    description: "Side of the square input, pixels",
    omitted: 28,
    min: 8,
    max: 128,
    step: 4,
  },
  {
    type: "select",
    name: "preprocessing.resize_mode",
    label: "Resize Mode",
    description: "How an image becomes square",
    omitted: "resize",
    options: [
      { value: "resize", label: "Resize", description: "Stretch both sides, which may distort" },
      { value: "resize_crop", label: "Resize and crop", description: "Cover the square and keep the centre" },
      { value: "pad", label: "Pad", description: "Keep the proportions and fill the rest" },
    ],
  },
  {
    type: "integer",
    name: "preprocessing.pad_value",
    label: "Pad Value",
    description: "Brightness of the filled area",
    omitted: 0,
    min: 0,
    max: 255,
    step: 1,
    when: { field: "preprocessing.resize_mode", in: ["pad"] },
  },
  {
    type: "boolean",
    name: "preprocessing.normalize",
    label: "Normalize",
    description: "Subtract the mean and divide by the standard deviation, those of the training images unless given",
    omitted: true,
  },
  {
    type: "array",
    name: "preprocessing.mean",
    label: "Mean",
    description: "One value, or one each of red, green and blue, on a scale from 0 to 1; goes together with std",
    omitted: null,
    items: { type: "number", min: -10, max: 10 },
    minItems: 1,
    maxItems: 3,
    when: NORMALIZING,
  },
  {
    type: "array",
    name: "preprocessing.std",
    label: "Standard deviation",
    description: "One value, or one each of red, green and blue, on a scale from 0 to 1; goes together with mean",
    omitted: null,
    items: { type: "number", min: 1e-4, max: 10 },
    minItems: 1,
    maxItems: 3,
    when: NORMALIZING,
  },
  {
    type: "boolean",
    name: "preprocessing.to_rgb",
    label: "To RGB",
    description: "Use three channels even when all images are grey",
    omitted: false,
  },
];

const VALIDATION: readonly Field[] = [
  {
    type: "boolean",
    name: "validation.enabled",
    label: "Validation",
    description: "Measure the model on the validation split",
    omitted: true,
  },
  {
    type: "array",
    name: "validation.metrics",
    label: "Metrics",
    description: "What is computed at each validation; this runner always computes all of them",
    omitted: ["accuracy", "precision", "recall", "f1", "confusion_matrix"],
    items: {
      type: "select",
      options: [
        { value: "accuracy", label: "Accuracy", description: "Share of images with the right class" },
        { value: "precision", label: "Precision", description: "Share of the predictions of a class that are right" },
        { value: "recall", label: "Recall", description: "Share of a class that is found" },
        { value: "f1", label: "F1", description: "Harmonic mean of precision and recall" },
        { value: "confusion_matrix", label: "Confusion matrix", description: "Counts by true and predicted class" },
      ],
    },
    minItems: 1,
    maxItems: 5,
    when: VALIDATING,
  },
  {
    type: "integer",
    name: "validation.val_interval",
    label: "Interval",
    description: "Epochs between two validations; the last epoch is always validated",
    omitted: 1,
    min: 1,
    formMax: 10,
    step: 1,
    when: VALIDATING,
  },
  {
    type: "integer",
    name: "validation.val_start_epoch",
    label: "First Epoch",
    description: "No validation before this epoch",
    omitted: 1,
    min: 0,
    when: VALIDATING,
  },
  {
    type: "boolean",
    name: "validation.save_best",
    label: "Keep Best",
    description: "Save a checkpoint whenever the job's primary metric improves",
    omitted: true,
    when: VALIDATING,
  },
  {
    type: "boolean",
    name: "validation.early_stopping",
    label: "Early Stopping",
    description: "End training when the job's primary metric stops improving",
    omitted: false,
    when: VALIDATING,
  },
  {
    type: "integer",
    name: "validation.early_stopping_patience",
    label: "Stop Patience",
    description: "Epochs without improvement before training ends",
    omitted: 10,
    min: 1,
    when: STOPPING_EARLY,
  },
  {
    type: "number",
    name: "validation.early_stopping_min_delta",
    label: "Least Gain",
    description: "Smallest change that counts as an improvement",
    omitted: 0,
    min: 0,
    when: STOPPING_EARLY,
  },
];

const TRAINING: readonly Field[] = [
  {
    type: "number",
    name: "gradient_clip_value",
    label: "Gradient Clip",
    description: "Largest norm of the gradient; 0 switches clipping off",
    omitted: null,
    form: 0,
    above: 0,
    formMin: 0,
    formMax: 10,
    step: 0.1,
    zeroIsOff: true,
  },
  {
    type: "integer",
    name: "checkpoint_interval",
    label: "Checkpoint Interval",
    description: "Epochs between two saved checkpoints",
    omitted: 1,
    min: 1,
  },
  {
    type: "integer",
    name: "keep_n_checkpoints",
    label: "Checkpoints Kept",
    description: "Older checkpoints beyond this number are removed from the runner's disk",
    omitted: 3,
    // The trainer keeps three whatever it is told: one of them may still be on its way to the server.
    min: 3,
  },
  {
    type: "integer",
    name: "log_interval",
    label: "Log Interval",
    description: "Batches between two log lines inside an epoch; none when not given",
    omitted: null,
    min: 1,
  },
  {
    type: "integer",
    name: "seed",
    label: "Seed",
    description: "The same seed, data and settings give the same model",
    omitted: 42,
    min: 0,
  },
];

const pixelStatistics = (config: AdvancedConfig, name: string) => {
  const value = readSetting(config, `preprocessing.${name}`);
  return Array.isArray(value) ? value : undefined;
};

/** Mean and deviation only make sense as a pair of the same shape, grey or colour. */
function channelRule(config: AdvancedConfig) {
  const mean = pixelStatistics(config, "mean");
  const std = pixelStatistics(config, "std");
  if (mean === undefined && std === undefined) return null;
  if (mean === undefined) return { field: "preprocessing.mean", message: "must be given together with std" };
  if (std === undefined) return { field: "preprocessing.std", message: "must be given together with mean" };
  if (mean.length === 2) return { field: "preprocessing.mean", message: "must have 1 or 3 values" };
  return mean.length === std.length
    ? null
    : { field: "preprocessing.std", message: "must have as many values as preprocessing.mean" };
}

function earlyStoppingRule(config: AdvancedConfig) {
  const stops = readSetting(config, "validation.early_stopping") === true;
  return stops && readSetting(config, "validation.enabled") === false
    ? { field: "validation.early_stopping", message: "needs validation.enabled" }
    : null;
}

/** What `runner/embedded` honours, and nothing else; a unit test runs both over the same samples. */
export const EMBEDDED: ConfigTable = {
  fields: [...OPTIMIZER, ...SCHEDULER, ...AUGMENTATION, ...PREPROCESSING, ...VALIDATION, ...TRAINING],
  rules: [channelRule, earlyStoppingRule],
  presets: {
    basic: {
      optimizer: { type: "adam", learning_rate: 1e-3, weight_decay: 0 },
      scheduler: { type: "none" },
      augmentation: { enabled: false },
    },
    standard: {
      optimizer: { type: "adamw", learning_rate: 1e-3, weight_decay: 0.01, betas: [0.9, 0.999] },
      scheduler: { type: "cosine", eta_min: 1e-5 },
      augmentation: { enabled: true, translate: 0.07, scale: 0.1, random_rotation: true, rotation_degrees: 10 },
      validation: { early_stopping: true, early_stopping_patience: 10 },
    },
  },
};
