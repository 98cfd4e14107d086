import { z } from "zod";
import type { Failure, Result } from "../../shared/result.ts";
import { fail, ok } from "../../shared/result.ts";

/**
 * The small JSON document that a runner sends along with a model: all that is needed to feed it an image and to read its
 * answer. Pure; the embedded runner uses the same schema to write it.
 */

const text = (maximum: number) => z.string().min(1).max(maximum);

/** A name without folders: it is only ever compared with the names inside the model, never opened as a path. */
const fileName = text(200).regex(/^[A-Za-z0-9_-][A-Za-z0-9._-]*$/, "must be a plain file name");

const inputSchema = z
  .object({
    name: text(200),
    layout: z.literal("NCHW"),
    /** Pixels. */
    width: z.int().min(1).max(2048),
    height: z.int().min(1).max(2048),
    /** 1: luma (ITU-R BT.601), 3: red, green, blue. */
    channels: z.union([z.literal(1), z.literal(3)]),
    dtype: z.literal("float32"),
    /** value = (pixel (0..255) * scale - mean[channel]) / std[channel] */
    scale: z.number().positive().max(1e6),
    mean: z.array(z.number().min(-1e6).max(1e6)).min(1).max(3),
    std: z.array(z.number().min(1e-9).max(1e6)).min(1).max(3),
    /**
     * stretch: both sides to size. crop: cover, cut the middle. pad: contain, `pad_value` around it. letterbox: as pad, the
     * way Ultralytics trains (its `LetterBox` with `center`, `scaleup` and without `auto`).
     */
    resize: z.enum(["stretch", "crop", "pad", "letterbox"]),
    /**
     * How pixels are resized. area: average when shrinking, linear when growing. cv_linear: OpenCV's INTER_LINEAR, two
     * pixels an axis, also when shrinking. pil_bilinear, pil_bicubic: Pillow's filters, which widen when shrinking (also
     * torchvision's with antialias). Absent: cv_linear for letterbox, else area.
     */
    interpolation: z.enum(["area", "cv_linear", "pil_bilinear", "pil_bicubic"]).optional(),
    /**
     * For crop: the pixels of the shorter side before the middle is cut out, as torchvision's `Resize(n)` and
     * `CenterCrop` do; at least the larger of width and height. Absent: the image just covers the input.
     */
    resize_short_side: z.int().min(1).max(4096).optional(),
    /** Pixel value, 0..255; Ultralytics pads with 114. */
    pad_value: z.number().min(0).max(255).default(0),
  })
  .superRefine((input, context) => {
    for (const key of ["mean", "std"] as const) {
      if (input[key].length === input.channels) continue;
      context.addIssue({ code: "custom", path: [key], message: `must have ${input.channels} values, one a channel` });
    }
    if (input.resize_short_side !== undefined) {
      if (input.resize !== "crop") {
        context.addIssue({ code: "custom", path: ["resize_short_side"], message: "is for resize crop only" });
      } else if (input.resize_short_side < Math.max(input.width, input.height)) {
        context.addIssue({ code: "custom", path: ["resize_short_side"], message: "must cover the input" });
      }
    }
  });

/** One value a label. softmax: the model ends in logits. none: it ends in probabilities. */
const classesSchema = z.object({ name: text(200), decode: z.enum(["softmax", "none"]) });

/**
 * Boxes as the heads of Ultralytics export them (YOLOv5u, YOLOv8, YOLO11 and later), all values in pixels of the input:
 *
 * - nms "none": `[1, 4 + labels + extra, n]`; a column is centre x, centre y, width, height, one score a label
 *   (sigmoid applied), extra.
 * - nms "in_graph": `[1, n, 6 + extra]`; a row is x1, y1, x2, y2, score, label id, extra. Both of a graph exported with
 *   `nms=True` and of a model that needs none (YOLOv10, YOLO26); unused rows have score 0.
 *
 * extra: mask coefficients (`masks.channels` values) or keypoints (`kpt_shape[0] * kpt_shape[1]` values).
 */
const yoloSchema = z.object({
  name: text(200),
  decode: z.literal("yolo"),
  nms: z.enum(["none", "in_graph"]),
  /** instance_segmentation: the output `[1, channels, height, width]` that the mask coefficients combine. */
  masks: z.object({ name: text(200), channels: z.int().min(1).max(256) }).optional(),
  /** pose_estimation: number of keypoints; 2 values each (x, y) or 3 (x, y, confidence with sigmoid applied). */
  kpt_shape: z.tuple([z.int().min(1).max(1000), z.union([z.literal(2), z.literal(3)])]).optional(),
});

/** What a task's output has to say: how it is decoded and which of the two additions it has. */
const TASK_OUTPUTS: Record<string, { boxes: boolean; masks: boolean; keypoints: boolean }> = {
  image_classification: { boxes: false, masks: false, keypoints: false },
  object_detection: { boxes: true, masks: false, keypoints: false },
  instance_segmentation: { boxes: true, masks: true, keypoints: false },
  pose_estimation: { boxes: true, masks: false, keypoints: true },
};

export const checkpointManifestSchema = z
  .object({
    schema: z.literal(1),
    task: text(100),
    framework: text(100),
    model_name: text(200),
    format: z.literal("onnx"),
    input: inputSchema,
    output: z.discriminatedUnion("decode", [classesSchema, yoloSchema]),
    /** Position = label id. */
    labels: z.array(text(200)).min(1).max(10_000),
    /** The file beside the graph that holds weights, under the name by which the graph refers to it. */
    external_data: z
      .array(z.object({ path: fileName, artifact_id: text(100) }))
      .max(1)
      .default([]),
  })
  .superRefine(({ task, output }, context) => {
    const wanted = TASK_OUTPUTS[task];
    if (!wanted) return; // said better by the reader of the manifest
    const refuse = (key: string, message: string) =>
      context.addIssue({ code: "custom", path: ["output", key], message });
    if ((output.decode === "yolo") !== wanted.boxes) {
      refuse("decode", `must be ${wanted.boxes ? "yolo" : "softmax or none"} for ${task}`);
      return;
    }
    if (output.decode !== "yolo") return;
    if ((output.masks !== undefined) !== wanted.masks) {
      refuse("masks", `is ${wanted.masks ? "required" : "not allowed"} for ${task}`);
    }
    if ((output.kpt_shape !== undefined) !== wanted.keypoints) {
      refuse("kpt_shape", `is ${wanted.keypoints ? "required" : "not allowed"} for ${task}`);
    }
  });

export type CheckpointManifest = z.infer<typeof checkpointManifestSchema>;
export type ModelInput = CheckpointManifest["input"];
/** The output of a model that finds boxes. */
export type YoloOutput = Extract<CheckpointManifest["output"], { decode: "yolo" }>;

/** The tasks whose output this platform can decode. */
export const SUPPORTED_TASKS: readonly string[] = Object.keys(TASK_OUTPUTS);

/**
 * Reads a manifest that came from outside. `INFERENCE_UNAVAILABLE` when it is of a task or format that cannot run here,
 * `VALIDATION_ERROR` (field `manifest…`) when it contradicts the schema. Unknown keys are dropped.
 */
export function parseManifest(
  value: unknown,
): Result<CheckpointManifest, Failure<"INFERENCE_UNAVAILABLE" | "VALIDATION_ERROR">> {
  const kind = z.object({ task: z.string(), format: z.string() }).safeParse(value);
  if (kind.success && kind.data.format !== "onnx") {
    return fail("INFERENCE_UNAVAILABLE", `Inference is not available for ${kind.data.format.slice(0, 40)} models`);
  }
  if (kind.success && !SUPPORTED_TASKS.includes(kind.data.task)) {
    return fail("INFERENCE_UNAVAILABLE", `Inference is not available for the task ${kind.data.task.slice(0, 40)}`);
  }
  const parsed = checkpointManifestSchema.safeParse(value);
  if (parsed.success) return ok(parsed.data);
  const issue = parsed.error.issues[0];
  const field = ["manifest", ...(issue?.path ?? [])].map(String).join(".");
  return fail("VALIDATION_ERROR", `${field}: ${issue?.message ?? "not valid"}`, field);
}
