import { describe, it } from "vitest";
import { z } from "zod";
import { configSchema } from "../../../src/training/config/publish.ts";
import { ConfigSchemaSchema } from "../../../src/training/config/schemas.ts";
import { CONFIG_FRAMEWORKS } from "../../../src/training/config/tables.ts";

const fieldsOf = (framework: (typeof CONFIG_FRAMEWORKS)[number]) => configSchema(framework).schema.fields;
const fieldOf = (framework: (typeof CONFIG_FRAMEWORKS)[number], name: string) =>
  fieldsOf(framework).find((field) => field.name === name);

describe("configSchema", () => {
  it("prints the contract's two example fields", ({ expect }) => {
    const answer = configSchema("timm", "image_classification");
    expect(answer).toMatchObject({ framework: "timm", task_type: "image_classification" });
    const [first, second] = answer.schema.fields;
    expect(first).toMatchObject({
      name: "optimizer.type",
      type: "select",
      label: "Optimizer",
      description: "Optimization algorithm",
      default: "adamw",
    });
    expect(first?.options?.slice(0, 3)).toEqual([
      { value: "adam", label: "Adam", description: "Adaptive Moment Estimation" },
      { value: "adamw", label: "AdamW", description: "Adam with weight decay" },
      { value: "sgd", label: "SGD", description: "Stochastic Gradient Descent" },
    ]);
    expect(second).toEqual({
      name: "optimizer.learning_rate",
      type: "number",
      label: "Learning Rate",
      description: "Initial learning rate",
      default: 0.001,
      min: 1e-6,
      max: 1,
      step: 1e-5,
      group: "optimizer",
    });
  });

  it("has null for a task that was not asked for", ({ expect }) => {
    expect(configSchema("embedded").task_type).toBeNull();
  });

  it.for(CONFIG_FRAMEWORKS)("%s matches the documented schema, without undeclared keys", (framework, { expect }) => {
    const answer = configSchema(framework);
    expect(ConfigSchemaSchema.parse(answer)).toEqual(answer);
    expect(z.json().parse(answer)).toEqual(answer);
  });

  it.for(CONFIG_FRAMEWORKS)("%s lists every name once, grouped by its section", (framework, { expect }) => {
    const { fields, array_fields } = configSchema(framework).schema;
    const names = [...fields, ...array_fields].map((field) => field.name);
    expect(new Set(names).size).toBe(names.length);
    for (const field of [...fields, ...array_fields]) {
      expect(field.group).toBe(field.name.includes(".") ? field.name.split(".")[0] : "training");
      expect(field.label, field.name).not.toBe("");
      expect(field.description, field.name).not.toBe("");
    }
  });

  it.for(CONFIG_FRAMEWORKS)("%s depends only on fields it has, with values they can take", (framework, { expect }) => {
    const { fields, array_fields } = configSchema(framework).schema;
    let conditions = 0;
    for (const field of [...fields, ...array_fields]) {
      expect((field.depends_on === undefined) === (field.visible_when === undefined), field.name).toBe(true);
      if (field.depends_on === undefined) continue;
      conditions += 1;
      const controller = fields.find((candidate) => candidate.name === field.depends_on);
      const wanted = Array.isArray(field.visible_when) ? field.visible_when : [field.visible_when];
      for (const value of wanted) {
        if (typeof value === "object") expect(controller?.type, field.name).toBe("integer");
        else if (typeof value === "boolean") expect(controller?.type, field.name).toBe("boolean");
        else
          expect(
            controller?.options?.map((option) => option.value),
            field.name,
          ).toContain(value);
      }
    }
    expect(conditions).toBeGreaterThan(1);
  });

  it.for(CONFIG_FRAMEWORKS)("%s shows forms a default inside the limits it shows", (framework, { expect }) => {
    for (const field of fieldsOf(framework)) {
      if (typeof field.default === "number") {
        if (field.min !== undefined) expect(field.default, field.name).toBeGreaterThanOrEqual(field.min);
        if (field.max !== undefined) expect(field.default, field.name).toBeLessThanOrEqual(field.max);
      }
      if (field.options) expect(field.options.map((option) => option.value)).toContain(field.default);
    }
  });

  it("has the named presets of each framework", ({ expect }) => {
    const names = (framework: (typeof CONFIG_FRAMEWORKS)[number]) => Object.keys(configSchema(framework).presets);
    expect(names("timm")).toEqual(["basic", "standard", "aggressive", "fine_tuning"]);
    expect(names("ultralytics")).toEqual(["basic", "standard", "aggressive"]);
    expect(names("embedded")).toEqual(["basic", "standard"]);
  });

  it("covers the whole of each framework", ({ expect }) => {
    const counts = CONFIG_FRAMEWORKS.map((framework) => {
      const { fields, array_fields } = configSchema(framework).schema;
      return [framework, fields.length, array_fields.length];
    });
    expect(counts).toEqual([
      ["timm", 74, 8],
      ["ultralytics", 29, 0],
      ["embedded", 39, 5],
    ]);
  });
});

describe("published limits", () => {
  it("marks a bound that does not belong to the range", ({ expect }) => {
    expect(fieldOf("timm", "scheduler.factor")).toMatchObject({
      min: 0,
      max: 1,
      exclusive_min: true,
      exclusive_max: true,
    });
    expect(fieldOf("timm", "augmentation.mixup_alpha")).toMatchObject({ min: 0, max: 1, exclusive_min: true });
    expect(fieldOf("timm", "optimizer.learning_rate")).not.toHaveProperty("exclusive_min");
  });

  it("states where leaving a field out differs from the form's value", ({ expect }) => {
    expect(fieldOf("timm", "scheduler.type")).toMatchObject({ default: "cosine", default_when_omitted: "none" });
    expect(fieldOf("timm", "gradient_clip_value")).toMatchObject({ default: 0, default_when_omitted: null });
    expect(fieldOf("timm", "preprocessing.image_size")).not.toHaveProperty("default_when_omitted");
  });

  it("publishes conditions as one value, several, or a threshold", ({ expect }) => {
    expect(fieldOf("timm", "scheduler.T_max")).toMatchObject({ depends_on: "scheduler.type", visible_when: "cosine" });
    expect(fieldOf("timm", "optimizer.momentum")?.visible_when).toEqual(["sgd", "rmsprop"]);
    expect(fieldOf("timm", "augmentation.hue")).toMatchObject({
      depends_on: "augmentation.color_jitter",
      visible_when: true,
    });
    expect(fieldOf("timm", "scheduler.warmup_lr")?.visible_when).toEqual({ greater_than: 0 });
  });
});
