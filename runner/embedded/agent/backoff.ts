/** When a call is made again (runner protocol, sections 2 and 10). Pure. */

export type Backoff = { baseMs: number; capMs: number };

/** Longer than this no server may put a runner to sleep by one header. */
const LONGEST_RETRY_AFTER_MS = 3_600_000;

/**
 * Full jitter: any time up to `base * 2^failures`, capped, so that a thousand runners that lost the server together do not
 * come back together. A `Retry-After` is the earliest moment; the jitter comes on top of it.
 * @param failures calls that have failed in a row before this wait, from 0
 * @param random 0 <= value < 1
 */
export function retryDelayMs(
  { baseMs, capMs }: Backoff,
  failures: number,
  random: number,
  retryAfterMs: number | null = null,
): number {
  const ceiling = Math.min(capMs, baseMs * 2 ** Math.min(failures, 30));
  if (retryAfterMs === null) return random * ceiling;
  return Math.min(retryAfterMs, LONGEST_RETRY_AFTER_MS) + random * Math.min(ceiling, baseMs);
}

/**
 * Milliseconds of a `Retry-After` header, seconds or an HTTP date (RFC 9110, section 10.2.3); null when absent or malformed.
 * @param nowMs the server's `Date` header where it sent one, so that the runner's own clock does not matter
 */
export function parseRetryAfter(header: string | null, nowMs: number): number | null {
  if (header === null) return null;
  if (/^\d{1,9}$/.test(header.trim())) return Number(header) * 1000;
  // A date begins with the name of a day; Date.parse alone would take a stray "-5" for a year.
  const at = /^[A-Za-z]{3}/.test(header.trim()) ? Date.parse(header) : Number.NaN;
  return Number.isFinite(at) ? Math.max(0, at - nowMs) : null;
}

/** An interval of `baseMs` ±20 %, so that heartbeats of many runners do not fall into step. */
export const jittered = (baseMs: number, random: number): number => baseMs * (0.8 + 0.4 * random);
