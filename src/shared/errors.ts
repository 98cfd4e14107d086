import type { Failure, Result } from "./result.ts";

/**
 * The one table of error codes and their HTTP statuses. Both APIs and the runner routes use it; an envelope only renders.
 * The first block is the Training contract's own list.
 */
export const STATUS_BY_CODE = {
  VALIDATION_ERROR: 422,
  DATASET_NOT_FOUND: 404,
  JOB_NOT_FOUND: 404,
  INVALID_STATUS: 409,
  TRAINING_SERVICE_UNAVAILABLE: 503,
  CHECKPOINT_NOT_FOUND: 404,

  BAD_REQUEST: 400,
  UNAUTHORIZED: 401,
  INVALID_CREDENTIALS: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  PROJECT_NOT_FOUND: 404,
  MODEL_NOT_FOUND: 404,
  USER_NOT_FOUND: 404,
  RUNNER_NOT_FOUND: 404,
  FILE_NOT_FOUND: 404,
  ARTIFACT_NOT_FOUND: 404,
  UPLOAD_NOT_FOUND: 404,
  VALIDATION_RESULT_NOT_FOUND: 404,
  STRAIN_NOT_FOUND: 404,
  PREDICTION_NOT_FOUND: 404,
  COMBINATION_NOT_FOUND: 404,
  OBSERVATION_NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  ALREADY_EXISTS: 409,
  STALE_LEASE: 409,
  OFFER_GONE: 409,
  INSTANCE_CONFLICT: 409,
  LOG_CONFLICT: 409,
  UPLOAD_CLOSED: 409,
  QUOTA_EXCEEDED: 409,
  PAYLOAD_TOO_LARGE: 413,
  UNSUPPORTED_MEDIA_TYPE: 415,
  RANGE_NOT_SATISFIABLE: 416,
  TOO_MANY_EVENTS: 429,
  RATE_LIMITED: 429,
  INTERNAL_ERROR: 500,
  CONFIGURATION_ERROR: 500,
  CALLBACK_NOT_CONFIGURED: 503,
  INFERENCE_UNAVAILABLE: 503,
  INFERENCE_TIMEOUT: 504,
  STORAGE_UNAVAILABLE: 503,
} as const satisfies Record<string, number>;

export type ErrorCode = keyof typeof STATUS_BY_CODE;

/** The one error class that services throw. `field` names the input at fault, dotted for nested ones. */
export class AppError extends Error {
  override readonly name = "AppError";
  readonly code: ErrorCode;
  readonly field: string | null;
  readonly headers: Record<string, string>;
  /** Further fields of the Training API's error body. */
  readonly details: Record<string, unknown>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { field?: string | null; headers?: Record<string, string>; details?: Record<string, unknown> } = {},
  ) {
    super(message);
    this.code = code;
    this.field = options.field ?? null;
    this.headers = options.headers ?? {};
    this.details = options.details ?? {};
  }

  get status() {
    return STATUS_BY_CODE[this.code];
  }
}

const isErrorCode = (code: string): code is ErrorCode => Object.hasOwn(STATUS_BY_CODE, code);

/** Turns the `Failure` of pure code or of an object into the error a service throws; an unknown code is an internal error. */
export function toAppError(failure: Failure): AppError {
  return isErrorCode(failure.code)
    ? new AppError(failure.code, failure.message, { field: failure.field ?? null })
    : new AppError("INTERNAL_ERROR", "Internal server error");
}

/** The value of a `Result`, or its failure thrown as `AppError`. */
export function unwrap<T>(result: Result<T, Failure>): T {
  if (result.ok) return result.value;
  throw toAppError(result.error);
}
