import { z } from "@hono/zod-openapi";
import { FRUIT_TRAITS, type FruitTrait, MODEL_TRAITS, type ModelTrait } from "../genetics/traits.ts";
import { success } from "../http.ts";

const EstimateSchema = z.object({ mean: z.number(), sd: z.number() });

const TraitSummarySchema = z
  .object({
    scale: z.enum(["ln", "identity"]),
    nCrosses: z.number().int(),
    nStrains: z.number().int(),
    panel: EstimateSchema,
    heterosis: EstimateSchema,
    midParentSlope: EstimateSchema,
    dominance: EstimateSchema,
    gcaVariance: z.number(),
    residualVariance: z.number(),
    prior: z.object({ heterosis: EstimateSchema, midParentSlope: EstimateSchema, dominance: EstimateSchema }),
  })
  .openapi("ModelTrait", { description: "panel은 분석 척도, 효과는 패널 표준편차 단위" });

const CalibrationSchema = z
  .object({
    n: z.number().int(),
    coverage80: z.number().nullable().openapi({ description: "80 % 구간에 든 비율" }),
    meanConfidence: z.number().nullable(),
    hitRate: z.number().nullable(),
    brier: z.number().nullable(),
  })
  .openapi("Calibration");

const record = <K extends string, T extends z.ZodType>(names: readonly K[], schema: T) =>
  z.object(Object.fromEntries(names.map((name) => [name, schema])) as Record<K, T>);

export const ModelSchema = success(
  z.object({
    version: z.string().openapi({ description: "방법, 사전 분포, 계통, 관측의 해시" }),
    method: z.number().int(),
    fittedAt: z.string(),
    upToDate: z.boolean(),
    strains: z.number().int(),
    observations: z.number().int(),
    sizeBytes: z.number().int(),
    traits: record<ModelTrait, typeof TraitSummarySchema>(MODEL_TRAITS, TraitSummarySchema).openapi({
      description: "k: 무게/(길이·너비²). 길이와 너비는 weight, ratio, k에서 유도합니다",
    }),
    calibration: z.object({
      window: z.number().int().openapi({ description: "형질마다 최근 이 수의 예측" }),
      pooled: CalibrationSchema,
      traits: record<FruitTrait, typeof CalibrationSchema>(FRUIT_TRAITS, CalibrationSchema),
    }),
  }),
).openapi("Model");
