import { describe, it } from "vitest";
import {
  DEPRECATED_ROUTES,
  type DeprecatedRoute,
  deprecationHeaders,
  noticeProblems,
} from "../../../src/breeding/deprecations.ts";
import {
  drawingManifest,
  monthOf,
  pictureFile,
  pictureUrl,
  readPicturePath,
  stemOf,
} from "../../../src/breeding/images/pictures.ts";
import { FIT_GRACE_MS, isUsable } from "../../../src/breeding/model/freshness.ts";
import { combinationId, roleProblem, splitCombinationId } from "../../../src/breeding/predictions/combination.ts";
import { type Counted, DEFAULT_QUOTA, judge, QuotaConfigSchema, quotaOf } from "../../../src/breeding/rate-limits.ts";

describe("combination ids", () => {
  it("put the mother first and read back", ({ expect }) => {
    const pair = { femaleId: "TC1_023", maleId: "TC1_022" };
    expect(combinationId(pair)).toBe("TC1_023-TC1_022");
    expect(splitCombinationId("TC1_023-TC1_022")).toEqual([pair]);
  });

  it("stand for every pair that ids with hyphens allow", ({ expect }) => {
    expect(splitCombinationId("A-B-C")).toEqual([
      { femaleId: "A", maleId: "B-C" },
      { femaleId: "A-B", maleId: "C" },
    ]);
    expect(splitCombinationId("가-나")).toEqual([{ femaleId: "가", maleId: "나" }]);
  });

  it.for(["", "-", "A", "-A", "A-", "A_B", "../-x", "A-../..", "A-import"])("%j is none", (key, { expect }) => {
    expect(splitCombinationId(key)).toEqual([]);
  });

  it("know who can be mother and father", ({ expect }) => {
    const strain = (id: string, type: string) => ({ id, type });
    expect(roleProblem(strain("F", "female"), strain("M", "male"))).toBeNull();
    expect(roleProblem(strain("B", "both"), strain("B", "both"))).toBeNull();
    expect(roleProblem(strain("M", "male"), strain("B", "both"))).toContain("M");
    expect(roleProblem(strain("B", "both"), strain("F", "female"))).toContain("F");
  });
});

describe("addresses of pictures", () => {
  it("follow the contract's pattern", ({ expect }) => {
    const stem = stemOf("TC1_022", "TC1_023");
    expect(pictureUrl(monthOf(Date.parse("2025-11-30T23:59:59Z")), stem, 1)).toBe(
      "/images/tomato/predictions/2025/11/cross_TC1_022_TC1_023_01.png",
    );
    expect(pictureFile(stem, 123)).toBe("cross_TC1_022_TC1_023_123.png");
    expect(pictureUrl("2025/11", stemOf("가 1", "나"), 2)).toBe(
      "/images/tomato/predictions/2025/11/cross_%EA%B0%80%201_%EB%82%98_02.png",
    );
  });

  it("are read back, and nothing else is", ({ expect }) => {
    expect(readPicturePath("2025", "11", "cross_TC1_022_TC1_023_01.png")).toEqual({
      month: "2025/11",
      file: "cross_TC1_022_TC1_023_01.png",
    });
    expect(readPicturePath("2025", "11", "cross_가 1_나_02.png")).not.toBeNull();
    for (const [year, month, file] of [
      ["2025", "13", "cross_A_B_01.png"],
      ["25", "11", "cross_A_B_01.png"],
      ["2025", "11", "cross_A_B_1.png"],
      ["2025", "11", "cross_../../jobs_01.png"],
      ["2025", "11", "cross_A/../B_01.png"],
      ["2025", "11", "cross_A_B_01.png\0.svg"],
      ["..", "..", "models"],
      ["2025", "11", "x.png"],
    ] as const) {
      expect(readPicturePath(year, month, file)).toBeNull();
    }
  });

  it("differ with everything that the picture is made from", ({ expect }) => {
    const fruit = {
      length: 40,
      width: 40,
      weight: 40,
      sugarContent: 5,
      firmness: 0.5,
      skinThickness: 5,
      shape: "round" as const,
    };
    const manifests = [
      drawingManifest(fruit, "outside", 1),
      drawingManifest(fruit, "section", 1),
      drawingManifest(fruit, "outside", 2),
      drawingManifest({ ...fruit, length: 40.01 }, "outside", 1),
    ];
    expect(new Set(manifests).size).toBe(manifests.length);
    expect(drawingManifest({ ...fruit }, "outside", 1)).toBe(manifests[0]);
  });
});

describe("the stored model", () => {
  const now = 1_000_000_000;
  const state = { revision: 5, changed_at: now - 1_000, model_revision: 5, model_version: "v" };

  it("is used while it is the newest, or while a writer may still be fitting", ({ expect }) => {
    expect(isUsable(state, now)).toBe(true);
    expect(isUsable({ ...state, changed_at: 0 }, now)).toBe(true);
    expect(isUsable({ ...state, model_revision: 4 }, now)).toBe(true);
  });

  it("is replaced by a reader when a write was cut off, and when there is none", ({ expect }) => {
    expect(isUsable({ ...state, model_revision: 4, changed_at: now - FIT_GRACE_MS }, now)).toBe(false);
    expect(isUsable({ ...state, model_revision: 4, changed_at: 0 }, now)).toBe(false);
    expect(isUsable({ ...state, model_version: null, model_revision: null }, now)).toBe(false);
    expect(isUsable({ revision: null, changed_at: null, model_revision: null, model_version: null }, now)).toBe(false);
  });
});

describe("request limits", () => {
  const now = 10_000;
  const window = (limit: number, count: number, resetsInMs: number): Counted => ({
    limit,
    count,
    lengthMs: 900_000,
    resetsAtMs: now + resetsInMs,
  });

  it("are the contract's, for everybody", ({ expect }) => {
    expect(quotaOf({}, 7)).toEqual(DEFAULT_QUOTA);
    expect(DEFAULT_QUOTA).toEqual({ per15Minutes: 100, perHour: 1000 });
  });

  it("can be others for everybody and for single users", ({ expect }) => {
    const config = QuotaConfigSchema.parse({ perHour: 2000, users: { 7: { per15Minutes: 500 } } });
    expect(quotaOf(config, 7)).toEqual({ per15Minutes: 500, perHour: 2000 });
    expect(quotaOf(config, 8)).toEqual({ per15Minutes: 100, perHour: 2000 });
    expect(quotaOf(config, null)).toEqual({ per15Minutes: 100, perHour: 2000 });
    for (const bad of [{ perHour: 0 }, { users: { x: {} } }, { perhour: 5 }, { users: { 7: { perHour: "5" } } }])
      expect(QuotaConfigSchema.safeParse(bad).success).toBe(false);
  });

  it("allow the last request and refuse the next, and say when to come back", ({ expect }) => {
    expect(judge([window(100, 100, 5_000), window(1000, 100, 60_000)], now)).toEqual({
      allowed: true,
      headers: {
        "RateLimit-Limit": "100",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "5",
        "RateLimit-Policy": "100;w=900, 1000;w=900",
      },
    });
    expect(judge([window(100, 101, 5_001), window(1000, 101, 60_000)], now)).toMatchObject({
      allowed: false,
      headers: { "RateLimit-Remaining": "0", "RateLimit-Reset": "6", "Retry-After": "6" },
    });
  });

  it("name the window that is used up for longest", ({ expect }) => {
    expect(judge([window(100, 101, 5_000), window(1000, 1001, 60_000)], now).headers).toMatchObject({
      "RateLimit-Limit": "1000",
      "Retry-After": "60",
    });
  });
});

describe("deprecated routes", () => {
  const route: DeprecatedRoute = {
    method: "GET",
    path: "/api/strains/{id}",
    deprecatedOn: "2026-01-15",
    sunsetOn: "2026-07-15",
    guideUrl: "/docs/migration",
  };

  it("all have at least six months of notice", ({ expect }) => {
    expect(noticeProblems(DEPRECATED_ROUTES)).toEqual([]);
  });

  it("with less notice, or without a date, are found", ({ expect }) => {
    expect(noticeProblems([route])).toEqual([]);
    expect(noticeProblems([{ ...route, sunsetOn: "2026-07-14" }])).toHaveLength(1);
    expect(noticeProblems([{ ...route, deprecatedOn: "soon" }])).toHaveLength(1);
  });

  it("are announced by the headers of RFC 9745 and RFC 8594", ({ expect }) => {
    expect(deprecationHeaders([route], { method: "GET", path: "/api/strains/TC1_022" })).toEqual({
      Deprecation: "@1768435200",
      Sunset: "Wed, 15 Jul 2026 00:00:00 GMT",
      Link: '</docs/migration>; rel="deprecation"; type="text/html"',
    });
    for (const call of [
      { method: "POST", path: "/api/strains/TC1_022" },
      { method: "GET", path: "/api/strains" },
      { method: "GET", path: "/api/strains/a/image" },
    ])
      expect(deprecationHeaders([route], call)).toEqual({});
  });
});
