import { getTableColumns } from "drizzle-orm";
import type { SQLiteTable } from "drizzle-orm/sqlite-core";

type Key<T extends SQLiteTable> = keyof T["$inferSelect"] & string;

/**
 * Columns of a table in a fixed order, for statements whose text is made once: their names in SQL, the values of a row as D1
 * takes them, and the row that D1 gave in this order. The table's definition converts (JSON, booleans) in both directions.
 * @param keys all columns when absent
 */
export function columnsOf<T extends SQLiteTable, K extends Key<T> = Key<T>>(table: T, keys?: readonly K[]) {
  const all = getTableColumns(table);
  const columns = Object.entries(all).filter(([key]) => keys === undefined || keys.some((wanted) => wanted === key));
  return {
    names: columns.map(([, column]) => column.name),
    values: (row: Pick<T["$inferSelect"], K>): unknown[] => {
      const byKey = new Map<string, unknown>(Object.entries(row));
      return columns.map(([key, column]) => {
        const value = byKey.get(key) ?? null;
        return value === null ? null : column.mapToDriverValue(value);
      });
    },
    /** Values may be followed by others. */
    read: (values: unknown[]): Pick<T["$inferSelect"], K> => {
      const row: Record<string, unknown> = {};
      for (const [i, [key, column]] of columns.entries()) {
        const value = values[i] ?? null;
        row[key] = value === null ? null : column.mapFromDriverValue(value);
      }
      // The same keys and conversions as drizzle's own, which the type of the table describes.
      return row as Pick<T["$inferSelect"], K>;
    },
  };
}
