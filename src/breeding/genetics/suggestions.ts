/**
 * Which crosses to make next: those whose trial would teach most about the best candidates.
 *
 * A trial of C lowers the variance of goal G by (v_G·v_C)²/(v_C·v_C + φσε² + (1 − φ)σε²/n), averaged over the posterior
 * (v = L⁻¹t). Crosses are picked one after another, each given those before it, so that a list does not ask the same
 * question twice.
 */
import type { BreedingModel } from "./breeding-model.ts";
import { SCORE_WEIGHTS, type TraitWeights } from "./grades.ts";
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
import { indexCoefficients, matingOf, type RankingRequest, rankCrosses } from "./ranking.ts";
import { additiveMoments, type SweepStrain, sweepStrains } from "./sweep.ts";
import { type GeneticStrain, MODEL_TRAITS } from "./traits.ts";

export interface SuggestionRequest {
  /** Crosses to suggest. Default 5. */
  count?: number;
  /** The best this many crosses by upper index are the goals. Default 20. */
  goals?: number;
  weights?: TraitWeights;
  /** Filters of the goals. */
  thresholds?: RankingRequest["thresholds"];
  sizeClass?: RankingRequest["sizeClass"];
  /** Replicates of the planned trial. Default 1. */
  replicates?: number;
}

export interface SuggestedCross {
  motherId: string;
  fatherId: string;
  /** Expected reduction of the goals' summed index variance, given the crosses suggested before it. */
  gain: number;
  /** `gain` as a share of that variance before any suggestion. */
  share: number;
}

/** Posterior components considered per trait, the heaviest first; their weights are scaled to sum to 1. */
const MAX_COMPONENTS = 4;

interface Goal {
  i: number;
  j: number;
  /** Share of the additive part in what is still unknown: 1, less once the cross itself has been tried. */
  open: number;
}

/** One trait under one component: its share of the index variance and what the picks so far have taught. */
interface Lens {
  fit: TraitFit;
  component: PosteriorComponent;
  strains: SweepStrain[];
  /** ω·e², with e the index weight of the trait. */
  importance: number;
  /** Σt of each goal over (c, β, δ, g of every strain), under the picks so far. */
  goalColumns: Float64Array[];
  picks: { column: Float64Array; variance: number }[];
}

/** Picks crosses greedily; recorded crosses are not suggested again. */
export function suggestCrosses(
  model: BreedingModel,
  allStrains: readonly GeneticStrain[],
  request: SuggestionRequest = {},
): SuggestedCross[] {
  const { count = 5, weights = SCORE_WEIGHTS, replicates = 1 } = request;
  const strains = allStrains.filter((s) => model.fits.weight.index.has(s.id));
  const position = new Map(strains.map((s, i) => [s.id, i]));
  const { thresholds, sizeClass, goals: goalCount = 20 } = request;
  const best = rankCrosses(model, strains, {
    weights,
    thresholds,
    sizeClass,
    rankBy: "upper",
    limit: goalCount,
    details: false,
  });
  const pairs = best.rows.map((row) => ({ i: position.get(row.motherId) ?? 0, j: position.get(row.fatherId) ?? 0 }));
  const lenses = makeLenses(model, strains, weights, pairs);
  if (pairs.length === 0 || lenses.length === 0) return [];

  const openShares = lenses.map(({ fit, strains: s }) =>
    pairs.map(({ i, j }): Goal => ({ i, j, open: 1 - scaShare(fit.prior.phi, recordedReplicates(fit, s, i, j)) })),
  );
  const before = totalVariance(lenses, openShares);
  const heap = candidates(strains, model).map((pair) => ({ ...pair, gain: gainOf(pair.i, pair.j) }));
  heap.sort((a, b) => b.gain - a.gain);

  const suggestions: SuggestedCross[] = [];
  while (suggestions.length < count && heap.length > 0) {
    // What is already planned only takes from a candidate's gain, so the list is re-evaluated from the top until the
    // best fresh figure beats the next stale one.
    let fresh = 0;
    if (suggestions.length > 0) {
      for (let bestFresh = Number.NEGATIVE_INFINITY; fresh < heap.length; fresh++) {
        const candidate = heap[fresh] as (typeof heap)[number];
        if (candidate.gain < bestFresh) break;
        candidate.gain = gainOf(candidate.i, candidate.j);
        bestFresh = Math.max(bestFresh, candidate.gain);
      }
      heap.sort((a, b) => b.gain - a.gain);
    }
    const pick = heap.shift() as (typeof heap)[number];
    const mating = matingOf(strains[pick.i] as GeneticStrain, strains[pick.j] as GeneticStrain);
    if (mating) suggestions.push({ ...mating, gain: pick.gain, share: before > 0 ? pick.gain / before : 0 });
    learn(pick.i, pick.j);
  }
  return suggestions;

  function gainOf(i: number, j: number): number {
    let gain = 0;
    for (const [at, lens] of lenses.entries()) {
      const { fit, component: c } = lens;
      const { m, d } = scores(lens, i, j);
      const own = fit.prior.phi * c.se2;
      const variance = trialVariance(lens, i, j, replicates);
      let squares = 0;
      for (const [g, goal] of (openShares[at] as Goal[]).entries()) {
        const isGoal = (goal.i === i && goal.j === j) || (goal.i === j && goal.j === i);
        const shared = goal.open * along(lens.goalColumns[g] as Float64Array, i, j, m, d) + (isGoal ? own : 0);
        squares += shared * shared;
      }
      gain += (lens.importance * squares) / variance;
    }
    return gain;
  }

  function learn(i: number, j: number): void {
    for (const [at, lens] of lenses.entries()) {
      const variance = trialVariance(lens, i, j, replicates);
      const column = columnOf(lens, i, j);
      for (const [g, goal] of (openShares[at] as Goal[]).entries()) {
        const { m, d } = scores(lens, goal.i, goal.j);
        const goalColumn = lens.goalColumns[g] as Float64Array;
        const factor = along(column, goal.i, goal.j, m, d) / variance;
        for (let k = 0; k < column.length; k++)
          goalColumn[k] = (goalColumn[k] as number) - factor * (column[k] as number);
        const isGoal = (goal.i === i && goal.j === j) || (goal.i === j && goal.j === i);
        if (isGoal) goal.open = 1 - scaShare(lens.fit.prior.phi, replicates);
      }
      lens.picks.push({ column, variance });
    }
  }
}

function makeLenses(
  model: BreedingModel,
  strains: readonly GeneticStrain[],
  weights: TraitWeights,
  goals: readonly { i: number; j: number }[],
): Lens[] {
  const coefficients = indexCoefficients(model, weights);
  const ids = strains.map((s) => s.id);
  return MODEL_TRAITS.filter((trait) => coefficients[trait] !== 0).flatMap((trait) => {
    const fit = model.fits[trait];
    const heaviest = [...fit.components].sort((a, b) => b.weight - a.weight).slice(0, MAX_COMPONENTS);
    const total = heaviest.reduce((sum, c) => sum + c.weight, 0);
    const columns = sweepStrains(fit, ids);
    return heaviest.map((component): Lens => {
      const importance = (coefficients[trait] ** 2 * component.weight) / total;
      const lens: Lens = { fit, component, strains: columns, importance, goalColumns: [], picks: [] };
      for (const { i, j } of goals) lens.goalColumns.push(columnOf(lens, i, j));
      return lens;
    });
  });
}

function scores(lens: Lens, i: number, j: number) {
  return midParent((lens.strains[i] as SweepStrain).z, (lens.strains[j] as SweepStrain).z);
}

/** t′x for the design row of pair (i, j). */
function along(x: Float64Array, i: number, j: number, m: number, d: number): number {
  return (
    (x[0] as number) +
    m * (x[1] as number) +
    d * (x[2] as number) +
    (x[FIRST_G + i] as number) +
    (x[FIRST_G + j] as number)
  );
}

/** Σt of pair (i, j) under the picks so far; a strain that was never crossed is a column of its own. */
function columnOf(lens: Lens, i: number, j: number): Float64Array {
  const { fit, component: c, strains } = lens;
  const { m, d } = scores(lens, i, j);
  const own = [strains[i] as SweepStrain, strains[j] as SweepStrain];
  const sigmaTimes = (row: number) => {
    let sum =
      (c.sigma[packed(row, 0)] as number) +
      m * (c.sigma[packed(row, 1)] as number) +
      d * (c.sigma[packed(row, 2)] as number);
    for (const { column } of own) if (column >= 0) sum += c.sigma[packed(row, FIRST_G + column)] as number;
    return sum;
  };
  const out = new Float64Array(FIRST_G + strains.length);
  for (let k = 0; k < FIRST_G; k++) out[k] = sigmaTimes(k);
  for (const [s, strain] of strains.entries()) {
    if (strain.column >= 0) out[FIRST_G + s] = sigmaTimes(FIRST_G + strain.column);
    else if (s === i || s === j) {
      out[FIRST_G + s] = c.sg2 + (Number.isNaN(strain.z) ? unknownVariance(fit.prior) : 0);
    }
  }
  for (const pick of lens.picks) {
    const factor = along(pick.column, i, j, m, d) / pick.variance;
    for (let k = 0; k < out.length; k++) out[k] = (out[k] as number) - factor * (pick.column[k] as number);
  }
  return out;
}

/** Variance of a trial mean of pair (i, j): additive part under the picks so far, SCA and error. */
function trialVariance(lens: Lens, i: number, j: number, replicates: number): number {
  const { fit, component: c, strains } = lens;
  const { m, d } = scores(lens, i, j);
  let { variance } = additiveMoments(fit, c, strains[i] as SweepStrain, strains[j] as SweepStrain, m, d);
  for (const pick of lens.picks) variance -= along(pick.column, i, j, m, d) ** 2 / pick.variance;
  return Math.max(variance, 0) + fit.prior.phi * c.se2 + ((1 - fit.prior.phi) * c.se2) / replicates;
}

function recordedReplicates(fit: TraitFit, strains: readonly SweepStrain[], i: number, j: number): number {
  const [a, b] = [strains[i] as SweepStrain, strains[j] as SweepStrain];
  return fit.records.get(pairKey(a.index, b.index, fit.ids.length))?.n ?? 0;
}

/** Σ over goals of the index variance of their genetic value. */
function totalVariance(lenses: readonly Lens[], openShares: readonly Goal[][]): number {
  let sum = 0;
  for (const [at, lens] of lenses.entries()) {
    for (const goal of openShares[at] as Goal[]) {
      const { m, d } = scores(lens, goal.i, goal.j);
      const [a, b] = [lens.strains[goal.i] as SweepStrain, lens.strains[goal.j] as SweepStrain];
      const { variance } = additiveMoments(lens.fit, lens.component, a, b, m, d);
      sum += lens.importance * (goal.open ** 2 * variance + goal.open * lens.fit.prior.phi * lens.component.se2);
    }
  }
  return sum;
}

/** Pairs that may be crossed and were not. */
function candidates(strains: readonly GeneticStrain[], model: BreedingModel): { i: number; j: number }[] {
  const out: { i: number; j: number }[] = [];
  const fits = MODEL_TRAITS.map((trait) => model.fits[trait]);
  for (const [i, a] of strains.entries()) {
    for (let j = i + 1; j < strains.length; j++) {
      const b = strains[j] as GeneticStrain;
      if (!matingOf(a, b)) continue;
      const tried = fits.some((fit) => {
        const key = pairKey(fit.index.get(a.id) ?? -1, fit.index.get(b.id) ?? -1, fit.ids.length);
        return fit.records.has(key);
      });
      if (!tried) out.push({ i, j });
    }
  }
  return out;
}
