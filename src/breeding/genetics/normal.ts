/** The normal distribution and finite mixtures of it: what every prediction is. Pure numbers, no units. */

const SQRT_2PI = Math.sqrt(2 * Math.PI);

/** Density of N(mean, variance) at x. */
export const normalDensity = (x: number, mean: number, variance: number): number =>
  Math.exp((-0.5 * (x - mean) ** 2) / variance) / (SQRT_2PI * Math.sqrt(variance));

/**
 * Φ(x), the standard normal distribution function, to about 1e-15.
 * Rational approximation 5666 of Hart et al., Computer Approximations (1968); continued fraction in the far tail.
 */
export function normalCdf(x: number): number {
  const a = Math.abs(x);
  if (a > 38) return x > 0 ? 1 : 0;
  const e = Math.exp(-0.5 * a * a);
  let tail: number;
  if (a < 7.071) {
    const top =
      (((((0.0352624965998911 * a + 0.700383064443688) * a + 6.37396220353165) * a + 33.912866078383) * a +
        112.079291497871) *
        a +
        221.213596169931) *
        a +
      220.206867912376;
    const bottom =
      ((((((0.0883883476483184 * a + 1.75566716318264) * a + 16.064177579207) * a + 86.7807322029461) * a +
        296.564248779674) *
        a +
        637.333633378831) *
        a +
        793.826512519948) *
        a +
      440.413735824752;
    tail = (e * top) / bottom;
  } else {
    tail = e / (SQRT_2PI * (a + 1 / (a + 2 / (a + 3 / (a + 4 / (a + 0.65))))));
  }
  return x > 0 ? 1 - tail : tail;
}

/** One normal component of a mixture; weights of a mixture sum to 1. */
export interface MixtureComponent {
  weight: number;
  mean: number;
  variance: number;
}

/** A finite mixture of normals. */
export type Mixture = readonly MixtureComponent[];

/** M = Σωμ. */
export function mixtureMean(mixture: Mixture): number {
  let mean = 0;
  for (const c of mixture) mean += c.weight * c.mean;
  return mean;
}

/** Σω(v + (μ − M)²). */
export function mixtureVariance(mixture: Mixture): number {
  const mean = mixtureMean(mixture);
  let variance = 0;
  for (const c of mixture) variance += c.weight * (c.variance + (c.mean - mean) ** 2);
  return variance;
}

/** F(x) = Σω·Φ((x − μ)/√v). */
export function mixtureCdf(mixture: Mixture, x: number): number {
  let p = 0;
  for (const c of mixture) p += c.weight * normalCdf((x - c.mean) / Math.sqrt(c.variance));
  return p;
}

/** F⁻¹(p) by 60 bisections on M ± 12 sd. */
export function mixtureQuantile(mixture: Mixture, p: number): number {
  const mean = mixtureMean(mixture);
  const reach = 12 * Math.sqrt(mixtureVariance(mixture));
  let low = mean - reach;
  let high = mean + reach;
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2;
    if (mixtureCdf(mixture, middle) < p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** P(|X − M| ≤ halfWidth): how often a trial lands this close to the predicted value. */
export function mixtureMass(mixture: Mixture, halfWidth: number): number {
  const mean = mixtureMean(mixture);
  return mixtureCdf(mixture, mean + halfWidth) - mixtureCdf(mixture, mean - halfWidth);
}
