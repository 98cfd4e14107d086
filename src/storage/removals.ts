import { asc, eq, type SQL, sql } from "drizzle-orm";
import { createDb } from "../db/client.ts";
import { removals } from "../db/schema/index.ts";
import { errorText, logger } from "../shared/logger.ts";

/** R2 lists and deletes this many keys at a time. */
const PAGE = 1_000;
const PREFIXES_A_RUN = 50;

/**
 * The statement that orders the removal of all objects below a prefix; it stands in the batch that removes their rows.
 * @param prefix ends in `/`, so that `jobs/1/` leaves `jobs/10/` alone
 * @param condition an order only where it holds
 */
export function noteRemoval(prefix: string, atMs: number, condition: SQL = sql`true`): SQL {
  if (!/^[^/].*\/$/.test(prefix)) throw new Error("a prefix to remove must end in a slash");
  return sql`insert into ${removals} (prefix, created_at) select ${prefix}, ${atMs} where ${condition}`;
}

/** Carries out an order. What is interrupted stays ordered and is done by the next run. */
export async function finishRemoval(binding: D1Database, bucket: R2Bucket, prefix: string): Promise<void> {
  for (;;) {
    // Always the first page: what was listed before is gone.
    const page = await bucket.list({ prefix, limit: PAGE });
    if (page.objects.length === 0) break;
    await bucket.delete(page.objects.map((object) => object.key));
  }
  await createDb(binding).delete(removals).where(eq(removals.prefix, prefix));
}

export type RemovalService = ReturnType<typeof createRemovalService>;

/** Removes objects whose rows are gone. What a run does not finish is there for the next one: nothing is forgotten. */
export function createRemovalService(deps: { binding: D1Database; bucket: R2Bucket }) {
  const { binding, bucket } = deps;
  return {
    /** Works through the oldest orders. Safe to call at any time, by several at once; never throws. */
    async run(): Promise<void> {
      try {
        const orders = await createDb(binding).select().from(removals).orderBy(asc(removals.id)).limit(PREFIXES_A_RUN);
        for (const { prefix } of orders) await finishRemoval(binding, bucket, prefix);
      } catch (thrown) {
        logger.warn("removal of objects not finished", { error: errorText(thrown) });
      }
    },
  };
}
