import { describe, it } from "vitest";
import { parseConfig } from "../../../runner/embedded/trainer/config.ts";
import { EMBEDDED } from "../../../src/training/config/embedded.ts";
import type { Field } from "../../../src/training/config/fields.ts";
import { validateAdvancedConfig } from "../../../src/training/config/validate.ts";
import { findModel } from "../../../src/training/models/catalogue.ts";

/** A job that the trainer accepts, around the configuration in question. */
const trainerVerdict = (advanced_config: unknown) =>
  parseConfig({
    framework: "embedded",
    model_name: "cnn_small",
    task_type: "image_classification",
    dataset_format: "imagefolder",
    num_classes: 10,
    epochs: 50,
    batch_size: 32,
    learning_rate: 0.001,
    image_size: findModel("embedded", "cnn_small")?.default_image_size,
    primary_metric: "accuracy",
    primary_metric_mode: "max",
    advanced_config,
  });

const nested = (name: string, value: unknown): Record<string, unknown> => {
  const [section = "", key] = name.split(".");
  return key === undefined ? { [section]: value } : { [section]: { [key]: value } };
};

/** Values around everything that the table says about a field, and of every wrong type. */
function samplesOf(field: Field): unknown[] {
  const wrongTypes = ["", "x", {}, [], true, [1, 2, 3, 4]];
  switch (field.type) {
    case "boolean":
      return [true, false, "true", 1];
    case "select":
      return [...field.options.map((option) => option.value), "nonsense", 1, ...wrongTypes];
    case "number":
    case "integer": {
      const edges = [field.min, field.max, field.above, field.below, field.formMin, field.formMax, field.omitted];
      const numbers = edges.filter((edge) => typeof edge === "number");
      return [...numbers.flatMap((edge) => [edge, edge - 1, edge + 1, edge + 1e-6]), -1, 0.5, ...wrongTypes];
    }
    case "array": {
      const { items, omitted } = field;
      const single = items.type === "select" ? [items.options[0]?.value ?? "", "nonsense", 1] : [0, 0.5, 1, -11, "x"];
      return [omitted ?? [0.5], single, ...single.map((value) => [value, value]), ...wrongTypes];
    }
  }
}

/** Where the table is stricter on purpose; the trainer is told less than it could take. */
const STRICTER = new Set([
  // The trainer lifts smaller numbers to 3 without saying so.
  "keep_n_checkpoints",
  // An empty list stands for the defaults of nobody.
  "scheduler.milestones",
  "validation.metrics",
]);

describe("the embedded table and the embedded trainer", () => {
  it.for(EMBEDDED.fields.map((field) => [field.name, field] as const))(
    "agree about %s",
    ([name, field], { expect }) => {
      const verdicts = new Set<boolean>();
      for (const sample of samplesOf(field)) {
        const config = nested(name, sample);
        const table = validateAdvancedConfig("embedded", config);
        verdicts.add(table.ok);
        if (table.ok) {
          expect(trainerVerdict(table.value), `accepted: ${JSON.stringify(config)}`).toMatchObject({ ok: true });
        } else if (!STRICTER.has(name)) {
          const trainer = trainerVerdict(config);
          expect(trainer, `refused: ${JSON.stringify(config)}`).toMatchObject({ ok: false });
          if (!trainer.ok) expect(trainer.error.field).toContain("advanced_config");
        }
      }
      // `mean` and `std` are never right alone; both are tried together below.
      const never = name === "preprocessing.mean" || name === "preprocessing.std";
      expect(verdicts).toEqual(new Set(never ? [false] : [true, false]));
    },
  );

  it.for([
    [{ preprocessing: { mean: [0.5], std: [0.5] } }, true],
    [{ preprocessing: { mean: [0.5, 0.4, 0.3], std: [0.5, 0.4, 0.3] } }, true],
    [{ preprocessing: { mean: [0.5, 0.4], std: [0.5, 0.4] } }, false],
    [{ preprocessing: { mean: [0.5], std: [0.5, 0.4, 0.3] } }, false],
    [{ preprocessing: { mean: [0.5], std: [0] } }, false],
    [{ validation: { enabled: false, early_stopping: true } }, false],
    [{ validation: { enabled: false, early_stopping: false } }, true],
    [{ validation: { enabled: false, early_stopping_patience: 3 } }, true],
    [{ nonsense: 1 }, false],
    [{ optimizer: { nonsense: 1 } }, false],
    [{ optimizer: null }, false],
    [[], false],
  ] as const)("agree about %j: %s", ([config, valid], { expect }) => {
    expect(validateAdvancedConfig("embedded", config).ok).toBe(valid);
    expect(trainerVerdict(config).ok).toBe(valid);
  });

  it("agree about every preset", ({ expect }) => {
    for (const preset of Object.values(EMBEDDED.presets)) expect(trainerVerdict(preset)).toMatchObject({ ok: true });
  });

  it("agree about what an omitted setting means", ({ expect }) => {
    const trained = trainerVerdict({});
    const explicit: Record<string, Record<string, unknown>> = {};
    const config: Record<string, unknown> = explicit;
    for (const { name, omitted } of EMBEDDED.fields) {
      // The job's own rate counts where none is given, and null is not something to send.
      if (omitted === null || name === "optimizer.learning_rate") continue;
      const [section = "", key] = name.split(".");
      if (key === undefined) config[section] = omitted;
      else explicit[section] = { ...explicit[section], [key]: omitted };
    }
    expect(trainerVerdict(config)).toEqual(trained);
    expect(validateAdvancedConfig("embedded", config).ok).toBe(true);
  });
});
