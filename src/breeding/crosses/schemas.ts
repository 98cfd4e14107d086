import { z } from "@hono/zod-openapi";
import { FRUIT_TRAITS, type FruitTrait } from "../genetics/traits.ts";
import { success, successPage } from "../http.ts";

const mapTraits = <T>(of: (trait: FruitTrait) => T): Record<FruitTrait, T> =>
  Object.fromEntries(FRUIT_TRAITS.map((trait) => [trait, of(trait)])) as Record<FruitTrait, T>;

const RankedTraitSchema = z.object({
  value: z.number(),
  interval: z.object({ lower: z.number(), upper: z.number(), level: z.number() }),
  confidence: z.number(),
});

export const RankedCrossSchema = z
  .object({
    rank: z.number().int(),
    combinationId: z.string(),
    femaleStrainId: z.string(),
    maleStrainId: z.string(),
    score: z.number().openapi({ description: "정렬 기준 값" }),
    index: z.number().openapi({ description: "가중 지수 (패널 표준편차 단위)" }),
    probability: z.number().optional().openapi({ description: "min/max를 모두 만족할 확률" }),
    sizeClass: z.enum(["small", "medium", "large"]),
    observed: z.boolean().openapi({ description: "이미 관측된 교배" }),
    traits: z.object(mapTraits(() => RankedTraitSchema)),
  })
  .openapi("RankedCross");

export const RankingSchema = successPage(z.array(RankedCrossSchema))
  .extend({ modelVersion: z.string() })
  .openapi("Ranking");

export const SuggestionsSchema = success(
  z.object({
    suggestions: z.array(
      z.object({
        combinationId: z.string(),
        femaleStrainId: z.string(),
        maleStrainId: z.string(),
        gain: z.number().openapi({ description: "목표 교배들의 지수 분산이 줄어드는 양" }),
        share: z.number().openapi({ description: "그 비율 (0에서 1)" }),
      }),
    ),
    modelVersion: z.string(),
  }),
).openapi("Suggestions");

const GcaSchema = z.object({
  gca: z.number().openapi({ description: "분석 척도에서 패널 평균과의 차이 (weight와 ratio는 ln)" }),
  sd: z.number(),
  factor: z.number().nullable().openapi({ description: "ln 형질: exp(gca)" }),
  crosses: z.number().int(),
});

const EffectSchema = z.object({
  predicted: z.number(),
  observed: z.number().nullable(),
  sca: z.number().nullable(),
  midParentHeterosis: z.number().nullable().openapi({ description: "%" }),
  betterParentHeterosis: z.number().nullable().openapi({ description: "%" }),
});

const mapGca = <T extends z.ZodType>(schema: T) =>
  z.object({ weight: schema, ratio: schema, sugarContent: schema, firmness: schema, skinThickness: schema });

export const CombiningAbilitySchema = successPage(
  z.object({
    strains: z.array(z.object({ strainId: z.string(), name: z.string(), gca: mapGca(GcaSchema) })),
    crosses: z.array(
      z.object({
        combinationId: z.string(),
        femaleStrainId: z.string(),
        maleStrainId: z.string(),
        effects: mapGca(EffectSchema),
      }),
    ),
    modelVersion: z.string(),
  }),
)
  .openapi("CombiningAbility")
  .describe("total, page, limit은 crosses에 대한 것");
