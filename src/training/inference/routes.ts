import { createRoute } from "@hono/zod-openapi";
import { createRouter, jsonContent, problems } from "../../http/create-api.ts";
import { InferenceSchema } from "./schemas.ts";

/**
 * The form is documented here and not validated by the framework, which would read a body of any size into memory; the
 * service reads it as a stream.
 */
const test = createRoute({
  method: "post",
  path: "/test-inference",
  operationId: "testInference",
  tags: ["Inference"],
  summary: "Run a trained checkpoint on one image",
  description:
    "JPEG (up to 5 megapixels), PNG (4) or WebP (5), at most 16 MiB; the content decides, not the declared type. A " +
    "classification answers the `top_k` labels whatever their confidence.",
  security: [{ bearer: [] }],
  requestBody: {
    required: true,
    content: {
      "multipart/form-data": {
        schema: {
          type: "object",
          required: ["training_job_id", "file"],
          properties: {
            training_job_id: { type: "integer", minimum: 1, example: 5 },
            file: { type: "string", format: "binary" },
            confidence_threshold: { type: "number", minimum: 0, maximum: 1, default: 0.25 },
            top_k: { type: "integer", minimum: 1, maximum: 100, default: 5 },
            checkpoint: {
              type: "string",
              description: "`best`, `last`, an artifact id or a printed `checkpoint_path`. Absent: best, else last",
            },
          },
        },
      },
    },
  },
  responses: {
    200: jsonContent(InferenceSchema, "What the model says"),
    ...problems(400, 401, 404, 415, 422, 503),
  },
});

export const inferenceRoutes = createRouter().openapi(test, async (c) => {
  const { inference } = c.get("services");
  return c.json(await inference.test(c.get("principal"), c.req.raw), 200);
});
