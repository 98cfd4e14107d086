import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import { type Found, findObjects, type Tensor } from "./decode/boxes.ts";
import { checkPrototypes, instanceMask, outline } from "./decode/masks.ts";
import type { CheckpointManifest, YoloOutput } from "./manifest.ts";
import type { Frame } from "./preprocess.ts";
import type { Box, InferenceOptions, InferenceResult } from "./results.ts";

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
  const best: number[] = [];
  // A few of many: most values are below all that were kept and are passed over with one comparison.
  let lowest = Number.NEGATIVE_INFINITY;
  values.forEach((value, position) => {
    if (best.length === count && value <= lowest) return;
    let at = best.length;
    while (at > 0 && (values[best[at - 1] ?? 0] ?? 0) < value) at -= 1;
    best.splice(at, 0, position);
    if (best.length > count) best.pop();
    lowest = values[best[best.length - 1] ?? 0] ?? lowest;
  });
  return best;
}

/**
 * The `topK` most probable labels of one image, whatever their confidence, in descending order.
 * `outputs` holds one value a label. `MODEL_NOT_USABLE` when the counts differ or a value is not finite.
 */
export function classify(
  outputs: Float32Array,
  manifest: { labels: readonly string[]; output: { decode: "softmax" | "none" } },
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

/** Names of the outputs that an answer is made of. */
export const outputNames = ({ output }: Pick<CheckpointManifest, "output">): string[] =>
  output.decode === "yolo" && output.masks ? [output.name, output.masks.name] : [output.name];

/** A model's outputs by name. */
export type Outputs = ReadonlyMap<string, Tensor>;

/**
 * What the API answers, from the outputs of one run. Pixels are those of the upright image and lie within it.
 * `MODEL_NOT_USABLE` when the outputs are not what the manifest says.
 */
export function readAnswer(
  outputs: Outputs,
  manifest: CheckpointManifest,
  frame: Frame,
  options: InferenceOptions,
): Result<InferenceResult, Failure<"MODEL_NOT_USABLE">> {
  const { output, labels } = manifest;
  const values = outputs.get(output.name);
  if (!values) return fail("MODEL_NOT_USABLE", `The model gives no output named ${output.name}`);
  if (output.decode !== "yolo") {
    const predictions = classify(values.data, { labels, output }, options.topK);
    return predictions.ok ? ok({ task_type: "image_classification", predictions: predictions.value }) : predictions;
  }
  const found = findObjects(values, output, labels.length, options);
  if (!found.ok) return found;
  if (output.masks) return readMasks(found.value, outputs.get(output.masks.name), output.masks, manifest, frame);
  if (output.kpt_shape) return ok(readKeypoints(found.value, output.kpt_shape, manifest, frame));
  return ok({ task_type: "object_detection", ...describeBoxes(found.value, manifest, frame) });
}

/** Hundredths of a pixel. */
const toPixels = (value: number): number => Math.round(value * 100) / 100;
const toConfidence = (value: number): number => Math.round(Math.min(Math.max(value, 0), 1) * 1e6) / 1e6;

/** From the input back to the image. */
const toImageX = (x: number, { placement, width }: Frame): number =>
  toPixels(Math.min(Math.max((x - placement.offsetX) / placement.scaleX, 0), width));
const toImageY = (y: number, { placement, height }: Frame): number =>
  toPixels(Math.min(Math.max((y - placement.offsetY) / placement.scaleY, 0), height));

function describeBoxes(found: readonly Found[], { labels }: Pick<CheckpointManifest, "labels">, frame: Frame) {
  const predicted_boxes = found.map((object): Box => {
    const [x1, x2] = [toImageX(object.x1, frame), toImageX(object.x2, frame)];
    const [y1, y2] = [toImageY(object.y1, frame), toImageY(object.y2, frame)];
    return {
      class_id: object.labelId,
      label: labels[object.labelId] ?? "",
      bbox: [toPixels((x1 + x2) / 2), toPixels((y1 + y2) / 2), toPixels(x2 - x1), toPixels(y2 - y1)],
      x1,
      y1,
      x2,
      y2,
      confidence: toConfidence(object.score),
      format: "yolo",
    };
  });
  const predictions = predicted_boxes.map(({ label, class_id, confidence }) => ({
    label,
    label_id: class_id,
    confidence,
  }));
  return { predictions, predicted_boxes, num_detections: predicted_boxes.length };
}

/** An object whose mask is empty is left out, as Ultralytics does. */
function readMasks(
  found: readonly Found[],
  prototypes: Tensor | undefined,
  masks: NonNullable<YoloOutput["masks"]>,
  manifest: CheckpointManifest,
  frame: Frame,
): Result<InferenceResult, Failure<"MODEL_NOT_USABLE">> {
  if (!prototypes) return fail("MODEL_NOT_USABLE", `The model gives no output named ${masks.name}`);
  const checked = checkPrototypes(prototypes, masks.channels);
  if (!checked.ok) return checked;
  const instances = found.flatMap((object) => {
    const mask = instanceMask(object, prototypes, manifest.input, frame.placement);
    return mask ? [{ object, polygon: outline(mask) }] : [];
  });
  const boxes = describeBoxes(
    instances.map(({ object }) => object),
    manifest,
    frame,
  );
  return ok({
    task_type: "instance_segmentation",
    ...boxes,
    predicted_masks: instances.map(({ object, polygon }, index) => ({
      instance_id: index,
      class_id: object.labelId,
      label: manifest.labels[object.labelId] ?? "",
      polygon: polygon.map(([x, y]): [number, number] => [toImageX(x, frame), toImageY(y, frame)]),
      confidence: toConfidence(object.score),
    })),
    num_instances: instances.length,
  });
}

function readKeypoints(
  found: readonly Found[],
  [count, size]: NonNullable<YoloOutput["kpt_shape"]>,
  manifest: CheckpointManifest,
  frame: Frame,
): InferenceResult {
  return {
    task_type: "pose_estimation",
    ...describeBoxes(found, manifest, frame),
    predicted_keypoints: found.map((object, index) => ({
      person_id: index,
      keypoints: Array.from({ length: count }, (_, id) => ({
        keypoint_id: id,
        x: toImageX(object.extra[id * size] ?? 0, frame),
        y: toImageY(object.extra[id * size + 1] ?? 0, frame),
        confidence: size === 3 ? toConfidence(object.extra[id * size + 2] ?? 0) : null,
      })),
      confidence: toConfidence(object.score),
    })),
    num_persons: found.length,
  };
}
