import { sign, verify } from "hono/jwt";
import { z } from "zod";
import type { Principal } from "../../../auth/principal.ts";
import { newUuid } from "../../../shared/ids.ts";

/**
 * Tickets with which a browser opens one stream: an `EventSource` sends no headers, and a token has no place in a URL. A
 * ticket names its holder and its job, ends after a minute and is used up by its first use, which the job's object notes.
 */
export const TICKET_LIFE_S = 60;

const Claims = z.object({
  iss: z.literal("cultivar"),
  aud: z.literal("events"),
  jti: z.uuid(),
  job: z.number().int().positive(),
  sub: z.number().int().positive(),
  /** Of the credential that it was bought with. */
  ver: z.number().int().nullable(),
  tok: z.string().nullable(),
  until: z.number().nullable(),
  exp: z.number(),
});

export type Ticket = { id: string; expiresAtMs: number; principal: Principal };

/** @param nowMs the server's clock; the ticket ends `TICKET_LIFE_S` later */
export function signTicket(secret: string, jobId: number, principal: Principal, nowMs: number): Promise<string> {
  const iat = Math.floor(nowMs / 1000);
  const { userId, tokenVersion, apiToken } = principal;
  const claims: z.infer<typeof Claims> = {
    iss: "cultivar",
    aud: "events",
    jti: newUuid(),
    job: jobId,
    sub: userId,
    ver: tokenVersion,
    tok: apiToken?.hash ?? null,
    until: apiToken === undefined ? (principal.expiresAtMs ?? null) : null,
    exp: iat + TICKET_LIFE_S,
  };
  return sign({ ...claims, iat }, secret, "HS256");
}

/** The ticket, or null when it is forged, expired, or for another job. The library's error texts contain the token. */
export async function readTicket(secret: string, jobId: number, text: string, nowMs: number): Promise<Ticket | null> {
  const payload: unknown = await verify(text, secret, "HS256").catch(() => null);
  const claims = Claims.safeParse(payload);
  if (!claims.success || claims.data.job !== jobId) return null;
  const { jti, exp, sub, ver, tok, until } = claims.data;
  const ticket = { id: jti, expiresAtMs: exp * 1000 };
  if (tok !== null) {
    return { ...ticket, principal: { userId: sub, tokenVersion: null, apiToken: { hash: tok, atMs: nowMs } } };
  }
  if (ver === null) return null;
  return {
    ...ticket,
    principal: { userId: sub, tokenVersion: ver, ...(until === null ? {} : { expiresAtMs: until }) },
  };
}
