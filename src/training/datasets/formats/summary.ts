import { err } from "../../../shared/result.ts";
import type { DatasetWarning, FormatProblem, Placement, SplitCounts } from "./types.ts";

/** Class names and counts are stored in one row of at most 2 MB each; ImageNet-21k has 21,841 classes. */
export const MAX_CLASSES = 25_000;
export const MAX_CLASS_NAME_LENGTH = 200;
const MAX_CLASS_NAMES_LENGTH = 600_000;

/** Above this ratio of largest to smallest class a dataset counts as imbalanced. */
const IMBALANCE_RATIO = 2;
/** A class below this share of the mean counts as small. */
const SMALL_CLASS_SHARE = 0.7;
const FEW_SAMPLES = 100;
/** Names listed in one message. */
const MAX_LISTED = 5;

export const contradiction = (message: string) => err<FormatProblem>({ field: "format", message });
export const brokenFile = (message: string) => err<FormatProblem>({ field: "files", message });

/** `"a", "b" and 3 more`. */
export function listed(names: readonly string[], limit: number = MAX_LISTED): string {
  const shown = names.slice(0, limit).map((name) => JSON.stringify(shortened(name)));
  const more = names.length - shown.length;
  return more > 0 ? `${shown.join(", ")} and ${more} more` : shown.join(", ");
}

/** A warning that names a few of `names`, or none when there are none. */
export const someOf = (names: readonly string[], code: string, what: string): DatasetWarning[] =>
  names.length === 0 ? [] : [{ code, message: `${names.length} ${what}: ${listed(names, 3)}` }];

const shortened = (name: string): string => (name.length > 80 ? `${name.slice(0, 80)}…` : name);

/** Null when the names can be stored; else what is wrong with them. */
export function classNamesProblem(names: readonly string[]): string | null {
  if (names.length > MAX_CLASSES) return `${names.length} classes; at most ${MAX_CLASSES} are allowed`;
  let length = 0;
  for (const name of names) {
    if (name.trim() === "") return "a class without a name";
    if (name.length > MAX_CLASS_NAME_LENGTH) return `a class name longer than ${MAX_CLASS_NAME_LENGTH} characters`;
    if (/\p{Cc}/u.test(name)) return `a control character in the class name ${listed([name])}`;
    length += name.length;
  }
  if (length > MAX_CLASS_NAMES_LENGTH) return `class names of together ${length} characters; too many`;
  return null;
}

/** Counts by name, in the given order. A name such as `__proto__` is a key like any other. */
export const distribution = (names: readonly string[], counts: ReadonlyMap<string, number>): Record<string, number> =>
  Object.fromEntries(names.map((name) => [name, counts.get(name) ?? 0]));

export function firstDuplicate(names: readonly string[]): string | undefined {
  const seen = new Set<string>();
  return names.find((name) => seen.size === seen.add(name).size);
}

export const increment = <K>(counts: Map<K, number>, key: K): void => {
  counts.set(key, (counts.get(key) ?? 0) + 1);
};

/** Images per split; null when no image is in any. */
export function countSplits(placements: Iterable<Placement>): SplitCounts | null {
  const counts: SplitCounts = { train: 0, val: 0, test: 0 };
  for (const { split } of placements) if (split) counts[split]++;
  return counts.train + counts.val + counts.test > 0 ? counts : null;
}

/**
 * Warnings about the amounts: largest to smallest class above 2, a class below 70 % of the mean, fewer than 100 samples.
 * @param noun what is counted, in the plural
 */
export function balanceWarnings(
  names: readonly string[],
  counts: ReadonlyMap<string, number>,
  sampleCount: number,
  noun: string,
): DatasetWarning[] {
  const warnings: DatasetWarning[] = [];
  const withCounts = names.map((name) => ({ name, count: counts.get(name) ?? 0 }));
  const used = withCounts.filter(({ count }) => count > 0);
  const empty = withCounts.filter(({ count }) => count === 0).map(({ name }) => name);
  if (empty.length > 0) warnings.push({ code: "empty_class", message: `No ${noun} in ${listed(empty)}` });
  const [first] = used;
  if (first) {
    let largest = first;
    let smallest = first;
    let total = 0;
    for (const entry of used) {
      if (entry.count > largest.count) largest = entry;
      if (entry.count < smallest.count) smallest = entry;
      total += entry.count;
    }
    if (largest.count > smallest.count * IMBALANCE_RATIO) {
      const ratio = (largest.count / smallest.count).toFixed(1);
      warnings.push({
        code: "class_imbalance",
        message: `${listed([largest.name])} has ${ratio} times the ${noun} of ${listed([smallest.name])}`,
      });
    }
    const mean = total / used.length;
    const small = used.filter(({ count }) => count < mean * SMALL_CLASS_SHARE).map(({ name }) => name);
    if (small.length > 0) {
      warnings.push({
        code: "small_class",
        message: `Fewer than ${SMALL_CLASS_SHARE * 100} % of the mean number of ${noun}: ${listed(small)}`,
      });
    }
  }
  if (sampleCount < FEW_SAMPLES) {
    warnings.push({ code: "few_samples", message: `Only ${sampleCount} images; ${FEW_SAMPLES} or more train better` });
  }
  return warnings;
}
