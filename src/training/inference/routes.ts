import { createRoute, z } from "@hono/zod-openapi";
import { createRouter, jsonContent, problems } from "../../http/create-api.ts";
import { InferenceBatchSchema, InferenceSchema } from "./schemas.ts";

/**
 * The form is documented here and not validated by the framework, which would read a body of any size into memory; the
 * service reads it as a stream.
 */
const test = createRoute({
  method: "post",
  path: "/test-inference",
  operationId: "testInference",
  tags: ["Inference"],
  summary: "Run a trained checkpoint or a pretrained model on an image",
  description:
    "JPEG, PNG or WebP, at most 16 MiB, 65535 pixels a side and 50 megapixels (without the Images binding 5, PNG 4); the " +
    "content decides, not the declared type. A classification answers the `top_k` labels whatever their confidence. " +
    "Boxes, polygons and keypoints are pixels of the image as it is shown. `file` may be given up to 16 times, 32 MiB in all: then the answer has `results`, each with a " +
    "result or the error that this file alone would have got.",
  security: [{ bearer: [] }],
  requestBody: {
    required: true,
    content: {
      "multipart/form-data": {
        schema: {
          type: "object",
          required: ["file"],
          properties: {
            training_job_id: {
              type: "integer",
              minimum: 1,
              example: 5,
              description: "The job whose model is run. Exactly one of `training_job_id` and `model_name` is needed",
            },
            model_name: {
              type: "string",
              example: "microsoft/resnet-50",
              description: "A pretrained model of the catalogue, framework `workers-ai`",
            },
            file: {
              description: "One image, or several parts of this name",
              oneOf: [
                { type: "string", format: "binary" },
                { type: "array", items: { type: "string", format: "binary" }, maxItems: 16 },
              ],
            },
            confidence_threshold: { type: "number", minimum: 0, maximum: 1, default: 0.25 },
            iou_threshold: { type: "number", minimum: 0, maximum: 1, default: 0.45 },
            max_detections: { type: "integer", minimum: 1, maximum: 1000, default: 100 },
            top_k: { type: "integer", minimum: 1, maximum: 100, default: 5 },
            checkpoint: {
              type: "string",
              description: "`best`, `last`, an artifact id or a printed `checkpoint_path`. Absent: best, else last",
            },
            target: {
              type: "string",
              example: "ripe tomato, leaf",
              description: "What to find, in words, up to 8 phrases: for pretrained models that take them",
            },
          },
        },
      },
    },
  },
  responses: {
    200: jsonContent(
      z.union([InferenceSchema, InferenceBatchSchema]),
      "What the model says, of one file or of several",
    ),
    ...problems(400, 401, 404, 415, 422, 429, 503, 504),
  },
});

export const inferenceRoutes = createRouter().openapi(test, async (c) => {
  const { inference } = c.get("services");
  return c.json(await inference.test(c.get("principal"), c.req.raw), 200);
});
