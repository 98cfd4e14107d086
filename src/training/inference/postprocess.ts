import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import type { CheckpointManifest } from "./manifest.ts";

/** From the numbers a model puts out to what the API answers. Pure. */

export type Prediction = {
  label: string;
  label_id: number;
  /** 0..1 where the model's outputs are logits or probabilities. */
  confidence: number;
};

/** exp(x - max) / sum: the maximum is taken off first so that large logits do not overflow. */
export function softmax(logits: Float32Array): Float64Array {
  let highest = Number.NEGATIVE_INFINITY;
  for (const logit of logits) highest = Math.max(highest, logit);
  const weights = Float64Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

/** Positions of the `count` highest values, highest first; of equal values the lower position comes first. */
export function topIndices(values: Float64Array, count: number): number[] {
  const positions = Array.from(values, (_, position) => position);
  positions.sort((a, b) => (values[b] ?? 0) - (values[a] ?? 0) || a - b);
  return positions.slice(0, count);
}

/**
 * The `topK` most probable labels of one image, whatever their confidence, in descending order.
 * `outputs` holds one value a label. `MODEL_NOT_USABLE` when the counts differ or a value is not finite.
 */
export function classify(
  outputs: Float32Array,
  manifest: Pick<CheckpointManifest, "labels" | "output">,
  topK: number,
): Result<Prediction[], Failure<"MODEL_NOT_USABLE">> {
  const { labels, output } = manifest;
  if (outputs.length !== labels.length) {
    return fail("MODEL_NOT_USABLE", `The model puts out ${outputs.length} values for ${labels.length} labels`);
  }
  if (!outputs.every(Number.isFinite))
    return fail("MODEL_NOT_USABLE", "The model puts out values that are not numbers");
  const confidences = output.decode === "softmax" ? softmax(outputs) : Float64Array.from(outputs);
  return ok(
    topIndices(confidences, topK).map((labelId) => ({
      label: labels[labelId] ?? "",
      label_id: labelId,
      confidence: confidences[labelId] ?? 0,
    })),
  );
}
