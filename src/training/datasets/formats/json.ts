import { err, ok, type Result } from "../../../shared/result.ts";
import { brokenFile } from "./summary.ts";
import type { FormatProblem } from "./types.ts";

/** Keys and indexes from the root of a JSON document to a value. */
export type JsonPath = readonly (string | number)[];

export type JsonObject = { readonly [key: string]: unknown };

/**
 * A value that an annotation file may not have. Thrown while a document is walked and turned into a problem with file, line
 * and path in `readJson`; it never leaves this folder.
 */
export class BadValue extends Error {
  override readonly name = "BadValue";
  readonly at: JsonPath;

  constructor(at: JsonPath, message: string) {
    super(message);
    this.at = at;
  }
}

/**
 * Parses an annotation file and walks it.
 * @param walk reads the document, throwing {@link BadValue} at what is wrong
 */
export function readJson<T>(file: string, text: string, walk: (document: unknown) => T): Result<T, FormatProblem> {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    return brokenFile(`${file}${syntaxPosition(text)}: not valid JSON`);
  }
  try {
    return ok(walk(document));
  } catch (error) {
    if (!(error instanceof BadValue)) throw error;
    const line = lineOf(text, error.at);
    const path = pathText(error.at);
    return err({ field: "files", message: `${file} line ${line}${path === "" ? "" : ` (${path})`}: ${error.message}` });
  }
}

export function objectAt(value: unknown, at: JsonPath): JsonObject {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw new BadValue(at, "an object is expected");
}

export function arrayAt(value: unknown, at: JsonPath): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw new BadValue(at, "a list is expected");
}

export function textAt(value: unknown, at: JsonPath): string {
  if (typeof value === "string" && value !== "") return value;
  throw new BadValue(at, "a text is expected");
}

export function numberAt(value: unknown, at: JsonPath): number {
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw new BadValue(at, "a finite number is expected");
}

/** An id as text: writers disagree on whether ids are numbers or texts, so `1` and `"1"` are the same id. */
export function idAt(value: unknown, at: JsonPath): string {
  if (typeof value === "number" && Number.isSafeInteger(value)) return String(value);
  if (typeof value === "string" && value !== "" && value.length <= 200) return value;
  throw new BadValue(at, "an id is expected: an integer or a text");
}

/** A class id: an integer from 0 on, as a number or in its plain decimal text. */
export function classIdAt(value: unknown, at: JsonPath): number {
  const id = typeof value === "string" && /^(?:0|[1-9]\d{0,14})$/.test(value) ? Number(value) : value;
  if (typeof id === "number" && Number.isSafeInteger(id) && id >= 0) return id;
  throw new BadValue(at, "a class id is expected: an integer from 0 on");
}

/** `images[3].bbox`. */
const pathText = (path: JsonPath): string =>
  path.map((step, i) => (typeof step === "number" ? `[${step}]` : i === 0 ? step : `.${step}`)).join("");

/** ` line 3`, or nothing for a text in which no place can be told. */
const syntaxPosition = (text: string): string =>
  text.trim() === "" ? "" : ` line ${lineAt(text, syntaxErrorAt(text))}`;

/** One token of JSON after blanks: punctuation, text, number or word. */
const TOKEN =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids exactly these inside a text
  /[ \t\n\r]*(?:([{}[\],:])|("(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)/y;

/**
 * Where a text stops being JSON. `JSON.parse` tells it for some mistakes only, and each engine in its own words; a bare NaN,
 * the most frequent one, is told by none.
 */
function syntaxErrorAt(text: string): number {
  const closers: string[] = [];
  let expected: "value" | "value or ]" | "key" | "key or }" | ":" | ", or end" = "value";
  let at = 0;
  while (at < text.length) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    const start = skipBlank(text, at);
    if (match === null) return start;
    const sign = match[1];
    const isText = match[2] !== undefined;
    const allowsValue = expected === "value" || expected === "value or ]";
    if (sign === undefined) {
      if (expected === "key" || expected === "key or }") {
        if (!isText) return start;
        expected = ":";
      } else if (allowsValue) expected = ", or end";
      else return start;
    } else if (sign === "{" || sign === "[") {
      if (!allowsValue) return start;
      closers.push(sign === "{" ? "}" : "]");
      expected = sign === "{" ? "key or }" : "value or ]";
    } else if (sign === ":") {
      if (expected !== ":") return start;
      expected = "value";
    } else if (sign === ",") {
      const closer = closers.at(-1);
      if (expected !== ", or end" || closer === undefined) return start;
      expected = closer === "}" ? "key" : "value";
    } else {
      const mayClose = expected === ", or end" || expected === (sign === "}" ? "key or }" : "value or ]");
      if (!mayClose || closers.pop() !== sign) return start;
      expected = ", or end";
    }
    at = TOKEN.lastIndex;
  }
  return text.length;
}

const lineAt = (text: string, position: number): number => {
  let line = 1;
  for (let at = text.indexOf("\n"); at !== -1 && at < position; at = text.indexOf("\n", at + 1)) line++;
  return line;
};

/** The line on which the value at `path` begins, in a text that is valid JSON; as far as the path can be followed. */
function lineOf(text: string, path: JsonPath): number {
  let at = skipBlank(text, 0);
  for (const step of path) {
    const next = typeof step === "number" ? findElement(text, at, step) : findMember(text, at, step);
    if (next === null) break;
    at = next;
  }
  return lineAt(text, at);
}

function skipBlank(text: string, from: number): number {
  let at = from;
  while (at < text.length && " \t\n\r".includes(text.charAt(at))) at++;
  return at;
}

function skipString(text: string, from: number): number {
  let at = from + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
  return at + 1;
}

/** The place behind the value that begins at `from`. */
function skipValue(text: string, from: number): number {
  let depth = 0;
  let at = from;
  while (at < text.length) {
    const char = text[at];
    if (char === '"') {
      at = skipString(text, at);
    } else {
      if (char === "{" || char === "[") depth++;
      else if (char === "}" || char === "]") depth--;
      else if (depth === 0 && char === ",") return at;
      at++;
    }
    if (depth < 0) return at - 1;
    if (depth === 0 && (text[at - 1] === "}" || text[at - 1] === "]" || text[at - 1] === '"')) return at;
  }
  return at;
}

function findElement(text: string, list: number, index: number): number | null {
  if (text[list] !== "[") return null;
  let at = skipBlank(text, list + 1);
  for (let i = 0; i < index; i++) {
    at = skipBlank(text, skipValue(text, at));
    if (text[at] !== ",") return null;
    at = skipBlank(text, at + 1);
  }
  return at;
}

/** The last member of that name: `JSON.parse` keeps the last, so that is the value that was looked at. */
function findMember(text: string, object: number, name: string): number | null {
  if (text[object] !== "{") return null;
  let found: number | null = null;
  let at = skipBlank(text, object + 1);
  while (text[at] === '"') {
    const end = skipString(text, at);
    const key: unknown = JSON.parse(text.slice(at, end));
    const value = skipBlank(text, skipBlank(text, end) + 1);
    if (key === name) found = value;
    at = skipBlank(text, skipValue(text, value));
    if (text[at] !== ",") break;
    at = skipBlank(text, at + 1);
  }
  return found;
}
