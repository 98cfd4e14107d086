/** How many requests a client may make in phase 2, and what its answers say about it. Pure. */
import { z } from "zod";

const QuotaSchema = z.object({
  per15Minutes: z.number().int().min(1).max(1_000_000),
  perHour: z.number().int().min(1).max(1_000_000),
});

export type Quota = z.infer<typeof QuotaSchema>;

/** The contract's numbers. */
export const DEFAULT_QUOTA: Quota = { per15Minutes: 100, perHour: 1000 };

/** Other numbers for everybody, and for single users by their id. */
export const QuotaConfigSchema = z.strictObject({
  ...QuotaSchema.partial().shape,
  users: z.record(z.string().regex(/^[1-9]\d{0,14}$/), QuotaSchema.partial().strict()).optional(),
});

export type QuotaConfig = z.infer<typeof QuotaConfigSchema>;

/** A user's quota, or that of an address. */
export function quotaOf(config: QuotaConfig, userId: number | null): Quota {
  const { users = {}, ...base } = config;
  const own = userId === null ? undefined : users[String(userId)];
  return { ...DEFAULT_QUOTA, ...base, ...own };
}

export const WINDOWS = [
  { name: "15m", lengthMs: 15 * 60_000, limitOf: (quota: Quota) => quota.per15Minutes },
  { name: "1h", lengthMs: 60 * 60_000, limitOf: (quota: Quota) => quota.perHour },
] as const;

/** A window after this request was counted. */
export type Counted = { limit: number; lengthMs: number; count: number; resetsAtMs: number };

export type Verdict = { allowed: boolean; headers: Record<string, string> };

/**
 * Whether a request is within all windows. The headers describe the window that the client meets first: one that is used up,
 * else the one with the fewest requests left. `RateLimit-Reset` and `Retry-After` are seconds.
 */
export function judge(windows: readonly Counted[], now: number): Verdict {
  const left = (window: Counted) => Math.max(0, window.limit - window.count);
  const over = windows.filter((window) => window.count > window.limit);
  const [tightest] = over.length
    ? [...over].sort((a, b) => b.resetsAtMs - a.resetsAtMs)
    : [...windows].sort((a, b) => left(a) - left(b));
  if (tightest === undefined) return { allowed: true, headers: {} };
  const seconds = String(Math.max(1, Math.ceil((tightest.resetsAtMs - now) / 1000)));
  return {
    allowed: over.length === 0,
    headers: {
      "RateLimit-Limit": String(tightest.limit),
      "RateLimit-Remaining": String(left(tightest)),
      "RateLimit-Reset": seconds,
      "RateLimit-Policy": windows.map((window) => `${window.limit};w=${window.lengthMs / 1000}`).join(", "),
      ...(over.length > 0 ? { "Retry-After": seconds } : {}),
    },
  };
}
