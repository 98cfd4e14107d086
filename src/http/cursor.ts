import type { z } from "zod";
import { AppError } from "../shared/errors.ts";

/**
 * Cursors are opaque to callers: the kind of list and a position in it. They hold nothing secret and grant nothing, since
 * every page asks for access anew; one of another list, or an edited one, is refused.
 */
export const writeCursor = (kind: string, position: (number | string)[]): string =>
  btoa(JSON.stringify([kind, ...position]))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");

/** @throws VALIDATION_ERROR */
export function readCursor<T extends z.ZodType>(text: string, kind: string, schema: T, field = "before"): z.infer<T> {
  const refuse = () => new AppError("VALIDATION_ERROR", `${field}: not a cursor of this list`, { field });
  let value: unknown;
  try {
    value = JSON.parse(atob(text.replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    throw refuse();
  }
  if (!Array.isArray(value) || value[0] !== kind) throw refuse();
  const parsed = schema.safeParse(value.slice(1));
  if (!parsed.success) throw refuse();
  return parsed.data;
}
