import { and, eq, isNull, type SQL, sql } from "drizzle-orm";
import type { Db } from "../db/client.ts";
import { apiTokens, users } from "../db/schema/index.ts";

/**
 * Who a credential says is calling: an access token, whose signature was checked, or a personal API token, which was not
 * looked up yet. Whether the user and the token still are valid is asked together with the data, see `me`.
 * `expiresAtMs` is when an access token that was read ends by itself.
 */
export type Principal = { userId: number } & (
  | { tokenVersion: number; apiToken?: undefined; expiresAtMs?: number }
  | { tokenVersion: null; apiToken: { hash: string; atMs: number } }
);

/** Whether the row of `users` at hand is the caller and the credential still stands. */
export function isValidCaller(principal: Principal): SQL {
  const { userId, tokenVersion, apiToken } = principal;
  const stands =
    apiToken === undefined
      ? sql`${users.tokenVersion} = ${tokenVersion}`
      : sql`exists (select 1 from ${apiTokens} where ${apiTokens.tokenHash} = ${apiToken.hash}
          and ${apiTokens.userId} = ${users.id} and (${apiTokens.expiresAt} is null or ${apiTokens.expiresAt} > ${apiToken.atMs}))`;
  return sql`${and(eq(users.id, userId), isNull(users.disabledAt))} and ${stands}`;
}

/**
 * The caller as a common table expression of one row, or of none when the user is gone, disabled or has ended the token.
 * A query selects `from(me)` and left-joins what it wants: no row at all means 401, a row without the data means 404.
 */
export const me = (db: Db, principal: Principal) =>
  db.$with("me").as(db.select({ id: users.id, isAdmin: users.isAdmin }).from(users).where(isValidCaller(principal)));

/** The kinds of credential, each with a text of its own. */
export type CredentialKind = "accessToken" | "apiToken";

/**
 * The same as `me`, as text with the parameters ?1 to ?3, for statements that are asked so often that there is no time to
 * build them.
 */
export const CALLER: Record<CredentialKind, string> = {
  accessToken: `select id, is_admin from users
    where id = ?1 and disabled_at is null and token_version = ?2 and ?3 is null`,
  apiToken: `select id, is_admin from users
    where id = ?1 and disabled_at is null and exists (select 1 from api_tokens t where t.token_hash = ?2
      and t.user_id = users.id and (t.expires_at is null or t.expires_at > ?3))`,
};

/** Which text, and its three parameters. */
export function credentialOf({ userId, tokenVersion, apiToken }: Principal): {
  credential: CredentialKind;
  params: [number, number | string | null, number | null];
} {
  return apiToken === undefined
    ? { credential: "accessToken", params: [userId, tokenVersion, null] }
    : { credential: "apiToken", params: [userId, apiToken.hash, apiToken.atMs] };
}
