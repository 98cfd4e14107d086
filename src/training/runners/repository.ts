import { and, asc, eq, gt, inArray, isNull, or, sql } from "drizzle-orm";
import { type Actor, audit, auditIfChanged } from "../../audit/entry.ts";
import { me, type Principal } from "../../auth/principal.ts";
import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { registrationTokens, runners, trainingJobs } from "../../db/schema/index.ts";

/** Longer than a runner may still be leaving, or sending its tail, after the end of its job. */
const LEAVING_MS = 3_600_000;

export type RunnerRepository = ReturnType<typeof createRunnerRepository>;

export function createRunnerRepository(binding: D1Database) {
  const db = createDb(binding);
  return {
    async caller(principal: Principal) {
      const caller = me(db, principal);
      const [row] = await db.with(caller).select({ id: caller.id, isAdmin: caller.isAdmin }).from(caller);
      return row;
    },

    async addRegistrationToken(actor: Actor, row: typeof registrationTokens.$inferInsert) {
      const { expiresAt, pool, tokenHash, usesLeft } = row;
      const details = { pool, uses: usesLeft, expires_at: expiresAt };
      const target = { type: "token", id: tokenHash.slice(0, 12) } as const;
      await runBatch(binding, [
        db.insert(registrationTokens).values(row),
        audit(actor, { action: "registration_token.create", target, details }, row.createdAt),
      ]);
    },

    /** All runners that are not revoked, and which jobs are running on them. */
    async list() {
      const [rows, busy] = await Promise.all([
        db.select().from(runners).where(isNull(runners.revokedAt)).orderBy(asc(runners.name), asc(runners.id)),
        db
          .select({ id: trainingJobs.id, runnerId: trainingJobs.runnerId })
          .from(trainingJobs)
          .where(eq(trainingJobs.status, "running")),
      ]);
      return { rows, busy };
    },

    /** @returns false when there is no such runner, or it is revoked */
    async drain(actor: Actor, runnerId: string, now: number): Promise<boolean> {
      const [changed] = await runBatch(binding, [
        db
          .update(runners)
          .set({ drain: true })
          .where(and(eq(runners.id, runnerId), isNull(runners.revokedAt)))
          .returning({ id: runners.id }),
        auditIfChanged(actor, { action: "runner.drain", target: { type: "runner", id: runnerId } }, now),
      ]);
      return changed?.results.length === 1;
    },

    /** Ends the token at once. @returns the jobs that the runner may hold; undefined when there is no such runner */
    async revoke(actor: Actor, runnerId: string, now: number): Promise<number[] | undefined> {
      const [changed, , held] = await runBatch(binding, [
        db
          .update(runners)
          .set({ revokedAt: now })
          .where(and(eq(runners.id, runnerId), isNull(runners.revokedAt)))
          .returning({ id: runners.id }),
        auditIfChanged(actor, { action: "runner.revoke", target: { type: "runner", id: runnerId } }, now),
        db
          .select({ id: trainingJobs.id })
          .from(trainingJobs)
          .where(
            and(
              eq(trainingJobs.runnerId, runnerId),
              or(
                eq(trainingJobs.status, "running"),
                and(
                  inArray(trainingJobs.status, ["completed", "failed", "stopped"]),
                  gt(trainingJobs.updatedAt, now - LEAVING_MS),
                ),
              ),
            ),
          ),
      ]);
      return changed?.results.length === 1 ? (held?.results.map((row) => Number(row.id)) ?? []) : undefined;
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
