/** Grades 1 to 5 are quintiles of the strain panel on the raw scale; the overall score is their expectation. */
import { quantile } from "./panel.ts";
import { FRUIT_TRAITS, type FruitTrait, toScale } from "./traits.ts";

/** The 20, 40, 60 and 80 % quantiles of a trait over the strains. */
export type Cuts = readonly [number, number, number, number];

export type Grade = 1 | 2 | 3 | 4 | 5;

/** Quintiles of 192 tomato lines, used while fewer than 15 strains have the trait. */
export const FROZEN_CUTS: Record<FruitTrait, Cuts> = {
  weight: [26.552, 45.02, 69.172, 107.116],
  length: [35.822, 42.418, 46.872, 53.1],
  width: [33.514, 41.486, 50.85, 61.532],
  ratio: [0.789, 0.853, 0.947, 1.21],
  sugarContent: [3.5, 4.1, 4.7, 5.28],
  firmness: [0.51, 0.58, 0.65, 0.71],
  skinThickness: [3.5, 4.5, 5.5, 6.5],
};

const MIN_STRAINS = 15;

/** Quintile cuts from the known raw values of the strains. */
export function cutsOf(values: readonly number[], trait: FruitTrait): Cuts {
  if (values.length < MIN_STRAINS) return FROZEN_CUTS[trait];
  const sorted = [...values].sort((a, b) => a - b);
  return [quantile(sorted, 0.2), quantile(sorted, 0.4), quantile(sorted, 0.6), quantile(sorted, 0.8)];
}

/** 1 + number of cuts at or below the raw value. Tied cuts skip a grade. */
export const gradeOf = (value: number, cuts: Cuts): Grade => (1 + cuts.filter((cut) => cut <= value).length) as Grade;

/** E[grade] = 1 + Σ(1 − F(g(cut))) for a distribution function F on the analysis scale. */
export const expectedGrade = (trait: FruitTrait, cuts: Cuts, cdf: (x: number) => number): number =>
  cuts.reduce((grade, cut) => grade + 1 - cdf(toScale(trait, cut)), 1);

export type TraitWeights = Partial<Record<FruitTrait, number>>;

/** What the overall score counts (judgement). */
export const SCORE_WEIGHTS: TraitWeights = { weight: 0.25, length: 0.1, sugarContent: 0.35, firmness: 0.3 };

/** Weighted mean of expected grades, 0 to 5, one decimal. Traits without a prediction are left out. */
export function overallScore(
  grades: Partial<Record<FruitTrait, number>>,
  weights: TraitWeights = SCORE_WEIGHTS,
): number {
  let sum = 0;
  let total = 0;
  for (const trait of FRUIT_TRAITS) {
    const grade = grades[trait];
    const weight = weights[trait] ?? 0;
    if (grade === undefined) continue;
    sum += weight * grade;
    total += weight;
  }
  const score = total > 0 ? sum / total : 0;
  return Math.round(Math.min(5, Math.max(0, score)) * 10) / 10;
}
