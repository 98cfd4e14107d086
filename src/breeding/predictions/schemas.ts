import { z } from "@hono/zod-openapi";
import { PageQuery, pageQuery, success, successPage, successWithMessage } from "../http.ts";
import { MESSAGES } from "../messages.ts";
import { idText, ShapeSchema, StrainSchema } from "../strains/schemas.ts";

const parentId = z
  .string({ error: MESSAGES.parentIdsRequired })
  .trim()
  .min(1, MESSAGES.parentIdsRequired)
  .transform((text) => text.normalize("NFC"))
  .openapi({ type: "string" });

export const PredictionRequestSchema = z
  .object({
    maleStrainId: parentId.openapi({ description: "부친 계통 ID", example: "TC1_022" }),
    femaleStrainId: parentId.openapi({ description: "모친 계통 ID", example: "TC1_023" }),
    options: z
      .object({
        predictPhenotype: z.boolean().default(true).openapi({ description: "표현형 예측 여부" }),
        generateImage: z.boolean().default(false).openapi({ description: "시각화 이미지 생성 여부" }),
      })
      .prefault({})
      .refine(
        (options) => options.predictPhenotype || options.generateImage,
        "predictPhenotype과 generateImage 중 하나는 true여야 합니다",
      ),
  })
  .openapi("PredictionRequest", {
    example: {
      maleStrainId: "TC1_022",
      femaleStrainId: "TC1_023",
      options: { predictPhenotype: true, generateImage: true },
    },
  });

export type PredictionRequest = z.infer<typeof PredictionRequestSchema>;

const TraitPredictionSchema = z
  .object({
    value: z.number(),
    confidence: z.number().min(0).max(1).openapi({
      description: "다음 시험 평균이 예측값에서 패널 표준편차의 절반 이내일 확률",
    }),
    grade: z.number().int().min(1).max(5).openapi({ description: "계통 패널에서의 5분위" }),
    interval: z.object({ lower: z.number(), upper: z.number(), level: z.number() }).openapi({
      description: "다음 시험 평균의 예측 구간",
    }),
    basis: z.enum(["observed", "gca", "parents", "prior"]).openapi({
      description: "근거: observed 이 교배의 관측값, gca 부모의 다른 교배, parents 부모 형질, prior 사전 지식",
    }),
    nCrosses: z.number().int().openapi({ description: "모형이 근거로 삼은 관측 교배 수" }),
  })
  .openapi("TraitPrediction");

export const PredictedPhenotypeSchema = z
  .object({
    weight: TraitPredictionSchema,
    length: TraitPredictionSchema,
    width: TraitPredictionSchema,
    ratio: TraitPredictionSchema,
    sugarContent: TraitPredictionSchema,
    firmness: TraitPredictionSchema,
    skinThickness: TraitPredictionSchema,
    shape: z.object({
      value: ShapeSchema,
      confidence: z.number().min(0).max(1),
      probabilities: z.object({ round: z.number(), oval: z.number(), rectangular: z.number(), pear: z.number() }),
    }),
  })
  .openapi("PredictedPhenotype");

export const PredictionSchema = z
  .object({
    id: z.string().openapi({ example: "PRED_1763366644698_a3f2b1c4" }),
    maleStrain: StrainSchema,
    femaleStrain: StrainSchema,
    predictedPhenotype: PredictedPhenotypeSchema.optional(),
    generatedImages: z
      .array(z.string())
      .optional()
      .openapi({ example: ["/images/tomato/predictions/2025/11/cross_TC1_022_TC1_023_01.png"] }),
    overallScore: z.number().min(0).max(5),
    recommendation: z.string(),
    createdAt: z.string().openapi({ example: "2025-11-17T08:30:00.000Z" }),
    combinationId: z.string().openapi({ example: "TC1_023-TC1_022" }),
    modelVersion: z.string().openapi({ description: "예측에 쓴 모형 (데이터와 방법의 해시)" }),
    images: z
      .array(z.object({ url: z.string(), view: z.enum(["outside", "section"]), engine: z.string() }))
      .optional()
      .openapi({ description: "generatedImages와 같은 순서: 무엇을 보이고 무엇이 그렸는지" }),
    imageFallback: z
      .object({ reason: z.enum(["timeout", "error", "daily_budget"]), message: z.string() })
      .optional()
      .openapi({ description: "이미지 모델 대신 내장 렌더러가 그린 이유" }),
  })
  .openapi("Prediction");

export type Prediction = z.infer<typeof PredictionSchema>;

export const PredictionCreatedSchema = successWithMessage(PredictionSchema).openapi("PredictionCreated");
export const PredictionAnswerSchema = success(PredictionSchema).openapi("PredictionAnswer");
export const PredictionPageSchema = successPage(z.array(PredictionSchema)).openapi("PredictionPage");

export const HistoryQuerySchema = z.object({
  ...PageQuery,
  sort: z
    .enum(["asc", "desc"])
    .optional()
    .transform((value) => value ?? "desc")
    .openapi({ type: "string", enum: ["asc", "desc"], default: "desc" }),
});

export const PredictionParamsSchema = z.object({
  id: z.string().openapi({ param: { name: "id", in: "path" }, example: "PRED_1763366644698_a3f2b1c4" }),
});

export const CombinationParamsSchema = z.object({
  maleId: idText.openapi({ param: { name: "maleId", in: "path" } }),
  femaleId: idText.openapi({ param: { name: "femaleId", in: "path" } }),
});

export const CombinationKeyParamsSchema = z.object({
  combinationId: idText.openapi({
    param: { name: "combinationId", in: "path" },
    description: "`{femaleId}-{maleId}`",
    example: "TC1_023-TC1_022",
  }),
});

export const MAX_COMBINATIONS = 10_000;

export const CombinationQuerySchema = z.object({
  page: pageQuery({ min: 1, max: 10_000, default: 1 }),
  limit: pageQuery({ min: 1, max: MAX_COMBINATIONS, default: MAX_COMBINATIONS }),
});

export const CombinationsSchema = success(
  z.object({ combinationIds: z.array(z.string()), total: z.number().int(), hasMore: z.boolean() }),
).openapi("Combinations", {
  example: { success: true, data: { combinationIds: ["TC1_023-TC1_022"], total: 25, hasMore: false } },
});
