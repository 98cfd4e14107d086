/** All possible crosses in order of promise: an index of predicted traits, thresholds, and what the page needs beside. */
import { type BreedingModel, crossDistributions, summarise } from "./breeding-model.ts";
import { deriveGeometry } from "./geometry.ts";
import { SCORE_WEIGHTS, type TraitWeights } from "./grades.ts";
import { mixtureCdf, normalCdf } from "./normal.ts";
import { type SizeClass, sizeClassOf } from "./recommendation.ts";
import { sweepTrait, type TraitSweep } from "./sweep.ts";
import {
  FRUIT_TRAITS,
  type FruitTrait,
  fromScale,
  type GeneticStrain,
  MODEL_TRAITS,
  type ModelTrait,
  toScale,
} from "./traits.ts";

/** A wish for the raw value of a trait; either bound may be left out. */
export interface Threshold {
  trait: FruitTrait;
  min?: number;
  max?: number;
}

export const RANK_KEYS = ["index", "upper", "probability"] as const;
/**
 * index: Σ w·(M − Pm)/Ps. upper: index + 1.28 sd, which favours crosses that may be excellent over those that are surely
 * good. probability: P(all thresholds are met), traits taken as independent.
 */
export type RankKey = (typeof RANK_KEYS)[number];

export interface RankingRequest {
  /** Index weights per trait, in panel SD; negative favours small values. Default: those of the overall score. */
  weights?: TraitWeights;
  /** Filter on the predicted value; with rankBy "probability" nothing is filtered and the thresholds are the event. */
  thresholds?: readonly Threshold[];
  sizeClass?: SizeClass;
  /** Only crosses with at least one of these strains. */
  parentIds?: readonly string[];
  /** Leave out crosses that were already measured. */
  unrecordedOnly?: boolean;
  rankBy?: RankKey;
  offset?: number;
  limit?: number;
  /** Of the trial the intervals and probabilities are about; Infinity for the genetic value. Default 1. */
  replicates?: number;
  /** Intervals, confidence and probability of the returned rows. Default true; false for exports of everything. */
  details?: boolean;
}

export interface RankedTrait {
  value: number;
  lower?: number;
  upper?: number;
  confidence?: number;
}

/** One cross; `score` is what it was ranked by. */
export interface RankedCross {
  rank: number;
  motherId: string;
  fatherId: string;
  score: number;
  index: number;
  traits: Record<FruitTrait, RankedTrait>;
  sizeClass: SizeClass;
  recorded: boolean;
  /** P(thresholds met); only where thresholds are given and details are wanted. */
  probability?: number;
}

/** z of the 90 % quantile: "upper" is the value that one cross in ten exceeds. */
const Z90 = 1.2815515655446004;

/** Who can be mother of whom; null if neither order works. Mother first, the first strain where both orders do. */
export function matingOf(
  a: Pick<GeneticStrain, "id" | "type">,
  b: Pick<GeneticStrain, "id" | "type">,
): { motherId: string; fatherId: string } | null {
  const bears = (s: Pick<GeneticStrain, "type">) => s.type !== "male";
  const sires = (s: Pick<GeneticStrain, "type">) => s.type !== "female";
  if (bears(a) && sires(b)) return { motherId: a.id, fatherId: b.id };
  if (bears(b) && sires(a)) return { motherId: b.id, fatherId: a.id };
  return null;
}

/** Weights of the index on the standardised model traits: ln length and ln width are sums of ln weight, ln ratio, ln k. */
export function indexCoefficients(model: BreedingModel, weights: TraitWeights): Record<ModelTrait, number> {
  const { panels } = model;
  const length = (weights.length ?? 0) / panels.length.sd;
  const width = (weights.width ?? 0) / panels.width.sd;
  return {
    weight: (weights.weight ?? 0) + ((length + width) / 3) * panels.weight.sd,
    ratio: (weights.ratio ?? 0) + ((2 * length - width) / 3) * panels.ratio.sd,
    k: -((length + width) / 3) * panels.k.sd,
    sugarContent: weights.sugarContent ?? 0,
    firmness: weights.firmness ?? 0,
    skinThickness: weights.skinThickness ?? 0,
  };
}

/** Ranks every cross that the strains' types allow. Strains that the model was not fitted with are left out. */
export function rankCrosses(
  model: BreedingModel,
  allStrains: readonly GeneticStrain[],
  request: RankingRequest = {},
): { total: number; rows: RankedCross[] } {
  const {
    weights = SCORE_WEIGHTS,
    thresholds = [],
    rankBy = "index",
    replicates = 1,
    offset = 0,
    limit = 20,
  } = request;
  const strains = allStrains.filter((s) => model.fits.weight.index.has(s.id));
  const ids = strains.map((s) => s.id);
  const sweeps = Object.fromEntries(
    MODEL_TRAITS.map((trait) => [trait, sweepTrait(model.fits[trait], ids, replicates)]),
  ) as Record<ModelTrait, TraitSweep>;
  const wanted = request.parentIds ? new Set(request.parentIds) : null;
  const coefficients = indexCoefficients(model, weights);
  const weighed = FRUIT_TRAITS.filter((trait) => weights[trait]);

  const kept: { i: number; j: number; score: number; index: number }[] = [];
  for (const [i, a] of strains.entries()) {
    for (let j = i + 1; j < strains.length; j++) {
      const b = strains[j] as GeneticStrain;
      if (wanted && !wanted.has(a.id) && !wanted.has(b.id)) continue;
      if (!matingOf(a, b)) continue;
      if (request.unrecordedOnly && isRecorded(sweeps, i, j)) continue;
      const means = pairMeans(sweeps, i, j);
      if (request.sizeClass && sizeClassOf(Math.exp(means.weight)) !== request.sizeClass) continue;
      if (rankBy !== "probability" && !thresholds.every((t) => meets(t, fromScale(t.trait, means[t.trait])))) continue;
      let index = 0;
      for (const trait of weighed) {
        const panel = model.panels[trait];
        index += ((weights[trait] as number) * (means[trait] - panel.mean)) / panel.sd;
      }
      kept.push({ i, j, index, score: scoreOf(i, j, index) });
    }
  }
  // Crosses come in the order of the strains, and the sort is stable: ties keep that order.
  kept.sort((a, b) => b.score - a.score);

  const rows = kept.slice(offset, offset + limit).map((cross, at) => describeCross(cross, offset + at + 1));
  return { total: kept.length, rows };

  function scoreOf(i: number, j: number, index: number): number {
    if (rankBy === "index") return index;
    if (rankBy === "upper") return index + Z90 * Math.sqrt(indexVariance(i, j));
    return thresholds.reduce((product, t) => product * probabilityOf(t, i, j), 1);
  }

  function indexVariance(i: number, j: number): number {
    let sum = 0;
    for (const trait of MODEL_TRAITS) {
      const e = coefficients[trait] / model.panels[trait].sd;
      if (e !== 0) sum += e * e * sweeps[trait].variance(i, j);
    }
    return sum;
  }

  function probabilityOf({ trait, min, max }: Threshold, i: number, j: number): number {
    const cdf = (value: number) => {
      if (trait !== "length" && trait !== "width") return sweeps[trait].cdf(i, j, toScale(trait, value));
      const moments = (t: ModelTrait) => ({ mean: sweeps[t].mean(i, j), variance: sweeps[t].variance(i, j) });
      const { mean, variance } = deriveGeometry(moments("weight"), moments("ratio"), moments("k"), model.kappa)[trait];
      return normalCdf((toScale(trait, value) - mean) / Math.sqrt(variance));
    };
    return between(cdf, min, max);
  }

  function describeCross({ i, j, score, index }: (typeof kept)[number], rank: number): RankedCross {
    const a = strains[i] as GeneticStrain;
    const b = strains[j] as GeneticStrain;
    const mating = matingOf(a, b) ?? { motherId: a.id, fatherId: b.id };
    const row = { rank, ...mating, score, index, recorded: isRecorded(sweeps, i, j) };
    if (request.details === false) {
      const means = pairMeans(sweeps, i, j);
      const traits = mapTraits((trait): RankedTrait => ({ value: Math.max(0, fromScale(trait, means[trait])) }));
      return { ...row, traits, sizeClass: sizeClassOf(traits.weight.value) };
    }
    const distributions = crossDistributions(model, a, b, { replicates });
    const traits = mapTraits((trait): RankedTrait => {
      const { value, interval, confidence } = summarise(model, trait, distributions[trait]);
      return { value, lower: interval.lower, upper: interval.upper, confidence };
    });
    const described = { ...row, traits, sizeClass: sizeClassOf(traits.weight.value) };
    if (thresholds.length === 0) return described;
    const probability = thresholds.reduce((product, { trait, min, max }) => {
      const cdf = (value: number) => mixtureCdf(distributions[trait].mixture, toScale(trait, value));
      return product * between(cdf, min, max);
    }, 1);
    return { ...described, probability };
  }
}

const isRecorded = (sweeps: Record<ModelTrait, TraitSweep>, i: number, j: number): boolean =>
  MODEL_TRAITS.some((trait) => sweeps[trait].recorded(i, j));

/** P(min ≤ X ≤ max); ln traits have no value at or below 0. */
const between = (cdf: (value: number) => number, min: number | undefined, max: number | undefined): number =>
  Math.max(0, (max === undefined ? 1 : cdf(max)) - (min === undefined ? 0 : cdf(min)));

const meets = ({ min, max }: Threshold, value: number): boolean =>
  (min === undefined || value >= min) && (max === undefined || value <= max);

/** Predicted means on the analysis scale. */
function pairMeans(sweeps: Record<ModelTrait, TraitSweep>, i: number, j: number): Record<FruitTrait, number> {
  const weight = sweeps.weight.mean(i, j);
  const ratio = sweeps.ratio.mean(i, j);
  const width = (weight - sweeps.k.mean(i, j) - ratio) / 3;
  return {
    weight,
    ratio,
    width,
    length: ratio + width,
    sugarContent: sweeps.sugarContent.mean(i, j),
    firmness: sweeps.firmness.mean(i, j),
    skinThickness: sweeps.skinThickness.mean(i, j),
  };
}

const mapTraits = <T>(of: (trait: FruitTrait) => T): Record<FruitTrait, T> =>
  Object.fromEntries(FRUIT_TRAITS.map((trait) => [trait, of(trait)])) as Record<FruitTrait, T>;
