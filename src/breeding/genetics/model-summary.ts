/** What a fitted model rests on, trait by trait, in numbers that a breeder can read without the model itself. */
import type { BreedingModel } from "./breeding-model.ts";
import { packed } from "./linear-algebra.ts";
import type { TraitFit } from "./model.ts";
import { MODEL_TRAITS, type ModelTrait, SCALE } from "./traits.ts";

/** A posterior mean with its standard deviation. */
export interface Estimate {
  mean: number;
  sd: number;
}

/** One trait. `panel` is on the analysis scale; the effects are in panel SD. */
export interface TraitSummary {
  scale: "ln" | "identity";
  /** Recorded crosses, reciprocals merged. */
  nCrosses: number;
  /** Strains whose own value is known. */
  nStrains: number;
  panel: { mean: number; sd: number };
  /** Mean of all F1 above what their parents predict. */
  heterosis: Estimate;
  /** Slope of the F1 on the mean of its parents. */
  midParentSlope: Estimate;
  /** Pull of the smaller (negative) or larger parent. */
  dominance: Estimate;
  /** Variance of the general combining ability, and of SCA and error together. */
  gcaVariance: number;
  residualVariance: number;
  /** The same effects before any record. */
  prior: { heterosis: Estimate; midParentSlope: Estimate; dominance: Estimate };
}

export type ModelSummary = Record<ModelTrait, TraitSummary>;

function estimate(fit: TraitFit, at: number): Estimate {
  const mean = fit.components.reduce((sum, c) => sum + c.weight * (c.theta[at] as number), 0);
  const variance = fit.components.reduce(
    (sum, c) => sum + c.weight * ((c.sigma[packed(at, at)] as number) + ((c.theta[at] as number) - mean) ** 2),
    0,
  );
  return { mean, sd: Math.sqrt(variance) };
}

/** The figures of every modelled trait. */
export function summariseModel(model: BreedingModel): ModelSummary {
  const entries = MODEL_TRAITS.map((trait): [ModelTrait, TraitSummary] => {
    const fit = model.fits[trait];
    const { prior, panel, components } = fit;
    const average = (of: (c: TraitFit["components"][number]) => number) =>
      components.reduce((sum, c) => sum + c.weight * of(c), 0);
    return [
      trait,
      {
        scale: SCALE[trait],
        nCrosses: fit.records.size,
        nStrains: panel.count,
        panel: { mean: panel.mean, sd: panel.sd },
        heterosis: estimate(fit, 0),
        midParentSlope: estimate(fit, 1),
        dominance: estimate(fit, 2),
        gcaVariance: average((c) => c.sg2),
        residualVariance: average((c) => c.se2),
        prior: {
          heterosis: { mean: prior.h0, sd: prior.th },
          midParentSlope: { mean: prior.b0, sd: prior.tb },
          dominance: { mean: prior.d0, sd: prior.td },
        },
      },
    ];
  });
  return Object.fromEntries(entries) as ModelSummary;
}
