import {
  type AdvancedConfig,
  type Condition,
  type ConfigProblem,
  type ConfigTable,
  type ConfigValue,
  type Field,
  readSetting,
} from "./fields.ts";
import { type ConfigFramework, TABLES } from "./tables.ts";
import { checkConfig } from "./validate.ts";

/** The verdict on a configuration. `config` is its normalised form, null when it is not valid. */
export interface ConfigReport {
  valid: boolean;
  errors: ConfigProblem[];
  warnings: string[];
  suggestions: string[];
  config: AdvancedConfig | null;
}

const MAX_RATE = 0.1;
const MIN_RATE = 1e-6;
const MANY_AUGMENTATIONS = 6;
const SHORT_PATIENCE_EPOCHS = 3;
const LARGE_CLIP = 10;

/**
 * Checks a configuration as job creation does and adds what is legal but probably not meant.
 *
 * @param learningRate the job's own rate, which counts when the configuration gives none
 */
export function explainConfig(framework: ConfigFramework, input: unknown, learningRate?: number): ConfigReport {
  const { config, problems } = checkConfig(framework, input);
  if (problems.length > 0) return { valid: false, errors: problems, warnings: [], suggestions: [], config: null };
  const settings = new Settings(TABLES[framework], config);
  const advice = [
    rateAdvice(settings, learningRate),
    augmentationAdvice(settings),
    stabilityAdvice(settings),
    idleAdvice(settings),
  ];
  return {
    valid: true,
    errors: [],
    warnings: advice.flatMap(({ warnings }) => warnings),
    suggestions: advice.flatMap(({ suggestions }) => suggestions),
    config,
  };
}

/** A configuration together with what a trainer assumes for everything it leaves out. */
class Settings {
  readonly table: ConfigTable;
  readonly config: AdvancedConfig;

  constructor(table: ConfigTable, config: AdvancedConfig) {
    this.table = table;
    this.config = config;
  }

  field(name: string): Field | undefined {
    return this.table.fields.find((field) => field.name === name);
  }

  explicit(name: string): ConfigValue | undefined {
    return readSetting(this.config, name);
  }

  /** The value that training will see; undefined for a setting this framework does not have. */
  effective(name: string): ConfigValue | readonly number[] | readonly string[] | undefined {
    const explicit = this.explicit(name);
    return explicit === undefined ? this.field(name)?.omitted : explicit;
  }

  /** Whether a setting is given and says something else than a form or a trainer would by itself. */
  changed(field: Field): boolean {
    const explicit = this.explicit(field.name);
    if (explicit === undefined) return false;
    const usual = [field.omitted, field.type === "array" ? undefined : field.form].map((value) =>
      JSON.stringify(value),
    );
    return !usual.includes(JSON.stringify(explicit));
  }

  number(name: string): number | undefined {
    const value = this.effective(name);
    return typeof value === "number" ? value : undefined;
  }

  holds(condition: Condition): boolean {
    const value = this.effective(condition.field);
    if ("above" in condition) return typeof value === "number" && value > condition.above;
    return condition.in.some((allowed) => allowed === value);
  }

  /** Which setting, here or further up, makes this one meaningless. */
  reason(field: Field): string {
    if (field.when === undefined) return "";
    const parent = this.field(field.when.field);
    if (parent !== undefined && this.holds(field.when)) return this.reason(parent);
    return `${field.when.field} is ${String(this.effective(field.when.field))}`;
  }

  /** Whether a setting has any effect: its condition holds, and so does that of the field it depends on. */
  active(field: Field): boolean {
    if (field.when === undefined) return true;
    const parent = this.field(field.when.field);
    return this.holds(field.when) && (parent === undefined || this.active(parent));
  }
}

/** What one look at the settings finds: `warnings` hardly ever mean well, `suggestions` might. */
type Advice = { warnings: string[]; suggestions: string[] };

function rateAdvice(settings: Settings, jobRate: number | undefined): Advice {
  const warnings: string[] = [];
  const explicit = settings.explicit("optimizer.learning_rate");
  const fromJob = explicit === undefined && jobRate !== undefined;
  const name = fromJob ? "learning_rate" : "optimizer.learning_rate";
  const rate = fromJob ? jobRate : settings.number("optimizer.learning_rate");
  if (rate === undefined) return { warnings, suggestions: [] };

  if (rate > MAX_RATE) warnings.push(`${name} ${rate} is high: training may diverge above ${MAX_RATE}`);
  if (rate < MIN_RATE) warnings.push(`${name} ${rate} is low: training hardly moves below ${MIN_RATE}`);
  const warmupRate = settings.number("scheduler.warmup_lr");
  if (warmupRate !== undefined && warmupRate >= rate && (settings.number("scheduler.warmup_epochs") ?? 0) > 0) {
    warnings.push(`scheduler.warmup_lr ${warmupRate} is not below ${name} ${rate}: the warm-up does not rise`);
  }
  return { warnings, suggestions: [] };
}

function augmentationAdvice(settings: Settings): Advice {
  if (settings.effective("augmentation.enabled") !== true) return { warnings: [], suggestions: [] };
  const chosen = settings.table.fields.filter((field) => {
    if (field.when?.field !== "augmentation.enabled") return false;
    const value = settings.effective(field.name);
    return value === true || (typeof value === "number" && value > 0);
  });
  return {
    warnings: chosen.length === 0 ? ["augmentation.enabled is true but no augmentation is chosen"] : [],
    suggestions:
      chosen.length > MANY_AUGMENTATIONS
        ? [`${chosen.length} augmentations at once may hide the signal: try ${MANY_AUGMENTATIONS} or fewer`]
        : [],
  };
}

function stabilityAdvice(settings: Settings): Advice {
  const suggestions: string[] = [];
  const patience = settings.number("validation.early_stopping_patience");
  const stopping = settings.effective("validation.early_stopping") === true;
  if (stopping && patience !== undefined && patience < SHORT_PATIENCE_EPOCHS) {
    const name = "validation.early_stopping_patience";
    suggestions.push(`${name} ${patience} may stop on noise: try ${SHORT_PATIENCE_EPOCHS} or more`);
  }
  const clip = settings.number("gradient_clip_value");
  if (clip !== undefined && clip > LARGE_CLIP && settings.effective("mixed_precision") === true) {
    const name = "gradient_clip_value";
    suggestions.push(`${name} ${clip} hardly helps mixed precision against overflow: try ${LARGE_CLIP} or less`);
  }
  return { warnings: [], suggestions };
}

/** Settings that were given on purpose and that another setting makes meaningless. */
function idleAdvice(settings: Settings): Advice {
  const idle = settings.table.fields.filter((field) => settings.changed(field) && !settings.active(field));
  return {
    warnings: idle.map((field) => `${field.name} has no effect: ${settings.reason(field)}`),
    suggestions: [],
  };
}
