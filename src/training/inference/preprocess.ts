import type { ModelInput } from "./manifest.ts";
import { type Placement, planInput, type Taps, tapsOf } from "./resample.ts";

/**
 * From decoded pixels to the input tensor of a model. Pure, and the only implementation: the embedded trainer imports it,
 * so that a model sees in the Worker exactly what it was trained on.
 *
 * Alpha is composited on white, as a viewer shows it. Each axis is resized on its own with half-pixel centres, in the way that
 * the manifest names; nothing happens when the sizes are equal. The image is read row by row; no resized copy is made.
 */

/**
 * Decoded image: `data` holds width * height * 4 bytes, red, green, blue, alpha (not premultiplied). `opaque`: all alpha is
 * known to be 255, which spares looking.
 */
export type Pixels = { width: number; height: number; data: Uint8Array | Uint8ClampedArray; opaque?: boolean };

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

/** Values of one row, plane by plane: all of red, then green, then blue. Bytes where they are rounded: those clamp as well. */
type Row = Float32Array | Uint8ClampedArray;

/** A byte array rounds halves to even; the frameworks round them up. */
const HALVES_UP = 1e-4;

/*
 * Loops over pixels never leave their arrays, which `as number` says: `?? 0` would cost a third of their time, because the
 * engine then keeps "not there" apart for each element; so would a function for it, which all kinds of arrays share.
 */

/** Pixels as one number each, alpha above blue above green above red: all platforms of this code are little-endian. */
function packed({ data }: Pixels): Int32Array {
  const { buffer, byteOffset, byteLength } = data.byteOffset % 4 === 0 ? data : data.slice();
  return new Int32Array(buffer, byteOffset, byteLength >>> 2);
}

function isOpaque(rgba: Int32Array): boolean {
  let all = -1;
  for (let at = 0; at < rgba.length; at += 1) all &= rgba[at] as number;
  return all >>> 24 === 255;
}

/** A copy that lies on white and is opaque. */
function onWhite(rgba: Int32Array): Int32Array {
  const white = (colour: number, alpha: number) => Math.round((colour * alpha) / 255) + 255 - alpha;
  return rgba.map((pixel) => {
    const alpha = pixel >>> 24;
    const [red, green, blue] = [pixel & 255, (pixel >>> 8) & 255, (pixel >>> 16) & 255];
    return (255 << 24) | (white(blue, alpha) << 16) | (white(green, alpha) << 8) | white(red, alpha);
  });
}

/**
 * Resizes one source row.
 * @param from position of its first pixel, and `step` from one to the next
 * @param up is added to each value
 */
function resizeRow(rgba: Int32Array, from: number, step: number, columns: Taps, row: Row, up: number): void {
  const { first, begin, weights, count, most } = columns;
  if (most === 1) {
    for (let x = 0; x < count; x += 1) {
      const pixel = rgba[from + (first[x] as number) * step] as number;
      row[x] = pixel & 255;
      row[x + count] = (pixel >>> 8) & 255;
      row[x + 2 * count] = (pixel >>> 16) & 255;
    }
    return;
  }
  for (let x = 0; x < count; x += 1) {
    const end = begin[x + 1] as number;
    let at = from + (first[x] as number) * step;
    let red = up;
    let green = up;
    let blue = up;
    for (let i = begin[x] as number; i < end; i += 1) {
      const pixel = rgba[at] as number;
      const weight = weights[i] as number;
      red += weight * (pixel & 255);
      green += weight * ((pixel >>> 8) & 255);
      blue += weight * ((pixel >>> 16) & 255);
      at += step;
    }
    row[x] = red;
    row[x + count] = green;
    row[x + 2 * count] = blue;
  }
}

/** sum = two rows by their weights, rounded. */
function mixTwo(sum: Uint8ClampedArray, a: Row, p: number, b: Row, q: number): void {
  for (let at = 0; at < sum.length; at += 1) sum[at] = (a[at] as number) * p + (b[at] as number) * q + HALVES_UP;
}

/** sum += four rows by their weights; a pass over memory costs more than multiplying by nothing. */
function addFour(sum: Float32Array, rows: readonly [Row, Row, Row, Row], weights: Float64Array, from: number): void {
  const [a, b, c, d] = rows;
  const [p = 0, q = 0, r = 0, s = 0] = weights.subarray(from, from + 4);
  for (let at = 0; at < sum.length; at += 1) {
    sum[at] =
      (sum[at] as number) +
      (a[at] as number) * p +
      (b[at] as number) * q +
      (c[at] as number) * r +
      (d[at] as number) * s;
  }
}

/**
 * The same for pixels, into red, green and blue in turn.
 * @param starts positions of the first pixel in each of the four rows
 */
function addFourPixelRows(
  sum: Float32Array,
  rgba: Int32Array,
  starts: readonly [number, number, number, number],
  step: number,
  weights: Float64Array,
  from: number,
): void {
  let [a, b, c, d] = starts;
  const [p = 0, q = 0, r = 0, s = 0] = weights.subarray(from, from + 4);
  for (let at = 0; at < sum.length; at += 3) {
    const first = rgba[a] as number;
    const second = rgba[b] as number;
    const third = rgba[c] as number;
    const fourth = rgba[d] as number;
    sum[at] = (sum[at] as number) + p * (first & 255) + q * (second & 255) + r * (third & 255) + s * (fourth & 255);
    sum[at + 1] =
      (sum[at + 1] as number) +
      p * ((first >>> 8) & 255) +
      q * ((second >>> 8) & 255) +
      r * ((third >>> 8) & 255) +
      s * ((fourth >>> 8) & 255);
    sum[at + 2] =
      (sum[at + 2] as number) +
      p * ((first >>> 16) & 255) +
      q * ((second >>> 16) & 255) +
      r * ((third >>> 16) & 255) +
      s * ((fourth >>> 16) & 255);
    a += step;
    b += step;
    c += step;
    d += step;
  }
}

/** An opaque image, how it is walked, and what makes its rows and columns in the input. */
type Source = { rgba: Int32Array; walk: Walk; columns: Taps; rows: Taps };

/** Rows of the input, one after the other; each is valid until the next is asked for. */
type RowMaker = (y: number) => Row;

/** Values that are not rounded: along columns first, where the pixels of a row can be taken one after the other. */
function exactRows({ rgba, walk, columns, rows }: Source): RowMaker {
  const { first, begin, weights, count } = columns;
  const origin = first[0] as number;
  const end = (first[count - 1] as number) + (begin[count] as number) - (begin[count - 1] as number);
  const sum = new Float32Array((end - origin) * 3);
  const row = new Float32Array(count * 3);
  return (y) => {
    const top = rows.first[y] as number;
    const shares = rows.weights.subarray(rows.begin[y], rows.begin[y + 1]);
    const last = shares.length - 1;
    sum.fill(0);
    // Past the end the last row again, by nothing.
    const start = (i: number) => walk.origin + origin * walk.stepX + (top + Math.min(i, last)) * walk.stepY;
    for (let i = 0; i <= last; i += 4) {
      addFourPixelRows(sum, rgba, [start(i), start(i + 1), start(i + 2), start(i + 3)], walk.stepX, shares, i);
    }
    for (let x = 0; x < count; x += 1) {
      const stop = begin[x + 1] as number;
      let at = ((first[x] as number) - origin) * 3;
      let red = 0;
      let green = 0;
      let blue = 0;
      for (let i = begin[x] as number; i < stop; i += 1) {
        const weight = weights[i] as number;
        red += weight * (sum[at] as number);
        green += weight * (sum[at + 1] as number);
        blue += weight * (sum[at + 2] as number);
        at += 3;
      }
      row[x] = red;
      row[x + count] = green;
      row[x + 2 * count] = blue;
    }
    return row;
  };
}

/** Values rounded as the frameworks do it, whose order this is: along rows first. `each`: also between the two axes. */
function roundedRows({ rgba, walk, columns, rows }: Source, each: boolean): RowMaker {
  const length = columns.count * 3;
  // Neighbouring target rows share source rows: as many are kept as one target row is made of.
  const kept = Array.from({ length: rows.most + 1 }, () => ({
    y: -1,
    row: each ? new Uint8ClampedArray(length) : new Float32Array(length),
  }));
  const sourceRow = (y: number): Row => {
    const slot = kept[y % kept.length];
    if (!slot) throw new Error("unreachable");
    if (slot.y !== y) {
      resizeRow(rgba, walk.origin + y * walk.stepY, walk.stepX, columns, slot.row, each ? HALVES_UP : 0);
      slot.y = y;
    }
    return slot.row;
  };
  const mixed = new Uint8ClampedArray(length);
  const sum = new Float32Array(length);
  const isWhole = each || columns.most === 1;
  return (y) => {
    const first = rows.first[y] as number;
    const weights = rows.weights.subarray(rows.begin[y], rows.begin[y + 1]);
    const last = weights.length - 1;
    if (last === 0 && isWhole) return sourceRow(first);
    if (last <= 1) {
      mixTwo(mixed, sourceRow(first), weights[0] as number, sourceRow(first + last), weights[1] ?? 0);
      return mixed;
    }
    sum.fill(HALVES_UP);
    // Past the end the last row again, by nothing.
    const row = (i: number) => sourceRow(first + Math.min(i, last));
    for (let i = 0; i <= last; i += 4) addFour(sum, [row(i), row(i + 1), row(i + 2), row(i + 3)], weights, i);
    mixed.set(sum);
    return mixed;
  };
}

/** Size of an image as a viewer shows it: a quarter turn swaps the sides. */
export const uprightSize = (stored: { width: number; height: number }, orientation: number) =>
  orientation >= 5 && orientation <= 8
    ? { width: stored.height, height: stored.width }
    : { width: stored.width, height: stored.height };

/** Where the image lies in the input and how large it is when upright, in pixels. */
export type Frame = { placement: Placement; width: number; height: number };

/**
 * Where an image lies in a model's input, in pixels of the file that was sent, upright.
 * @param stored size of that file's pixels and their orientation
 * @param pixels what was decoded: the same, or a smaller copy that is upright already (`orientation` 1)
 */
export function frameOf(
  stored: { width: number; height: number; orientation: number },
  pixels: { width: number; height: number },
  orientation: number,
  input: ModelInput,
): Frame {
  const sent = uprightSize(stored, stored.orientation);
  const decoded = uprightSize(pixels, orientation);
  const { placement } = planInput(decoded, input);
  const scaleX = (placement.scaleX * decoded.width) / sent.width;
  const scaleY = (placement.scaleY * decoded.height) / sent.height;
  return { ...sent, placement: { ...placement, scaleX, scaleY } };
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
  const { left, top, rounding, ...plan } = planInput(walk, input);
  const [columns, rows] = [tapsOf(plan.columns), tapsOf(plan.rows)];
  const { count } = columns;
  const plane = input.width * input.height;
  const { channels } = input;
  const scales = input.std.map((std) => input.scale / std);
  const shifts = input.std.map((std, channel) => -(input.mean[channel] ?? 0) / std);

  if (count < input.width || rows.count < input.height) {
    for (let channel = 0; channel < channels; channel += 1) {
      const value = input.pad_value * (scales[channel] ?? 1) + (shifts[channel] ?? 0);
      target.fill(value, offset + channel * plane, offset + (channel + 1) * plane);
    }
  }

  const stored = packed(pixels);
  const rgba = pixels.opaque || isOpaque(stored) ? stored : onWhite(stored);
  const source = { rgba, walk, columns, rows };
  const targetRow = rounding === "none" ? exactRows(source) : roundedRows(source, rounding === "each");

  for (let y = 0; y < rows.count; y += 1) {
    const row = targetRow(y);
    const start = offset + (top + y) * input.width + left;
    for (let channel = 0; channel < channels; channel += 1) {
      const scale = scales[channel] ?? 1;
      const shift = shifts[channel] ?? 0;
      const to = start + channel * plane;
      if (channels === 1) {
        // luma, ITU-R BT.601
        for (let x = 0; x < count; x += 1) {
          const grey =
            0.299 * (row[x] as number) + 0.587 * (row[x + count] as number) + 0.114 * (row[x + 2 * count] as number);
          target[to + x] = grey * scale + shift;
        }
      } else {
        const from = channel * count;
        for (let x = 0; x < count; x += 1) target[to + x] = (row[from + x] as number) * scale + shift;
      }
    }
  }
  return target;
}
