/** How a zip that no single request can hold is cut into parts. R2 wants all parts but the last of one size, from 5 MiB. */

/** Small enough to send again over a poor line, and far below what one request may hold. */
export const PART_BYTES = 16 * 1024 * 1024;
/** More than this cannot be read into a dataset, see the limits of zips. */
export const MAX_UPLOAD_BYTES = 4 * 1024 ** 3;
/** Unfinished uploads of one user at a time. */
export const MAX_OPEN_UPLOADS = 10;
/** An upload without a sign of life for so long is removed. */
export const UPLOAD_LIFE_MS = 24 * 60 * 60 * 1000;

export const partCount = (sizeBytes: number, partBytes: number): number =>
  Math.max(1, Math.ceil(sizeBytes / partBytes));

/** How many bytes part `n` (from 1) has; null when there is no such part. */
export function partSize(sizeBytes: number, partBytes: number, n: number): number | null {
  const count = partCount(sizeBytes, partBytes);
  if (!Number.isInteger(n) || n < 1 || n > count) return null;
  return n < count ? partBytes : sizeBytes - (count - 1) * partBytes;
}

/** The parts from 1 to `count` that are not in `received`, as `1, 3-5`; empty when all are there. */
export function missingParts(count: number, received: Iterable<number>): string {
  const there = new Set(received);
  const ranges: string[] = [];
  for (let n = 1; n <= count; n++) {
    if (there.has(n)) continue;
    const first = n;
    while (n < count && !there.has(n + 1)) n++;
    ranges.push(first === n ? String(n) : `${first}-${n}`);
  }
  return ranges.join(", ");
}
