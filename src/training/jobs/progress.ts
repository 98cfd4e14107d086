import type { Metric, Report, Validation } from "./events.ts";

/** What a job shows of its course without reading its points. Persisted in the object: only grows by optional fields. */
export type Progress = {
  currentEpoch: number;
  totalEpochs: number | null;
  bestValue: number | null;
  bestEpoch: number | null;
  mlflowRunId: string | null;
};

export const initialProgress = (): Progress => ({
  currentEpoch: 0,
  totalEpochs: null,
  bestValue: null,
  bestEpoch: null,
  mlflowRunId: null,
});

/** A new attempt that goes on from `resumeEpoch` (0: anew) takes back what came after it. */
export function rewind(progress: Progress, resumeEpoch: number): Progress {
  const keepsBest = progress.bestEpoch !== null && progress.bestEpoch <= resumeEpoch;
  return {
    ...progress,
    currentEpoch: Math.min(progress.currentEpoch, resumeEpoch),
    bestValue: keepsBest ? progress.bestValue : null,
    bestEpoch: keepsBest ? progress.bestEpoch : null,
  };
}

/** A value by a name that a user chose: `constructor` is no metric. */
const own = (values: Record<string, number | null>, name: string): number | null =>
  Object.hasOwn(values, name) ? (values[name] ?? null) : null;

const metricNamed = (report: Metric, name: string): number | null => {
  if (name === "loss") return report.loss;
  if (name === "accuracy") return report.accuracy;
  return own(report.extraMetrics, name);
};

const validationNamed = (report: Validation, name: string): number | null =>
  own(report.metrics, name) ??
  (report.primaryMetricName === name || report.primaryMetricName === null ? report.primaryMetricValue : null);

/** Takes one report into account. `primary` is the job's own primary metric and the direction in which it improves. */
export function observe(progress: Progress, report: Report, primary: { name: string; mode: "max" | "min" }): Progress {
  if (report.type === "started") return { ...progress, totalEpochs: report.totalEpochs ?? progress.totalEpochs };
  if (report.type !== "metric" && report.type !== "validation") return progress;
  const value = report.type === "metric" ? metricNamed(report, primary.name) : validationNamed(report, primary.name);
  const better =
    value !== null &&
    (progress.bestValue === null || (primary.mode === "max" ? value > progress.bestValue : value < progress.bestValue));
  return {
    ...progress,
    currentEpoch: report.type === "metric" ? Math.max(progress.currentEpoch, report.epoch) : progress.currentEpoch,
    ...(better ? { bestValue: value, bestEpoch: report.epoch } : {}),
  };
}
