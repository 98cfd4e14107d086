import type { ModelInput } from "./manifest.ts";
import { planInput, type Tap } from "./resample.ts";

/**
 * From decoded pixels to the input tensor of a model. Pure, and the only implementation: the embedded trainer imports it,
 * so that a model sees in the Worker exactly what it was trained on.
 *
 * Alpha is composited on white, as a viewer shows it. Each axis is resized on its own with half-pixel centres, first along
 * rows, then along columns, in the way that the manifest names; nothing happens when the sizes are equal. The image is read
 * once, row by row; no resized copy is made.
 */

/** Decoded image: `data` holds width * height * 4 bytes, red, green, blue, alpha (not premultiplied). */
export type Pixels = { width: number; height: number; data: Uint8Array | Uint8ClampedArray };

/** Values of one input tensor. */
export const tensorLength = (input: Pick<ModelInput, "width" | "height" | "channels">): number =>
  input.width * input.height * input.channels;

/**
 * How a stored image is walked so that it appears upright (Exif 2.32, tag 0x0112): the position of upright pixel (x, y),
 * counted in pixels, is origin + x * stepX + y * stepY.
 */
type Walk = { width: number; height: number; origin: number; stepX: number; stepY: number };

function uprightWalk({ width, height }: Pixels, orientation: number): Walk {
  const right = width - 1;
  const bottom = (height - 1) * width;
  switch (orientation) {
    case 2: // mirrored
      return { width, height, origin: right, stepX: -1, stepY: width };
    case 3: // half a turn
      return { width, height, origin: bottom + right, stepX: -1, stepY: -width };
    case 4: // upside down, mirrored
      return { width, height, origin: bottom, stepX: 1, stepY: -width };
    case 5: // transposed
      return { width: height, height: width, origin: 0, stepX: width, stepY: 1 };
    case 6: // stored with its top to the left: a quarter turn clockwise sets it upright
      return { width: height, height: width, origin: bottom, stepX: -width, stepY: 1 };
    case 7: // transposed along the other diagonal
      return { width: height, height: width, origin: bottom + right, stepX: -width, stepY: -1 };
    case 8: // stored with its top to the right
      return { width: height, height: width, origin: right, stepX: width, stepY: -1 };
    default:
      return { width, height, origin: 0, stepX: 1, stepY: width };
  }
}

/** Source pixels along one axis, laid out flat: for each target the first, then how many, and where their weights begin. */
type FlatTaps = {
  length: number;
  first: Int32Array;
  count: Int32Array;
  start: Int32Array;
  weights: Float64Array;
  most: number;
};

function flatten(taps: Tap[]): FlatTaps {
  const total = taps.reduce((sum, tap) => sum + tap.weights.length, 0);
  const flat: FlatTaps = {
    length: taps.length,
    first: new Int32Array(taps.length),
    count: new Int32Array(taps.length),
    start: new Int32Array(taps.length),
    weights: new Float64Array(total),
    most: 0,
  };
  let at = 0;
  taps.forEach((tap, index) => {
    flat.first[index] = tap.first;
    flat.count[index] = tap.weights.length;
    flat.start[index] = at;
    flat.weights.set(tap.weights, at);
    flat.most = Math.max(flat.most, tap.weights.length);
    at += tap.weights.length;
  });
  return flat;
}

/** Resizes one source row into `row` (three values a column: red, green, blue, 0..255). */
function resizeRow(pixels: Pixels, walk: Walk, y: number, columns: FlatTaps, row: Float64Array): void {
  const { data } = pixels;
  const { first, count, start, weights, length } = columns;
  const rowStart = walk.origin + y * walk.stepY;
  for (let x = 0; x < length; x += 1) {
    let red = 0;
    let green = 0;
    let blue = 0;
    let at = (rowStart + (first[x] ?? 0) * walk.stepX) * 4;
    const begin = start[x] ?? 0;
    const end = begin + (count[x] ?? 0);
    for (let i = begin; i < end; i += 1) {
      const weight = weights[i] ?? 0;
      const alpha = data[at + 3] ?? 255;
      if (alpha === 255) {
        red += weight * (data[at] ?? 0);
        green += weight * (data[at + 1] ?? 0);
        blue += weight * (data[at + 2] ?? 0);
      } else {
        const opacity = alpha / 255;
        const white = 255 - alpha;
        red += weight * ((data[at] ?? 0) * opacity + white);
        green += weight * ((data[at + 1] ?? 0) * opacity + white);
        blue += weight * ((data[at + 2] ?? 0) * opacity + white);
      }
      at += walk.stepX * 4;
    }
    row[x * 3] = red;
    row[x * 3 + 1] = green;
    row[x * 3 + 2] = blue;
  }
}

/** To whole pixel values 0..255, halves up; a cubic overshoots on both sides. */
function roundRow(row: Float64Array): void {
  for (let at = 0; at < row.length; at += 1) row[at] = Math.min(Math.max(Math.floor((row[at] ?? 0) + 0.5), 0), 255);
}

/** Size of an image as a viewer shows it: a quarter turn swaps the sides. */
export const uprightSize = (stored: { width: number; height: number }, orientation: number) =>
  orientation >= 5 && orientation <= 8
    ? { width: stored.height, height: stored.width }
    : { width: stored.width, height: stored.height };

/**
 * Writes one image into a tensor in NCHW order: value = (pixel * scale - mean[channel]) / std[channel].
 *
 * @param orientation Exif orientation 1..8 of the stored pixels
 * @param target at least `offset + tensorLength(input)` values; a new array when left out. A batch is filled by calling
 *   once an image with growing offsets.
 */
export function imageToTensor(
  pixels: Pixels,
  input: ModelInput,
  orientation = 1,
  target: Float32Array<ArrayBuffer> = new Float32Array(tensorLength(input)),
  offset = 0,
): Float32Array<ArrayBuffer> {
  const walk = uprightWalk(pixels, orientation);
  const plan = planInput(walk, input);
  const { left, top, rounding } = plan;
  const columns = flatten(plan.columns);
  const plane = input.width * input.height;
  const { scale, channels } = input;

  if (columns.length < input.width || plan.rows.length < input.height) {
    for (let channel = 0; channel < channels; channel += 1) {
      const value = (input.pad_value * scale - (input.mean[channel] ?? 0)) / (input.std[channel] ?? 1);
      target.fill(value, offset + channel * plane, offset + (channel + 1) * plane);
    }
  }

  // Neighbouring target rows share source rows: as many are kept as one target row is made of.
  const most = plan.rows.reduce((longest, tap) => Math.max(longest, tap.weights.length), 1);
  const kept = Array.from({ length: most + 1 }, () => ({ y: -1, row: new Float64Array(columns.length * 3) }));
  const sourceRow = (y: number): Float64Array => {
    const slot = kept[y % kept.length];
    if (!slot) throw new Error("unreachable");
    if (slot.y !== y) {
      resizeRow(pixels, walk, y, columns, slot.row);
      if (rounding === "each") roundRow(slot.row);
      slot.y = y;
    }
    return slot.row;
  };

  const sum = new Float64Array(columns.length * 3);
  plan.rows.forEach((tap, index) => {
    sum.fill(0);
    tap.weights.forEach((weight, i) => {
      const row = sourceRow(tap.first + i);
      for (let at = 0; at < sum.length; at += 1) sum[at] = (sum[at] ?? 0) + weight * (row[at] ?? 0);
    });
    if (rounding !== "none") roundRow(sum);
    const start = offset + (top + index) * input.width + left;
    if (channels === 1) {
      const [mean = 0] = input.mean;
      const [std = 1] = input.std;
      for (let x = 0; x < columns.length; x += 1) {
        // luma, ITU-R BT.601
        const grey = 0.299 * (sum[x * 3] ?? 0) + 0.587 * (sum[x * 3 + 1] ?? 0) + 0.114 * (sum[x * 3 + 2] ?? 0);
        target[start + x] = (grey * scale - mean) / std;
      }
      return;
    }
    for (let channel = 0; channel < 3; channel += 1) {
      const mean = input.mean[channel] ?? 0;
      const std = input.std[channel] ?? 1;
      const to = start + channel * plane;
      for (let x = 0; x < columns.length; x += 1) target[to + x] = ((sum[x * 3 + channel] ?? 0) * scale - mean) / std;
    }
  });
  return target;
}
