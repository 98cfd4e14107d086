import { describe, it } from "vitest";
import { deriveGeometry, FALLBACK_KAPPA, weightRatioCorrelation } from "../../../src/breeding/genetics/geometry.ts";
import { predictShape, type ShapeCounts } from "../../../src/breeding/genetics/shape.ts";
import { SHAPE_CLASSES, type ShapeClass } from "../../../src/breeding/genetics/traits.ts";
import { randomOf } from "./support.ts";

describe("fruit geometry", () => {
  const at = (value: number, sd: number) => ({ mean: Math.log(value), variance: sd ** 2 });

  it("gives the reference's length, width and spreads", ({ expect }) => {
    const { length, width } = deriveGeometry(at(36.3, 0.56), at(0.91, 0.2), at(6.33e-4, 0.093), -0.46);
    expect(Math.exp(width.mean)).toBeCloseTo(39.794, 3);
    expect(Math.exp(length.mean)).toBeCloseTo(36.213, 3);
    expect(Math.sqrt(length.variance)).toBeCloseTo(0.175, 3);
    expect(Math.sqrt(width.variance)).toBeCloseTo(0.227, 3);
  });

  it("has the variances of a Monte Carlo sample of correlated weight and ratio", ({ expect }) => {
    const random = randomOf(5);
    const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const draws = Array.from({ length: 20_000 }, () => {
      const [u, v, k] = [normal(), normal(), 0.1 * normal()];
      const weight = 0.5 * u;
      const ratio = 0.2 * (-0.46 * u + Math.sqrt(1 - 0.46 ** 2) * v);
      return (weight - k + 2 * ratio) / 3;
    });
    const mean = draws.reduce((sum, x) => sum + x, 0) / draws.length;
    const variance = draws.reduce((sum, x) => sum + (x - mean) ** 2, 0) / draws.length;
    expect(deriveGeometry(at(1, 0.5), at(1, 0.2), at(1, 0.1), -0.46).length.variance / variance).toBeCloseTo(1, 1);
  });

  it("takes the correlation from a panel of at least 15 strains, else the public one", ({ expect }) => {
    const line = Array.from({ length: 15 }, (_, i) => ({ weight: i, ratio: -2 * i }));
    expect(weightRatioCorrelation(line)).toBeCloseTo(-1, 12);
    expect(weightRatioCorrelation(line.slice(1))).toBe(FALLBACK_KAPPA);
    expect(weightRatioCorrelation([...line.slice(1), { weight: 3, ratio: null }])).toBe(FALLBACK_KAPPA);
    expect(weightRatioCorrelation(line.map(({ weight }) => ({ weight, ratio: 1 })))).toBe(FALLBACK_KAPPA);
  });
});

describe("shape", () => {
  const known = (shape: ShapeClass) => ({ shape, lnRatio: null });
  const at = (ratio: number) => ({ mean: Math.log(ratio), variance: 0.04 });
  const shares = (a: ShapeClass, b: ShapeClass, ratio: number, counts?: ShapeCounts) => {
    const result = predictShape(known(a), known(b), at(ratio), counts);
    return SHAPE_CLASSES.map((shape) => result[shape]);
  };

  it("gives the reference's shares", ({ expect }) => {
    const cases: [ShapeClass, ShapeClass, number, number[]][] = [
      ["round", "round", 0.91, [0.912, 0.013, 0.045, 0.03]],
      ["round", "pear", 1.05, [0.636, 0.186, 0.065, 0.113]],
      ["oval", "pear", 1.35, [0.008, 0.618, 0.042, 0.332]],
    ];
    for (const [a, b, ratio, expected] of cases) {
      for (const [k, share] of shares(a, b, ratio).entries())
        expect(share, `${a}×${b}`).toBeCloseTo(expected[k] ?? -1, 3);
    }
  });

  it("sums to 1 and does not care about the order of the parents", ({ expect }) => {
    for (const a of SHAPE_CLASSES) {
      for (const b of SHAPE_CLASSES) {
        const ab = shares(a, b, 1.1);
        expect(ab.reduce((sum, s) => sum + s, 0)).toBeCloseTo(1, 12);
        expect(shares(b, a, 1.1)).toEqual(ab);
      }
    }
  });

  it("learns from recorded F1 of that pair of classes only", ({ expect }) => {
    const counts: ShapeCounts = { "round×pear": { pear: 20 } };
    const pear = SHAPE_CLASSES.indexOf("pear");
    expect(shares("pear", "round", 1.05, counts)[pear]).toBeGreaterThan(2 * (shares("pear", "round", 1.05)[pear] ?? 1));
    expect(shares("oval", "pear", 1.05, counts)).toEqual(shares("oval", "pear", 1.05));
  });

  it("averages over the classes of a parent whose class is unknown", ({ expect }) => {
    // ln ratio −0.4 is far from every class but round and the wide rectangular one.
    const guessed = predictShape({ shape: null, lnRatio: -0.2 }, known("round"), at(0.85));
    const round = predictShape(known("round"), known("round"), at(0.85));
    expect(Math.abs(guessed.round - round.round)).toBeLessThan(0.03);
    const nothing = predictShape({ shape: null, lnRatio: null }, { shape: null, lnRatio: null }, at(0.85));
    expect(SHAPE_CLASSES.reduce((sum, s) => sum + nothing[s], 0)).toBeCloseTo(1, 12);
    expect(nothing.round).toBeLessThan(round.round);
  });
});
