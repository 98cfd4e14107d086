/** What each strain passes on (GCA), and what each cross adds to it (SCA, heterosis). */
import { type BreedingModel, predictCross } from "./breeding-model.ts";
import { packed } from "./linear-algebra.ts";
import { FIRST_G, midParent, pairKey, scaShare, type TraitFit, unknownVariance } from "./model.ts";
import { mixtureMean, mixtureVariance } from "./normal.ts";
import { sweepStrains } from "./sweep.ts";
import { type FruitTrait, fromScale, type GeneticStrain, SCALE } from "./traits.ts";

/** Traits with a model of their own that a breeder knows; length and width follow from these. */
export const GCA_TRAITS = ["weight", "ratio", "sugarContent", "firmness", "skinThickness"] as const;
export type GcaTrait = (typeof GCA_TRAITS)[number];

/** General combining ability of a strain, on the analysis scale of the trait, as deviation from the panel's average. */
export interface GcaEstimate {
  gca: number;
  sd: number;
  /** exp(gca) for traits on the ln scale: 1.2 means fruit 20 % heavier than average crosses; null otherwise. */
  factor: number | null;
  /** Recorded crosses of this strain. */
  crosses: number;
}

/** GCA_p = Ps·Σω(½·β·z_p + g_p) with its posterior standard deviation, for strains the model knows. */
export function gcaOf(model: BreedingModel, ids: readonly string[]): Record<GcaTrait, Map<string, GcaEstimate>> {
  return Object.fromEntries(GCA_TRAITS.map((trait) => [trait, traitGca(model.fits[trait], trait, ids)])) as Record<
    GcaTrait,
    Map<string, GcaEstimate>
  >;
}

function traitGca(fit: TraitFit, trait: GcaTrait, ids: readonly string[]): Map<string, GcaEstimate> {
  const known = ids.filter((id) => fit.index.has(id));
  const crosses = crossesPerStrain(fit);
  return new Map(
    sweepStrains(fit, known).map((strain, at): [string, GcaEstimate] => {
      const half = (Number.isNaN(strain.z) ? 0 : strain.z) / 2;
      const mixture = fit.components.map((c) => {
        const g = FIRST_G + strain.column;
        const slope = c.theta[1] as number;
        const slopeVariance = half ** 2 * (c.sigma[packed(1, 1)] as number);
        if (strain.column < 0) {
          const extra = Number.isNaN(strain.z) ? unknownVariance(fit.prior) : 0;
          return { weight: c.weight, mean: half * slope, variance: slopeVariance + c.sg2 + extra };
        }
        const cross = 2 * half * (c.sigma[packed(g, 1)] as number);
        const variance = slopeVariance + (c.sigma[packed(g, g)] as number) + cross;
        return { weight: c.weight, mean: half * slope + (c.theta[g] as number), variance };
      });
      const gca = fit.panel.sd * mixtureMean(mixture);
      const estimate = {
        gca,
        sd: fit.panel.sd * Math.sqrt(mixtureVariance(mixture)),
        factor: SCALE[trait] === "ln" ? Math.exp(gca) : null,
        crosses: crosses.get(strain.index) ?? 0,
      };
      return [known[at] ?? "", estimate];
    }),
  );
}

function crossesPerStrain(fit: TraitFit): Map<number, number> {
  const counts = new Map<number, number>();
  for (const key of fit.records.keys()) {
    for (const strain of new Set([Math.floor(key / fit.ids.length), key % fit.ids.length])) {
      counts.set(strain, (counts.get(strain) ?? 0) + 1);
    }
  }
  return counts;
}

/** One cross and trait on the raw scale; percentages are null where a parent is unknown or its value is 0. */
export interface CrossEffect {
  predicted: number;
  /** Mean of the records, if any. */
  observed: number | null;
  /** Specific combining ability on the analysis scale: the part of the record's deviation that is not error. */
  sca: number | null;
  /** (F1 − mean of the parents) / mean of the parents, %, of the observed value if there is one, else of the predicted. */
  midParentHeterosis: number | null;
  /** The same against the parent with the larger value. */
  betterParentHeterosis: number | null;
}

/** Heterosis and SCA of one cross. */
export function crossEffects(
  model: BreedingModel,
  mother: GeneticStrain,
  father: GeneticStrain,
): Record<GcaTrait, CrossEffect> {
  const { traits } = predictCross(model, mother, father);
  return Object.fromEntries(
    GCA_TRAITS.map((trait) => [trait, effectOf(model.fits[trait], trait, traits[trait].value, mother, father)]),
  ) as Record<GcaTrait, CrossEffect>;
}

function effectOf(
  fit: TraitFit,
  trait: FruitTrait,
  predicted: number,
  mother: GeneticStrain,
  father: GeneticStrain,
): CrossEffect {
  const record = recordOf(fit, mother.id, father.id);
  const observed = record ? fromScale(trait, fit.panel.mean + fit.panel.sd * record.y) : null;
  const value = observed ?? predicted;
  const against = (parent: number | null) =>
    parent === null || parent === 0 ? null : (100 * (value - parent)) / parent;
  const a = mother.phenotype[trait];
  const b = father.phenotype[trait];
  const known = a !== null && b !== null;
  return {
    predicted,
    observed,
    sca: record
      ? fit.panel.sd * scaShare(fit.prior.phi, record.n) * (record.y - additiveMean(fit, mother.id, father.id))
      : null,
    midParentHeterosis: against(known ? (a + b) / 2 : null),
    betterParentHeterosis: against(known ? Math.max(a, b) : null),
  };
}

function recordOf(fit: TraitFit, a: string, b: string) {
  const i = fit.index.get(a);
  const j = fit.index.get(b);
  return i === undefined || j === undefined ? undefined : fit.records.get(pairKey(i, j, fit.ids.length));
}

/** Σω·t′θ of a pair that the fit knows, standardised, without the pair's own SCA. */
function additiveMean(fit: TraitFit, a: string, b: string): number {
  const [i, j] = sweepStrains(fit, [a, b]);
  if (!i || !j) return 0;
  const { m, d } = midParent(i.z, j.z);
  return fit.components.reduce((sum, c) => {
    const g = (column: number) => (column < 0 ? 0 : (c.theta[FIRST_G + column] as number));
    const [c0, beta, delta] = [c.theta[0] as number, c.theta[1] as number, c.theta[2] as number];
    return sum + c.weight * (c0 + beta * m + delta * d + g(i.column) + g(j.column));
  }, 0);
}
