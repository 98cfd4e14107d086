import { isoMillis } from "../../shared/time.ts";
import { FRUIT_TRAITS, type FruitTrait, type GeneticStrain, type Phenotype } from "../genetics/traits.ts";
import type { StrainRecord } from "./csv.ts";

/** A row of the table `strains`, under its SQL names. */
export type StrainRow = {
  id: string;
  name: string;
  type: GeneticStrain["type"];
  weight: number | null;
  length: number | null;
  width: number | null;
  ratio: number | null;
  sugar_content: number | null;
  firmness: number | null;
  skin_thickness: number | null;
  shape: Phenotype["shape"];
  shape_ko: string | null;
  source: string;
  is_sample: number;
  image_key: string | null;
  created_by: number | null;
  created_at: number;
  updated_at: number;
};

export const TRAIT_COLUMNS: Record<FruitTrait, keyof StrainRow> = {
  weight: "weight",
  length: "length",
  width: "width",
  ratio: "ratio",
  sugarContent: "sugar_content",
  firmness: "firmness",
  skinThickness: "skin_thickness",
};

export const phenotypeOf = (row: StrainRow): Phenotype => ({
  weight: row.weight,
  length: row.length,
  width: row.width,
  ratio: row.ratio,
  sugarContent: row.sugar_content,
  firmness: row.firmness,
  skinThickness: row.skin_thickness,
  shape: row.shape,
});

/** The strain as the genetics see it. */
export const toGenetic = (row: StrainRow): GeneticStrain => ({
  id: row.id,
  type: row.type,
  phenotype: phenotypeOf(row),
});

/** The strain as its file format has it. */
export const toRecord = (row: StrainRow): StrainRecord => ({
  id: row.id,
  name: row.name,
  type: row.type,
  phenotype: phenotypeOf(row),
  shapeKo: row.shape_ko,
});

/** Where the picture of a strain is: the contract's pattern; letters beyond ASCII are percent-encoded. */
export const strainImageUrl = (id: string): string => `/images/tomato/strains/${encodeURIComponent(id)}.png`;

/** The strain as the API answers it. */
export const toStrain = (row: StrainRow) => ({
  id: row.id,
  name: row.name,
  type: row.type,
  phenotype: phenotypeOf(row),
  metadata: {
    source: row.source,
    createdAt: isoMillis(row.created_at),
    imageUrl: strainImageUrl(row.id),
    updatedAt: isoMillis(row.updated_at),
    isSample: row.is_sample === 1,
    shapeKo: row.shape_ko,
    imageSource: row.image_key === null ? ("rendered" as const) : ("uploaded" as const),
  },
});

/** What `search` looks in: the id and the name, folded the same way as the text that is searched. */
export const searchKeyOf = (strain: { id: string; name: string }): string => foldText(`${strain.id}\n${strain.name}`);

export const foldText = (text: string): string => text.normalize("NFC").toLowerCase();

/** One strain as a positional row for `json_each`, in the order of {@link INSERT_COLUMNS}. */
export const toJsonRow = (strain: StrainRecord): unknown[] => [
  strain.id,
  strain.name,
  strain.type,
  ...FRUIT_TRAITS.map((trait) => strain.phenotype[trait]),
  strain.phenotype.shape,
  strain.shapeKo,
  searchKeyOf(strain),
];

export const INSERT_COLUMNS = [
  "id",
  "name",
  "type",
  ...FRUIT_TRAITS.map((trait) => TRAIT_COLUMNS[trait]),
  "shape",
  "shape_ko",
  "search_key",
] as const;
