import { describe, it } from "vitest";
import {
  mixtureCdf,
  mixtureMass,
  mixtureMean,
  mixtureQuantile,
  mixtureVariance,
  normalCdf,
} from "../../../src/breeding/genetics/normal.ts";

/** Φ by its Taylor series, which needs no coefficients. */
function seriesCdf(x: number): number {
  let term = x;
  let sum = x;
  for (let k = 1; Math.abs(term) > 1e-18; k++) {
    term *= (x * x) / (2 * k + 1);
    sum += term;
  }
  return 0.5 + (sum * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI);
}

describe("normal distribution", () => {
  it("agrees with the Taylor series between −6 and 6", ({ expect }) => {
    for (let x = -6; x <= 6; x += 0.01) expect(Math.abs(normalCdf(x) - seriesCdf(x))).toBeLessThan(3e-15);
  });

  it("keeps its relative precision in the far tail and does not leave [0, 1]", ({ expect }) => {
    // Φ(−8) and Φ(−20) from published tables of the upper tail.
    expect(normalCdf(-8) / 6.220960574271785e-16).toBeCloseTo(1, 6);
    expect(normalCdf(-20) / 2.753624118606234e-89).toBeCloseTo(1, 6);
    expect([normalCdf(-1e9), normalCdf(1e9), normalCdf(0)]).toEqual([0, 1, 0.5]);
  });
});

describe("mixtures", () => {
  const mixture = [
    { weight: 0.7, mean: -1, variance: 0.5 },
    { weight: 0.3, mean: 4, variance: 2 },
  ];

  it("has the moments of its components", ({ expect }) => {
    expect(mixtureMean(mixture)).toBeCloseTo(0.5, 12);
    expect(mixtureVariance(mixture)).toBeCloseTo(0.7 * (0.5 + 2.25) + 0.3 * (2 + 12.25), 12);
  });

  it("inverts its distribution function", ({ expect }) => {
    for (const p of [0.001, 0.1, 0.5, 0.75, 0.999])
      expect(mixtureCdf(mixture, mixtureQuantile(mixture, p))).toBeCloseTo(p, 12);
  });

  it("has the mass of the normal around the mean of one component", ({ expect }) => {
    expect(mixtureMass([{ weight: 1, mean: 3, variance: 4 }], 2)).toBeCloseTo(0.682689492137, 11);
  });
});
