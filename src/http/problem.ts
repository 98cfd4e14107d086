import type { Context } from "hono";
import { HTTPException } from "hono/http-exception";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { ConfigError } from "../config.ts";
import { AppError, type ErrorCode } from "../shared/errors.ts";
import { errorText, logger } from "../shared/logger.ts";

/** Renders an error as the body of one API, and may move its status (the Breeding API knows fewer). */
export type Envelope = (problem: AppError) => { status: number; body: Record<string, unknown> };

/** The Training API's error body, also used by the runner routes. */
export const trainingEnvelope: Envelope = (problem) => ({
  status: problem.status,
  body: { detail: problem.message, code: problem.code, field: problem.field, ...problem.details },
});

/** The Breeding API's error body; an input it cannot accept is 400 there, a wrong method 404. */
export const breedingEnvelope: Envelope = (problem) => {
  const status = problem.status;
  const moved: Record<number, number> = { 405: 404, 413: 400, 415: 400, 422: 400, 503: 500 };
  return { status: moved[status] ?? status, body: { success: false, error: problem.message } };
};

const CODE_BY_STATUS: Record<number, ErrorCode> = {
  400: "BAD_REQUEST",
  401: "UNAUTHORIZED",
  403: "FORBIDDEN",
  404: "NOT_FOUND",
  405: "METHOD_NOT_ALLOWED",
  413: "PAYLOAD_TOO_LARGE",
  415: "UNSUPPORTED_MEDIA_TYPE",
  429: "RATE_LIMITED",
};

/** Anything thrown, as the error that the caller may see. What is not expected is logged and answered without details. */
export function toProblem(thrown: unknown, requestId: string): AppError {
  if (thrown instanceof AppError) return thrown;
  if (thrown instanceof ConfigError) {
    logger.error("configuration", { requestId, error: thrown.message });
    return new AppError("CONFIGURATION_ERROR", thrown.message);
  }
  if (thrown instanceof HTTPException) {
    return new AppError(CODE_BY_STATUS[thrown.status] ?? "BAD_REQUEST", thrown.message || "Bad request");
  }
  logger.error("unhandled", {
    requestId,
    error: errorText(thrown),
    stack: thrown instanceof Error ? thrown.stack : undefined,
  });
  return new AppError("INTERNAL_ERROR", "Internal server error");
}

/** Writes an error in the form of its API. */
export function renderProblem(c: Context, envelope: Envelope, problem: AppError): Response {
  const { status, body } = envelope(problem);
  if (status === 401) c.header("www-authenticate", "Bearer");
  for (const [name, value] of Object.entries(problem.headers)) c.header(name, value);
  return c.json(body, status as ContentfulStatusCode);
}
