/** A prediction as the wire has it: values, bounds and confidence with two decimals. Pure. */
import type { CrossPrediction, PredictedTrait } from "../genetics/breeding-model.ts";
import type { FruitTrait, Phenotype } from "../genetics/traits.ts";
import type { Prediction } from "./schemas.ts";

const round2 = (value: number): number => Math.round(value * 100) / 100;

const toTrait = ({ value, confidence, grade, interval, basis, nCrosses }: PredictedTrait) => ({
  value: round2(value),
  confidence: round2(confidence),
  grade,
  interval: { lower: round2(interval.lower), upper: round2(interval.upper), level: interval.level },
  basis,
  nCrosses,
});

export function toPredictedPhenotype({
  traits,
  shape,
}: CrossPrediction): NonNullable<Prediction["predictedPhenotype"]> {
  const { round, oval, rectangular, pear } = shape.probabilities;
  return {
    weight: toTrait(traits.weight),
    length: toTrait(traits.length),
    width: toTrait(traits.width),
    ratio: toTrait(traits.ratio),
    sugarContent: toTrait(traits.sugarContent),
    firmness: toTrait(traits.firmness),
    skinThickness: toTrait(traits.skinThickness),
    shape: {
      value: shape.value,
      confidence: round2(shape.confidence),
      probabilities: { round: round2(round), oval: round2(oval), rectangular: round2(rectangular), pear: round2(pear) },
    },
  };
}

/** The fruit that the pictures show: the predicted values as they are printed, so that equal numbers give equal pictures. */
export function picturedPhenotype({ traits, shape }: CrossPrediction): Phenotype {
  const value = (trait: FruitTrait) => round2(traits[trait].value);
  return {
    weight: value("weight"),
    length: value("length"),
    width: value("width"),
    ratio: value("ratio"),
    sugarContent: value("sugarContent"),
    firmness: value("firmness"),
    skinThickness: value("skinThickness"),
    shape: shape.value,
  };
}
