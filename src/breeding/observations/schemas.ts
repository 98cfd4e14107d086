import { z } from "@hono/zod-openapi";
import { PageQuery, success, successPage, successWithMessage } from "../http.ts";
import { isName } from "../strains/csv.ts";
import { ImportIssueSchema, idText, MeasuredPhenotypeSchema, PhenotypeSchema } from "../strains/schemas.ts";
import { MAX_LABEL_LENGTH, MAX_REPLICATES } from "./csv.ts";

const label = (field: string) =>
  z
    .string()
    .trim()
    .refine(
      (text) => isName(text) && text.length <= MAX_LABEL_LENGTH,
      `${field}: ${MAX_LABEL_LENGTH}자 이내의 한 줄이어야 합니다`,
    )
    .nullish()
    .transform((text) => text || null);

export const CreateObservationSchema = z
  .strictObject({
    femaleStrainId: idText.openapi({ description: "모친 계통 ID", example: "TC1_023" }),
    maleStrainId: idText.openapi({ description: "부친 계통 ID", example: "TC1_022" }),
    phenotype: MeasuredPhenotypeSchema.refine(
      (phenotype) => Object.values(phenotype).some((value) => value != null),
      "phenotype: 측정값이 하나 이상 필요합니다",
    ),
    n: z.number().int().min(1).max(MAX_REPLICATES).default(1).openapi({ description: "값이 평균인 반복 수" }),
    season: label("season"),
    environment: label("environment"),
  })
  .openapi("CreateObservation", {
    example: {
      femaleStrainId: "TC1_023",
      maleStrainId: "TC1_022",
      phenotype: { weight: 41.5, length: 40.2, width: 38.8, sugarContent: 5.4, firmness: 0.55 },
      n: 3,
      season: "2025 봄",
      environment: "온실 A",
    },
  });

export const ForecastSchema = z
  .object({
    trait: z.string(),
    predicted: z.number(),
    interval: z.object({ lower: z.number(), upper: z.number(), level: z.number() }),
    confidence: z.number(),
    observed: z.number(),
    hit: z.boolean().openapi({ description: "패널 표준편차의 절반 이내" }),
    covered: z.boolean().openapi({ description: "80 % 구간 안" }),
    modelVersion: z.string(),
  })
  .openapi("Forecast");

export const ObservationSchema = z
  .object({
    id: z.string().openapi({ example: "OBS_1763366644698_a3f2b1c4" }),
    combinationId: z.string(),
    femaleStrainId: z.string(),
    maleStrainId: z.string(),
    n: z.number().int(),
    season: z.string().nullable(),
    environment: z.string().nullable(),
    phenotype: PhenotypeSchema,
    createdAt: z.string(),
    forecasts: z.array(ForecastSchema).openapi({ description: "측정 전에 모형이 예측한 값과 실제 값" }),
  })
  .openapi("Observation");

export const ObservationCreatedSchema = successWithMessage(ObservationSchema).openapi("ObservationCreated");
export const ObservationPageSchema = successPage(z.array(ObservationSchema)).openapi("ObservationPage");
export const ObservationDeletedSchema = successWithMessage(z.object({ id: z.string() })).openapi("ObservationDeleted");
export const ObservationAnswerSchema = success(ObservationSchema).openapi("ObservationAnswer");

export const ObservationListQuerySchema = z.object({
  ...PageQuery,
  strainId: idText.optional().openapi({ description: "이 계통이 부모인 관측만" }),
  sort: z
    .enum(["asc", "desc"])
    .optional()
    .transform((value) => value ?? "desc")
    .openapi({ type: "string", enum: ["asc", "desc"], default: "desc" }),
});

export const ObservationParamsSchema = z.object({
  id: z.string().openapi({ param: { name: "id", in: "path" }, example: "OBS_1763366644698_a3f2b1c4" }),
});

export const ObservationReportSchema = successWithMessage(
  z.object({
    dryRun: z.boolean(),
    alreadyImported: z.boolean().openapi({ description: "같은 파일을 이미 가져왔으므로 아무것도 바꾸지 않았습니다" }),
    encoding: z.enum(["utf-8", "cp949"]).nullable(),
    total: z.number().int(),
    accepted: z.number().int(),
    refused: z.array(ImportIssueSchema),
    warnings: z.array(ImportIssueSchema),
  }),
).openapi("ObservationReport");
