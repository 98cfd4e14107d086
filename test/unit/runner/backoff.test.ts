import { describe, it } from "vitest";
import { jittered, parseRetryAfter, retryDelayMs } from "../../../runner/embedded/agent/backoff.ts";

const backoff = { baseMs: 1000, capMs: 60_000 };

describe("retryDelayMs", () => {
  it("draws from the whole range up to the doubled base, and never above the cap", ({ expect }) => {
    expect([0, 1, 2, 5, 6, 40, 5000].map((failures) => retryDelayMs(backoff, failures, 0.999_999))).toEqual(
      [1000, 2000, 4000, 32_000, 60_000, 60_000, 60_000].map((ms) => expect.closeTo(ms, 0)),
    );
    expect(retryDelayMs(backoff, 10, 0)).toBe(0);
  });

  it("never comes back before a Retry-After, and spreads those who got the same one", ({ expect }) => {
    expect(retryDelayMs(backoff, 0, 0, 7000)).toBe(7000);
    expect(retryDelayMs(backoff, 8, 0.5, 7000)).toBe(7500);
  });

  it("does not sleep for days because of one header", ({ expect }) => {
    expect(retryDelayMs(backoff, 0, 0, 1e12)).toBe(3_600_000);
  });
});

describe("parseRetryAfter", () => {
  const now = Date.parse("2026-01-02T03:04:05Z");
  it("reads seconds and dates", ({ expect }) => {
    expect(parseRetryAfter("120", now)).toBe(120_000);
    expect(parseRetryAfter("Fri, 02 Jan 2026 03:04:35 GMT", now)).toBe(30_000);
    expect(parseRetryAfter("Fri, 02 Jan 2026 03:00:00 GMT", now)).toBe(0);
  });

  it("takes anything else for nothing", ({ expect }) => {
    expect(["", "-5", "soon", "1.5", "99999999999", "2026-01-02"].map((text) => parseRetryAfter(text, now))).toEqual(
      Array(6).fill(null),
    );
    expect(parseRetryAfter(null, now)).toBe(null);
  });
});

describe("jittered", () => {
  it("stays within 20 percent", ({ expect }) => {
    expect([jittered(1000, 0), jittered(1000, 0.5)]).toEqual([800, 1000]);
    expect(jittered(1000, 0.999_999)).toBeCloseTo(1200, 0);
  });
});
