import type { ModelInput } from "./manifest.ts";
import { type Placement, planInput, type Tap } from "./resample.ts";

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

/** Values of one row, plane by plane: all of red, then green, then blue. Bytes where the plan rounds: they round and clamp. */
type Row = Float32Array | Uint8ClampedArray;

/** A byte array rounds halves to even; the frameworks round them up. */
const HALVES_UP = 1e-4;

/** Source pixels along one axis, laid out flat: the first of each target and where its weights begin; one entry more ends them. */
type FlatTaps = { length: number; first: Int32Array; start: Int32Array; weights: Float32Array; most: number };

function flatten(taps: Tap[]): FlatTaps {
  const first = new Int32Array(taps.length);
  const start = new Int32Array(taps.length + 1);
  const weights = new Float32Array(taps.reduce((sum, tap) => sum + tap.weights.length, 0));
  let at = 0;
  let most = 1;
  taps.forEach((tap, index) => {
    first[index] = tap.first;
    start[index] = at;
    weights.set(tap.weights, at);
    most = Math.max(most, tap.weights.length);
    at += tap.weights.length;
  });
  start[taps.length] = at;
  return { length: taps.length, first, start, weights, most };
}

const isOpaque = ({ data }: Pixels): boolean => {
  for (let at = 3; at < data.length; at += 4) if (data[at] !== 255) return false;
  return true;
};

/** Resizes one source row of an image without transparency. `up` is added to each value. */
function resizeOpaqueRow({ data }: Pixels, walk: Walk, y: number, columns: FlatTaps, row: Row, up: number): void {
  const { first, start, weights, length, most } = columns;
  const from = (walk.origin + y * walk.stepY) * 4;
  const step = walk.stepX * 4;
  if (most === 1) {
    for (let x = 0; x < length; x += 1) {
      const at = from + (first[x] ?? 0) * step;
      row[x] = data[at] ?? 0;
      row[x + length] = data[at + 1] ?? 0;
      row[x + 2 * length] = data[at + 2] ?? 0;
    }
    return;
  }
  for (let x = 0; x < length; x += 1) {
    let at = from + (first[x] ?? 0) * step;
    const end = start[x + 1] ?? 0;
    let red = up;
    let green = up;
    let blue = up;
    for (let i = start[x] ?? 0; i < end; i += 1) {
      const weight = weights[i] ?? 0;
      red += weight * (data[at] ?? 0);
      green += weight * (data[at + 1] ?? 0);
      blue += weight * (data[at + 2] ?? 0);
      at += step;
    }
    row[x] = red;
    row[x + length] = green;
    row[x + 2 * length] = blue;
  }
}

/** The same for an image with transparent pixels, which lie on white. */
function resizeBlendedRow({ data }: Pixels, walk: Walk, y: number, columns: FlatTaps, row: Row, up: number): void {
  const { first, start, weights, length } = columns;
  const from = (walk.origin + y * walk.stepY) * 4;
  for (let x = 0; x < length; x += 1) {
    let at = from + (first[x] ?? 0) * walk.stepX * 4;
    const end = start[x + 1] ?? 0;
    let [red, green, blue] = [up, up, up];
    for (let i = start[x] ?? 0; i < end; i += 1) {
      const weight = weights[i] ?? 0;
      const alpha = data[at + 3] ?? 255;
      const opacity = alpha / 255;
      red += weight * ((data[at] ?? 0) * opacity + 255 - alpha);
      green += weight * ((data[at + 1] ?? 0) * opacity + 255 - alpha);
      blue += weight * ((data[at + 2] ?? 0) * opacity + 255 - alpha);
      at += walk.stepX * 4;
    }
    row[x] = red;
    row[x + length] = green;
    row[x + 2 * length] = blue;
  }
}

/** sum = first * weight, or first * weight + second * other, rounded where `sum` has bytes. */
function mixRows(sum: Row, first: Row, weight: number, second: Row, other: number, up: number): void {
  for (let at = 0; at < sum.length; at += 1) sum[at] = (first[at] ?? 0) * weight + (second[at] ?? 0) * other + up;
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
  const plan = planInput(walk, input);
  const { left, top, rounding } = plan;
  const columns = flatten(plan.columns);
  const length = columns.length;
  const plane = input.width * input.height;
  const { channels } = input;
  const scales = input.std.map((std) => input.scale / std);
  const shifts = input.std.map((std, channel) => -(input.mean[channel] ?? 0) / std);

  if (length < input.width || plan.rows.length < input.height) {
    for (let channel = 0; channel < channels; channel += 1) {
      const value = input.pad_value * (scales[channel] ?? 1) + (shifts[channel] ?? 0);
      target.fill(value, offset + channel * plane, offset + (channel + 1) * plane);
    }
  }

  const newRow = (bytes: boolean): Row => (bytes ? new Uint8ClampedArray(length * 3) : new Float32Array(length * 3));
  const resizeRow = isOpaque(pixels) ? resizeOpaqueRow : resizeBlendedRow;
  const rowUp = rounding === "each" ? HALVES_UP : 0;
  // Neighbouring target rows share source rows: as many are kept as one target row is made of.
  const most = plan.rows.reduce((longest, tap) => Math.max(longest, tap.weights.length), 1);
  const kept = Array.from({ length: most + 1 }, () => ({ y: -1, row: newRow(rounding === "each") }));
  const sourceRow = (y: number): Row => {
    const slot = kept[y % kept.length];
    if (!slot) throw new Error("unreachable");
    if (slot.y !== y) {
      resizeRow(pixels, walk, y, columns, slot.row, rowUp);
      slot.y = y;
    }
    return slot.row;
  };

  const mixed = newRow(rounding !== "none");
  const whole = new Float32Array(length * 3);
  const up = rounding === "none" ? 0 : HALVES_UP;
  const targetRow = ({ first, weights }: Tap): Row => {
    const row = sourceRow(first);
    const [weight = 1, other = 0] = weights;
    if (weights.length === 1 && rounding !== "end") return row;
    if (weights.length <= 2) {
      mixRows(mixed, row, weight, weights.length === 2 ? sourceRow(first + 1) : row, other, up);
      return mixed;
    }
    whole.fill(up);
    weights.forEach((share, i) => {
      const more = sourceRow(first + i);
      for (let at = 0; at < whole.length; at += 1) whole[at] = (whole[at] ?? 0) + share * (more[at] ?? 0);
    });
    mixed.set(whole);
    return mixed;
  };

  plan.rows.forEach((tap, index) => {
    const row = targetRow(tap);
    const start = offset + (top + index) * input.width + left;
    for (let channel = 0; channel < channels; channel += 1) {
      const scale = scales[channel] ?? 1;
      const shift = shifts[channel] ?? 0;
      const to = start + channel * plane;
      if (channels === 1) {
        // luma, ITU-R BT.601
        for (let x = 0; x < length; x += 1) {
          const grey = 0.299 * (row[x] ?? 0) + 0.587 * (row[x + length] ?? 0) + 0.114 * (row[x + 2 * length] ?? 0);
          target[to + x] = grey * scale + shift;
        }
      } else {
        const from = channel * length;
        for (let x = 0; x < length; x += 1) target[to + x] = (row[from + x] ?? 0) * scale + shift;
      }
    }
  });
  return target;
}
