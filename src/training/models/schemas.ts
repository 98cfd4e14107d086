import { z } from "@hono/zod-openapi";
import { TASK_TYPES, type TaskType } from "../../shared/task-types.ts";

export { TASK_TYPES, type TaskType } from "../../shared/task-types.ts";

export const TaskTypeSchema = z.enum(TASK_TYPES).openapi("TaskType");

/** Short names in use with trainers and older clients; `segmentation` has always meant the instance kind. */
const TASK_TYPE_ALIASES: ReadonlyMap<string, TaskType> = new Map([
  ["classification", "image_classification"],
  ["detection", "object_detection"],
  ["segmentation", "instance_segmentation"],
  ["pose", "pose_estimation"],
]);

/** The contract's name of a task, given that name, its hyphenated form or a short name; other texts come back unchanged. */
export function canonicalTaskType(text: string): string {
  const name = text.replaceAll("-", "_");
  return TASK_TYPE_ALIASES.get(name) ?? name;
}

/** A task type in a query: the short and hyphenated names of older clients are understood too. */
export const taskTypeQuery = () =>
  z
    .string()
    .transform(canonicalTaskType)
    .pipe(z.enum(TASK_TYPES, { error: `must be one of ${TASK_TYPES.join(", ")}` }))
    .optional()
    .openapi({ type: "string", enum: [...TASK_TYPES] });

/** Every framework of the catalogue. Runners train all but `workers-ai`, which only answers inference. */
export const FRAMEWORKS = ["timm", "ultralytics", "embedded", "workers-ai"] as const;

export const FrameworkSchema = z.enum(FRAMEWORKS, { error: `must be one of ${FRAMEWORKS.join(", ")}` });

export type Framework = z.infer<typeof FrameworkSchema>;

/** One entry of the catalogue, in the contract's names; the last three fields are additions. */
export const ModelSchema = z
  .object({
    model_name: z.string().min(1),
    framework: FrameworkSchema,
    task_types: z.array(TaskTypeSchema).min(1),
    default_image_size: z.number().int().positive().openapi({ description: "Side of the square input, pixels" }),
    parameters: z.string().openapi({ description: "Number of weights, abbreviated" }),
    pretrained: z.boolean().openapi({ description: "Whether training can begin from published weights" }),
    description: z.string(),
    trainable: z.boolean().openapi({ description: "False for models that only answer inference" }),
    recommended_batch_size: z.number().int().positive().nullable(),
    recommended_learning_rate: z.number().positive().nullable(),
  })
  .openapi("Model", {
    example: {
      model_name: "resnet50",
      framework: "timm",
      task_types: ["image_classification"],
      default_image_size: 224,
      parameters: "25.6M",
      pretrained: true,
      description:
        "ResNet-50 architecture: 50 layers of bottleneck blocks, the usual baseline for image classification",
      trainable: true,
      recommended_batch_size: 32,
      recommended_learning_rate: 0.001,
    },
  });

export const ModelListSchema = z.object({ models: z.array(ModelSchema), total: z.number().int() }).openapi("ModelList");
