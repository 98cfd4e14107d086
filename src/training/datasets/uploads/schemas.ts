import { z } from "@hono/zod-openapi";
import { plainText } from "../../../http/fields.ts";
import { DatasetFormatSchema, nameText, VisibilitySchema } from "../schemas.ts";
import { MAX_UPLOAD_BYTES } from "./plan.ts";

const UPLOAD_ID = "0d9cbd1e-6f07-4f33-a9c4-9a8a0b1cbe3e";
const SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/** The shortest zip there is. */
const MIN_ZIP_BYTES = 22;

export const CreateUploadSchema = z
  .strictObject({
    name: nameText,
    description: plainText({ max: 10_000 }).nullish(),
    format: DatasetFormatSchema,
    visibility: VisibilitySchema.default("private"),
    project_id: z.number().int().positive().max(Number.MAX_SAFE_INTEGER).nullish(),
    size_bytes: z.number().int().min(MIN_ZIP_BYTES).max(MAX_UPLOAD_BYTES),
    sha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/, "must be 64 lower-case hex digits")
      .nullish()
      .openapi({ description: "Of the whole zip; it is refused when it arrives with another one", example: SHA256 }),
  })
  .openapi("CreateDatasetUpload", {
    example: { name: "Orchard 2025", format: "dice", project_id: 2, size_bytes: 2_000_000_000 },
  });

export const UploadSchema = z
  .object({
    upload_id: z.string(),
    state: z.enum(["open", "assembled", "completed", "refused"]),
    name: z.string(),
    description: z.string().nullable(),
    format: DatasetFormatSchema,
    visibility: VisibilitySchema,
    project_id: z.number().int(),
    size_bytes: z.number().int(),
    sha256: z.string().nullable(),
    part_size: z.number().int(),
    parts: z.number().int(),
    received: z.array(z.number().int()).openapi({ description: "Parts that arrived whole; empty once assembled" }),
    dataset_id: z.string().nullable(),
    refusal: z.object({ detail: z.string(), field: z.string() }).nullable(),
    created_at: z.string(),
    updated_at: z.string(),
    expires_at: z.string().openapi({ description: "Forgotten then, unless something happens before" }),
  })
  .openapi("DatasetUpload", {
    example: {
      upload_id: UPLOAD_ID,
      state: "open",
      name: "Orchard 2025",
      description: null,
      format: "dice",
      visibility: "private",
      project_id: 2,
      size_bytes: 2_000_000_000,
      sha256: null,
      part_size: 16_777_216,
      parts: 120,
      received: [1, 2, 5],
      dataset_id: null,
      refusal: null,
      created_at: "2025-11-06T12:00:00Z",
      updated_at: "2025-11-06T12:10:00Z",
      expires_at: "2025-11-07T12:10:00Z",
    },
  });

export const UploadListSchema = z.object({ uploads: z.array(UploadSchema) }).openapi("DatasetUploadList");

export const UploadParamsSchema = z.object({
  upload_id: z.uuid().openapi({ param: { name: "upload_id", in: "path" }, example: UPLOAD_ID }),
});

export const PartParamsSchema = UploadParamsSchema.extend({
  n: z
    .string()
    .regex(/^[1-9]\d{0,4}$/, "must be an integer from 1 to 10000")
    .transform(Number)
    .pipe(z.number().max(10_000))
    .openapi({ param: { name: "n", in: "path" }, type: "integer", minimum: 1, maximum: 10_000, example: 1 }),
});

export const PartHeadersSchema = z.object({
  "x-part-sha256": z
    .string()
    .regex(/^[0-9a-f]{64}$/, "must be 64 lower-case hex digits")
    .optional()
    .openapi({ description: "Of this part; it is not kept when it arrives with another one" }),
});

export const PartSchema = z
  .object({ n: z.number().int(), size_bytes: z.number().int() })
  .openapi("DatasetUploadPart", { example: { n: 1, size_bytes: 16_777_216 } });
