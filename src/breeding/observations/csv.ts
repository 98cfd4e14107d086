/** Measured crosses as a file: one row per trial mean, with the parents' ids, read with a report of what was refused. */
import { FRUIT_TRAITS, type FruitTrait, type Phenotype, SHAPE_CLASSES, unknownPhenotype } from "../genetics/traits.ts";
import { BREEDING_LIMITS } from "../limits.ts";
import { isName } from "../strains/csv.ts";
import { decodeText, detectDelimiter, parseTable, readTextCell, type TableRow } from "../table.ts";
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

/** A measured cross as a file describes it. */
export interface ObservationRecord {
  femaleId: string;
  maleId: string;
  n: number;
  season: string | null;
  environment: string | null;
  phenotype: Phenotype;
}

export interface ObservationImport {
  encoding: "utf-8" | "cp949" | null;
  total: number;
  accepted: { line: number; observation: ObservationRecord }[];
  refused: ImportIssue[];
  warnings: ImportIssue[];
}

/** More replicates than any trial has. */
export const MAX_REPLICATES = 10_000;
export const MAX_LABEL_LENGTH = 60;

type Field = FruitTrait | "shape" | "female" | "male" | "n" | "season" | "environment";

const HEADERS: Record<Field, readonly string[]> = {
  ...TRAIT_HEADERS,
  female: ["female", "mother", "femaleid", "femalestrainid", "모계", "모친", "모본"],
  male: ["male", "father", "maleid", "malestrainid", "부계", "부친", "부본"],
  n: ["n", "replicates", "반복", "반복수"],
  season: ["season", "year", "작기", "연도", "시기"],
  environment: ["environment", "site", "location", "환경", "재배지", "장소"],
};

const FIELD_OF_HEADER = fieldsByHeader(HEADERS);

/** Largest difference of a written ratio from length/width that rounding explains. */
const RATIO_TOLERANCE = 0.02;

/** Reads a table of measured crosses: encodings, separators and trait headers as for strains. Whether the parents exist is not asked here. */
export function readObservationCsv(bytes: Uint8Array): ObservationImport {
  const report: ObservationImport = { encoding: null, total: 0, accepted: [], refused: [], warnings: [] };
  const refuseFile = (line: number, code: ImportIssueCode, message: string): ObservationImport => {
    report.refused.push({ line, column: null, code, message });
    return report;
  };
  const decoded = decodeText(bytes);
  if (!decoded.ok) return refuseFile(1, "ENCODING", "파일 인코딩을 읽을 수 없습니다 (UTF-8 또는 cp949)");
  report.encoding = decoded.value.encoding;
  const delimiter = detectDelimiter(decoded.value.text);
  const table = parseTable(decoded.value.text, delimiter);
  if (!table.ok) return refuseFile(table.error.line, "FORMAT", "따옴표로 묶은 값이 올바르지 않습니다");
  const [header, ...body] = table.value;
  if (!header) return refuseFile(1, "HEADER", "파일이 비어 있습니다");

  const columns = new Map<Field, number>();
  for (const [at, cell] of header.cells.entries()) {
    const field = FIELD_OF_HEADER.get(normaliseHeader(cell));
    if (field !== undefined && columns.has(field))
      return refuseFile(header.line, "HEADER", `같은 항목의 열이 둘 이상입니다: ${clip(cell.trim())}`);
    if (field !== undefined) columns.set(field, at);
    else if (cell.trim() !== "") {
      const message = `알 수 없는 열이라 무시했습니다: ${clip(cell.trim())}`;
      report.warnings.push({ line: header.line, column: cell.trim(), code: "COLUMN_IGNORED", message });
    }
  }
  if (!columns.has("female") || !columns.has("male"))
    return refuseFile(header.line, "HEADER", "모친과 부친 열이 필요합니다 (female, male, 모계, 부계 등)");
  if (![...FRUIT_TRAITS, "shape" as const].some((field) => columns.has(field)))
    return refuseFile(header.line, "HEADER", "형질 열이 하나도 없습니다 (weight, 과중 등)");
  report.total = body.length;
  if (body.length > BREEDING_LIMITS.observations) {
    const message = `한 번에 ${BREEDING_LIMITS.observations}행까지 가져올 수 있습니다 (현재 ${body.length}행)`;
    return refuseFile(1, "TOO_MANY_ROWS", message);
  }
  for (const row of body) {
    const { faults, observation } = readRow(row, header.cells, columns, delimiter === ";");
    report.refused.push(...faults);
    if (faults.length === 0) report.accepted.push({ line: row.line, observation });
  }
  return report;
}

function readRow(
  row: TableRow,
  header: readonly string[],
  columns: ReadonlyMap<Field, number>,
  decimalComma: boolean,
): { faults: ImportIssue[]; observation: ObservationRecord } {
  const faults: ImportIssue[] = [];
  const fault = (field: Field | null, code: ImportIssueCode, message: string) => {
    const at = field === null ? undefined : columns.get(field);
    faults.push({ line: row.line, column: at === undefined ? null : (header[at] ?? "").trim(), code, message });
  };
  const cell = (field: Field) => {
    const at = columns.get(field);
    return at === undefined ? "" : (row.cells[at] ?? "").trim();
  };
  const label = (field: "season" | "environment"): string | null => {
    const text = readTextCell(cell(field));
    if (!isName(text) || text.length > MAX_LABEL_LENGTH)
      fault(field, "TEXT_INVALID", `${MAX_LABEL_LENGTH}자 이내의 한 줄이어야 합니다`);
    return text === "" ? null : text;
  };
  if (row.cells.length > header.length)
    fault(null, "COLUMN_COUNT", `열이 ${header.length}개여야 하는데 ${row.cells.length}개입니다`);

  const [femaleId, maleId] = [readTextCell(cell("female")), readTextCell(cell("male"))];
  for (const [field, id] of [["female", femaleId] as const, ["male", maleId] as const])
    if (id === "") fault(field, "ID_MISSING", "계통 ID가 비어 있습니다");

  const nCell = cell("n");
  const n = nCell === "" ? 1 : Number(nCell);
  if (!/^\d*$/.test(nCell) || n < 1 || n > MAX_REPLICATES)
    fault("n", "OUT_OF_RANGE", `반복 수는 1 이상 ${MAX_REPLICATES} 이하의 정수여야 합니다: ${clip(nCell)}`);

  const phenotype = unknownPhenotype();
  for (const trait of FRUIT_TRAITS) {
    const read = readTraitCell(trait, cell(trait), decimalComma);
    if (read.ok) phenotype[trait] = read.value;
    else fault(trait, read.error.code, read.error.message);
  }
  const { length, width, ratio } = phenotype;
  if (length !== null && width !== null) {
    const exact = length / width;
    if (ratio !== null && Math.abs(ratio - exact) > RATIO_TOLERANCE)
      fault("ratio", "RATIO_MISMATCH", `비율 ${ratio}이(가) 길이/너비 ${exact.toFixed(3)}와(과) 다릅니다`);
    else phenotype.ratio = ratio ?? Math.round(exact * 1e4) / 1e4;
  }

  const word = readTextCell(cell("shape"));
  if (!UNKNOWN_CELLS.has(word.toUpperCase())) {
    const shape = SHAPE_CLASSES.find((name) => name === word.toLowerCase()) ?? koreanShape(word);
    if (shape) phenotype.shape = shape;
    else fault("shape", "SHAPE_UNKNOWN", `알 수 없는 형태입니다: ${clip(word)}`);
  }
  const observation = { femaleId, maleId, n, season: label("season"), environment: label("environment"), phenotype };
  if (faults.length === 0 && Object.values(phenotype).every((value) => value === null))
    fault(null, "NO_VALUE", "측정값이 하나도 없습니다");
  return { faults, observation };
}
