import { env } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { type Prediction, PredictionPageSchema, PredictionSchema } from "../../../src/breeding/predictions/schemas.ts";
import { call, type Json, type Person, person } from "../../support/api.ts";
import { loadSamples, newStrainId, workerWith } from "../../support/breeding.ts";

let user: Person;
beforeAll(async () => {
  await loadSamples();
  user = await person();
});

const predict = (femaleStrainId: string, maleStrainId: string, options?: Json) =>
  call("POST", "/api/predictions", { body: { femaleStrainId, maleStrainId, ...(options ? { options } : {}) } });

async function predicted(femaleStrainId: string, maleStrainId: string, options?: Json): Promise<Prediction> {
  const answer = await predict(femaleStrainId, maleStrainId, options);
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return PredictionSchema.strict().parse(answer.body.data);
}

const PHENOTYPE = {
  weight: 52.1,
  length: 43.2,
  width: 45.9,
  sugarContent: 5.6,
  firmness: 0.62,
  skinThickness: 5.1,
  shape: "round",
};

async function strain(overrides: Json = {}): Promise<string> {
  const id = String(overrides.id ?? newStrainId());
  const answer = await call("POST", "/api/strains", {
    token: user.token,
    body: { phenotype: PHENOTYPE, ...overrides, id },
  });
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return id;
}

describe("POST /api/predictions", () => {
  it("answers every trait with an interval around its value, in two decimals", async ({ expect }) => {
    const { predictedPhenotype, modelVersion } = await predicted("TC1_023", "TC1_022");
    if (predictedPhenotype === undefined) throw new Error("no phenotype");
    const { shape, ...traits } = predictedPhenotype;
    expect(Object.keys(traits)).toEqual([
      "weight",
      "length",
      "width",
      "ratio",
      "sugarContent",
      "firmness",
      "skinThickness",
    ]);
    for (const trait of Object.values(traits)) {
      expect(trait.interval.lower).toBeLessThanOrEqual(trait.value);
      expect(trait.interval.upper).toBeGreaterThanOrEqual(trait.value);
      expect(trait.interval.level).toBe(0.8);
      for (const number of [trait.value, trait.confidence, trait.interval.lower, trait.interval.upper])
        expect(Math.abs(number * 100 - Math.round(number * 100))).toBeLessThan(1e-6);
      expect(trait.basis).toBe("parents");
      expect(trait.nCrosses).toBe(0);
    }
    const { length, width, ratio } = traits;
    expect(length.value / width.value).toBeCloseTo(ratio.value, 1);
    const total = Object.values(shape.probabilities).reduce((sum, share) => sum + share, 0);
    expect(total).toBeCloseTo(1, 1);
    expect(shape.confidence).toBe(shape.probabilities[shape.value]);
    expect(modelVersion).toMatch(/^[0-9a-f]{32}$/);
  });

  it("makes both options optional, with the contract's defaults", async ({ expect }) => {
    for (const options of [undefined, {}, { predictPhenotype: true }, { generateImage: false }]) {
      const prediction = await predicted("TC1_023", "TC1_022", options);
      expect(prediction.predictedPhenotype).toBeDefined();
      expect(prediction.generatedImages).toBeUndefined();
    }
  });

  it("leaves the phenotype out when it is not wanted, and keeps the score", async ({ expect }) => {
    const full = await predicted("TC1_023", "TC1_022", { generateImage: true });
    const bare = await predicted("TC1_023", "TC1_022", { predictPhenotype: false, generateImage: true });
    expect(bare.predictedPhenotype).toBeUndefined();
    expect(bare.overallScore).toBe(full.overallScore);
    expect(bare.generatedImages).toEqual(full.generatedImages);
  });

  it("gives the same numbers for a cross and its reciprocal, and for the same cross again", async ({ expect }) => {
    const there = await predicted("TC1_023", "TC1_026");
    const back = await predicted("TC1_026", "TC1_023");
    const again = await predicted("TC1_023", "TC1_026");
    expect(back.predictedPhenotype).toEqual(there.predictedPhenotype);
    expect(again.predictedPhenotype).toEqual(there.predictedPhenotype);
    expect(new Set([there.id, back.id, again.id]).size).toBe(3);
    expect([there.combinationId, back.combinationId]).toEqual(["TC1_023-TC1_026", "TC1_026-TC1_023"]);
  });

  it("refuses parents in the wrong role, and stores nothing", async ({ expect }) => {
    const [male, female] = [await strain({ type: "male" }), await strain({ type: "female" })];
    expect((await predict(female, male)).status).toBe(201);
    const before = (await call("GET", "/api/predictions")).body.total;
    expect(await predict(male, female)).toMatchObject({
      status: 400,
      body: { success: false, error: `부계 전용 계통은 모친으로 사용할 수 없습니다: ${male}` },
    });
    expect(await predict("TC1_022", female)).toMatchObject({
      status: 400,
      body: { error: `모계 전용 계통은 부친으로 사용할 수 없습니다: ${female}` },
    });
    expect((await call("GET", "/api/predictions")).body.total).toBe(before);
  });

  it("answers 404 for a parent that does not exist, whatever its id looks like", async ({ expect }) => {
    for (const id of ["TC9_999", "x".repeat(5000), "' or 1=1 --", "\u0000", "\ud800", "../../x", "🍅", "__proto__"]) {
      for (const body of [
        { maleStrainId: id, femaleStrainId: "TC1_022" },
        { maleStrainId: "TC1_022", femaleStrainId: id },
        { maleStrainId: id, femaleStrainId: id },
      ]) {
        const answer = await call("POST", "/api/predictions", { body });
        expect({ id, status: answer.status, body: answer.body }).toEqual({
          id,
          status: 404,
          body: { success: false, error: "계통을 찾을 수 없습니다" },
        });
      }
    }
  });

  it("works for a strain of which hardly anything is known, and says what it rests on", async ({ expect }) => {
    const unknown = await strain({
      phenotype: {
        weight: null,
        length: null,
        width: null,
        sugarContent: 6.2,
        firmness: null,
        skinThickness: null,
        shape: null,
      },
    });
    const { predictedPhenotype } = await predicted(unknown, "TC1_022");
    expect(predictedPhenotype?.weight.basis).toBe("prior");
    expect(predictedPhenotype?.sugarContent.basis).toBe("parents");
  });

  it("accepts a line crossed with itself, and ids with hyphens, spaces and Hangul", async ({ expect }) => {
    const id = await strain({ id: newStrainId("가 나-다.1") });
    expect((await predict(id, id)).status).toBe(201);
    const prediction = await predicted(id, "TC1_022", { generateImage: true });
    const [url = ""] = prediction.generatedImages ?? [];
    expect(url).toMatch(/^\/images\/tomato\/predictions\/\d{4}\/\d\d\/cross_TC1_022_[%\w.-]+_01\.png$/);
    expect((await call("GET", url)).status).toBe(200);
    const found = await call("GET", `/api/predictions/by-combination/${encodeURIComponent(`${id}-TC1_022`)}`);
    expect(found.body.data).toMatchObject({ id: prediction.id });
  });

  it("ignores fields that are not for the caller to set", async ({ expect }) => {
    const answer = await call("POST", "/api/predictions", {
      body: {
        maleStrainId: "TC1_022",
        femaleStrainId: "TC1_023",
        id: "PRED_1_mine",
        overallScore: 5,
        createdAt: "2020",
        model: "x",
        options: { imageModel: "expensive", size: 4096 },
      },
    });
    expect(answer.status).toBe(201);
    expect(answer.body.data).not.toMatchObject({ overallScore: 5 });
    expect((answer.body.data as Json).id).toMatch(/^PRED_\d{13}_[0-9a-f]{8}$/);
  });
});

describe("stored predictions", () => {
  it("keep both parents as they were", async ({ expect }) => {
    const id = await strain();
    const before = await predicted(id, "TC1_022");
    await call("PUT", `/api/strains/${id}`, {
      token: user.token,
      body: { name: "renamed", phenotype: { ...PHENOTYPE, weight: 200 } },
    });
    expect((await call("GET", `/api/predictions/${before.id}`)).body.data).toEqual(before);
    const after = await predicted(id, "TC1_022");
    expect(after.femaleStrain.phenotype.weight).toBe(200);
    expect(after.modelVersion).not.toBe(before.modelVersion);
    await call("DELETE", `/api/strains/${id}`, { token: user.token });
    expect((await call("GET", `/api/predictions/by-combination/TC1_022/${id}`)).body.data).toEqual(after);
    expect((await predict(id, "TC1_022")).status).toBe(404);
  });

  it("are paged in both directions without gaps or repeats", async ({ expect }) => {
    for (let i = 0; i < 5; i++) await predicted("TC1_027", "TC1_022");
    const pages = async (sort: string) => {
      const ids: string[] = [];
      for (let page = 1; ; page++) {
        const answer = await call("GET", `/api/predictions?page=${page}&limit=3&sort=${sort}`);
        const body = PredictionPageSchema.strict().parse(answer.body);
        ids.push(...body.data.map((prediction) => prediction.id));
        expect(body).toMatchObject({ page, limit: 3, hasMore: ids.length < body.total });
        if (!body.hasMore) return { ids, total: body.total };
      }
    };
    const newestFirst = await pages("desc");
    const oldestFirst = await pages("asc");
    expect(newestFirst.ids).toHaveLength(newestFirst.total);
    expect(new Set(newestFirst.ids).size).toBe(newestFirst.total);
    expect([...oldestFirst.ids].reverse()).toEqual(newestFirst.ids);
    const beyond = await call("GET", "/api/predictions?page=9999");
    expect(beyond).toMatchObject({ status: 200, body: { data: [], hasMore: false, total: newestFirst.total } });
  });

  it("are found by cross: the newest one", async ({ expect }) => {
    const [female, male] = [await strain(), await strain()];
    await predicted(female, male);
    const newest = await predicted(female, male);
    for (const path of [`${male}/${female}`, `${female}-${male}`]) {
      expect((await call("GET", `/api/predictions/by-combination/${path}`)).body.data).toEqual(newest);
    }
    expect((await call("GET", `/api/predictions/by-combination/${female}/${male}`)).status).toBe(404);
  });

  it("with hyphens in their ids: a key that fits two crosses is no key", async ({ expect }) => {
    const stem = newStrainId("H");
    const [a, ab, bc, c] = [`${stem}`, `${stem}-B`, `B-${stem}`, `C-${stem}`];
    for (const id of [a, ab, bc, c]) await strain({ id });
    await strain({ id: `B-${c}` });
    await predicted(ab, c);
    const key = `${ab}-${c}`;
    expect((await call("GET", `/api/predictions/by-combination/${key}`)).body.data).toMatchObject({
      femaleStrain: { id: ab },
    });
    await predicted(a, `B-${c}`);
    expect(await call("GET", `/api/predictions/by-combination/${key}`)).toMatchObject({
      status: 400,
      body: { success: false, error: "잘못된 조합 키 형식" },
    });
    expect((await call("GET", `/api/predictions/by-combination/${c}/${ab}`)).status).toBe(200);
  });

  it("answer 404 for ids of any other form", async ({ expect }) => {
    for (const id of ["1", "PRED_1_x", "PRED_1763366644698_A3F2B1C4", "%00", "' or 1=1 --", "existing-combination"]) {
      const answer = await call("GET", `/api/predictions/${encodeURIComponent(id)}`);
      expect(answer).toMatchObject({ status: 404, body: { error: "예측을 찾을 수 없습니다" } });
    }
  });

  it("existing combinations come in bounded pages", async ({ expect }) => {
    const all = await call("GET", "/api/predictions/existing-combinations");
    const { combinationIds, total } = all.body.data as { combinationIds: string[]; total: number };
    expect(total).toBe(combinationIds.length);
    const page = await call("GET", "/api/predictions/existing-combinations?page=2&limit=1");
    expect(page.body.data).toEqual({ combinationIds: [combinationIds[1]], total, hasMore: total > 2 });
    for (const query of ["limit=0", "limit=10001", "page=0"])
      expect((await call("GET", `/api/predictions/existing-combinations?${query}`)).status).toBe(400);
  });
});

describe("the model behind a prediction", () => {
  const isolate = () => workerWith({ BUCKET: env.BUCKET });

  it("is read from the store by another isolate, with the same numbers", async ({ expect }) => {
    const here = await predicted("TC1_023", "TC1_022");
    const there = await isolate()("POST", "/api/predictions", {
      body: { femaleStrainId: "TC1_023", maleStrainId: "TC1_022" },
    });
    expect(there.body.data).toMatchObject({
      predictedPhenotype: here.predictedPhenotype,
      modelVersion: here.modelVersion,
    });
  });

  it("is fitted anew where its object is lost or damaged", async ({ expect }) => {
    const before = await predicted("TC1_023", "TC1_022");
    const key = `breeding/models/${before.modelVersion}.bin`;
    for (const damage of [
      () => env.BUCKET.delete(key),
      () => env.BUCKET.put(key, "nonsense"),
      async () => env.BUCKET.put(key, (await (await env.BUCKET.get(key))?.arrayBuffer())?.slice(0, 1000) ?? ""),
    ]) {
      await damage();
      const answer = await isolate()("POST", "/api/predictions", {
        body: { femaleStrainId: "TC1_023", maleStrainId: "TC1_022" },
      });
      expect(answer.status).toBe(201);
      expect(answer.body.data).toMatchObject({ predictedPhenotype: before.predictedPhenotype });
      expect((await env.BUCKET.head(key))?.size).toBeGreaterThan(1000);
    }
  });

  it("is fitted by the next reader when a write was cut off before it could", async ({ expect }) => {
    const before = await predicted("TC1_023", "TC1_022");
    // As after a crash between the change and the fit, a minute ago.
    await env.DB.batch([
      env.DB.prepare("update strains set weight = weight * 3 where id = 'TC1_023'"),
      env.DB.prepare("update breeding_state set revision = revision + 1, changed_at = ?").bind(Date.now() - 60_000),
    ]);
    const after = await predicted("TC1_023", "TC1_022");
    expect(after.modelVersion).not.toBe(before.modelVersion);
    expect(after.predictedPhenotype?.weight.value).toBeGreaterThan(before.predictedPhenotype?.weight.value ?? 0);
    const state = await env.DB.prepare("select revision = model_revision as current from breeding_state").first();
    expect(state).toEqual({ current: 1 });
  });

  it("serves without a fit while a writer may still be at it", async ({ expect }) => {
    const before = await predicted("TC1_023", "TC1_022");
    await env.DB.prepare("update breeding_state set revision = revision + 1, changed_at = ?").bind(Date.now()).run();
    expect((await predicted("TC1_023", "TC1_022")).modelVersion).toBe(before.modelVersion);
    await env.DB.prepare("update breeding_state set changed_at = 0").run();
    await predicted("TC1_023", "TC1_022");
  });

  it("keeps only the newest versions in the store", async ({ expect }) => {
    const id = await strain();
    for (let weight = 1; weight <= 14; weight++)
      await call("PUT", `/api/strains/${id}`, { token: user.token, body: { phenotype: { ...PHENOTYPE, weight } } });
    const { objects } = await env.BUCKET.list({ prefix: "breeding/models/" });
    const { n } = (await env.DB.prepare("select count(*) as n from model_fits").first<{ n: number }>()) ?? { n: 0 };
    expect(objects.length).toBe(n);
    expect(n).toBeLessThanOrEqual(11);
    expect((await predict(id, "TC1_022")).status).toBe(201);
  });
});
