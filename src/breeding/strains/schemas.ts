import { z } from "@hono/zod-openapi";
import {
  FRUIT_TRAITS,
  type FruitTrait,
  inRange,
  SHAPE_CLASSES,
  STRAIN_TYPES,
  TRAIT_RANGE,
} from "../genetics/traits.ts";
import { success, successWithMessage } from "../http.ts";
import { isName, isStrainId, MAX_IMPORT_ROWS, MAX_NAME_LENGTH } from "./csv.ts";

export const StrainTypeSchema = z.enum(STRAIN_TYPES);
export const ShapeSchema = z.enum(SHAPE_CLASSES);

const UNIT_TEXT: Record<FruitTrait, string> = {
  weight: "무게 (g)",
  length: "길이 (mm)",
  width: "너비 (mm)",
  ratio: "길이/너비 비율",
  sugarContent: "당도 (%, °Brix)",
  firmness: "경도 (kg)",
  skinThickness: "껍질 두께 (mm)",
};

const mapTraits = <T>(of: (trait: FruitTrait) => T): Record<FruitTrait, T> =>
  Object.fromEntries(FRUIT_TRAITS.map((trait) => [trait, of(trait)])) as Record<FruitTrait, T>;

export const PhenotypeSchema = z
  .object({
    ...mapTraits((trait) => z.number().nullable().openapi({ description: UNIT_TEXT[trait] })),
    shape: ShapeSchema.nullable(),
  })
  .openapi("Phenotype");

export const StrainSchema = z
  .object({
    id: z.string(),
    name: z.string(),
    type: StrainTypeSchema,
    phenotype: PhenotypeSchema,
    metadata: z.object({
      source: z.string(),
      createdAt: z.string(),
      imageUrl: z.string(),
      updatedAt: z.string(),
      isSample: z.boolean().openapi({ description: "Invented sample data; nobody measured it" }),
      shapeKo: z.string().nullable().openapi({ description: "The Korean word that the shape was read from" }),
      imageSource: z.enum(["rendered", "uploaded"]),
    }),
  })
  .openapi("Strain", {
    example: {
      id: "TC1_022",
      name: "TC1_022",
      type: "both",
      phenotype: {
        weight: 47.24,
        length: 44.38,
        width: 38.59,
        ratio: 1.15,
        sugarContent: 5.24,
        firmness: 0.51,
        skinThickness: 6.81,
        shape: "round",
      },
      metadata: {
        source: "strains folder",
        createdAt: "2025-11-16T16:16:04.742Z",
        imageUrl: "/images/tomato/strains/TC1_022.png",
        updatedAt: "2025-11-16T16:16:04.742Z",
        isSample: false,
        shapeKo: null,
        imageSource: "rendered",
      },
    },
  });

export const StrainListSchema = success(z.array(StrainSchema))
  .extend({ total: z.number().int() })
  .openapi("StrainList");
export const StrainAnswerSchema = success(StrainSchema).openapi("StrainAnswer");
export const StrainWrittenSchema = successWithMessage(StrainSchema).openapi("StrainWritten");
export const StrainDeletedSchema = successWithMessage(z.object({ id: z.string() })).openapi("StrainDeleted");

export const StrainListQuerySchema = z.object({
  type: StrainTypeSchema.optional().openapi({ description: "타입별 필터: 정확히 일치" }),
  usableAs: z
    .enum(["female", "male"])
    .optional()
    .openapi({ description: "모친 또는 부친으로 쓸 수 있는 계통 (both 포함)" }),
  search: z.string().max(200).optional().openapi({ description: "이름이나 ID로 검색 (대소문자 무관)" }),
});

/** Ids are compared in Unicode form NFC: macOS sends Hangul decomposed. */
const normalised = (text: string) => text.normalize("NFC");

/** An id that may not exist: whether it does is for the data to say. */
export const idText = z.string().transform(normalised).openapi({ type: "string", example: "TC1_022" });

export const StrainParamsSchema = z.object({ id: idText.openapi({ param: { name: "id", in: "path" } }) });

/** A measured value; null says that nobody measured it. */
const traitInput = (trait: FruitTrait) => {
  const { above, min, max } = TRAIT_RANGE[trait];
  const low = above === undefined ? `${min} 이상` : `${above} 초과`;
  return z
    .number()
    .refine((value) => inRange(trait, value), `phenotype.${trait}: ${low} ${max} 이하여야 합니다`)
    .nullable()
    .openapi({ description: UNIT_TEXT[trait] });
};

/** Largest difference between a written ratio and length/width that rounding explains. */
const RATIO_TOLERANCE = 0.02;

type RatioInput = { length?: number | null; width?: number | null; ratio?: number | null };

/** A ratio that contradicts length and width is a typing error: refused. A missing one follows from them. */
export function withRatio<T extends RatioInput>(value: T, context: z.RefinementCtx): T & { ratio: number | null } {
  const { length, width, ratio } = value;
  if (length == null || width == null) return { ...value, ratio: ratio ?? null };
  const exact = length / width;
  if (ratio == null) return { ...value, ratio: Math.round(exact * 1e4) / 1e4 };
  if (Math.abs(ratio - exact) > RATIO_TOLERANCE) {
    context.addIssue({
      code: "custom",
      path: ["ratio"],
      message: `phenotype.ratio: 길이/너비 ${exact.toFixed(3)}와(과) 다릅니다`,
    });
  }
  return { ...value, ratio };
}

const { ratio: ratioInput, ...otherInputs } = mapTraits(traitInput);

const StrainPhenotypeInputSchema = z
  .strictObject({ ...otherInputs, ratio: ratioInput.optional(), shape: ShapeSchema.nullable() })
  .transform(withRatio)
  .openapi("StrainPhenotypeInput", {
    description: "모든 형질이 필요합니다. 측정하지 않은 값은 null, ratio는 생략하면 길이/너비",
  });

/** A measured F1: what is absent was not measured. */
export const MeasuredPhenotypeSchema = z
  .strictObject({ ...z.object(mapTraits(traitInput)).partial().shape, shape: ShapeSchema.nullable().optional() })
  .transform(withRatio)
  .openapi("MeasuredPhenotype");

const name = z
  .string()
  .trim()
  .min(1)
  .refine(isName, `name: ${MAX_NAME_LENGTH}자 이내의 한 줄이어야 합니다`)
  .transform(normalised);
const source = z.string().trim().min(1).refine(isName, `source: ${MAX_NAME_LENGTH}자 이내의 한 줄이어야 합니다`);

/** What can be said about a strain. */
const strainFields = {
  name: name.optional().openapi({ description: "생략하면 ID" }),
  type: StrainTypeSchema.default("both"),
  phenotype: StrainPhenotypeInputSchema,
  shapeKo: z.string().trim().max(40).refine(isName, "shapeKo: 한 줄이어야 합니다").nullish(),
  source: source.optional(),
};

const STRAIN_EXAMPLE = {
  type: "both",
  phenotype: {
    weight: 52.1,
    length: 43.2,
    width: 45.9,
    sugarContent: 5.6,
    firmness: 0.62,
    skinThickness: 5.1,
    shape: "round",
  },
};

/** A change replaces all of it. */
export const UpdateStrainSchema = z
  .strictObject(strainFields)
  .openapi("UpdateStrain", { example: { name: "새 계통", ...STRAIN_EXAMPLE } });

/** Not an extension of the schema above: JSON Schema's `additionalProperties` of the one would refuse the other's id. */
export const CreateStrainSchema = z
  .strictObject({
    id: z
      .string()
      .transform(normalised)
      .refine(isStrainId, "id: 문자·숫자로 시작하고 공백 _ - . 를 쓸 수 있으며 64자 이내여야 합니다")
      .openapi({ type: "string", example: "NEW_001" }),
    ...strainFields,
  })
  .openapi("CreateStrain", { example: { id: "NEW_001", ...STRAIN_EXAMPLE } });

export const ImportIssueSchema = z
  .object({ line: z.number().int(), column: z.string().nullable(), code: z.string(), message: z.string() })
  .openapi("ImportIssue");

export const ImportReportSchema = z
  .object({
    dryRun: z.boolean(),
    encoding: z.enum(["utf-8", "cp949"]).nullable(),
    total: z.number().int().openapi({ description: "Rows below the header" }),
    accepted: z.number().int(),
    created: z.number().int(),
    updated: z.number().int(),
    refused: z.array(ImportIssueSchema).openapi({ description: "Why rows were refused, by line of the file" }),
    warnings: z.array(ImportIssueSchema),
  })
  .openapi("ImportReport");

export const ImportAnswerSchema = successWithMessage(ImportReportSchema).openapi("ImportAnswer");

/** A file as the body; it is read by the service, as bytes of any encoding. */
export const csvBody = {
  required: true,
  content: {
    "text/csv": {
      schema: { type: "string" as const, description: `UTF-8 또는 cp949, 쉼표·탭·세미콜론, 최대 ${MAX_IMPORT_ROWS}행` },
    },
  },
};
