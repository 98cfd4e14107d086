import { AppError } from "../../../shared/errors.ts";

/** What Workers AI reports when a run fails, as the error that the caller gets. Pure. */

/**
 * The platform's internal code of an error: errors of the binding carry it in front of their message (`3040: Capacity …`,
 * `AiError: 3040: …`). Null when there is none.
 */
export function platformCode(thrown: unknown): number | null {
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  const [, code] = /^(?:[A-Za-z]+: )*(\d{3,5}):/.exec(message) ?? [];
  return code === undefined ? null : Number(code);
}

/** No more data centres, rate limit of the account. */
const NO_CAPACITY = new Set([3040, 429]);
/** The day's free allocation is used up. */
const NO_ALLOWANCE = new Set([3036, 4006]);
/** Timed out, aborted. */
const TOO_LATE = new Set([3007, 3008]);
/** The model is gone, or the account may not use it. */
const NO_MODEL = new Set([3023, 3041, 3042, 5005, 5007, 5016, 5018, 5019]);
/** The image: a kind of data the model does not read, or too much of it. */
const BAD_IMAGE = new Set([3006, 5004]);

const CAPACITY_RETRY_S = 5;

/** Seconds until the next day (UTC) begins: the platform's allowance and our budgets are counted by day. */
export const secondsLeftToday = (nowMs: number): number =>
  Math.max(1, Math.ceil((86_400_000 - (nowMs % 86_400_000)) / 1000));

export const timedOut = (): AppError => new AppError("INFERENCE_TIMEOUT", "The hosted model did not answer in time");

/**
 * @returns 422 for the image, 504 when it took too long, else 503; `Retry-After` only where waiting helps
 */
export function hostedError(thrown: unknown, nowMs: number): AppError {
  const code = platformCode(thrown) ?? 0;
  const unavailable = (message: string, retryS?: number) =>
    new AppError("INFERENCE_UNAVAILABLE", message, {
      headers: retryS === undefined ? {} : { "retry-after": String(retryS) },
    });
  if (TOO_LATE.has(code)) return timedOut();
  if (NO_CAPACITY.has(code)) return unavailable("The hosted model has no free capacity, try again", CAPACITY_RETRY_S);
  if (NO_ALLOWANCE.has(code)) {
    return unavailable("The account's daily allowance for hosted models is used up", secondsLeftToday(nowMs));
  }
  if (NO_MODEL.has(code)) return unavailable("The hosted model is not available to this deployment");
  if (BAD_IMAGE.has(code)) {
    return new AppError("VALIDATION_ERROR", "file: The hosted model cannot read this image", { field: "file" });
  }
  return unavailable("The hosted model could not be run at the moment, try again", CAPACITY_RETRY_S);
}
