import { softmax, topIndices } from "../../../src/training/inference/postprocess.ts";
import type { ClassMetrics, ImageResult, ValidationData } from "../trainer-messages.ts";
import type { MetricName, PrimaryMetric } from "./config.ts";

/** What is measured on a set of images with known classes. Pure. */

/** counts[true class][predicted class] */
export function confusionMatrix(
  trueIds: ArrayLike<number>,
  predictedIds: ArrayLike<number>,
  classes: number,
): number[][] {
  const counts = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  for (let image = 0; image < trueIds.length; image += 1) {
    const row = counts[trueIds[image] ?? -1];
    const predicted = predictedIds[image] ?? -1;
    const before = row?.[predicted];
    if (row === undefined || before === undefined)
      throw new RangeError(`image ${image} has a class outside the matrix`);
    row[predicted] = before + 1;
  }
  return counts;
}

const ratio = (part: number, whole: number) => (whole > 0 ? part / whole : 0);

/** Per class, in the order of the matrix. A class that was never predicted or never occurs has 0, as usual. */
export function classMetrics(confusion: number[][]): ClassMetrics[] {
  return confusion.map((row, id) => {
    const hits = row[id] ?? 0;
    const support = row.reduce((sum, count) => sum + count, 0);
    const predicted = confusion.reduce((sum, other) => sum + (other[id] ?? 0), 0);
    const precision = ratio(hits, predicted);
    const recall = ratio(hits, support);
    return { precision, recall, f1: ratio(2 * precision * recall, precision + recall), support };
  });
}

/** Accuracy, and the means over the classes weighted by support. All 0 for an empty matrix. */
export function overallMetrics(confusion: number[][]): ValidationData["metrics"] {
  const classes = classMetrics(confusion);
  const total = classes.reduce((sum, { support }) => sum + support, 0);
  const mean = (of: (metrics: ClassMetrics) => number) =>
    ratio(
      classes.reduce((sum, metrics) => sum + of(metrics) * metrics.support, 0),
      total,
    );
  const hits = confusion.reduce((sum, row, id) => sum + (row[id] ?? 0), 0);
  return {
    accuracy: ratio(hits, total),
    precision: mean(({ precision }) => precision),
    recall: mean(({ recall }) => recall),
    f1: mean(({ f1 }) => f1),
  };
}

/** Position of the highest value; of equal ones the first. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i += 1) {
    if ((values[i] ?? 0) > (values[best] ?? 0)) best = i;
  }
  return best;
}

/** -log of the probability that the logits give to the true class (natural logarithm). */
export function crossEntropy(logits: Float32Array, trueId: number): number {
  let highest = Number.NEGATIVE_INFINITY;
  for (const logit of logits) highest = Math.max(highest, logit);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - highest);
  return Math.log(sum) + highest - (logits[trueId] ?? Number.NaN);
}

/** One image as the contract lists it. */
function imageResult(logits: Float32Array, trueId: number, path: string, classNames: string[]): ImageResult {
  const confidences = softmax(logits);
  const top5 = topIndices(confidences, 5).map((id) => ({
    label: classNames[id] ?? "",
    label_id: id,
    confidence: confidences[id] ?? 0,
  }));
  const best = top5[0] ?? { label: "", label_id: 0, confidence: 0 };
  return {
    image_path: path,
    image_name: path.slice(path.lastIndexOf("/") + 1),
    true_label: classNames[trueId] ?? "",
    true_label_id: trueId,
    predicted_label: best.label,
    predicted_label_id: best.label_id,
    confidence: best.confidence,
    is_correct: best.label_id === trueId,
    top5_predictions: top5,
  };
}

/**
 * The validation result of an epoch.
 *
 * @param logits one row of class scores for each image
 */
export function validationData(
  epoch: number,
  logits: Float32Array[],
  images: { labels: ArrayLike<number>; paths: string[] },
  classNames: string[],
  primary: PrimaryMetric,
): ValidationData {
  const results = logits.map((row, i) => imageResult(row, images.labels[i] ?? -1, images.paths[i] ?? "", classNames));
  const confusion = confusionMatrix(
    results.map((image) => image.true_label_id),
    results.map((image) => image.predicted_label_id),
    classNames.length,
  );
  const losses = logits.reduce((sum, row, i) => sum + crossEntropy(row, images.labels[i] ?? -1), 0);
  const loss = ratio(losses, logits.length);
  const metrics = overallMetrics(confusion);
  const byClass = classMetrics(confusion);
  return {
    epoch,
    task_type: "image_classification",
    primary_metric_name: primary.name,
    primary_metric_value: metricValue(primary.metric, metrics, loss),
    overall_loss: loss,
    metrics,
    per_class_metrics: Object.fromEntries(
      classNames.map((name, id) => [name, byClass[id] ?? { precision: 0, recall: 0, f1: 0, support: 0 }]),
    ),
    confusion_matrix: confusion,
    class_names: classNames,
    images: results,
  };
}

export const metricValue = (metric: MetricName, metrics: ValidationData["metrics"], loss: number): number =>
  metric === "loss" ? loss : metrics[metric];

/** true when `value` is better than `best` by more than `minDelta`; anything is better than nothing. */
export function isImprovement(value: number, best: number | null, mode: "max" | "min", minDelta = 0): boolean {
  if (best === null) return true;
  return mode === "max" ? value > best + minDelta : value < best - minDelta;
}
