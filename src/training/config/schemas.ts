import { z } from "@hono/zod-openapi";
import { canonicalTaskType, TASK_TYPES, TaskTypeSchema } from "../models/schemas.ts";
import type { PublishedArrayField, PublishedField } from "./publish.ts";
import { CONFIG_FRAMEWORKS } from "./tables.ts";

const OptionSchema = z
  .object({ value: z.string(), label: z.string(), description: z.string() })
  .openapi("ConfigOption");

const ScalarSchema = z.union([z.string(), z.number(), z.boolean()]);

const condition = {
  depends_on: z.string().optional().openapi({ description: "Dotted name of the field that decides" }),
  visible_when: z
    .union([ScalarSchema, z.array(ScalarSchema), z.object({ greater_than: z.number() })])
    .optional()
    .openapi({ description: "Value that `depends_on` must have, any of several, or what it must exceed" }),
};

const limits = {
  min: z.number().optional(),
  max: z.number().optional(),
  exclusive_min: z.literal(true).optional(),
  exclusive_max: z.literal(true).optional(),
};

export const ConfigFieldSchema = z
  .object({
    name: z.string(),
    type: z.enum(["number", "integer", "boolean", "select"]),
    label: z.string(),
    description: z.string(),
    default: ScalarSchema.nullable().openapi({ description: "What a form shows at first" }),
    ...limits,
    step: z.number().optional(),
    options: z.array(OptionSchema).optional(),
    group: z.string(),
    ...condition,
    default_when_omitted: ScalarSchema.nullable()
      .optional()
      .openapi({ description: "What training uses when the field is not sent, where that is not `default`" }),
  })
  .openapi("ConfigField") satisfies z.ZodType<PublishedField>;

export const ConfigArrayFieldSchema = z
  .object({
    name: z.string(),
    type: z.literal("array"),
    label: z.string(),
    description: z.string(),
    default: z.array(z.union([z.number(), z.string()])).nullable(),
    items: z.object({ type: z.string(), ...limits, options: z.array(OptionSchema).optional() }),
    min_items: z.number().int(),
    max_items: z.number().int(),
    group: z.string(),
    ...condition,
  })
  .openapi("ConfigArrayField") satisfies z.ZodType<PublishedArrayField>;

/** A nested configuration in an answer: sections of settings, and settings beside them. */
const AdvancedConfigSchema = z.record(z.string(), z.unknown()).openapi("AdvancedConfig", {
  example: { optimizer: { type: "adamw", learning_rate: 0.001 }, mixed_precision: true },
});

export const ConfigSchemaSchema = z
  .object({
    framework: z.enum(CONFIG_FRAMEWORKS),
    task_type: TaskTypeSchema.nullable(),
    schema: z.object({ fields: z.array(ConfigFieldSchema), array_fields: z.array(ConfigArrayFieldSchema) }),
    presets: z.record(z.string(), AdvancedConfigSchema),
  })
  .openapi("ConfigSchema");

/** The framework whose settings are meant. */
export const ConfigFrameworkSchema = z.enum(CONFIG_FRAMEWORKS, {
  error: `must be one of ${CONFIG_FRAMEWORKS.join(", ")}`,
});

export const ValidateConfigSchema = z
  .strictObject({
    framework: ConfigFrameworkSchema.default("timm"),
    task_type: z
      .string()
      .transform(canonicalTaskType)
      .pipe(z.enum(TASK_TYPES))
      .nullish()
      .openapi({ type: ["string", "null"], enum: [...TASK_TYPES, null] }),
    learning_rate: z
      .number()
      .positive()
      .lt(1)
      .nullish()
      .openapi({ description: "The job's own rate; it counts when `config` gives none" }),
    // Taken as it is: a record schema would drop names such as `__proto__` instead of letting the table refuse them.
    config: z
      .unknown()
      .refine((config) => config !== undefined, "is required")
      .openapi({
        type: "object",
        additionalProperties: true,
        description: "What would be sent as `advanced_config`",
      }),
  })
  .openapi("ValidateConfig", {
    required: ["config"],
    example: { framework: "timm", config: { optimizer: { type: "adamw", learning_rate: 0.5 } } },
  });

export const ConfigReportSchema = z
  .object({
    valid: z.boolean(),
    errors: z.array(z.object({ field: z.string(), message: z.string() })),
    warnings: z.array(z.string()),
    suggestions: z.array(z.string()),
    config: AdvancedConfigSchema.nullable().openapi({
      description: "The normalised configuration; null when not valid",
    }),
  })
  .openapi("ConfigReport", {
    example: {
      valid: true,
      errors: [],
      warnings: ["optimizer.learning_rate 0.5 is high: training may diverge above 0.1"],
      suggestions: [],
      config: { optimizer: { type: "adamw", learning_rate: 0.5 } },
    },
  });
