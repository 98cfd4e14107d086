/**
 * The traits of a tomato fruit: names, units, analysis scales and what is assumed where a panel is too small to tell.
 * Numbers come from a public panel of 192 tomato lines (TC1), summarised; see docs of each constant.
 */

/** Traits a strain has and a prediction reports. Units: weight g, length and width mm, ratio length/width,
 * sugarContent °Brix, firmness kg, skinThickness mm (pericarp). */
export const FRUIT_TRAITS = [
  "weight",
  "length",
  "width",
  "ratio",
  "sugarContent",
  "firmness",
  "skinThickness",
] as const;
export type FruitTrait = (typeof FRUIT_TRAITS)[number];

/** Traits with a mixed model of their own. `k` (g/mm³) ties weight to length and width, which are derived. */
export const MODEL_TRAITS = ["weight", "ratio", "k", "sugarContent", "firmness", "skinThickness"] as const;
export type ModelTrait = (typeof MODEL_TRAITS)[number];

/** Every quantity that has a panel mean and standard deviation. */
export const PANEL_TRAITS = [...FRUIT_TRAITS, "k"] as const;
export type PanelTrait = (typeof PANEL_TRAITS)[number];

export const SHAPE_CLASSES = ["round", "oval", "rectangular", "pear"] as const;
export type ShapeClass = (typeof SHAPE_CLASSES)[number];

export const STRAIN_TYPES = ["male", "female", "both"] as const;
export type StrainType = (typeof STRAIN_TYPES)[number];

/** What was measured on a line or an F1, on the raw scale; null is unknown and never 0. */
export type Phenotype = Record<FruitTrait, number | null> & { shape: ShapeClass | null };

/** A strain as the genetics see it. */
export interface GeneticStrain {
  id: string;
  type: StrainType;
  phenotype: Phenotype;
}

/** One measured F1: the mean of `n` replicates. Mother and father are merged with their reciprocal. */
export interface Observation {
  motherId: string;
  fatherId: string;
  n: number;
  phenotype: Phenotype;
}

type Scale = "ln" | "identity";

/** Sizes act multiplicatively and are analysed as natural logarithms; the rest as measured. */
export const SCALE: Record<PanelTrait, Scale> = {
  weight: "ln",
  length: "ln",
  width: "ln",
  ratio: "ln",
  k: "ln",
  sugarContent: "identity",
  firmness: "identity",
  skinThickness: "identity",
};

/** g(·): raw value to analysis scale. The logarithm needs a positive value. */
export const toScale = (trait: PanelTrait, value: number): number => (SCALE[trait] === "ln" ? Math.log(value) : value);

/** g⁻¹(·): analysis scale to raw value. */
export const fromScale = (trait: PanelTrait, value: number): number =>
  SCALE[trait] === "ln" ? Math.exp(value) : value;

/** Panel mean and SD on the analysis scale where fewer than two strains are known (TC1, 192 lines). */
export const FALLBACK_PANEL: Record<PanelTrait, { mean: number; sd: number }> = {
  weight: { mean: 3.966, sd: 0.798 },
  ratio: { mean: -0.048, sd: 0.263 },
  k: { mean: -7.444, sd: 0.096 },
  length: { mean: 3.771, sd: 0.253 },
  width: { mean: 3.82, sd: 0.324 },
  sugarContent: { mean: 4.495, sd: 1.198 },
  firmness: { mean: 0.616, sd: 0.124 },
  skinThickness: { mean: 4.885, sd: 0.984 },
};

/** Plausible raw values, inclusive; outside is a typing error, not a tomato. `above` is an exclusive lower bound. */
export const TRAIT_RANGE: Record<FruitTrait, { above?: number; min?: number; max: number; unit: string }> = {
  weight: { above: 0, max: 5000, unit: "g" },
  length: { above: 0, max: 500, unit: "mm" },
  width: { above: 0, max: 500, unit: "mm" },
  ratio: { above: 0, max: 20, unit: "" },
  sugarContent: { min: 0, max: 40, unit: "°Brix" },
  firmness: { min: 0, max: 50, unit: "kg" },
  skinThickness: { min: 0, max: 50, unit: "mm" },
};

/** Whether a raw value is finite and inside {@link TRAIT_RANGE}. */
export function inRange(trait: FruitTrait, value: number): boolean {
  const { above, min, max } = TRAIT_RANGE[trait];
  return (
    Number.isFinite(value) &&
    value <= max &&
    (above === undefined || value > above) &&
    (min === undefined || value >= min)
  );
}

/** A phenotype with nothing known. */
export const unknownPhenotype = (): Phenotype => ({
  weight: null,
  length: null,
  width: null,
  ratio: null,
  sugarContent: null,
  firmness: null,
  skinThickness: null,
  shape: null,
});
