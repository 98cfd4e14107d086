/** What the slices of one scenario add up to. Pure. */

/** One uninterrupted run of a scenario. */
export type Slice = {
  /** Milliseconds of each operation that succeeded. */
  durationsMs: number[];
  errors: string[];
  /** From the first start to the last answer. */
  wallMs: number;
  /** Processor time that the server used meanwhile; null where that cannot be told. */
  cpuMs: number | null;
};

export type Summary = {
  operations: number;
  perSecond: number;
  p50Ms: number;
  p99Ms: number;
  /** Processor time of the server for one operation. */
  cpuMs: number | null;
  errors: number;
  firstError: string | null;
};

/** The value below which a share of the values lies (nearest rank); NaN of nothing. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

export const median = (values: readonly number[]): number => percentile(values, 0.5);

/** Operations per second of one slice. */
export const rateOf = (slice: Slice): number =>
  slice.wallMs > 0 ? (slice.durationsMs.length / slice.wallMs) * 1000 : Number.NaN;

export function summarize(slices: readonly Slice[]): Summary {
  const durations = slices.flatMap((slice) => slice.durationsMs);
  const errors = slices.flatMap((slice) => slice.errors);
  const wallMs = slices.reduce((sum, slice) => sum + slice.wallMs, 0);
  const cpuMs = slices.reduce<number | null>(
    (sum, slice) => (sum === null || slice.cpuMs === null ? null : sum + slice.cpuMs),
    0,
  );
  return {
    operations: durations.length,
    perSecond: wallMs > 0 ? (durations.length / wallMs) * 1000 : Number.NaN,
    p50Ms: median(durations),
    p99Ms: percentile(durations, 0.99),
    cpuMs: cpuMs === null || durations.length === 0 ? null : cpuMs / durations.length,
    errors: errors.length,
    firstError: errors[0] ?? null,
  };
}

/**
 * How fast a scenario is in terms of another: the median over the rounds of the ratio of their slices, which lie seconds
 * apart. On a machine that is shared with others a slow minute then hits both. Null without a common round.
 */
export function ratioOf(slices: readonly Slice[], reference: readonly Slice[]): number | null {
  const ratios = slices.flatMap((slice, round) => {
    const other = reference[round];
    const ratio = other === undefined ? Number.NaN : rateOf(slice) / rateOf(other);
    return Number.isFinite(ratio) ? [ratio] : [];
  });
  return ratios.length === 0 ? null : median(ratios);
}
