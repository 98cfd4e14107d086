import { createMiddleware } from "hono/factory";
import type { AppEnv } from "../http/create-api.ts";
import { AppError } from "../shared/errors.ts";
import { readAccessToken } from "./tokens.ts";

/** The token of `Authorization: Bearer …`; other schemes, a bare token and two joined headers have none. */
export function bearerToken(header: string | undefined): string | null {
  return /^bearer +([\w.~+/=-]+)$/i.exec(header ?? "")?.[1] ?? null;
}

export const unauthorized = () => new AppError("UNAUTHORIZED", "A valid access token is required");

/** Lets in callers with a good access token and puts them on the context. Answers behind it are never cached. */
export const requireUser = createMiddleware<AppEnv>(async (c, next) => {
  const token = bearerToken(c.req.header("authorization"));
  const principal = token === null ? null : await readAccessToken(c.get("services").config.jwtSecret, token);
  if (principal === null) throw unauthorized();
  c.set("principal", principal);
  await next();
});
