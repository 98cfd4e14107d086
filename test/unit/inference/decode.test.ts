import { readFileSync } from "node:fs";
import { describe, it } from "vitest";
import { type Found, findObjects, type Tensor } from "../../../src/training/inference/decode/boxes.ts";
import { instanceMask, type Mask, outline } from "../../../src/training/inference/decode/masks.ts";
import type { CheckpointManifest } from "../../../src/training/inference/manifest.ts";
import { outputNames, readAnswer } from "../../../src/training/inference/postprocess.ts";
import { planInput } from "../../../src/training/inference/resample.ts";
import type { InferenceResult } from "../../../src/training/inference/results.ts";
import { type Expected, matchBoxes, type YoloFixtures, yoloManifest } from "../../support/yolo.ts";

const fixtures: YoloFixtures = JSON.parse(readFileSync("test/data/inference/yolo.json", "utf8"));

const tensorOf = ({ dims, float32 }: { dims: number[]; float32: string }): Tensor => {
  const bytes = Uint8Array.from(Buffer.from(float32, "base64"));
  return { dims, data: new Float32Array(bytes.buffer) };
};

const options = {
  confidenceThreshold: fixtures.limits.confidence,
  iouThreshold: fixtures.limits.iou,
  maxDetections: fixtures.limits.detections,
  topK: 5,
};

function answer(name: string, changes: Partial<typeof options> = {}): InferenceResult {
  const manifest = yoloManifest(fixtures, name);
  const outputs = new Map(
    Object.entries(fixtures.models[name]?.outputs ?? {}).map(([key, value]) => [key, tensorOf(value)]),
  );
  const { width, height } = fixtures.image;
  const placement = planInput({ width, height }, manifest.input).placement;
  const result = readAnswer(outputs, manifest, { placement, width, height }, { ...options, ...changes });
  if (!result.ok) throw new Error(result.error.message);
  return result.value;
}

/** What the framework finds, without the things whose mask lies in the padding alone: they are nothing of the image. */
function expectedWithin(name: string): Expected {
  const { expected } = fixtures.models[name] ?? {};
  if (!expected) throw new Error(`no fixture ${name}`);
  const { left, top, right, bottom } = planInput(fixtures.image, yoloManifest(fixtures, name).input).placement;
  const { width, height } = fixtures.input;
  const shown = expected.boxes.map((_, index) => {
    if (!expected.masks) return true;
    return unpack(expected.masks[index] ?? "", width * height).some((bit, at) => {
      const [x, y] = [at % width, Math.floor(at / width)];
      return bit === 1 && x >= left && x < right && y >= top && y < bottom;
    });
  });
  const those = <T>(list: T[]): T[] => list.filter((_, index) => shown[index]);
  return {
    ...expected,
    boxes: those(expected.boxes),
    scores: those(expected.scores),
    labels: those(expected.labels),
    ...(expected.masks && { masks: those(expected.masks) }),
  };
}

/** Pixels inside a polygon, even-odd, sampled at their centres. */
function rasterise(polygon: readonly (readonly [number, number])[], width: number, height: number): Uint8Array {
  const inside = new Uint8Array(width * height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      let odd = false;
      polygon.forEach(([x1, y1], index) => {
        const [x2, y2] = polygon[(index + 1) % polygon.length] ?? [0, 0];
        if (y1 > y + 0.5 !== y2 > y + 0.5 && x + 0.5 < x1 + ((y + 0.5 - y1) / (y2 - y1)) * (x2 - x1)) odd = !odd;
      });
      if (odd) inside[y * width + x] = 1;
    }
  }
  return inside;
}

const iou = (a: Uint8Array, b: Uint8Array): number => {
  let [both, either] = [0, 0];
  a.forEach((bit, at) => {
    both += bit & (b[at] ?? 0);
    either += bit | (b[at] ?? 0);
  });
  return both / either;
};

const unpack = (bits: string, count: number): Uint8Array => {
  const bytes = Buffer.from(bits, "base64");
  return Uint8Array.from({ length: count }, (_, at) => ((bytes[at >> 3] ?? 0) >> (7 - (at & 7))) & 1);
};

describe("readAnswer beside Ultralytics", () => {
  it.for(Object.keys(fixtures.models))("answers the boxes of %s", (name, { expect }) => {
    const expected = expectedWithin(name);
    const result = answer(name);
    if (result.task_type === "image_classification") throw new Error("no boxes");
    expect(expected.boxes.length).toBeGreaterThanOrEqual(5);
    matchBoxes(expect, result.predicted_boxes, expected, fixtures.labels, 0.01);
    expect(result.num_detections).toBe(expected.boxes.length);
    expect(result.predictions.map(({ label }) => label)).toEqual(result.predicted_boxes.map(({ label }) => label));
  });

  it.for(["tiny-segment", "tiny-segment-end2end"])("makes the masks of %s, bit by bit", (name, { expect }) => {
    const manifest = yoloManifest(fixtures, name);
    const { outputs, expected } = fixtures.models[name] ?? {};
    const [boxes, prototypes] = outputNames(manifest).map((key) =>
      tensorOf(outputs?.[key] ?? { dims: [], float32: "" }),
    );
    if (!boxes || !prototypes || !expected?.masks || manifest.output.decode !== "yolo") throw new Error("no masks");
    const found = findObjects(boxes, manifest.output, fixtures.labels.length, options);
    if (!found.ok) throw new Error(found.error.message);
    const { width, height } = manifest.input;
    const masks = found.value.flatMap((object) => {
      // All of the input: padding is cut away only for the polygon.
      const mask = instanceMask(object, prototypes, manifest.input, { left: 0, top: 0, right: width, bottom: height });
      return mask ? [{ object, whole: spread(mask, width, height) }] : [];
    });
    expect(masks.length).toBe(expected.masks.length);
    const overlaps = masks.map(({ whole }, index) => iou(whole, unpack(expected.masks?.[index] ?? "", width * height)));
    expect(Math.min(...overlaps)).toBeGreaterThan(0.999);
  });

  it.for(["tiny-segment", "tiny-segment-end2end"])("draws polygons of %s around the masks", (name, { expect }) => {
    const result = answer(name);
    const expected = expectedWithin(name);
    if (result.task_type !== "instance_segmentation" || !expected.masks) throw new Error("no masks");
    const { width, height } = fixtures.image;
    const input = fixtures.input;
    const { placement } = planInput(fixtures.image, yoloManifest(fixtures, name).input);
    expect(result.num_instances).toBe(expected.masks.length);
    let compared = 0;
    result.predicted_masks.forEach(({ polygon }, index) => {
      for (const [x = 0, y = 0] of polygon) {
        expect(x >= 0 && y >= 0 && x <= width && y <= height, `point ${x}, ${y}`).toBe(true);
      }
      // Back in pixels of the input, where the mask of the framework is.
      const back = polygon.map(([x = 0, y = 0]): [number, number] => [
        x * placement.scaleX + placement.offsetX,
        y * placement.scaleY + placement.offsetY,
      ]);
      const drawn = rasterise(back, input.width, input.height);
      const mask = largestPart(
        unpack(expected.masks?.[index] ?? "", input.width * input.height),
        input.width,
        placement,
      );
      const size = mask.reduce((sum, bit) => sum + bit, 0);
      if (size < 40) return; // a line of a pixel or two is coarser than the tolerance of the outline
      compared += 1;
      const holes = filled(mask, input.width);
      expect(iou(drawn, holes), `mask ${index} of ${size} pixels`).toBeGreaterThan(0.8);
    });
    expect(compared).toBeGreaterThanOrEqual(3);
  });

  it.for(["tiny-pose", "tiny-pose-end2end"])("answers the keypoints of %s", (name, { expect }) => {
    const result = answer(name);
    const expected = fixtures.models[name]?.expected.keypoints;
    if (result.task_type !== "pose_estimation" || !expected) throw new Error("no keypoints");
    expect(result.num_persons).toBe(expected.length);
    result.predicted_keypoints.forEach(({ person_id, keypoints }, person) => {
      expect(person_id).toBe(person);
      keypoints.forEach(({ keypoint_id, x, y, confidence }, id) => {
        const [wantedX = 0, wantedY = 0, wantedConfidence = null] = expected[person]?.[id] ?? [];
        expect(keypoint_id).toBe(id);
        expect(Math.abs(x - wantedX)).toBeLessThan(0.02);
        expect(Math.abs(y - wantedY)).toBeLessThan(0.02);
        if (wantedConfidence === null) expect(confidence).toBeNull();
        else expect(confidence).toBeCloseTo(wantedConfidence, 4);
      });
      expect(keypoints).toHaveLength(5);
    });
  });
});

/** A window of bits in the whole input. */
function spread(mask: Mask, width: number, height: number): Uint8Array {
  const whole = new Uint8Array(width * height);
  mask.data.forEach((bit, at) => {
    const x = mask.left + (at % mask.width);
    const y = mask.top + Math.floor(at / mask.width);
    whole[y * width + x] = bit;
  });
  return whole;
}

type Shown = { left: number; top: number; right: number; bottom: number };

/** The largest part with 8 neighbours, within the image; by repeated merging, unlike the code under test. */
function largestPart(bits: Uint8Array, width: number, shown: Shown): Uint8Array {
  const part = Int32Array.from(bits, (bit, at) => {
    const [x, y] = [at % width, Math.floor(at / width)];
    return bit && x >= shown.left && x < shown.right && y >= shown.top && y < shown.bottom ? at + 1 : 0;
  });
  for (let changed = true; changed; ) {
    changed = false;
    part.forEach((mine, at) => {
      if (mine === 0) return;
      for (const step of [1, -1, width, -width, width + 1, width - 1, -width + 1, -width - 1]) {
        const x = at % width;
        if (
          (x === 0 && [-1, width - 1, -width - 1].includes(step)) ||
          (x === width - 1 && [1, width + 1, -width + 1].includes(step))
        )
          continue;
        const other = part[at + step] ?? 0;
        if (other > (part[at] ?? 0)) {
          part[at] = other;
          changed = true;
        }
      }
    });
  }
  const sizes = new Map<number, number>();
  for (const mine of part) if (mine) sizes.set(mine, (sizes.get(mine) ?? 0) + 1);
  const [largest] = [...sizes].sort((a, b) => b[1] - a[1])[0] ?? [0];
  return Uint8Array.from(part, (mine) => (mine !== 0 && mine === largest ? 1 : 0));
}

/** Holes filled: what cannot be reached from outside without crossing a side. An outline has none. */
function filled(bits: Uint8Array, width: number): Uint8Array {
  const height = bits.length / width;
  const outside = new Uint8Array(bits.length);
  for (let changed = true; changed; ) {
    changed = false;
    bits.forEach((bit, at) => {
      if (bit || outside[at]) return;
      const [x, y] = [at % width, Math.floor(at / width)];
      const edge = x === 0 || y === 0 || x === width - 1 || y === height - 1;
      if (edge || outside[at - 1] || outside[at + 1] || outside[at - width] || outside[at + width]) {
        outside[at] = 1;
        changed = true;
      }
    });
  }
  return Uint8Array.from(outside, (out) => 1 - out);
}

const head = (changes: Partial<Extract<CheckpointManifest["output"], { decode: "yolo" }>> = {}) => ({
  name: "output0",
  decode: "yolo" as const,
  nms: "none" as const,
  ...changes,
});

/** `[1, 4 + labels, places]` from rows of [x, y, width, height, score …]. */
const places = (rows: number[][]): Tensor => {
  const values = rows[0]?.length ?? 6;
  const data = new Float32Array(values * rows.length);
  rows.forEach((row, place) => {
    row.forEach((value, at) => {
      data[at * rows.length + place] = value;
    });
  });
  return { dims: [1, values, rows.length], data };
};

const limits = { confidenceThreshold: 0.25, iouThreshold: 0.45, maxDetections: 100 };

const found = (tensor: Tensor, changes: Partial<typeof limits> = {}, output = head()): Found[] => {
  const result = findObjects(tensor, output, 2, { ...limits, ...changes });
  if (!result.ok) throw new Error(result.error.message);
  return result.value;
};

describe("findObjects", () => {
  const boxes = places([
    [10, 10, 10, 10, 0.6, 0.1],
    [11, 10, 10, 10, 0.9, 0.1], // overlaps the first by 90 of 110
    [11, 10, 10, 10, 0.2, 0.8], // the same box of another label
    [50, 50, 10, 10, 0.1, 0.24],
    [80, 80, 10, 10, 0.25, 0.2], // at the threshold, not above it
  ]);

  it("suppresses within a label, the surest stays, and leaves other labels alone", ({ expect }) => {
    expect(found(boxes).map(({ x1, labelId }) => [x1, labelId])).toEqual([
      [6, 0],
      [6, 1],
    ]);
  });

  it("follows the overlap threshold", ({ expect }) => {
    expect(found(boxes, { iouThreshold: 0.8 })).toHaveLength(2);
    expect(found(boxes, { iouThreshold: 0.82 })).toHaveLength(3);
  });

  it("follows the confidence threshold and the limit", ({ expect }) => {
    expect(found(boxes, { confidenceThreshold: 0.24 }).map(({ score }) => score)).toHaveLength(3);
    expect(found(boxes, { confidenceThreshold: 0.2 })).toHaveLength(4);
    expect(found(boxes, { confidenceThreshold: 1 })).toEqual([]);
    expect(found(boxes, { maxDetections: 1 }).map(({ labelId }) => labelId)).toEqual([0]);
  });

  it("finds nothing among no places", ({ expect }) => {
    expect(found({ dims: [1, 6, 0], data: new Float32Array() })).toEqual([]);
  });

  it("orders rows that were suppressed in the model, and passes over unused ones", ({ expect }) => {
    const rows: Tensor = {
      dims: [1, 4, 6],
      data: Float32Array.of(0, 0, 5, 5, 0.5, 1, 1, 1, 5, 5, 0.9, 0, 2, 2, 5, 5, 0.7, 0, 0, 0, 0, 0, 0, 0),
    };
    const result = found(rows, { confidenceThreshold: 0 }, head({ nms: "in_graph" }));
    expect(result.map(({ x1, labelId }) => [x1, labelId])).toEqual([
      [1, 0],
      [2, 0],
      [0, 1],
    ]);
  });

  it.for<[string, Tensor, ReturnType<typeof head>]>([
    ["another number of labels", places([[1, 1, 1, 1, 0.5]]), head()],
    ["two images", { dims: [2, 6, 1], data: new Float32Array(12) }, head()],
    ["another rank", { dims: [6, 1], data: new Float32Array(6) }, head()],
    ["scores without a sigmoid", places([[1, 1, 1, 1, 3.5, -2]]), head()],
    ["a score that is no number", places([[1, 1, 1, 1, Number.NaN, 0.5]]), head()],
    ["a box that is no number", places([[1, Number.NaN, 1, 1, 0.5, 0.5]]), head()],
    ["an endless box", places([[1, 1, Number.POSITIVE_INFINITY, 1, 0.5, 0.5]]), head()],
    [
      "a label that does not exist",
      { dims: [1, 1, 6], data: Float32Array.of(0, 0, 1, 1, 0.9, 2) },
      head({ nms: "in_graph" }),
    ],
    ["a label below zero", { dims: [1, 1, 6], data: Float32Array.of(0, 0, 1, 1, 0.9, -1) }, head({ nms: "in_graph" })],
    ["rows of another width", { dims: [1, 1, 7], data: new Float32Array(7) }, head({ nms: "in_graph" })],
    ["fewer values than it says", { dims: [1, 6, 3], data: new Float32Array(6) }, head()],
  ])("refuses %s", ([_, tensor, output], { expect }) => {
    expect(findObjects(tensor, output, 2, limits)).toMatchObject({ ok: false, error: { code: "MODEL_NOT_USABLE" } });
  });
});

/** A mask from rows of text, `#` inside. */
const maskOf = (...rows: string[]): Mask => ({
  left: 10,
  top: 20,
  width: rows[0]?.length ?? 0,
  height: rows.length,
  data: Uint8Array.from(rows.join(""), (character) => (character === "#" ? 1 : 0)),
});

describe("outline", () => {
  it("goes around the pixels, not through their centres", ({ expect }) => {
    const points = outline(maskOf("....", ".##.", ".##.", "...."));
    expect(new Set(points.map(String))).toEqual(new Set(["11,21", "13,21", "13,23", "11,23"]));
  });

  it("draws the largest part alone", ({ expect }) => {
    const points = outline(maskOf("#....", "...##", "...##"));
    expect(points.map(String)).toContain("13,21");
    expect(points.map(String)).not.toContain("10,20");
  });

  it("counts pixels that touch at a corner as one part and ends", ({ expect }) => {
    const points = outline(maskOf("#...", ".#..", "..#.", "...#"));
    const xs = points.map(([x]) => x);
    expect([Math.min(...xs), Math.max(...xs)]).toEqual([10, 14]);
    expect(points.length).toBeGreaterThanOrEqual(3);
  });

  it("has three points at least, for a single pixel too", ({ expect }) => {
    expect(outline(maskOf("#"))).toHaveLength(4);
  });

  it("needs few points for a slanted edge", ({ expect }) => {
    const rows = Array.from({ length: 60 }, (_, y) => "#".repeat(y + 1).padEnd(60, "."));
    expect(outline(maskOf(...rows)).length).toBeLessThan(8);
  });

  it("is empty for an empty mask", ({ expect }) => {
    expect(outline(maskOf("...", "..."))).toEqual([]);
  });

  it("stays inside noise of any shape", ({ expect }) => {
    let state = 1;
    for (let round = 0; round < 30; round += 1) {
      const data = Uint8Array.from({ length: 12 * 9 }, () => {
        state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
        return state > 2 ** 31 ? 1 : 0;
      });
      const points = outline({ left: 0, top: 0, width: 12, height: 9, data });
      expect(points.length).toBeGreaterThanOrEqual(3);
      expect(points.every(([x, y]) => x >= 0 && y >= 0 && x <= 12 && y <= 9)).toBe(true);
    }
  });
});
