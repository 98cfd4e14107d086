import { describe, it } from "vitest";
import { explainConfig } from "../../../src/training/config/explain.ts";
import { CONFIG_FRAMEWORKS, TABLES } from "../../../src/training/config/tables.ts";

describe("explainConfig", () => {
  it("has nothing to say about an empty configuration", ({ expect }) => {
    for (const framework of CONFIG_FRAMEWORKS) {
      expect(explainConfig(framework, {})).toEqual({
        valid: true,
        errors: [],
        warnings: [],
        suggestions: [],
        config: {},
      });
    }
  });

  it("lists every error and gives no configuration when it is not valid", ({ expect }) => {
    const report = explainConfig("timm", { optimizer: { type: "lion", learning_rate: 5 }, foo: 1 });
    expect(report).toMatchObject({ valid: false, warnings: [], suggestions: [], config: null });
    expect(report.errors.map((error) => error.field)).toEqual(["optimizer.type", "optimizer.learning_rate", "foo"]);
  });

  it("answers with the normalised configuration", ({ expect }) => {
    const report = explainConfig("timm", { gradient_clip_value: 0 });
    expect(report.config).toEqual({ gradient_clip_value: null });
  });

  it.for([
    [0.5, /learning_rate 0.5 is high/],
    [1e-7, /learning_rate 1e-7 is low/],
  ] as const)("warns of the rate %d", ([rate, text], { expect }) => {
    const [explicit] = explainConfig("timm", { optimizer: { learning_rate: rate } }).warnings;
    expect(explicit).toMatch(text);
    expect(explicit).toMatch(/^optimizer\.learning_rate/);
    expect(explainConfig("timm", {}, rate).warnings).toEqual([expect.stringMatching(text)]);
  });

  it.for([0.1, 1e-6, 0.001])("does not warn of the rate %d", (rate, { expect }) => {
    expect(explainConfig("timm", { optimizer: { learning_rate: rate } }).warnings).toEqual([]);
  });

  it("judges the explicit rate, not the job's", ({ expect }) => {
    expect(explainConfig("timm", { optimizer: { learning_rate: 0.01 } }, 0.5).warnings).toEqual([]);
  });

  it("warns of a warm-up that does not rise", ({ expect }) => {
    const scheduler = { warmup_epochs: 5, warmup_lr: 0.001 };
    expect(explainConfig("timm", { scheduler, optimizer: { learning_rate: 0.001 } }).warnings).toEqual([
      expect.stringContaining("scheduler.warmup_lr"),
    ]);
    expect(explainConfig("timm", { scheduler }, 0.01).warnings).toEqual([]);
    expect(explainConfig("timm", { scheduler }, 0.0005).warnings).toHaveLength(1);
  });

  it("warns of augmentation that does nothing", ({ expect }) => {
    const none = { enabled: true, random_flip: false };
    expect(explainConfig("timm", { augmentation: none }).warnings).toEqual([
      expect.stringContaining("no augmentation is chosen"),
    ]);
    expect(explainConfig("timm", { augmentation: { ...none, enabled: false } }).warnings).not.toContainEqual(
      expect.stringContaining("no augmentation is chosen"),
    );
    expect(
      explainConfig("embedded", { augmentation: { translate: 0, scale: 0, random_rotation: false } }).warnings,
    ).toEqual([expect.stringContaining("no augmentation is chosen")]);
  });

  it("suggests fewer than seven augmentations", ({ expect }) => {
    const six = {
      random_flip: true,
      random_rotation: true,
      random_crop: true,
      color_jitter: true,
      mixup: true,
      cutmix: true,
    };
    expect(explainConfig("timm", { augmentation: six }).suggestions).toEqual([]);
    expect(explainConfig("timm", { augmentation: { ...six, random_erasing: true } }).suggestions).toEqual([
      expect.stringContaining("7 augmentations"),
    ]);
  });

  it("suggests more patience, but only where early stopping is on", ({ expect }) => {
    const validation = { early_stopping: true, early_stopping_patience: 2 };
    expect(explainConfig("timm", { validation }).suggestions).toEqual([expect.stringContaining("patience 2")]);
    expect(explainConfig("timm", { validation: { ...validation, early_stopping_patience: 3 } }).suggestions).toEqual(
      [],
    );
    expect(explainConfig("timm", { validation: { ...validation, early_stopping: false } }).suggestions).toEqual([]);
  });

  it("suggests a smaller clip with mixed precision", ({ expect }) => {
    expect(explainConfig("timm", { gradient_clip_value: 11, mixed_precision: true }).suggestions).toHaveLength(1);
    expect(explainConfig("timm", { gradient_clip_value: 11 }).suggestions).toEqual([]);
    expect(explainConfig("timm", { gradient_clip_value: 10, mixed_precision: true }).suggestions).toEqual([]);
  });

  it("names the setting that makes another one meaningless", ({ expect }) => {
    const { warnings } = explainConfig("timm", {
      scheduler: { type: "step", T_max: 70 },
      augmentation: { enabled: false, color_jitter: true, hue: 0.3 },
    });
    expect(warnings).toEqual([
      "scheduler.T_max has no effect: scheduler.type is step",
      "augmentation.color_jitter has no effect: augmentation.enabled is false",
      "augmentation.hue has no effect: augmentation.enabled is false",
    ]);
  });

  it("does not complain when a form sends all its fields as they were shown", ({ expect }) => {
    for (const framework of CONFIG_FRAMEWORKS) {
      const sections: Record<string, Record<string, unknown>> = {};
      const config: Record<string, unknown> = sections;
      for (const field of TABLES[framework].fields) {
        if (field.type === "array") continue;
        const value = field.form ?? field.omitted;
        if (value === null) continue;
        const [section, key] = field.name.split(".");
        if (section === undefined || key === undefined) config[field.name] = value;
        else sections[section] = { ...sections[section], [key]: value };
      }
      expect(explainConfig(framework, config)).toMatchObject({ valid: true, errors: [], warnings: [] });
    }
  });

  it.for(CONFIG_FRAMEWORKS)("has no warning about the presets of %s", (framework, { expect }) => {
    for (const [name, preset] of Object.entries(TABLES[framework].presets)) {
      expect(explainConfig(framework, preset).warnings, name).toEqual([]);
    }
  });
});
