/**
 * The mixed model of one trait: y_ij = c + β·m + δ·d + g_i + g_j + s_ij + ē on the panel's standardised scale.
 *
 * Fitting walks a fixed grid of (σg², σε²), computes each pair's exact marginal likelihood and keeps the pairs that
 * matter as components of a mixture. A component stores the posterior mean θ and covariance Σ of (c, β, δ, g…), so a
 * prediction is a handful of table look-ups whatever the number of records. No I/O, no clock, no randomness.
 */
import { backSubstitute, choleskyInPlace, forwardSubstitute, inverseFromCholesky, packed } from "./linear-algebra.ts";
import type { Mixture } from "./normal.ts";
import type { Panel } from "./panel.ts";
import type { TraitPrior, VarianceGrid } from "./priors.ts";

/** A strain and its value on the analysis scale, or null if it was never measured. */
export interface ParentValue {
  id: string;
  value: number | null;
}

/** The mean of `n` replicates of an F1 on the analysis scale; the order of the parents carries no meaning. */
export interface CrossRecord {
  a: string;
  b: string;
  y: number;
  n: number;
}

/** One (σg², σε²) of the posterior: mean and packed covariance of (c, β, δ, g of each crossed strain). */
export interface PosteriorComponent {
  weight: number;
  sg2: number;
  se2: number;
  theta: Float64Array;
  sigma: Float64Array;
}

/** A fitted trait. Strains are addressed by index; `column` is a strain's place among the g, −1 if never crossed. */
export interface TraitFit {
  prior: TraitPrior;
  panel: Panel;
  ids: readonly string[];
  index: ReadonlyMap<string, number>;
  /** Parent scores, NaN where the trait is unknown. */
  z: Float64Array;
  column: Int32Array;
  /** Standardised mean and replicates of each recorded cross, by {@link pairKey}. */
  records: ReadonlyMap<number, { y: number; n: number }>;
  components: readonly PosteriorComponent[];
}

/** Components below this share of the posterior are dropped. */
const NEGLIGIBLE = 0.001;

/** Index of the first g among the parameters (after c, β, δ). */
export const FIRST_G = 3;

/** Key of an unordered pair of strain indices. */
export const pairKey = (i: number, j: number, strains: number): number => (i <= j ? i * strains + j : j * strains + i);

/** Extra variance of g for a parent whose trait is unknown: a standard normal score times β/2. */
export const unknownVariance = (prior: TraitPrior): number => (prior.b0 ** 2 + prior.tb ** 2) / 4;

/**
 * Fits one trait.
 *
 * @param strains every strain of the panel, crossed or not; a parent that only occurs in `crosses` has no phenotype
 * @param crosses any number of records; repeats and reciprocals are pooled, y = Σn·y/Σn
 */
export function fitTrait(input: {
  prior: TraitPrior;
  grid: VarianceGrid;
  panel: Panel;
  strains: readonly ParentValue[];
  crosses: readonly CrossRecord[];
}): TraitFit {
  const { prior, grid, panel } = input;
  const values = new Map(input.strains.map((s) => [s.id, s.value]));
  for (const cross of input.crosses) {
    for (const id of [cross.a, cross.b]) if (!values.has(id)) values.set(id, null);
  }
  const ids = [...values.keys()];
  const index = new Map(ids.map((id, i) => [id, i]));
  const z = Float64Array.from(values.values(), (v) => (v === null ? Number.NaN : (v - panel.mean) / panel.sd));
  const records = poolRecords(input.crosses, index, panel);
  const column = new Int32Array(ids.length).fill(-1);
  let crossed = 0;
  for (const key of records.keys()) {
    for (const strain of [Math.floor(key / ids.length), key % ids.length]) {
      if (column[strain] === -1) column[strain] = crossed++;
    }
  }
  const components = posterior(prior, grid, z, column, crossed, records);
  return { prior, panel, ids, index, z, column, records, components };
}

function poolRecords(crosses: readonly CrossRecord[], index: ReadonlyMap<string, number>, panel: Panel) {
  const records = new Map<number, { y: number; n: number }>();
  for (const { a, b, y, n } of crosses) {
    const key = pairKey(index.get(a) ?? 0, index.get(b) ?? 0, index.size);
    const score = (y - panel.mean) / panel.sd;
    const seen = records.get(key);
    if (seen) {
      seen.y = (seen.n * seen.y + n * score) / (seen.n + n);
      seen.n += n;
    } else {
      records.set(key, { y: score, n });
    }
  }
  return records;
}

/** Mid-parent and half-difference of two standardised scores; an unknown score (NaN) is 0 and makes the difference 0. */
export function midParent(zi: number, zj: number): { m: number; d: number } {
  const knownI = !Number.isNaN(zi);
  const knownJ = !Number.isNaN(zj);
  return { m: ((knownI ? zi : 0) + (knownJ ? zj : 0)) / 2, d: knownI && knownJ ? Math.abs(zi - zj) / 2 : 0 };
}

function posterior(
  prior: TraitPrior,
  grid: VarianceGrid,
  z: Float64Array,
  column: Int32Array,
  crossed: number,
  records: ReadonlyMap<number, { y: number; n: number }>,
): PosteriorComponent[] {
  const p = FIRST_G + crossed;
  const { s, h, q, logWeight } = sufficientStatistics(prior, p, z, column, records);
  const extra = new Float64Array(crossed);
  for (const [strain, at] of column.entries())
    if (at >= 0 && Number.isNaN(z[strain])) extra[at] = unknownVariance(prior);

  const a = new Float64Array(p * p);
  const factor = (sg2: number, se2: number) => {
    const u = new Float64Array(p);
    for (let i = 0; i < a.length; i++) a[i] = (s[i] as number) / se2;
    let logPrecision = 0;
    for (let i = 0; i < p; i++) {
      const variance =
        i >= FIRST_G ? sg2 + (extra[i - FIRST_G] as number) : ([prior.th, prior.tb, prior.td][i] as number) ** 2;
      a[i * p + i] = (a[i * p + i] as number) + 1 / variance;
      logPrecision -= Math.log(variance);
      u[i] = (h[i] as number) / se2;
    }
    const sound = choleskyInPlace(a, p);
    forwardSubstitute(a, p, u);
    return { u, logPrecision, sound };
  };

  const scored: { sg2: number; se2: number; score: number }[] = [];
  for (const sg2 of grid.sg2) {
    for (const se2 of grid.se2) {
      const { u, logPrecision, sound } = factor(sg2, se2);
      if (!sound) continue;
      let logDiagonal = 0;
      let fitted = 0;
      for (let i = 0; i < p; i++) {
        logDiagonal += Math.log(a[i * p + i] as number);
        fitted += (u[i] as number) ** 2;
      }
      const logLikelihood =
        -0.5 * (records.size * Math.log(se2) - logWeight + 2 * logDiagonal - logPrecision + q / se2 - fitted);
      const logPrior =
        -0.5 * ((Math.log(sg2) - prior.lg_mu) / prior.lg_sd) ** 2 -
        0.5 * ((Math.log(se2) - prior.le_mu) / prior.le_sd) ** 2;
      scored.push({ sg2, se2, score: logLikelihood + logPrior });
    }
  }

  return keepWeighty(scored).map(({ sg2, se2, weight }) => {
    // Factored a second time, for the few that are kept, instead of holding every factor in memory.
    const { u: theta } = factor(sg2, se2);
    backSubstitute(a, p, theta);
    for (const [i, b] of [prior.h0, prior.b0, prior.d0].entries()) theta[i] = (theta[i] as number) + b;
    return { weight, sg2, se2, theta, sigma: inverseFromCholesky(a, p) };
  });
}

/** S = TᵀWT (row-major, lower triangle), h = TᵀWr, Q = rᵀWr and Σ ln w over the records. */
function sufficientStatistics(
  prior: TraitPrior,
  p: number,
  z: Float64Array,
  column: Int32Array,
  records: ReadonlyMap<number, { y: number; n: number }>,
) {
  const s = new Float64Array(p * p);
  const h = new Float64Array(p);
  let q = 0;
  let logWeight = 0;
  const strains = z.length;
  for (const [key, { y, n }] of records) {
    const i = Math.floor(key / strains);
    const j = key % strains;
    const { m, d } = midParent(z[i] as number, z[j] as number);
    const residual = y - (prior.h0 + prior.b0 * m + prior.d0 * d);
    const w = 1 / (prior.phi + (1 - prior.phi) / n);
    const gi = FIRST_G + (column[i] as number);
    const gj = FIRST_G + (column[j] as number);
    // A selfed line appears twice in the incidence.
    const row: [number, number][] = [
      [0, 1],
      [1, m],
      [2, d],
      ...(gi === gj
        ? [[gi, 2]]
        : [
            [gi, 1],
            [gj, 1],
          ]),
    ] as [number, number][];
    for (const [a, ta] of row) {
      h[a] = (h[a] as number) + w * ta * residual;
      for (const [b, tb] of row) if (b <= a) s[a * p + b] = (s[a * p + b] as number) + w * ta * tb;
    }
    q += w * residual ** 2;
    logWeight += Math.log(w);
  }
  return { s, h, q, logWeight };
}

function keepWeighty<T extends { score: number }>(scored: readonly T[]): (T & { weight: number })[] {
  const best = scored.reduce((max, c) => Math.max(max, c.score), Number.NEGATIVE_INFINITY);
  const normalise = (all: (T & { weight: number })[]) => {
    const total = all.reduce((sum, c) => sum + c.weight, 0);
    return all.map((c) => ({ ...c, weight: c.weight / total }));
  };
  const weighted = normalise(scored.map((c) => ({ ...c, weight: Math.exp(c.score - best) })));
  return normalise(weighted.filter((c) => c.weight > NEGLIGIBLE));
}

/** What a parent contributes to a design row: its score (NaN if unknown) and its place among the g. */
interface DesignParent {
  z: number;
  column: number;
  index: number;
}

/** The fit's own copy of a phenotype wins, so a prediction follows from the stored fit alone; strangers bring theirs. */
function designParent(fit: TraitFit, parent: ParentValue): DesignParent {
  const index = fit.index.get(parent.id) ?? -1;
  if (index >= 0) return { z: fit.z[index] as number, column: fit.column[index] as number, index };
  return { z: parent.value === null ? Number.NaN : (parent.value - fit.panel.mean) / fit.panel.sd, column: -1, index };
}

/** What a trait's prediction for one cross rests on. */
export type Basis = "observed" | "gca" | "parents" | "prior";

/** Order of {@link Basis} from the weakest to the strongest ground. */
export const BASIS_ORDER: readonly Basis[] = ["prior", "parents", "gca", "observed"];

/** The predictive distribution of a cross for one trait, on the analysis scale. */
export interface TraitPrediction {
  mixture: Mixture;
  basis: Basis;
}

/**
 * Predicts the mean of a trial of the F1 of two parents.
 *
 * @param replicates of the trial that is predicted (default 1); Infinity describes the genetic value itself
 */
export function predictTrait(
  fit: TraitFit,
  a: ParentValue,
  b: ParentValue,
  { replicates = 1 }: { replicates?: number } = {},
): TraitPrediction {
  const { prior, panel } = fit;
  // One order of summation for both directions, so that i×j and j×i agree to the last bit.
  const [i, j] = (a.id <= b.id ? [a, b] : [b, a]).map((p) => designParent(fit, p)) as [DesignParent, DesignParent];
  const selfed = a.id === b.id;
  const { m, d } = midParent(i.z, j.z);
  const record = i.index >= 0 && j.index >= 0 ? fit.records.get(pairKey(i.index, j.index, fit.ids.length)) : undefined;

  const row: { at: number; t: number }[] = [
    { at: 0, t: 1 },
    { at: 1, t: m },
    { at: 2, t: d },
  ];
  const outside: { copies: number; extra: number }[] = [];
  for (const parent of selfed ? [i] : [i, j]) {
    const copies = selfed ? 2 : 1;
    if (parent.column >= 0) row.push({ at: FIRST_G + parent.column, t: copies });
    else outside.push({ copies, extra: Number.isNaN(parent.z) ? unknownVariance(prior) : 0 });
  }

  const mixture = fit.components.map((c) => {
    let mean = 0;
    let variance = 0;
    for (const r of row) {
      mean += r.t * (c.theta[r.at] as number);
      for (const s of row) variance += r.t * s.t * (c.sigma[packed(r.at, s.at)] as number);
    }
    for (const { copies, extra } of outside) variance += copies ** 2 * (c.sg2 + extra);
    const known = withSca({ mean, variance: Math.max(variance, 0) }, prior.phi, c.se2, record);
    return {
      weight: c.weight,
      mean: panel.mean + panel.sd * known.mean,
      variance: panel.sd ** 2 * (known.variance + ((1 - prior.phi) * c.se2) / replicates),
    };
  });
  return { mixture, basis: basisOf(i, j, record !== undefined) };
}

/** Share of a recorded mean's deviation that is SCA and not error: φ/(φ + (1 − φ)/n). */
export const scaShare = (phi: number, n: number): number => (phi === 0 ? 0 : phi / (phi + (1 - phi) / n));

/** Adds the cross's own SCA to mean and variance of its additive part, using its record where there is one. */
export function withSca(
  additive: { mean: number; variance: number },
  phi: number,
  se2: number,
  record: { y: number; n: number } | undefined,
): { mean: number; variance: number } {
  const rho = record ? scaShare(phi, record.n) : 0;
  return {
    mean: additive.mean + rho * ((record?.y ?? 0) - additive.mean),
    variance: (1 - rho) ** 2 * additive.variance + phi * se2 * (1 - rho),
  };
}

function basisOf(i: DesignParent, j: DesignParent, recorded: boolean): Basis {
  if (recorded) return "observed";
  if (i.column >= 0 || j.column >= 0) return "gca";
  return Number.isNaN(i.z) || Number.isNaN(j.z) ? "prior" : "parents";
}
