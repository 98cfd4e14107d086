/** Whether stated confidence can be trusted: forecasts made before a measurement, and their score after it. */
import { type BreedingModel, crossDistributions, summarise, toleranceOf } from "./breeding-model.ts";
import { observedValues } from "./panel.ts";
import { FRUIT_TRAITS, type FruitTrait, fromScale, type GeneticStrain, type Phenotype, toScale } from "./traits.ts";

/** One trait of one measured F1: what the model said before it saw the measurement, and what came. Raw scale. */
export interface Forecast {
  trait: FruitTrait;
  predicted: number;
  lower: number;
  upper: number;
  /** Stated probability that `hit` would be true. */
  confidence: number;
  observed: number;
  /** Within half a panel SD of the prediction, on the analysis scale. */
  hit: boolean;
  /** Inside the 80 % interval. */
  covered: boolean;
}

/** Forecasts of the traits that were measured, by a model that must not contain the measurement yet. */
export function forecastObservation(
  model: BreedingModel,
  mother: GeneticStrain,
  father: GeneticStrain,
  measured: { n: number; phenotype: Phenotype },
): Forecast[] {
  const distributions = crossDistributions(model, mother, father, { replicates: measured.n });
  const observed = observedValues(measured.phenotype);
  return FRUIT_TRAITS.flatMap((trait): Forecast[] => {
    const y = observed[trait];
    if (y === null) return [];
    const { value, interval, confidence } = summarise(model, trait, distributions[trait]);
    const raw = fromScale(trait, y);
    return [
      {
        trait,
        predicted: value,
        lower: interval.lower,
        upper: interval.upper,
        confidence,
        observed: raw,
        hit: Math.abs(y - toScale(trait, value)) <= toleranceOf(model, trait),
        covered: interval.lower <= raw && raw <= interval.upper,
      },
    ];
  });
}

/** Rolling figures over forecasts; null where there are none. */
export interface Calibration {
  n: number;
  /** Share inside the 80 % interval; 0.8 is right. */
  coverage80: number | null;
  /** Stated and observed share of hits; equal is right. */
  meanConfidence: number | null;
  hitRate: number | null;
  /** Mean squared difference of confidence and outcome; 0.25 is a coin. */
  brier: number | null;
}

/** Scores forecasts. */
export function calibrationOf(forecasts: readonly Pick<Forecast, "confidence" | "hit" | "covered">[]): Calibration {
  const n = forecasts.length;
  const mean = (of: (f: Pick<Forecast, "confidence" | "hit" | "covered">) => number) =>
    n === 0 ? null : forecasts.reduce((sum, f) => sum + of(f), 0) / n;
  return {
    n,
    coverage80: mean((f) => Number(f.covered)),
    meanConfidence: mean((f) => f.confidence),
    hitRate: mean((f) => Number(f.hit)),
    brier: mean((f) => (f.confidence - Number(f.hit)) ** 2),
  };
}
