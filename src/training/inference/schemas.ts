import { z } from "@hono/zod-openapi";

const text = (pattern: RegExp, message: string) => z.string().trim().regex(pattern, message);

const ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/** `best`, `last`, an artifact id, or a `checkpoint_path` as it is printed: `jobs/{id}/{attempt}/{artifact_id}`. */
export type CheckpointChoice = { role: "best" | "last" } | { artifactId: string; jobId: number | null };

function readChoice(value: string): CheckpointChoice {
  if (value === "best" || value === "last") return { role: value };
  const [, jobId, artifactId = value] = new RegExp(`^jobs/(\\d{1,15})/\\d{1,9}/(${ID})$`).exec(value) ?? [];
  return { artifactId, jobId: jobId === undefined ? null : Number(jobId) };
}

/** The form's fields, all of them text. Fields that are not known are ignored. */
export const InferenceFieldsSchema = z.object({
  training_job_id: text(/^[1-9]\d{0,14}$/, "must be a positive integer").transform(Number),
  /** Filters boxes, masks and keypoints; a classification answers `top_k` labels whatever their confidence. */
  confidence_threshold: text(/^(\d{1,3}|\d{0,3}\.\d{1,17})$/, "must be a number")
    .transform(Number)
    .pipe(z.number().min(0).max(1))
    .default(0.25),
  top_k: text(/^(0|[1-9]\d{0,8})$/, "must be an integer")
    .transform(Number)
    .pipe(z.number().int().min(1).max(100))
    .default(5),
  checkpoint: text(
    new RegExp(`^(best|last|${ID}|jobs/\\d{1,15}/\\d{1,9}/${ID})$`),
    "must be best, last or a checkpoint",
  )
    .transform(readChoice)
    .optional(),
});

export type InferenceFields = z.infer<typeof InferenceFieldsSchema>;

const milliseconds = z.number().min(0);

export const InferenceSchema = z
  .object({
    predictions: z
      .array(
        z.object({
          label: z.string().openapi({ example: "cat" }),
          label_id: z.number().int().openapi({ example: 0 }),
          confidence: z.number().openapi({ example: 0.95 }),
        }),
      )
      .openapi({ description: "The `top_k` labels in descending order" }),
    task_type: z.string().openapi({ example: "image_classification" }),
    model_name: z.string().openapi({ example: "resnet50" }),
    inference_time_ms: milliseconds.openapi({ example: 45.2, description: "Queueing and loading included" }),
    engine: z.enum(["onnx"]).openapi({ description: "What ran the model" }),
    checkpoint: z.object({
      artifact_id: z.string(),
      epoch: z.number().int().nullable(),
      role: z.enum(["best", "last"]).nullable(),
      sha256: z.string().openapi({ description: "Of the model file whose answer this is" }),
    }),
    image: z.object({ type: z.enum(["jpeg", "png", "webp"]), width: z.number().int(), height: z.number().int() }),
    timings: z
      .object({ queue_ms: milliseconds, load_ms: milliseconds, compute_ms: milliseconds })
      .openapi({ description: "Parts of `inference_time_ms`: waiting for a turn, loading the model, the rest" }),
  })
  .openapi("Inference");
