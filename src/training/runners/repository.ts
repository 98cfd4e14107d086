import { and, eq, gt, isNull, sql } from "drizzle-orm";
import { me, type Principal } from "../../auth/principal.ts";
import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { registrationTokens, runners } from "../../db/schema/index.ts";

export type RunnerRepository = ReturnType<typeof createRunnerRepository>;

export function createRunnerRepository(binding: D1Database) {
  const db = createDb(binding);
  return {
    async caller(principal: Principal) {
      const caller = me(db, principal);
      const [row] = await db.with(caller).select({ id: caller.id, isAdmin: caller.isAdmin }).from(caller);
      return row;
    },

    async addRegistrationToken(row: typeof registrationTokens.$inferInsert) {
      await db.insert(registrationTokens).values(row);
    },

    /**
     * Spends one use of a registration token and stores the runner, in one batch. The same machine keeps its id and gets
     * the new token. Undefined: the token is unknown, used up or over.
     */
    async register(tokenHash: string, runner: typeof runners.$inferInsert, now: number) {
      const [spent, stored] = await runBatch(binding, [
        db
          .update(registrationTokens)
          .set({ usesLeft: sql`${registrationTokens.usesLeft} - 1` })
          .where(
            and(
              eq(registrationTokens.tokenHash, tokenHash),
              eq(registrationTokens.pool, runner.pool),
              gt(registrationTokens.usesLeft, 0),
              gt(registrationTokens.expiresAt, now),
            ),
          )
          .returning({ pool: registrationTokens.pool }),
        // changes() is that of the update: no row is stored when no use was spent.
        sql`
          insert into runners (id, machine_id, pool, name, os, gpus, frameworks, labels, slots, version, token_hash, drain,
            registered_at, revoked_at)
          select ${runner.id}, ${runner.machineId}, ${runner.pool}, ${runner.name}, ${runner.os ?? null},
            ${JSON.stringify(runner.gpus)}, ${JSON.stringify(runner.frameworks)}, ${JSON.stringify(runner.labels)},
            ${runner.slots}, ${runner.version ?? null}, ${runner.tokenHash}, 0, ${now}, null
          where changes() = 1
          on conflict (machine_id) do update set pool = excluded.pool, name = excluded.name, os = excluded.os,
            gpus = excluded.gpus, frameworks = excluded.frameworks, labels = excluded.labels, slots = excluded.slots,
            version = excluded.version, token_hash = excluded.token_hash, drain = 0,
            registered_at = excluded.registered_at, revoked_at = null
          returning id`,
      ]);
      const id = stored?.results[0]?.id;
      return spent?.results.length === 1 && typeof id === "string" ? id : undefined;
    },

    /** The runner that a token belongs to. */
    async byTokenHash(tokenHash: string) {
      return db.query.runners.findFirst({ where: and(eq(runners.tokenHash, tokenHash), isNull(runners.revokedAt)) });
    },
  };
}
