/** Which of the four shape classes an F1 has: its predicted ratio, and what crosses of these classes tend to give. */
import type { Moments } from "./geometry.ts";
import { normalDensity } from "./normal.ts";
import { SHAPE_CLASSES, type ShapeClass } from "./traits.ts";

export type ShapeShares = Record<ShapeClass, number>;

/** ln ratio within a class (mean, variance) and the class's share, in 192 tomato lines. */
const CLASS: Record<ShapeClass, { mean: number; variance: number; share: number }> = {
  round: { mean: -0.1869, variance: 0.0172, share: 0.698 },
  oval: { mean: 0.3507, variance: 0.0078, share: 0.073 },
  rectangular: { mean: 0.1988, variance: 0.0744, share: 0.099 },
  pear: { mean: 0.2852, variance: 0.0318, share: 0.13 },
};

/**
 * Korean shape words and their class (judgement: nine words, four classes). The word itself is kept as data beside the
 * class, because 거꿀달걀형 (obovate) is not quite a pear and 납작하다 (flat) is more than round.
 */
export const KOREAN_SHAPES: Readonly<Record<string, ShapeClass>> = {
  둥글다: "round",
  약간납작하다: "round",
  납작하다: "round",
  심장형: "round",
  달걀형: "oval",
  직사각형: "rectangular",
  원통형: "rectangular",
  거꿀달걀형: "pear",
  가지형: "pear",
};

/** Shares of the F1 of two classes before any record (judgement), in the order of SHAPE_CLASSES. */
const DIFFERENT_CLASSES: Record<string, readonly [number, number, number, number]> = {
  "round×oval": [0.6, 0.35, 0.025, 0.025],
  "round×rectangular": [0.5, 0.3, 0.2, 0],
  "round×pear": [0.6, 0.25, 0.05, 0.1],
  "oval×rectangular": [0.05, 0.5, 0.4, 0.05],
  "oval×pear": [0.05, 0.55, 0.05, 0.35],
  "rectangular×pear": [0.05, 0.4, 0.3, 0.25],
};

/** The unordered pair of classes as a key: classes in the order of SHAPE_CLASSES. */
export type ShapePair = `${ShapeClass}×${ShapeClass}`;

export const shapePair = (a: ShapeClass, b: ShapeClass): ShapePair =>
  SHAPE_CLASSES.indexOf(a) <= SHAPE_CLASSES.indexOf(b) ? `${a}×${b}` : `${b}×${a}`;

/** Recorded F1 shapes by pair of parental classes. */
export type ShapeCounts = Partial<Record<ShapePair, Partial<ShapeShares>>>;

/** How many records the judgement behind {@link DIFFERENT_CLASSES} is worth. */
const PRIOR_RECORDS = 5;

const shares = (of: (shape: ShapeClass, position: number) => number): ShapeShares => ({
  round: of("round", 0),
  oval: of("oval", 1),
  rectangular: of("rectangular", 2),
  pear: of("pear", 3),
});

function normalised(weights: ShapeShares): ShapeShares {
  const total = SHAPE_CLASSES.reduce((sum, shape) => sum + weights[shape], 0);
  return shares((shape) => weights[shape] / total);
}

/** π of a pair of classes: the judgement, moved by the recorded F1 of that pair. */
function crossShares(a: ShapeClass, b: ShapeClass, counts: ShapeCounts): ShapeShares {
  const pair = shapePair(a, b);
  const recorded = counts[pair] ?? {};
  const total = SHAPE_CLASSES.reduce((sum, shape) => sum + (recorded[shape] ?? 0), 0);
  return shares((shape, at) => {
    const judged = DIFFERENT_CLASSES[pair]?.[at] ?? (shape === a ? 0.8 : 0.2 / 3);
    const smoothed = (judged + 0.01) / 1.04;
    return (PRIOR_RECORDS * smoothed + (recorded[shape] ?? 0)) / (PRIOR_RECORDS + total);
  });
}

/** How likely each class is for a line whose class nobody wrote down, from its ln ratio if that is known. */
export const classesFromRatio = (lnRatio: number | null): ShapeShares =>
  normalised(
    shares((shape) => {
      const { mean, variance, share } = CLASS[shape];
      return lnRatio === null ? share : share * normalDensity(lnRatio, mean, variance);
    }),
  );

/** The class with the largest share; the first of SHAPE_CLASSES on a tie. */
export const likeliestShape = (weights: ShapeShares): ShapeClass =>
  SHAPE_CLASSES.reduce((best, shape) => (weights[shape] > weights[best] ? shape : best));

/** A parent as far as its shape matters. */
export interface ShapeParent {
  shape: ShapeClass | null;
  lnRatio: number | null;
}

/**
 * Shape of an F1: score(s) = π_s·N(μ; m_s, v_s + σ²), normalised, where μ and σ² describe the predicted ln ratio.
 * A parent of unknown class counts as each class in proportion to its likelihood.
 */
export function predictShape(a: ShapeParent, b: ShapeParent, lnRatio: Moments, counts: ShapeCounts = {}): ShapeShares {
  const classes = (parent: ShapeParent): ShapeShares =>
    parent.shape === null ? classesFromRatio(parent.lnRatio) : shares((shape) => Number(shape === parent.shape));
  const ofA = classes(a);
  const ofB = classes(b);
  const expected = shares(() => 0);
  for (const shapeA of SHAPE_CLASSES) {
    for (const shapeB of SHAPE_CLASSES) {
      const weight = ofA[shapeA] * ofB[shapeB];
      if (weight === 0) continue;
      const pi = crossShares(shapeA, shapeB, counts);
      for (const shape of SHAPE_CLASSES) expected[shape] += weight * pi[shape];
    }
  }
  return normalised(
    shares((shape) => {
      const { mean, variance } = CLASS[shape];
      return expected[shape] * normalDensity(lnRatio.mean, mean, variance + lnRatio.variance);
    }),
  );
}
