import { randomHex, sha256Hex } from "../shared/ids.ts";
import type { Principal } from "./principal.ts";

/**
 * Personal API tokens: `cvp_`, the owner's id (12 hex digits) and 160 random bits. The id tells whose rows a statement is
 * about before the token is looked up in that same statement; only the hash of the whole is stored.
 */
const PATTERN = /^cvp_([0-9a-f]{12})[0-9a-f]{40}$/;
const HINT_LENGTH = 4;

export type NewApiToken = { token: string; hash: string; hint: string };

export async function newApiToken(userId: number): Promise<NewApiToken> {
  const token = `cvp_${userId.toString(16).padStart(12, "0")}${randomHex(20)}`;
  return { token, hash: await sha256Hex(token), hint: token.slice(-HINT_LENGTH) };
}

/** The caller that a text names if it is a token; null when it cannot be one. */
export async function readApiToken(text: string, nowMs: number): Promise<Principal | null> {
  const id = PATTERN.exec(text)?.[1];
  if (id === undefined) return null;
  const userId = Number.parseInt(id, 16);
  return userId === 0 ? null : { userId, tokenVersion: null, apiToken: { hash: await sha256Hex(text), atMs: nowMs } };
}
