import { unauthorized } from "../../auth/bearer.ts";
import type { Principal } from "../../auth/principal.ts";
import { AppError } from "../../shared/errors.ts";
import { isoSeconds } from "../../shared/time.ts";
import type { ValidationRepository } from "./repository.ts";

export type ValidationService = ReturnType<typeof createValidationService>;

export function createValidationService(deps: { validations: ValidationRepository }) {
  const { validations } = deps;
  return {
    /** @throws UNAUTHORIZED · JOB_NOT_FOUND */
    async results(principal: Principal, jobId: number) {
      const rows = await validations.results(principal, jobId);
      if (rows.length === 0) throw unauthorized();
      if (rows[0]?.role === null) throw new AppError("JOB_NOT_FOUND", "Job not found");
      return {
        job_id: jobId,
        results: rows.flatMap(({ result }) =>
          result === null
            ? []
            : [
                {
                  id: result.id,
                  epoch: result.epoch,
                  attempt: result.attempt,
                  task_type: result.taskType,
                  primary_metric_name: result.primaryMetricName,
                  primary_metric_value: result.primaryMetricValue,
                  overall_loss: result.overallLoss,
                  metrics: result.metrics,
                  per_class_metrics: result.perClassMetrics,
                  confusion_matrix: result.confusionMatrix,
                  class_names: result.classNames,
                  checkpoint_path: result.checkpointPath,
                  created_at: isoSeconds(result.createdAt),
                },
              ],
        ),
      };
    },

    /**
     * How the primary metric went, and where it was best: the highest value, or the lowest where less is better. Of equal
     * ones the earliest counts.
     * @throws UNAUTHORIZED · JOB_NOT_FOUND
     */
    async summary(principal: Principal, jobId: number) {
      const rows = await validations.summary(principal, jobId);
      const [first] = rows;
      if (first === undefined) throw unauthorized();
      if (first.role === null || first.metric === null || first.mode === null) {
        throw new AppError("JOB_NOT_FOUND", "Job not found");
      }
      const points = rows.flatMap(({ id, epoch, attempt, value, loss, checkpointPath }) =>
        id === null || epoch === null || attempt === null
          ? []
          : [{ id, epoch, attempt, value, overall_loss: loss, checkpoint_path: checkpointPath }],
      );
      const sign = first.mode === "max" ? 1 : -1;
      const best = points.reduce<(typeof points)[number] | null>(
        (top, point) =>
          point.value !== null && (top?.value == null || sign * point.value > sign * top.value) ? point : top,
        null,
      );
      return {
        job_id: jobId,
        primary_metric: first.metric,
        primary_metric_mode: first.mode,
        count: points.length,
        best,
        last: points.at(-1) ?? null,
        points,
      };
    },

    /** @throws UNAUTHORIZED · VALIDATION_RESULT_NOT_FOUND */
    async images(
      principal: Principal,
      resultId: number,
      options: {
        is_correct?: boolean;
        true_label?: string;
        true_label_id?: number;
        predicted_label?: string;
        predicted_label_id?: number;
        skip: number;
        limit: number;
      },
    ) {
      const { skip, limit } = options;
      const rows = await validations.images(principal, resultId, {
        isCorrect: options.is_correct,
        trueLabel: options.true_label,
        trueLabelId: options.true_label_id,
        predictedLabel: options.predicted_label,
        predictedLabelId: options.predicted_label_id,
        skip,
        limit,
      });
      if (rows.length === 0) throw unauthorized();
      if (rows[0]?.role === null) throw new AppError("VALIDATION_RESULT_NOT_FOUND", "Validation result not found");
      return {
        validation_result_id: resultId,
        images: rows.flatMap(({ image }) =>
          image === null
            ? []
            : [
                {
                  id: image.id,
                  image_path: image.imagePath,
                  image_name: image.imageName,
                  true_label: image.trueLabel,
                  true_label_id: image.trueLabelId,
                  predicted_label: image.predictedLabel,
                  predicted_label_id: image.predictedLabelId,
                  confidence: image.confidence,
                  is_correct: image.isCorrect,
                  top5_predictions: image.top5Predictions,
                  extra_data: image.extraData,
                },
              ],
        ),
        total: rows[0]?.total ?? 0,
        skip,
        limit,
      };
    },
  };
}
