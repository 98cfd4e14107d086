import { z } from "@hono/zod-openapi";

/** Fields that requests of both APIs have in common. Schemas only, so that everything may import it. */

/** A text that storage keeps as it is: SQLite ends texts at NUL, and half a surrogate pair is no UTF-8. */
export const plainText = (options: { min?: number; max: number }) =>
  z
    .string()
    .min(options.min ?? 0)
    .max(options.max)
    .refine((text) => !text.includes("\0"), "must not have a NUL character")
    .refine((text) => text.isWellFormed(), "must be well-formed Unicode");

/** A positive integer id in a path; anything else is a 422 that names it. */
export const idParam = (name: string) =>
  z
    .string()
    .regex(/^[1-9]\d{0,14}$/, "must be a positive integer")
    .transform(Number)
    .openapi({ param: { name, in: "path" }, type: "integer", example: 5 });

/** An integer query parameter with a default and bounds; `1.0`, `1e3`, `01` and an empty text are refused. */
export const intQuery = (options: { min: number; max: number; default: number }) =>
  z
    .string()
    .regex(/^(0|[1-9]\d{0,15})$/, "must be an integer")
    .transform(Number)
    .pipe(z.number().int().min(options.min).max(options.max))
    .optional()
    .transform((value) => value ?? options.default)
    .openapi({ type: "integer", minimum: options.min, maximum: options.max, default: options.default });

/** A boolean query parameter: `true`, `false`, `1` or `0`. */
export const boolQuery = () =>
  z
    .enum(["true", "false", "1", "0"])
    .transform((value) => value === "true" || value === "1")
    .openapi({ type: "boolean" });
