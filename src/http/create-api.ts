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

const article = (noun: string) => (/^[aeiou]/.test(noun) ? `an ${noun}` : `a ${noun}`);
const NOUNS: Record<string, string> = { int: "integer", record: "object" };

/** Texts that zod makes up when a schema names none. */
const OWN_WORDS = /^(Invalid|Too (small|big)|Unrecognized)/;

/** What is wrong, as the rest of a sentence that begins with the field. `listed`: a parameter given twice arrives as a list. */
function complaint(issue: z.core.$ZodIssue, listed: boolean): string {
  if (!OWN_WORDS.test(issue.message)) return issue.message;
  switch (issue.code) {
    case "invalid_type":
      if (issue.message.endsWith("received undefined")) return "is required";
      if (listed && issue.message.endsWith("received array"))
        return `must be one ${NOUNS[issue.expected] ?? issue.expected}`;
      return `must be ${article(NOUNS[issue.expected] ?? issue.expected)}`;
    case "too_small": {
      const least = String(issue.minimum);
      if (issue.origin === "string") return `must have at least ${least} character${least === "1" ? "" : "s"}`;
      if (issue.origin === "array") return `must have at least ${least} item${least === "1" ? "" : "s"}`;
      return issue.inclusive ? `must be at least ${least}` : `must be above ${least}`;
    }
    case "too_big": {
      const most = String(issue.maximum);
      if (issue.origin === "string") return `must have at most ${most} characters`;
      if (issue.origin === "array") return `must have at most ${most} items`;
      return issue.inclusive ? `must be at most ${most}` : `must be below ${most}`;
    }
    case "invalid_value":
      return issue.values.length === 1
        ? `must be ${String(issue.values[0])}`
        : `must be one of ${issue.values.map(String).join(", ")}`;
    case "unrecognized_keys":
      return "is not known";
    default:
      return "is not valid";
  }
}

/** The first thing wrong with an input, in words that name the field. `target` is the part of the request it stood in. */
export function validationError(error: z.core.$ZodError, target = "json"): AppError {
  const issue = error.issues[0];
  if (issue === undefined) return new AppError("VALIDATION_ERROR", "The input is not valid");
  const field = fieldOf(issue.code === "unrecognized_keys" ? [...issue.path, issue.keys[0] ?? ""] : issue.path);
  return new AppError(
    "VALIDATION_ERROR",
    `${field ?? "The body"}${field === null ? "" : ":"} ${complaint(issue, target !== "json")}`,
    {
      field,
    },
  );
}

const onInvalid: Hook<unknown, AppEnv, string, unknown> = (result) => {
  if (!result.success) throw validationError(result.error as z.core.$ZodError, result.target);
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
  504: "Something behind the platform did not answer in time",
};

/** The error answers that a route documents. */
export const problems = (...statuses: number[]): RouteConfig["responses"] =>
  Object.fromEntries(
    statuses.map((status) => [String(status), jsonContent(ProblemSchema, PROBLEM_TEXT[status] ?? "Error")]),
  );
