import { z } from "zod";
import { PAINT_MODELS, type PaintModel } from "./breeding/images/painter.ts";
import { type QuotaConfig, QuotaConfigSchema } from "./breeding/rate-limits.ts";
import { type HostedModels, HostedModelsSchema, hostedModels } from "./training/models/hosted.ts";
import { DEFAULT_LIMITS, DEFAULT_TIMERS, LimitsSchema, TimersSchema } from "./training/runners/protocol.ts";

/** Text of a secret: long enough that it cannot be guessed, and not one that was printed somewhere as an example. */
const secret = z
  .string()
  .min(32, "must have at least 32 characters")
  .refine((value) => !/^(change|example|secret|your[-_ ]|x+$)/i.test(value), "is an example value, set a random one");

const jsonOf = <T extends z.ZodType>(schema: T) =>
  z
    .string()
    .transform((text, context) => {
      try {
        return JSON.parse(text) as unknown;
      } catch {
        context.addIssue({ code: "custom", message: "is not JSON" });
        return z.NEVER;
      }
    })
    .pipe(schema);

const ConfigSchema = z.object({
  APP_ENV: z.enum(["local", "production"]).default("production"),
  JWT_SECRET: secret,
  /** Absent: the plain callback answers 503 and is never open. */
  INTERNAL_SECRET: secret.optional(),
  /** Still accepted while the secret is being rotated. */
  INTERNAL_SECRET_PREVIOUS: secret.optional(),
  BREEDING_PHASE: z.enum(["1", "2"]).default("1"),
  /** JSON: other numbers of requests in phase 2, for everybody and under `users` for single ones. */
  BREEDING_QUOTAS: jsonOf(QuotaConfigSchema).optional(),
  /** `workers-ai` paints predicted fruit where the AI binding is there; every other picture is drawn. */
  IMAGE_ENGINE: z.enum(["embedded", "workers-ai"]).default("embedded"),
  IMAGE_MODEL: z.enum(PAINT_MODELS).default("@cf/black-forest-labs/flux-1-schnell"),
  /** Paintings a day (UTC) for all callers together. */
  IMAGE_DAILY_BUDGET: z.coerce.number().int().min(0).max(100_000).default(200),
  IMAGE_TIMEOUT_MS: z.coerce.number().int().min(100).max(60_000).default(20_000),
  /** JSON: names of pretrained models and the Workers AI models behind them; changes the built-in list. */
  HOSTED_MODELS: jsonOf(HostedModelsSchema).optional(),
  /** Runs of hosted models a day (UTC): of all callers together, and of each user. */
  HOSTED_DAILY_BUDGET: z.coerce.number().int().min(0).max(10_000_000).default(5_000),
  HOSTED_DAILY_BUDGET_PER_USER: z.coerce.number().int().min(0).max(10_000_000).default(500),
  HOSTED_TIMEOUT_MS: z.coerce.number().int().min(100).max(120_000).default(30_000),
  /** JSON objects that replace single timers and limits of the runner protocol. */
  RUNNER_TIMERS: jsonOf(TimersSchema.partial()).optional(),
  RUNNER_LIMITS: jsonOf(LimitsSchema.partial()).optional(),
});

/** Variables and secrets, parsed once per isolate; this file is the only reader of them. */
export type Config = {
  appEnv: "local" | "production";
  jwtSecret: string;
  internalSecrets: string[];
  breedingPhase: 1 | 2;
  breedingQuotas: QuotaConfig;
  painting: { engine: "embedded" | "workers-ai"; model: PaintModel; dailyBudget: number; timeoutMs: number };
  hosted: { models: HostedModels; dailyBudget: number; dailyBudgetPerUser: number; timeoutMs: number };
  timers: z.infer<typeof TimersSchema>;
  limits: z.infer<typeof LimitsSchema>;
};

/** Thrown when a variable or secret is missing or unusable; its message names each one and never prints a value. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/**
 * Reads the configuration out of the Worker's environment (extra keys, the bindings, are ignored).
 * @throws ConfigError with one readable line for each bad variable
 */
export function parseConfig(environment: object): Config {
  const parsed = ConfigSchema.safeParse(environment);
  if (!parsed.success) {
    const lines = parsed.error.issues.map((issue) =>
      issue.code === "invalid_type" && !(String(issue.path[0]) in environment)
        ? `${issue.path.join(".")} is missing`
        : `${issue.path.join(".")} ${issue.message}`,
    );
    throw new ConfigError(`Configuration error: ${lines.join("; ")}. \`npm run dev\` writes .dev.vars for local use.`);
  }
  const value = parsed.data;
  return {
    appEnv: value.APP_ENV,
    jwtSecret: value.JWT_SECRET,
    internalSecrets: [value.INTERNAL_SECRET, value.INTERNAL_SECRET_PREVIOUS].filter((text) => text !== undefined),
    breedingPhase: value.BREEDING_PHASE === "2" ? 2 : 1,
    breedingQuotas: value.BREEDING_QUOTAS ?? {},
    painting: {
      engine: value.IMAGE_ENGINE,
      model: value.IMAGE_MODEL,
      dailyBudget: value.IMAGE_DAILY_BUDGET,
      timeoutMs: value.IMAGE_TIMEOUT_MS,
    },
    hosted: {
      models: hostedModels(value.HOSTED_MODELS),
      dailyBudget: value.HOSTED_DAILY_BUDGET,
      dailyBudgetPerUser: value.HOSTED_DAILY_BUDGET_PER_USER,
      timeoutMs: value.HOSTED_TIMEOUT_MS,
    },
    timers: { ...DEFAULT_TIMERS, ...value.RUNNER_TIMERS },
    limits: { ...DEFAULT_LIMITS, ...value.RUNNER_LIMITS },
  };
}
