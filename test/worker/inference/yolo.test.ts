/// <reference types="vite/types/importMeta.d.ts" />
import { env } from "cloudflare:workers";
import { describe, it } from "vitest";
import { sha256Hex } from "../../../src/shared/ids.ts";
import type { CheckpointManifest } from "../../../src/training/inference/manifest.ts";
import fixtureData from "../../data/inference/yolo.json" with { type: "json" };
import { type FixtureName, imageFixture } from "../../support/images/fixtures.ts";
import { onnxModel } from "../../support/onnx-builder.ts";
import { pngHeaderOnly } from "../../support/png-writer.ts";
import { type YoloFixtures, yoloManifest } from "../../support/yolo.ts";

const fixtures = fixtureData as unknown as YoloFixtures; // JSON has no tuples and no literal types

/** Data URLs by path. */
const files = import.meta.glob<string>("../../data/inference/*.onnx", {
  query: "?inline",
  import: "default",
  eager: true,
});

const fromBase64 = (text: string) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const exported = (name: string): Uint8Array<ArrayBuffer> => {
  const url = files[`../../data/inference/${name}.onnx`];
  if (!url) throw new Error(`no model ${name}`);
  return fromBase64(url.slice(url.indexOf(",") + 1));
};

const OPTIONS = {
  confidenceThreshold: fixtures.limits.confidence,
  iouThreshold: fixtures.limits.iou,
  maxDetections: fixtures.limits.detections,
  topK: 5,
};

async function infer(
  graph: Uint8Array<ArrayBuffer>,
  manifest: CheckpointManifest,
  image: Uint8Array,
  options: Partial<typeof OPTIONS> = {},
) {
  const model = { key: `jobs/1/1/${crypto.randomUUID()}`, sha256: await sha256Hex(graph), sizeBytes: graph.byteLength };
  await env.BUCKET.put(model.key, graph);
  return env.MODEL_SESSION.getByName(model.sha256).infer({
    model,
    external: null,
    manifest,
    image,
    options: { ...OPTIONS, ...options },
  });
}

const picture = fromBase64(fixtures.image.png);

describe("ModelSession: models that Ultralytics exported", () => {
  it.for(Object.keys(fixtures.models))(
    "finds with %s what its predictor finds in the same picture",
    { timeout: 180_000 }, // the first one loads the runtime
    async (name, { expect }) => {
      const answer = await infer(exported(name), yoloManifest(fixtures, name), picture);
      const expected = fixtures.models[name]?.expected;
      if (!answer.ok || !expected) throw new Error(JSON.stringify(answer));
      const { result } = answer.value;
      if (result.task_type === "image_classification") throw new Error("no boxes");
      expect(result.num_detections).toBe(result.predicted_boxes.length);
      if (result.task_type === "instance_segmentation") {
        expect(result.predicted_masks).toHaveLength(result.num_detections);
      }
      if (result.task_type === "pose_estimation")
        expect(result.predicted_keypoints).toHaveLength(result.num_detections);
      // A level of difference in the resized picture moves a box of random weights by parts of a pixel, and may exchange
      // two that are equally sure: compared is the surest half, each with the nearest of its label.
      const surest = Math.ceil(expected.boxes.length / 2);
      for (let index = 0; index < surest; index += 1) {
        const [x1 = 0, y1 = 0, x2 = 0, y2 = 0] = expected.boxes[index] ?? [];
        const distances = result.predicted_boxes
          .filter(({ class_id }) => class_id === expected.labels[index])
          .map((box) => Math.max(...[box.x1 - x1, box.y1 - y1, box.x2 - x2, box.y2 - y2].map(Math.abs)));
        expect(Math.min(...distances), `box ${index}`).toBeLessThan(0.5);
      }
    },
  );

  it("follows the thresholds of the request", async ({ expect }) => {
    const manifest = yoloManifest(fixtures, "tiny-detect");
    const graph = exported("tiny-detect");
    const count = async (options: Partial<typeof OPTIONS>) => {
      const answer = await infer(graph, manifest, picture, options);
      if (!answer.ok || answer.value.result.task_type !== "object_detection") throw new Error(JSON.stringify(answer));
      expect(answer.value.result.predicted_boxes.length).toBe(answer.value.result.num_detections);
      return answer.value.result.num_detections;
    };
    const [all, fewer, none, three, everything] = [
      await count({ maxDetections: 300 }),
      await count({ maxDetections: 300, confidenceThreshold: 0.6 }),
      await count({ confidenceThreshold: 1 }),
      await count({ maxDetections: 3 }),
      await count({ maxDetections: 300, confidenceThreshold: 0, iouThreshold: 1 }),
    ];
    expect([none, three, everything]).toEqual([0, 3, 126]);
    expect(fewer).toBeGreaterThan(0);
    expect(all).toBeGreaterThan(fewer);
    expect(all).toBeLessThan(everything);
  });

  it.for<[string, Partial<CheckpointManifest["output"]>]>([
    ["labels", {}],
    ["keypoints", { kpt_shape: [5, 3] }],
    ["the place of the suppression", { nms: "in_graph" }],
    ["the name of the output", { name: "boxes" }],
  ])("does not run a model that contradicts its manifest in %s", async ([what, changes], { expect }) => {
    const manifest = yoloManifest(fixtures, "tiny-detect");
    const answer = await infer(
      exported("tiny-detect"),
      {
        ...manifest,
        output: { ...manifest.output, ...changes } as CheckpointManifest["output"],
        labels: what === "labels" ? ["one"] : manifest.labels,
      },
      picture,
    );
    expect(answer).toMatchObject({ ok: false, error: { code: "MODEL_NOT_USABLE" } });
  });
});

const SIDE = 48;

/** A detector that answers the same place for every image: centre and size in pixels of its input, 48 x 48. */
function constantDetector(place: number[]): Uint8Array<ArrayBuffer> {
  const positions = 3 * SIDE * SIDE;
  return onnxModel({
    nodes: [
      { op: "Flatten", inputs: ["images"], outputs: ["flat"], attributes: [{ name: "axis", int: 1 }] },
      {
        op: "Gemm",
        inputs: ["flat", "w", "b"],
        outputs: ["row"],
        attributes: [{ name: "transB", int: 1 }],
      },
      { op: "Reshape", inputs: ["row", "shape"], outputs: ["output0"] },
    ],
    initializers: [
      { name: "w", dims: [place.length, positions], floats: new Float32Array(place.length * positions) },
      { name: "b", dims: [place.length], floats: place },
      { name: "shape", dims: [3], int64s: [1, place.length, 1] },
    ],
    inputs: [{ name: "images", shape: [1, 3, SIDE, SIDE] }],
    outputs: [{ name: "output0", shape: [1, place.length, 1] }],
  });
}

describe("ModelSession: pixels of the answer", () => {
  const base = yoloManifest(fixtures, "tiny-detect");
  const manifestOf = (changes: Partial<CheckpointManifest["input"]>): CheckpointManifest => ({
    ...base,
    labels: ["thing"],
    input: { ...base.input, width: SIDE, height: SIDE, ...changes },
  });
  const boxOf = async (name: FixtureName, place: number[], changes: Partial<CheckpointManifest["input"]> = {}) => {
    const answer = await infer(constantDetector([...place, 0.9]), manifestOf(changes), imageFixture(name));
    if (!answer.ok || answer.value.result.task_type !== "object_detection") throw new Error(JSON.stringify(answer));
    const [box] = answer.value.result.predicted_boxes;
    return [box?.x1, box?.y1, box?.x2, box?.y2];
  };

  it("are those of the image, whatever padding there was", async ({ expect }) => {
    // 24 x 16 becomes 48 x 32, with 8 rows of padding above and below.
    expect(await boxOf("rgb.png", [24, 24, 48, 32])).toEqual([0, 0, 24, 16]);
    expect(await boxOf("rgb.png", [10, 20, 8, 12])).toEqual([3, 3, 7, 9]);
  });

  it.for(["exif-5.jpg", "exif-6.jpg", "exif-7.jpg", "exif-8.jpg"] as const)(
    "are those of the image as a viewer shows it: %s",
    async (name, { expect }) => {
      // Stored as 24 x 16, shown as 16 x 24: padded left and right.
      expect(await boxOf(name, [24, 24, 32, 48])).toEqual([0, 0, 16, 24]);
      expect(await boxOf(name, [20, 10, 8, 12])).toEqual([4, 2, 8, 8]);
    },
  );

  it("stay within the image", async ({ expect }) => {
    expect(await boxOf("rgb.png", [24, 24, 480, 480])).toEqual([0, 0, 24, 16]);
    expect(await boxOf("rgb.png", [24, 2, 10, 4])).toEqual([9.5, 0, 14.5, 0]);
  });

  it("follow a stretched and a cut image", async ({ expect }) => {
    expect(await boxOf("rgb.png", [24, 24, 24, 24], { resize: "stretch" })).toEqual([6, 4, 18, 12]);
    // Cut: 16 x 16 of 24 x 16 are seen, three pixels for one.
    expect(await boxOf("rgb.png", [24, 24, 48, 48], { resize: "crop" })).toEqual([4, 0, 20, 16]);
  });
});

describe("ModelSession: images too large to be decoded here", () => {
  const base = yoloManifest(fixtures, "tiny-detect");
  const manifest: CheckpointManifest = {
    ...base,
    labels: ["thing"],
    input: { ...base.input, width: SIDE, height: SIDE },
  };
  const look = (image: Uint8Array) => infer(constantDetector([24, 24, 48, 32, 0.9]), manifest, image);

  /** A picture enlarged by the binding, as JPEG. */
  const enlarged = async (width: number, height: number): Promise<Uint8Array<ArrayBuffer>> => {
    const output = await env.IMAGES.input(new Blob([imageFixture("rgb.png")]).stream())
      .transform({ width, height, fit: "squeeze" })
      .output({ format: "image/jpeg" });
    return new Uint8Array(await output.response().arrayBuffer());
  };
  /** The same file, to be shown a quarter turn clockwise. */
  const turned = (jpeg: Uint8Array<ArrayBuffer>) => {
    const exif = Uint8Array.of(
      ...[0xff, 0xe1, 0, 34, ...new TextEncoder().encode("Exif\0\0"), 0x4d, 0x4d, 0, 42, 0, 0, 0, 8, 0, 1],
      ...[0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0],
    );
    const start = jpeg.subarray(0, 2);
    return new Uint8Array([...start, ...exif, ...jpeg.subarray(2)]);
  };

  it("are made smaller, and answered in their own pixels", async ({ expect }) => {
    const jpeg = await enlarged(4200, 2800);
    const answer = await look(jpeg);
    if (!answer.ok || answer.value.result.task_type !== "object_detection") throw new Error(JSON.stringify(answer));
    const [box] = answer.value.result.predicted_boxes;
    expect([box?.x1, box?.y1, box?.x2, box?.y2]).toEqual([0, 0, 4200, 2800]);

    const upright = await look(turned(jpeg));
    if (!upright.ok || upright.value.result.task_type !== "object_detection") throw new Error(JSON.stringify(upright));
    // Shown as 2800 x 4200: the box covers the full width of the input and 32 of 48 rows.
    const [tall] = upright.value.result.predicted_boxes;
    expect([tall?.x1, tall?.y1, tall?.x2, tall?.y2]).toEqual([0, 700, 2800, 3500]);
  });

  it("see the colours that a small picture has", async ({ expect }) => {
    const answers = [];
    for (const image of [await enlarged(3600, 2400), imageFixture("baseline.jpg")]) {
      const answer = await infer(exported("tiny-detect"), base, image, { confidenceThreshold: 0.5 });
      if (!answer.ok || answer.value.result.task_type !== "object_detection") throw new Error(JSON.stringify(answer));
      answers.push(answer.value.result.predictions[0]);
    }
    expect(answers[0]?.label).toBe(answers[1]?.label);
    expect(Math.abs(Number(answers[0]?.confidence) - Number(answers[1]?.confidence))).toBeLessThan(0.1);
  });

  it.for<[string, Uint8Array]>([
    ["a header without a picture", pngHeaderOnly(6000, 6000)],
    ["more than 50 megapixels", pngHeaderOnly(8000, 6251)],
  ])("are refused: %s", async ([_, image], { expect }) => {
    expect(await look(image)).toMatchObject({ ok: false, error: { code: "VALIDATION_ERROR", field: "file" } });
  });
});
