import { z } from "@hono/zod-openapi";
import { and, eq, gt } from "drizzle-orm";
import { unauthorized } from "../auth/bearer.ts";
import { me, type Principal } from "../auth/principal.ts";
import { createDb } from "../db/client.ts";
import { type IdempotencyKey, KEY_LIFE_MS } from "../db/idempotency.ts";
import { idempotencyKeys } from "../db/schema/index.ts";
import { AppError } from "../shared/errors.ts";
import { sha256Hex } from "../shared/ids.ts";

/**
 * Creates that can be repeated: a client that lost the answer sends the same request with the same `Idempotency-Key` again
 * and gets what the first one made.
 */

const HEADER = "Idempotency-Key";

/** The header of every route that creates something. */
export const keyHeader = z.object({
  "idempotency-key": z
    .string()
    .regex(/^[\x21-\x7e]{1,200}$/, "must be 1 to 200 printable characters")
    .optional()
    .openapi({
      description:
        "The same key with the same body within a day makes nothing more and answers what the first one made",
    }),
});

/** @param operation the operation's id: the same key for another operation is another request */
export async function idempotencyKey(
  key: string | undefined,
  operation: string,
  input: unknown,
): Promise<IdempotencyKey | null> {
  return key === undefined ? null : { key, requestHash: await sha256Hex(`${operation}\n${JSON.stringify(input)}`) };
}

/**
 * Makes something once for each key.
 * @param make stores it, with `rememberKey` in the same batch
 * @param again answers what an earlier request with this key made, by its id
 * @throws UNAUTHORIZED · VALIDATION_ERROR when the key was used for another request, and what the two throw
 */
export async function createOnce<T>(
  deps: { binding: D1Database; now: () => number },
  principal: Principal,
  key: IdempotencyKey | null,
  make: () => Promise<T>,
  again: (resourceId: string) => Promise<T>,
): Promise<T> {
  if (key === null) return make();
  const before = await madeBy(deps.binding, principal, key, deps.now());
  if (before !== null) return again(before);
  try {
    return await make();
  } catch (thrown) {
    // The same request came twice at once, and the other one was faster.
    const first = await madeBy(deps.binding, principal, key, deps.now());
    if (first !== null) return again(first);
    throw thrown;
  }
}

/** The id of what a key has made, null when it is new. */
async function madeBy(binding: D1Database, principal: Principal, given: IdempotencyKey, nowMs: number) {
  const db = createDb(binding);
  const caller = me(db, principal);
  const [row] = await db
    .with(caller)
    .select({ requestHash: idempotencyKeys.requestHash, resourceId: idempotencyKeys.resourceId })
    .from(caller)
    .leftJoin(
      idempotencyKeys,
      and(
        eq(idempotencyKeys.userId, caller.id),
        eq(idempotencyKeys.key, given.key),
        gt(idempotencyKeys.createdAt, nowMs - KEY_LIFE_MS),
      ),
    )
    .limit(1);
  if (row === undefined) throw unauthorized();
  if (row.requestHash === null) return null;
  if (row.requestHash !== given.requestHash) {
    throw new AppError("VALIDATION_ERROR", `${HEADER}: was used for another request`, { field: HEADER });
  }
  return row.resourceId;
}
