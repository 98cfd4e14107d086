/** Storage keeps epoch milliseconds; each contract prints ISO 8601 UTC in its own precision. */

/** `2025-11-06T12:00:00Z`, the Training API's form (seconds, truncated). */
export const isoSeconds = (epochMs: number): string => `${new Date(epochMs).toISOString().slice(0, 19)}Z`;

export const isoSecondsOrNull = (epochMs: number | null | undefined): string | null =>
  epochMs === null || epochMs === undefined ? null : isoSeconds(epochMs);

/** `2025-11-17T08:30:00.000Z`, the Breeding API's form. */
export const isoMillis = (epochMs: number): string => new Date(epochMs).toISOString();
