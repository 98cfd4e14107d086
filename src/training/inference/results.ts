import { z } from "@hono/zod-openapi";

/**
 * What a model says about one image, by task: the one shape that every engine answers and the wire carries. Coordinates are
 * pixels of the image as a viewer shows it (Exif orientation applied), with the origin at its top left, kept within the image.
 * `predictions` is the contract's list in every task: labels of the image, or one entry for each object that was found.
 */

const pixels = z.number();

/** 0..1; null where the model finds things without saying how sure it is. */
const confidence = z.number().nullable();

export const PredictionSchema = z
  .object({
    label: z.string().openapi({ example: "cat" }),
    label_id: z
      .number()
      .int()
      .nullable()
      .openapi({ example: 0, description: "Null where a hosted model gives names only" }),
    confidence: confidence.openapi({ example: 0.95 }),
  })
  .openapi("Prediction");

export const BoxSchema = z
  .object({
    class_id: z.number().int().nullable(),
    label: z.string(),
    bbox: z.array(pixels).length(4).openapi({ description: "Centre x, centre y, width, height; pixels" }),
    x1: pixels,
    y1: pixels,
    x2: pixels,
    y2: pixels,
    confidence,
    format: z.literal("yolo"),
  })
  .openapi("Box");

export const MaskSchema = z
  .object({
    instance_id: z.number().int().openapi({ description: "Position in `predicted_boxes`" }),
    class_id: z.number().int().nullable(),
    label: z.string(),
    polygon: z.array(z.array(pixels).length(2)).openapi({ description: "Outline; pixels" }),
    confidence,
  })
  .openapi("Mask");

export const PersonSchema = z
  .object({
    person_id: z.number().int().openapi({ description: "Position in `predicted_boxes`" }),
    keypoints: z.array(
      z.object({
        keypoint_id: z.number().int(),
        x: pixels,
        y: pixels,
        confidence: confidence.openapi({ description: "Null where the model has no third value for a keypoint" }),
      }),
    ),
    confidence,
  })
  .openapi("PersonKeypoints");

const predictions = z.array(PredictionSchema).openapi({ description: "In descending order of confidence" });
const boxes = z.array(BoxSchema).openapi({ description: "In the order of `predictions`" });
const count = z.number().int().min(0);

/** The part of an answer that depends on the task. */
export const TASK_RESULTS = {
  image_classification: z.object({ task_type: z.literal("image_classification"), predictions }),
  object_detection: z.object({
    task_type: z.literal("object_detection"),
    predictions,
    predicted_boxes: boxes,
    num_detections: count,
  }),
  instance_segmentation: z.object({
    task_type: z.literal("instance_segmentation"),
    predictions,
    predicted_boxes: boxes,
    num_detections: count,
    predicted_masks: z.array(MaskSchema),
    num_instances: count,
  }),
  pose_estimation: z.object({
    task_type: z.literal("pose_estimation"),
    predictions,
    predicted_boxes: boxes,
    num_detections: count,
    predicted_keypoints: z.array(PersonSchema),
    num_persons: count,
  }),
} as const;

export type ResultTask = keyof typeof TASK_RESULTS;
export type InferenceResult = { [T in ResultTask]: z.infer<(typeof TASK_RESULTS)[T]> }[ResultTask];
export type Box = z.infer<typeof BoxSchema>;

/** What a request asks of an engine; each task reads its own. Thresholds 0..1. */
export type InferenceOptions = {
  /** Boxes, masks and keypoints below it are left out; a classification answers `topK` labels whatever their confidence. */
  confidenceThreshold: number;
  /** Of two boxes of one class that overlap by more than this (intersection over union) the less sure one is left out. */
  iouThreshold: number;
  maxDetections: number;
  topK: number;
};
