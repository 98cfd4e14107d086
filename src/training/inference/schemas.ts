import { z } from "@hono/zod-openapi";
import { type ResultTask, TASK_RESULTS } from "./results.ts";

const text = (pattern: RegExp, message: string) => z.string().trim().regex(pattern, message);

const ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/** `best`, `last`, an artifact id, or a `checkpoint_path` as it is printed: `jobs/{id}/{attempt}/{artifact_id}`. */
export type CheckpointChoice = { role: "best" | "last" } | { artifactId: string; jobId: number | null };

function readChoice(value: string): CheckpointChoice {
  if (value === "best" || value === "last") return { role: value };
  const [, jobId, artifactId = value] = new RegExp(`^jobs/(\\d{1,15})/\\d{1,9}/(${ID})$`).exec(value) ?? [];
  return { artifactId, jobId: jobId === undefined ? null : Number(jobId) };
}

const fraction = text(/^(\d{1,3}|\d{0,3}\.\d{1,17})$/, "must be a number")
  .transform(Number)
  .pipe(z.number().min(0).max(1));

const count = (most: number) =>
  text(/^(0|[1-9]\d{0,8})$/, "must be an integer")
    .transform(Number)
    .pipe(z.number().int().min(1).max(most));

/** The form's fields, all of them text. Fields that are not known are ignored. */
export const InferenceFieldsSchema = z.object({
  training_job_id: text(/^[1-9]\d{0,14}$/, "must be a positive integer").transform(Number),
  /** Filters boxes, masks and keypoints; a classification answers `top_k` labels whatever their confidence. */
  confidence_threshold: fraction.default(0.25),
  iou_threshold: fraction.default(0.45),
  max_detections: count(1_000).default(100),
  top_k: count(100).default(5),
  checkpoint: text(
    new RegExp(`^(best|last|${ID}|jobs/\\d{1,15}/\\d{1,9}/${ID})$`),
    "must be best, last or a checkpoint",
  )
    .transform(readChoice)
    .optional(),
});

export type InferenceFields = z.infer<typeof InferenceFieldsSchema>;

const milliseconds = z.number().min(0);

/** What stands beside the part that depends on the task. */
const common = {
  model_name: z.string().openapi({ example: "resnet50" }),
  inference_time_ms: milliseconds.openapi({ example: 45.2, description: "Queueing and loading included" }),
  engine: z.enum(["onnx", "workers-ai"]).openapi({ description: "What ran the model" }),
  checkpoint: z
    .object({
      artifact_id: z.string(),
      epoch: z.number().int().nullable(),
      role: z.enum(["best", "last"]).nullable(),
      sha256: z.string().openapi({ description: "Of the model file whose answer this is" }),
    })
    .nullable()
    .openapi({ description: "Null for a pretrained model of the catalogue" }),
  image: z
    .object({ type: z.enum(["jpeg", "png", "webp"]), width: z.number().int(), height: z.number().int() })
    .openapi({ description: "As stored; boxes are in pixels of the image as it is shown, see Exif orientation" }),
  timings: z
    .object({ queue_ms: milliseconds, load_ms: milliseconds, compute_ms: milliseconds })
    .openapi({ description: "Parts of `inference_time_ms`: waiting for a turn, loading the model, the rest" }),
};

const answerOf = <T extends ResultTask>(task: T, name: string) => TASK_RESULTS[task].extend(common).openapi(name);

export const InferenceSchema = z
  .discriminatedUnion("task_type", [
    answerOf("image_classification", "Classification"),
    answerOf("object_detection", "Detection"),
    answerOf("instance_segmentation", "InstanceSegmentation"),
    answerOf("pose_estimation", "PoseEstimation"),
  ])
  .openapi("Inference");
