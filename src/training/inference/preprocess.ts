import type { ModelInput } from "./manifest.ts";

/**
 * From decoded pixels to the input tensor of a model. Pure, and the only implementation: the embedded trainer imports it,
 * so that a model sees in the Worker exactly what it was trained on.
 *
 * Alpha is composited on white, as a viewer shows it. Each axis is resized on its own with half-pixel centres: area (box)
 * average when it shrinks, linear interpolation when it grows, nothing when the sizes are equal. The image is read once,
 * row by row; no resized copy is made.
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

/** The source pixels `first`, `first + 1`, … that make one target pixel, and their weights, which sum to 1. */
type Tap = { first: number; weights: number[] };

/**
 * Taps of `count` target pixels that share the span [start, start + length) of a source axis of `size` pixels.
 */
function axisTaps(size: number, start: number, length: number, count: number): Tap[] {
  const step = length / count;
  if (step === 1) {
    // Equal sizes: pixels are taken over as they are, also when an odd rest would put the crop between two of them.
    return Array.from({ length: count }, (_, i) => ({ first: Math.floor(start) + i, weights: [1] }));
  }
  return Array.from({ length: count }, (_, i) =>
    step > 1 ? boxTap(size, start + i * step, step) : linearTap(size, start + (i + 0.5) * step - 0.5),
  );
}

/** Average over [from, from + length): each source pixel counts by how much of it lies inside. */
function boxTap(size: number, from: number, length: number): Tap {
  const first = Math.min(Math.max(Math.floor(from), 0), size - 1);
  const last = Math.min(Math.max(Math.ceil(from + length) - 1, first), size - 1);
  const weights: number[] = [];
  for (let pixel = first; pixel <= last; pixel += 1) {
    weights.push(Math.max(Math.min(pixel + 1, from + length) - Math.max(pixel, from), 0));
  }
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return { first, weights: weights.map((weight) => weight / sum) };
}

/** Between the two pixel centres nearest to `centre`; beyond the outermost centre the edge pixel alone. */
function linearTap(size: number, centre: number): Tap {
  const first = Math.floor(centre);
  if (first < 0) return { first: 0, weights: [1] };
  if (first >= size - 1) return { first: size - 1, weights: [1] };
  const part = centre - first;
  return part === 0 ? { first, weights: [1] } : { first, weights: [1 - part, part] };
}

/** Where the image goes: the target rectangle that it fills and the taps of its columns and rows. */
type Plan = { left: number; top: number; columns: Tap[]; rows: Tap[] };

function plan(source: { width: number; height: number }, input: ModelInput): Plan {
  const { width, height } = input;
  if (input.resize === "pad") {
    const ratio = Math.max(source.width / width, source.height / height);
    const contentWidth = Math.min(Math.max(Math.round(source.width / ratio), 1), width);
    const contentHeight = Math.min(Math.max(Math.round(source.height / ratio), 1), height);
    return {
      left: Math.floor((width - contentWidth) / 2),
      top: Math.floor((height - contentHeight) / 2),
      columns: axisTaps(source.width, 0, source.width, contentWidth),
      rows: axisTaps(source.height, 0, source.height, contentHeight),
    };
  }
  const ratio = Math.min(source.width / width, source.height / height);
  const spanX = input.resize === "crop" ? width * ratio : source.width;
  const spanY = input.resize === "crop" ? height * ratio : source.height;
  return {
    left: 0,
    top: 0,
    columns: axisTaps(source.width, (source.width - spanX) / 2, spanX, width),
    rows: axisTaps(source.height, (source.height - spanY) / 2, spanY, height),
  };
}

/** Resizes one source row into `row` (three values a column: red, green, blue, 0..255). */
function resizeRow(pixels: Pixels, walk: Walk, y: number, columns: Tap[], row: Float64Array): void {
  const { data } = pixels;
  const rowStart = walk.origin + y * walk.stepY;
  for (let x = 0; x < columns.length; x += 1) {
    const tap = columns[x];
    if (!tap) continue;
    let red = 0;
    let green = 0;
    let blue = 0;
    for (let i = 0; i < tap.weights.length; i += 1) {
      const at = (rowStart + (tap.first + i) * walk.stepX) * 4;
      const weight = tap.weights[i] ?? 0;
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
    }
    row[x * 3] = red;
    row[x * 3 + 1] = green;
    row[x * 3 + 2] = blue;
  }
}

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
  const { left, top, columns, rows } = plan(walk, input);
  const plane = input.width * input.height;

  const put = (at: number, channel: number, pixel: number) => {
    const mean = input.mean[channel] ?? 0;
    const std = input.std[channel] ?? 1;
    target[offset + channel * plane + at] = (pixel * input.scale - mean) / std;
  };

  if (columns.length < input.width || rows.length < input.height) {
    for (let channel = 0; channel < input.channels; channel += 1) {
      for (let at = 0; at < plane; at += 1) put(at, channel, input.pad_value);
    }
  }

  // A source row takes part in at most two target rows (box) or is one of the two in use (linear): two are kept.
  const kept = [
    { y: -1, row: new Float64Array(columns.length * 3) },
    { y: -1, row: new Float64Array(columns.length * 3) },
  ];
  const sourceRow = (y: number): Float64Array => {
    const slot = kept[y % 2];
    if (!slot) throw new Error("unreachable");
    if (slot.y !== y) {
      resizeRow(pixels, walk, y, columns, slot.row);
      slot.y = y;
    }
    return slot.row;
  };

  const sum = new Float64Array(columns.length * 3);
  rows.forEach((tap, index) => {
    sum.fill(0);
    tap.weights.forEach((weight, i) => {
      const row = sourceRow(tap.first + i);
      for (let at = 0; at < sum.length; at += 1) sum[at] = (sum[at] ?? 0) + weight * (row[at] ?? 0);
    });
    const start = (top + index) * input.width + left;
    for (let x = 0; x < columns.length; x += 1) {
      const [red, green, blue] = [sum[x * 3] ?? 0, sum[x * 3 + 1] ?? 0, sum[x * 3 + 2] ?? 0];
      if (input.channels === 1) {
        put(start + x, 0, 0.299 * red + 0.587 * green + 0.114 * blue); // luma, ITU-R BT.601
      } else {
        put(start + x, 0, red);
        put(start + x, 1, green);
        put(start + x, 2, blue);
      }
    }
  });
  return target;
}
