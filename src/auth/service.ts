import { eq } from "drizzle-orm";
import type { Config } from "../config.ts";
import type { Db } from "../db/client.ts";
import { users } from "../db/schema/index.ts";
import { AppError } from "../shared/errors.ts";
import { NO_PASSWORD, verifyPassword } from "./password.ts";
import type { RateLimiter } from "./rate-limiter.ts";
import { ACCESS_TOKEN_LIFE_S, signAccessToken } from "./tokens.ts";

const LOGIN_WINDOW_MS = 15 * 60_000;
/** Failed tries from one address for one account; the account stays open to everybody else, its owner too. */
const MAX_FAILURES_PER_ACCOUNT = 10;
/** Failed tries from one address over all accounts. */
const MAX_FAILURES_PER_ADDRESS = 100;

export type AuthService = ReturnType<typeof createAuthService>;

export function createAuthService(deps: {
  db: Db;
  config: Config;
  limiters: DurableObjectNamespace<RateLimiter>;
  now: () => number;
}) {
  const { db, config, limiters, now } = deps;

  return {
    /**
     * Checks e-mail and password and signs an access token. An unknown e-mail costs and answers the same as a wrong password.
     * @throws INVALID_CREDENTIALS · RATE_LIMITED with `Retry-After`
     */
    async login(input: { email: string; password: string; address: string }) {
      const windows = [
        { limiter: limiters.getByName(`login:${input.address}:${input.email}`), max: MAX_FAILURES_PER_ACCOUNT },
        { limiter: limiters.getByName(`login:${input.address}`), max: MAX_FAILURES_PER_ADDRESS },
      ];
      const [user, ...states] = await Promise.all([
        db.query.users.findFirst({ where: eq(users.email, input.email) }),
        ...windows.map(({ limiter }) => limiter.peek(LOGIN_WINDOW_MS)),
      ]);
      const full = states.find((state, i) => state.count >= (windows[i]?.max ?? 0));
      if (full) {
        const retryAfterS = Math.max(1, Math.ceil((full.resetsAtMs - now()) / 1000));
        throw new AppError("RATE_LIMITED", "Too many failed logins; try again later", {
          headers: { "retry-after": String(retryAfterS) },
        });
      }
      const fits = await verifyPassword(input.password, user?.passwordHash ?? NO_PASSWORD);
      if (!user || !fits || user.disabledAt !== null) {
        await Promise.all(windows.map(({ limiter }) => limiter.hit(LOGIN_WINDOW_MS)));
        throw new AppError("INVALID_CREDENTIALS", "Incorrect email or password");
      }
      return {
        access_token: await signAccessToken(
          config.jwtSecret,
          { userId: user.id, tokenVersion: user.tokenVersion },
          now(),
        ),
        token_type: "bearer" as const,
        expires_in: ACCESS_TOKEN_LIFE_S,
        user: { id: user.id, email: user.email, full_name: user.fullName },
      };
    },
  };
}
