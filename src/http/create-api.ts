import { type Hook, OpenAPIHono, type RouteConfig, z } from "@hono/zod-openapi";
import type { Principal } from "../auth/principal.ts";
import type { JobTokenClaims } from "../auth/tokens.ts";
import type { Services } from "../services.ts";
import { AppError } from "../shared/errors.ts";
import { type Envelope, renderProblem, toProblem } from "./problem.ts";

/** What every handler finds on its context. */
export type AppEnv = {
  Bindings: Env;
  Variables: {
    services: Services;
    requestId: string;
    /** Behind `requireUser`. */
    principal: Principal;
    /** On the calls of a running attempt. */
    claims: JobTokenClaims;
  };
};

/** `config.epochs` for `["config", "epochs"]`; null for the whole input. */
const fieldOf = (path: PropertyKey[]): string | null => (path.length === 0 ? null : path.map(String).join("."));

/** The first thing wrong with an input, in words that name the field. */
export function validationError(error: z.core.$ZodError): AppError {
  const issue = error.issues[0];
  const field = issue ? fieldOf(issue.path) : null;
  const unknown = issue?.code === "unrecognized_keys" ? issue.keys[0] : undefined;
  const at = unknown === undefined ? field : [field, unknown].filter((part) => part !== null).join(".");
  const message = issue?.message ?? "Invalid input";
  return new AppError("VALIDATION_ERROR", at === null ? message : `${at}: ${message}`, { field: at });
}

const onInvalid: Hook<unknown, AppEnv, string, unknown> = (result) => {
  if (!result.success) throw validationError(result.error as z.core.$ZodError);
};

/** A group of routes; it takes the error handler and envelope of the API it is mounted on. */
export const createRouter = () => new OpenAPIHono<AppEnv>({ defaultHook: onInvalid });

/**
 * One public API: its prefix, its error envelope, its validation hook.
 * `route()` carries `onError` along only from the app on which it is set, so it is set here, on the app that gets mounted.
 */
export function createApi(envelope: Envelope) {
  const api = createRouter();
  api.onError((thrown, c) => renderProblem(c, envelope, toProblem(thrown, c.get("requestId"))));
  return api;
}

/** A JSON answer of a route. */
export const jsonContent = <T extends z.ZodType>(schema: T, description: string) => ({
  description,
  content: { "application/json": { schema } },
});

/** A JSON request body; `required` makes a request without a content type fail instead of arriving as `{}`. */
export const jsonBody = <T extends z.ZodType>(schema: T) => ({
  required: true,
  content: { "application/json": { schema } },
});

export const ProblemSchema = z
  .object({
    detail: z.string(),
    code: z.string(),
    field: z.string().nullable(),
  })
  .openapi("Error", { example: { detail: "Job not found", code: "JOB_NOT_FOUND", field: null } });

const PROBLEM_TEXT: Record<number, string> = {
  400: "Malformed request",
  401: "No credential, or one that is not valid",
  403: "Not allowed",
  404: "Not found, or not yours",
  409: "The state does not allow it",
  413: "Too large",
  415: "Wrong content type",
  416: "Range not satisfiable",
  422: "Input not valid",
  429: "Too many requests",
  500: "Server error",
  503: "Unavailable",
};

/** The error answers that a route documents. */
export const problems = (...statuses: number[]): RouteConfig["responses"] =>
  Object.fromEntries(
    statuses.map((status) => [String(status), jsonContent(ProblemSchema, PROBLEM_TEXT[status] ?? "Error")]),
  );

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
