/** Which event numbers of an attempt have arrived: a contiguous mark and the numbers above it (runner protocol, section 5). */

/** Moves the mark over the numbers that now follow it. `above` is ascending; returns the new mark. */
export function advance(mark: number, above: number[]): number {
  let next = mark;
  for (const seq of above) {
    if (seq === next + 1) next = seq;
    else if (seq > next + 1) break;
  }
  return next;
}

/** Gaps between the mark and the highest number seen, as `[first, last]`, at most `max` of them. `above` is ascending. */
export function gaps(mark: number, above: number[], max = 20): [number, number][] {
  const ranges: [number, number][] = [];
  let expected = mark + 1;
  for (const seq of above) {
    if (ranges.length === max) break;
    if (seq > expected) ranges.push([expected, seq - 1]);
    if (seq >= expected) expected = seq + 1;
  }
  return ranges;
}
