import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import type { FormatName } from "../datasets/formats/types.ts";

/** Names under which the embedded trainer is asked for what it measures. */
export const EMBEDDED_METRICS = {
  accuracy: "accuracy",
  val_accuracy: "accuracy",
  loss: "loss",
  val_loss: "loss",
  overall_loss: "loss",
  precision: "precision",
  recall: "recall",
  f1: "f1",
  f1_score: "f1",
} as const;

/** What a trainer does not take, so that a job is refused when it is made and not hours later on a machine. */
type Demands = { datasetFormats?: readonly FormatName[]; primaryMetrics?: readonly string[] };

const DEMANDS: ReadonlyMap<string, Demands> = new Map([
  ["embedded", { datasetFormats: ["imagefolder", "dice"], primaryMetrics: Object.keys(EMBEDDED_METRICS) }],
]);

/** @returns what of a job its framework's trainer would refuse, with the dotted field of the request */
export function checkTrainer(
  framework: string,
  job: { datasetFormat: FormatName; primaryMetric: string | undefined },
): Result<void, Failure<"VALIDATION_ERROR">> {
  const { datasetFormats, primaryMetrics } = DEMANDS.get(framework) ?? {};
  if (datasetFormats && !datasetFormats.includes(job.datasetFormat)) {
    const message = `config.dataset_id: ${framework} trains on ${datasetFormats.join(" and ")}, the dataset is ${job.datasetFormat}`;
    return fail("VALIDATION_ERROR", message, "config.dataset_id");
  }
  if (primaryMetrics && job.primaryMetric !== undefined && !primaryMetrics.includes(job.primaryMetric)) {
    const message = `config.primary_metric: ${framework} has ${primaryMetrics.join(", ")}`;
    return fail("VALIDATION_ERROR", message, "config.primary_metric");
  }
  return ok(undefined);
}
