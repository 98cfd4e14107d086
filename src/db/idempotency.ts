import { lt, type SQL, sql } from "drizzle-orm";
import { createDb } from "./client.ts";
import { idempotencyKeys } from "./schema/index.ts";

/** The rows behind `Idempotency-Key`: which key of which user has made what. */

/** How long a repetition is recognised. */
export const KEY_LIFE_MS = 24 * 3_600_000;

/** A key that came with a create, and the hash of what was to be created. */
export type IdempotencyKey = { key: string; requestHash: string };

/**
 * Notes in the batch of a create what the key has made. A key that is there already fails the whole batch.
 * @param resourceId the id of what was made, or `last_insert_rowid()` right behind its insert
 * @param made the condition under which it was made, when that is not certain
 */
export const rememberKey = (
  userId: number,
  { key, requestHash }: IdempotencyKey,
  resourceId: string | SQL,
  atMs: number,
  made: SQL = sql`true`,
): SQL[] => [
  sql`delete from ${idempotencyKeys} where user_id = ${userId} and key = ${key} and created_at <= ${atMs - KEY_LIFE_MS}`,
  sql`insert into ${idempotencyKeys} (user_id, key, request_hash, resource_id, created_at)
      select ${userId}, ${key}, ${requestHash}, ${resourceId}, ${atMs} where ${made}`,
];

/** Forgets the keys that are recognised no more. */
export async function sweepKeys(binding: D1Database, nowMs: number): Promise<void> {
  await createDb(binding)
    .delete(idempotencyKeys)
    .where(lt(idempotencyKeys.createdAt, nowMs - KEY_LIFE_MS));
}
