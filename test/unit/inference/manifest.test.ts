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

describe("parseManifest", () => {
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
    ["no object", null, "manifest"],
    ["a list", [], "manifest"],
  ])("refuses %s and names the field", ([_, value, field], { expect }) => {
    expect(parseManifest(value)).toMatchObject({
      ok: false,
      error: { code: "VALIDATION_ERROR", field: expect.stringContaining(field) },
    });
  });

  it.for<[string, unknown]>([
    ["another task", manifest({ task: "object_detection", output: { name: "boxes", decode: "yolo" } })],
    ["another format", manifest({ format: "safetensors" })],
  ])("says that %s is not available, not that it is wrong", ([_, value], { expect }) => {
    expect(parseManifest(value)).toMatchObject({ ok: false, error: { code: "INFERENCE_UNAVAILABLE" } });
  });
});
