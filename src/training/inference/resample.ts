import type { ModelInput } from "./manifest.ts";

/**
 * Where an image goes in the input of a model, and which of its pixels make each pixel there. Pure.
 *
 * Sources: OpenCV `resize` (INTER_LINEAR); Pillow `Resample.c` (`precompute_coeffs`: triangle, and Keys' cubic with
 * a = -0.5); torchvision `Resize` and `CenterCrop`; Ultralytics `LetterBox`.
 */

/** The source pixels `first`, `first + 1`, … that make one target pixel, and their weights, which sum to 1. */
export type Tap = { first: number; weights: Float64Array };

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
  /** Position of the first column and row that the taps make. */
  left: number;
  top: number;
  columns: Tap[];
  rows: Tap[];
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

const tapOf = (first: number, weights: number[]): Tap => {
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return { first, weights: Float64Array.from(weights, (weight) => weight / sum) };
};

/** Average over [from, from + length): each source pixel counts by how much of it lies inside. */
function boxTap(size: number, from: number, length: number): Tap {
  const first = Math.min(Math.max(Math.floor(from), 0), size - 1);
  const last = Math.min(Math.max(Math.ceil(from + length) - 1, first), size - 1);
  const weights: number[] = [];
  for (let pixel = first; pixel <= last; pixel += 1) {
    weights.push(Math.max(Math.min(pixel + 1, from + length) - Math.max(pixel, from), 0));
  }
  return tapOf(first, weights);
}

/** Between the two pixel centres nearest to `centre`; beyond the outermost centre the edge pixel alone. */
function linearTap(size: number, centre: number): Tap {
  const first = Math.floor(centre);
  if (first < 0) return tapOf(0, [1]);
  if (first >= size - 1) return tapOf(size - 1, [1]);
  const part = centre - first;
  return tapOf(first, part === 0 ? [1] : [1 - part, part]);
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

/** Pillow's filter around `centre` (an edge coordinate: the middle of pixel 0 is 0.5), widened by `step` when that is above 1. */
function filterTap(size: number, centre: number, step: number, filter: (x: number) => number, support: number): Tap {
  const widen = Math.max(step, 1);
  const first = Math.max(Math.trunc(centre - support * widen + 0.5), 0);
  const end = Math.min(Math.trunc(centre + support * widen + 0.5), size);
  const weights: number[] = [];
  for (let pixel = first; pixel < end; pixel += 1) weights.push(filter((pixel - centre + 0.5) / widen));
  return tapOf(first, weights);
}

/** Taps of `count` target pixels that share the span [start, start + length) of a source axis of `size` pixels. */
function axisTaps(size: number, start: number, length: number, count: number, interpolation: Interpolation): Tap[] {
  const step = length / count;
  if (step === 1) {
    // Equal sizes: pixels are taken over as they are, also when an odd rest would put the crop between two of them.
    return Array.from({ length: count }, (_, i) => tapOf(Math.floor(start) + i, [1]));
  }
  return Array.from({ length: count }, (_, i) => {
    const centre = start + (i + 0.5) * step;
    if (interpolation === "pil_bilinear") return filterTap(size, centre, step, triangle, 1);
    if (interpolation === "pil_bicubic") return filterTap(size, centre, step, cubic, 2);
    if (interpolation === "area" && step > 1) return boxTap(size, start + i * step, step);
    return linearTap(size, centre - 0.5);
  });
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
    columns: axisTaps(source.width, 0, source.width, contentWidth, interpolation),
    rows: axisTaps(source.height, 0, source.height, contentHeight, interpolation),
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
      // Only the pixels that remain: each tap is that of the whole resized axis.
      taps: axisTaps(size, cut * step, count * step, count, interpolation),
      at: { scale: resized / size, offset: 0 - cut },
    };
  };
  const x = axis(source.width, wide ? long : shortSide, input.width);
  const y = axis(source.height, wide ? shortSide : long, input.height);
  return {
    left: 0,
    top: 0,
    columns: x.taps,
    rows: y.taps,
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
    columns: axisTaps(source.width, startX, spanX, width, interpolation),
    rows: axisTaps(source.height, startY, spanY, height, interpolation),
    rounding: roundingOf(interpolation),
    placement: placed(
      input,
      { scale: width / spanX, offset: ((0 - startX) * width) / spanX },
      { scale: height / spanY, offset: ((0 - startY) * height) / spanY },
      source,
    ),
  };
}
