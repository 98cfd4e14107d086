import { type Failure, fail, ok, type Result } from "../../../shared/result.ts";
import type { YoloOutput } from "../manifest.ts";

/**
 * From the output of a YOLO head to the objects it found, still in pixels of the model's input. Pure.
 *
 * The layouts are those of Ultralytics' exports (see the manifest). As in its `non_max_suppression`: each place answers its
 * best label only, boxes of one label suppress each other, the surest first, and none does above the limit.
 */

export type Tensor = { dims: readonly number[]; data: Float32Array };

export type Failed = Failure<"MODEL_NOT_USABLE">;

/** Something found; coordinates in pixels of the model's input, not clipped to anything. */
export type Found = {
  x1: number;
  y1: number;
  x2: number;
  y2: number;
  /** 0..1 */
  score: number;
  labelId: number;
  /** Mask coefficients or keypoints. */
  extra: Float32Array;
};

/** Places that a head may have; 2048 x 2048 pixels at strides of 8, 16 and 32 have 86,016. */
const MAX_PLACES = 200_000;

/** Places that take part in suppression, the surest ones. */
const MAX_CANDIDATES = 30_000;

/** A sigmoid ends at 1; more than rounding beyond it means that the output is not what the manifest says. */
const SCORE_SLACK = 1e-3;

const notUsable = (message: string) => fail("MODEL_NOT_USABLE", message);

const describe = (dims: readonly number[]) => `[${dims.slice(0, 8).join(", ")}]`;

const isScore = (value: number): boolean => value >= -SCORE_SLACK && value <= 1 + SCORE_SLACK;

/** Values beside box, score and label that a head has for each place. */
export const extraValues = (output: Pick<YoloOutput, "masks" | "kpt_shape">): number =>
  output.masks?.channels ?? (output.kpt_shape ? output.kpt_shape[0] * output.kpt_shape[1] : 0);

type Limits = { confidenceThreshold: number; iouThreshold: number; maxDetections: number };

/**
 * Everything above the confidence threshold, the surest first, at most `maxDetections`. `iouThreshold` is for heads that
 * leave suppression to us. `MODEL_NOT_USABLE` when the output is not what the manifest says.
 */
export function findObjects(
  output: Tensor,
  head: YoloOutput,
  labelCount: number,
  limits: Limits,
): Result<Found[], Failed> {
  const extra = extraValues(head);
  return head.nms === "none"
    ? decodePlaces(output, labelCount, extra, limits)
    : decodeRows(output, labelCount, extra, limits);
}

/** `[1, 4 + labels + extra, places]`. */
function decodePlaces(
  { dims, data }: Tensor,
  labelCount: number,
  extra: number,
  limits: Limits,
): Result<Found[], Failed> {
  const [batch, values, places = 0] = dims;
  if (dims.length !== 3 || batch !== 1 || values !== 4 + labelCount + extra || places > MAX_PLACES) {
    return notUsable(`The model gives ${describe(dims)}, its manifest says [1, ${4 + labelCount + extra}, places]`);
  }
  // Label by label, in the order in which the values lie in memory.
  const best = new Float32Array(places).fill(Number.NEGATIVE_INFINITY);
  const bestLabel = new Int32Array(places);
  for (let label = 0; label < labelCount; label += 1) {
    const row = (4 + label) * places;
    for (let place = 0; place < places; place += 1) {
      const score = data[row + place] ?? Number.NaN;
      if (!isScore(score)) return notUsable("The model gives scores that are not probabilities");
      if (score > (best[place] ?? 0)) {
        best[place] = score;
        bestLabel[place] = label;
      }
    }
  }
  const candidates: number[] = [];
  for (let place = 0; place < places; place += 1) {
    if ((best[place] ?? 0) > limits.confidenceThreshold) candidates.push(place);
  }
  candidates.sort((a, b) => (best[b] ?? 0) - (best[a] ?? 0) || a - b);

  const at = (value: number, place: number) => data[value * places + place] ?? Number.NaN;
  const kept: Found[] = [];
  for (const place of candidates.slice(0, MAX_CANDIDATES)) {
    if (kept.length >= limits.maxDetections) break;
    const [x, y, width, height] = [at(0, place), at(1, place), at(2, place), at(3, place)];
    const found: Found = {
      x1: x - width / 2,
      y1: y - height / 2,
      x2: x + width / 2,
      y2: y + height / 2,
      score: best[place] ?? 0,
      labelId: bestLabel[place] ?? 0,
      extra: Float32Array.from({ length: extra }, (_, i) => at(4 + labelCount + i, place)),
    };
    if (!allFinite(found)) return notUsable("The model puts out values that are not numbers");
    if (!kept.some((other) => suppresses(other, found, limits.iouThreshold))) kept.push(found);
  }
  return ok(kept);
}

/** `[1, rows, 6 + extra]`: found and suppressed inside the model. */
function decodeRows(
  { dims, data }: Tensor,
  labelCount: number,
  extra: number,
  limits: Limits,
): Result<Found[], Failed> {
  const width = 6 + extra;
  const [batch, rows = 0, values] = dims;
  if (dims.length !== 3 || batch !== 1 || values !== width || rows > MAX_PLACES) {
    return notUsable(`The model gives ${describe(dims)}, its manifest says [1, rows, ${width}]`);
  }
  const kept: Found[] = [];
  for (let row = 0; row < rows; row += 1) {
    const [x1 = 0, y1 = 0, x2 = 0, y2 = 0, score = Number.NaN, label = 0] = data.subarray(row * width, row * width + 6);
    if (!isScore(score)) return notUsable("The model gives scores that are not probabilities");
    if (score <= limits.confidenceThreshold) continue;
    const labelId = Math.round(label);
    if (!(labelId >= 0 && labelId < labelCount))
      return notUsable(`The model finds a label that is none of ${labelCount}`);
    const found = { x1, y1, x2, y2, score, labelId, extra: data.slice(row * width + 6, (row + 1) * width) };
    if (!allFinite(found)) return notUsable("The model puts out values that are not numbers");
    kept.push(found);
  }
  kept.sort((a, b) => b.score - a.score);
  return ok(kept.slice(0, limits.maxDetections));
}

const allFinite = (found: Found): boolean =>
  Number.isFinite(found.x1 + found.y1 + found.x2 + found.y2) && found.extra.every(Number.isFinite);

const area = (box: Found): number => Math.max(box.x2 - box.x1, 0) * Math.max(box.y2 - box.y1, 0);

/** Whether `kept` and `other` have one label and overlap by more than the limit (intersection over union). */
function suppresses(kept: Found, other: Found, iouThreshold: number): boolean {
  if (kept.labelId !== other.labelId) return false;
  const width = Math.min(kept.x2, other.x2) - Math.max(kept.x1, other.x1);
  const height = Math.min(kept.y2, other.y2) - Math.max(kept.y1, other.y1);
  if (width <= 0 || height <= 0) return false;
  const shared = width * height;
  return shared > iouThreshold * (area(kept) + area(other) - shared);
}
