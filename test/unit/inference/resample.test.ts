import { readFileSync } from "node:fs";
import { describe, it } from "vitest";
import { loadRowKernel } from "../../../runner/embedded/trainer/row-kernel.ts";
import type { ModelInput } from "../../../src/training/inference/manifest.ts";
import { imageToTensor, uprightSize } from "../../../src/training/inference/preprocess.ts";
import { planInput, roundHalfEven } from "../../../src/training/inference/resample.ts";

const kernel = loadRowKernel();

/** What Pillow, torchvision and OpenCV make of the same pictures: test/data/inference/make_fixtures.py. */
type Case = {
  width: number;
  height: number;
  rgb: string;
  wanted: { input: Partial<ModelInput> & { width: number; height: number }; rgb: string }[];
};

const cases: Case[] = JSON.parse(readFileSync("test/data/inference/resize.json", "utf8"));

const input = (changes: Partial<ModelInput>): ModelInput => ({
  name: "input",
  layout: "NCHW",
  width: 8,
  height: 8,
  channels: 3,
  dtype: "float32",
  scale: 1,
  mean: [0, 0, 0],
  std: [1, 1, 1],
  resize: "stretch",
  pad_value: 0,
  ...changes,
});

const rgba = (width: number, height: number, rgb: Uint8Array) => ({
  width,
  height,
  data: Uint8Array.from({ length: width * height * 4 }, (_, i) =>
    i % 4 === 3 ? 255 : (rgb[Math.floor(i / 4) * 3 + (i % 4)] ?? 0),
  ),
});

const compared = cases.flatMap(({ width, height, rgb, wanted }) =>
  wanted.map((one): [string, typeof one, { width: number; height: number; rgb: string }] => [
    `${width} x ${height} by ${one.input.resize} ${one.input.interpolation ?? ""} to ${one.input.width} x ${one.input.height} ${one.input.resize_short_side ?? ""}`,
    one,
    { width, height, rgb },
  ]),
);

describe("imageToTensor beside the frameworks", () => {
  it.for(compared)(
    "resizes %s as they do, to one level",
    ([_, { input: changes, rgb: wanted }, source], { expect }) => {
      const pixels = rgba(source.width, source.height, Buffer.from(source.rgb, "base64"));
      const tensor = imageToTensor(kernel, pixels, input(changes));
      const expected = Buffer.from(wanted, "base64");
      const plane = changes.width * changes.height;
      expect(expected.length).toBe(plane * 3);
      let differing = 0;
      for (let at = 0; at < plane; at += 1) {
        for (let channel = 0; channel < 3; channel += 1) {
          const difference = Math.abs((tensor[channel * plane + at] ?? Number.NaN) - (expected[at * 3 + channel] ?? 0));
          if (!(difference <= 1)) expect.fail(`pixel ${at}, channel ${channel} is off by ${difference}`);
          if (difference > 0) differing += 1;
        }
      }
      // OpenCV counts in 11 bits, Pillow in 22: halves may fall on either side.
      expect(differing / expected.length).toBeLessThan(changes.resize === "letterbox" ? 0.15 : 0.08);
    },
  );

  it("compares enough of them", ({ expect }) => {
    expect(compared.length).toBeGreaterThan(25);
  });
});

describe("planInput: placement", () => {
  const at = (changes: Partial<ModelInput>, width: number, height: number) =>
    planInput({ width, height }, input(changes)).placement;

  it("keeps the padding of a letterbox out of the image", ({ expect }) => {
    expect(at({ resize: "letterbox", width: 64, height: 64 }, 100, 50)).toEqual({
      scaleX: 0.64,
      scaleY: 0.64,
      offsetX: 0,
      offsetY: 16,
      left: 0,
      top: 16,
      right: 64,
      bottom: 48,
    });
  });

  it("has one scale a side where whole pixels make them differ", ({ expect }) => {
    const { scaleX, scaleY } = at({ resize: "letterbox", width: 96, height: 64 }, 83, 47);
    expect([scaleX, scaleY]).toEqual([96 / 83, 54 / 47]);
  });

  it("reaches beyond the input where the middle was cut", ({ expect }) => {
    expect(at({ resize: "crop" }, 16, 8)).toMatchObject({ scaleX: 1, offsetX: -4, left: 0, right: 8, bottom: 8 });
    expect(at({ resize: "crop", resize_short_side: 10 }, 20, 10)).toMatchObject({
      scaleX: 1,
      offsetX: -6,
      offsetY: -1,
      left: 0,
      right: 8,
    });
  });

  it("stretches both sides", ({ expect }) => {
    expect(at({}, 16, 4)).toMatchObject({ scaleX: 0.5, scaleY: 2, offsetX: 0, offsetY: 0, right: 8, bottom: 8 });
  });
});

describe("roundHalfEven", () => {
  it.for([
    [0.5, 0],
    [1.5, 2],
    [2.5, 2],
    [2.4999, 2],
    [2.5001, 3],
    [-0.5, 0],
  ] as [number, number][])("rounds %d to %d", ([value, wanted], { expect }) => {
    expect(roundHalfEven(value) + 0).toBe(wanted);
  });
});

describe("uprightSize", () => {
  it("swaps the sides for the four orientations that lie", ({ expect }) => {
    const sizes = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9].map(
      (orientation) => uprightSize({ width: 3, height: 2 }, orientation).width,
    );
    expect(sizes).toEqual([3, 3, 3, 3, 2, 2, 2, 2, 3, 3]);
  });
});
