import { createRoute, z } from "@hono/zod-openapi";
import { createRouter, jsonContent, problems } from "../../http/create-api.ts";
import { boolQuery, idParam, intQuery } from "../../http/fields.ts";
import { ValidationImagesSchema, ValidationResultsSchema, ValidationSummarySchema } from "./schemas.ts";

const tags = ["Validation"];
const security = [{ bearer: [] }];

const results = createRoute({
  method: "get",
  path: "/validation/results/{job_id}",
  operationId: "getValidationResults",
  tags,
  summary: "Validation results of a job, by epoch",
  security,
  request: { params: z.object({ job_id: idParam("job_id") }) },
  responses: { 200: jsonContent(ValidationResultsSchema, "Results"), ...problems(401, 404, 422) },
});

const summary = createRoute({
  method: "get",
  path: "/validation/summary/{job_id}",
  operationId: "getValidationSummary",
  tags,
  summary: "The primary metric over the epochs, and its best value",
  security,
  request: { params: z.object({ job_id: idParam("job_id") }) },
  responses: { 200: jsonContent(ValidationSummarySchema, "The summary"), ...problems(401, 404, 422) },
});

const label = (description: string) => z.string().max(4_000).optional().openapi({ description, example: "cat" });
const labelId = z
  .string()
  .regex(/^(0|[1-9]\d{0,8})$/, "must be an integer")
  .transform(Number)
  .optional()
  .openapi({ type: "integer", minimum: 0, example: 0 });

const images = createRoute({
  method: "get",
  path: "/validation/images/{validation_result_id}",
  operationId: "getValidationImages",
  tags,
  summary: "Results per image",
  security,
  request: {
    params: z.object({ validation_result_id: idParam("validation_result_id") }),
    query: z.object({
      skip: intQuery({ min: 0, max: 10_000_000, default: 0 }),
      limit: intQuery({ min: 1, max: 500, default: 50 }),
      is_correct: boolQuery().optional(),
      true_label: label("The true label, as it is written"),
      true_label_id: labelId,
      predicted_label: label("The predicted label, as it is written"),
      predicted_label_id: labelId,
    }),
  },
  responses: { 200: jsonContent(ValidationImagesSchema, "One page"), ...problems(401, 404, 422) },
});

export const validationRoutes = createRouter()
  .openapi(results, async (c) => {
    const { validations } = c.get("services");
    return c.json(await validations.results(c.get("principal"), c.req.valid("param").job_id), 200);
  })
  .openapi(summary, async (c) => {
    const { validations } = c.get("services");
    return c.json(await validations.summary(c.get("principal"), c.req.valid("param").job_id), 200);
  })
  .openapi(images, async (c) => {
    const { validations } = c.get("services");
    const { validation_result_id } = c.req.valid("param");
    return c.json(await validations.images(c.get("principal"), validation_result_id, c.req.valid("query")), 200);
  });
