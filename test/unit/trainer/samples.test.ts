import { describe, it } from "vitest";
import { checkClasses, type Sample, samplesOf, splitSamples } from "../../../runner/embedded/trainer/samples.ts";
import type { DatasetSummary, Placement } from "../../../src/training/datasets/formats/types.ts";

const summary = (placements: Record<string, Placement>): DatasetSummary => ({
  format: "imagefolder",
  layout: "class_folders",
  taskType: "image_classification",
  numClasses: 2,
  classNames: ["cat", "dog"],
  classDistribution: {},
  imageCount: 0,
  splits: null,
  warnings: [],
  placements: new Map(Object.entries(placements)),
});

const unmarked = (counts: number[]): Sample[] =>
  counts.flatMap((count, label) =>
    Array.from({ length: count }, (_, i) => ({
      path: `${label}/${String(i).padStart(3, "0")}.png`,
      label,
      split: null,
    })),
  );

describe("samplesOf", () => {
  it("orders by path and leaves out what has no class or is for testing", ({ expect }) => {
    const samples = samplesOf(
      summary({
        "b.png": { split: "train", label: "dog" },
        "a.png": { split: "val", label: "cat" },
        "c.png": { split: null, label: null },
        "d.png": { split: "test", label: "cat" },
        "e.png": { split: null, label: "cat" },
      }),
    );
    expect(samples).toEqual([
      { path: "a.png", label: 0, split: "val" },
      { path: "b.png", label: 1, split: "train" },
      { path: "e.png", label: 0, split: null },
    ]);
  });
});

describe("checkClasses", () => {
  const open = { classNames: null, numClasses: null };

  it("accepts what agrees or is left open", ({ expect }) => {
    expect(checkClasses(["a", "b"], open).ok).toBe(true);
    expect(checkClasses(["a", "b"], { classNames: ["a", "b"], numClasses: 2 }).ok).toBe(true);
  });

  it("names the field that does not agree", ({ expect }) => {
    const field = (given: Partial<typeof open> | object) => {
      const checked = checkClasses(["a", "b"], { ...open, ...given });
      return checked.ok ? null : checked.error.field;
    };
    expect(field({ classNames: ["b", "a"] })).toBe("class_names");
    expect(field({ classNames: ["a", "b", "c"] })).toBe("class_names");
    expect(field({ numClasses: 3 })).toBe("num_classes");
  });
});

describe("splitSamples", () => {
  it("follows the marks, and trains on what is not marked", ({ expect }) => {
    const samples: Sample[] = [
      { path: "a", label: 0, split: "train" },
      { path: "b", label: 0, split: "val" },
      { path: "c", label: 1, split: null },
    ];
    const { train, validation } = splitSamples(samples);
    expect(train.map(({ path }) => path)).toEqual(["a", "c"]);
    expect(validation.map(({ path }) => path)).toEqual(["b"]);
  });

  it("divides each class 80/20 and uses every image once", ({ expect }) => {
    const samples = unmarked([50, 10, 3, 2, 1]);
    const { train, validation } = splitSamples(samples);
    const count = (of: Sample[], label: number) => of.filter((sample) => sample.label === label).length;
    expect([0, 1, 2, 3, 4].map((label) => count(validation, label))).toEqual([10, 2, 1, 1, 0]);
    expect([0, 1, 2, 3, 4].map((label) => count(train, label))).toEqual([40, 8, 2, 1, 1]);
    const paths = [...train, ...validation].map(({ path }) => path);
    expect(paths.sort()).toEqual(samples.map(({ path }) => path).sort());
  });

  it("is always the same, and not just the first images", ({ expect }) => {
    const { validation } = splitSamples(unmarked([100]));
    expect(splitSamples(unmarked([100])).validation).toEqual(validation);
    const positions = validation.map(({ path }) => Number(path.slice(2, 5)));
    expect(Math.max(...positions)).toBeGreaterThan(50);
    expect(Math.min(...positions)).toBeLessThan(50);
  });

  it("divides a dataset that only marks images for training", ({ expect }) => {
    const samples = unmarked([10]).map((sample) => ({ ...sample, split: "train" as const }));
    expect(splitSamples(samples).validation).toHaveLength(2);
  });
});
