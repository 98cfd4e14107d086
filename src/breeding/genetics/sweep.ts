/** Predictions of one trait for every pair of strains: the same numbers as predictTrait, without an object per cross. */
import { packed } from "./linear-algebra.ts";
import {
  FIRST_G,
  midParent,
  type PosteriorComponent,
  pairKey,
  scaShare,
  type TraitFit,
  unknownVariance,
} from "./model.ts";
import { normalCdf } from "./normal.ts";

/** A strain as a column of the sweep: its score (NaN if unknown) and its places in the fit (−1 if absent). */
export interface SweepStrain {
  z: number;
  column: number;
  index: number;
}

/** Places of strains in a fit. Strains that the fit does not know must not be passed: they have no panel score there. */
export function sweepStrains(fit: TraitFit, ids: readonly string[]): SweepStrain[] {
  return ids.map((id) => {
    const index = fit.index.get(id) ?? -1;
    return { z: fit.z[index] ?? Number.NaN, column: fit.column[index] ?? -1, index };
  });
}

/** Additive mean and variance of pair (i, j) under one posterior component, in panel SD; i and j differ. */
export function additiveMoments(
  fit: TraitFit,
  c: PosteriorComponent,
  a: SweepStrain,
  b: SweepStrain,
  m: number,
  d: number,
): { mean: number; variance: number } {
  const s = c.sigma;
  const get = (i: number, j: number) => s[packed(i, j)] as number;
  let mean = (c.theta[0] as number) + m * (c.theta[1] as number) + d * (c.theta[2] as number);
  let variance =
    get(0, 0) + m * m * get(1, 1) + d * d * get(2, 2) + 2 * (m * get(1, 0) + d * get(2, 0) + m * d * get(2, 1));
  for (const strain of [a, b]) {
    if (strain.column < 0) {
      variance += c.sg2 + (Number.isNaN(strain.z) ? unknownVariance(fit.prior) : 0);
      continue;
    }
    const g = FIRST_G + strain.column;
    mean += c.theta[g] as number;
    variance += get(g, g) + 2 * (get(g, 0) + m * get(g, 1) + d * get(g, 2));
  }
  if (a.column >= 0 && b.column >= 0) variance += 2 * get(FIRST_G + a.column, FIRST_G + b.column);
  return { mean, variance: Math.max(variance, 0) };
}

/** Predictive summaries of a pair of strains (positions in the list the sweep was made for), on the analysis scale. */
export interface TraitSweep {
  recorded(i: number, j: number): boolean;
  mean(i: number, j: number): number;
  variance(i: number, j: number): number;
  cdf(i: number, j: number, x: number): number;
}

/** Prepares a sweep. `replicates` as in predictTrait. */
export function sweepTrait(fit: TraitFit, ids: readonly string[], replicates: number): TraitSweep {
  const { panel, prior } = fit;
  const strains = sweepStrains(fit, ids);
  const size = fit.ids.length;
  const at = (i: number) => strains[i] as SweepStrain;
  const record = (a: SweepStrain, b: SweepStrain) =>
    a.column >= 0 && b.column >= 0 ? fit.records.get(pairKey(a.index, b.index, size)) : undefined;

  // The mean is linear in θ, so one average over the components serves all pairs.
  const fixed = [0, 1, 2].map((k) => fit.components.reduce((sum, c) => sum + c.weight * (c.theta[k] as number), 0));
  const [c0 = 0, beta = 0, delta = 0] = fixed;
  const g = strains.map(({ column }) =>
    column < 0 ? 0 : fit.components.reduce((sum, c) => sum + c.weight * (c.theta[FIRST_G + column] as number), 0),
  );

  const standardMean = (i: number, j: number) => {
    const a = at(i);
    const b = at(j);
    const { m, d } = midParent(a.z, b.z);
    const additive = c0 + beta * m + delta * d + (g[i] as number) + (g[j] as number);
    const seen = record(a, b);
    return seen ? additive + scaShare(prior.phi, seen.n) * (seen.y - additive) : additive;
  };

  const eachComponent = (i: number, j: number, visit: (weight: number, mean: number, variance: number) => void) => {
    const a = at(i);
    const b = at(j);
    const { m, d } = midParent(a.z, b.z);
    const seen = record(a, b);
    const rho = seen ? scaShare(prior.phi, seen.n) : 0;
    for (const c of fit.components) {
      const additive = additiveMoments(fit, c, a, b, m, d);
      const error = ((1 - prior.phi) * c.se2) / replicates;
      visit(
        c.weight,
        additive.mean + rho * ((seen?.y ?? 0) - additive.mean),
        (1 - rho) ** 2 * additive.variance + prior.phi * c.se2 * (1 - rho) + error,
      );
    }
  };

  return {
    recorded: (i, j) => record(at(i), at(j)) !== undefined,
    mean: (i, j) => panel.mean + panel.sd * standardMean(i, j),
    variance: (i, j) => {
      const centre = standardMean(i, j);
      let sum = 0;
      eachComponent(i, j, (weight, mean, variance) => {
        sum += weight * (variance + (mean - centre) ** 2);
      });
      return panel.sd ** 2 * sum;
    },
    cdf: (i, j, x) => {
      const score = (x - panel.mean) / panel.sd;
      let sum = 0;
      eachComponent(i, j, (weight, mean, variance) => {
        sum += weight * normalCdf((score - mean) / Math.sqrt(variance));
      });
      return sum;
    },
  };
}
