/**
 * Loads a file of strains: `npm run strains -- import FILE.csv`. Rows that are in order are stored, the others are listed with
 * their line. Exit code 0 when every row was stored, 1 when some were not or the file cannot be read, 2 for bad arguments.
 */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { sql } from "drizzle-orm";
import { SQLiteAsyncDialect } from "drizzle-orm/sqlite-core";
import { BREEDING_LIMITS } from "../src/breeding/limits.ts";
import { refitOnRead } from "../src/breeding/model/state.ts";
import { MAX_NAME_LENGTH, readStrainCsv, type StrainRecord } from "../src/breeding/strains/csv.ts";
import { toJsonRow } from "../src/breeding/strains/record.ts";
import { upsertStrains } from "../src/breeding/strains/repository.ts";
import type { ImportIssue } from "../src/breeding/trait-table.ts";
import { applyMigrations, DATABASE, persistArgs, runWrangler } from "./lib/wrangler.ts";

const USAGE = `usage: npm run strains -- import FILE.csv [--allow-missing] [--dry-run] [--source TEXT] [--persist-to DIR | --remote]
  --allow-missing   accept rows without some of the values
  --dry-run         only say what would be stored and what not
  --source TEXT     where the data come from (default: the name of the file)`;

class UsageError extends Error {}

/** D1 takes 100 KB of SQL in one statement, the operating system 128 KiB in one argument. */
const MAX_STATEMENT_BYTES = 80_000;

function readArguments() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      "allow-missing": { type: "boolean", default: false },
      "dry-run": { type: "boolean", default: false },
      source: { type: "string" },
      "persist-to": { type: "string" },
      remote: { type: "boolean", default: false },
    },
  });
  const [command, file, ...more] = positionals;
  if (command !== "import" || file === undefined || more.length > 0)
    throw new UsageError("the only command is `import FILE.csv`");
  if (values.remote && values["persist-to"]) throw new UsageError("--remote and --persist-to exclude each other");
  const source = (values.source ?? basename(file)).slice(0, MAX_NAME_LENGTH);
  return {
    file,
    source,
    allowMissing: values["allow-missing"],
    dryRun: values["dry-run"],
    persistTo: values["persist-to"],
    remote: values.remote,
  };
}

/** Strains in groups whose SQL fits into one statement. */
function groups(strains: readonly StrainRecord[]): StrainRecord[][] {
  const out: StrainRecord[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const strain of strains) {
    const size = Buffer.byteLength(JSON.stringify(toJsonRow(strain))) + 1;
    if (bytes + size > MAX_STATEMENT_BYTES) {
      out.push([]);
      bytes = 0;
    }
    out.at(-1)?.push(strain);
    bytes += size;
  }
  return out;
}

const dialect = new SQLiteAsyncDialect();

/** One command: the strains, and the mark that makes the next prediction fit them. */
function statementsFor(strains: readonly StrainRecord[], source: string, now: number): string {
  const upsert = upsertStrains({
    rows: JSON.stringify(strains.map(toJsonRow)),
    source,
    isSample: false,
    now,
    me: sql`select 0 as id, 1 as is_admin`,
    onKnown: "update",
  });
  return [upsert, refitOnRead()].map((query) => dialect.sqlToQuery(query.inlineParams()).sql.trim()).join(";\n");
}

/** How many rows the first statement of a command returned. */
function rowsOf(output: string): number {
  const parsed: unknown = JSON.parse(output.slice(output.indexOf("[")));
  const [first] = Array.isArray(parsed) ? (parsed as unknown[]) : [];
  const results: unknown = typeof first === "object" && first !== null ? Reflect.get(first, "results") : null;
  if (!Array.isArray(results)) throw new Error(`wrangler answered without results:\n${output}`);
  return results.length;
}

const describe = (kind: string, { line, column, message }: ImportIssue) =>
  `${kind} line ${line}${column ? `, ${column}` : ""}: ${message}`;

async function main(): Promise<number> {
  const options = readArguments();
  const bytes = readFileSync(options.file);
  const report = readStrainCsv(bytes, { allowMissing: options.allowMissing });
  for (const warning of report.warnings) console.log(describe("warning", warning));
  for (const refusal of report.refused) console.error(describe("refused", refusal));
  const strains = report.accepted.map(({ strain }) => strain);
  const summary = `${strains.length} of ${report.total} rows${report.encoding ? ` (${report.encoding})` : ""}`;
  if (strains.length > BREEDING_LIMITS.strains)
    throw new Error(`at most ${BREEDING_LIMITS.strains} strains have room; nothing was stored`);
  if (options.dryRun || strains.length === 0) {
    console.log(`${summary} ${options.dryRun ? "would be stored" : "stored"}`);
    return report.refused.length > 0 ? 1 : 0;
  }
  if (!options.remote) await applyMigrations(options.persistTo);
  const target = options.remote ? ["--remote", "--env", "production"] : ["--local", ...persistArgs(options.persistTo)];
  for (const group of groups(strains)) {
    const command = statementsFor(group, options.source, Date.now());
    const output = await runWrangler(["d1", "execute", DATABASE, "--yes", "--json", ...target, "--command", command]);
    if (rowsOf(output) !== group.length)
      throw new Error(`at most ${BREEDING_LIMITS.strains} strains have room; the last ${group.length} were not stored`);
  }
  console.log(`${summary} stored; the next prediction fits them`);
  return report.refused.length > 0 ? 1 : 0;
}

try {
  process.exitCode = await main();
} catch (thrown) {
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  const isUsage = thrown instanceof UsageError || text.includes("Unknown option");
  console.error(isUsage ? `strains: ${text}\n${USAGE}` : `strains: ${text}`);
  process.exitCode = isUsage ? 2 : 1;
}
