import { env } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { call, type Json } from "../../support/api.ts";
import { loadSamples, workerWith } from "../../support/breeding.ts";
import {
  BAD_COMBINATION_KEY,
  COMBINATION_NOT_FOUND,
  COMBINATIONS,
  PARENTS_REQUIRED,
  PREDICTION_CREATED,
  PREDICTION_FAILED,
  PREDICTION_HISTORY,
  PREDICTION_NOT_FOUND,
  PREDICTION_REQUEST,
  STRAIN_DETAIL,
  STRAIN_LIST,
  STRAIN_LIST_REQUEST,
  STRAIN_NOT_FOUND,
} from "./examples.ts";

beforeAll(() => loadSamples());

/** Texts of which the contract fixes the form. */
const FORMS: [name: string, form: RegExp][] = [
  ["timestamp", /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/],
  ["prediction id", /^PRED_\d{13}_[0-9a-f]{8}$/],
  ["prediction picture", /^\/images\/tomato\/predictions\/\d{4}\/\d\d\/cross_[^/]+_\d\d\.png$/],
  ["strain picture", /^\/images\/tomato\/strains\/[^/]+\.png$/],
  ["combination id", /^TC1_\d{3}-TC1_\d{3}$/],
];

/**
 * Where an answer lacks something of an example: each key of it, with a value of the same type, and texts of the same form.
 * More keys are welcome.
 */
function gaps(example: unknown, actual: unknown, path = "body"): string[] {
  if (Array.isArray(example)) {
    if (!Array.isArray(actual)) return [`${path} is no list`];
    if (actual.length === 0) return [`${path} is empty`];
    return actual.flatMap((item, i) => gaps(example[0], item, `${path}[${i}]`));
  }
  if (typeof example === "object" && example !== null) {
    if (typeof actual !== "object" || actual === null) return [`${path} is no object`];
    return Object.entries(example).flatMap(([key, value]) =>
      key in actual ? gaps(value, Reflect.get(actual, key), `${path}.${key}`) : [`${path}.${key} is missing`],
    );
  }
  if (typeof example !== typeof actual) return [`${path} is ${typeof actual}, not ${typeof example}`];
  const form = typeof example === "string" ? FORMS.find(([, pattern]) => pattern.test(example)) : undefined;
  return form && !form[1].test(String(actual)) ? [`${path} is no ${form[0]}: ${String(actual)}`] : [];
}

/** Bodies whose every value is determined. */
type Exact = { status: number; body: unknown };

describe("the contract's examples", () => {
  it("4.1.1 list of strains: form, and TC1_022 with its numbers", async ({ expect }) => {
    const answer = await call("GET", "/api/strains");
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-type")).toMatch(/^application\/json/);
    expect(gaps(STRAIN_LIST, answer.body)).toEqual([]);
    expect(answer.body.total).toBe(STRAIN_LIST.total);
    const shown = (answer.body.data as Json[]).find((strain) => strain.id === "TC1_022");
    expect(shown).toMatchObject({
      name: "TC1_022",
      type: "both",
      phenotype: STRAIN_DETAIL.data.phenotype,
      metadata: { imageUrl: STRAIN_DETAIL.data.metadata.imageUrl },
    });
  });

  it("4.1.1 the request as printed filters by both parameters", async ({ expect }) => {
    const answer = await call("GET", STRAIN_LIST_REQUEST);
    expect(answer.status).toBe(200);
    expect(gaps(STRAIN_LIST, answer.body)).toEqual([]);
    for (const strain of answer.body.data as Json[]) {
      expect(strain.type).toBe("female");
      expect(strain.id).toMatch(/TC1/);
    }
  });

  it("4.1.2 one strain, and the error for an unknown one", async ({ expect }) => {
    const answer = await call("GET", "/api/strains/TC1_022");
    expect(answer.status).toBe(200);
    expect(gaps(STRAIN_DETAIL, answer.body)).toEqual([]);
    const missing = await call("GET", "/api/strains/TC9_999");
    expect<Exact>({ status: missing.status, body: missing.body }).toEqual({ status: 404, body: STRAIN_NOT_FOUND });
  });

  it("4.2.1 the request as printed creates a prediction of the printed form", async ({ expect }) => {
    const answer = await call("POST", "/api/predictions", { body: PREDICTION_REQUEST });
    expect(answer.status).toBe(201);
    expect(gaps(PREDICTION_CREATED, answer.body)).toEqual([]);
    expect(answer.body.message).toBe(PREDICTION_CREATED.message);
    const data = answer.body.data as Json;
    expect(data.generatedImages).toHaveLength(2);
    const month = new Date(String(data.createdAt)).toISOString().slice(0, 7).replace("-", "/");
    expect(data.generatedImages).toEqual([
      `/images/tomato/predictions/${month}/cross_TC1_022_TC1_023_01.png`,
      `/images/tomato/predictions/${month}/cross_TC1_022_TC1_023_02.png`,
    ]);
    expect(String(data.id).split("_")[1]).toBe(String(Date.parse(String(data.createdAt))));
    for (const trait of ["weight", "length", "sugarContent", "firmness"]) {
      const { confidence, grade } = (data.predictedPhenotype as Record<string, { confidence: number; grade: number }>)[
        trait
      ] ?? { confidence: -1, grade: 0 };
      expect(confidence).toBeGreaterThan(0);
      expect(confidence).toBeLessThanOrEqual(1);
      expect([1, 2, 3, 4, 5]).toContain(grade);
    }
    expect(data.overallScore).toBeGreaterThanOrEqual(0);
    expect(data.overallScore).toBeLessThanOrEqual(5);
    // The whole strain objects, not only their ids.
    const parents = [data.maleStrain, data.femaleStrain] as Json[];
    expect(parents.map((parent) => parent.id)).toEqual(["TC1_022", "TC1_023"]);
    expect((await call("GET", "/api/strains/TC1_022")).body.data).toEqual(parents[0]);
  });

  it("4.2.1 the error for missing parents", async ({ expect }) => {
    for (const body of [
      {},
      { maleStrainId: "TC1_022" },
      { femaleStrainId: "TC1_022", options: {} },
      { maleStrainId: "", femaleStrainId: "TC1_023" },
      { maleStrainId: "   ", femaleStrainId: "TC1_023" },
      { maleStrainId: null, femaleStrainId: "TC1_023" },
      { maleStrainId: 22, femaleStrainId: "TC1_023" },
      { maleStrainId: ["TC1_022"], femaleStrainId: "TC1_023" },
    ]) {
      const answer = await call("POST", "/api/predictions", { body });
      expect<Exact>({ status: answer.status, body: answer.body }).toEqual({ status: 400, body: PARENTS_REQUIRED });
    }
  });

  it("4.2.2 the history, a page at a time", async ({ expect }) => {
    for (const femaleStrainId of ["TC1_023", "TC1_026", "TC1_027"])
      await call("POST", "/api/predictions", { body: { maleStrainId: "TC1_022", femaleStrainId } });
    const answer = await call("GET", "/api/predictions");
    expect(answer.status).toBe(200);
    expect(gaps(PREDICTION_HISTORY, answer.body)).toEqual([]);
    expect(answer.body).toMatchObject({ page: 1, limit: 10, hasMore: false });
    const first = await call("GET", "/api/predictions?page=1&limit=2&sort=desc");
    expect(first.body).toMatchObject({ page: 1, limit: 2, hasMore: true });
    expect(first.body.data).toHaveLength(2);
  });

  it("4.2.3 a prediction by id answers what its creation did, and the error for an unknown one", async ({ expect }) => {
    const created = await call("POST", "/api/predictions", { body: PREDICTION_REQUEST });
    const data = created.body.data as Json;
    const answer = await call("GET", `/api/predictions/${data.id}`);
    expect<Exact>({ status: answer.status, body: answer.body }).toEqual({ status: 200, body: { success: true, data } });
    const missing = await call("GET", "/api/predictions/PRED_1763366644698_a3f2b1c4");
    expect<Exact>({ status: missing.status, body: missing.body }).toEqual({ status: 404, body: PREDICTION_NOT_FOUND });
  });

  it("4.2.4 a prediction by its parents, father first, and the error for a cross without one", async ({ expect }) => {
    const created = await call("POST", "/api/predictions", { body: PREDICTION_REQUEST });
    const answer = await call("GET", "/api/predictions/by-combination/TC1_022/TC1_023");
    expect<Exact>({ status: answer.status, body: answer.body }).toEqual({
      status: 200,
      body: { success: true, data: created.body.data },
    });
    const missing = await call("GET", "/api/predictions/by-combination/TC1_023/TC1_022");
    expect<Exact>({ status: missing.status, body: missing.body }).toEqual({ status: 404, body: COMBINATION_NOT_FOUND });
  });

  it("4.2.5 the crosses that were predicted, mother first", async ({ expect }) => {
    for (const femaleStrainId of ["TC1_023", "TC1_026", "TC1_027", "TC1_026"])
      await call("POST", "/api/predictions", { body: { maleStrainId: "TC1_022", femaleStrainId } });
    const answer = await call("GET", "/api/predictions/existing-combinations");
    expect(answer.status).toBe(200);
    expect(gaps(COMBINATIONS, answer.body)).toEqual([]);
    const { combinationIds, total } = answer.body.data as { combinationIds: string[]; total: number };
    expect(combinationIds).toEqual(expect.arrayContaining(COMBINATIONS.data.combinationIds));
    expect(new Set(combinationIds).size).toBe(combinationIds.length);
    expect(total).toBe(combinationIds.length);
  });

  it("6.2 the error for a combination id of another form", async ({ expect }) => {
    for (const key of ["TC1_023", "-TC1_022", "TC1_023-", "%2e%2e-x"]) {
      const answer = await call("GET", `/api/predictions/by-combination/${key}`);
      expect<Exact>({ status: answer.status, body: answer.body }).toEqual({ status: 400, body: BAD_COMBINATION_KEY });
    }
    const found = await call("GET", "/api/predictions/by-combination/TC1_023-TC1_022");
    expect(found.status).toBe(200);
    const missing = await call("GET", "/api/predictions/by-combination/TC1_022-TC1_023");
    expect<Exact>({ status: missing.status, body: missing.body }).toEqual({ status: 404, body: COMBINATION_NOT_FOUND });
  });

  it("6.2 the error when a prediction cannot be made, with nothing stored", async ({ expect }) => {
    const broken = new Proxy(env.BUCKET, {
      get: (target, name) =>
        name === "get" || name === "put"
          ? () => Promise.reject(new Error("storage is down"))
          : Reflect.get(target, name),
    });
    const before = await call("GET", "/api/predictions");
    const answer = await workerWith({ BUCKET: broken })("POST", "/api/predictions", { body: PREDICTION_REQUEST });
    expect<Exact>({ status: answer.status, body: answer.body }).toEqual({ status: 500, body: PREDICTION_FAILED });
    expect((await call("GET", "/api/predictions")).body.total).toBe(before.body.total);
  });
});

describe("the contract's envelopes and statuses", () => {
  it("2.2 and 3: every error is {success: false, error} with a Korean sentence, and its status is of the table", async ({
    expect,
  }) => {
    const refused: [string, string, unknown?, Record<string, string>?][] = [
      ["GET", "/api/strains?type=hybrid"],
      ["GET", "/api/strains?type=female&type=male"],
      ["GET", `/api/strains?search=${"x".repeat(201)}`],
      ["GET", "/api/predictions?page=0"],
      ["GET", "/api/predictions?page=-1"],
      ["GET", "/api/predictions?page=1.0"],
      ["GET", "/api/predictions?page=1e3"],
      ["GET", "/api/predictions?page=%D9%A1"],
      ["GET", "/api/predictions?limit=0"],
      ["GET", "/api/predictions?limit=101"],
      ["GET", "/api/predictions?limit=1000000000"],
      ["GET", "/api/predictions?limit=abc"],
      ["GET", "/api/predictions?sort=random"],
      ["GET", "/api/predictions?sort=created_at"],
      ["POST", "/api/predictions", "{not json", { "content-type": "application/json" }],
      ["POST", "/api/predictions", "", { "content-type": "application/json" }],
      ["POST", "/api/predictions", "x=1", { "content-type": "application/x-www-form-urlencoded" }],
      [
        "POST",
        "/api/predictions",
        '{"maleStrainId":"TC1_022","femaleStrainId":"TC1_023"}',
        { "content-type": "text/plain" },
      ],
      ["POST", "/api/predictions"],
      ["POST", "/api/predictions", []],
      ["POST", "/api/predictions", "null", { "content-type": "application/json" }],
      ["POST", "/api/predictions", { ...PREDICTION_REQUEST, options: { predictPhenotype: "yes" } }],
      ["POST", "/api/predictions", { ...PREDICTION_REQUEST, options: [] }],
      ["POST", "/api/predictions", { ...PREDICTION_REQUEST, options: { predictPhenotype: false } }],
      ["POST", "/api/predictions", `"${"x".repeat(1_100_000)}"`, { "content-type": "application/json" }],
      ["POST", "/api/predictions", "[".repeat(20_000), { "content-type": "application/json" }],
    ];
    for (const [method, path, body, headers] of refused) {
      const answer = await call(method, path, { body, headers });
      expect({ path, status: answer.status, body: answer.body }).toEqual({
        path,
        status: 400,
        body: { success: false, error: expect.stringMatching(/\p{Script=Hangul}/u) },
      });
    }
  });

  it("3: a path that does not exist, and a method that a path does not have, are 404", async ({ expect }) => {
    for (const [method, path] of [
      ["GET", "/api/unknown"],
      ["GET", "/api/"],
      ["GET", "/api/strains/TC1_022/nothing"],
      ["PUT", "/api/predictions"],
      ["DELETE", "/api/predictions/PRED_1763366644698_a3f2b1c4"],
      ["PATCH", "/api/strains/TC1_022"],
      ["POST", "/api/strains/TC1_022"],
      ["OPTIONS", "/api/strains"],
    ] as const) {
      const answer = await call(method, path);
      expect({ method, path, status: answer.status, body: answer.body }).toEqual({
        method,
        path,
        status: 404,
        body: { success: false, error: "요청한 경로를 찾을 수 없습니다" },
      });
    }
  });

  it("1.2: JSON in UTF-8, also when the caller asks for something else", async ({ expect }) => {
    const answer = await call("GET", "/api/strains/TC1_022", { headers: { accept: "text/html" } });
    expect(answer.headers.get("content-type")).toMatch(/application\/json/);
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
  });

  it("1.3 and 8.1: phase 1 asks for no token, heeds none, and limits nothing", async ({ expect }) => {
    const answer = await call("GET", "/api/strains", { headers: { authorization: "Bearer nonsense" } });
    expect(answer.status).toBe(200);
    expect([...answer.headers.keys()].filter((name) => name.startsWith("ratelimit"))).toEqual([]);
  });

  it("7.3: no route of this version is deprecated", async ({ expect }) => {
    const answer = await call("GET", "/api/strains");
    for (const name of ["deprecation", "sunset", "link"]) expect(answer.headers.get(name)).toBeNull();
  });
});
