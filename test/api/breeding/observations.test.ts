import { env } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { ModelSchema } from "../../../src/breeding/model/schemas.ts";
import {
  ObservationCreatedSchema,
  ObservationPageSchema,
  ObservationReportSchema,
} from "../../../src/breeding/observations/schemas.ts";
import { PredictionSchema } from "../../../src/breeding/predictions/schemas.ts";
import { call, type Json, type Person, person } from "../../support/api.ts";
import { loadSamples, newStrainId } from "../../support/breeding.ts";

let user: Person;
let stranger: Person;
let admin: Person;
beforeAll(async () => {
  await loadSamples();
  [user, stranger, admin] = await Promise.all([person(), person(), person({ admin: true })]);
});

const MEASURED = { weight: 41.5, length: 40.2, width: 38.8, sugarContent: 5.4, firmness: 0.55 };

const observe = (body: Json, token: string | undefined = user.token) =>
  call("POST", "/api/observations", { token, body });

const cross = (femaleStrainId: string, maleStrainId: string, more: Json = {}): Json => ({
  femaleStrainId,
  maleStrainId,
  phenotype: MEASURED,
  ...more,
});

const importFile = (file: string, query = "", token = user.token) =>
  call("POST", `/api/observations/import${query}`, { token, body: file, headers: { "content-type": "text/csv" } });

const reportOf = (body: unknown) => ObservationReportSchema.parse(body).data;
const count = async () => Number((await call("GET", "/api/observations?limit=1")).body.total);

async function predict(femaleStrainId: string, maleStrainId: string) {
  const answer = await call("POST", "/api/predictions", { body: { femaleStrainId, maleStrainId } });
  return PredictionSchema.parse(answer.body.data);
}

async function strain(type = "both"): Promise<string> {
  const id = newStrainId();
  const phenotype = { ...MEASURED, skinThickness: 5, shape: "round" };
  await call("POST", "/api/strains", { token: user.token, body: { id, type, phenotype } });
  return id;
}

const model = async () => ModelSchema.strict().parse((await call("GET", "/api/model")).body).data;

describe("POST /api/observations", () => {
  it("keeps what was predicted before, and moves the next prediction towards the measurement", async ({ expect }) => {
    const before = await predict("TC1_023", "TC1_022");
    const measured = { weight: 2 * (before.predictedPhenotype?.weight.value ?? 0), sugarContent: 8 };
    const answer = await observe(cross("TC1_023", "TC1_022", { phenotype: measured, n: 5, season: "2025 봄" }));
    expect(answer.status).toBe(201);
    const { data } = ObservationCreatedSchema.strict().parse(answer.body);
    expect(data).toMatchObject({
      combinationId: "TC1_023-TC1_022",
      n: 5,
      season: "2025 봄",
      environment: null,
      phenotype: { ...measured, length: null, shape: null },
    });
    expect(data.id).toMatch(/^OBS_\d{13}_[0-9a-f]{8}$/);
    expect(data.forecasts.map(({ trait }) => trait)).toEqual(["weight", "sugarContent"]);
    for (const forecast of data.forecasts) {
      expect(forecast.modelVersion).toBe(before.modelVersion);
      expect(forecast.predicted).toBeCloseTo(
        before.predictedPhenotype?.[forecast.trait as "weight"].value ?? Number.NaN,
        1,
      );
      expect(forecast.covered).toBe(
        forecast.interval.lower <= forecast.observed && forecast.observed <= forecast.interval.upper,
      );
    }
    const after = await predict("TC1_023", "TC1_022");
    expect(after.modelVersion).not.toBe(before.modelVersion);
    expect(after.predictedPhenotype?.weight).toMatchObject({ basis: "observed", nCrosses: 1 });
    expect(after.predictedPhenotype?.weight.value).toBeGreaterThan(before.predictedPhenotype?.weight.value ?? 0);
    expect(after.predictedPhenotype?.sugarContent.value).toBeGreaterThan(
      before.predictedPhenotype?.sugarContent.value ?? 0,
    );
    expect((await predict("TC1_023", "TC1_030")).predictedPhenotype?.weight.basis).toBe("gca");
  });

  it.for([
    ["an unknown mother", { femaleStrainId: "TC9_1" }, 404],
    ["an unknown father", { maleStrainId: "TC9_1" }, 404],
    ["no mother", { femaleStrainId: undefined }, 400],
    ["no measurement", { phenotype: {} }, 400],
    ["only unknown values", { phenotype: { weight: null, shape: null } }, 400],
    ["a negative value", { phenotype: { weight: -3 } }, 400],
    ["not a number", { phenotype: { weight: "41" } }, 400],
    ["a ratio that contradicts", { phenotype: { length: 40, width: 20, ratio: 1 } }, 400],
    ["no replicates", { n: 0 }, 400],
    ["half a replicate", { n: 1.5 }, 400],
    ["a long season", { season: "x".repeat(61) }, 400],
    ["a season of two lines", { season: "a\r\nb" }, 400],
    ["a field that is not known", { createdBy: 5 }, 400],
  ] as const)("is refused with %s, and nothing is stored", async ([, overrides, status], { expect }) => {
    const before = await count();
    const answer = await observe(cross("TC1_023", "TC1_022", overrides));
    expect(answer).toMatchObject({ status, body: { success: false, error: expect.stringMatching(/[가-힣]/) } });
    expect(await count()).toBe(before);
  });

  it("is refused for parents in the wrong role", async ({ expect }) => {
    const [male, female] = [await strain("male"), await strain("female")];
    expect((await observe(cross(male, "TC1_022"))).status).toBe(400);
    expect((await observe(cross("TC1_022", female))).status).toBe(400);
    expect((await observe(cross(female, male))).status).toBe(201);
  });

  it("needs a user who is still there", async ({ expect }) => {
    const gone = await person();
    await env.DB.prepare("update users set disabled_at = 1 where id = ?").bind(gone.id).run();
    const before = await count();
    for (const token of [undefined, "nonsense", gone.token]) {
      const answers = [
        await call("POST", "/api/observations", { token, body: cross("TC1_023", "TC1_022") }),
        await call("POST", "/api/observations/import", { token, body: "female,male,weight\nTC1_023,TC1_022,5" }),
        await call("DELETE", "/api/observations/OBS_1763366644698_a3f2b1c4", { token }),
      ];
      expect(answers.map((answer) => answer.status)).toEqual([401, 401, 401]);
    }
    expect(await count()).toBe(before);
  });

  it("recorded many at once, all are kept and the model knows all of them", async ({ expect }) => {
    const mothers = await Promise.all(Array.from({ length: 6 }, () => strain()));
    const answers = await Promise.all(mothers.map((mother) => observe(cross(mother, "TC1_022"))));
    expect(answers.map((answer) => answer.status)).toEqual(mothers.map(() => 201));
    for (const mother of mothers)
      expect((await predict(mother, "TC1_022")).predictedPhenotype?.weight.basis).toBe("observed");
  });
});

describe("GET and DELETE /api/observations", () => {
  it("list newest first, by strain, in pages", async ({ expect }) => {
    const [mother, father] = [await strain(), await strain()];
    const ids: string[] = [];
    for (const body of [cross(mother, father), cross(mother, "TC1_022"), cross("TC1_023", father)])
      ids.unshift(String(((await observe(body)).body.data as Json).id));
    const ofMother = ObservationPageSchema.strict().parse(
      (await call("GET", `/api/observations?strainId=${mother}`)).body,
    );
    expect(ofMother.data.map(({ id }) => id)).toEqual([ids[1], ids[2]]);
    expect(ofMother).toMatchObject({ total: 2, page: 1, limit: 10, hasMore: false });
    expect(ofMother.data[0]?.forecasts.length).toBe(6);
    const first = ObservationPageSchema.parse((await call("GET", "/api/observations?limit=2")).body);
    expect(first.data.map(({ id }) => id)).toEqual(ids.slice(0, 2));
    expect(first.hasMore).toBe(true);
    const oldest = ObservationPageSchema.parse(
      (await call("GET", `/api/observations?strainId=${mother}&sort=asc&limit=1&page=2`)).body,
    );
    expect(oldest.data.map(({ id }) => id)).toEqual([ids[1]]);
    for (const query of ["page=0", "limit=101", "limit=x", "sort=up"])
      expect((await call("GET", `/api/observations?${query}`)).status).toBe(400);
  });

  it("a deleted one is gone from the model and from the calibration; a strain with one cannot be deleted", async ({
    expect,
  }) => {
    const mother = await strain();
    const clean = await predict(mother, "TC1_030");
    const { id } = (await observe(cross(mother, "TC1_030", { phenotype: { weight: 400 } }))).body.data as {
      id: string;
    };
    expect((await predict(mother, "TC1_030")).predictedPhenotype?.weight.basis).toBe("observed");
    const { n } = (await model()).calibration.traits.weight;

    expect(await call("DELETE", `/api/strains/${mother}`, { token: user.token })).toMatchObject({
      status: 400,
      body: { error: "관측 기록 1건이 있는 계통은 삭제할 수 없습니다" },
    });
    expect((await call("DELETE", `/api/observations/${id}`, { token: stranger.token })).status).toBe(403);
    expect((await call("DELETE", `/api/observations/${id}`, { token: user.token })).status).toBe(200);
    expect((await call("DELETE", `/api/observations/${id}`, { token: user.token })).status).toBe(404);

    const after = await predict(mother, "TC1_030");
    expect(after.predictedPhenotype).toEqual(clean.predictedPhenotype);
    // The version is a hash of the data: the same data, the same version.
    expect(after.modelVersion).toBe(clean.modelVersion);
    expect((await model()).calibration.traits.weight.n).toBe(n - 1);
    expect((await call("DELETE", `/api/strains/${mother}`, { token: user.token })).status).toBe(200);
  });

  it("an administrator may delete anybody's", async ({ expect }) => {
    const { id } = (await observe(cross("TC1_023", "TC1_031"))).body.data as { id: string };
    expect((await call("DELETE", `/api/observations/${id}`, { token: admin.token })).status).toBe(200);
    for (const bad of ["1", "OBS_1_x", "' or 1=1 --"])
      expect(
        (await call("DELETE", `/api/observations/${encodeURIComponent(bad)}`, { token: admin.token })).status,
      ).toBe(404);
  });
});

describe("POST /api/observations/import", () => {
  it("stores the rows that are in order, with one fit for all, and reports the others", async ({ expect }) => {
    const [a, b, male] = [await strain(), await strain(), await strain("male")];
    const fits = async () =>
      (await env.DB.prepare("select revision from breeding_state").first<{ revision: number }>())?.revision ?? 0;
    const before = await fits();
    const file = [
      "모계,부계,반복수,작기,과중 (g),당도 (%)",
      `${a},${b},2,2025 봄,40,5.5`,
      `${a},TC9_999,1,,40,5.5`,
      `${male},${a},1,,40,5.5`,
      `${a},TC1_022,1,,heavy,5.5`,
      `${b},${a},1,2025 가을,50,6.5`,
    ].join("\n");
    const report = reportOf((await importFile(file)).body);
    expect(report).toMatchObject({ total: 5, accepted: 2, alreadyImported: false, dryRun: false });
    expect(report.refused.map(({ line, code }) => [line, code])).toEqual([
      [3, "PARENT_UNKNOWN"],
      [4, "ROLE"],
      [5, "NOT_A_NUMBER"],
    ]);
    expect((await fits()) - before).toBe(1);
    const listed = ObservationPageSchema.parse((await call("GET", `/api/observations?strainId=${a}&sort=asc`)).body);
    expect(listed.data.map(({ n, season, phenotype }) => [n, season, phenotype.weight])).toEqual([
      [2, "2025 봄", 40],
      [1, "2025 가을", 50],
    ]);
    expect(new Set(listed.data.flatMap((one) => one.forecasts.map((f) => f.modelVersion))).size).toBe(1);
    expect((await predict(a, b)).predictedPhenotype?.weight.basis).toBe("observed");
  });

  it("the same file a second time changes nothing: an answer that was lost can be asked for again", async ({
    expect,
  }) => {
    const file = `female,male,weight\n${await strain()},TC1_022,44`;
    const first = reportOf((await importFile(file)).body);
    const before = await count();
    const again = reportOf((await importFile(file)).body);
    const byAnother = reportOf((await importFile(file, "", stranger.token)).body);
    expect([first, again, byAnother].map(({ accepted, alreadyImported }) => [accepted, alreadyImported])).toEqual([
      [1, false],
      [0, true],
      [0, true],
    ]);
    expect(await count()).toBe(before);
  });

  it("twice at once stores once", async ({ expect }) => {
    const mother = await strain();
    const file = `female,male,weight\n${mother},TC1_022,44`;
    const reports = await Promise.all([importFile(file), importFile(file), importFile(file)]);
    expect(reports.map((answer) => reportOf(answer.body).accepted).sort()).toEqual([0, 0, 1]);
    expect((await call("GET", `/api/observations?strainId=${mother}`)).body.total).toBe(1);
  });

  it("a dry run stores nothing", async ({ expect }) => {
    const mother = await strain();
    const file = `female,male,weight\n${mother},TC1_022,44`;
    expect(reportOf((await importFile(file, "?dryRun=true")).body)).toMatchObject({ dryRun: true, accepted: 1 });
    expect((await call("GET", `/api/observations?strainId=${mother}`)).body.total).toBe(0);
  });

  it("a thousand rows go in at once", async ({ expect }) => {
    const pairs = Array.from({ length: 1_000 }, (_, i) => {
      const id = (n: number) => `TC1_${String(n).padStart(3, "0")}`;
      return [id(21 + (i % 7)), id(21 + ((i + 1 + (i % 5)) % 7))];
    });
    const strains = (await call("GET", "/api/strains")).body.data as { id: string; type: string }[];
    const type = new Map(strains.map((one) => [one.id, one.type]));
    const usable = pairs.filter(([f = "", m = ""]) => type.get(f) !== "male" && type.get(m) !== "female");
    const rows = usable.map(([f, m], i) => `${f},${m},1,${30 + (i % 40)},한글이 들어간 긴 재배지 이름 ${i}`);
    const answer = await importFile(["female,male,n,weight,environment", ...rows].join("\n"));
    expect(reportOf(answer.body)).toMatchObject({ total: usable.length, accepted: usable.length, refused: [] });
  });

  it.for([
    ["no parents", "weight\n5"],
    ["no traits", "female,male\nA,B"],
    ["nothing", ""],
  ] as const)("a file with %s is refused as a whole", async ([, file], { expect }) => {
    expect(await importFile(file)).toMatchObject({ status: 400, body: { error: expect.stringMatching(/[가-힣]/) } });
  });
});

describe("GET /api/model", () => {
  it("says per trait what it rests on, and how its forecasts fared", async ({ expect }) => {
    const data = await model();
    expect(data).toMatchObject({ method: 1, upToDate: true });
    expect(data.traits.weight.nCrosses).toBeGreaterThan(0);
    expect(data.traits.skinThickness.nCrosses).toBe(0);
    expect(data.traits.weight.nStrains).toBeGreaterThanOrEqual(50);
    const { pooled, traits, window } = data.calibration;
    expect(traits.skinThickness).toEqual({ n: 0, coverage80: null, meanConfidence: null, hitRate: null, brier: null });
    expect(traits.weight.n).toBe(window);
    for (const share of [pooled.coverage80, pooled.meanConfidence, pooled.hitRate, pooled.brier]) {
      expect(share).toBeGreaterThanOrEqual(0);
      expect(share).toBeLessThanOrEqual(1);
    }
  });

  it("scores the stored forecasts as defined", async ({ expect }) => {
    const { results } = await env.DB.prepare(
      "select confidence, hit, covered from forecasts where trait = 'firmness'",
    ).all<{ confidence: number; hit: number; covered: number }>();
    const n = results.length;
    const mean = (of: (row: (typeof results)[number]) => number) => results.reduce((sum, row) => sum + of(row), 0) / n;
    const { firmness } = (await model()).calibration.traits;
    expect(firmness.n).toBe(n);
    expect(firmness.coverage80).toBeCloseTo(mean((row) => row.covered));
    expect(firmness.hitRate).toBeCloseTo(mean((row) => row.hit));
    expect(firmness.brier).toBeCloseTo(mean((row) => (row.confidence - row.hit) ** 2));
  });
});
