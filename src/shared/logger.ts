/** One JSON line per event; Workers observability indexes its fields. Callers pass no secrets and no bodies. */
type Fields = Record<string, string | number | boolean | null | undefined>;

const write = (level: "info" | "warn" | "error", message: string, fields: Fields) =>
  console[level](JSON.stringify({ level, message, ...fields }));

export const logger = {
  info: (message: string, fields: Fields = {}) => write("info", message, fields),
  warn: (message: string, fields: Fields = {}) => write("warn", message, fields),
  error: (message: string, fields: Fields = {}) => write("error", message, fields),
};

/** The text of anything thrown. */
export const errorText = (thrown: unknown): string => (thrown instanceof Error ? thrown.message : String(thrown));
