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

    /** @throws UNAUTHORIZED · VALIDATION_RESULT_NOT_FOUND */
    async images(
      principal: Principal,
      resultId: number,
      options: { is_correct?: boolean; skip: number; limit: number },
    ) {
      const { is_correct, skip, limit } = options;
      const rows = await validations.images(principal, resultId, { isCorrect: is_correct, skip, limit });
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
