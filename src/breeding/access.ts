import { createMiddleware } from "hono/factory";
import { principalOf, unauthorized } from "../auth/bearer.ts";
import type { Principal } from "../auth/principal.ts";
import type { RateLimiter } from "../auth/rate-limiter.ts";
import type { AppEnv } from "../http/create-api.ts";
import type { Services } from "../services.ts";
import { AppError } from "../shared/errors.ts";
import { DEPRECATED_ROUTES, type DeprecatedRoute, deprecationHeaders } from "./deprecations.ts";
import { judge, type QuotaConfig, quotaOf, type Verdict, WINDOWS } from "./rate-limits.ts";

export type RequestCounter = ReturnType<typeof createRequestCounter>;

/** Counts requests of one client in objects of its own: nobody's flood slows another's counting. */
export function createRequestCounter(deps: {
  limiters: DurableObjectNamespace<RateLimiter>;
  quotas: QuotaConfig;
  now: () => number;
}) {
  return {
    /** Counts one request. A refused one counts too. @param userId null: the client is only an address */
    async count(userId: number | null, address: string): Promise<Verdict> {
      const quota = quotaOf(deps.quotas, userId);
      const client = userId === null ? `address:${address}` : `user:${userId}`;
      const counted = await Promise.all(
        WINDOWS.map(async ({ name, lengthMs, limitOf }) => {
          const window = await deps.limiters.getByName(`breeding:${name}:${client}`).hit(lengthMs);
          return { limit: limitOf(quota), lengthMs, ...window };
        }),
      );
      return judge(counted, deps.now());
    },
  };
}

/**
 * Who calls, known surely enough to count his requests. An access token proves that by its signature; a personal API token
 * names its owner in clear text, so it is looked up first: otherwise an invented one would use up his quota.
 */
async function knownCaller({ config, auth, now }: Services, header: string | undefined): Promise<Principal | null> {
  const principal = await principalOf(header, config.jwtSecret, now());
  if (principal?.apiToken === undefined) return principal;
  return (await auth.isValid(principal)) ? principal : null;
}

/** Phase 2 of the contract: a token for every call, and a limited number of calls per user, without a token per address. */
export const phaseGuard = createMiddleware<AppEnv>(async (c, next) => {
  const services = c.get("services");
  const { config, breeding } = services;
  if (config.breedingPhase === 1) return next();
  const principal = await knownCaller(services, c.req.header("authorization"));
  // Only the platform sets this header for a deployed Worker; a caller cannot.
  const address = c.req.header("cf-connecting-ip") ?? "local";
  const { allowed, headers } = await breeding.requests.count(principal?.userId ?? null, address);
  for (const [name, value] of Object.entries(headers)) c.header(name, value);
  if (!allowed) throw new AppError("RATE_LIMITED", "요청이 너무 많습니다. 잠시 후 다시 시도하세요");
  if (principal === null) throw unauthorized();
  c.set("principal", principal);
  await next();
});

/** Announces deprecated routes on each of their answers, errors too. */
export const announceDeprecations = (routes: readonly DeprecatedRoute[] = DEPRECATED_ROUTES) =>
  createMiddleware<AppEnv>(async (c, next) => {
    for (const [name, value] of Object.entries(deprecationHeaders(routes, c.req))) c.header(name, value);
    await next();
  });
