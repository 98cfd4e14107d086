import { describe, it } from "vitest";
import { z } from "zod";
import { loadRowKernel } from "../../../runner/embedded/trainer/row-kernel.ts";
import {
  type Frames,
  readBoxes,
  readLabels,
  readObjects,
} from "../../../src/training/inference/engines/hosted-answers.ts";
import { hostedError, platformCode, secondsLeftToday } from "../../../src/training/inference/engines/hosted-errors.ts";
import { fittedSize, normalisePixels } from "../../../src/training/inference/normalise.ts";
import { decodePng } from "../../../src/training/inference/png.ts";
import { TASK_RESULTS } from "../../../src/training/inference/results.ts";
import { listModels } from "../../../src/training/models/catalogue.ts";
import { HostedModelsSchema, hostedModels, hostedName } from "../../../src/training/models/hosted.ts";
import { detected } from "../../support/workers-ai.ts";

const kernel = loadRowKernel();

const OPTIONS = { confidenceThreshold: 0.25, iouThreshold: 0.45, maxDetections: 100, topK: 5 };
/** Sent at half its size. */
const HALF: Frames = { sent: { width: 200, height: 100 }, shown: { width: 400, height: 200 } };

describe("labels of a hosted classifier", () => {
  it("come in descending order, as many as asked for, whatever their confidence", ({ expect }) => {
    const answer = [
      { label: "TABBY", score: 0.04 },
      { label: "BURMESE CAT", score: 0.9 },
      { label: "LYNX", score: 0.06 },
    ];
    const result = readLabels(answer, { topK: 2 });
    expect(result).toEqual({
      ok: true,
      value: {
        task_type: "image_classification",
        predictions: [
          { label: "BURMESE CAT", label_id: null, confidence: 0.9 },
          { label: "LYNX", label_id: null, confidence: 0.06 },
        ],
      },
    });
    if (result.ok) TASK_RESULTS.image_classification.strict().parse(result.value);
  });

  it("are not read out of anything else", ({ expect }) => {
    for (const answer of [null, undefined, "cat", {}, { label: "cat", score: 1 }, [], [{}], [{ label: "cat" }], [1]]) {
      expect(readLabels(answer, OPTIONS)).toMatchObject({ ok: false, error: { code: "ANSWER_UNREADABLE" } });
    }
    expect(readLabels([{ label: "cat", score: Number.NaN }], OPTIONS).ok).toBe(false);
  });
});

describe("boxes of a hosted detector", () => {
  const box = (xmin: number, ymin: number, xmax: number, ymax: number) => ({ xmin, ymin, xmax, ymax });

  it("are pixels of the image that is shown, cut at its edges, the surest first", ({ expect }) => {
    const answer = [
      { label: "cat", score: 0.5, box: box(10, 10, 30, 40) },
      { label: "dog", score: 0.8, box: box(-20, 50, 210, 120) },
    ];
    const result = readBoxes(answer, HALF, OPTIONS);
    expect(result).toEqual({
      ok: true,
      value: {
        task_type: "object_detection",
        num_detections: 2,
        predictions: [
          { label: "dog", label_id: null, confidence: 0.8 },
          { label: "cat", label_id: null, confidence: 0.5 },
        ],
        predicted_boxes: [
          {
            class_id: null,
            label: "dog",
            bbox: [200, 150, 400, 100],
            x1: 0,
            y1: 100,
            x2: 400,
            y2: 200,
            confidence: 0.8,
            format: "yolo",
          },
          {
            class_id: null,
            label: "cat",
            bbox: [40, 50, 40, 60],
            x1: 20,
            y1: 20,
            x2: 60,
            y2: 80,
            confidence: 0.5,
            format: "yolo",
          },
        ],
      },
    });
    if (result.ok) TASK_RESULTS.object_detection.strict().parse(result.value);
  });

  it("below the threshold, over the count, outside or without a size are left out", ({ expect }) => {
    const labels = (options: Partial<typeof OPTIONS>) => {
      const result = readBoxes(
        [
          { label: "sure", score: 0.9, box: box(1, 1, 9, 9) },
          { label: "edge", score: 0.25, box: box(1, 1, 9, 9) },
          { label: "unsure", score: 0.2, box: box(1, 1, 9, 9) },
          { label: "outside", score: 0.9, box: box(300, 1, 320, 9) },
          { label: "flat", score: 0.9, box: box(5, 5, 5, 9) },
          { label: "no box", score: 0.9 },
        ],
        HALF,
        { ...OPTIONS, ...options },
      );
      return result.ok ? result.value.predictions.map(({ label }) => label) : result;
    };
    expect(labels({})).toEqual(["sure", "edge"]);
    expect(labels({ confidenceThreshold: 0 })).toEqual(["sure", "edge", "unsure"]);
    expect(labels({ maxDetections: 1 })).toEqual(["sure"]);
    expect(labels({ confidenceThreshold: 1 })).toEqual([]);
  });
});

describe("objects found by phrases", () => {
  const corners = (result: ReturnType<typeof readObjects>) =>
    result.ok
      ? result.value.predicted_boxes.map((box) => [
          box.class_id,
          box.label,
          box.x1,
          box.y1,
          box.x2,
          box.y2,
          box.confidence,
        ])
      : result;

  it("carry the phrase, its position and no confidence; no threshold takes them away", ({ expect }) => {
    const answers = [
      { target: "ripe tomato", answer: detected([0, 0, 0.5, 0.5], [0.25, 0.5, 1, 1]) },
      { target: "leaf", answer: detected([0.5, 0.5, 0.75, 1]) },
    ];
    expect(corners(readObjects(answers, HALF, { ...OPTIONS, confidenceThreshold: 1 }))).toEqual([
      [0, "ripe tomato", 0, 0, 200, 100, null],
      [0, "ripe tomato", 100, 100, 400, 200, null],
      [1, "leaf", 200, 100, 300, 200, null],
    ]);
  });

  it("may be counted in pixels of what was sent", ({ expect }) => {
    const answers = [{ target: "leaf", answer: detected([0, 0, 100, 50]) }];
    expect(corners(readObjects(answers, HALF, OPTIONS))).toEqual([[0, "leaf", 0, 0, 200, 100, null]]);
  });

  it("may be none", ({ expect }) => {
    for (const answer of [detected(), { ...detected(), objects: undefined }, { ...detected(), objects: null }]) {
      expect(corners(readObjects([{ target: "leaf", answer }], HALF, OPTIONS))).toEqual([]);
    }
    expect(readObjects([{ target: "leaf", answer: { objects: [{ x_min: 1 }] } }], HALF, OPTIONS).ok).toBe(false);
    expect(readObjects([{ target: "leaf", answer: "none" }], HALF, OPTIONS).ok).toBe(false);
  });
});

describe("errors of the platform", () => {
  const NOON = Date.UTC(2026, 10, 22, 12);

  it("are known by the code in front of their message, with or without names before it", ({ expect }) => {
    expect(platformCode(new Error("3040: Capacity temporarily exceeded, please try again."))).toBe(3040);
    expect(platformCode(new Error("AiError: AiError: 3007: Request timeout"))).toBe(3007);
    for (const thrown of [new Error("Network connection lost"), new Error("at 12:30: no"), "x", null, undefined]) {
      expect(platformCode(thrown)).toBeNull();
    }
  });

  it.for([
    ["3040: Capacity temporarily exceeded", 503, "INFERENCE_UNAVAILABLE", "5"],
    ["429: Too many requests", 503, "INFERENCE_UNAVAILABLE", "5"],
    ["4006: you have used up your daily free allocation of 10,000 neurons", 503, "INFERENCE_UNAVAILABLE", "43200"],
    ["3036: you have used up your daily free allocation", 503, "INFERENCE_UNAVAILABLE", "43200"],
    ["3007: Request timeout", 504, "INFERENCE_TIMEOUT", undefined],
    ["5007: No such model", 503, "INFERENCE_UNAVAILABLE", undefined],
    ["5018: The account is not allowed to access this model", 503, "INFERENCE_UNAVAILABLE", undefined],
    ["3006: Request is too large", 422, "VALIDATION_ERROR", undefined],
    ["5004: Invalid data type", 422, "VALIDATION_ERROR", undefined],
    ["something new", 503, "INFERENCE_UNAVAILABLE", "5"],
  ] as const)("%s is %d %s", ([message, status, code, retryAfter], { expect }) => {
    const error = hostedError(new Error(message), NOON);
    expect([error.status, error.code, error.headers["retry-after"]]).toEqual([status, code, retryAfter]);
    expect(error.message).not.toContain("neurons");
    expect(error.field).toBe(status === 422 ? "file" : null);
  });

  it("never ask to wait for nothing", ({ expect }) => {
    expect(secondsLeftToday(NOON)).toBe(43_200);
    expect(secondsLeftToday(Date.UTC(2026, 10, 22, 23, 59, 59, 999))).toBe(1);
    expect(secondsLeftToday(Date.UTC(2026, 10, 23))).toBe(86_400);
  });
});

describe("an image for a hosted model", () => {
  it("is fitted to the longer side and never enlarged", ({ expect }) => {
    expect(fittedSize({ width: 2000, height: 1000 }, 1, 500)).toEqual({ width: 500, height: 250 });
    expect(fittedSize({ width: 2000, height: 1000 }, 6, 500)).toEqual({ width: 250, height: 500 });
    expect(fittedSize({ width: 20, height: 10 }, 1, 500)).toEqual({ width: 20, height: 10 });
    expect(fittedSize({ width: 5_000, height: 1 }, 1, 500)).toEqual({ width: 500, height: 1 });
  });

  it("is a PNG of the upright pixels", ({ expect }) => {
    const stored = { width: 3, height: 2, data: new Uint8Array(24) };
    for (let at = 0; at < 6; at += 1) stored.data.set([at * 10, at, 255 - at, 255], at * 4);
    const upright = normalisePixels(kernel, stored, 6, 100);
    expect([upright.width, upright.height]).toEqual([2, 3]);
    const decoded = decodePng(upright.png);
    if (!decoded.ok) throw new Error(decoded.error.message);
    const reds = Array.from({ length: 6 }, (_, at) => decoded.value.data[at * 4]);
    // Stored rows 0 10 20 / 30 40 50, turned a quarter clockwise.
    expect(reds).toEqual([30, 0, 40, 10, 50, 20]);
  });

  it("is averaged when it shrinks, on white where it is transparent", ({ expect }) => {
    const data = Uint8Array.of(0, 0, 0, 255, 200, 100, 50, 255, 0, 0, 0, 0, 100, 100, 50, 255);
    const { png } = normalisePixels(kernel, { width: 4, height: 1, data }, 1, 2);
    const decoded = decodePng(png);
    if (!decoded.ok) throw new Error(decoded.error.message);
    expect([...decoded.value.data]).toEqual([100, 50, 25, 255, 178, 178, 153, 255]);
  });
});

describe("hosted models of a deployment", () => {
  it("stand behind every hosted entry of the catalogue, with the platform's prefix", ({ expect }) => {
    const listed = listModels({ framework: "workers-ai" });
    expect(listed.map(({ model_name }) => model_name)).toEqual([...hostedModels().keys()]);
    for (const [name, { id }] of hostedModels()) {
      expect(id).toBe(`@cf/${name}`);
      expect(hostedName(id)).toBe(name);
    }
  });

  it("can be pointed elsewhere, added and taken away, and the list follows", ({ expect }) => {
    const models = hostedModels(
      HostedModelsSchema.parse({
        "microsoft/resnet-50": { id: "@cf/microsoft/resnet-50-v2", kind: "classification" },
        "moondream/moondream3.1-9B-A2B": null,
        "facebook/detr-resnet-50": { id: "@cf/facebook/detr-resnet-50", kind: "detection" },
      }),
    );
    expect(models.get("microsoft/resnet-50")?.id).toBe("@cf/microsoft/resnet-50-v2");
    expect(
      listModels({ framework: "workers-ai" }, models).map((entry) => [entry.model_name, entry.task_types]),
    ).toEqual([
      ["microsoft/resnet-50", ["image_classification"]],
      ["facebook/detr-resnet-50", ["object_detection"]],
    ]);
    expect(listModels({ task_type: "object_detection", framework: "timm" }, models)).toEqual([]);
  });

  it.for([
    [{ "a/b": { id: "a/b", kind: "classification" } }, "an id without prefix"],
    [{ "@cf/a/b": { id: "@cf/a/b", kind: "classification" } }, "a name with prefix"],
    [{ "a/b": { id: "@cf/a/b", kind: "poetry" } }, "an unknown kind"],
    [{ "a/b": { id: "@cf/a/b", kind: "detection", price: 0 } }, "an unknown key"],
    [[], "a list"],
  ] as const)("are not configured by %s (%s)", ([value], { expect }) => {
    expect(z.safeParse(HostedModelsSchema, value).success).toBe(false);
  });

  it("are not found under names of the language's own objects", ({ expect }) => {
    for (const name of ["constructor", "__proto__", "toString", ""]) expect(hostedModels().get(name)).toBeUndefined();
  });
});
