import { describe, it } from "vitest";
import { type Augmentation, drawTransform, type Transform, warp } from "../../../runner/embedded/trainer/augment.ts";
import { createRandom } from "../../../runner/embedded/trainer/random.ts";

const NOTHING: Augmentation = { translate: 0, degrees: 0, scale: 0, flip: 0 };

/** 0 … n - 1, row by row. */
const ramp = (size: number, channels = 1) => Float32Array.from({ length: size * size * channels }, (_, i) => i);

function warped(image: Float32Array, size: number, channels: number, transform: Transform): number[] {
  const target = new Float32Array(image.length + 2).fill(-1);
  warp(image, size, channels, transform, target, 1);
  if (target[0] !== -1 || target.at(-1) !== -1) throw new Error("wrote outside of its place");
  return [...target.subarray(1, -1)];
}

describe("drawTransform and warp", () => {
  it("leave every bit in place when all is off", ({ expect }) => {
    const random = createRandom(3);
    const image = Float32Array.from({ length: 9 * 9 * 3 }, () => random() * 10 - 5);
    expect(warped(image, 9, 3, drawTransform(NOTHING, 9, createRandom(1)))).toEqual([...image]);
  });

  it("mirror left and right", ({ expect }) => {
    const transform = drawTransform({ ...NOTHING, flip: 1 }, 3, createRandom(1));
    expect(warped(ramp(3), 3, 1, transform)).toEqual([2, 1, 0, 5, 4, 3, 8, 7, 6]);
    expect(warped(ramp(2, 3), 2, 3, transform)).toEqual([3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
  });

  it("mirror as often as they are told", ({ expect }) => {
    const random = createRandom(8);
    const flips = Array.from({ length: 2000 }, () => drawTransform({ ...NOTHING, flip: 0.3 }, 8, random)[0] < 0);
    expect(Math.abs(flips.filter(Boolean).length - 600)).toBeLessThan(70);
  });

  it("shift by at most the share of the side, and repeat the border", ({ expect }) => {
    const random = createRandom(4);
    const shifts = Array.from({ length: 500 }, () => drawTransform({ ...NOTHING, translate: 0.25 }, 8, random));
    const all = shifts.flatMap(([, , x, , , y]) => [Math.abs(x), Math.abs(y)]);
    expect(Math.max(...all)).toBeLessThanOrEqual(2);
    expect(Math.max(...all)).toBeGreaterThan(1.9);
    expect(warped(ramp(3), 3, 1, [1, 0, -1, 0, 1, 0])).toEqual([0, 0, 1, 3, 3, 4, 6, 6, 7]);
    expect(warped(ramp(3), 3, 1, [1, 0, 0, 0, 1, 2])).toEqual([6, 7, 8, 6, 7, 8, 6, 7, 8]);
  });

  it("interpolate between pixels", ({ expect }) => {
    expect(warped(ramp(3), 3, 1, [1, 0, 0.5, 0, 1, 0]).slice(0, 3)).toEqual([0.5, 1.5, 2]);
    expect(warped(ramp(3), 3, 1, [1, 0, 0, 0, 1, 0.25]).slice(0, 3)).toEqual([0.75, 1.75, 2.75]);
  });

  it("turn about the centre by at most the angle", ({ expect }) => {
    const random = createRandom(6);
    const angles = Array.from({ length: 500 }, () => {
      const [xx, xy, x0, yx, yy, y0] = drawTransform({ ...NOTHING, degrees: 90 }, 8, random);
      expect(xx).toBeCloseTo(yy, 12);
      expect(xy).toBeCloseTo(-yx, 12);
      expect([x0, y0].map((value) => Math.abs(value))).toEqual([0, 0]);
      return (Math.atan2(yx, xx) * 180) / Math.PI;
    });
    expect(Math.max(...angles)).toBeGreaterThan(80);
    expect(Math.min(...angles)).toBeLessThan(-80);
    const quarter = warped(ramp(3), 3, 1, [0, -1, 0, 1, 0, 0]);
    for (const [i, value] of [2, 5, 8, 1, 4, 7, 0, 3, 6].entries()) expect(quarter[i]).toBeCloseTo(value, 5);
  });

  it("change the size by at most the gain", ({ expect }) => {
    const random = createRandom(6);
    const gains = Array.from({ length: 500 }, () => 1 / drawTransform({ ...NOTHING, scale: 0.2 }, 8, random)[0]);
    expect(Math.max(...gains)).toBeLessThanOrEqual(1.2);
    expect(Math.min(...gains)).toBeGreaterThanOrEqual(0.8);
    expect(Math.max(...gains) - Math.min(...gains)).toBeGreaterThan(0.35);
  });

  it("draw the same whether or not something else is on", ({ expect }) => {
    const [, , shift] = drawTransform({ ...NOTHING, translate: 0.1 }, 8, createRandom(2));
    const both = createRandom(2);
    drawTransform({ ...NOTHING, translate: 0.1, flip: 0.5 }, 8, both);
    const one = createRandom(2);
    expect(drawTransform({ ...NOTHING, translate: 0.1 }, 8, one)[2]).toBe(shift);
    expect(one()).toBe(both());
  });
});
