import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, it } from "vitest";
import { findSamples, type LoadOptions, loadData } from "../../../runner/embedded/trainer/data.ts";
import { type DecodeImage, loadDecoder } from "../../../runner/embedded/trainer/images.ts";
import { loadRowKernel } from "../../../runner/embedded/trainer/row-kernel.ts";
import { imageToTensor } from "../../../src/training/inference/preprocess.ts";
import { imageFixture, QUARTERS } from "../../support/images/fixtures.ts";
import { configOf, flatPng, writeFiles } from "./support.ts";

const kernel = loadRowKernel();
let root = "";
let decode: DecodeImage;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "trainer-data-"));
  decode = await loadDecoder();
});
afterAll(() => rm(root, { recursive: true, force: true }));

let folders = 0;
async function dataset(files: Record<string, Uint8Array | string>): Promise<string> {
  folders += 1;
  const folder = join(root, String(folders));
  await writeFiles(folder, files);
  return folder;
}

const anyClasses = { class_names: null, num_classes: null };

/** Finds and loads; the warnings of loading come along. */
async function load(
  files: Record<string, Uint8Array | string>,
  changes: Record<string, unknown> = {},
  more: Partial<LoadOptions> = {},
) {
  const config = configOf({ ...anyClasses, ...changes });
  const dataDir = await dataset(files);
  const samples = await findSamples(dataDir, config);
  if (!samples.ok) throw new Error(samples.error.message);
  const warnings: string[] = [];
  const options = { dataDir, samples: samples.value, input: config.input, resumed: null, decode, kernel };
  const loaded = await loadData({
    ...options,
    cancelled: () => false,
    warn: (line) => void warnings.push(line),
    ...more,
  });
  return { loaded, warnings };
}

const TINY = {
  "train/a/1.png": flatPng(4, [0]),
  "train/b/1.png": flatPng(4, [255]),
  "val/a/2.png": flatPng(4, [51]),
  "val/b/2.png": flatPng(4, [204]),
};

describe("findSamples", () => {
  it("reads folders of classes with and without a split", async ({ expect }) => {
    const found = await findSamples(await dataset(TINY), configOf(anyClasses));
    expect(found).toMatchObject({ ok: true, value: { classNames: ["a", "b"] } });
    if (found.ok) expect(found.value.samples.map(({ path }) => path)).toEqual(Object.keys(TINY));

    const flat = { "cat/1.png": flatPng(4, [0]), "dog/deep/2.png": flatPng(4, [1]), "dog/readme.txt": "" };
    expect(await findSamples(await dataset(flat), configOf(anyClasses))).toMatchObject({
      ok: true,
      value: {
        samples: [
          { path: "cat/1.png", label: 0, split: null },
          { path: "dog/deep/2.png", label: 1, split: null },
        ],
      },
    });
  });

  it("keeps the whole path where one folder is around everything", async ({ expect }) => {
    const wrapped = Object.fromEntries(Object.entries(TINY).map(([path, png]) => [`digits/${path}`, png]));
    const found = await findSamples(await dataset(wrapped), configOf(anyClasses));
    expect(found).toMatchObject({ ok: true, value: { classNames: ["a", "b"] } });
    if (found.ok) expect(found.value.samples[0]?.path).toBe("digits/train/a/1.png");
  });

  const dice = {
    format_version: "1.0",
    task_type: "image_classification",
    classes: [
      { id: 7, name: "dog" },
      { id: 3, name: "cat" },
    ],
    images: [
      { id: 1, file_name: "images/1.png", split: "train", annotation: { class_id: 7, class_name: "dog" } },
      { id: 2, file_name: "2.png", split: "val", annotation: { class_id: 3, class_name: "cat" } },
      { id: 3, file_name: "gone.png", split: "val", annotation: { class_id: 3, class_name: "cat" } },
      { id: 4, file_name: "4.png", split: "train", annotation: null },
    ],
  };
  const diceFiles = (document: unknown) => ({
    "annotations.json": JSON.stringify(document),
    "images/1.png": flatPng(4, [0]),
    "images/2.png": flatPng(4, [0]),
    "images/4.png": flatPng(4, [0]),
  });

  it("reads dice annotations, with and without images/, classes by id", async ({ expect }) => {
    const found = await findSamples(
      await dataset(diceFiles(dice)),
      configOf({ ...anyClasses, dataset_format: "dice" }),
    );
    expect(found).toMatchObject({
      ok: true,
      value: {
        classNames: ["cat", "dog"],
        samples: [
          { path: "images/1.png", label: 1, split: "train" },
          { path: "images/2.png", label: 0, split: "val" },
        ],
      },
    });
    if (found.ok) expect(found.value.warnings.join("\n")).toContain("gone.png");
  });

  it.for([
    ["a name that leads out of the dataset", { ...dice, images: [{ ...dice.images[0], file_name: "../1.png" }] }],
    ["an unknown class", { ...dice, images: [{ ...dice.images[0], annotation: { class_id: 8 } }] }],
    ["no classes", { ...dice, classes: [] }],
  ] as const)("refuses dice annotations with %s", async ([, document], { expect }) => {
    const found = await findSamples(
      await dataset(diceFiles(document)),
      configOf({ ...anyClasses, dataset_format: "dice" }),
    );
    expect(found).toMatchObject({ ok: false, error: { code: "CONFIG", field: "dataset_format" } });
  });

  it("refuses a dataset for another task", async ({ expect }) => {
    const boxes = { ...dice, task_type: "object_detection", images: [{ id: 1, file_name: "1.png", annotations: [] }] };
    const found = await findSamples(
      await dataset(diceFiles(boxes)),
      configOf({ ...anyClasses, dataset_format: "dice" }),
    );
    expect(found).toMatchObject({ ok: false, error: { code: "CONFIG", field: "task_type" } });
  });

  it("refuses classes that are not the job's", async ({ expect }) => {
    const found = await findSamples(await dataset(TINY), configOf({ class_names: ["a", "c"] }));
    expect(found).toMatchObject({ ok: false, error: { code: "CONFIG", field: "class_names" } });
  });

  it("says when there is nothing", async ({ expect }) => {
    const empty = await mkdtemp(join(root, "empty-"));
    for (const folder of [empty, join(root, "nowhere")]) {
      const found = await findSamples(folder, configOf(anyClasses));
      expect(found).toMatchObject({ ok: false, error: { code: "DATASET" } });
    }
  });
});

describe("loadData", () => {
  it("normalizes by the training images and says so in the manifest", async ({ expect }) => {
    const { loaded } = await load(TINY);
    if (!loaded.ok || !loaded.value) throw new Error("not loaded");
    const { input, train, validation } = loaded.value;
    expect(input).toMatchObject({
      name: "input",
      width: 8,
      height: 8,
      channels: 1,
      mean: [0.5],
      std: [0.5],
      resize: "stretch",
    });
    expect(train.images.map((image) => image[0])).toEqual([-1, 1]);
    expect(validation.images.map((image) => image[63]?.toFixed(4))).toEqual(["-0.6000", "0.6000"]);
    expect(validation).toMatchObject({ labels: [0, 1], paths: ["val/a/2.png", "val/b/2.png"] });
  });

  it("uses one channel while all images are grey, and three from the first coloured one on", async ({ expect }) => {
    const red = { ...TINY, "val/a/3.png": flatPng(4, [255, 0, 0]) };
    const { loaded } = await load(red);
    if (!loaded.ok || !loaded.value) throw new Error("not loaded");
    const { input, train, validation } = loaded.value;
    expect(input.channels).toBe(3);
    expect(input.mean).toEqual([0.5, 0.5, 0.5]);
    expect(train.images.map((image) => [...image.subarray(0, 3)])).toEqual([
      [-1, -1, -1],
      [1, 1, 1],
    ]);
    expect([...(validation.images[1]?.subarray(0, 3) ?? [])]).toEqual([1, -1, -1]);
  });

  it("gives what the Worker will make of the same file and manifest", async ({ expect }) => {
    const files = {
      "a/1.jpg": imageFixture("baseline.jpg"),
      "a/2.webp": imageFixture("alpha.webp"),
      "b/1.jpg": imageFixture("exif-6.jpg"),
      "b/2.png": imageFixture("palette.png"),
    };
    const { loaded } = await load(files, {
      image_size: 10,
      advanced_config: { preprocessing: { resize_mode: "pad", pad_value: 9 } },
    });
    if (!loaded.ok || !loaded.value) throw new Error("not loaded");
    const { input, train, validation } = loaded.value;
    expect(input.pad_value).toBe(9);
    let compared = 0;
    for (const set of [train, validation]) {
      for (const [i, path] of set.paths.entries()) {
        const decoded = await decode(files[path as keyof typeof files]);
        if (!decoded.ok) throw new Error(decoded.error);
        const planes = imageToTensor(kernel, decoded.value.pixels, input, decoded.value.orientation);
        const image = set.images[i];
        for (let at = 0; at < 300; at += 1) {
          const channel = at % 3;
          expect(
            Math.abs((image?.[at] ?? Number.NaN) - (planes[channel * 100 + (at - channel) / 3] ?? 0)),
          ).toBeLessThan(1e-5);
        }
        compared += 1;
      }
    }
    expect(compared).toBe(4);
  });

  it("honours a normalization that is given", async ({ expect }) => {
    const { loaded } = await load(TINY, { advanced_config: { preprocessing: { mean: [0], std: [0.25] } } });
    if (!loaded.ok || !loaded.value) throw new Error("not loaded");
    expect(loaded.value.input).toMatchObject({ channels: 1, mean: [0], std: [0.25] });
    expect(loaded.value.train.images[1]?.[0]).toBe(4);
  });

  it("keeps channels and normalization of a model that is trained further", async ({ expect }) => {
    const { loaded: before } = await load({ ...TINY, "train/a/9.png": flatPng(4, [1, 2, 3]) });
    if (!before.ok || !before.value) throw new Error("not loaded");
    const { loaded } = await load(TINY, {}, { resumed: before.value.input });
    expect(loaded).toMatchObject({ ok: true, value: { input: before.value.input } });
  });

  it("does not divide by a spread of 0", async ({ expect }) => {
    const { loaded } = await load({ "a/1.png": flatPng(4, [80]), "b/1.png": flatPng(4, [80]) });
    if (!loaded.ok || !loaded.value) throw new Error("not loaded");
    expect(loaded.value.input.std).toEqual([1]);
    expect(loaded.value.train.images[0]?.every((value) => Math.abs(value) < 1e-6)).toBe(true);
  });

  it("leaves out what cannot be decoded, with a warning each", async ({ expect }) => {
    const broken = {
      ...TINY,
      "train/a/cut.jpg": imageFixture("baseline.jpg").slice(0, 150),
      "train/a/text.png": "not a picture",
      "train/b/old.gif": imageFixture("small.gif"),
      "train/b/print.jpg": imageFixture("cmyk.jpg"),
      "train/b/after.jpg": imageFixture("grey.jpg"),
    };
    const { loaded, warnings } = await load(broken);
    expect(warnings).toHaveLength(4);
    expect(warnings.join("\n")).toMatch(
      /train\/a\/cut\.jpg.*\n.*train\/a\/text\.png.*\n.*train\/b\/old\.gif.*\n.*train\/b\/print\.jpg/,
    );
    if (!loaded.ok || !loaded.value) throw new Error("not loaded");
    expect(loaded.value.train.paths).toEqual(["train/a/1.png", "train/b/1.png", "train/b/after.jpg"]);
  });

  it("says when nothing can be decoded", async ({ expect }) => {
    const { loaded } = await load({ "a/1.png": "nothing", "b/1.png": "nothing" });
    expect(loaded).toMatchObject({ ok: false, error: { code: "DATASET" } });
  });

  it("stops when told to", async ({ expect }) => {
    let asked = 0;
    const { loaded } = await load(TINY, {}, { cancelled: () => ++asked > 2 });
    expect(loaded).toEqual({ ok: true, value: null });
  });
});

describe("loadDecoder", () => {
  it.for(["baseline.jpg", "progressive.jpg", "lossy.webp", "lossless.webp", "rgb.png", "interlaced.png"] as const)(
    "decodes %s",
    async (name, { expect }) => {
      const decoded = await decode(imageFixture(name));
      if (!decoded.ok) throw new Error(decoded.error);
      const { pixels } = decoded.value;
      expect([pixels.width, pixels.height]).toEqual([24, 16]);
      const at = (x: number, y: number) => [...pixels.data.subarray((y * 24 + x) * 4, (y * 24 + x) * 4 + 3)];
      for (const [colour, x, y] of [
        [QUARTERS.topLeft, 4, 3],
        [QUARTERS.bottomRight, 20, 12],
      ] as const) {
        for (const [i, value] of at(x, y).entries()) expect(Math.abs(value - (colour[i] ?? 0))).toBeLessThan(12);
      }
    },
  );

  it("goes on after images that the decoders give up on in the middle", async ({ expect }) => {
    for (const [name, at] of [
      ["baseline.jpg", 150],
      ["lossy.webp", 26],
    ] as const) {
      const damaged = imageFixture(name);
      damaged[at] = (damaged[at] ?? 0) ^ 0xff;
      for (let i = 0; i < 3; i += 1)
        expect(await decode(damaged)).toEqual({ ok: false, error: "The image is damaged" });
      expect((await decode(imageFixture(name))).ok).toBe(true);
    }
  });
});
