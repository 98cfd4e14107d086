/** The Korean sentence that goes with a prediction: size, use, and a warning where the prediction says little. */
import { type Cuts, gradeOf } from "./grades.ts";

export const SIZE_CLASSES = ["small", "medium", "large"] as const;
export type SizeClass = (typeof SIZE_CLASSES)[number];

/** Market class by fruit weight in g: below 30 cherry, below 200 medium, else beefsteak. */
export function sizeClassOf(weight: number): SizeClass {
  if (weight < 30) return "small";
  return weight < 200 ? "medium" : "large";
}

const SIZE_TEXT: Record<SizeClass, string> = {
  small: "소과종(방울토마토)으로 간편 생식용에 적합",
  medium: "중과종으로 다용도 활용 가능",
  large: "대과종으로 슬라이스·스테이크용에 적합",
};

/** °Brix from which a fruit of the class is sweet enough to be eaten fresh (judgement). */
const SWEET_BRIX: Record<SizeClass, number> = { small: 8, medium: 6, large: 5 };

/** Mean confidence below which a trial cross comes first. */
const UNSURE = 0.45;

/**
 * Compares unrounded values.
 *
 * @param weight g, @param sugarContent °Brix, @param firmness kg
 * @param confidences of weight, length, sugarContent and firmness
 */
export function recommend(input: {
  weight: number;
  sugarContent: number;
  firmness: number;
  firmnessCuts: Cuts;
  confidences: readonly number[];
}): string {
  const size = sizeClassOf(input.weight);
  const sentences = [SIZE_TEXT[size]];
  if (input.sugarContent >= SWEET_BRIX[size]) sentences.push("당도가 높아 생식용으로 활용 권장");
  else if (gradeOf(input.firmness, input.firmnessCuts) >= 4) sentences.push("경도가 높아 가공·유통용으로 활용 권장");
  else sentences.push("가공용으로 활용 권장");
  const mean = input.confidences.reduce((sum, c) => sum + c, 0) / input.confidences.length;
  if (mean < UNSURE) sentences.push("예측 불확실성이 커 시험 교배 후 재평가 권장");
  return sentences.join(". ");
}
