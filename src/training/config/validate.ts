import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import {
  type AdvancedConfig,
  type ArrayField,
  type ConfigProblem,
  type ConfigSection,
  type ConfigTable,
  type ConfigValue,
  type Field,
  limitsText,
  type NumberField,
  type Option,
  type SelectField,
  splitName,
  withinLimits,
} from "./fields.ts";
import { type ConfigFramework, isConfigFramework, TABLES } from "./tables.ts";

/** Runners keep integers in 32 bits. */
const MAX_INTEGER = 2 ** 31 - 1;
/** Enough to repair a configuration with; a hostile one gets no longer answer. */
const MAX_PROBLEMS = 50;
/** An unknown name or an open text is repeated in answers, so it is cut at this many characters. */
const MAX_ECHO_LENGTH = 80;
const MAX_TEXT_LENGTH = 200;

/** Settings by section, `null` for those outside any; maps, so that no name can reach a prototype. */
type Index = ReadonlyMap<string | null, ReadonlyMap<string, Field>>;

function indexOf(table: ConfigTable): Index {
  const index = new Map<string | null, Map<string, Field>>([[null, new Map()]]);
  for (const field of table.fields) {
    const [section, key] = splitName(field.name);
    const fields = index.get(section) ?? new Map<string, Field>();
    fields.set(key, field);
    index.set(section, fields);
  }
  return index;
}

const INDEXES: Readonly<Record<ConfigFramework, Index>> = {
  timm: indexOf(TABLES.timm),
  ultralytics: indexOf(TABLES.ultralytics),
  embedded: indexOf(TABLES.embedded),
};

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const echo = (text: string) => (text.length > MAX_ECHO_LENGTH ? `${text.slice(0, MAX_ECHO_LENGTH)}…` : text);

/** The stored form of a value, or what it must be. */
type Checked = { value: ConfigValue } | { mustBe: string };

function checkNumber(
  value: unknown,
  field: NumberField | (ArrayField["items"] & { type: "number" | "integer" }),
): Checked {
  const kind = field.type === "integer" ? "an integer" : "a number";
  const limits = limitsText(field);
  const mustBe = limits === null ? kind : `${kind} ${limits}`;
  // JSON has no NaN, but its 1e999 is Infinity.
  if (typeof value !== "number" || !Number.isFinite(value)) return { mustBe };
  if (field.type === "integer" && !Number.isInteger(value)) return { mustBe };
  if (!withinLimits(value, field)) return { mustBe };
  if (field.type === "integer" && Math.abs(value) > MAX_INTEGER) return { mustBe: `an integer at most ${MAX_INTEGER}` };
  return { value };
}

function checkNumberField(value: unknown, field: NumberField): Checked {
  if (field.zeroIsOff && (value === null || value === 0)) return { value: null };
  const checked = checkNumber(value, field);
  if ("mustBe" in checked && field.zeroIsOff) return { mustBe: `${checked.mustBe}, or 0 or null for off` };
  if (field.odd && typeof value === "number" && "value" in checked && value % 2 === 0) {
    return { mustBe: "an odd number" };
  }
  return checked;
}

function checkOption(value: unknown, options: readonly Option[], ignoreCase = false): Checked {
  const wanted = typeof value === "string" && ignoreCase ? value.toLowerCase() : value;
  const found = options.find((option) => option.value === wanted);
  return found ? { value: found.value } : { mustBe: `one of ${options.map((option) => option.value).join(", ")}` };
}

function checkSelect(value: unknown, field: SelectField): Checked {
  if (!field.open) return checkOption(value, field.options, field.ignoreCase);
  return typeof value === "string" && value.trim() !== "" && value.length <= MAX_TEXT_LENGTH
    ? { value }
    : { mustBe: `a text of 1 to ${MAX_TEXT_LENGTH} characters` };
}

function checkArray(value: unknown, field: ArrayField): Checked {
  const { items, minItems, maxItems } = field;
  const count = minItems === maxItems ? `${minItems}` : `${minItems} to ${maxItems}`;
  if (!Array.isArray(value) || value.length < minItems || value.length > maxItems) {
    return { mustBe: `a list of ${count} values` };
  }
  const numbers: number[] = [];
  const texts: string[] = [];
  for (const item of value) {
    const checked = items.type === "select" ? checkOption(item, items.options) : checkNumber(item, items);
    if ("mustBe" in checked) return { mustBe: `a list of ${count} values, each ${checked.mustBe}` };
    if (typeof checked.value === "number") numbers.push(checked.value);
    if (typeof checked.value === "string") texts.push(checked.value);
  }
  const [first = 0, second = 0] = numbers;
  if (field.ordered && first > second) return { mustBe: "a pair whose first value is not above its second" };
  return { value: items.type === "select" ? texts : numbers };
}

function checkValue(value: unknown, field: Field): Checked {
  switch (field.type) {
    case "boolean":
      return typeof value === "boolean" ? { value } : { mustBe: "true or false" };
    case "number":
    case "integer":
      return checkNumberField(value, field);
    case "select":
      return checkSelect(value, field);
    case "array":
      return checkArray(value, field);
  }
}

/**
 * Everything wrong with a configuration, and its normalised form (which leaves out what is wrong). Nothing is filled in:
 * the result holds the settings that were given, no others. `null` and `undefined` stand for an empty configuration.
 * Work is bounded by the table and by the number of problems, whatever the depth or size of the input.
 */
export function checkConfig(
  framework: ConfigFramework,
  input: unknown,
): { config: AdvancedConfig; problems: ConfigProblem[] } {
  const index = INDEXES[framework];
  const config: AdvancedConfig = {};
  const problems: ConfigProblem[] = [];

  const readInto = (target: AdvancedConfig, section: string | null, given: Record<string, unknown>) => {
    const fields = index.get(section);
    for (const key of Object.keys(given)) {
      if (problems.length >= MAX_PROBLEMS) return;
      const name = section === null ? key : `${section}.${key}`;
      const value = given[key];
      if (section === null && index.has(key)) {
        if (!isObject(value)) {
          problems.push({ field: key, message: "must be an object" });
          continue;
        }
        const nested: ConfigSection = {};
        readInto(nested, key, value);
        config[key] = nested;
        continue;
      }
      const field = fields?.get(key);
      if (field === undefined) {
        problems.push({ field: echo(name), message: unknownText(index, name) });
        continue;
      }
      const checked = checkValue(value, field);
      if ("mustBe" in checked) problems.push({ field: name, message: `must be ${checked.mustBe}` });
      else target[key] = checked.value;
    }
  };

  if (input === null || input === undefined) return { config, problems };
  if (!isObject(input)) return { config, problems: [{ field: "", message: "must be an object" }] };
  readInto(config, null, input);
  if (problems.length > 0) return { config, problems };
  const broken = (TABLES[framework].rules ?? []).map((rule) => rule(config)).filter((problem) => problem !== null);
  return { config, problems: broken };
}

/** Dotted names are how the schema lists settings, so they are the likeliest mistake. */
function unknownText(index: Index, name: string): string {
  const [section, key] = splitName(name);
  const known = section !== null && index.get(section)?.has(key);
  return known ? `is a dotted name: give it nested, as {"${section}": {"${key}": …}}` : "is not a known setting";
}

/** Puts the place of the configuration in front of a setting's name. */
export const fieldUnder = (root: string, field: string): string => (field === "" ? root : `${root}.${field}`);

/**
 * The normalised explicit settings of a job's `advanced_config`, or the first thing wrong with it: `VALIDATION_ERROR` whose
 * field is the dotted name under `root`. Option names are in the table's spelling; a zero that means "off" is null.
 */
export function validateAdvancedConfig(
  framework: string,
  input: unknown,
  root = "config.advanced_config",
): Result<AdvancedConfig, Failure<"VALIDATION_ERROR">> {
  if (!isConfigFramework(framework)) {
    const field = "config.framework";
    return fail("VALIDATION_ERROR", `${field}: ${echo(framework)} has no configuration`, field);
  }
  const { config, problems } = checkConfig(framework, input);
  const problem = problems[0];
  if (problem === undefined) return ok(config);
  const field = fieldUnder(root, problem.field);
  return fail("VALIDATION_ERROR", `${field}: ${problem.message}`, field);
}
