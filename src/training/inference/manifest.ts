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
    /** stretch: both sides to size. crop: cover, cut the middle. pad: contain, `pad_value` around it. */
    resize: z.enum(["stretch", "crop", "pad"]),
    /** Pixel value, 0..255. */
    pad_value: z.number().min(0).max(255).default(0),
  })
  .superRefine((input, context) => {
    for (const key of ["mean", "std"] as const) {
      if (input[key].length === input.channels) continue;
      context.addIssue({ code: "custom", path: [key], message: `must have ${input.channels} values, one a channel` });
    }
  });

export const checkpointManifestSchema = z.object({
  schema: z.literal(1),
  task: text(100),
  framework: text(100),
  model_name: text(200),
  format: z.literal("onnx"),
  input: inputSchema,
  output: z.object({
    name: text(200),
    /** softmax: the model ends in logits. none: it ends in probabilities. */
    decode: z.enum(["softmax", "none"]),
  }),
  /** Position = label id. */
  labels: z.array(text(200)).min(1).max(10_000),
  /** The file beside the graph that holds weights, under the name by which the graph refers to it. */
  external_data: z
    .array(z.object({ path: fileName, artifact_id: text(100) }))
    .max(1)
    .default([]),
});

export type CheckpointManifest = z.infer<typeof checkpointManifestSchema>;
export type ModelInput = CheckpointManifest["input"];

/** The tasks whose output this platform can decode. */
export const SUPPORTED_TASKS: readonly string[] = ["image_classification"];

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
