/** Reads the two tables of a breeding trial, `parent,trait,value,n` and `female,male,trait,value,n`, into model input. */
import type { CrossRecord, ParentValue } from "../../src/breeding/genetics/model.ts";
import { meanAndSd, type Panel } from "../../src/breeding/genetics/panel.ts";
import { decodeText, detectDelimiter, parseTable } from "../../src/breeding/table.ts";
import { fail, ok, type Result } from "../../src/shared/result.ts";

/** One trait of a trial on its analysis scale; crosses are pooled over reciprocals and count as one replicate each. */
export interface TraitTrial {
  trait: string;
  parents: ParentValue[];
  crosses: CrossRecord[];
  panel: Panel;
}

/** A value that several plots or both directions of a cross contribute to. */
class WeightedMean {
  private sum = 0;
  private weight = 0;
  add(value: number, n: number) {
    this.sum += n * value;
    this.weight += n;
  }
  get value() {
    return this.sum / this.weight;
  }
}

/**
 * Model input per trait, in the order of the crosses table.
 *
 * @param log traits analysed as natural logarithms; they need positive values
 * @param maxCrosses use at most this many crosses, the same ones for every trait, drawn by a fixed seed
 */
export function readTrial(
  files: { parents: Uint8Array; crosses: Uint8Array },
  { log = [], maxCrosses }: { log?: readonly string[]; maxCrosses?: number } = {},
): Result<TraitTrial[]> {
  const parents = readRows(files.parents, "parents", ["parent"]);
  if (!parents.ok) return parents;
  const crosses = readRows(files.crosses, "crosses", ["female", "male"]);
  if (!crosses.ok) return crosses;

  const traits = [...new Set(crosses.value.map((row) => row.trait))];
  const strange = log.find((trait) => !traits.includes(trait));
  if (strange !== undefined)
    return fail("VALIDATION_ERROR", `no trait "${strange}" in the crosses; they have ${traits.join(", ")}`, "log");
  const used = drawCrosses(
    crosses.value.map((row) => row.ids),
    maxCrosses,
  );

  const trials: TraitTrial[] = [];
  for (const trait of traits) {
    const isLog = log.includes(trait);
    const ofTrait = (row: DataRow) => row.trait === trait;
    const bad = [...parents.value, ...crosses.value].find((row) => ofTrait(row) && isLog && row.value <= 0);
    if (bad)
      return fail(
        "VALIDATION_ERROR",
        `${bad.table}, line ${bad.line}: ${trait} is ${bad.value}, but --log needs values above 0`,
      );
    const scale = (row: DataRow) => (isLog ? Math.log(row.value) : row.value);
    const lines = pool(parents.value.filter(ofTrait), scale);
    const values = [...lines.values()].map((mean) => mean.value);
    const { mean, sd } = values.length > 0 ? meanAndSd(values) : { mean: 0, sd: 0 };
    if (sd < 1e-9)
      return fail("VALIDATION_ERROR", `trait ${trait}: at least two parents with different values are needed`);
    const pairs = pool(
      crosses.value.filter((row) => ofTrait(row) && used.has(pairName(row.ids))),
      scale,
    );
    trials.push({
      trait,
      parents: [...lines].map(([id, value]) => ({ id, value: value.value })),
      crosses: [...pairs].map(([key, value]) => ({ ...pairOf(key), y: value.value, n: 1 })),
      panel: { mean, sd, count: values.length },
    });
  }
  return ok(trials);
}

interface DataRow {
  table: string;
  line: number;
  ids: string[];
  trait: string;
  value: number;
  n: number;
}

/** The unordered name of a cross or the name of a line. */
const pairName = (ids: readonly string[]) => JSON.stringify([...ids].sort());

function pairOf(key: string): { a: string; b: string } {
  const [a = "", b = ""] = JSON.parse(key) as string[];
  return { a, b };
}

function pool(rows: readonly DataRow[], scale: (row: DataRow) => number): Map<string, WeightedMean> {
  const pooled = new Map<string, WeightedMean>();
  for (const row of rows) {
    const key = row.ids.length === 1 ? (row.ids[0] ?? "") : pairName(row.ids);
    const mean = pooled.get(key) ?? new WeightedMean();
    mean.add(scale(row), row.n);
    pooled.set(key, mean);
  }
  return pooled;
}

function readRows(bytes: Uint8Array, table: string, idColumns: readonly string[]): Result<DataRow[]> {
  const decoded = decodeText(bytes);
  if (!decoded.ok) return fail("VALIDATION_ERROR", `${table}: ${decoded.error.message}`);
  const { text } = decoded.value;
  const parsed = parseTable(text, detectDelimiter(text));
  if (!parsed.ok) return fail("VALIDATION_ERROR", `${table}, line ${parsed.error.line}: ${parsed.error.message}`);
  const [header, ...body] = parsed.value;
  const names = (header?.cells ?? []).map((cell) => cell.trim().toLowerCase());
  const missing = [...idColumns, "trait", "value"].filter((name) => !names.includes(name));
  if (missing.length > 0) {
    return fail(
      "VALIDATION_ERROR",
      `${table}: no column ${missing.join(", ")}; the header has ${names.join(", ") || "nothing"}`,
    );
  }
  const rows: DataRow[] = [];
  for (const { line, cells } of body) {
    const cell = (name: string) => (cells[names.indexOf(name)] ?? "").trim();
    const value = Number(cell("value"));
    const n = names.includes("n") ? Number(cell("n")) : 1;
    const ids = idColumns.map(cell);
    const where = `${table}, line ${line}`;
    if (ids.includes("") || cell("trait") === "") return fail("VALIDATION_ERROR", `${where}: a name is empty`);
    if (cell("value") === "" || !Number.isFinite(value)) {
      return fail("VALIDATION_ERROR", `${where}: value "${cell("value")}" is not a number`);
    }
    if (!(n > 0) || !Number.isFinite(n))
      return fail("VALIDATION_ERROR", `${where}: n "${cell("n")}" is not a number above 0`);
    rows.push({ table, line, ids, trait: cell("trait"), value, n });
  }
  return rows.length === 0 ? fail("VALIDATION_ERROR", `${table}: no rows`) : ok(rows);
}

/** The crosses to use: all, or a sample that the same file always yields. */
function drawCrosses(pairs: readonly string[][], max = Number.POSITIVE_INFINITY): Set<string> {
  const names = [...new Set(pairs.map(pairName))].sort();
  let state = 1;
  for (let i = names.length - 1; i > 0 && names.length > max; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = Math.floor((state / 2 ** 32) * (i + 1));
    [names[i], names[j]] = [names[j] ?? "", names[i] ?? ""];
  }
  return new Set(names.slice(0, Math.min(max, names.length)));
}
