import { sha256Hex } from "../../src/shared/ids.ts";
import { literal } from "./people.ts";

export type NewRegistrationToken = { token: string; pool: string; uses: number; expiresAtMs: number };

/**
 * SQL that stores a registration token, hashed, and the audit row of it. It has no creator: whoever can write to the database
 * directly is no user of the platform.
 */
export async function registrationTokenSql(made: NewRegistrationToken, nowMs: number): Promise<string> {
  const { token, pool, uses, expiresAtMs } = made;
  const hash = await sha256Hex(token);
  const details = JSON.stringify({ pool, uses, expires_at: expiresAtMs, by: "npm run runner-token" });
  return `
    INSERT INTO registration_tokens (token_hash, pool, uses_left, expires_at, created_by, created_at)
      VALUES (${literal(hash)}, ${literal(pool)}, ${uses}, ${expiresAtMs}, NULL, ${nowMs});
    INSERT INTO audit_log (at, actor_id, action, target_type, target_id, request_id, details)
      VALUES (${nowMs}, NULL, 'registration_token.create', 'token', ${literal(hash.slice(0, 12))}, NULL, ${literal(details)});`;
}
