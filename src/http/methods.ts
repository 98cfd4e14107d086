import type { OpenAPIHono } from "@hono/zod-openapi";
import { createMiddleware } from "hono/factory";
import { matchedRoutes } from "hono/route";
import { AppError } from "../shared/errors.ts";
import type { AppEnv } from "./create-api.ts";

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"] as const;
/** How the router marks a middleware. */
const ANY = "ALL";

/**
 * Answers 405 with `Allow` for a path that exists under other methods only; a path that exists under none goes on to the
 * guards and to not-found. `HEAD` counts as `GET`.
 * @param app the root, which knows every route once it is composed
 */
export const refuseOtherMethods = (app: OpenAPIHono<AppEnv>) =>
  createMiddleware<AppEnv>(async (c, next) => {
    if (!matchedRoutes(c).some((route) => route.method !== ANY)) {
      const allowed = METHODS.filter((method) =>
        app.router.match(method, c.req.path)[0].some(([[, route]]) => route.method !== ANY),
      ).flatMap((method) => (method === "GET" ? ["GET", "HEAD"] : [method]));
      if (allowed.length > 0) {
        throw new AppError("METHOD_NOT_ALLOWED", `${c.req.method} is not allowed here`, {
          headers: { allow: allowed.join(", ") },
        });
      }
    }
    await next();
  });
