/** How good the model is on data with known answers: hold crosses out, predict them, compare. */
import { type CrossRecord, fitTrait, type ParentValue, predictTrait } from "./model.ts";
import { mixtureMass, mixtureMean, mixtureQuantile } from "./normal.ts";
import { correlation, meanAndSd, type Panel } from "./panel.ts";
import type { TraitPrior, VarianceGrid } from "./priors.ts";

/**
 * LOCO: one cross out. LOPO: all crosses of one parent out, its own phenotype stays known. L2PO: one cross out and no
 * training cross shares a parent with it.
 */
export const SCHEMES = ["LOCO", "LOPO", "L2PO"] as const;
export type Scheme = (typeof SCHEMES)[number];

/** LOPO and L2PO folds with fewer training crosses are skipped. */
const MIN_TRAINING = 4;

/** One held-out cross: what was measured and what was predicted before seeing it, on the analysis scale. */
export interface HeldOut {
  a: string;
  b: string;
  observed: number;
  predicted: number;
  interval80: [number, number];
  interval95: [number, number];
  confidence: number;
  hit: boolean;
}

/** Predicts every cross that the scheme holds out. Crosses must be pooled: one record per unordered pair. */
export function crossValidate(input: {
  scheme: Scheme;
  prior: TraitPrior;
  grid: VarianceGrid;
  panel: Panel;
  parents: readonly ParentValue[];
  crosses: readonly CrossRecord[];
}): HeldOut[] {
  const values = new Map(input.parents.map((p) => [p.id, p.value]));
  const parent = (id: string): ParentValue => ({ id, value: values.get(id) ?? null });
  const tolerance = input.prior.tol * input.panel.sd;
  return foldsOf(input.scheme, input.crosses).flatMap(({ test, train }) => {
    const fit = fitTrait({ ...input, strains: input.parents, crosses: train });
    return test.map(({ a, b, y }): HeldOut => {
      const { mixture } = predictTrait(fit, parent(a), parent(b));
      const predicted = mixtureMean(mixture);
      const q = (p: number) => mixtureQuantile(mixture, p);
      return {
        a,
        b,
        observed: y,
        predicted,
        interval80: [q(0.1), q(0.9)],
        interval95: [q(0.025), q(0.975)],
        confidence: mixtureMass(mixture, tolerance),
        hit: Math.abs(y - predicted) <= tolerance,
      };
    });
  });
}

interface Fold {
  test: readonly CrossRecord[];
  train: readonly CrossRecord[];
}

function foldsOf(scheme: Scheme, crosses: readonly CrossRecord[]): Fold[] {
  const involves = (cross: CrossRecord, ...ids: string[]) => ids.includes(cross.a) || ids.includes(cross.b);
  switch (scheme) {
    case "LOCO":
      return crosses.map((held) => ({ test: [held], train: crosses.filter((c) => c !== held) }));
    case "LOPO":
      return [...new Set(crosses.flatMap((c) => [c.a, c.b]))]
        .map((id) => ({ test: crosses.filter((c) => involves(c, id)), train: crosses.filter((c) => !involves(c, id)) }))
        .filter((fold) => fold.train.length >= MIN_TRAINING);
    case "L2PO":
      return crosses
        .map((held) => ({ test: [held], train: crosses.filter((c) => !involves(c, held.a, held.b)) }))
        .filter((fold) => fold.train.length >= MIN_TRAINING);
  }
}

/** Accuracy and calibration over rows; a figure that the rows cannot give is null. */
export interface Accuracy {
  /** Held-out predictions. */
  n: number;
  /** Pearson correlation of predicted and observed. */
  r: number | null;
  /** RMSE / sample SD of the observed values. */
  nRMSE: number | null;
  /** Shares of observed values inside the central 80 % and 95 % intervals. */
  cov80: number | null;
  cov95: number | null;
  /** Stated and observed share of values within `tol` panel SD of the prediction. */
  meanConfidence: number | null;
  hitRate: number | null;
}

/** Accuracy of the held-out predictions of one trait, pooled over folds. */
export function accuracyOf(rows: readonly HeldOut[]): Accuracy {
  const n = rows.length;
  const share = (of: (row: HeldOut) => boolean | number) =>
    n === 0 ? null : rows.reduce((sum, row) => sum + Number(of(row)), 0) / n;
  const observed = rows.map((row) => row.observed);
  const { sd } = n > 1 ? meanAndSd(observed) : { sd: 0 };
  const meanSquare = share((row) => (row.observed - row.predicted) ** 2);
  const within = (row: HeldOut, [low, high]: [number, number]) => low <= row.observed && row.observed <= high;
  return {
    n,
    r: correlation(
      rows.map((row) => row.predicted),
      observed,
    ),
    nRMSE: meanSquare !== null && sd > 0 ? Math.sqrt(meanSquare) / sd : null,
    cov80: share((row) => within(row, row.interval80)),
    cov95: share((row) => within(row, row.interval95)),
    meanConfidence: share((row) => row.confidence),
    hitRate: share((row) => row.hit),
  };
}

/** The plain mean of each figure over the traits that have it; `n` is the sum. */
export function meanAccuracy(traits: readonly Accuracy[]): Accuracy {
  const mean = (key: Exclude<keyof Accuracy, "n">) => {
    const values = traits.map((t) => t[key]).filter((v) => v !== null);
    return values.length === 0 ? null : values.reduce((sum, v) => sum + v, 0) / values.length;
  };
  return {
    n: traits.reduce((sum, t) => sum + t.n, 0),
    r: mean("r"),
    nRMSE: mean("nRMSE"),
    cov80: mean("cov80"),
    cov95: mean("cov95"),
    meanConfidence: mean("meanConfidence"),
    hitRate: mean("hitRate"),
  };
}
