import type { Random } from "./random.ts";

/**
 * Small random changes of training images, so that few images teach more: shift, turn, size and mirror, drawn anew each
 * time an image is used. Pixels beyond the border repeat the border. Pure.
 */

export type Augmentation = {
  /** Largest shift along each axis, as a share of the side. */
  translate: number;
  /** Largest turn either way. */
  degrees: number;
  /** 0.1: between 0.9 and 1.1 times the size. */
  scale: number;
  /** Chance of mirroring left and right. */
  flip: number;
};

/** Row-major 2 x 3 matrix from target to source positions, in pixels from the centre. */
export type Transform = readonly [number, number, number, number, number, number];

/** Draws one change; always takes five numbers, so that what is switched off does not move the others. */
export function drawTransform(augmentation: Augmentation, size: number, random: Random): Transform {
  const within = (limit: number) => (random() * 2 - 1) * limit;
  const angle = (within(augmentation.degrees) * Math.PI) / 180;
  const shrink = 1 / (1 + within(augmentation.scale));
  const shiftX = within(augmentation.translate * size);
  const shiftY = within(augmentation.translate * size);
  const mirror = random() < augmentation.flip ? -1 : 1;
  const cos = Math.cos(angle) * shrink;
  const sin = Math.sin(angle) * shrink;
  return [
    mirror * cos,
    -sin,
    -(mirror * cos * shiftX - sin * shiftY),
    mirror * sin,
    cos,
    -(mirror * sin * shiftX + cos * shiftY),
  ];
}

/**
 * Writes the changed image into `target` at `offset`, with bilinear interpolation.
 *
 * @param image size * size * channels values in the order row, column, channel
 */
export function warp(
  image: Float32Array,
  size: number,
  channels: number,
  [xx, xy, x0, yx, yy, y0]: Transform,
  target: Float32Array,
  offset: number,
): void {
  const centre = (size - 1) / 2;
  const limit = size - 1;
  for (let row = 0; row < size; row += 1) {
    for (let column = 0; column < size; column += 1) {
      const u = column - centre;
      const v = row - centre;
      const x = Math.min(Math.max(xx * u + xy * v + x0 + centre, 0), limit);
      const y = Math.min(Math.max(yx * u + yy * v + y0 + centre, 0), limit);
      const left = Math.min(Math.floor(x), size - 2);
      const top = Math.min(Math.floor(y), size - 2);
      const partX = x - left;
      const partY = y - top;
      const from = (top * size + left) * channels;
      const below = from + size * channels;
      const to = offset + (row * size + column) * channels;
      for (let channel = 0; channel < channels; channel += 1) {
        const upper = (image[from + channel] ?? 0) * (1 - partX) + (image[from + channels + channel] ?? 0) * partX;
        const lower = (image[below + channel] ?? 0) * (1 - partX) + (image[below + channels + channel] ?? 0) * partX;
        target[to + channel] = upper * (1 - partY) + lower * partY;
      }
    }
  }
}
