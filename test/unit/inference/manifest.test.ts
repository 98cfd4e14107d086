import { describe, it } from "vitest";
import { parseManifest } from "../../../src/training/inference/manifest.ts";

const manifest = (changes: Record<string, unknown> = {}, input: Record<string, unknown> = {}) => ({
  schema: 1,
  task: "image_classification",
  framework: "embedded",
  model_name: "cnn_small",
  format: "onnx",
  input: {
    name: "input",
    layout: "NCHW",
    width: 28,
    height: 28,
    channels: 1,
    dtype: "float32",
    scale: 1 / 255,
    mean: [0.5],
    std: [0.5],
    resize: "stretch",
    pad_value: 0,
    ...input,
  },
  output: { name: "logits", decode: "softmax" },
  labels: ["0", "1"],
  external_data: [],
  ...changes,
});

const yolo = (changes: Record<string, unknown> = {}) => ({
  name: "output0",
  decode: "yolo",
  nms: "none",
  ...changes,
});

describe("parseManifest", () => {
  it.for<[string, unknown]>([
    ["object_detection", yolo()],
    ["object_detection", yolo({ nms: "in_graph" })],
    ["instance_segmentation", yolo({ masks: { name: "output1", channels: 32 } })],
    ["pose_estimation", yolo({ kpt_shape: [17, 3] })],
  ])("accepts %s as Ultralytics exports it", ([task, output], { expect }) => {
    const value = manifest({ task, output }, { resize: "letterbox", pad_value: 114 });
    expect(parseManifest(value)).toEqual({ ok: true, value });
  });

  it("accepts what torchvision does before a classification", ({ expect }) => {
    const value = manifest({}, { resize: "crop", resize_short_side: 32, interpolation: "pil_bicubic" });
    expect(parseManifest(value)).toEqual({ ok: true, value });
  });

  it("accepts the manifest of the embedded runner and fills in what may be left out", ({ expect }) => {
    const { external_data: _, ...rest } = manifest();
    const parsed = parseManifest(rest);
    expect(parsed).toEqual({ ok: true, value: manifest() });
  });

  it("drops unknown keys, a prototype among them", ({ expect }) => {
    const parsed = parseManifest(
      JSON.parse(JSON.stringify(manifest({ extra: 1 })).replace("{", '{"__proto__":{"a":1},')),
    );
    expect(parsed).toEqual({ ok: true, value: manifest() });
    expect(({} as Record<string, unknown>).a).toBeUndefined();
  });

  it.for<[string, unknown, string]>([
    ["zero width", manifest({}, { width: 0 }), "manifest.input.width"],
    ["huge height", manifest({}, { height: 2049 }), "manifest.input.height"],
    ["2^31 wide", manifest({}, { width: 2 ** 31 }), "manifest.input.width"],
    ["fractional width", manifest({}, { width: 27.5 }), "manifest.input.width"],
    ["two channels", manifest({}, { channels: 2 }), "manifest.input.channels"],
    ["NHWC", manifest({}, { layout: "NHWC" }), "manifest.input.layout"],
    ["mean for one channel of three", manifest({}, { channels: 3, std: [1, 1, 1] }), "manifest.input.mean"],
    ["std zero", manifest({}, { std: [0] }), "manifest.input.std.0"],
    ["std not a number", manifest({}, { std: [Number.NaN] }), "manifest.input.std.0"],
    ["scale infinite", manifest({}, { scale: Number.POSITIVE_INFINITY }), "manifest.input.scale"],
    ["pad value 256", manifest({}, { pad_value: 256 }), "manifest.input.pad_value"],
    ["no labels", manifest({ labels: [] }), "manifest.labels"],
    ["10,001 labels", manifest({ labels: new Array(10_001).fill("a") }), "manifest.labels"],
    ["long label", manifest({ labels: ["a".repeat(201)] }), "manifest.labels.0"],
    ["label of another type", manifest({ labels: [1] }), "manifest.labels.0"],
    ["schema 2", manifest({ schema: 2 }), "manifest.schema"],
    [
      "weights in a folder",
      manifest({ external_data: [{ path: "../model.bin", artifact_id: "a" }] }),
      "manifest.external_data.0.path",
    ],
    [
      "weights under an absolute name",
      manifest({ external_data: [{ path: "/etc/passwd", artifact_id: "a" }] }),
      "manifest.external_data.0.path",
    ],
    [
      "two weights files",
      manifest({
        external_data: [
          { path: "a", artifact_id: "a" },
          { path: "b", artifact_id: "b" },
        ],
      }),
      "manifest.external_data",
    ],
    ["a short side that is not cut", manifest({}, { resize_short_side: 64 }), "manifest.input.resize_short_side"],
    [
      "a short side below the input",
      manifest({}, { resize: "crop", resize_short_side: 27 }),
      "manifest.input.resize_short_side",
    ],
    ["an unknown interpolation", manifest({}, { interpolation: "lanczos" }), "manifest.input.interpolation"],
    ["boxes for a classification", manifest({ output: yolo() }), "manifest.output.decode"],
    ["classes for a detection", manifest({ task: "object_detection" }), "manifest.output.decode"],
    [
      "masks for a detection",
      manifest({ task: "object_detection", output: yolo({ masks: { name: "output1", channels: 32 } }) }),
      "manifest.output.masks",
    ],
    [
      "no masks for a segmentation",
      manifest({ task: "instance_segmentation", output: yolo() }),
      "manifest.output.masks",
    ],
    ["no keypoints for a pose", manifest({ task: "pose_estimation", output: yolo() }), "manifest.output.kpt_shape"],
    [
      "keypoints of four values",
      manifest({ task: "pose_estimation", output: yolo({ kpt_shape: [17, 4] }) }),
      "manifest.output.kpt_shape",
    ],
    [
      "an unknown place for NMS",
      manifest({ task: "object_detection", output: yolo({ nms: "later" }) }),
      "manifest.output.nms",
    ],
    ["no object", null, "manifest"],
    ["a list", [], "manifest"],
  ])("refuses %s and names the field", ([_, value, field], { expect }) => {
    expect(parseManifest(value)).toMatchObject({
      ok: false,
      error: { code: "VALIDATION_ERROR", field: expect.stringContaining(field) },
    });
  });

  it.for<[string, unknown]>([
    ["another task", manifest({ task: "semantic_segmentation", output: { name: "map", decode: "argmax" } })],
    ["another format", manifest({ format: "safetensors" })],
  ])("says that %s is not available, not that it is wrong", ([_, value], { expect }) => {
    expect(parseManifest(value)).toMatchObject({ ok: false, error: { code: "INFERENCE_UNAVAILABLE" } });
  });
});
