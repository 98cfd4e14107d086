import { type SQL, sql } from "drizzle-orm";
import { idempotencyKeys } from "../../db/schema/index.ts";
import { AppError } from "../../shared/errors.ts";
import { sha256Hex } from "../../shared/ids.ts";

/** How long a repetition is recognised. */
export const KEY_LIFE_MS = 24 * 3_600_000;

/** A key that came with a create, and the hash of what was to be created. */
export type IdempotencyKey = { key: string; requestHash: string };

/** @param operation the operation's id: the same key for another operation is another request */
export async function idempotencyKey(key: string | undefined, operation: string, input: unknown) {
  return key === undefined ? null : { key, requestHash: await sha256Hex(`${operation}\\n${JSON.stringify(input)}`) };
}

/** Behind an insert, in its batch: notes what the key has made. A key that is there already fails the whole batch. */
export const rememberKey = (userId: number, { key, requestHash }: IdempotencyKey, atMs: number): SQL[] => [
  sql`insert into ${idempotencyKeys} (user_id, key, request_hash, resource_id, created_at)
      values (${userId}, ${key}, ${requestHash}, last_insert_rowid(), ${atMs})`,
  sql`delete from ${idempotencyKeys} where created_at < ${atMs - KEY_LIFE_MS}`,
];

/** @throws VALIDATION_ERROR when the key was used for something else */
export function assertSameRequest(stored: { requestHash: string }, given: IdempotencyKey): void {
  if (stored.requestHash !== given.requestHash) {
    throw new AppError("VALIDATION_ERROR", "Idempotency-Key: was used for another request", {
      field: "Idempotency-Key",
    });
  }
}
