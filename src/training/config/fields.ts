/**
 * The shape of a configuration table. A field's dotted name is its place in a nested `advanced_config`:
 * `optimizer.type` is `{optimizer: {type}}`. Pure data; what reads it is in validate.ts, publish.ts and explain.ts.
 */

export type Scalar = string | number | boolean;

/** When a field has an effect: another field has one of the values, or is above a number. */
export type Condition = { field: string; in: readonly Scalar[] } | { field: string; above: number };

/** `min` and `max` belong to the range, `above` and `below` do not. Absent means unbounded. */
export interface Limits {
  min?: number;
  above?: number;
  max?: number;
  below?: number;
}

export interface Option {
  value: string;
  label: string;
  description: string;
}

interface Common {
  name: string;
  label: string;
  description: string;
  when?: Condition;
}

/**
 * `omitted` is what a trainer uses when the field is not given; `form` is what a form should show where that differs.
 * In the same way `formMin` and `formMax` narrow what a form offers, while validation accepts the limits.
 */
export interface NumberField extends Common, Limits {
  type: "number" | "integer";
  omitted: number | null;
  form?: number;
  formMin?: number;
  formMax?: number;
  step?: number;
  odd?: true;
  /** Zero and null are accepted and both mean that the feature is off; null is what is stored. */
  zeroIsOff?: true;
}

export interface BooleanField extends Common {
  type: "boolean";
  omitted: boolean;
  form?: boolean;
}

export interface SelectField extends Common {
  type: "select";
  omitted: string;
  form?: string;
  options: readonly Option[];
  /** Accepts any letter case and stores the option's own. */
  ignoreCase?: true;
  /** Accepts other texts too: the options are only the usual ones. */
  open?: true;
}

/** A list of values; it can be given in a configuration but has no place in a form. */
export interface ArrayField extends Common {
  type: "array";
  omitted: readonly number[] | readonly string[] | null;
  items: ({ type: "number" | "integer" } & Limits) | { type: "select"; options: readonly Option[] };
  minItems: number;
  maxItems: number;
  /** A pair whose first value must not exceed its second. */
  ordered?: true;
}

export type FormField = NumberField | BooleanField | SelectField;
export type Field = FormField | ArrayField;

export type ConfigValue = Scalar | null | number[] | string[];

export type ConfigSection = { [key: string]: ConfigValue };

/** A nested configuration of known settings: one level of sections, values in them or beside them. */
export type AdvancedConfig = { [name: string]: ConfigValue | ConfigSection };

/** One thing wrong with a configuration: the dotted name of the setting, and what it must be. */
export type ConfigProblem = { field: string; message: string };

/** All that is known of one framework's configuration. */
export interface ConfigTable {
  fields: readonly Field[];
  /** What ties several settings together; asked only when each of them is right by itself. */
  rules?: readonly ((config: AdvancedConfig) => ConfigProblem | null)[];
  presets: Readonly<Record<string, AdvancedConfig>>;
}

/** `optimizer.type` -> `["optimizer", "type"]`; a top-level name has no section. */
export function splitName(name: string): [section: string | null, key: string] {
  const dot = name.indexOf(".");
  return dot === -1 ? [null, name] : [name.slice(0, dot), name.slice(dot + 1)];
}

/** An explicit setting by its dotted name; undefined when it is not given. */
export function readSetting(config: AdvancedConfig, name: string): ConfigValue | undefined {
  const [section, key] = splitName(name);
  const holder = section === null ? config : Object.hasOwn(config, section) ? config[section] : undefined;
  if (holder === null || typeof holder !== "object" || Array.isArray(holder)) return undefined;
  const value = Object.hasOwn(holder, key) ? holder[key] : undefined;
  return value !== null && typeof value === "object" && !Array.isArray(value) ? undefined : value;
}

/** "above 0 and at most 1", or null for no limits. */
export function limitsText(limits: Limits): string | null {
  const parts: string[] = [];
  if (limits.min !== undefined) parts.push(`at least ${limits.min}`);
  if (limits.above !== undefined) parts.push(`above ${limits.above}`);
  if (limits.max !== undefined) parts.push(`at most ${limits.max}`);
  if (limits.below !== undefined) parts.push(`below ${limits.below}`);
  return parts.length === 0 ? null : parts.join(" and ");
}

export const withinLimits = (value: number, limits: Limits): boolean =>
  (limits.min === undefined || value >= limits.min) &&
  (limits.above === undefined || value > limits.above) &&
  (limits.max === undefined || value <= limits.max) &&
  (limits.below === undefined || value < limits.below);
