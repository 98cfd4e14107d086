import { describe, it } from "vitest";
import { type AdvancedConfig, readSetting } from "../../../src/training/config/fields.ts";
import { CONFIG_FRAMEWORKS, TABLES } from "../../../src/training/config/tables.ts";
import { checkConfig, validateAdvancedConfig } from "../../../src/training/config/validate.ts";

/** The `advanced_config` printed in the contract. */
const CONTRACT_EXAMPLE = {
  optimizer: { type: "adamw", learning_rate: 0.001, weight_decay: 0.01, betas: [0.9, 0.999] },
  scheduler: { type: "cosine", T_max: 50, eta_min: 1e-6, warmup_epochs: 5, warmup_lr: 1e-6 },
  augmentation: {
    enabled: true,
    random_flip: true,
    random_flip_prob: 0.5,
    color_jitter: true,
    brightness: 0.2,
    contrast: 0.2,
  },
  mixed_precision: true,
  gradient_clip_value: 1.0,
};

const failureOf = (framework: string, config: unknown) => {
  const result = validateAdvancedConfig(framework, config);
  return result.ok ? null : result.error;
};

const settingsOf = (framework: string, config: unknown): AdvancedConfig => {
  const result = validateAdvancedConfig(framework, config);
  if (!result.ok) throw new Error(result.error.message);
  return result.value;
};

/** What a request body becomes: own properties, also for names that are special in a literal. */
const json = (text: string): unknown => JSON.parse(text);

describe("validateAdvancedConfig", () => {
  it("accepts the contract's example unchanged", ({ expect }) => {
    expect(settingsOf("timm", CONTRACT_EXAMPLE)).toEqual(CONTRACT_EXAMPLE);
  });

  it("fills in no default", ({ expect }) => {
    expect(settingsOf("timm", {})).toEqual({});
    expect(settingsOf("timm", undefined)).toEqual({});
    expect(settingsOf("timm", null)).toEqual({});
    expect(settingsOf("timm", { optimizer: {} })).toEqual({ optimizer: {} });
    expect(settingsOf("timm", { optimizer: { type: "sgd" } })).toEqual({ optimizer: { type: "sgd" } });
  });

  it("accepts its own answer again", ({ expect }) => {
    const once = settingsOf("ultralytics", { optimizer: { type: "AdamW" } });
    expect(settingsOf("ultralytics", once)).toEqual(once);
  });

  it("does not share objects with its input", ({ expect }) => {
    const input = structuredClone(CONTRACT_EXAMPLE);
    const value = settingsOf("timm", input);
    input.optimizer.betas[0] = 5;
    input.optimizer.type = "changed";
    expect(value).toEqual(CONTRACT_EXAMPLE);
  });

  it.for([
    ["timm", { optimizer: { learning_rate: 0 } }, "optimizer.learning_rate", "above 0 and at most 1"],
    ["timm", { optimizer: { learning_rate: 1.5 } }, "optimizer.learning_rate", "above 0 and at most 1"],
    ["timm", { optimizer: { learning_rate: "0.1" } }, "optimizer.learning_rate", "a number"],
    ["timm", { optimizer: { learning_rate: null } }, "optimizer.learning_rate", "a number"],
    ["timm", { optimizer: { learning_rate: Number.NaN } }, "optimizer.learning_rate", "a number"],
    ["timm", { optimizer: { eps: Number.POSITIVE_INFINITY } }, "optimizer.eps", "a number"],
    ["timm", { optimizer: { type: "lion" } }, "optimizer.type", "one of adam, adamw, sgd, rmsprop, adagrad"],
    ["timm", { optimizer: { type: "AdamW" } }, "optimizer.type", "one of"],
    ["timm", { optimizer: { type: 1 } }, "optimizer.type", "one of"],
    ["timm", { optimizer: { betas: [0.9, 1] } }, "optimizer.betas", "below 1"],
    ["timm", { optimizer: { betas: [0.9] } }, "optimizer.betas", "a list of 2 values"],
    ["timm", { optimizer: { betas: 0.9 } }, "optimizer.betas", "a list of 2 values"],
    ["timm", { optimizer: { betas: { 0: 0.9, 1: 0.9, length: 2 } } }, "optimizer.betas", "a list of 2 values"],
    ["timm", { optimizer: [] }, "optimizer", "an object"],
    ["timm", { optimizer: null }, "optimizer", "an object"],
    ["timm", { optimizer: "adam" }, "optimizer", "an object"],
    ["timm", { scheduler: { factor: 1 } }, "scheduler.factor", "above 0 and below 1"],
    ["timm", { scheduler: { T_max: 1.5 } }, "scheduler.T_max", "an integer at least 1"],
    ["timm", { scheduler: { T_max: 2 ** 31 } }, "scheduler.T_max", "at most 2147483647"],
    ["timm", { scheduler: { milestones: [] } }, "scheduler.milestones", "1 to 1000 values"],
    ["timm", { scheduler: { milestones: [10, "20"] } }, "scheduler.milestones", "each an integer"],
    ["timm", { scheduler: { milestones: Array(1001).fill(1) } }, "scheduler.milestones", "1 to 1000 values"],
    ["timm", { augmentation: { enabled: 1 } }, "augmentation.enabled", "true or false"],
    ["timm", { augmentation: { enabled: "true" } }, "augmentation.enabled", "true or false"],
    ["timm", { augmentation: { mixup: 0.2 } }, "augmentation.mixup", "true or false"],
    ["timm", { augmentation: { blur_kernel_size: 4 } }, "augmentation.blur_kernel_size", "an odd number"],
    ["timm", { augmentation: { blur_kernel_size: 1 } }, "augmentation.blur_kernel_size", "at least 3"],
    ["timm", { augmentation: { crop_scale: [0.9, 0.5] } }, "augmentation.crop_scale", "not above its second"],
    ["timm", { augmentation: { crop_scale: [0, 1] } }, "augmentation.crop_scale", "above 0"],
    ["timm", { preprocessing: { std: [0.2, 0.2, 0] } }, "preprocessing.std", "above 0"],
    ["timm", { preprocessing: { mean: [0.5] } }, "preprocessing.mean", "a list of 3 values"],
    ["timm", { validation: { metrics: ["accuracy", "speed"] } }, "validation.metrics", "each one of accuracy"],
    ["timm", { validation: { save_best_metric: " " } }, "validation.save_best_metric", "a text of 1 to 200"],
    [
      "timm",
      { validation: { save_best_metric: "x".repeat(201) } },
      "validation.save_best_metric",
      "a text of 1 to 200",
    ],
    ["timm", { gradient_clip_value: -1 }, "gradient_clip_value", "0 or null for off"],
    ["timm", { mixed_precision: null }, "mixed_precision", "true or false"],
    ["timm", { mixed_precision: { enabled: true } }, "mixed_precision", "true or false"],
    ["ultralytics", { augmentation: { mixup: true } }, "augmentation.mixup", "a number"],
    ["ultralytics", { augmentation: { perspective: 0.01 } }, "augmentation.perspective", "at most 0.001"],
    ["ultralytics", { preprocessing: { image_size: 28 } }, "preprocessing.image_size", "at least 32"],
    ["ultralytics", { optimizer: { type: "adagrad" } }, "optimizer.type", "one of adam, adamw, sgd, rmsprop"],
    ["embedded", { optimizer: { type: "rmsprop" } }, "optimizer.type", "one of adam, adamw, sgd"],
    ["embedded", { seed: -1 }, "seed", "at least 0"],
    ["embedded", { preprocessing: { mean: [0.5] } }, "preprocessing.std", "together with mean"],
    ["embedded", { preprocessing: { mean: [0.5], std: [1, 1, 1] } }, "preprocessing.std", "as many values"],
    ["embedded", { preprocessing: { mean: [0.5, 0.5], std: [1, 1] } }, "preprocessing.mean", "1 or 3 values"],
    [
      "embedded",
      { validation: { enabled: false, early_stopping: true } },
      "validation.early_stopping",
      "needs validation.enabled",
    ],
  ] as const)("%s refuses %j at %s", ([framework, config, field, message], { expect }) => {
    const failure = failureOf(framework, config);
    expect(failure).toMatchObject({ code: "VALIDATION_ERROR", field: `config.advanced_config.${field}` });
    expect(failure?.message).toContain(message);
    expect(
      failure?.message.startsWith(`config.advanced_config.${field}: must`) || failure?.message.includes("needs"),
    ).toBe(true);
  });

  it.for([
    ["timm", { optimizer_type: "adam" }, "optimizer_type"],
    ["timm", { optimizer: { lr: 0.1 } }, "optimizer.lr"],
    ["timm", { ema_decay: 1 }, "ema_decay"],
    ["ultralytics", { lr0: 0.1 }, "lr0"],
    ["ultralytics", { mixed_precision: true }, "mixed_precision"],
    ["embedded", { augmentation: { mixup: true } }, "augmentation.mixup"],
    ["timm", { null: { type: "adam" } }, "null"],
    ["timm", { "": 1 }, "."],
  ] as const)("%s refuses the unknown setting in %j", ([framework, config, field], { expect }) => {
    const failure = failureOf(framework, config);
    expect(failure?.field).toBe(field === "." ? "config.advanced_config" : `config.advanced_config.${field}`);
    expect(failure?.message).toContain("not a known setting");
  });

  it("tells who sends dotted names to nest them", ({ expect }) => {
    const failure = failureOf("timm", { "optimizer.learning_rate": 0.1 });
    expect(failure?.field).toBe("config.advanced_config.optimizer.learning_rate");
    expect(failure?.message).toContain('{"optimizer": {"learning_rate": …}}');
  });

  it.for([[], "adam", 5, true, [{ optimizer: {} }]])("refuses %j in place of an object", (config, { expect }) => {
    expect(failureOf("timm", config)).toMatchObject({ code: "VALIDATION_ERROR", field: "config.advanced_config" });
  });

  it("refuses frameworks that have no settings, whatever their name", ({ expect }) => {
    for (const framework of ["workers-ai", "huggingface", "", "__proto__", "constructor", "TIMM"]) {
      expect(failureOf(framework, {})).toMatchObject({ code: "VALIDATION_ERROR", field: "config.framework" });
    }
  });

  it("puts the given root in front of a field", ({ expect }) => {
    const result = validateAdvancedConfig("timm", { optimizer: { type: "x" } }, "config");
    expect(result).toMatchObject({ ok: false, error: { field: "config.optimizer.type" } });
  });
});

describe("normalisation", () => {
  it.for(["Adam", "ADAMW", "SGD", "RMSProp", "rmsprop"])(
    "ultralytics understands the optimizer %s",
    (type, { expect }) => {
      expect(settingsOf("ultralytics", { optimizer: { type } })).toEqual({ optimizer: { type: type.toLowerCase() } });
    },
  );

  it.for([0, -0, null])("a gradient clip of %j means off", (clip, { expect }) => {
    expect(settingsOf("timm", { gradient_clip_value: clip })).toEqual({ gradient_clip_value: null });
  });

  it("keeps a metric name that is not among the usual ones", ({ expect }) => {
    const config = { validation: { save_best_metric: "metrics/mAP50(B)" } };
    expect(settingsOf("timm", config)).toEqual(config);
  });

  it("accepts a rate below what a form offers", ({ expect }) => {
    const config = { optimizer: { learning_rate: 1e-7 } };
    expect(settingsOf("timm", config)).toEqual(config);
  });
});

describe("hostile input", () => {
  it.for([
    '{"__proto__": {"type": "adam"}}',
    '{"constructor": {"prototype": {"polluted": true}}}',
    '{"prototype": {}}',
    '{"toString": 1}',
    '{"hasOwnProperty": true}',
  ])("refuses %s and leaves the object prototype alone", (text, { expect }) => {
    expect(failureOf("timm", json(text))?.message).toContain("not a known setting");
    expect(Object.keys(Object.prototype)).toEqual([]);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  it("refuses them inside a section too", ({ expect }) => {
    const failure = failureOf("timm", json('{"optimizer": {"__proto__": {"type": "adam"}}}'));
    expect(failure?.field).toBe("config.advanced_config.optimizer.__proto__");
  });

  it("finds no setting through the prototype chain of what it reads", ({ expect }) => {
    expect(readSetting({}, "constructor")).toBeUndefined();
    expect(readSetting({}, "__proto__.type")).toBeUndefined();
    expect(readSetting({ optimizer: {} }, "optimizer.toString")).toBeUndefined();
  });

  it("does not walk into values however deep they are", ({ expect }) => {
    const deep = json(`${"[".repeat(50_000)}${"]".repeat(50_000)}`);
    expect(failureOf("timm", { optimizer: { betas: [deep, deep] } })?.field).toContain("betas");
    expect(failureOf("timm", { deep })?.field).toContain("deep");
    expect(failureOf("timm", { optimizer: { type: deep } })?.field).toContain("type");
  });

  it("stops after a bounded number of problems and repeats no long name", ({ expect }) => {
    const many = Object.fromEntries(Array.from({ length: 100_000 }, (_, i) => [`setting${i}`, 1]));
    expect(checkConfig("timm", many).problems.length).toBe(50);
    expect(checkConfig("timm", { optimizer: many, scheduler: many }).problems.length).toBe(50);
    const failure = failureOf("timm", { ["x".repeat(1_000_000)]: 1 });
    expect(failure?.message.length).toBeLessThan(400);
  });
});

describe("checkConfig", () => {
  it("reports every problem at once, in the order given", ({ expect }) => {
    const { problems } = checkConfig("timm", {
      optimizer: { type: "lion", learning_rate: 2 },
      scheduler: 5,
      nonsense: true,
    });
    expect(problems.map((problem) => problem.field)).toEqual([
      "optimizer.type",
      "optimizer.learning_rate",
      "scheduler",
      "nonsense",
    ]);
  });
});

describe("every table", () => {
  it.for(CONFIG_FRAMEWORKS)("%s accepts each default, form value and limit that it states", (framework, { expect }) => {
    for (const field of TABLES[framework].fields) {
      const values: unknown[] = [field.omitted];
      if (field.type !== "array") values.push(field.form);
      if (field.type === "select") values.push(...field.options.map((option) => option.value));
      if (field.type === "number" || field.type === "integer") {
        values.push(field.min, field.max, field.formMin, field.formMax);
      }
      const [section, key] = field.name.includes(".") ? field.name.split(".") : [null, field.name];
      for (const value of values.filter((candidate) => candidate !== undefined && candidate !== null)) {
        if (field.name === "preprocessing.mean" || field.name === "preprocessing.std") continue;
        const config = section === null ? { [field.name]: value } : { [`${section}`]: { [`${key}`]: value } };
        expect(failureOf(framework, config), JSON.stringify(config)).toBeNull();
      }
    }
  });

  it.for(CONFIG_FRAMEWORKS)("%s refuses what lies beyond each limit", (framework, { expect }) => {
    let tried = 0;
    for (const field of TABLES[framework].fields) {
      if (field.type !== "number" && field.type !== "integer") continue;
      const step = field.type === "integer" ? 1 : 1e-9;
      const beyond = [
        field.min !== undefined && field.min - step,
        field.above !== undefined && (field.zeroIsOff ? -1 : field.above),
        field.max !== undefined && field.max + step,
        field.below !== undefined && field.below,
      ].filter((value) => value !== false);
      const [section, key] = field.name.includes(".") ? field.name.split(".") : [null, field.name];
      for (const value of beyond) {
        tried += 1;
        const config = section === null ? { [field.name]: value } : { [`${section}`]: { [`${key}`]: value } };
        expect(failureOf(framework, config)?.field, JSON.stringify(config)).toBe(
          `config.advanced_config.${field.name}`,
        );
      }
    }
    expect(tried).toBeGreaterThan(15);
  });

  it.for(CONFIG_FRAMEWORKS)("%s has presets that are valid and already normalised", (framework, { expect }) => {
    const presets = Object.entries(TABLES[framework].presets);
    expect(presets.length).toBeGreaterThan(1);
    for (const [name, preset] of presets) expect(settingsOf(framework, preset), name).toEqual(preset);
  });
});
