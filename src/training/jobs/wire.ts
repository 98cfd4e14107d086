import type { artifacts } from "../../db/schema/index.ts";
import { isoSeconds } from "../../shared/time.ts";
import type { JobRow, StoredMetric } from "./projection.ts";

/** What readers and watchers of a job get alike: rows in the form of the wire. Pure. */

/** The best value of the primary metric and its epoch, null before the first. */
export const bestOf = ({ bestValue, bestEpoch }: Pick<JobRow, "bestValue" | "bestEpoch">) =>
  bestValue === null || bestEpoch === null ? null : { value: bestValue, epoch: bestEpoch };

export const toPoint = (jobId: number, point: StoredMetric) => ({
  id: point.id,
  job_id: jobId,
  epoch: point.epoch,
  step: point.step,
  attempt: point.attempt,
  loss: point.loss,
  accuracy: point.accuracy,
  learning_rate: point.learningRate,
  extra_metrics: point.extraMetrics,
  ...(point.nonFinite === null ? {} : { non_finite: point.nonFinite }),
  created_at: isoSeconds(point.createdAt),
});

/** A checkpoint or an exported model. */
export const toCheckpoint = (artifact: Omit<typeof artifacts.$inferSelect, "jobId">) => ({
  artifact_id: artifact.id,
  checkpoint_path: artifact.storageKey,
  kind: artifact.kind === "model" ? ("model" as const) : ("checkpoint" as const),
  name: artifact.name,
  role: artifact.role,
  epoch: artifact.epoch,
  attempt: artifact.attempt,
  size_bytes: artifact.sizeBytes,
  sha256: artifact.sha256,
  usable: artifact.usable,
  created_at: isoSeconds(artifact.createdAt),
});

/** The lines of a piece of log; a last line without an end counts. */
export const linesOf = (text: string): string[] =>
  (text.endsWith("\n") ? text.slice(0, -1) : text)
    .split("\n")
    .map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line));
