import { applyD1Migrations, reset } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterAll, describe, it } from "vitest";

type Column = { name: string; type: string; notnull: number; dflt_value: string | null; pk: number };

const tables = async (): Promise<string[]> => {
  const { results } = await env.DB.prepare(
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'd1_%' AND name NOT LIKE '_cf_%'",
  ).all<{ name: string }>();
  return results.map((row) => row.name);
};

const counts = async (names: string[]): Promise<Record<string, number>> => {
  const rows = await env.DB.batch<{ n: number }>(
    names.map((name) => env.DB.prepare(`SELECT count(*) AS n FROM "${name}"`)),
  );
  return Object.fromEntries(names.map((name, i) => [name, rows[i]?.results[0]?.n ?? -1]));
};

/** One row in every table; every key is 1 or "1", so that all references between them hold. */
async function fill(names: string[]): Promise<void> {
  const statements = [env.DB.prepare("PRAGMA defer_foreign_keys = on")];
  for (const name of names) {
    const { results } = await env.DB.prepare(`PRAGMA table_info("${name}")`).all<Column>();
    const values = results.map((column) => (/int|real|num/i.test(column.type) ? 1 : "1"));
    const columns = results.map((column) => `"${column.name}"`).join(", ");
    statements.push(
      env.DB.prepare(`INSERT INTO "${name}" (${columns}) VALUES (${values.map(() => "?").join(", ")})`).bind(...values),
    );
  }
  await env.DB.batch(statements);
}

describe("migrations", () => {
  afterAll(async () => {
    await reset();
    await applyD1Migrations(env.DB, env.TEST_MIGRATIONS);
  });

  it("keep every row of every table, from each earlier state of the schema to the newest", async ({ expect }) => {
    for (let applied = 1; applied <= env.TEST_MIGRATIONS.length; applied++) {
      await reset();
      await applyD1Migrations(env.DB, env.TEST_MIGRATIONS.slice(0, applied));
      const names = await tables();
      await fill(names);
      const before = await counts(names);
      expect(Object.values(before)).toEqual(names.map(() => 1));
      await applyD1Migrations(env.DB, env.TEST_MIGRATIONS);
      expect(await counts(names)).toEqual(before);
    }
  });

  it("have no foreign key that deletes or empties rows on its own", async ({ expect }) => {
    for (const name of await tables()) {
      const { results } = await env.DB.prepare(`PRAGMA foreign_key_list("${name}")`).all<{ on_delete: string }>();
      expect({ name, actions: results.map((key) => key.on_delete) }).toEqual({
        name,
        actions: results.map(() => "NO ACTION"),
      });
    }
  });
});
