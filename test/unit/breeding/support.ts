/** Shared by the breeding tests: strains and records made from numbers, nothing else. */
import {
  type GeneticStrain,
  type Observation,
  type Phenotype,
  unknownPhenotype,
} from "../../../src/breeding/genetics/traits.ts";

/** Uniform numbers in [0, 1), the same for the same seed. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

export const phenotypeOf = (known: Partial<Phenotype>): Phenotype => ({ ...unknownPhenotype(), ...known });

export const strainOf = (id: string, known: Partial<Phenotype> = {}): GeneticStrain => ({
  id,
  type: "both",
  phenotype: phenotypeOf(known),
});

export const observationOf = (motherId: string, fatherId: string, known: Partial<Phenotype>, n = 1): Observation => ({
  motherId,
  fatherId,
  n,
  phenotype: phenotypeOf(known),
});

/** An F1 near the geometric mean of its parents, with noise: enough for a model to learn from. */
export function simulateObservation(mother: GeneticStrain, father: GeneticStrain, random: () => number): Observation {
  const near = (trait: "weight" | "ratio" | "sugarContent" | "firmness" | "skinThickness", noise: number) => {
    const [a, b] = [mother.phenotype[trait] ?? 1, father.phenotype[trait] ?? 1];
    return Math.sqrt(a * b) * Math.exp(noise * (random() - 0.5));
  };
  const [weight, ratio] = [near("weight", 0.5), near("ratio", 0.2)];
  const width = (weight / (5.9e-4 * Math.exp(0.1 * (random() - 0.5)) * ratio)) ** (1 / 3);
  return observationOf(
    mother.id,
    father.id,
    {
      weight,
      width,
      length: ratio * width,
      ratio,
      sugarContent: near("sugarContent", 0.3),
      firmness: near("firmness", 0.2),
      skinThickness: near("skinThickness", 0.3),
      shape: "round",
    },
    1 + Math.floor(4 * random()),
  );
}

/** `count` records of different random pairs. */
export function simulateRecords(strains: readonly GeneticStrain[], count: number, seed: number): Observation[] {
  const random = randomOf(seed);
  const pick = () => strains[Math.floor(random() * strains.length)] as GeneticStrain;
  const out: Observation[] = [];
  while (out.length < count) {
    const [mother, father] = [pick(), pick()];
    if (mother !== father) out.push(simulateObservation(mother, father, random));
  }
  return out;
}
