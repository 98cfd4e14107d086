import { describe, it } from "vitest";
import { fitTrait, predictTrait } from "../../../src/breeding/genetics/model.ts";
import { mixtureMass, mixtureMean, mixtureQuantile, mixtureVariance } from "../../../src/breeding/genetics/normal.ts";
import { GRID, parsePrior } from "../../../src/breeding/genetics/priors.ts";
import golden from "../../data/breeding/golden.json" with { type: "json" };

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
