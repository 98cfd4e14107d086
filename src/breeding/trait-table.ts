/** What the tables of strains and of measured crosses have in common: headers, numbers, shape words, what is reported. */
import { err, ok, type Result } from "../shared/result.ts";
import { KOREAN_SHAPES } from "./genetics/shape.ts";
import { type FruitTrait, inRange, type ShapeClass, TRAIT_RANGE } from "./genetics/traits.ts";

/** Something about one cell, row or file; `line` is 1-based as an editor shows it, `column` the header as written. */
export interface ImportIssue {
  line: number;
  column: string | null;
  code: ImportIssueCode;
  /** For people, in Korean like every message of this API. */
  message: string;
}

export type ImportIssueCode =
  | "ENCODING"
  | "FORMAT"
  | "HEADER"
  | "TOO_MANY_ROWS"
  | "COLUMN_COUNT"
  | "ID_MISSING"
  | "ID_INVALID"
  | "NAME_INVALID"
  | "DUPLICATE"
  | "NOT_A_NUMBER"
  | "OUT_OF_RANGE"
  | "TYPE_UNKNOWN"
  | "INCOMPLETE"
  | "RATIO_MISMATCH"
  | "SHAPE_UNKNOWN"
  | "COLUMN_IGNORED"
  | "NOT_ALLOWED"
  | "PARENT_UNKNOWN"
  | "ROLE"
  | "NO_VALUE"
  | "TEXT_INVALID";

/** Faults of a file as a whole: nothing of it can be used. */
export const FILE_FAULTS: ReadonlySet<ImportIssueCode> = new Set(["ENCODING", "FORMAT", "HEADER", "TOO_MANY_ROWS"]);

/** Header names of the traits and the shape, after {@link normaliseHeader}. */
export const TRAIT_HEADERS: Record<FruitTrait | "shape", readonly string[]> = {
  weight: ["weight", "fruitweight", "과중", "무게"],
  length: ["length", "fruitlength", "과장", "길이"],
  width: ["width", "fruitwidth", "과폭", "너비"],
  ratio: ["ratio", "과형지수", "길이/너비"],
  sugarContent: ["sugarcontent", "brix", "당도", "브릭스"],
  firmness: ["firmness", "hardness", "과실경도", "경도"],
  skinThickness: ["skinthickness", "과피두께", "과육두께"],
  shape: ["shape", "과형", "과실형태"],
};

/** Without the unit in brackets, spaces, `_` and `-`, in lower case. */
export const normaliseHeader = (header: string): string =>
  header
    .normalize("NFC")
    .replace(/[([（［].*?[)\]）］]/g, "")
    .replace(/[\s_-]/g, "")
    .toLowerCase();

/** The field of each header name. */
export const fieldsByHeader = <F extends string>(headers: Record<F, readonly string[]>): ReadonlyMap<string, F> =>
  new Map(
    Object.entries<readonly string[]>(headers).flatMap(([field, names]) => names.map((name) => [name, field as F])),
  );

/** Cells, in upper case, that say that nobody measured it. */
export const UNKNOWN_CELLS: ReadonlySet<string> = new Set(["", "NA", "N/A", "-", "."]);

/** The value of a cell, null for unknown; or what is wrong with it. */
export function readTraitCell(
  trait: FruitTrait,
  cell: string,
  decimalComma: boolean,
): Result<number | null, { code: "NOT_A_NUMBER" | "OUT_OF_RANGE"; message: string }> {
  if (UNKNOWN_CELLS.has(cell.toUpperCase())) return ok(null);
  const text = decimalComma ? cell.replace(",", ".") : cell;
  if (!/^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i.test(text)) {
    return err({ code: "NOT_A_NUMBER", message: `숫자가 아닙니다: ${clip(cell)}` });
  }
  const value = Number(text);
  if (inRange(trait, value)) return ok(value);
  const { above, min, max, unit } = TRAIT_RANGE[trait];
  const low = above === undefined ? `${min} 이상` : `${above} 초과`;
  const message = `${low} ${max} 이하여야 합니다${unit ? ` (${unit})` : ""}: ${clip(cell)}`;
  return err({ code: "OUT_OF_RANGE", message });
}

/** The class of a Korean shape word, whatever its spaces. */
export function koreanShape(word: string): ShapeClass | undefined {
  const bare = word.replace(/\s/g, "");
  return Object.hasOwn(KOREAN_SHAPES, bare) ? KOREAN_SHAPES[bare] : undefined;
}

/** A text from a file, short enough for a message. */
export const clip = (text: string): string => (text.length > 40 ? `${text.slice(0, 40)}…` : text);
