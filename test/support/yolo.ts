import type { ExpectStatic } from "vitest";
import type { CheckpointManifest, YoloOutput } from "../../src/training/inference/manifest.ts";
import type { Box } from "../../src/training/inference/results.ts";

/** test/data/inference/yolo.json: tiny models of Ultralytics and what its predictor answers for one picture. */

type FloatTensor = { dims: number[]; float32: string };

export type Expected = {
  boxes: number[][];
  scores: number[];
  labels: number[];
  masks?: string[];
  keypoints?: number[][][];
};

export type YoloFixtures = {
  image: { width: number; height: number; png: string };
  input: { width: number; height: number };
  labels: string[];
  limits: { confidence: number; iou: number; detections: number };
  models: Record<
    string,
    {
      task: "detect" | "segment" | "pose";
      output: Pick<YoloOutput, "nms" | "masks" | "kpt_shape">;
      outputs: Record<string, FloatTensor>;
      expected: Expected;
    }
  >;
};

const TASKS = { detect: "object_detection", segment: "instance_segmentation", pose: "pose_estimation" } as const;

/** The manifest that a trainer writes for a model of the fixtures. */
export function yoloManifest({ models, input, labels }: YoloFixtures, name: string): CheckpointManifest {
  const model = models[name];
  if (!model) throw new Error(`no fixture named ${name}`);
  return {
    schema: 1,
    task: TASKS[model.task],
    framework: "ultralytics",
    model_name: name,
    format: "onnx",
    input: {
      name: "images",
      layout: "NCHW",
      ...input,
      channels: 3,
      dtype: "float32",
      scale: 1 / 255,
      mean: [0, 0, 0],
      std: [1, 1, 1],
      resize: "letterbox",
      pad_value: 114,
    },
    output: { name: "output0", decode: "yolo", ...model.output },
    labels,
    external_data: [],
  };
}

/** Same number, labels, confidences and corners, in the same order. `within`: pixels. */
export function matchBoxes(
  expect: ExpectStatic,
  boxes: readonly Box[],
  expected: Expected,
  labels: readonly string[],
  within: number,
): void {
  expect(boxes.map(({ class_id }) => class_id)).toEqual(expected.labels);
  boxes.forEach((box, index) => {
    const [x1 = 0, y1 = 0, x2 = 0, y2 = 0] = expected.boxes[index] ?? [];
    const off = Math.max(...[box.x1 - x1, box.y1 - y1, box.x2 - x2, box.y2 - y2].map(Math.abs));
    expect(off, `box ${index}`).toBeLessThanOrEqual(within);
    expect(box.label).toBe(labels[box.class_id ?? -1]);
    expect(Math.abs((box.confidence ?? 0) - (expected.scores[index] ?? 0))).toBeLessThan(within / 10);
    const [x = 0, y = 0, width = 0, height = 0] = box.bbox;
    expect(Math.abs(x - width / 2 - box.x1) + Math.abs(y + height / 2 - box.y2)).toBeLessThan(0.03);
  });
}
