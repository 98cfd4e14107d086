import { type Failure, fail, ok, type Result } from "../../../shared/result.ts";
import type { Found, Tensor } from "./boxes.ts";

/**
 * From mask coefficients to the outline of an instance, in pixels of the model's input. Pure.
 *
 * As Ultralytics' `process_mask` with `upsample`: the prototypes are combined, enlarged to the input's size (bilinear,
 * half-pixel centres), what is above 0 and inside the box is the instance. Its largest connected part (8 neighbours) is
 * answered as the polygon around its pixels.
 */

export type Point = [x: number, y: number];

/** Bits of one instance: a window of the input, `left`/`top` its first pixel; 1 inside, 0 outside. */
export type Mask = { left: number; top: number; width: number; height: number; data: Uint8Array };

/** A window of whole pixels. */
type Area = { left: number; top: number; right: number; bottom: number };

/** Pixels that the outline may deviate: a little more than the steps of a slanted edge. */
const TOLERANCE = 0.75;

/** What the prototypes must look like: `[1, channels, height, width]`. */
export function checkPrototypes(prototypes: Tensor, channels: number): Result<null, Failure<"MODEL_NOT_USABLE">> {
  const [batch, count, height = 0, width = 0] = prototypes.dims;
  const values = channels * height * width;
  if (
    prototypes.dims.length !== 4 ||
    batch !== 1 ||
    count !== channels ||
    values !== prototypes.data.length ||
    !values
  ) {
    return fail("MODEL_NOT_USABLE", `The model gives no mask prototypes [1, ${channels}, height, width]`);
  }
  return prototypes.data.every(Number.isFinite)
    ? ok(null)
    : fail("MODEL_NOT_USABLE", "The model puts out values that are not numbers");
}

/**
 * The instance's bits, cut to its box and to `shown`, the part of the input that shows the image; null when nothing remains.
 * @param input size of the model's input in pixels
 */
export function instanceMask(
  found: Found,
  prototypes: Tensor,
  input: { width: number; height: number },
  shown: Area,
): Mask | null {
  const [, channels = 0, protoHeight = 0, protoWidth = 0] = prototypes.dims;
  // A pixel belongs to the box when its number lies within: from x1 up to x2, x2 itself not.
  const left = Math.max(Math.ceil(found.x1), Math.floor(shown.left), 0);
  const top = Math.max(Math.ceil(found.y1), Math.floor(shown.top), 0);
  const right = Math.min(Math.ceil(found.x2), Math.ceil(shown.right), input.width);
  const bottom = Math.min(Math.ceil(found.y2), Math.ceil(shown.bottom), input.height);
  if (right <= left || bottom <= top) return null;
  const width = right - left;
  const height = bottom - top;

  const columns = sampling(left, right, protoWidth, input.width);
  const rows = sampling(top, bottom, protoHeight, input.height);
  // The logits of the prototypes' pixels that are needed.
  const logitWidth = columns.last - columns.first + 1;
  const logits = new Float32Array(logitWidth * (rows.last - rows.first + 1));
  const plane = protoWidth * protoHeight;
  for (let channel = 0; channel < channels; channel += 1) {
    const coefficient = found.extra[channel] ?? 0;
    for (let y = rows.first; y <= rows.last; y += 1) {
      const from = channel * plane + y * protoWidth + columns.first;
      const to = (y - rows.first) * logitWidth;
      for (let x = 0; x < logitWidth; x += 1) {
        logits[to + x] = (logits[to + x] ?? 0) + coefficient * (prototypes.data[from + x] ?? 0);
      }
    }
  }

  const data = new Uint8Array(width * height);
  let any = false;
  for (let y = 0; y < height; y += 1) {
    const upper = ((rows.low[y] ?? 0) - rows.first) * logitWidth - columns.first;
    const lower = ((rows.high[y] ?? 0) - rows.first) * logitWidth - columns.first;
    const down = rows.part[y] ?? 0;
    for (let x = 0; x < width; x += 1) {
      const low = columns.low[x] ?? 0;
      const high = columns.high[x] ?? 0;
      const across = columns.part[x] ?? 0;
      const above = (logits[upper + low] ?? 0) * (1 - across) + (logits[upper + high] ?? 0) * across;
      const below = (logits[lower + low] ?? 0) * (1 - across) + (logits[lower + high] ?? 0) * across;
      if (above * (1 - down) + below * down > 0) {
        data[y * width + x] = 1;
        any = true;
      }
    }
  }
  return any ? { left, top, width, height, data } : null;
}

/** Which two pixels of an axis of `size` make the pixels `from` to `to` of the same axis enlarged to `enlarged`. */
function sampling(from: number, to: number, size: number, enlarged: number) {
  const count = to - from;
  const low = new Int32Array(count);
  const high = new Int32Array(count);
  const part = new Float32Array(count);
  for (let i = 0; i < count; i += 1) {
    const centre = Math.max(((from + i + 0.5) * size) / enlarged - 0.5, 0);
    const first = Math.min(Math.floor(centre), size - 1);
    low[i] = first;
    high[i] = Math.min(first + 1, size - 1);
    part[i] = centre - first;
  }
  return { low, high, part, first: low[0] ?? 0, last: high[count - 1] ?? 0 };
}

/** The outline of a mask's largest part: corners of pixels in input coordinates, at most `TOLERANCE` off; not closed. */
export function outline(mask: Mask): Point[] {
  const { width, data } = mask;
  const parts = new Int32Array(data.length);
  let largest = { part: 0, size: 0, start: 0 };
  let part = 0;
  for (let start = 0; start < data.length; start += 1) {
    if (data[start] !== 1 || parts[start] !== 0) continue;
    part += 1;
    const size = fill(mask, parts, start, part);
    if (size > largest.size) largest = { part, size, start };
  }
  if (largest.size === 0) return [];
  // The first pixel found of a part is its topmost, and there its leftmost: nothing of it lies above or to the left.
  const inside = (x: number, y: number) =>
    x >= 0 && y >= 0 && x < width && y < mask.height && parts[y * width + x] === largest.part;
  const corners = walkAround(inside, largest.start % width, Math.floor(largest.start / width));
  return simplify(corners).map(([x, y]) => [x + mask.left, y + mask.top]);
}

/** Marks the part that `start` belongs to and answers its pixels. */
function fill({ width, height, data }: Mask, parts: Int32Array, start: number, part: number): number {
  const stack = [start];
  parts[start] = part;
  let size = 0;
  for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
    size += 1;
    const x = at % width;
    const y = (at - x) / width;
    for (let ny = Math.max(y - 1, 0); ny <= Math.min(y + 1, height - 1); ny += 1) {
      for (let nx = Math.max(x - 1, 0); nx <= Math.min(x + 1, width - 1); nx += 1) {
        const next = ny * width + nx;
        if (data[next] !== 1 || parts[next] !== 0) continue;
        parts[next] = part;
        stack.push(next);
      }
    }
  }
  return size;
}

/** East, south, west, north. */
const STEPS: readonly Point[] = [
  [1, 0],
  [0, 1],
  [-1, 0],
  [0, -1],
];
/** The pixel to the left of an edge that goes in this direction, seen from the corner where it begins; right of it the other. */
const LEFT_OF: readonly Point[] = [
  [0, -1],
  [0, 0],
  [-1, 0],
  [-1, -1],
];

/** The corners passed on the way around a part along the edges of its pixels, clockwise, the part always on the right. */
function walkAround(inside: (x: number, y: number) => boolean, startX: number, startY: number): Point[] {
  const corners: Point[] = [];
  let [x, y, direction] = [startX, startY, 0];
  do {
    const [stepX, stepY] = STEPS[direction] ?? [0, 0];
    x += stepX;
    y += stepY;
    const [leftX, leftY] = LEFT_OF[direction] ?? [0, 0];
    const [rightX, rightY] = LEFT_OF[(direction + 1) % 4] ?? [0, 0];
    // Pixels that touch at a corner belong together, so turning left comes first.
    if (inside(x + leftX, y + leftY)) {
      corners.push([x, y]);
      direction = (direction + 3) % 4;
    } else if (!inside(x + rightX, y + rightY)) {
      corners.push([x, y]);
      direction = (direction + 1) % 4;
    }
  } while (x !== startX || y !== startY || direction !== 0);
  return corners;
}

/** Leaves out corners of a closed outline that deviate at most `TOLERANCE` from what remains (Douglas and Peucker, 1973). */
function simplify(corners: Point[]): Point[] {
  // Closed: cut at the corner that is farthest from the first.
  const first = corners[0];
  if (!first || corners.length < 5) return corners;
  let far = 0;
  let farthest = -1;
  corners.forEach(([x, y], index) => {
    const distance = (x - first[0]) ** 2 + (y - first[1]) ** 2;
    if (distance > farthest) [far, farthest] = [index, distance];
  });
  const keep = new Uint8Array(corners.length + 1);
  keep[0] = 1;
  keep[far] = 1;
  const ring = [...corners, first];
  const spans: [number, number][] = [
    [0, far],
    [far, corners.length],
  ];
  for (let span = spans.pop(); span; span = spans.pop()) {
    const [from, to] = span;
    const [start, end] = [ring[from], ring[to]];
    if (!start || !end) continue;
    let worst = TOLERANCE;
    let at = -1;
    for (let index = from + 1; index < to; index += 1) {
      const distance = distanceToSegment(ring[index] ?? start, start, end);
      if (distance > worst) [at, worst] = [index, distance];
    }
    if (at < 0) continue;
    keep[at] = 1;
    spans.push([from, at], [at, to]);
  }
  const kept = corners.filter((_, index) => keep[index] === 1);
  // A line of single pixels is thinner than the tolerance.
  return kept.length < 3 ? corners : kept;
}

function distanceToSegment([x, y]: Point, [x1, y1]: Point, [x2, y2]: Point): number {
  const [dx, dy] = [x2 - x1, y2 - y1];
  const length = dx * dx + dy * dy;
  const along = length === 0 ? 0 : Math.min(Math.max(((x - x1) * dx + (y - y1) * dy) / length, 0), 1);
  return Math.hypot(x - x1 - along * dx, y - y1 - along * dy);
}
