import type { TaskType } from "../models/schemas.ts";
import type { AdvancedConfig, ArrayField, Condition, Field, FormField, Limits, Option, Scalar } from "./fields.ts";
import { splitName } from "./fields.ts";
import { type ConfigFramework, TABLES } from "./tables.ts";

/** A field of the published form. `default_when_omitted` stands where leaving the field out means another value. */
export interface PublishedField {
  name: string;
  type: FormField["type"];
  label: string;
  description: string;
  default: Scalar | null;
  min?: number;
  max?: number;
  exclusive_min?: true;
  exclusive_max?: true;
  step?: number;
  options?: Option[];
  group: string;
  depends_on?: string;
  visible_when?: PublishedCondition;
  default_when_omitted?: Scalar | null;
}

/** A list setting, which a configuration may hold though no form shows it; the limits are those of each item. */
export interface PublishedArrayField {
  name: string;
  type: "array";
  label: string;
  description: string;
  default: (number | string)[] | null;
  items: { type: string; min?: number; max?: number; exclusive_min?: true; exclusive_max?: true; options?: Option[] };
  min_items: number;
  max_items: number;
  group: string;
  depends_on?: string;
  visible_when?: PublishedCondition;
}

/** The value that `depends_on` must have, any of several, or a number that it must exceed. */
export type PublishedCondition = Scalar | Scalar[] | { greater_than: number };

export interface PublishedSchema {
  framework: ConfigFramework;
  task_type: TaskType | null;
  schema: { fields: PublishedField[]; array_fields: PublishedArrayField[] };
  presets: Record<string, AdvancedConfig>;
}

const groupOf = (name: string): string => splitName(name)[0] ?? "training";

function publishCondition(when: Condition | undefined): { depends_on?: string; visible_when?: PublishedCondition } {
  if (when === undefined) return {};
  if ("above" in when) return { depends_on: when.field, visible_when: { greater_than: when.above } };
  const [first] = when.in;
  const single = when.in.length === 1 && first !== undefined;
  return { depends_on: when.field, visible_when: single ? first : [...when.in] };
}

/** A narrower bound of the form replaces the limit, and is itself always inclusive. */
function publishLimits(limits: Limits, form: { formMin?: number; formMax?: number } = {}) {
  const min = form.formMin ?? limits.min ?? limits.above;
  const max = form.formMax ?? limits.max ?? limits.below;
  return {
    ...(min !== undefined && { min }),
    ...(max !== undefined && { max }),
    ...(form.formMin === undefined && limits.above !== undefined && { exclusive_min: true as const }),
    ...(form.formMax === undefined && limits.below !== undefined && { exclusive_max: true as const }),
  };
}

function publishField(field: FormField): PublishedField {
  const { name, type, label, description, omitted } = field;
  const isNumeric = field.type === "number" || field.type === "integer";
  return {
    name,
    type,
    label,
    description,
    default: field.form ?? omitted,
    ...(isNumeric && publishLimits(field, field)),
    ...(isNumeric && field.step !== undefined && { step: field.step }),
    ...(field.type === "select" && { options: [...field.options] }),
    group: groupOf(name),
    ...publishCondition(field.when),
    ...(field.form !== undefined && field.form !== omitted && { default_when_omitted: omitted }),
  };
}

function publishArrayField(field: ArrayField): PublishedArrayField {
  const { items } = field;
  return {
    name: field.name,
    type: "array",
    label: field.label,
    description: field.description,
    default: field.omitted === null ? null : [...field.omitted],
    items:
      items.type === "select"
        ? { type: items.type, options: [...items.options] }
        : { type: items.type, ...publishLimits(items) },
    min_items: field.minItems,
    max_items: field.maxItems,
    group: groupOf(field.name),
    ...publishCondition(field.when),
  };
}

const isForm = (field: Field): field is FormField => field.type !== "array";
const isArray = (field: Field): field is ArrayField => field.type === "array";

/**
 * The contract's config-schema answer of one framework: the form's fields, the list settings beside them, and the presets,
 * each of which is a complete `advanced_config`. The task is echoed; no setting depends on it.
 */
export function configSchema(framework: ConfigFramework, taskType: TaskType | null = null): PublishedSchema {
  const { fields, presets } = TABLES[framework];
  return {
    framework,
    task_type: taskType,
    schema: {
      fields: fields.filter(isForm).map(publishField),
      array_fields: fields.filter(isArray).map(publishArrayField),
    },
    presets: { ...presets },
  };
}
