/** The strain table of a breeder as a file: read with a report of what was refused and why, written so it reads back. */
import { classesFromRatio, likeliestShape } from "../genetics/shape.ts";
import {
  FRUIT_TRAITS,
  type FruitTrait,
  type Phenotype,
  SHAPE_CLASSES,
  type ShapeClass,
  STRAIN_TYPES,
  type StrainType,
  unknownPhenotype,
} from "../genetics/traits.ts";
import { decodeText, detectDelimiter, parseTable, readTextCell, type TableRow, writeTable } from "../table.ts";
import {
  clip,
  fieldsByHeader,
  type ImportIssue,
  type ImportIssueCode,
  koreanShape,
  normaliseHeader,
  readTraitCell,
  TRAIT_HEADERS,
  UNKNOWN_CELLS,
} from "../trait-table.ts";

/** A strain as a file describes it. `shapeKo` is the Korean word the shape was read from, kept as it was written. */
export interface StrainRecord {
  id: string;
  name: string;
  type: StrainType;
  phenotype: Phenotype;
  shapeKo: string | null;
}

/** What an import found. Nothing is stored here, so the same report serves a dry run. */
export interface StrainImport {
  encoding: "utf-8" | "cp949" | null;
  /** Rows below the header. */
  total: number;
  accepted: { line: number; strain: StrainRecord }[];
  /** Why rows (or, on line 1, the file) were refused. A row with several faults is listed once per fault. */
  refused: ImportIssue[];
  warnings: ImportIssue[];
}

export const MAX_IMPORT_ROWS = 10_000;

/** Strain ids go into URLs, object keys and combination ids: letters and digits of any script, space, `_`, `-`, `.`. */
const ID_PATTERN = /^[\p{L}\p{N}](?:[\p{L}\p{N}_.-]| (?! ))*$/u;
const MAX_ID_LENGTH = 64;
export const MAX_NAME_LENGTH = 100;

/** Words that stand in the place of an id in a path of the API. */
const RESERVED_IDS = new Set(["export", "import"]);

/** Whether a text may be a strain id. */
export const isStrainId = (text: string): boolean =>
  text.length <= MAX_ID_LENGTH &&
  ID_PATTERN.test(text) &&
  !text.endsWith(" ") &&
  !text.includes("..") &&
  !RESERVED_IDS.has(text);

/** Whether a text is short and on one line. */
export const isName = (text: string): boolean => text.length <= MAX_NAME_LENGTH && !/\p{Cc}|\p{Cs}/u.test(text);

type Field = FruitTrait | "id" | "name" | "type" | "shape" | "shapeKo";

/** Header names after {@link normaliseHeader}. */
const HEADERS: Record<Field, readonly string[]> = {
  ...TRAIT_HEADERS,
  id: ["id", "genotype", "sampleid", "strainid", "계통", "계통명", "계통id"],
  name: ["name", "이름"],
  type: ["type", "구분"],
  shapeKo: ["shapeko"],
};

const FIELD_OF_HEADER = fieldsByHeader(HEADERS);

const TYPE_WORDS: Readonly<Record<string, StrainType>> = {
  부계: "male",
  부: "male",
  모계: "female",
  모: "female",
  양용: "both",
  ...Object.fromEntries(STRAIN_TYPES.map((type) => [type, type])),
};

/** Largest difference of a written ratio from length/width that rounding explains. */
const RATIO_TOLERANCE = 0.02;

/**
 * Reads a table of strains: UTF-8 or cp949; comma, tab or semicolon; English or Korean headers in any order.
 *
 * @param allowMissing accept rows without some of the traits or the shape; the missing ones are null
 */
export function readStrainCsv(
  bytes: Uint8Array,
  { allowMissing = false }: { allowMissing?: boolean } = {},
): StrainImport {
  const report: StrainImport = { encoding: null, total: 0, accepted: [], refused: [], warnings: [] };
  const refuseFile = (code: ImportIssueCode, message: string): StrainImport => {
    report.refused.push({ line: 1, column: null, code, message });
    return report;
  };

  const decoded = decodeText(bytes);
  if (!decoded.ok) return refuseFile("ENCODING", "파일 인코딩을 읽을 수 없습니다 (UTF-8 또는 cp949)");
  report.encoding = decoded.value.encoding;
  const delimiter = detectDelimiter(decoded.value.text);
  const table = parseTable(decoded.value.text, delimiter);
  if (!table.ok) {
    const { line } = table.error;
    report.refused.push({ line, column: null, code: "FORMAT", message: "따옴표로 묶은 값이 올바르지 않습니다" });
    return report;
  }
  const [header, ...body] = table.value;
  if (!header) return refuseFile("HEADER", "파일이 비어 있습니다");
  const columns = readHeader(header, report);
  if (report.refused.length > 0) return report;
  report.total = body.length;
  if (body.length > MAX_IMPORT_ROWS) {
    return refuseFile("TOO_MANY_ROWS", `한 번에 ${MAX_IMPORT_ROWS}행까지 가져올 수 있습니다 (현재 ${body.length}행)`);
  }

  const seen = new Map<string, number>();
  for (const row of body) {
    const reader = new RowReader(row, header.cells, columns, delimiter === ";");
    const strain = reader.read(allowMissing);
    const first = strain && seen.get(strain.id);
    if (strain && first !== undefined)
      reader.fault("id", "DUPLICATE", `계통 ID가 ${first}행과 중복됩니다: ${strain.id}`);
    report.refused.push(...reader.faults);
    if (!strain || reader.faults.length > 0) continue;
    seen.set(strain.id, row.line);
    report.accepted.push({ line: row.line, strain });
    report.warnings.push(...reader.warnings);
  }
  return report;
}

function readHeader(header: TableRow, report: StrainImport): Map<Field, number> {
  const columns = new Map<Field, number>();
  const issue = (cell: string | null, code: ImportIssueCode, message: string): ImportIssue => ({
    line: header.line,
    column: cell,
    code,
    message,
  });
  for (const [at, cell] of header.cells.entries()) {
    const field = FIELD_OF_HEADER.get(normaliseHeader(cell));
    if (field === undefined) {
      if (cell.trim())
        report.warnings.push(issue(cell.trim(), "COLUMN_IGNORED", `알 수 없는 열이라 무시했습니다: ${cell.trim()}`));
    } else if (columns.has(field)) {
      report.refused.push(issue(cell.trim(), "HEADER", `같은 항목의 열이 둘 이상입니다: ${cell.trim()}`));
    } else {
      columns.set(field, at);
    }
  }
  // A file with a name and no id uses the name for both.
  const name = columns.get("name");
  if (!columns.has("id") && name !== undefined) columns.set("id", name);
  if (!columns.has("id")) report.refused.push(issue(null, "HEADER", "계통 ID 열이 없습니다 (id, Genotype, 계통명 등)"));
  if (!FRUIT_TRAITS.some((trait) => columns.has(trait))) {
    report.refused.push(issue(null, "HEADER", "형질 열이 하나도 없습니다 (weight, 과중 등)"));
  }
  return columns;
}

/** Reads one row and collects everything that is wrong with it, so that a file is corrected in one go. */
class RowReader {
  readonly faults: ImportIssue[] = [];
  readonly warnings: ImportIssue[] = [];
  private readonly faulty = new Set<Field>();
  private readonly row: TableRow;
  private readonly header: readonly string[];
  private readonly columns: ReadonlyMap<Field, number>;
  private readonly decimalComma: boolean;

  constructor(row: TableRow, header: readonly string[], columns: ReadonlyMap<Field, number>, decimalComma: boolean) {
    this.row = row;
    this.header = header;
    this.columns = columns;
    this.decimalComma = decimalComma;
  }

  fault(field: Field | null, code: ImportIssueCode, message: string): void {
    if (field !== null) this.faulty.add(field);
    this.faults.push(this.issue(field, code, message));
  }

  private issue(field: Field | null, code: ImportIssueCode, message: string): ImportIssue {
    const at = field === null ? undefined : this.columns.get(field);
    return { line: this.row.line, column: at === undefined ? null : (this.header[at] ?? "").trim(), code, message };
  }

  private cell(field: Field): string {
    const at = this.columns.get(field);
    return at === undefined ? "" : (this.row.cells[at] ?? "").trim();
  }

  read(allowMissing: boolean): StrainRecord | null {
    if (this.row.cells.length > this.header.length) {
      this.fault(null, "COLUMN_COUNT", `열이 ${this.header.length}개여야 하는데 ${this.row.cells.length}개입니다`);
      return null;
    }
    const id = readTextCell(this.cell("id"));
    if (id === "") this.fault("id", "ID_MISSING", "계통 ID가 비어 있습니다");
    else if (!isStrainId(id)) {
      this.fault(
        "id",
        "ID_INVALID",
        `사용할 수 없는 계통 ID입니다 (문자·숫자로 시작, 공백 _ - . 가능, ${MAX_ID_LENGTH}자 이내)`,
      );
    }
    const name = readTextCell(this.cell("name")) || id;
    if (!isName(name)) this.fault("name", "NAME_INVALID", `이름은 ${MAX_NAME_LENGTH}자 이내의 한 줄이어야 합니다`);
    const phenotype = this.readPhenotype();
    const type = this.readType();
    const shapeKo = this.readShape(phenotype);
    if (!allowMissing) this.requireComplete(phenotype);
    return this.faults.length > 0 ? null : { id, name, type, phenotype, shapeKo };
  }

  private readPhenotype(): Phenotype {
    const phenotype = unknownPhenotype();
    for (const trait of FRUIT_TRAITS) phenotype[trait] = this.readNumber(trait);
    const { length, width, ratio } = phenotype;
    if (length !== null && width !== null) {
      const exact = length / width;
      if (ratio === null && !this.faulty.has("ratio")) {
        phenotype.ratio = Math.round(exact * 1e4) / 1e4;
      } else if (ratio !== null && Math.abs(ratio - exact) > RATIO_TOLERANCE) {
        const message = `비율 ${ratio}이(가) 길이/너비 ${exact.toFixed(3)}와(과) 다릅니다`;
        this.warnings.push(this.issue("ratio", "RATIO_MISMATCH", message));
      }
    }
    return phenotype;
  }

  private readNumber(trait: FruitTrait): number | null {
    const read = readTraitCell(trait, this.cell(trait), this.decimalComma);
    if (read.ok) return read.value;
    this.fault(trait, read.error.code, read.error.message);
    return null;
  }

  private readType(): StrainType {
    const word = this.cell("type").toLowerCase();
    if (word === "") return "both";
    const type = Object.hasOwn(TYPE_WORDS, word) ? TYPE_WORDS[word] : undefined;
    if (type === undefined)
      this.fault(
        "type",
        "TYPE_UNKNOWN",
        `구분은 male, female, both(부계, 모계, 양용) 중 하나여야 합니다: ${clip(word)}`,
      );
    return type ?? "both";
  }

  /** Sets the class and returns the Korean (or unknown) word, if one was written. */
  private readShape(phenotype: Phenotype): string | null {
    const written = readTextCell(this.cell("shape"));
    const kept = readTextCell(this.cell("shapeKo"));
    const english = SHAPE_CLASSES.find((shape) => shape === written.toLowerCase());
    const word = english ? kept : written || kept;
    if (!isName(word)) {
      this.fault("shape", "SHAPE_UNKNOWN", "형태를 읽을 수 없습니다");
      return null;
    }
    if (english) phenotype.shape = english;
    else if (!UNKNOWN_CELLS.has(word.toUpperCase())) phenotype.shape = this.classOf(word, phenotype.ratio);
    return UNKNOWN_CELLS.has(word.toUpperCase()) ? null : word;
  }

  private classOf(word: string, ratio: number | null): ShapeClass | null {
    const known = koreanShape(word);
    if (known) return known;
    const guess = ratio === null ? null : likeliestShape(classesFromRatio(Math.log(ratio)));
    const message = guess
      ? `알 수 없는 형태 "${clip(word)}"를 비율에 따라 ${guess}(으)로 분류했습니다`
      : `알 수 없는 형태입니다: ${clip(word)}`;
    this.warnings.push(this.issue("shape", "SHAPE_UNKNOWN", message));
    return guess;
  }

  private requireComplete(phenotype: Phenotype): void {
    const missing = [...FRUIT_TRAITS, "shape" as const].filter(
      (field) => phenotype[field] === null && !this.faulty.has(field),
    );
    if (missing.length > 0) {
      this.fault(
        null,
        "INCOMPLETE",
        `값이 없습니다: ${missing.join(", ")} (일부 값이 없는 행은 allowMissing으로 가져올 수 있습니다)`,
      );
    }
  }
}

/** The table that {@link readStrainCsv} (with allowMissing, where values are unknown) reads back identically. */
export function writeStrainCsv(strains: readonly StrainRecord[]): string {
  const header = ["id", "name", "type", ...FRUIT_TRAITS, "shape", "shapeKo"];
  const rows = strains.map(({ id, name, type, phenotype, shapeKo }) => [
    id,
    name,
    type,
    ...FRUIT_TRAITS.map((trait) => phenotype[trait]),
    phenotype.shape,
    shapeKo,
  ]);
  return writeTable([header, ...rows]);
}
