import { z } from "zod";
import { type Failure, fail, ok, type Result } from "../../../shared/result.ts";
import type { Box, InferenceOptions, InferenceResult } from "../results.ts";

/**
 * From what a hosted model answers, by its published schema, to the platform's result. Pure. Thresholds, counts and order are
 * applied here: the models know none of them.
 */

type Unreadable = Failure<"ANSWER_UNREADABLE">;
type Labels = Extract<InferenceResult, { task_type: "image_classification" }>;
type Detections = Extract<InferenceResult, { task_type: "object_detection" }>;

/** What the model saw, and the image that its coordinates have to fit: both upright, pixels. */
export type Frames = { sent: { width: number; height: number }; shown: { width: number; height: number } };

const finite = z.number();
const unreadable = (what: string) => fail("ANSWER_UNREADABLE", `The model answered without ${what}`);

/** Published: every key of an element is optional. One without both says nothing and is left out. */
const LabelsSchema = z.array(z.object({ label: z.string().optional(), score: finite.optional() }));

/** `[{label, score}]`: the `topK` labels in descending order. Hosted models give names and no numbers of classes. */
export function readLabels(answer: unknown, options: Pick<InferenceOptions, "topK">): Result<Labels, Unreadable> {
  const parsed = LabelsSchema.safeParse(answer);
  if (!parsed.success) return unreadable("a list of labels");
  const predictions = parsed.data
    .flatMap(({ label, score }) =>
      label === undefined || score === undefined ? [] : [{ label, label_id: null, confidence: score }],
    )
    .sort((a, b) => b.confidence - a.confidence)
    .slice(0, options.topK);
  if (predictions.length === 0) return unreadable("a label");
  return ok({ task_type: "image_classification", predictions });
}

type Found = { label: string; classId: number | null; confidence: number | null; box: Corners };
type Corners = { x1: number; y1: number; x2: number; y2: number };

const clamp = (value: number, most: number): number => Math.min(Math.max(value, 0), most);

/** Corners within the image that is shown; null when nothing of the box is left there. */
function place({ x1, y1, x2, y2 }: Corners, { sent, shown }: Frames): Corners | null {
  const [scaleX, scaleY] = [shown.width / sent.width, shown.height / sent.height];
  const placed = {
    x1: clamp(x1 * scaleX, shown.width),
    y1: clamp(y1 * scaleY, shown.height),
    x2: clamp(x2 * scaleX, shown.width),
    y2: clamp(y2 * scaleY, shown.height),
  };
  return placed.x2 > placed.x1 && placed.y2 > placed.y1 ? placed : null;
}

function toDetections(found: Found[], frames: Frames, options: InferenceOptions): Detections {
  const boxes: Box[] = found
    .filter(({ confidence }) => confidence === null || confidence >= options.confidenceThreshold)
    .flatMap(({ label, classId, confidence, box }) => {
      const corners = place(box, frames);
      if (corners === null) return [];
      const { x1, y1, x2, y2 } = corners;
      return [
        {
          class_id: classId,
          label,
          bbox: [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1],
          ...corners,
          confidence,
          format: "yolo" as const,
        },
      ];
    })
    .sort((a, b) => (b.confidence ?? 0) - (a.confidence ?? 0))
    .slice(0, options.maxDetections);
  return {
    task_type: "object_detection",
    predictions: boxes.map((box) => ({ label: box.label, label_id: box.class_id, confidence: box.confidence })),
    predicted_boxes: boxes,
    num_detections: boxes.length,
  };
}

const BoxesSchema = z.array(
  z.object({
    label: z.string().optional(),
    score: finite.optional(),
    box: z.object({ xmin: finite, ymin: finite, xmax: finite, ymax: finite }).optional(),
  }),
);

/** `[{label, score, box}]` with corners in pixels of what was sent. An element without one of them is left out. */
export function readBoxes(answer: unknown, frames: Frames, options: InferenceOptions): Result<Detections, Unreadable> {
  const parsed = BoxesSchema.safeParse(answer);
  if (!parsed.success) return unreadable("a list of boxes");
  const found = parsed.data.flatMap(({ label, score, box }): Found[] =>
    label === undefined || score === undefined || box === undefined
      ? []
      : [
          {
            label,
            classId: null,
            confidence: score,
            box: { x1: box.xmin, y1: box.ymin, x2: box.xmax, y2: box.ymax },
          },
        ],
  );
  return ok(toDetections(found, frames, options));
}

/** Null and absent both stand for "not of this task" in what the platform publishes. */
const ObjectsSchema = z.object({
  objects: z.array(z.object({ x_min: finite, y_min: finite, x_max: finite, y_max: finite })).nullish(),
});

/**
 * One `{objects: [{x_min, …}]}` for each phrase that was looked for; the phrase is the label, its position the class id, and
 * there is no confidence. The schema does not say in what the corners are counted: Moondream's own are fractions of the
 * sides, so an answer with none above 1 is read so, any other as pixels of what was sent.
 */
export function readObjects(
  answers: { target: string; answer: unknown }[],
  frames: Frames,
  options: InferenceOptions,
): Result<Detections, Unreadable> {
  const found: Found[] = [];
  for (const [classId, { target, answer }] of answers.entries()) {
    const parsed = ObjectsSchema.safeParse(answer);
    if (!parsed.success) return unreadable("a list of objects");
    const objects = parsed.data.objects ?? [];
    const fractions = objects.every((box) => Math.max(box.x_min, box.y_min, box.x_max, box.y_max) <= 1);
    const [unitX, unitY] = fractions ? [frames.sent.width, frames.sent.height] : [1, 1];
    for (const box of objects) {
      found.push({
        label: target,
        classId,
        confidence: null,
        box: { x1: box.x_min * unitX, y1: box.y_min * unitY, x2: box.x_max * unitX, y2: box.y_max * unitY },
      });
    }
  }
  return ok(toDetections(found, frames, options));
}
