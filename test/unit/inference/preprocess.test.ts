import { describe, it } from "vitest";
import { loadRowKernel } from "../../../runner/embedded/trainer/row-kernel.ts";
import type { ModelInput } from "../../../src/training/inference/manifest.ts";
import { imageToTensor, type Pixels, tensorLength } from "../../../src/training/inference/preprocess.ts";

const kernel = loadRowKernel();

const input = (changes: Partial<ModelInput> = {}): ModelInput => ({
  name: "input",
  layout: "NCHW",
  width: 2,
  height: 2,
  channels: 1,
  dtype: "float32",
  scale: 1,
  mean: new Array<number>(changes.channels ?? 1).fill(0),
  std: new Array<number>(changes.channels ?? 1).fill(1),
  resize: "stretch",
  pad_value: 0,
  ...changes,
});

/** Image from rows of grey values or of [red, green, blue, alpha]. */
const image = (rows: (number | number[])[][]): Pixels => ({
  width: rows[0]?.length ?? 0,
  height: rows.length,
  data: Uint8Array.from(
    rows.flat().flatMap((pixel) => (typeof pixel === "number" ? [pixel, pixel, pixel, 255] : pixel)),
  ),
});

const run = (rows: (number | number[])[][], changes: Partial<ModelInput>, orientation = 1) =>
  [...imageToTensor(kernel, image(rows), input(changes), orientation)].map((value) => Math.round(value * 1e4) / 1e4);

/** Deterministic noise. */
const noise = (width: number, height: number): Pixels => ({
  width,
  height,
  data: Uint8Array.from({ length: width * height * 4 }, (_, i) =>
    i % 4 === 3 ? 255 : (Math.imul(i + 1, 2_654_435_761) >>> 13) & 255,
  ),
});

const meanOf = (values: Iterable<number>) => {
  const list = [...values];
  return list.reduce((a, b) => a + b, 0) / list.length;
};

describe("imageToTensor: sizes", () => {
  it("takes every pixel as it is when the sizes are equal", ({ expect }) => {
    const pixels = noise(28, 28);
    const tensor = imageToTensor(kernel, pixels, input({ width: 28, height: 28, channels: 3 }));
    for (let at = 0; at < 28 * 28; at += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        expect(tensor[channel * 784 + at]).toBe(pixels.data[at * 4 + channel]);
      }
    }
  });

  it("averages areas when it shrinks", ({ expect }) => {
    expect(
      run(
        [
          [0, 10, 20, 30],
          [40, 50, 60, 70],
        ],
        { width: 2, height: 1 },
      ),
    ).toEqual([25, 45]);
  });

  it("counts a pixel on an edge by its share", ({ expect }) => {
    // 3 -> 2: the middle pixel belongs half to each; (30 + 60 / 2) / 1.5 and (60 / 2 + 90) / 1.5
    expect(run([[30, 60, 90]], { width: 2, height: 1 })).toEqual([40, 80]);
  });

  it("interpolates between pixel centres when it grows, and holds the edges", ({ expect }) => {
    expect(run([[0, 100]], { width: 4, height: 1 })).toEqual([0, 25, 75, 100]);
    expect(run([[0], [100]], { width: 1, height: 4 })).toEqual([0, 25, 75, 100]);
  });

  it("may shrink one axis while the other grows", ({ expect }) => {
    expect(
      run(
        [
          [0, 20],
          [100, 120],
        ],
        { width: 1, height: 4 },
      ),
    ).toEqual([10, 35, 85, 110]);
  });

  it("repeats a single pixel", ({ expect }) => {
    expect(run([[77]], { width: 3, height: 2 })).toEqual([77, 77, 77, 77, 77, 77]);
  });

  it.for<[number, number, number, number]>([
    [640, 480, 28, 28],
    [101, 67, 32, 17],
    [29, 29, 28, 28],
    [1000, 1, 7, 1],
    [5, 2000, 3, 13],
  ])("keeps the mean of %i x %i shrunk to %i x %i", ([width, height, toWidth, toHeight], { expect }) => {
    const pixels = noise(width, height);
    const tensor = imageToTensor(kernel, pixels, input({ width: toWidth, height: toHeight, channels: 3 }));
    for (let channel = 0; channel < 3; channel += 1) {
      const plane = tensor.subarray(channel * toWidth * toHeight, (channel + 1) * toWidth * toHeight);
      expect(meanOf(plane)).toBeCloseTo(meanOf(pixels.data.filter((_, i) => i % 4 === channel)), 3);
    }
  });

  it("keeps a flat image flat at any size", ({ expect }) => {
    const flat: Pixels = { width: 13, height: 7, data: new Uint8Array(13 * 7 * 4).fill(200) };
    flat.data.forEach((_, i) => {
      if (i % 4 === 3) flat.data[i] = 255;
    });
    for (const resize of ["stretch", "crop"] as const) {
      for (const [width, height] of [
        [1, 1],
        [13, 7],
        [5, 9],
        [40, 3],
        [64, 64],
      ] as const) {
        const tensor = imageToTensor(kernel, flat, input({ width, height, resize }));
        for (const value of tensor) expect(value).toBeCloseTo(200, 4);
      }
    }
  });
});

describe("imageToTensor: extremes", () => {
  it("makes the same values where more rows are needed at once than are kept", ({ expect }) => {
    const [height, wide, narrow] = [600, 2048, 8];
    const spec = { height: 3, channels: 3, interpolation: "pil_bilinear" } as const;
    const pixels = noise(wide, height);
    const left = { width: narrow, height, data: new Uint8Array(narrow * height * 4) };
    for (let y = 0; y < height; y += 1) {
      left.data.set(pixels.data.subarray(y * wide * 4, (y * wide + narrow) * 4), y * narrow * 4);
    }
    const all = imageToTensor(kernel, pixels, input({ ...spec, width: wide }));
    const some = imageToTensor(kernel, left, input({ ...spec, width: narrow }));
    for (let row = 0; row < 9; row += 1) {
      expect(all.slice(row * wide, row * wide + narrow)).toEqual(some.slice(row * narrow, (row + 1) * narrow));
    }
  });

  it.for<[number, number, ModelInput["interpolation"]]>([
    [65_535, 1, "pil_bicubic"],
    [65_535, 1, "area"],
    [1, 65_535, "pil_bilinear"],
    [1, 65_535, "area"],
    [65_535, 3, "cv_linear"],
  ])("resizes %i x %i by %s to a large and to a small input", ([width, height, interpolation], { expect }) => {
    const flat: Pixels = { width, height, data: new Uint8Array(width * height * 4).fill(200), opaque: true };
    for (const side of [512, 1]) {
      const tensor = imageToTensor(kernel, flat, input({ width: side, height: 16, channels: 3, interpolation }));
      for (const value of tensor) if (!(Math.abs(value - 200) < 0.05)) expect.fail(`${value} for 200`);
    }
  });
});

describe("imageToTensor: shapes", () => {
  const wide = [
    [1, 2, 3, 4],
    [5, 6, 7, 8],
  ];

  it("crops the middle of the longer side", ({ expect }) => {
    expect(run(wide, { resize: "crop" })).toEqual([2, 3, 6, 7]);
    expect(
      run(
        [
          [1, 2],
          [3, 4],
          [5, 6],
          [7, 8],
        ],
        { resize: "crop" },
      ),
    ).toEqual([3, 4, 5, 6]);
  });

  it("crops and shrinks at once", ({ expect }) => {
    expect(run(wide, { width: 1, height: 1, resize: "crop" })).toEqual([(2 + 3 + 6 + 7) / 4]);
  });

  it("crops whole pixels where no resizing is needed, with the odd one at the end", ({ expect }) => {
    expect(
      run(
        [
          [1, 2, 3],
          [4, 5, 6],
        ],
        { resize: "crop" },
      ),
    ).toEqual([1, 2, 4, 5]);
  });

  it("pads to keep the shape, the image in the middle", ({ expect }) => {
    expect(run([[10, 20]], { width: 2, height: 3, resize: "pad", pad_value: 7 })).toEqual([7, 7, 10, 20, 7, 7]);
    expect(run([[10], [20]], { width: 3, height: 2, resize: "pad", pad_value: 7 })).toEqual([7, 10, 7, 7, 20, 7]);
  });

  it("keeps at least one row of an extremely flat image", ({ expect }) => {
    const tensor = imageToTensor(kernel, noise(2000, 1), input({ width: 4, height: 4, resize: "pad", pad_value: 0 }));
    expect([...tensor].filter((value) => value > 0)).toHaveLength(4);
  });

  it("treats padding as a pixel: scaled and normalised", ({ expect }) => {
    const changes = { width: 1, height: 3, resize: "pad", pad_value: 114, scale: 0.5, mean: [7], std: [2] } as const;
    expect(run([[10]], { ...changes, mean: [7], std: [2] })).toEqual([25, -1, 25]);
  });
});

describe("imageToTensor: values", () => {
  it("scales, then subtracts the mean, then divides, channel by channel, in planes", ({ expect }) => {
    const tensor = imageToTensor(
      kernel,
      image([
        [
          [255, 0, 51, 255],
          [0, 255, 102, 255],
        ],
      ]),
      input({ width: 2, height: 1, channels: 3, scale: 1 / 255, mean: [0.5, 0.25, 0.2], std: [0.5, 0.25, 0.1] }),
    );
    const wanted = [1, -1, -1, 3, 0, 2];
    [...tensor].forEach((value, i) => {
      expect(value).toBeCloseTo(wanted[i] ?? Number.NaN, 5);
    });
  });

  it("makes luma by BT.601 for one channel", ({ expect }) => {
    expect(run([[[255, 0, 0, 255]], [[0, 255, 0, 255]], [[0, 0, 255, 255]]], { width: 1, height: 3 })).toEqual([
      76.245, 149.685, 29.07,
    ]);
  });

  it("leaves grey as it is", ({ expect }) => {
    expect(
      run(
        [
          [0, 1],
          [128, 255],
        ],
        {},
      ),
    ).toEqual([0, 1, 128, 255]);
  });

  it("shows transparency on white", ({ expect }) => {
    expect(
      run(
        [
          [
            [0, 0, 0, 0],
            [0, 0, 0, 255],
          ],
          [
            [0, 0, 0, 51],
            [100, 100, 100, 51],
          ],
        ],
        {},
      ),
    ).toEqual([255, 0, 204, 224]);
  });

  it("does not let the colour of invisible pixels through when it averages", ({ expect }) => {
    expect(
      run(
        [
          [
            [255, 0, 0, 0],
            [0, 0, 0, 255],
          ],
        ],
        { width: 1, height: 1, channels: 3, mean: [0, 0, 0], std: [1, 1, 1] },
      ),
    ).toEqual([127.5, 127.5, 127.5]);
  });

  it("fills a batch image by image", ({ expect }) => {
    const spec = input({ width: 2, height: 1 });
    const batch = new Float32Array(2 * tensorLength(spec));
    imageToTensor(kernel, image([[1, 2]]), spec, 1, batch, 0);
    imageToTensor(kernel, image([[3, 4]]), spec, 1, batch, 2);
    expect([...batch]).toEqual([1, 2, 3, 4]);
  });
});

describe("imageToTensor: orientation", () => {
  const F = [
    [1, 2],
    [3, 4],
    [5, 6],
  ];
  // Where the stored first row and first column belong (Exif 2.32, tag 0x0112).
  it.for<[number, number[][]]>([
    [
      1,
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
    ],
    [
      2,
      [
        [2, 1],
        [4, 3],
        [6, 5],
      ],
    ],
    [
      3,
      [
        [6, 5],
        [4, 3],
        [2, 1],
      ],
    ],
    [
      4,
      [
        [5, 6],
        [3, 4],
        [1, 2],
      ],
    ],
    [
      5,
      [
        [1, 3, 5],
        [2, 4, 6],
      ],
    ],
    [
      6,
      [
        [5, 3, 1],
        [6, 4, 2],
      ],
    ],
    [
      7,
      [
        [6, 4, 2],
        [5, 3, 1],
      ],
    ],
    [
      8,
      [
        [2, 4, 6],
        [1, 3, 5],
      ],
    ],
  ])("sets orientation %i upright", ([orientation, upright], { expect }) => {
    const width = upright[0]?.length ?? 0;
    expect(run(F, { width, height: upright.length }, orientation)).toEqual(upright.flat());
  });

  it("turns before it crops, pads and resizes", ({ expect }) => {
    const tall = noise(40, 90);
    const turned: Pixels = { width: 90, height: 40, data: new Uint8Array(tall.data.length) };
    for (let y = 0; y < 40; y += 1) {
      for (let x = 0; x < 90; x += 1) {
        // orientation 6: upright (x, y) is stored at (y, 89 - x)
        turned.data.set(tall.data.subarray(((89 - x) * 40 + y) * 4, ((89 - x) * 40 + y) * 4 + 4), (y * 90 + x) * 4);
      }
    }
    for (const resize of ["stretch", "crop", "pad"] as const) {
      const spec = input({ width: 16, height: 12, channels: 3, resize });
      expect([...imageToTensor(kernel, tall, spec, 6)]).toEqual([...imageToTensor(kernel, turned, spec)]);
    }
  });
});
