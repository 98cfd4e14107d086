/**
 * Refuses migrations that lose rows silently. D1 ignores `PRAGMA foreign_keys=OFF`, so a rebuilt table (create `__new_x`, copy,
 * drop `x`, rename) fires ON DELETE CASCADE and SET NULL on every table that refers to it, and the migration stays green.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./lib/wrangler.ts";

/** Files that were looked at and do drop or rebuild a table which nothing refers to. */
const LOOKED_AT: string[] = [];

/** What is wrong with the SQL of one migration, in words; empty when nothing is. Comments do not count. */
export function migrationProblems(sql: string): string[] {
  const code = sql.replace(/--.*$/gm, "").replace(/\/\*[\s\S]*?\*\//g, "");
  const problems: string[] = [];
  if (/\bDROP\s+TABLE\b/i.test(code)) problems.push("drops a table");
  if (/__new_/i.test(code)) problems.push("rebuilds a table");
  if (/\bON\s+DELETE\s+(CASCADE|SET\s+NULL|SET\s+DEFAULT)\b/i.test(code))
    problems.push("adds ON DELETE with an effect");
  return problems;
}

if (import.meta.main) {
  const folder = join(ROOT, "migrations");
  const refused = readdirSync(folder)
    .filter((name) => name.endsWith(".sql") && !LOOKED_AT.includes(name))
    .flatMap((name) =>
      migrationProblems(readFileSync(join(folder, name), "utf8")).map((problem) => `${name} ${problem}`),
    );
  for (const line of refused) console.error(`migrations: ${line}; see scripts/check-migrations.ts`);
  process.exitCode = refused.length > 0 ? 1 : 0;
}
