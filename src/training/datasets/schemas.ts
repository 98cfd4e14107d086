import { z } from "@hono/zod-openapi";
import { idParam, intQuery, plainText } from "../../http/fields.ts";
import { TaskTypeSchema } from "../models/schemas.ts";
import { DATASET_FORMATS } from "./formats/types.ts";

export const DatasetFormatSchema = z.enum(DATASET_FORMATS).openapi("DatasetFormat");
export const VisibilitySchema = z.enum(["private", "public"]).openapi("Visibility");

/** The text fields of the form; all of them arrive as text. */
export const DatasetFieldsSchema = z.object({
  name: z.string({ error: "is required" }).trim().min(1).max(200),
  description: z.string().max(10_000).optional(),
  format: z.enum(DATASET_FORMATS, { error: `must be one of ${DATASET_FORMATS.join(", ")}` }),
  visibility: z.enum(["private", "public"]).default("private"),
  project_id: z
    .string()
    .regex(/^[1-9]\d{0,14}$/, "must be a positive integer")
    .transform(Number)
    .optional(),
});

const WarningSchema = z.object({ code: z.string(), message: z.string() });

const summaryShape = {
  id: z.string(),
  name: z.string(),
  description: z.string().nullable(),
  format: DatasetFormatSchema,
  layout: z.string().nullable(),
  visibility: VisibilitySchema,
  project_id: z.number().int(),
  owner_id: z.number().int(),
  task_type: TaskTypeSchema.nullable(),
  file_count: z.number().int(),
  total_size_bytes: z.number().int(),
  num_classes: z.number().int().nullable(),
  content_hash: z.string(),
  created_at: z.string(),
  updated_at: z.string(),
};

const EXAMPLE = {
  id: "8ab5c6e4-0f92-4fff-8f4e-441c08d94cef",
  name: "My Dataset",
  description: "Description here",
  format: "imagefolder" as const,
  layout: "split_folders",
  visibility: "private" as const,
  project_id: 2,
  owner_id: 1,
  task_type: "image_classification" as const,
  file_count: 25,
  total_size_bytes: 1048576,
  num_classes: 2,
  content_hash: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
  created_at: "2025-11-06T12:00:00Z",
  updated_at: "2025-11-06T12:00:00Z",
};

export const DatasetSchema = z
  .object({
    ...summaryShape,
    class_names: z.array(z.string()),
    class_distribution: z.record(z.string(), z.number().int()),
    splits: z.object({ train: z.number().int(), val: z.number().int(), test: z.number().int() }).nullable(),
    warnings: z.array(WarningSchema),
  })
  .openapi("Dataset", {
    example: {
      ...EXAMPLE,
      class_names: ["cat", "dog"],
      class_distribution: { cat: 10, dog: 15 },
      splits: { train: 20, val: 5, test: 0 },
      warnings: [{ code: "few_samples", message: "Only 25 images; 100 or more train better" }],
    },
  });

export const DatasetListSchema = z
  .object({
    datasets: z.array(z.object(summaryShape).openapi("DatasetSummary", { example: EXAMPLE })),
    total: z.number().int(),
    skip: z.number().int(),
    limit: z.number().int(),
  })
  .openapi("DatasetList");

export const DatasetListQuerySchema = z.object({
  project_id: z
    .string()
    .regex(/^[1-9]\d{0,14}$/, "must be a positive integer")
    .transform(Number)
    .optional()
    .openapi({ type: "integer", example: 2 }),
  format: z
    .enum(DATASET_FORMATS, { error: `must be one of ${DATASET_FORMATS.join(", ")}` })
    .optional()
    .openapi({ example: "dice" }),
  skip: intQuery({ min: 0, max: 1_000_000, default: 0 }),
  limit: intQuery({ min: 1, max: 500, default: 50 }),
});

export const DatasetParamsSchema = z.object({
  dataset_id: z
    .string()
    .min(1)
    .max(100)
    .openapi({ param: { name: "dataset_id", in: "path" }, example: EXAMPLE.id }),
});

export const DatasetFileParamsSchema = DatasetParamsSchema.extend({ file_id: idParam("file_id") });

/** Blanks at the ends are dropped; what is left has 1 to 200 characters. */
export const nameText = plainText({ max: 200 })
  .transform((name) => name.trim())
  .refine((name) => name.length > 0, "must not be blank");

export const ChangeDatasetSchema = z
  .strictObject({
    name: nameText.optional(),
    description: plainText({ max: 10_000 }).nullable().optional(),
    visibility: VisibilitySchema.optional(),
  })
  .refine((changes) => Object.values(changes).some((value) => value !== undefined), "must name something to change")
  .openapi("ChangeDataset", { example: { name: "Pets, cleaned", visibility: "public" } });

export const DatasetFilesQuerySchema = z.object({
  split: z.enum(["train", "val", "test", "none"]).optional().openapi({ description: "`none`: files in no split" }),
  label: z
    .string()
    .min(1)
    .max(1_000)
    .optional()
    .openapi({ description: "Files of exactly this class", example: "cat" }),
  prefix: z
    .string()
    .min(1)
    .max(1_024)
    .optional()
    .openapi({ description: "Files whose path begins so", example: "train/cat/" }),
  cursor: z.string().max(4_096).optional().openapi({ description: "`next_cursor` of the page before" }),
  limit: intQuery({ min: 1, max: 500, default: 50 }),
});

export const DatasetFileListSchema = z
  .object({
    dataset_id: z.string(),
    files: z.array(
      z
        .object({
          file_id: z.number().int(),
          path: z.string(),
          size_bytes: z.number().int(),
          sha256: z.string(),
          split: z.enum(["train", "val", "test"]).nullable(),
          label: z.string().nullable(),
        })
        .openapi("DatasetFile", {
          example: {
            file_id: 7,
            path: "train/cat/1.png",
            size_bytes: 10_240,
            sha256: EXAMPLE.content_hash,
            split: "train",
            label: "cat",
          },
        }),
    ),
    next_cursor: z.string().nullable().openapi({ description: "Null on the last page" }),
  })
  .openapi("DatasetFileList");
