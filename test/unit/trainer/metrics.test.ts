import { describe, it } from "vitest";
import {
  argmax,
  classMetrics,
  confusionMatrix,
  crossEntropy,
  isImprovement,
  overallMetrics,
  validationData,
} from "../../../runner/embedded/trainer/metrics.ts";

/** 3 cats, 2 dogs, 1 owl. */
const TRUE = [0, 0, 0, 1, 1, 2];
const PREDICTED = [0, 0, 1, 1, 0, 0];

describe("confusionMatrix", () => {
  it("has a row for each true class", ({ expect }) => {
    expect(confusionMatrix(TRUE, PREDICTED, 3)).toEqual([
      [2, 1, 0],
      [1, 1, 0],
      [1, 0, 0],
    ]);
  });

  it("refuses a class that is not there", ({ expect }) => {
    expect(() => confusionMatrix([0], [3], 3)).toThrow(RangeError);
    expect(() => confusionMatrix([-1], [0], 3)).toThrow(RangeError);
  });
});

describe("classMetrics", () => {
  it("counts hits among the predicted and among the true", ({ expect }) => {
    const [cat, dog] = classMetrics(confusionMatrix(TRUE, PREDICTED, 3));
    expect(cat).toMatchObject({ precision: 2 / 4, recall: 2 / 3, support: 3 });
    expect(cat?.f1).toBeCloseTo(4 / 7, 12);
    expect(dog).toEqual({ precision: 0.5, recall: 0.5, f1: 0.5, support: 2 });
  });

  it("is 0, not NaN, for a class that was never predicted or does not occur", ({ expect }) => {
    const [, , owl] = classMetrics(confusionMatrix(TRUE, PREDICTED, 3));
    expect(owl).toEqual({ precision: 0, recall: 0, f1: 0, support: 1 });
    expect(classMetrics([[0]])).toEqual([{ precision: 0, recall: 0, f1: 0, support: 0 }]);
  });
});

describe("overallMetrics", () => {
  it("weights the classes by support", ({ expect }) => {
    const { accuracy, precision, recall, f1 } = overallMetrics(confusionMatrix(TRUE, PREDICTED, 3));
    expect(accuracy).toBe(0.5);
    expect(precision).toBeCloseTo((3 * 0.5 + 2 * 0.5) / 6, 12);
    expect(recall).toBeCloseTo(0.5, 12); // weighted recall is accuracy
    expect(f1).toBeCloseTo((3 * (4 / 7) + 2 * 0.5) / 6, 12);
  });

  it("is 0 without images", ({ expect }) => {
    expect(
      overallMetrics([
        [0, 0],
        [0, 0],
      ]),
    ).toEqual({ accuracy: 0, precision: 0, recall: 0, f1: 0 });
  });
});

describe("crossEntropy", () => {
  it("is the logarithm of the probability", ({ expect }) => {
    expect(crossEntropy(Float32Array.of(0, 0, 0, 0), 2)).toBeCloseTo(Math.log(4), 12);
    expect(crossEntropy(Float32Array.of(Math.log(3), 0), 0)).toBeCloseTo(-Math.log(0.75), 6);
  });

  it("does not overflow", ({ expect }) => {
    expect(crossEntropy(Float32Array.of(1e4, 0), 0)).toBe(0);
    expect(crossEntropy(Float32Array.of(1e4, 0), 1)).toBe(1e4);
  });

  it("is not a number for an unknown class or broken scores", ({ expect }) => {
    expect(crossEntropy(Float32Array.of(1, 2), 2)).toBeNaN();
    expect(crossEntropy(Float32Array.of(Number.NaN, 2), 1)).toBeNaN();
  });
});

describe("argmax and isImprovement", () => {
  it("take the first of equal values", ({ expect }) => {
    expect(argmax([1, 3, 3])).toBe(1);
  });

  it("know both directions", ({ expect }) => {
    expect(isImprovement(0.6, 0.5, "max")).toBe(true);
    expect(isImprovement(0.5, 0.5, "max")).toBe(false);
    expect(isImprovement(0.4, 0.5, "min")).toBe(true);
    expect(isImprovement(0.6, 0.5, "min")).toBe(false);
    expect(isImprovement(0, null, "max")).toBe(true);
  });

  it("want more than the least gain", ({ expect }) => {
    expect(isImprovement(0.55, 0.5, "max", 0.1)).toBe(false);
    expect(isImprovement(0.45, 0.5, "min", 0.1)).toBe(false);
    expect(isImprovement(0.61, 0.5, "max", 0.1)).toBe(true);
  });
});

describe("validationData", () => {
  const logits = [Float32Array.of(2, 0), Float32Array.of(0, 1), Float32Array.of(3, 0)];
  const images = { labels: [0, 1, 1], paths: ["val/cat/a.png", "val/dog/b.png", "c.png"] };
  const data = validationData(7, logits, images, ["cat", "dog"], { name: "f1_score", metric: "f1", mode: "max" });

  it("has the contract's fields", ({ expect }) => {
    expect(data).toMatchObject({
      epoch: 7,
      task_type: "image_classification",
      primary_metric_name: "f1_score",
      class_names: ["cat", "dog"],
      confusion_matrix: [
        [1, 0],
        [1, 1],
      ],
    });
    expect(data.primary_metric_value).toBe(data.metrics.f1);
    expect(data.per_class_metrics.dog).toEqual({ precision: 1, recall: 0.5, f1: 2 / 3, support: 2 });
    expect(data.metrics.accuracy).toBeCloseTo(2 / 3, 12);
  });

  it("has the mean loss", ({ expect }) => {
    const wanted = (Math.log(1 + Math.exp(-2)) + Math.log(1 + Math.exp(-1)) + Math.log(1 + Math.exp(3))) / 3;
    expect(data.overall_loss).toBeCloseTo(wanted, 6);
  });

  it("lists each image with its most probable classes", ({ expect }) => {
    expect(data.images).toHaveLength(3);
    expect(data.images[0]).toMatchObject({ image_path: "val/cat/a.png", image_name: "a.png", is_correct: true });
    expect(data.images[2]).toMatchObject({
      image_name: "c.png",
      true_label: "dog",
      true_label_id: 1,
      predicted_label: "cat",
      predicted_label_id: 0,
      is_correct: false,
    });
    const [first] = data.images;
    expect(first?.top5_predictions.map(({ label_id }) => label_id)).toEqual([0, 1]);
    expect(first?.confidence).toBeCloseTo(1 / (1 + Math.exp(-2)), 6);
    expect(first?.top5_predictions.reduce((sum, { confidence }) => sum + confidence, 0)).toBeCloseTo(1, 9);
  });

  it("keeps at most five", ({ expect }) => {
    const names = ["a", "b", "c", "d", "e", "f", "g"];
    const scores = Float32Array.from(names, (_, i) => i);
    const wide = validationData(1, [scores], { labels: [0], paths: ["x.png"] }, names, {
      name: "loss",
      metric: "loss",
      mode: "min",
    });
    expect(wide.images[0]?.top5_predictions.map(({ label }) => label)).toEqual(["g", "f", "e", "d", "c"]);
    expect(wide.primary_metric_value).toBe(wide.overall_loss);
  });
});
