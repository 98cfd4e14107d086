/** Sample strains for a fresh installation: invented lines with the statistics of a public tomato panel, and marked so. */
import { classesFromRatio } from "../genetics/shape.ts";
import {
  FALLBACK_PANEL,
  type GeneticStrain,
  SHAPE_CLASSES,
  type ShapeClass,
  type StrainType,
} from "../genetics/traits.ts";

/** `metadata.source` of generated strains; nobody measured them. */
export const SAMPLE_SOURCE = "sample data";

export interface SampleStrain extends GeneticStrain {
  name: string;
}

/** The line that the API contract shows, with its numbers. */
const CONTRACT_LINE: SampleStrain = {
  id: "TC1_022",
  name: "TC1_022",
  type: "both",
  phenotype: {
    weight: 47.24,
    length: 44.38,
    width: 38.59,
    ratio: 1.15,
    sugarContent: 5.24,
    firmness: 0.51,
    skinThickness: 6.81,
    shape: "round",
  },
};

/** Lines that the contract's examples cross with TC1_022; they must work in either role. */
const CONTRACT_PARTNERS = ["TC1_023", "TC1_026", "TC1_027"];

/** Uniform numbers in [0, 1) from a 32-bit seed (mulberry32). */
function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const round = (value: number, digits = 2) => Number(value.toFixed(digits));
const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value));

/**
 * `count` strains TC1_001, TC1_002, …; the same seed gives the same strains.
 *
 * ln weight, ln ratio and ln k have the panel's means, spreads and weight–ratio correlation (−0.46). The other
 * correlations are judgement: bigger fruit have less sugar (−0.45) and a thicker pericarp (0.4), and a thick pericarp is
 * firmer (about 0.35). Length and width follow from weight, ratio and k; the shape is drawn given the ratio.
 */
export function sampleStrains(count = 50, seed = 20251117): SampleStrain[] {
  const next = uniform(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return Array.from({ length: count }, (_, at) => {
    const id = `TC1_${String(at + 1).padStart(3, "0")}`;
    const drawn = drawStrain(id, normal, next);
    if (id === CONTRACT_LINE.id) return CONTRACT_LINE;
    return CONTRACT_PARTNERS.includes(id) ? { ...drawn, type: "both" } : drawn;
  });
}

function drawStrain(id: string, normal: () => number, next: () => number): SampleStrain {
  const [size, form, density, sweet, wall, hard] = [normal(), normal(), normal(), normal(), normal(), normal()];
  const at = (trait: "weight" | "ratio" | "k" | "sugarContent" | "firmness" | "skinThickness", score: number) =>
    FALLBACK_PANEL[trait].mean + FALLBACK_PANEL[trait].sd * clamp(score, -2.5, 2.5);
  const weight = Math.exp(at("weight", size));
  const lnRatio = at("ratio", -0.46 * size + 0.888 * form);
  const ratio = Math.exp(lnRatio);
  const width = (weight / (Math.exp(at("k", density)) * ratio)) ** (1 / 3);
  const [lengthMm, widthMm] = [round(ratio * width), round(width)];
  return {
    id,
    name: id,
    type: drawType(next()),
    phenotype: {
      weight: round(weight),
      length: lengthMm,
      width: widthMm,
      ratio: round(lengthMm / widthMm),
      sugarContent: round(clamp(at("sugarContent", -0.45 * size + 0.893 * sweet), 2, 10)),
      firmness: round(at("firmness", 0.1 * size + 0.35 * wall + 0.931 * hard)),
      skinThickness: round(clamp(at("skinThickness", 0.4 * size + 0.917 * wall), 2, 9)),
      shape: drawShape(lnRatio, next()),
    },
  };
}

/** Six lines in ten serve in both roles, two only as mother, two only as father. */
function drawType(u: number): StrainType {
  if (u < 0.6) return "both";
  return u < 0.8 ? "female" : "male";
}

/** Flat lines are round; the others draw their class from its likelihood at this ratio. */
function drawShape(lnRatio: number, u: number): ShapeClass {
  if (lnRatio < 0) return "round";
  const shares = classesFromRatio(lnRatio);
  let sum = 0;
  for (const shape of SHAPE_CLASSES) {
    sum += shares[shape];
    if (u < sum) return shape;
  }
  return "round";
}
