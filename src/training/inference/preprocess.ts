import type { ModelInput } from "./manifest.ts";
import { type Placement, planInput, tapsOf } from "./resample.ts";
import type { ReadRow, RowKernel } from "./row-kernel.ts";

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

/** Pixels as one number each, alpha above blue above green above red: all platforms of this code are little-endian. */
function packed({ data }: Pixels): Int32Array {
  const { buffer, byteOffset, byteLength } = data.byteOffset % 4 === 0 ? data : data.slice();
  return new Int32Array(buffer, byteOffset, byteLength >>> 2);
}

/** Lays pixels on white; opaque ones stay as they are. */
function ontoWhite(pixels: Int32Array): void {
  const white = (colour: number, alpha: number) => Math.round((colour * alpha) / 255) + 255 - alpha;
  for (let at = 0; at < pixels.length; at += 1) {
    const pixel = pixels[at] as number;
    const alpha = pixel >>> 24;
    if (alpha === 255) continue;
    const red = white(pixel & 255, alpha);
    const green = white((pixel >>> 8) & 255, alpha);
    const blue = white((pixel >>> 16) & 255, alpha);
    pixels[at] = (255 << 24) | (blue << 16) | (green << 8) | red;
  }
}

/** Reads upright rows, from column `origin` on. */
function rowReader(image: Pixels, walk: Walk, origin: number): ReadRow {
  const stored = packed(image);
  return (y, pixels) => {
    const from = walk.origin + origin * walk.stepX + y * walk.stepY;
    if (walk.stepX === 1) {
      pixels.set(stored.subarray(from, from + pixels.length));
    } else {
      // Never outside: `?? 0` would cost a third of the time.
      for (let x = 0, at = from; x < pixels.length; x += 1, at += walk.stepX) pixels[x] = stored[at] as number;
    }
    if (!image.opaque) ontoWhite(pixels);
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

/** Shares of red, green and blue in luma, ITU-R BT.601. */
const LUMA = [0.299, 0.587, 0.114] as const;

/**
 * Writes one image into a tensor in NCHW order: value = (pixel * scale - mean[channel]) / std[channel].
 *
 * @param orientation Exif orientation 1..8 of the stored pixels
 * @param target at least `offset + tensorLength(input)` values; a new array when left out. A batch is filled by calling
 *   once an image with growing offsets.
 */
export function imageToTensor(
  kernel: RowKernel,
  pixels: Pixels,
  input: ModelInput,
  orientation = 1,
  target: Float32Array<ArrayBuffer> = new Float32Array(tensorLength(input)),
  offset = 0,
): Float32Array<ArrayBuffer> {
  const walk = uprightWalk(pixels, orientation);
  const { left, top, rounding, ...plan } = planInput(walk, input);
  const [columns, rows] = [tapsOf(plan.columns), tapsOf(plan.rows)];
  const plane = input.width * input.height;
  const ofChannel = (channel: number) => {
    const std = input.std[channel] ?? 1;
    return { scale: input.scale / std, shift: -(input.mean[channel] ?? 0) / std };
  };

  if (columns.count < input.width || rows.count < input.height) {
    for (let channel = 0; channel < input.channels; channel += 1) {
      const { scale, shift } = ofChannel(channel);
      target.fill(input.pad_value * scale + shift, offset + channel * plane, offset + (channel + 1) * plane);
    }
  }

  const isGrey = input.channels === 1;
  const share = (colour: 0 | 1 | 2) => {
    if (!isGrey) return ofChannel(colour);
    const { scale, shift } = ofChannel(0);
    return { scale: scale * LUMA[colour], shift: colour === 0 ? shift : 0 };
  };
  const makeRow = kernel.begin(
    rowReader(pixels, walk, columns.first[0] ?? 0),
    columns,
    rows,
    { columns: rounding === "each", rows: rounding !== "none" },
    [share(0), share(1), share(2)],
  );
  for (let y = 0; y < rows.count; y += 1) {
    const [red, green, blue] = makeRow(y);
    const to = offset + (top + y) * input.width + left;
    if (isGrey) {
      for (let x = 0; x < red.length; x += 1) {
        target[to + x] = (red[x] as number) + (green[x] as number) + (blue[x] as number);
      }
    } else {
      target.set(red, to);
      target.set(green, to + plane);
      target.set(blue, to + 2 * plane);
    }
  }
  return target;
}
