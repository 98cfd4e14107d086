/** All traits together: fits every trait's model, and assembles what a breeder asks of one cross. */
import { deriveGeometry, type Moments, weightRatioCorrelation } from "./geometry.ts";
import { type Cuts, cutsOf, expectedGrade, type Grade, gradeOf, overallScore, type TraitWeights } from "./grades.ts";
import {
  BASIS_ORDER,
  type Basis,
  type CrossRecord,
  fitTrait,
  type ParentValue,
  predictTrait,
  type TraitFit,
} from "./model.ts";
import { type Mixture, mixtureCdf, mixtureMass, mixtureMean, mixtureQuantile, mixtureVariance } from "./normal.ts";
import { observedValues, type Panel, panelsOf, parentValues, typicalK } from "./panel.ts";
import { GRID, TOMATO_PRIORS, type TraitPrior, type VarianceGrid } from "./priors.ts";
import { recommend } from "./recommendation.ts";
import { likeliestShape, predictShape, type ShapeCounts, type ShapeShares, shapePair } from "./shape.ts";
import {
  type FruitTrait,
  fromScale,
  type GeneticStrain,
  type ModelTrait,
  type Observation,
  type PanelTrait,
  type ShapeClass,
  unknownPhenotype,
} from "./traits.ts";

/** Everything a prediction needs. Made on write by {@link fitBreedingModel}; stored by the codec; read-only after. */
export interface BreedingModel {
  fits: Record<ModelTrait, TraitFit>;
  panels: Record<PanelTrait, Panel>;
  cuts: Record<FruitTrait, Cuts>;
  /** Median k of the panel, g/mm³. */
  typicalK: number;
  /** Correlation of ln weight and ln ratio. */
  kappa: number;
  shapeCounts: ShapeCounts;
}

/** What a model is fitted to. */
export interface ModelInput {
  strains: readonly GeneticStrain[];
  observations: readonly Observation[];
  priors?: Record<ModelTrait, TraitPrior>;
  grid?: VarianceGrid;
}

const mapModelTraits = <T>(of: (trait: ModelTrait) => T): Record<ModelTrait, T> => ({
  weight: of("weight"),
  ratio: of("ratio"),
  k: of("k"),
  sugarContent: of("sugarContent"),
  firmness: of("firmness"),
  skinThickness: of("skinThickness"),
});

const mapFruitTraits = <T>(of: (trait: FruitTrait) => T): Record<FruitTrait, T> => ({
  weight: of("weight"),
  length: of("length"),
  width: of("width"),
  ratio: of("ratio"),
  sugarContent: of("sugarContent"),
  firmness: of("firmness"),
  skinThickness: of("skinThickness"),
});

/** Fits all traits. An observation whose parent is not among the strains counts with an unknown parental phenotype. */
export function fitBreedingModel({
  strains,
  observations,
  priors = TOMATO_PRIORS,
  grid = GRID.production,
}: ModelInput): BreedingModel {
  const k = typicalK(strains);
  const parents = strains.map(({ id, phenotype }) => ({ id, values: parentValues(phenotype, k) }));
  const known = new Set(strains.map((s) => s.id));
  const strangers = new Set(observations.flatMap((o) => [o.motherId, o.fatherId]).filter((id) => !known.has(id)));
  // Every trait's fit gets the same strains in the same order, so that a position means one strain everywhere.
  const everyone = [...parents, ...[...strangers].map((id) => ({ id, values: parentValues(unknownPhenotype(), k) }))];
  const records = observations.map((o) => ({ ...o, values: observedValues(o.phenotype) }));
  const panels = panelsOf(parents.map((p) => p.values));
  return {
    panels,
    typicalK: k,
    kappa: weightRatioCorrelation(parents.map((p) => p.values)),
    cuts: mapFruitTraits((trait) => {
      const values = parents.map((p) => p.values[trait]).filter((v) => v !== null);
      return cutsOf(
        values.map((v) => fromScale(trait, v)),
        trait,
      );
    }),
    shapeCounts: countShapes(strains, observations),
    fits: mapModelTraits((trait) =>
      fitTrait({
        prior: priors[trait],
        grid,
        panel: panels[trait],
        strains: everyone.map((p): ParentValue => ({ id: p.id, value: p.values[trait] })),
        crosses: records.flatMap(({ motherId, fatherId, n, values }): CrossRecord[] => {
          const y = values[trait];
          return y === null ? [] : [{ a: motherId, b: fatherId, y, n }];
        }),
      }),
    ),
  };
}

function countShapes(strains: readonly GeneticStrain[], observations: readonly Observation[]): ShapeCounts {
  const shapes = new Map(strains.map((s) => [s.id, s.phenotype.shape]));
  const counts: ShapeCounts = {};
  for (const { motherId, fatherId, phenotype } of observations) {
    const mother = shapes.get(motherId);
    const father = shapes.get(fatherId);
    if (!mother || !father || !phenotype.shape) continue;
    const pair = shapePair(mother, father);
    const ofPair = counts[pair] ?? {};
    ofPair[phenotype.shape] = (ofPair[phenotype.shape] ?? 0) + 1;
    counts[pair] = ofPair;
  }
  return counts;
}

/** A trait of a predicted cross on the raw scale, unrounded. */
export interface PredictedTrait {
  value: number;
  /** P(the next trial lands within half a panel SD of the value), a share a user can check. */
  confidence: number;
  /** Quintile of the strain panel. */
  grade: Grade;
  interval: { lower: number; upper: number; level: number };
  basis: Basis;
  /** Recorded crosses the trait's model rests on. */
  nCrosses: number;
}

/** The prediction of one F1. */
export interface CrossPrediction {
  traits: Record<FruitTrait, PredictedTrait>;
  shape: { value: ShapeClass; confidence: number; probabilities: ShapeShares };
  /** 0 to 5, one decimal. */
  overallScore: number;
  recommendation: string;
}

/** A trait's predictive distribution on its analysis scale, whether modelled or derived. */
export interface TraitDistribution {
  mixture: Mixture;
  basis: Basis;
  nCrosses: number;
}

const INTERVAL_LEVEL = 0.8;

type CrossParent = Pick<GeneticStrain, "id" | "phenotype">;

/** Predictive distributions of every trait of a cross. `replicates` as in {@link predictTrait}. */
export function crossDistributions(
  model: BreedingModel,
  mother: CrossParent,
  father: CrossParent,
  { replicates = 1 }: { replicates?: number } = {},
): Record<PanelTrait, TraitDistribution> {
  const values = [mother, father].map((p) => parentValues(p.phenotype, model.typicalK));
  const [ofMother, ofFather] = values as [Record<PanelTrait, number | null>, Record<PanelTrait, number | null>];
  const modelled = mapModelTraits((trait): TraitDistribution => {
    const fit = model.fits[trait];
    const a = { id: mother.id, value: ofMother[trait] };
    const b = { id: father.id, value: ofFather[trait] };
    return { ...predictTrait(fit, a, b, { replicates }), nCrosses: fit.records.size };
  });
  const moments = (trait: ModelTrait): Moments => ({
    mean: mixtureMean(modelled[trait].mixture),
    variance: mixtureVariance(modelled[trait].mixture),
  });
  const { length, width } = deriveGeometry(moments("weight"), moments("ratio"), moments("k"), model.kappa);
  const derived = (m: Moments): TraitDistribution => ({
    mixture: [{ weight: 1, ...m }],
    basis: weaker(modelled.weight.basis, modelled.ratio.basis),
    nCrosses: Math.min(modelled.weight.nCrosses, modelled.ratio.nCrosses),
  });
  return { ...modelled, length: derived(length), width: derived(width) };
}

const weaker = (a: Basis, b: Basis): Basis => (BASIS_ORDER.indexOf(a) < BASIS_ORDER.indexOf(b) ? a : b);

/** The half-width on the analysis scale that "close" means for a trait. */
export const toleranceOf = (model: BreedingModel, trait: PanelTrait): number => {
  const tol = trait === "length" || trait === "width" ? model.fits.weight.prior.tol : model.fits[trait].prior.tol;
  return tol * model.panels[trait].sd;
};

/** Value, interval, confidence and grade of one trait, on the raw scale. A fruit has no negative sugar: 0 is the floor. */
export function summarise(model: BreedingModel, trait: FruitTrait, distribution: TraitDistribution): PredictedTrait {
  const { mixture, basis, nCrosses } = distribution;
  const mean = mixtureMean(mixture);
  const raw = (x: number) => Math.max(0, fromScale(trait, x));
  const value = raw(mean);
  const tail = (1 - INTERVAL_LEVEL) / 2;
  return {
    value,
    confidence: mixtureMass(mixture, toleranceOf(model, trait)),
    grade: gradeOf(value, model.cuts[trait]),
    interval: {
      lower: raw(Math.min(mixtureQuantile(mixture, tail), mean)),
      upper: raw(Math.max(mixtureQuantile(mixture, 1 - tail), mean)),
      level: INTERVAL_LEVEL,
    },
    basis,
    nCrosses,
  };
}

/**
 * Predicts the F1 of two strains. The order of the parents does not change the numbers.
 * Parents that the model has not seen bring their phenotype; parents it has seen are used as they were fitted.
 *
 * @param weights of the overall score; default as documented in grades.ts
 */
export function predictCross(
  model: BreedingModel,
  mother: CrossParent,
  father: CrossParent,
  options: { replicates?: number; weights?: TraitWeights } = {},
): CrossPrediction {
  const distributions = crossDistributions(model, mother, father, options);
  const traits = mapFruitTraits((trait) => summarise(model, trait, distributions[trait]));
  const grades = mapFruitTraits((trait) =>
    expectedGrade(trait, model.cuts[trait], (x) => mixtureCdf(distributions[trait].mixture, x)),
  );
  const ratio = distributions.ratio.mixture;
  const shapeOf = ({ phenotype }: CrossParent) => ({
    shape: phenotype.shape,
    lnRatio: parentValues(phenotype, model.typicalK).ratio,
  });
  const [a, b] = mother.id <= father.id ? [mother, father] : [father, mother];
  const probabilities = predictShape(
    shapeOf(a),
    shapeOf(b),
    { mean: mixtureMean(ratio), variance: mixtureVariance(ratio) },
    model.shapeCounts,
  );
  const value = likeliestShape(probabilities);
  return {
    traits,
    shape: { value, confidence: probabilities[value], probabilities },
    overallScore: overallScore(grades, options.weights),
    recommendation: recommend({
      weight: traits.weight.value,
      sugarContent: traits.sugarContent.value,
      firmness: traits.firmness.value,
      firmnessCuts: model.cuts.firmness,
      confidences: [traits.weight, traits.length, traits.sugarContent, traits.firmness].map((t) => t.confidence),
    }),
  };
}
