import { and, asc, eq, sql } from "drizzle-orm";
import { type Actor, audit, auditIfChanged } from "../audit/entry.ts";
import { runBatch } from "../db/batch.ts";
import { createDb } from "../db/client.ts";
import { apiTokens, projects, users } from "../db/schema/index.ts";
import { me, type Principal } from "./principal.ts";

export type AuthRepository = ReturnType<typeof createAuthRepository>;

/** Reads are one statement, writes one batch; each asks whether the caller is still valid. */
export function createAuthRepository(binding: D1Database) {
  const db = createDb(binding);
  return {
    async byEmail(email: string) {
      return db.query.users.findFirst({ where: eq(users.email, email) });
    },

    /** The caller's own row and default project; undefined when the credential stands no more. */
    async caller(principal: Principal) {
      const caller = me(db, principal);
      const [row] = await db
        .with(caller)
        .select({ user: users, defaultProjectId: projects.id })
        .from(caller)
        .innerJoin(users, eq(users.id, caller.id))
        .leftJoin(projects, and(eq(projects.ownerId, caller.id), eq(projects.isDefault, true)))
        .limit(1);
      return row;
    },

    async isValid(principal: Principal): Promise<boolean> {
      const caller = me(db, principal);
      const rows = await db.with(caller).select({ id: caller.id }).from(caller);
      return rows.length > 0;
    },

    async noteLogin(actor: Actor, atMs: number): Promise<void> {
      await runBatch(binding, [audit(actor, { action: "login", target: { type: "user", id: actor.userId } }, atMs)]);
    },

    /** Sets the password and ends every access token; `oldHash` guards against a change in between. */
    async changePassword(
      actor: Actor,
      change: { oldHash: string; newHash: string; revokeApiTokens: boolean },
      atMs: number,
    ): Promise<{ tokenVersion: number } | undefined> {
      const { userId } = actor;
      const [changed] = await runBatch(binding, [
        db
          .update(users)
          .set({ passwordHash: change.newHash, tokenVersion: sql`${users.tokenVersion} + 1` })
          .where(and(eq(users.id, userId), eq(users.passwordHash, change.oldHash)))
          .returning({ tokenVersion: users.tokenVersion }),
        auditIfChanged(
          actor,
          {
            action: "password.change",
            target: { type: "user", id: userId },
            details: { api_tokens_revoked: change.revokeApiTokens },
          },
          atMs,
        ),
        ...(change.revokeApiTokens
          ? [
              sql`delete from ${apiTokens} where user_id = ${userId}
              and exists (select 1 from ${users} where id = ${userId} and password_hash = ${change.newHash})`,
            ]
          : []),
      ]);
      const tokenVersion = changed?.results[0]?.token_version;
      return tokenVersion === undefined ? undefined : { tokenVersion: Number(tokenVersion) };
    },

    /** Stores a token unless its owner has `max` already. */
    async addToken(
      actor: Actor,
      token: { name: string; hash: string; hint: string; expiresAt: number | null },
      max: number,
      atMs: number,
    ): Promise<number | undefined> {
      const { userId } = actor;
      const [added] = await runBatch(binding, [
        sql`insert into ${apiTokens} (user_id, name, token_hash, hint, created_at, expires_at)
          select ${userId}, ${token.name}, ${token.hash}, ${token.hint}, ${atMs}, ${token.expiresAt}
          where (select count(*) from ${apiTokens} where user_id = ${userId}) < ${max} returning id`,
        sql`insert into audit_log (at, actor_id, action, target_type, target_id, request_id)
          select ${atMs}, ${userId}, 'token.create', 'token', id, ${actor.requestId} from ${apiTokens}
          where token_hash = ${token.hash}`,
      ]);
      const id = added?.results[0]?.id;
      return id === undefined ? undefined : Number(id);
    },

    /** The caller's tokens, oldest first; no row at all means 401. */
    async tokens(principal: Principal) {
      const caller = me(db, principal);
      return db
        .with(caller)
        .select({ token: apiTokens })
        .from(caller)
        .leftJoin(apiTokens, eq(apiTokens.userId, caller.id))
        .orderBy(asc(apiTokens.id));
    },

    /** @returns whether there was such a token of this user */
    async removeToken(actor: Actor, tokenId: number, atMs: number): Promise<boolean> {
      const [removed] = await runBatch(binding, [
        db.delete(apiTokens).where(and(eq(apiTokens.id, tokenId), eq(apiTokens.userId, actor.userId))),
        auditIfChanged(actor, { action: "token.revoke", target: { type: "token", id: tokenId } }, atMs),
      ]);
      return (removed?.meta.changes ?? 0) > 0;
    },
  };
}
