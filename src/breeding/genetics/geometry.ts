/**
 * Weight, length and width of one fruit obey weight = k·length·width², so length and width are derived from the
 * predictions of weight, ratio and k and can never contradict them.
 */
import { correlation } from "./panel.ts";

/** Correlation of ln weight and ln ratio in 192 tomato lines: bigger fruit are flatter. */
export const FALLBACK_KAPPA = -0.46;

/** With fewer strains a correlation says too little. */
const MIN_STRAINS = 15;

/** A distribution on the analysis scale, summarised. */
export interface Moments {
  mean: number;
  variance: number;
}

/** κ: correlation of ln weight and ln ratio over the strains that have both, if there are enough. */
export function weightRatioCorrelation(parents: readonly { weight: number | null; ratio: number | null }[]): number {
  const both = parents.flatMap(({ weight, ratio }) => (weight === null || ratio === null ? [] : [{ weight, ratio }]));
  if (both.length < MIN_STRAINS) return FALLBACK_KAPPA;
  return (
    correlation(
      both.map((p) => p.weight),
      both.map((p) => p.ratio),
    ) ?? FALLBACK_KAPPA
  );
}

/**
 * ln length and ln width (mm) from ln weight (g), ln ratio and ln k (g/mm³), all as mean and variance:
 * width = (weight/(k·ratio))^⅓, length = ratio·width, first-order variances with C = κ·√(Vw·Vr).
 */
export function deriveGeometry(
  weight: Moments,
  ratio: Moments,
  k: Moments,
  kappa: number,
): { length: Moments; width: Moments } {
  const width = (weight.mean - k.mean - ratio.mean) / 3;
  const covariance = kappa * Math.sqrt(weight.variance * ratio.variance);
  return {
    width: { mean: width, variance: (weight.variance + k.variance + ratio.variance - 2 * covariance) / 9 },
    length: {
      mean: ratio.mean + width,
      variance: (weight.variance + k.variance + 4 * ratio.variance + 4 * covariance) / 9,
    },
  };
}
