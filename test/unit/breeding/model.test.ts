import { describe, it } from "vitest";
import { fitTrait, type ParentValue, predictTrait } from "../../../src/breeding/genetics/model.ts";
import { mixtureMass, mixtureMean, mixtureQuantile, mixtureVariance } from "../../../src/breeding/genetics/normal.ts";
import { meanAndSd } from "../../../src/breeding/genetics/panel.ts";
import {
  GENERIC_PRIOR,
  GRID,
  parsePrior,
  TOMATO_PRIORS,
  type TraitPrior,
} from "../../../src/breeding/genetics/priors.ts";
import golden from "../../data/breeding/golden.json" with { type: "json" };
import { randomOf } from "./support.ts";

/** Fits a golden case on the reference grid. */
function fitCase(c: (typeof golden)[number]) {
  const prior = parsePrior(c.prior);
  if (!prior.ok) throw new Error(prior.error.message);
  return fitTrait({
    prior: prior.value,
    grid: GRID.reference,
    panel: { mean: c.panelMean, sd: c.panelSd, count: 0 },
    strains: Object.entries(c.parents).map(([id, value]) => ({ id, value })),
    crosses: c.crosses.map(({ i, j, y, n }) => ({ a: i, b: j, y, n })),
  });
}

describe("the mixed model against vectors of an independent dense implementation", () => {
  for (const [at, c] of golden.entries()) {
    it(`case ${at + 1}: ${c.trait} with ${c.crosses.length} crosses agrees within 1e-6`, ({ expect }) => {
      const fit = fitCase(c);
      const values = new Map(Object.entries<number | undefined>(c.parents));
      for (const target of c.expected) {
        const { mixture } = predictTrait(
          fit,
          { id: target.i, value: values.get(target.i) ?? null },
          { id: target.j, value: values.get(target.j) ?? null },
        );
        const got = {
          mean: mixtureMean(mixture),
          sd: Math.sqrt(mixtureVariance(mixture)),
          q10: mixtureQuantile(mixture, 0.1),
          q90: mixtureQuantile(mixture, 0.9),
          confidence: mixtureMass(mixture, fit.prior.tol * fit.panel.sd),
        };
        for (const key of ["mean", "sd", "q10", "q90", "confidence"] as const) {
          expect(Math.abs(got[key] - target[key]), `${target.i}×${target.j} ${key}`).toBeLessThan(1e-6);
        }
      }
    });
  }

  it("keeps the number of grid components that the reference keeps", ({ expect }) => {
    expect(golden.map((c) => fitCase(c).components.length)).toEqual([42, 37, 17, 27, 13, 29]);
  });
});

/** A panel of lines on an arbitrary scale with records near the mid-parent. */
function trial(seed: number, lines: number, crosses: number, { scale = 1, shift = 0 } = {}) {
  const random = randomOf(seed);
  const raw = Array.from({ length: lines }, () => 4 * random());
  const records = Array.from({ length: crosses }, () => {
    const [i, j] = [Math.floor(random() * lines), Math.floor(random() * lines)];
    const y = ((raw[i] ?? 0) + (raw[j] ?? 0)) / 2 + random() - 0.5;
    return { a: `P${i}`, b: `P${j}`, y: scale * y + shift, n: 1 + Math.floor(3 * random()) };
  });
  const values = raw.map((v) => scale * v + shift);
  const strains = values.map((value, i): ParentValue => ({ id: `P${i}`, value }));
  return { strains, crosses: records, panel: { ...meanAndSd(values), count: lines }, grid: GRID.reference };
}

const momentsOf = (mixture: ReturnType<typeof predictTrait>["mixture"]) => [
  mixtureMean(mixture),
  Math.sqrt(mixtureVariance(mixture)),
];

describe("properties of the model", () => {
  const prior: TraitPrior = TOMATO_PRIORS.sugarContent;

  it("gives the closed form of the prior when nothing is recorded", ({ expect }) => {
    const t = trial(1, 8, 0);
    const fit = fitTrait({ ...t, prior, grid: { sg2: [0.2], se2: [0.5] } });
    const [a, b] = t.strains as [ParentValue, ParentValue];
    const z = [a, b].map((p) => ((p.value ?? 0) - t.panel.mean) / t.panel.sd) as [number, number];
    const m = (z[0] + z[1]) / 2;
    const d = Math.abs(z[0] - z[1]) / 2;
    const variance = prior.th ** 2 + m ** 2 * prior.tb ** 2 + d ** 2 * prior.td ** 2 + 2 * 0.2 + 0.5;
    const [mean, sd] = momentsOf(predictTrait(fit, a, b).mixture);
    expect(mean).toBeCloseTo(t.panel.mean + t.panel.sd * (prior.h0 + prior.b0 * m + prior.d0 * d), 12);
    expect(sd).toBeCloseTo(t.panel.sd * Math.sqrt(variance), 12);
  });

  it("does not care which parent is the mother, nor in which order crosses were recorded", ({ expect }) => {
    const t = trial(2, 10, 15);
    const fit = fitTrait({ ...t, prior });
    const turned = fitTrait({ ...t, prior, crosses: t.crosses.map((c) => ({ ...c, a: c.b, b: c.a })).reverse() });
    for (const a of t.strains) {
      for (const b of t.strains) {
        const [mean, sd] = momentsOf(predictTrait(fit, a, b).mixture);
        const [mean2, sd2] = momentsOf(predictTrait(turned, b, a).mixture);
        expect(mean).toBeCloseTo(mean2 ?? 0, 10);
        expect(sd).toBeCloseTo(sd2 ?? 0, 10);
      }
    }
  });

  it("follows a change of unit: a·P + b on parents and records moves predictions alike", ({ expect }) => {
    const fit = fitTrait({ ...trial(3, 9, 12), prior });
    const moved = trial(3, 9, 12, { scale: 2.5, shift: -7 });
    const fit2 = fitTrait({ ...moved, prior });
    for (const target of ["P0", "P4", "P8"]) {
      const [mean = 0, sd = 0] = momentsOf(
        predictTrait(fit, { id: "P1", value: null }, { id: target, value: null }).mixture,
      );
      const other = predictTrait(fit2, { id: "P1", value: null }, { id: target, value: null }).mixture;
      expect(mixtureMean(other)).toBeCloseTo(2.5 * mean - 7, 9);
      expect(Math.sqrt(mixtureVariance(other))).toBeCloseTo(2.5 * sd, 9);
    }
  });

  it("ignores strains that are never crossed, whether the fit has them or not", ({ expect }) => {
    const t = trial(4, 12, 6);
    const crossed = new Set(t.crosses.flatMap((c) => [c.a, c.b]));
    const fit = fitTrait({ ...t, prior });
    const small = fitTrait({ ...t, prior, strains: t.strains.filter((s) => crossed.has(s.id)) });
    for (const a of t.strains) {
      const b = t.strains.find((s) => crossed.has(s.id)) ?? a;
      expect(momentsOf(predictTrait(small, a, b).mixture)).toEqual(momentsOf(predictTrait(fit, a, b).mixture));
    }
  });

  it("pools repeats of a cross by their replicates", ({ expect }) => {
    const t = trial(5, 6, 4);
    const split = [
      { a: "P0", b: "P1", y: 1, n: 3 },
      { a: "P1", b: "P0", y: 3, n: 1 },
    ];
    const fit = fitTrait({ ...t, prior, crosses: [...t.crosses, ...split] });
    const pooled = fitTrait({ ...t, prior, crosses: [...t.crosses, { a: "P0", b: "P1", y: 1.5, n: 4 }] });
    const of = (f: typeof fit) =>
      momentsOf(predictTrait(f, { id: "P0", value: null }, { id: "P3", value: null }).mixture);
    expect(of(fit)[0]).toBeCloseTo(of(pooled)[0] ?? 0, 10);
  });

  it("moves a recorded cross towards its record, and more so with more replicates", ({ expect }) => {
    const t = trial(6, 10, 10);
    const before = mixtureMean(
      predictTrait(fitTrait({ ...t, prior }), { id: "P2", value: null }, { id: "P7", value: null }).mixture,
    );
    for (const y of [before - 3, before + 3]) {
      const after = [1, 20].map((n) => {
        const fit = fitTrait({ ...t, prior, crosses: [...t.crosses, { a: "P2", b: "P7", y, n }] });
        return mixtureMean(predictTrait(fit, { id: "P2", value: null }, { id: "P7", value: null }).mixture);
      }) as [number, number];
      const moved = after.map((value) => (value - before) / (y - before));
      expect(moved[0]).toBeGreaterThan(0);
      expect(moved[1]).toBeGreaterThan(moved[0] ?? 1);
      expect(moved[1]).toBeLessThanOrEqual(1);
    }
  });

  it("narrows, on average over random records, as more crosses of a parent are recorded", ({ expect }) => {
    const width = (crosses: number) => {
      let sum = 0;
      for (let seed = 10; seed < 30; seed++) {
        const t = trial(seed, 8, 0);
        const random = randomOf(seed);
        const records = Array.from({ length: crosses }, (_, k) => {
          const y = ((t.strains[0]?.value ?? 0) + (t.strains[k + 2]?.value ?? 0)) / 2 + 0.5 * (random() - 0.5);
          return { a: "P0", b: `P${k + 2}`, y, n: 1 };
        });
        const { mixture } = predictTrait(
          fitTrait({ ...t, prior, crosses: records }),
          { id: "P0", value: null },
          { id: "P1", value: null },
        );
        sum += mixtureQuantile(mixture, 0.9) - mixtureQuantile(mixture, 0.1);
      }
      return sum / 20;
    };
    const widths = [width(0), width(2), width(5)] as const;
    expect(widths[1]).toBeLessThan(widths[0]);
    expect(widths[2]).toBeLessThan(widths[1]);
  });

  it("says what a prediction rests on", ({ expect }) => {
    const t = trial(7, 6, 0);
    const strains = [...t.strains, { id: "unmeasured", value: null }];
    const fit = fitTrait({ ...t, prior, strains, crosses: [{ a: "P0", b: "P1", y: 2, n: 1 }] });
    const basis = (a: string, b: string) => predictTrait(fit, { id: a, value: null }, { id: b, value: null }).basis;
    expect([basis("P1", "P0"), basis("P0", "P5"), basis("P4", "P5"), basis("P4", "unmeasured")]).toEqual([
      "observed",
      "gca",
      "parents",
      "prior",
    ]);
  });

  it("is finite for missing phenotypes, a strain crossed with itself, one strain, and parents nobody knows", ({
    expect,
  }) => {
    const panel = { mean: 4, sd: 1, count: 1 };
    const only = [{ id: "A", value: 4.2 }];
    for (const crosses of [[], [{ a: "A", b: "A", y: 4, n: 2 }], [{ a: "A", b: "ghost", y: 5, n: 1 }]]) {
      const fit = fitTrait({ prior, panel, grid: GRID.production, strains: only, crosses });
      for (const other of ["A", "ghost", "stranger"]) {
        for (const value of [null, 1e3]) {
          const { mixture } = predictTrait(fit, { id: "A", value: 4.2 }, { id: other, value });
          const figures = [...momentsOf(mixture), mixtureQuantile(mixture, 0.1), mixtureMass(mixture, 0.5)];
          expect(figures.every(Number.isFinite), `A × ${other}`).toBe(true);
        }
      }
    }
  });

  it("is less sure of a parent whose trait is unknown", ({ expect }) => {
    const t = trial(8, 8, 10);
    const fit = fitTrait({ ...t, prior });
    const a = t.strains[0] as ParentValue;
    const known = predictTrait(fit, a, { id: "new", value: t.panel.mean }).mixture;
    const unknown = predictTrait(fit, a, { id: "new", value: null }).mixture;
    expect(mixtureVariance(unknown)).toBeGreaterThan(mixtureVariance(known));
  });

  it("knows the genetic value better than the next trial", ({ expect }) => {
    const t = trial(9, 8, 10);
    const fit = fitTrait({ ...t, prior });
    const spread = (replicates: number) =>
      mixtureVariance(predictTrait(fit, { id: "P0", value: null }, { id: "P1", value: null }, { replicates }).mixture);
    expect(spread(Number.POSITIVE_INFINITY)).toBeLessThan(spread(4));
    expect(spread(4)).toBeLessThan(spread(1));
  });

  it("works without a share of SCA", ({ expect }) => {
    const t = trial(10, 8, 10);
    const fit = fitTrait({ ...t, prior: { ...GENERIC_PRIOR, phi: 0 } });
    const recorded = t.crosses[0];
    const { mixture } = predictTrait(
      fit,
      { id: recorded?.a ?? "", value: null },
      { id: recorded?.b ?? "", value: null },
    );
    expect(momentsOf(mixture).every(Number.isFinite)).toBe(true);
  });
});

describe("priors", () => {
  it("refuses a prior with a missing, non-numeric, non-positive or out-of-range field and names it", ({ expect }) => {
    const bad: [Record<string, unknown>, string][] = [
      [{ h0: undefined }, "h0"],
      [{ le_mu: "x" }, "le_mu"],
      [{ tb: 0 }, "tb"],
      [{ phi: 1 }, "phi"],
      [{ tol: Number.NaN }, "tol"],
    ];
    for (const [change, field] of bad) {
      const result = parsePrior({ ...GENERIC_PRIOR, ...change });
      expect(result.ok ? null : result.error.field).toBe(field);
    }
    expect(parsePrior(null).ok).toBe(false);
  });
});
