import { createMiddleware } from "hono/factory";
import type { AppEnv } from "../http/create-api.ts";
import { AppError } from "../shared/errors.ts";
import { readApiToken } from "./api-tokens.ts";
import type { Principal } from "./principal.ts";
import { readAccessToken } from "./tokens.ts";

/** The token of `Authorization: Bearer …`; other schemes, a bare token and two joined headers have none. */
export function bearerToken(header: string | undefined): string | null {
  return /^bearer +([\w.~+/=-]+)$/i.exec(header ?? "")?.[1] ?? null;
}

export const unauthorized = () => new AppError("UNAUTHORIZED", "A valid access token is required");

/** Who the header says is calling, with an access token or a personal API token; null for anything else. */
export async function principalOf(
  header: string | undefined,
  jwtSecret: string,
  nowMs: number,
): Promise<Principal | null> {
  const token = bearerToken(header);
  if (token === null) return null;
  return token.startsWith("cvp_") ? readApiToken(token, nowMs) : readAccessToken(jwtSecret, token);
}

/** Lets in callers with a credential in good form and puts them on the context; the statement that reads asks the rest. */
export const requireUser = createMiddleware<AppEnv>(async (c, next) => {
  const { config, now } = c.get("services");
  const principal = await principalOf(c.req.header("authorization"), config.jwtSecret, now());
  if (principal === null) throw unauthorized();
  c.set("principal", principal);
  await next();
});

/** Behind `requireUser`, for routes that read nothing from the database and so would never ask whether the user is valid. */
export const requireLiveUser = createMiddleware<AppEnv>(async (c, next) => {
  await c.get("services").auth.assertValid(c.get("principal"));
  await next();
});
