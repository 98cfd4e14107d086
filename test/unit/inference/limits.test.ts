import { describe, it } from "vitest";
import {
  checkModelSize,
  MAX_EXTERNAL_TOTAL_BYTES,
  MAX_SINGLE_FILE_BYTES,
} from "../../../src/training/inference/limits.ts";
import type { ModelInput } from "../../../src/training/inference/manifest.ts";

const input = (width: number, height: number, channels: 1 | 3): ModelInput => ({
  name: "input",
  layout: "NCHW",
  width,
  height,
  channels,
  dtype: "float32",
  scale: 1,
  mean: [0],
  std: [1],
  resize: "stretch",
  pad_value: 0,
});
const manifest = { input: input(224, 224, 3) };

describe("checkModelSize", () => {
  it.for([
    ["a file of exactly the limit", MAX_SINGLE_FILE_BYTES, 0],
    ["external weights up to their limit", 1_000_000, MAX_EXTERNAL_TOTAL_BYTES - 1_000_000],
    ["resnet50 with int8 weights in a second file (25.7 MB)", 400_000, 25_300_000],
  ] as [string, number, number][])("accepts %s", ([, graph, external], { expect }) => {
    expect(checkModelSize(manifest, graph, external).ok).toBe(true);
  });

  it.for([
    ["one byte more", MAX_SINGLE_FILE_BYTES + 1, 0],
    ["resnet18 in one file (46.7 MB)", 46_700_000, 0],
    ["resnet18 with external weights (46.7 MB)", 200_000, 46_500_000],
    ["a graph that is too large for itself beside weights", MAX_SINGLE_FILE_BYTES + 1, 1],
    ["50 GiB", 50 * 2 ** 30, 0],
  ] as [string, number, number][])("refuses %s with size and limit", ([, graph, external], { expect }) => {
    expect(checkModelSize(manifest, graph, external)).toMatchObject({
      ok: false,
      error: { code: "MODEL_TOO_LARGE", message: expect.stringMatching(/MB, at most \d+\.\d MB/) },
    });
  });

  it("refuses an input of the largest size a manifest may name, in colour", ({ expect }) => {
    expect(checkModelSize({ input: input(2048, 2048, 3) }, 1000, 0)).toMatchObject({
      ok: false,
      error: { code: "MODEL_TOO_LARGE" },
    });
    expect(checkModelSize({ input: input(1280, 1280, 3) }, 1000, 0).ok).toBe(true);
  });
});
