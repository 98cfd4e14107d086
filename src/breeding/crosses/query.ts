import { z } from "@hono/zod-openapi";
import type { TraitWeights } from "../genetics/grades.ts";
import { RANK_KEYS, type Threshold } from "../genetics/ranking.ts";
import { SIZE_CLASSES } from "../genetics/recommendation.ts";
import { FRUIT_TRAITS, type FruitTrait, TRAIT_RANGE } from "../genetics/traits.ts";
import { flagQuery, pageQuery } from "../http.ts";
import { idText, StrainTypeSchema } from "../strains/schemas.ts";

/** Parameters of questions about all crosses. Lists are `trait:number` pairs, comma separated: `weight:0.5,sugarContent:1`. */

const MAX_LIST_LENGTH = 300;
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)$/;

type Pairs = Partial<Record<FruitTrait, number>>;

/** Reads `trait:number,…`; a text says what is wrong. Pure. */
export function readTraitNumbers(text: string): Pairs | string {
  const pairs: Pairs = {};
  for (const part of text.split(",")) {
    const [name = "", value = "", ...more] = part.trim().split(":");
    const trait = FRUIT_TRAITS.find((known) => known === name);
    if (trait === undefined) return `알 수 없는 형질입니다: ${name.slice(0, 40)} (${FRUIT_TRAITS.join(", ")})`;
    if (more.length > 0 || !NUMBER.test(value)) return `${trait}:숫자 형식이어야 합니다`;
    if (Object.hasOwn(pairs, trait)) return `형질이 두 번 나옵니다: ${trait}`;
    pairs[trait] = Number(value);
  }
  return pairs;
}

const traitNumbers = (field: string, check: (trait: FruitTrait, value: number) => string | null) =>
  z
    .string()
    .max(MAX_LIST_LENGTH)
    .transform((text, context): Pairs => {
      const read = readTraitNumbers(text);
      const refuse = (message: string) => {
        context.addIssue({ code: "custom", message: `${field}: ${message}` });
        return z.NEVER;
      };
      if (typeof read === "string") return refuse(read);
      for (const trait of FRUIT_TRAITS) {
        const value = read[trait];
        const problem = value === undefined ? null : check(trait, value);
        if (problem !== null) return refuse(problem);
      }
      return read;
    })
    .optional()
    .openapi({ type: "string" });

const MAX_WEIGHT = 100;

const weights = traitNumbers("weights", (trait, value) =>
  Math.abs(value) <= MAX_WEIGHT ? null : `${trait}: 가중치는 -${MAX_WEIGHT}에서 ${MAX_WEIGHT} 사이여야 합니다`,
)
  .refine(
    (value) => value === undefined || Object.values(value).some((weight) => weight !== 0),
    "weights: 0이 아닌 가중치가 하나 이상 필요합니다",
  )
  .openapi({
    description: "지수의 가중치 (패널 표준편차 단위)",
    example: "weight:0.25,sugarContent:0.5,firmness:0.25",
  });

const bound = (field: "min" | "max") =>
  traitNumbers(field, (trait, value) =>
    value >= 0 && value <= TRAIT_RANGE[trait].max ? null : `${trait}: 0 이상 ${TRAIT_RANGE[trait].max} 이하여야 합니다`,
  );

/** What candidates must meet, shared by ranking and suggestions. */
const CriteriaShape = {
  weights,
  min: bound("min").openapi({ description: "예측값의 하한", example: "sugarContent:6" }),
  max: bound("max").openapi({ description: "예측값의 상한", example: "weight:200" }),
  sizeClass: z.enum(SIZE_CLASSES).optional().openapi({ description: "small 30 g 미만, medium 200 g 미만, large" }),
};

type Criteria = { weights?: TraitWeights; min?: Pairs; max?: Pairs };

/** The thresholds of both bounds, one per trait. */
export const thresholdsOf = ({ min = {}, max = {} }: Criteria): Threshold[] =>
  FRUIT_TRAITS.filter((trait) => min[trait] !== undefined || max[trait] !== undefined).map((trait) => ({
    trait,
    ...(min[trait] === undefined ? {} : { min: min[trait] }),
    ...(max[trait] === undefined ? {} : { max: max[trait] }),
  }));

export const MAX_CSV_ROWS = 50_000;

export const RankingQuerySchema = z
  .object({
    ...CriteriaShape,
    type: StrainTypeSchema.optional().openapi({ description: "적어도 한 부모가 이 타입인 교배" }),
    strainId: idText.optional().openapi({ description: "이 계통이 부모인 교배" }),
    unrecordedOnly: flagQuery().openapi({ description: "관측되지 않은 교배만" }),
    rankBy: z
      .enum(RANK_KEYS)
      .optional()
      .transform((value) => value ?? "index")
      .openapi({
        type: "string",
        enum: [...RANK_KEYS],
        default: "index",
        description: "index 평균 지수, upper 90 % 상한, probability 모든 조건을 만족할 확률 (이때 조건은 거르지 않음)",
      }),
    page: pageQuery({ min: 1, max: 10_000, default: 1 }),
    limit: pageQuery({ min: 1, max: 100, default: 20 }),
    format: z
      .enum(["json", "csv"])
      .optional()
      .transform((value) => value ?? "json")
      .openapi({ type: "string", enum: ["json", "csv"], default: "json", description: "csv: 전체 목록, 평균만" }),
  })
  .refine(
    (query) => query.rankBy !== "probability" || query.min !== undefined || query.max !== undefined,
    "rankBy=probability에는 min 또는 max가 필요합니다",
  );

export type RankingQuery = z.infer<typeof RankingQuerySchema>;

export const SuggestionQuerySchema = z.object({
  ...CriteriaShape,
  count: pageQuery({ min: 1, max: 20, default: 5 }),
  goals: pageQuery({ min: 1, max: 50, default: 20 }).openapi({ description: "목표로 삼을 상위 교배 수" }),
  replicates: pageQuery({ min: 1, max: 100, default: 1 }).openapi({ description: "계획한 시험의 반복 수" }),
});

export type SuggestionQuery = z.infer<typeof SuggestionQuerySchema>;

export const CombiningQuerySchema = z
  .object({
    page: pageQuery({ min: 1, max: 10_000, default: 1 }),
    limit: pageQuery({ min: 1, max: 100, default: 50 }),
    strainId: idText.optional().openapi({ description: "이 계통이 부모인 교배만" }),
    femaleStrainId: idText.optional().openapi({ description: "maleStrainId와 함께: 관측되지 않은 교배도 한 건" }),
    maleStrainId: idText.optional(),
  })
  .refine(
    (query) => (query.femaleStrainId === undefined) === (query.maleStrainId === undefined),
    "femaleStrainId와 maleStrainId를 함께 지정해야 합니다",
  );

export type CombiningQuery = z.infer<typeof CombiningQuerySchema>;
