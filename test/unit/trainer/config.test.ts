import { describe, it } from "vitest";
import { parseConfig } from "../../../runner/embedded/trainer/config.ts";
import { configOf, spec } from "./support.ts";

/** The field that is complained about. */
function refusal(changes: Record<string, unknown>): string | null | undefined {
  const parsed = parseConfig(spec(changes));
  if (parsed.ok) throw new Error("was accepted");
  return parsed.error.field;
}

const advanced = (advanced_config: unknown) => ({ advanced_config });

describe("parseConfig", () => {
  it("has a default for all that may be left out", ({ expect }) => {
    expect(configOf({ advanced_config: null })).toEqual(configOf({ advanced_config: {} }));
    expect(configOf({ image_size: null, class_names: null, num_classes: null })).toMatchObject({
      classNames: null,
      numClasses: null,
      seed: 42,
      input: { size: 28, resize: "stretch", channels: null, normalization: null },
      optimizer: { type: "adam", weightDecay: 0, betas: [0.9, 0.999], eps: 1e-8 },
      schedule: { learningRate: 0.01, plan: { type: "none" }, warmupEpochs: 0 },
      augmentation: { translate: 0.07, degrees: 10, scale: 0.1, flip: 0 },
      gradientClip: null,
      validation: { interval: 1, startEpoch: 1, saveBest: true, earlyStopping: null },
      primaryMetric: { metric: "accuracy", mode: "max" },
      checkpointInterval: 1,
      keepCheckpoints: 3,
      logInterval: null,
    });
  });

  it("takes the optimizer's learning rate before the job's", ({ expect }) => {
    expect(configOf(advanced({ optimizer: { learning_rate: 0.5 } })).schedule.learningRate).toBe(0.5);
    expect(configOf(advanced({ optimizer: { learning_rate: null } })).schedule.learningRate).toBe(0.01);
    expect(configOf(advanced({ optimizer: { type: "sgd" } })).schedule.learningRate).toBe(0.01);
  });

  it("reads a full configuration", ({ expect }) => {
    const config = configOf({
      epochs: 10,
      ...advanced({
        seed: 7,
        checkpoint_interval: 5,
        keep_n_checkpoints: 4,
        log_interval: 10,
        gradient_clip_value: 1,
        mixed_precision: false,
        optimizer: { type: "sgd", momentum: 0.8, nesterov: true, weight_decay: 0.01 },
        scheduler: { type: "cosine", eta_min: 1e-6, warmup_epochs: 2, warmup_lr: 1e-5 },
        augmentation: { translate: 0.1, random_rotation: false, scale: 0, random_flip: true },
        preprocessing: { image_size: 32, resize_mode: "pad", pad_value: 255, mean: [0.5], std: [0.2] },
        validation: {
          val_interval: 2,
          early_stopping: true,
          early_stopping_patience: 3,
          early_stopping_min_delta: 0.01,
        },
      }),
    });
    expect(config).toMatchObject({
      seed: 7,
      checkpointInterval: 5,
      keepCheckpoints: 4,
      logInterval: 10,
      gradientClip: 1,
      optimizer: { type: "sgd", momentum: 0.8, nesterov: true, weightDecay: 0.01 },
      schedule: { plan: { type: "cosine", length: 8, minimum: 1e-6 }, warmupEpochs: 2, warmupLearningRate: 1e-5 },
      augmentation: { translate: 0.1, degrees: 0, scale: 0, flip: 0.5 },
      input: { size: 32, resize: "pad", padValue: 255, normalization: { mean: [0.5], std: [0.2] } },
      validation: { interval: 2, earlyStopping: { patience: 3, minDelta: 0.01 } },
    });
  });

  it("switches augmentation, validation and normalization off", ({ expect }) => {
    const config = configOf(
      advanced({
        augmentation: { enabled: false },
        validation: { enabled: false },
        preprocessing: { normalize: false },
      }),
    );
    expect(config.augmentation).toBeNull();
    expect(config.validation).toBeNull();
    expect(config.input.normalization).toEqual({ mean: [0], std: [1] });
  });

  it.for([
    ["optimizer.type", { optimizer: { type: "rmsprop" } }],
    ["optimizer.amsgrad", { optimizer: { amsgrad: true } }],
    ["scheduler.type", { scheduler: { type: "one_cycle" } }],
    ["scheduler.type", { scheduler: { type: "reduce_on_plateau" } }],
    ["augmentation.mixup", { augmentation: { mixup: true } }],
    ["augmentation.color_jitter", { augmentation: { enabled: true, color_jitter: true, brightness: 0.2 } }],
    ["mixed_precision", { mixed_precision: true }],
    ["gradient_accumulation_steps", { gradient_accumulation_steps: 4 }],
    ["validation.save_visualizations", { validation: { save_visualizations: true } }],
    ["validation.metrics.1", { validation: { metrics: ["accuracy", "roc_auc"] } }],
    ["validation.early_stopping", { validation: { enabled: false, early_stopping: true } }],
    ["preprocessing.resize_mode", { preprocessing: { resize_mode: "tile" } }],
  ] as const)("refuses %s by name where it is not supported", ([field, config], { expect }) => {
    expect(refusal(advanced(config))).toBe(`advanced_config.${field}`);
  });

  it.for([
    ["optimizer.lr", { optimizer: { lr: 0.1 } }],
    ["optimizer_type", { optimizer_type: "adam" }],
    ["scheduler.t_max", { scheduler: { t_max: 3 } }],
    ["validation.patience", { validation: { patience: 3 } }],
  ] as const)("refuses the unknown %s", ([field, config], { expect }) => {
    expect(refusal(advanced(config))).toBe(`advanced_config.${field}`);
  });

  it.for([
    ["optimizer.learning_rate", { optimizer: { learning_rate: 0 } }],
    ["optimizer.learning_rate", { optimizer: { learning_rate: "0.1" } }],
    ["optimizer.betas.1", { optimizer: { betas: [0.9, 1] } }],
    ["optimizer.weight_decay", { optimizer: { weight_decay: -1 } }],
    ["scheduler.T_max", { scheduler: { type: "cosine", T_max: 0 } }],
    ["seed", { seed: -1 }],
    ["seed", { seed: 1.5 }],
    ["checkpoint_interval", { checkpoint_interval: 0 }],
    ["keep_n_checkpoints", { keep_n_checkpoints: 1 }],
    ["preprocessing.std", { preprocessing: { mean: [0.5] } }],
    ["preprocessing.std", { preprocessing: { mean: [0.5], std: [0.1, 0.1, 0.1] } }],
    ["preprocessing.mean", { preprocessing: { mean: [0.5, 0.5], std: [1, 1] } }],
  ] as const)("refuses a value out of range of %s", ([field, config], { expect }) => {
    expect(refusal(advanced(config))).toBe(`advanced_config.${field}`);
  });

  it.for([
    ["framework", { framework: "timm" }],
    ["model_name", { model_name: "resnet50" }],
    ["task_type", { task_type: "object_detection" }],
    ["dataset_format", { dataset_format: "yolo" }],
    ["epochs", { epochs: 0 }],
    ["batch_size", { batch_size: 513 }],
    ["learning_rate", { learning_rate: Number.NaN }],
    ["image_size", { image_size: 7 }],
    ["image_size", { image_size: 129 }],
    ["class_names", { class_names: ["a", "a"], num_classes: 2 }],
    ["class_names", { class_names: ["a"], num_classes: null }],
    ["num_classes", { class_names: ["a", "b"], num_classes: 3 }],
    ["primary_metric", { primary_metric: "mAP50" }],
    ["primary_metric", { primary_metric: "toString" }],
  ] as const)("refuses a wrong %s", ([field, changes], { expect }) => {
    expect(refusal(changes)).toBe(field);
  });

  it("refuses what is no object at all", ({ expect }) => {
    for (const value of [null, 1, "spec", []]) expect(parseConfig(value).ok).toBe(false);
  });

  it("accepts the parameters of what is switched off", ({ expect }) => {
    const config = configOf(
      advanced({
        scheduler: { type: "none", step_size: 30, patience: 10 },
        augmentation: { color_jitter: false, brightness: 0.2, mixup: false, mixup_alpha: 0.2 },
      }),
    );
    expect(config.schedule.plan).toEqual({ type: "none" });
  });

  it("knows the direction of each metric, unless told", ({ expect }) => {
    expect(configOf({ primary_metric: "loss", primary_metric_mode: null }).primaryMetric.mode).toBe("min");
    expect(configOf({ primary_metric: "f1_score", primary_metric_mode: null }).primaryMetric).toEqual({
      name: "f1_score",
      metric: "f1",
      mode: "max",
    });
    expect(configOf({ primary_metric: "loss", primary_metric_mode: "max" }).primaryMetric.mode).toBe("max");
  });

  it("keeps best checkpoints by the primary metric only", ({ expect }) => {
    expect(
      configOf(advanced({ validation: { save_best_metric: "val_accuracy", save_best_mode: "max" } })),
    ).toBeDefined();
    expect(refusal(advanced({ validation: { save_best_metric: "loss" } }))).toBe(
      "advanced_config.validation.save_best_metric",
    );
    expect(refusal(advanced({ validation: { save_best_mode: "min" } }))).toBe(
      "advanced_config.validation.save_best_mode",
    );
  });

  it("uses three channels where they are asked for", ({ expect }) => {
    expect(configOf(advanced({ preprocessing: { to_rgb: true } })).input.channels).toBe(3);
    expect(configOf(advanced({ preprocessing: { mean: [0, 0, 0], std: [1, 1, 1] } })).input.channels).toBe(3);
    expect(configOf(advanced({ preprocessing: { mean: [0], std: [1] } })).input.channels).toBeNull();
  });
});
