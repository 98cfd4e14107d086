import { unauthorized } from "../../auth/bearer.ts";
import { AppError } from "../../shared/errors.ts";
import { randomHex } from "../../shared/ids.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { isoMillis } from "../../shared/time.ts";
import type { Caller } from "../caller.ts";
import { predictCross } from "../genetics/breeding-model.ts";
import { stemOf } from "../images/pictures.ts";
import type { PaintFallback, PictureService } from "../images/service.ts";
import { MESSAGES, refuse, strainNotFound } from "../messages.ts";
import type { ModelStore } from "../model/store.ts";
import { type StrainRow, toGenetic, toStrain } from "../strains/record.ts";
import { combinationId, type Pair, roleProblem, splitCombinationId } from "./combination.ts";
import { picturedPhenotype, toPredictedPhenotype } from "./phenotype.ts";
import type { CrossContext, PredictionRepository } from "./repository.ts";
import type { Prediction, PredictionRequest } from "./schemas.ts";

export type PredictionService = ReturnType<typeof createPredictionService>;

const ID = /^PRED_\d{13}_[0-9a-f]{8}$/;

const FALLBACK_TEXT: Record<PaintFallback, string> = {
  timeout: "이미지 모델이 제시간에 응답하지 않아 내장 렌더러로 그렸습니다",
  error: "이미지 모델을 사용할 수 없어 내장 렌더러로 그렸습니다",
  daily_budget: "오늘의 이미지 생성 한도에 도달하여 내장 렌더러로 그렸습니다",
};

export function createPredictionService(deps: {
  predictions: PredictionRepository;
  models: ModelStore;
  pictures: PictureService;
  now: () => number;
}) {
  const { predictions, models, pictures, now } = deps;

  function parentsOf(context: CrossContext, pair: Pair): { female: StrainRow; male: StrainRow } {
    const female = context.parents.get(pair.femaleId);
    const male = context.parents.get(pair.maleId);
    if (female === undefined || male === undefined) throw strainNotFound();
    const problem = roleProblem(female, male);
    if (problem !== null) throw refuse(problem);
    return { female, male };
  }

  async function predict(
    context: CrossContext,
    pair: Pair,
    parents: { female: StrainRow; male: StrainRow },
    options: PredictionRequest["options"],
  ): Promise<Prediction> {
    const { female, male } = parents;
    const { version, model } = await models.load(context.state);
    const predicted = predictCross(model, toGenetic(female), toGenetic(male));
    const drawn = options.generateImage
      ? await pictures.forCross({ ...pair, phenotype: picturedPhenotype(predicted) }, context.pictures)
      : null;
    const at = now();
    const prediction: Prediction = {
      id: `PRED_${at}_${randomHex(4)}`,
      maleStrain: toStrain(male),
      femaleStrain: toStrain(female),
      ...(options.predictPhenotype ? { predictedPhenotype: toPredictedPhenotype(predicted) } : {}),
      ...(drawn === null ? {} : { generatedImages: drawn.pictures.map((picture) => picture.url) }),
      overallScore: predicted.overallScore,
      recommendation: predicted.recommendation,
      createdAt: isoMillis(at),
      combinationId: combinationId(pair),
      modelVersion: version,
      ...(drawn === null ? {} : { images: drawn.pictures }),
      ...(drawn?.fallback ? { imageFallback: { reason: drawn.fallback, message: FALLBACK_TEXT[drawn.fallback] } } : {}),
    };
    await predictions.save(prediction, pair, drawn, at);
    return prediction;
  }

  return {
    /**
     * Predicts one cross and stores what was predicted.
     * @throws UNAUTHORIZED in phase 2 · STRAIN_NOT_FOUND · VALIDATION_ERROR for a parent in the wrong role
     */
    async create(caller: Caller, request: PredictionRequest): Promise<Prediction> {
      const pair = { femaleId: request.femaleStrainId, maleId: request.maleStrainId };
      const ids = [pair.femaleId, pair.maleId];
      const context = await predictions.context(caller, ids, stemOf(pair.maleId, pair.femaleId));
      if (context === undefined) throw unauthorized();
      const parents = parentsOf(context, pair);
      try {
        return await predict(context, pair, parents, request.options);
      } catch (thrown) {
        logger.error("prediction_failed", { combination: combinationId(pair), error: errorText(thrown) });
        throw new AppError("INTERNAL_ERROR", MESSAGES.predictionFailed);
      }
    },

    async history(caller: Caller, query: { page: number; limit: number; sort: "asc" | "desc" }) {
      const page = await predictions.page(caller, query);
      if (page === undefined) throw unauthorized();
      return page;
    },

    /** @throws PREDICTION_NOT_FOUND */
    async get(caller: Caller, id: string): Promise<Prediction> {
      const found = await predictions.byId(caller, ID.test(id) ? id : "");
      if (found === undefined) throw unauthorized();
      if (found === null) throw new AppError("PREDICTION_NOT_FOUND", MESSAGES.predictionNotFound);
      return found;
    },

    /** The newest prediction of a cross. @throws COMBINATION_NOT_FOUND */
    async byPair(caller: Caller, pair: Pair): Promise<Prediction> {
      const found = await predictions.newestOf(caller, [pair]);
      if (found === undefined) throw unauthorized();
      const [prediction] = found;
      if (prediction === undefined) throw new AppError("COMBINATION_NOT_FOUND", MESSAGES.combinationNotFound);
      return prediction;
    },

    /**
     * The newest prediction of the cross with this id, `{femaleId}-{maleId}`.
     * @throws VALIDATION_ERROR when it is no such id, or fits several crosses that were predicted · COMBINATION_NOT_FOUND
     */
    async byKey(caller: Caller, key: string): Promise<Prediction> {
      const pairs = splitCombinationId(key);
      if (pairs.length === 0) throw refuse(MESSAGES.badCombinationKey);
      const found = await predictions.newestOf(caller, pairs);
      if (found === undefined) throw unauthorized();
      if (found.length > 1) throw refuse(MESSAGES.badCombinationKey);
      const [prediction] = found;
      if (prediction === undefined) throw new AppError("COMBINATION_NOT_FOUND", MESSAGES.combinationNotFound);
      return prediction;
    },

    async combinations(caller: Caller, query: { page: number; limit: number }) {
      const found = await predictions.combinations(caller, query);
      if (found === undefined) throw unauthorized();
      return {
        combinationIds: found.pairs.map(combinationId),
        total: found.total,
        hasMore: query.page * query.limit < found.total,
      };
    },
  };
}
