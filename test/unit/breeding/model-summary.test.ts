import { describe, it } from "vitest";
import { fitBreedingModel } from "../../../src/breeding/genetics/breeding-model.ts";
import { summariseModel } from "../../../src/breeding/genetics/model-summary.ts";
import { TOMATO_PRIORS } from "../../../src/breeding/genetics/priors.ts";
import { MODEL_TRAITS, type Observation } from "../../../src/breeding/genetics/traits.ts";
import { sampleStrains } from "../../../src/breeding/strains/sample.ts";

const strains = sampleStrains();

/** F1 that are heavier than their parents by a constant share. */
function heavyCrosses(count: number): Observation[] {
  return Array.from({ length: count }, (_, i): Observation => {
    const mother = strains[i % 25];
    const father = strains[25 + (i % 25)];
    if (mother === undefined || father === undefined) throw new Error("no parents");
    const weight = 1.8 * Math.sqrt((mother.phenotype.weight ?? 0) * (father.phenotype.weight ?? 0));
    const phenotype = { ...mother.phenotype, weight, length: null, width: null, ratio: null, shape: null };
    return { motherId: mother.id, fatherId: father.id, n: 4, phenotype };
  });
}

describe("the summary of a model", () => {
  it("is the prior while nothing is recorded", ({ expect }) => {
    const summary = summariseModel(fitBreedingModel({ strains, observations: [] }));
    expect(Object.keys(summary)).toEqual([...MODEL_TRAITS]);
    for (const trait of MODEL_TRAITS) {
      const { prior, heterosis, midParentSlope, dominance, nCrosses, nStrains } = summary[trait];
      expect({ nCrosses, nStrains }).toEqual({ nCrosses: 0, nStrains: 50 });
      expect(prior.heterosis).toEqual({ mean: TOMATO_PRIORS[trait].h0, sd: TOMATO_PRIORS[trait].th });
      for (const [posterior, before] of [
        [heterosis, prior.heterosis],
        [midParentSlope, prior.midParentSlope],
        [dominance, prior.dominance],
      ] as const) {
        expect(posterior.mean).toBeCloseTo(before.mean, 9);
        expect(posterior.sd).toBeCloseTo(before.sd, 9);
      }
    }
  });

  it("moves towards what was measured and becomes surer", ({ expect }) => {
    const before = summariseModel(fitBreedingModel({ strains, observations: [] })).weight;
    const after = summariseModel(fitBreedingModel({ strains, observations: heavyCrosses(25) })).weight;
    expect(after.nCrosses).toBe(25);
    expect(after.heterosis.mean).toBeGreaterThan(0.3);
    expect(after.heterosis.sd).toBeLessThan(before.heterosis.sd / 2);
    expect(after.residualVariance).toBeLessThan(before.residualVariance);
  });
});
