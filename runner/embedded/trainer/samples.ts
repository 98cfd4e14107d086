import { err, ok, type Result } from "../../../src/shared/result.ts";
import type { DatasetSummary } from "../../../src/training/datasets/formats/types.ts";
import { createRandom, permutation, STREAM } from "./random.ts";

/** Which images a job trains on and which it validates on. Pure. */

export type Sample = {
  /** Path inside the dataset, with `/`. */
  path: string;
  /** Position in the class names. */
  label: number;
  /** null: the dataset does not say. */
  split: "train" | "val" | null;
};

/** What a job asks of its dataset contradicts the dataset. */
export type Mismatch = { field: string; message: string };

/** The images with a class, in the order of their paths; those marked for testing are left alone. */
export function samplesOf({ placements, classNames }: DatasetSummary): Sample[] {
  const ids = new Map(classNames.map((name, id) => [name, id]));
  const samples: Sample[] = [];
  for (const [path, { label, split }] of placements) {
    const id = ids.get(label ?? "");
    if (id !== undefined && split !== "test") samples.push({ path, label: id, split });
  }
  return samples.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Compares the job's classes with those of the dataset; null where the job leaves them open. */
export function checkClasses(
  found: string[],
  expected: { classNames: string[] | null; numClasses: number | null },
): Result<void, Mismatch> {
  const list = (names: string[]) => `${names.slice(0, 20).join(", ")}${names.length > 20 ? ", …" : ""}`;
  const { classNames, numClasses } = expected;
  if (
    classNames !== null &&
    (classNames.length !== found.length || classNames.some((name, id) => name !== found[id]))
  ) {
    return err({ field: "class_names", message: `the job has ${list(classNames)}; the dataset has ${list(found)}` });
  }
  if (numClasses !== null && numClasses !== found.length) {
    return err({
      field: "num_classes",
      message: `the job has ${numClasses}; the dataset has ${found.length}: ${list(found)}`,
    });
  }
  return ok(undefined);
}

/** Every dataset is split the same way whatever the job's own seed is, so that runs can be compared. */
const SPLIT_SEED = 42;
const VALIDATION_SHARE = 0.2;

/**
 * The two sides of the split. A dataset that has images marked for validation is split as marked, and what is not marked
 * is for training. Otherwise 80/20 in each class, at least one for validation of a class with two or more.
 */
export function splitSamples(samples: Sample[]): { train: Sample[]; validation: Sample[] } {
  if (samples.some(({ split }) => split === "val")) {
    return {
      train: samples.filter(({ split }) => split !== "val"),
      validation: samples.filter(({ split }) => split === "val"),
    };
  }
  const byClass = Map.groupBy(samples, ({ label }) => label);
  const chosen = new Set<Sample>();
  for (const [label, members] of byClass) {
    const share = members.length < 2 ? 0 : Math.max(1, Math.round(members.length * VALIDATION_SHARE));
    const order = permutation(members.length, createRandom(SPLIT_SEED, STREAM.split, label));
    for (const position of order.subarray(0, share)) {
      const sample = members[position];
      if (sample) chosen.add(sample);
    }
  }
  return {
    train: samples.filter((sample) => !chosen.has(sample)),
    validation: samples.filter((sample) => chosen.has(sample)),
  };
}
