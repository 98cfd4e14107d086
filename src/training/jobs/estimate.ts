/** What is known of the pace of an attempt. Times are epoch milliseconds. */
export type Pace = {
  attemptStartedAtMs: number;
  /** Epoch of the checkpoint that the attempt went on from; 0 when it began anew. */
  resumeEpoch: number;
  currentEpoch: number;
  totalEpochs: number;
  /** When the last epoch was reported, at the latest. */
  lastNewsAtMs: number;
};

/**
 * Seconds until the last epoch at the pace of this attempt so far: mean time of an epoch times the epochs left, less the
 * time since the last news. Null before its first epoch is over.
 */
export function secondsLeft(pace: Pace, nowMs: number): number | null {
  const done = pace.currentEpoch - pace.resumeEpoch;
  if (done <= 0) return null;
  const epochMs = Math.max(0, pace.lastNewsAtMs - pace.attemptStartedAtMs) / done;
  const leftMs = epochMs * (pace.totalEpochs - pace.currentEpoch) - Math.max(0, nowMs - pace.lastNewsAtMs);
  return Math.max(0, Math.round(leftMs / 1000));
}
