import { z } from "@hono/zod-openapi";
import { ProblemSchema } from "../../http/create-api.ts";
import { plainText } from "../../http/fields.ts";
import { type InferenceOptions, type ResultTask, TASK_RESULTS } from "./results.ts";

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

/** At most this many phrases; each is a run of its own. */
export const MAX_TARGETS = 8;

const targets = plainText({ max: 1_000 })
  .transform((value) =>
    value
      .split(",")
      .map((phrase) => phrase.trim())
      .filter((phrase) => phrase !== ""),
  )
  .pipe(
    z
      .array(z.string())
      .min(1, "must name something to look for")
      .max(MAX_TARGETS, `must have at most ${MAX_TARGETS} phrases`)
      .refine(
        (phrases) => phrases.every(({ length }) => length <= 100),
        "each phrase must have at most 100 characters",
      ),
  );

/** Which model a form means: a trained one of a job, or a pretrained one of the catalogue. */
export type ModelChoice = { jobId: number; checkpoint: CheckpointChoice | null } | { name: string; targets: string[] };

/** The form's fields, all of them text. Fields that are not known are ignored. */
export const InferenceFieldsSchema = z
  .object({
    training_job_id: text(/^[1-9]\d{0,14}$/, "must be a positive integer")
      .transform(Number)
      .optional(),
    model_name: plainText({ max: 200 }).pipe(z.string().trim().min(1, "must not be empty")).optional(),
    target: targets.optional(),
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
  })
  .transform((fields, context) => {
    const { training_job_id: jobId, model_name: name, checkpoint, target = [] } = fields;
    const refuse = (field: string, message: string) => {
      context.addIssue({ code: "custom", path: [field], message });
      return z.NEVER;
    };
    const options: InferenceOptions = {
      confidenceThreshold: fields.confidence_threshold,
      iouThreshold: fields.iou_threshold,
      maxDetections: fields.max_detections,
      topK: fields.top_k,
    };
    if (name === undefined) {
      if (jobId === undefined) return refuse("training_job_id", "is required, or model_name in its place");
      return { model: { jobId, checkpoint: checkpoint ?? null } satisfies ModelChoice as ModelChoice, options };
    }
    if (jobId !== undefined) return refuse("model_name", "must not be given along with training_job_id");
    if (checkpoint !== undefined) return refuse("checkpoint", "belongs to a training_job_id");
    return { model: { name, targets: [...new Set(target)] } satisfies ModelChoice as ModelChoice, options };
  });

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

export type Inference = z.infer<typeof InferenceSchema>;

/** What is wrong with one of several files; of the headers it would have had alone, the one that a client needs. */
const FileErrorSchema = z.object({
  ...ProblemSchema.shape,
  retry_after_s: z
    .number()
    .nullable()
    .openapi({ description: "Seconds after which this file may be sent again; null where waiting does not help" }),
});

/** Several `file` parts: each answered on its own, in the order in which they were sent. */
export const InferenceBatchSchema = z
  .object({
    results: z.array(
      z.object({
        index: z.number().int().openapi({ description: "Position of the file in the form, from 0" }),
        image_name: z.string().nullable().openapi({ description: "As the client named the file" }),
        result: InferenceSchema.nullable(),
        error: FileErrorSchema.nullable().openapi({ description: "What this file alone would have been answered" }),
      }),
    ),
    total: z.number().int(),
    succeeded: z.number().int(),
    failed: z.number().int(),
    inference_time_ms: milliseconds.openapi({ description: "Of all files, one after the other" }),
  })
  .openapi("InferenceBatch");

export type InferenceBatch = z.infer<typeof InferenceBatchSchema>;
