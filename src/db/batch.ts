import type { SQL } from "drizzle-orm";
import { SQLiteAsyncDialect } from "drizzle-orm/sqlite-core";

/** A statement that is text already: on the way of every callback there is no time to build one. */
export type TextStatement = { sql: string; params: unknown[] };

/** A statement written as SQL, or one made with drizzle's builder. */
export type Statement = SQL | TextStatement | { toSQL(): TextStatement };

const dialect = new SQLiteAsyncDialect();

const compile = (statement: Statement): TextStatement => {
  if ("params" in statement) return statement;
  return "toSQL" in statement ? statement.toSQL() : dialect.sqlToQuery(statement);
};

/**
 * Runs statements as one transaction in one round trip; a failing one rolls all of them back. drizzle's own `batch` takes
 * no raw SQL with parameters, and raw SQL is what `json_each` inserts and guarded writes are made of.
 * @returns the rows of each statement under their SQL names, in order
 */
export async function runBatch(
  binding: D1Database,
  statements: Statement[],
): Promise<D1Result<Record<string, unknown>>[]> {
  if (statements.length === 0) return [];
  return binding.batch<Record<string, unknown>>(
    statements.map((statement) => {
      const query = compile(statement);
      return binding.prepare(query.sql).bind(...query.params);
    }),
  );
}
