import type { Config } from "../config.ts";
import { AppError } from "../shared/errors.ts";
import { isoSeconds, isoSecondsOrNull } from "../shared/time.ts";
import { newApiToken } from "./api-tokens.ts";
import { unauthorized } from "./bearer.ts";
import { hashPassword, NO_PASSWORD, verifyPassword } from "./password.ts";
import type { Principal } from "./principal.ts";
import type { RateLimiter } from "./rate-limiter.ts";
import type { AuthRepository } from "./repository.ts";
import { ACCESS_TOKEN_LIFE_S, signAccessToken } from "./tokens.ts";

const WINDOW_MS = 15 * 60_000;
/** Failed tries from one address for one account; the account stays open to everybody else, its owner too. */
const MAX_FAILURES_PER_ACCOUNT = 10;
/** Failed tries from one address over all accounts. */
const MAX_FAILURES_PER_ADDRESS = 100;
const MAX_TOKENS = 50;
const DAY_MS = 86_400_000;

export type AuthService = ReturnType<typeof createAuthService>;

type Counter = { key: string; max: number };

export function createAuthService(deps: {
  people: AuthRepository;
  config: Config;
  limiters: DurableObjectNamespace<RateLimiter>;
  now: () => number;
}) {
  const { people, config, limiters, now } = deps;

  /**
   * Counts a try before any hashing, so that tries made at once are counted too, and takes it back when it was a good one.
   * @throws RATE_LIMITED with `Retry-After`
   */
  async function limited<T>(counters: Counter[], attempt: () => Promise<T | null>): Promise<T | null> {
    const stubs = counters.map(({ key, max }) => ({ limiter: limiters.getByName(key), max }));
    const windows = await Promise.all(stubs.map(({ limiter }) => limiter.hit(WINDOW_MS)));
    const full = windows.find((window, i) => window.count > (stubs[i]?.max ?? 0));
    if (full) {
      const retryAfterS = Math.max(1, Math.ceil((full.resetsAtMs - now()) / 1000));
      throw new AppError("RATE_LIMITED", "Too many failed logins; try again later", {
        headers: { "retry-after": String(retryAfterS) },
      });
    }
    const result = await attempt();
    if (result !== null) await Promise.all(stubs.map(({ limiter }) => limiter.forgive(WINDOW_MS)));
    return result;
  }

  const session = async (user: { id: number; email: string; fullName: string; tokenVersion: number }) => ({
    access_token: await signAccessToken(config.jwtSecret, { userId: user.id, tokenVersion: user.tokenVersion }, now()),
    token_type: "bearer" as const,
    expires_in: ACCESS_TOKEN_LIFE_S,
    user: { id: user.id, email: user.email, full_name: user.fullName },
  });

  /** The caller's own row. @throws UNAUTHORIZED */
  async function caller(principal: Principal) {
    const row = await people.caller(principal);
    if (row === undefined) throw unauthorized();
    return row;
  }

  /** A script's token never makes another credential: one that leaked could outlive its revocation. */
  function requireSession(principal: Principal): void {
    if (principal.apiToken !== undefined) throw new AppError("FORBIDDEN", "Log in to do this; an API token cannot");
  }

  return {
    /** Whether the user is there and not disabled, and the token not ended. */
    isValid: (principal: Principal): Promise<boolean> => people.isValid(principal),

    /** @throws UNAUTHORIZED when the user is gone or disabled, or the token was ended */
    async assertValid(principal: Principal): Promise<void> {
      if (!(await people.isValid(principal))) throw unauthorized();
    },

    /**
     * Checks e-mail and password and signs an access token. An unknown e-mail costs and answers the same as a wrong password.
     * @throws INVALID_CREDENTIALS · RATE_LIMITED with `Retry-After`
     */
    async login(input: { email: string; password: string; address: string; requestId: string }) {
      const counters = [
        { key: `login:${input.address}:${input.email}`, max: MAX_FAILURES_PER_ACCOUNT },
        { key: `login:${input.address}`, max: MAX_FAILURES_PER_ADDRESS },
      ];
      const user = await limited(counters, async () => {
        const found = await people.byEmail(input.email);
        const fits = await verifyPassword(input.password, found?.passwordHash ?? NO_PASSWORD);
        return found && fits && found.disabledAt === null ? found : null;
      });
      if (user === null) throw new AppError("INVALID_CREDENTIALS", "Incorrect email or password");
      await people.noteLogin({ userId: user.id, requestId: input.requestId }, now());
      return session(user);
    },

    async me(principal: Principal) {
      const { user, defaultProjectId } = await caller(principal);
      return {
        id: user.id,
        email: user.email,
        full_name: user.fullName,
        is_admin: user.isAdmin,
        default_project_id: defaultProjectId,
        credential: principal.apiToken === undefined ? ("access_token" as const) : ("api_token" as const),
        created_at: isoSeconds(user.createdAt),
      };
    },

    /**
     * Changes the password and ends every access token; the answer has a new one.
     * @throws UNAUTHORIZED · FORBIDDEN for an API token · VALIDATION_ERROR · RATE_LIMITED
     */
    async changePassword(
      principal: Principal,
      input: { current_password: string; new_password: string; revoke_api_tokens: boolean },
      requestId: string,
    ) {
      requireSession(principal);
      const { user } = await caller(principal);
      const refuse = (field: string, message: string) =>
        new AppError("VALIDATION_ERROR", `${field}: ${message}`, { field });
      if (input.new_password.toLowerCase() === user.email) {
        throw refuse("new_password", "must not be the e-mail address");
      }
      if (input.new_password === input.current_password) throw refuse("new_password", "must be another password");
      const fits = await limited([{ key: `password:${user.id}`, max: MAX_FAILURES_PER_ACCOUNT }], async () =>
        (await verifyPassword(input.current_password, user.passwordHash)) ? true : null,
      );
      if (fits === null) throw refuse("current_password", "is not the current password");
      const changed = await people.changePassword(
        { userId: user.id, requestId },
        {
          oldHash: user.passwordHash,
          newHash: await hashPassword(input.new_password),
          revokeApiTokens: input.revoke_api_tokens,
        },
        now(),
      );
      // Somebody else changed it between the check and the write.
      if (changed === undefined) throw unauthorized();
      return session({ ...user, tokenVersion: changed.tokenVersion });
    },

    /** Makes a personal API token; only this answer has it. @throws FORBIDDEN for an API token · QUOTA_EXCEEDED */
    async createToken(
      principal: Principal,
      input: { name: string; expires_in_days?: number | null },
      requestId: string,
    ) {
      requireSession(principal);
      await this.assertValid(principal);
      const made = await newApiToken(principal.userId);
      const at = now();
      const expiresAt = input.expires_in_days ? at + input.expires_in_days * DAY_MS : null;
      const actor = { userId: principal.userId, requestId };
      const id = await people.addToken(
        actor,
        { name: input.name, hash: made.hash, hint: made.hint, expiresAt },
        MAX_TOKENS,
        at,
      );
      if (id === undefined) throw new AppError("QUOTA_EXCEEDED", `A user has at most ${MAX_TOKENS} API tokens`);
      return {
        id,
        name: input.name,
        token: made.token,
        hint: made.hint,
        created_at: isoSeconds(at),
        expires_at: isoSecondsOrNull(expiresAt),
      };
    },

    async listTokens(principal: Principal) {
      const rows = await people.tokens(principal);
      if (rows.length === 0) throw unauthorized();
      return {
        tokens: rows.flatMap(({ token }) =>
          token === null
            ? []
            : [
                {
                  id: token.id,
                  name: token.name,
                  hint: token.hint,
                  created_at: isoSeconds(token.createdAt),
                  expires_at: isoSecondsOrNull(token.expiresAt),
                },
              ],
        ),
      };
    },

    /** @throws UNAUTHORIZED · NOT_FOUND for an unknown token and for someone else's */
    async revokeToken(principal: Principal, tokenId: number, requestId: string): Promise<void> {
      await this.assertValid(principal);
      if (!(await people.removeToken({ userId: principal.userId, requestId }, tokenId, now()))) {
        throw new AppError("NOT_FOUND", "Token not found");
      }
    },
  };
}
