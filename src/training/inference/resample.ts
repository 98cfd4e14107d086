import type { ModelInput } from "./manifest.ts";

/**
 * Where an image goes in the input of a model, and which of its pixels make each pixel there. Pure.
 *
 * Sources: OpenCV `resize` (INTER_LINEAR); Pillow `Resample.c` (`precompute_coeffs`: triangle, and Keys' cubic with
 * a = -0.5); torchvision `Resize` and `CenterCrop`; Ultralytics `LetterBox`.
 */

/** One axis of a resize: `count` target pixels share the span [start, start + length) of `size` source pixels. */
export type Axis = { size: number; start: number; length: number; count: number; interpolation: Interpolation };

/**
 * Target pixel i of an axis is the sum of source pixels `first[i]`, `first[i] + 1`, … with the weights that lie from `begin[i]`
 * up to `begin[i + 1]`, which sum to 1.
 */
export type Taps = { count: number; first: Int32Array; begin: Int32Array; weights: Float64Array; most: number };

type Interpolation = NonNullable<ModelInput["interpolation"]>;

/**
 * Input pixel = source pixel * scale + offset, for edges as well as for points between them. Source pixels are those of the
 * upright image.
 */
export type Placement = {
  scaleX: number;
  scaleY: number;
  offsetX: number;
  offsetY: number;
  /** The part of the input that shows the image; the rest is padding. */
  left: number;
  top: number;
  right: number;
  bottom: number;
};

export type Plan = {
  /** Position of the first column and row that the axes make. */
  left: number;
  top: number;
  columns: Axis;
  rows: Axis;
  /** Whether values are rounded to whole numbers after each axis, at the end, or not at all. */
  rounding: "each" | "end" | "none";
  placement: Placement;
};

/** To the nearest integer, halves to the even one, as Python rounds. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

const triangle = (x: number): number => Math.max(1 - Math.abs(x), 0);

/** Keys' cubic with a = -0.5. */
function cubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

/** Fills `weights` for one target pixel and answers which source pixel the first of them is for, and how many they are. */
type Weigh = (target: number, weights: Float64Array) => [first: number, count: number];

/** Pixels taken over as they are, also when an odd rest would put a crop between two of them. */
const takeOver =
  ({ start }: Axis): Weigh =>
  (target, weights) => {
    weights[0] = 1;
    return [Math.floor(start) + target, 1];
  };

/** Average over the target's share of the span: each source pixel counts by how much of it lies inside. */
function average({ size, start, length, count }: Axis): Weigh {
  const step = length / count;
  return (target, weights) => {
    const from = start + target * step;
    const first = Math.min(Math.max(Math.floor(from), 0), size - 1);
    const last = Math.min(Math.max(Math.ceil(from + step) - 1, first), size - 1);
    for (let pixel = first; pixel <= last; pixel += 1) {
      weights[pixel - first] = Math.max(Math.min(pixel + 1, from + step) - Math.max(pixel, from), 0);
    }
    return [first, last - first + 1];
  };
}

/** Between the two pixel centres nearest to the target's; beyond the outermost centre the edge pixel alone. */
function nearestTwo({ size, start, length, count }: Axis): Weigh {
  return (target, weights) => {
    const centre = start + (target + 0.5) * (length / count) - 0.5;
    const first = Math.min(Math.max(Math.floor(centre), 0), size - 1);
    const part = centre < 0 || first === size - 1 ? 0 : centre - first;
    weights[0] = 1 - part;
    weights[1] = part;
    return [first, part === 0 ? 1 : 2];
  };
}

/** Pillow's filter around the target's middle (the middle of pixel 0 is 0.5), widened by the step when that is above 1. */
function filtered({ size, start, length, count }: Axis, filter: (x: number) => number, support: number): Weigh {
  const step = length / count;
  const widen = Math.max(step, 1);
  return (target, weights) => {
    const centre = start + (target + 0.5) * step;
    const first = Math.max(Math.trunc(centre - support * widen + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support * widen + 0.5), size);
    for (let pixel = first; pixel < end; pixel += 1) weights[pixel - first] = filter((pixel - centre + 0.5) / widen);
    return [first, end - first];
  };
}

function weigh(axis: Axis): Weigh {
  const step = axis.length / axis.count;
  if (step === 1) return takeOver(axis);
  if (axis.interpolation === "pil_bilinear") return filtered(axis, triangle, 1);
  if (axis.interpolation === "pil_bicubic") return filtered(axis, cubic, 2);
  return axis.interpolation === "area" && step > 1 ? average(axis) : nearestTwo(axis);
}

/** Source pixels of one target pixel at most: the widest filter reaches two steps to both sides. */
const widest = ({ length, count }: Axis): number => 4 * Math.ceil(Math.max(length / count, 1)) + 2;

/** Which source pixels make each target pixel of an axis. */
export function tapsOf(axis: Axis): Taps {
  const { count } = axis;
  const first = new Int32Array(count);
  const begin = new Int32Array(count + 1);
  const weights = new Float64Array(count * widest(axis));
  const next = weigh(axis);
  let [at, most] = [0, 1];
  for (let target = 0; target < count; target += 1) {
    const own = weights.subarray(at);
    const [pixel, length] = next(target, own);
    let sum = 0;
    for (let i = 0; i < length; i += 1) sum += own[i] ?? 0;
    for (let i = 0; i < length; i += 1) own[i] = (own[i] ?? 0) / sum;
    first[target] = pixel;
    at += length;
    begin[target + 1] = at;
    most = Math.max(most, length);
  }
  return { count, first, begin, weights, most };
}

type Size = { width: number; height: number };

/** `length` pixels of the input, `scale` of them for one of the source, beginning `offset` before or after the source's edge. */
const placed = (
  input: Size,
  x: { scale: number; offset: number },
  y: { scale: number; offset: number },
  source: Size,
) => ({
  scaleX: x.scale,
  scaleY: y.scale,
  offsetX: x.offset,
  offsetY: y.offset,
  left: Math.max(x.offset, 0),
  top: Math.max(y.offset, 0),
  right: Math.min(source.width * x.scale + x.offset, input.width),
  bottom: Math.min(source.height * y.scale + y.offset, input.height),
});

/** All of the image inside the input, in the middle. */
function planContained(source: Size, input: ModelInput, interpolation: Interpolation): Plan {
  const { width, height } = input;
  // Ultralytics multiplies and rounds halves to even; `pad` divides. They differ in the last bit only, and only then.
  const ratio = Math.min(width / source.width, height / source.height);
  const inverse = Math.max(source.width / width, source.height / height);
  const contain = (length: number, most: number) =>
    Math.min(
      Math.max(input.resize === "letterbox" ? roundHalfEven(length * ratio) : Math.round(length / inverse), 1),
      most,
    );
  const contentWidth = contain(source.width, width);
  const contentHeight = contain(source.height, height);
  const left = Math.floor((width - contentWidth) / 2);
  const top = Math.floor((height - contentHeight) / 2);
  return {
    left,
    top,
    columns: { size: source.width, start: 0, length: source.width, count: contentWidth, interpolation },
    rows: { size: source.height, start: 0, length: source.height, count: contentHeight, interpolation },
    rounding: roundingOf(interpolation),
    placement: placed(
      input,
      { scale: contentWidth / source.width, offset: left },
      { scale: contentHeight / source.height, offset: top },
      source,
    ),
  };
}

/** The shorter side to `shortSide` pixels, the middle cut out of what that gives. */
function planResizedCrop(source: Size, input: ModelInput, shortSide: number, interpolation: Interpolation): Plan {
  const wide = source.width > source.height;
  const long = Math.trunc((shortSide * Math.max(source.width, source.height)) / Math.min(source.width, source.height));
  const axis = (size: number, resized: number, count: number) => {
    const cut = roundHalfEven((resized - count) / 2);
    const step = size / resized;
    return {
      // Only the pixels that remain: each is made as that of the whole resized axis.
      axis: { size, start: cut * step, length: count * step, count, interpolation },
      at: { scale: resized / size, offset: 0 - cut },
    };
  };
  const x = axis(source.width, wide ? long : shortSide, input.width);
  const y = axis(source.height, wide ? shortSide : long, input.height);
  return {
    left: 0,
    top: 0,
    columns: x.axis,
    rows: y.axis,
    rounding: roundingOf(interpolation),
    placement: placed(input, x.at, y.at, source),
  };
}

/** Pillow and torchvision write whole numbers after each axis, OpenCV at the end; our own way does not round. */
const roundingOf = (interpolation: Interpolation): Plan["rounding"] =>
  interpolation === "area" ? "none" : interpolation === "cv_linear" ? "end" : "each";

/** Plans an upright image of this size for a model's input. */
export function planInput(source: Size, input: ModelInput): Plan {
  const { width, height } = input;
  const interpolation = input.interpolation ?? (input.resize === "letterbox" ? "cv_linear" : "area");
  if (input.resize === "pad" || input.resize === "letterbox") return planContained(source, input, interpolation);
  if (input.resize === "crop" && input.resize_short_side !== undefined) {
    return planResizedCrop(source, input, input.resize_short_side, interpolation);
  }
  const ratio = Math.min(source.width / width, source.height / height);
  const spanX = input.resize === "crop" ? width * ratio : source.width;
  const spanY = input.resize === "crop" ? height * ratio : source.height;
  const startX = (source.width - spanX) / 2;
  const startY = (source.height - spanY) / 2;
  return {
    left: 0,
    top: 0,
    columns: { size: source.width, start: startX, length: spanX, count: width, interpolation },
    rows: { size: source.height, start: startY, length: spanY, count: height, interpolation },
    rounding: roundingOf(interpolation),
    placement: placed(
      input,
      { scale: width / spanX, offset: ((0 - startX) * width) / spanX },
      { scale: height / spanY, offset: ((0 - startY) * height) / spanY },
      source,
    ),
  };
}
