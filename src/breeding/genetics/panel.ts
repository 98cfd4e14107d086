import {
  FALLBACK_PANEL,
  type GeneticStrain,
  PANEL_TRAITS,
  type PanelTrait,
  type Phenotype,
  toScale,
} from "./traits.ts";

/** Mean and standard deviation of a trait over the strains, on the analysis scale; `count` strains were known. */
export interface Panel {
  mean: number;
  sd: number;
  count: number;
}

/** g/mm³, the median of weight/(length·width²) in 192 tomato lines. */
export const FALLBACK_K = 5.89e-4;

/** Below this a panel does not vary and cannot be a unit. */
const NO_SPREAD = 1e-9;

/**
 * Panel of one trait. Fewer than two known values, or values without spread: the fallback SD. Two to four values: the
 * sample variance pooled with the fallback (weight 4), because so few say little about spread.
 */
export function panelOf(values: readonly number[], fallback: { mean: number; sd: number }): Panel {
  const count = values.length;
  if (count === 0) return { mean: fallback.mean, sd: fallback.sd, count };
  const { mean, sd } = meanAndSd(values);
  if (count === 1 || sd < NO_SPREAD) return { mean, sd: fallback.sd, count };
  if (count > 4) return { mean, sd, count };
  return { mean, sd: Math.sqrt(((count - 1) * sd ** 2 + 4 * fallback.sd ** 2) / (count + 3)), count };
}

/** Mean and sample standard deviation (divisor count − 1; 0 for a single value). */
export function meanAndSd(values: readonly number[]): { mean: number; sd: number } {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
  return { mean, sd: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0 };
}

/** Median; null for no values. */
export function median(values: readonly number[]): number | null {
  return values.length === 0
    ? null
    : quantile(
        [...values].sort((a, b) => a - b),
        0.5,
      );
}

/** Quantile p of sorted values by linear interpolation (type 7). The array must not be empty. */
export function quantile(sorted: readonly number[], p: number): number {
  const position = (sorted.length - 1) * p;
  const low = sorted[Math.floor(position)] ?? Number.NaN;
  const high = sorted[Math.ceil(position)] ?? Number.NaN;
  return low + (high - low) * (position - Math.floor(position));
}

/** Pearson correlation; null where it is not defined. */
export function correlation(xs: readonly number[], ys: readonly number[]): number | null {
  if (xs.length < 2) return null;
  const x = meanAndSd(xs);
  const y = meanAndSd(ys);
  if (x.sd < NO_SPREAD || y.sd < NO_SPREAD) return null;
  let sum = 0;
  for (const [i, value] of xs.entries()) sum += (value - x.mean) * ((ys[i] ?? Number.NaN) - y.mean);
  return sum / ((xs.length - 1) * x.sd * y.sd);
}

/** k = weight/(length·width²) in g/mm³ where all three are measured. */
function shapeFactor({ weight, length, width }: Phenotype): number | null {
  return weight === null || length === null || width === null ? null : weight / (length * width ** 2);
}

/** Median k of the strains, else that of the public panel. Fills in a weight that nobody weighed. */
export const typicalK = (strains: readonly GeneticStrain[]): number =>
  median(strains.map((s) => shapeFactor(s.phenotype)).filter((k) => k !== null)) ?? FALLBACK_K;

/**
 * A parent's phenotype on the analysis scale. A missing ratio is length/width, a missing weight is k̃·length·width²; `k`
 * itself counts as known only if all three were measured.
 */
export function parentValues(phenotype: Phenotype, kTypical: number): Record<PanelTrait, number | null> {
  const { length, width } = phenotype;
  const box = length !== null && width !== null ? { length, width } : null;
  return scaled({
    ...phenotype,
    ratio: phenotype.ratio ?? (box ? box.length / box.width : null),
    weight: phenotype.weight ?? (box ? kTypical * box.length * box.width ** 2 : null),
    k: shapeFactor(phenotype),
  });
}

/** A measured F1 on the analysis scale. Nothing is imputed but the ratio: a record must rest on a measurement. */
export function observedValues(phenotype: Phenotype): Record<PanelTrait, number | null> {
  const { length, width } = phenotype;
  const ratio = length !== null && width !== null ? length / width : phenotype.ratio;
  return scaled({ ...phenotype, ratio, k: shapeFactor(phenotype) });
}

function scaled(raw: Record<PanelTrait, number | null>): Record<PanelTrait, number | null> {
  const out: Partial<Record<PanelTrait, number | null>> = {};
  for (const trait of PANEL_TRAITS) {
    const value = raw[trait];
    out[trait] = value === null ? null : toScale(trait, value);
  }
  return out as Record<PanelTrait, number | null>;
}

/** Panels of all traits from the parents' values. */
export function panelsOf(parents: readonly Record<PanelTrait, number | null>[]): Record<PanelTrait, Panel> {
  const out: Partial<Record<PanelTrait, Panel>> = {};
  for (const trait of PANEL_TRAITS) {
    const known = parents.map((p) => p[trait]).filter((v) => v !== null);
    out[trait] = panelOf(known, FALLBACK_PANEL[trait]);
  }
  return out as Record<PanelTrait, Panel>;
}
