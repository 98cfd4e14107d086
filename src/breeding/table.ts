/**
 * Reading and writing the tables that breeders keep: bytes to text, text to rows that know their line.
 *
 * Own code, because a report must name the line of every refused row (also behind a quoted line break) and an unclosed
 * quote must be an error, not a swallowed file; the libraries that can do both pull Node's global types into the Worker.
 */
import { err, fail, ok, type Result } from "../shared/result.ts";
import { decodeCp949 } from "./cp949.ts";

/** One record: the 1-based line it starts on and its cells as written. */
export interface TableRow {
  line: number;
  cells: string[];
}

export interface DecodedText {
  text: string;
  encoding: "utf-8" | "cp949";
}

/**
 * Text of a file made by a breeder's spreadsheet: UTF-8 with or without byte order mark, else cp949 (Korean Excel),
 * normalised to NFC because macOS decomposes Hangul. Fails for bytes that are neither.
 */
export function decodeText(bytes: Uint8Array): Result<DecodedText> {
  const hasBom = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
  const attempts: { encoding: DecodedText["encoding"]; decode: () => string }[] = [
    { encoding: "utf-8", decode: () => new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes) },
    { encoding: "cp949", decode: () => decodeCp949(bytes) },
  ];
  for (const { encoding, decode } of hasBom ? attempts.slice(0, 1) : attempts) {
    try {
      return ok({ text: decode().normalize("NFC"), encoding });
    } catch {
      // Not this encoding.
    }
  }
  return fail("VALIDATION_ERROR", "the file is neither UTF-8 nor cp949 text");
}

/** The separator that occurs most often outside quotes in the first line; comma on a tie. */
export function detectDelimiter(text: string): "," | "\t" | ";" {
  const firstLine = text.trimStart().split(/\r\n|\n|\r/, 1)[0] ?? "";
  const bare = firstLine.replace(/"(?:[^"]|"")*"/g, "");
  const count = (mark: string) => bare.split(mark).length - 1;
  const [commas, tabs, semicolons] = [count(","), count("\t"), count(";")];
  if (tabs > commas && tabs >= semicolons) return "\t";
  return semicolons > commas ? ";" : ",";
}

/**
 * Splits delimited text (RFC 4180: quotes, doubled quotes, line breaks inside quotes; CRLF, LF or CR) into rows.
 * Rows whose cells are all blank are left out. Fails, with the line, on a quote that is never closed.
 */
export function parseTable(text: string, delimiter: string): Result<TableRow[], { line: number; message: string }> {
  const rows: TableRow[] = [];
  let line = 1;
  let at = 0;
  while (at < text.length) {
    const row: TableRow = { line, cells: [] };
    for (;;) {
      const cell = text[at] === '"' ? readQuoted(text, at + 1) : readBare(text, at, delimiter);
      if (cell === null) return err({ line, message: "a quoted field is never closed" });
      row.cells.push(cell.value);
      line += cell.lineBreaks;
      at = cell.next;
      // Text after a closing quote belongs to the cell in no dialect; it is skipped up to the next separator.
      const rest = cell.quoted ? readBare(text, at, delimiter) : null;
      if (rest?.value.trim()) return err({ line, message: "text after a closing quote" });
      at = rest?.next ?? at;
      if (text[at] !== delimiter) break;
      at++;
    }
    if (text[at] === "\r" && text[at + 1] === "\n") at++;
    at++;
    line++;
    if (row.cells.some((c) => c.trim() !== "")) rows.push(row);
  }
  return ok(rows);
}

interface Cell {
  value: string;
  next: number;
  lineBreaks: number;
  quoted: boolean;
}

function readBare(text: string, start: number, delimiter: string): Cell {
  let end = start;
  while (end < text.length && text[end] !== delimiter && text[end] !== "\n" && text[end] !== "\r") end++;
  return { value: text.slice(start, end), next: end, lineBreaks: 0, quoted: false };
}

function readQuoted(text: string, start: number): Cell | null {
  let value = "";
  let from = start;
  for (;;) {
    const quote = text.indexOf('"', from);
    if (quote < 0) return null;
    value += text.slice(from, quote);
    if (text[quote + 1] !== '"') {
      return { value, next: quote + 1, lineBreaks: value.split(/\r\n|\n|\r/).length - 1, quoted: true };
    }
    value += '"';
    from = quote + 2;
  }
}

/** Characters that make a spreadsheet read a text cell as a formula; the leading quotes are ours or were escaped. */
const FORMULA = /^'*[=+\-@\t\r]/;

/** Protects a text cell from being run as a formula, by an apostrophe. Undone by {@link readTextCell}. */
export const writeTextCell = (text: string): string => (FORMULA.test(text) ? `'${text}` : text);

/** The text that {@link writeTextCell} protected. */
export const readTextCell = (cell: string): string =>
  cell.startsWith("'") && FORMULA.test(cell) ? cell.slice(1) : cell;

/** Rows as comma separated text with CRLF and a byte order mark, so that Excel shows Hangul. Numbers in full precision. */
export function writeTable(rows: readonly (readonly (string | number | null)[])[]): string {
  const cell = (value: string | number | null) => {
    const text = value === null ? "" : typeof value === "number" ? String(value) : writeTextCell(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return `\uFEFF${rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("")}`;
}
