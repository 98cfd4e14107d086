import { beforeAll, describe, it } from "vitest";
import { CombiningAbilitySchema, RankingSchema, SuggestionsSchema } from "../../../src/breeding/crosses/schemas.ts";
import { PredictionSchema } from "../../../src/breeding/predictions/schemas.ts";
import { call, type Person, person } from "../../support/api.ts";
import { loadSamples } from "../../support/breeding.ts";

let user: Person;
let types: Map<string, string>;
beforeAll(async () => {
  await loadSamples();
  user = await person();
  for (const [female, male, weight] of [
    ["TC1_023", "TC1_022", 120],
    ["TC1_026", "TC1_022", 80],
    ["TC1_027", "TC1_023", 60],
  ] as const) {
    const phenotype = { weight, length: 50, width: 48, sugarContent: 6, firmness: 0.6 };
    const body = { femaleStrainId: female, maleStrainId: male, phenotype, n: 3 };
    await call("POST", "/api/observations", { token: user.token, body });
  }
  const strains = (await call("GET", "/api/strains")).body.data as { id: string; type: string }[];
  types = new Map(strains.map(({ id, type }) => [id, type]));
});

const rank = async (query = "") =>
  RankingSchema.strict().parse((await call("GET", `/api/crosses/ranking?${query}`)).body);

/** Unordered pairs that the strains' types allow. */
function possibleCrosses(): number {
  const ids = [...types.keys()];
  let count = 0;
  for (const [i, a] of ids.entries()) {
    for (const b of ids.slice(i + 1)) {
      const [x, y] = [types.get(a), types.get(b)];
      if (!(x === "male" && y === "male") && !(x === "female" && y === "female")) count++;
    }
  }
  return count;
}

describe("GET /api/crosses/ranking", () => {
  it("ranks every possible cross once, mothers who can bear and fathers who can sire", async ({ expect }) => {
    const first = await rank("limit=100");
    expect(first.total).toBe(possibleCrosses());
    const seen = new Set<string>();
    let last = Number.POSITIVE_INFINITY;
    for (let page = 1; page <= Math.ceil(first.total / 100); page++) {
      for (const row of (await rank(`limit=100&page=${page}`)).data) {
        expect(row.rank).toBe(seen.size + 1);
        expect(row.score).toBeLessThanOrEqual(last);
        expect(types.get(row.femaleStrainId)).not.toBe("male");
        expect(types.get(row.maleStrainId)).not.toBe("female");
        last = row.score;
        seen.add([row.femaleStrainId, row.maleStrainId].sort().join());
      }
    }
    expect(seen.size).toBe(first.total);
  });

  it("answers what a prediction of the same cross does", async ({ expect }) => {
    for (const row of (await rank("limit=3&page=5")).data) {
      const { femaleStrainId, maleStrainId } = row;
      const answer = await call("POST", "/api/predictions", { body: { femaleStrainId, maleStrainId } });
      const { predictedPhenotype } = PredictionSchema.parse(answer.body.data);
      for (const trait of [
        "weight",
        "length",
        "width",
        "ratio",
        "sugarContent",
        "firmness",
        "skinThickness",
      ] as const) {
        const { value, confidence, interval } = predictedPhenotype?.[trait] ?? {};
        expect(row.traits[trait]).toEqual({ value, confidence, interval });
      }
    }
  });

  it("keeps thresholds, size class and strain filters", async ({ expect }) => {
    const sweet = await rank("min=sugarContent:5,weight:40&max=weight:120&limit=100");
    expect(sweet.total).toBeGreaterThan(0);
    expect(sweet.total).toBeLessThan(possibleCrosses());
    for (const { traits, probability } of sweet.data) {
      expect(traits.sugarContent.value).toBeGreaterThanOrEqual(5);
      expect(traits.weight.value).toBeGreaterThanOrEqual(40);
      expect(traits.weight.value).toBeLessThanOrEqual(120);
      expect(probability).toBeGreaterThan(0);
      expect(probability).toBeLessThanOrEqual(1);
    }
    const small = await rank("sizeClass=small&limit=100");
    expect(small.data.every((row) => row.traits.weight.value < 30.005 && row.sizeClass === "small")).toBe(true);
    const named = await rank("strainId=TC1_022&limit=100");
    expect(named.data.every((row) => [row.femaleStrainId, row.maleStrainId].includes("TC1_022"))).toBe(true);
    expect(named.total).toBe(types.size - 1);
    const males = await rank("type=male&limit=100");
    expect(males.data.every((row) => types.get(row.maleStrainId) === "male")).toBe(true);
    const both = await rank("type=female&strainId=TC1_022&limit=100");
    expect(both.data.map((row) => [types.get(row.femaleStrainId), row.maleStrainId])).toEqual(
      both.data.map(() => ["female", "TC1_022"]),
    );
    expect(both.total).toBe([...types.values()].filter((type) => type === "female").length);
  });

  it("leaves out crosses that were measured when asked to, and marks them otherwise", async ({ expect }) => {
    const all = await rank("strainId=TC1_022&limit=100");
    const open = await rank("strainId=TC1_022&limit=100&unrecordedOnly=true");
    const measured = all.data.filter((row) => row.observed).map((row) => row.combinationId);
    expect(measured.length).toBe(2);
    expect(open.total).toBe(all.total - 2);
  });

  it("ranks by weights, by what may be excellent, and by the chance to meet the wishes", async ({ expect }) => {
    const heavy = await rank("weights=weight:1&limit=100");
    const light = await rank("weights=weight:-1&limit=100");
    const weights = (rows: typeof heavy) => rows.data.map((row) => row.traits.weight.value);
    expect(weights(heavy)).toEqual([...weights(heavy)].sort((a, b) => b - a));
    expect(weights(light)).toEqual([...weights(light)].sort((a, b) => a - b));
    const upper = await rank("rankBy=upper&limit=20");
    expect(upper.data.every((row) => row.score > row.index)).toBe(true);
    const likely = await rank("rankBy=probability&min=sugarContent:5.5&limit=20");
    expect(likely.total).toBe(possibleCrosses());
    for (const row of likely.data) expect(row.score).toBeCloseTo(row.probability ?? -1, 3);
  });

  it("gives all of it as CSV, safe for a spreadsheet", async ({ expect }) => {
    const answer = await call<string>("GET", "/api/crosses/ranking?format=csv&sizeClass=medium");
    expect(answer.headers.get("content-type")).toBe("text/csv; charset=utf-8");
    expect(answer.headers.get("content-disposition")).toBe('attachment; filename="crosses.csv"');
    const lines = answer.body.trimEnd().split("\r\n");
    const { total, data } = await rank("sizeClass=medium&limit=1");
    expect(lines.length).toBe(total + 1);
    expect(lines[0]).toContain("rank,femaleStrainId,maleStrainId,score,index,weight,length");
    expect(lines[1]).toContain(`1,${data[0]?.femaleStrainId},${data[0]?.maleStrainId},`);
  });

  it.for([
    "weights=weight",
    "weights=weight:x",
    "weights=height:1",
    "weights=weight:1,weight:2",
    "weights=weight:1:2",
    "weights=weight:0",
    "weights=weight:1e9",
    "weights=",
    "weights=__proto__:1",
    "min=sugarContent:-5",
    "max=weight:999999",
    `min=${"weight:1,".repeat(100)}`,
    "sizeClass=huge",
    "type=hybrid",
    "rankBy=luck",
    "rankBy=probability",
    "page=0",
    "limit=101",
    "format=xml",
    "unrecordedOnly=1",
    "weights=weight:1&weights=weight:2",
  ])("refuses %s", async (query, { expect }) => {
    expect(await call("GET", `/api/crosses/ranking?${query}`)).toMatchObject({
      status: 400,
      body: { success: false, error: expect.stringMatching(/[가-힣]/) },
    });
  });

  it("answers 404 for a strain that is not there", async ({ expect }) => {
    expect((await call("GET", "/api/crosses/ranking?strainId=TC9_999")).status).toBe(404);
  });
});

describe("GET /api/crosses/suggestions", () => {
  it("names crosses that can be made and were not, the most telling first", async ({ expect }) => {
    const answer = await call("GET", "/api/crosses/suggestions?count=6");
    const { data } = SuggestionsSchema.strict().parse(answer.body);
    expect(data.suggestions).toHaveLength(6);
    const open = new Set<string>();
    for (const one of data.suggestions) {
      expect(types.get(one.femaleStrainId)).not.toBe("male");
      expect(types.get(one.maleStrainId)).not.toBe("female");
      expect(["TC1_023-TC1_022", "TC1_026-TC1_022", "TC1_027-TC1_023"]).not.toContain(one.combinationId);
      expect(one.gain).toBeGreaterThan(0);
      expect(one.share).toBeLessThanOrEqual(1);
      open.add(one.combinationId);
    }
    expect(open.size).toBe(6);
    const gains = data.suggestions.map((one) => one.gain);
    expect(gains).toEqual([...gains].sort((a, b) => b - a));
  });

  it("depends on what is wanted", async ({ expect }) => {
    const ids = async (query: string) =>
      SuggestionsSchema.parse((await call("GET", `/api/crosses/suggestions?${query}`)).body).data.suggestions.map(
        (one) => one.combinationId,
      );
    expect(await ids("weights=sugarContent:1&count=5")).not.toEqual(await ids("weights=weight:1&count=5"));
    expect(await ids("min=weight:5000")).toEqual([]);
    for (const query of ["count=0", "count=21", "goals=51", "replicates=0"])
      expect((await call("GET", `/api/crosses/suggestions?${query}`)).status).toBe(400);
  });
});

describe("GET /api/combining-ability", () => {
  const ask = async (query = "") =>
    CombiningAbilitySchema.strict().parse((await call("GET", `/api/combining-ability?${query}`)).body);

  it("gives the GCA of every strain, surer for those that were crossed", async ({ expect }) => {
    const { data } = await ask();
    expect(data.strains.map((strain) => strain.strainId)).toEqual([...types.keys()]);
    const of = (id: string) => data.strains.find((strain) => strain.strainId === id)?.gca.weight;
    expect(of("TC1_022")?.crosses).toBe(2);
    expect(of("TC1_001")?.crosses).toBe(0);
    expect(of("TC1_022")?.sd).toBeLessThan(of("TC1_001")?.sd ?? 0);
    for (const { gca } of data.strains) expect(gca.weight.factor).toBeCloseTo(Math.exp(gca.weight.gca), 3);
    expect(data.strains[0]?.gca.sugarContent.factor).toBeNull();
  });

  it("gives heterosis and SCA of the measured crosses, and of any that is named", async ({ expect }) => {
    const measured = await ask();
    expect(measured.total).toBe(3);
    const cross = measured.data.crosses.find((one) => one.combinationId.includes("TC1_026"));
    const parents = (await Promise.all(
      ["TC1_026", "TC1_022"].map(async (id) => (await call("GET", `/api/strains/${id}`)).body.data),
    )) as { phenotype: { weight: number } }[];
    const mean = parents.reduce((sum, parent) => sum + parent.phenotype.weight, 0) / 2;
    const better = Math.max(...parents.map((parent) => parent.phenotype.weight));
    expect(cross?.effects.weight).toMatchObject({ observed: 80, sca: expect.any(Number) });
    expect(cross?.effects.weight.midParentHeterosis).toBeCloseTo((100 * (80 - mean)) / mean, 1);
    expect(cross?.effects.weight.betterParentHeterosis).toBeCloseTo((100 * (80 - better)) / better, 1);

    const named = await ask("femaleStrainId=TC1_026&maleStrainId=TC1_027");
    expect(named.data.crosses).toHaveLength(1);
    expect(named.data.crosses[0]?.effects.weight).toMatchObject({ observed: null, sca: null });
    const page = await ask("limit=1&page=2");
    expect(page.data.crosses).toEqual([measured.data.crosses[1]]);
    expect(page).toMatchObject({ total: 3, hasMore: true });
    expect((await ask("strainId=TC1_027")).total).toBe(1);
  });

  it("refuses half a cross, unknown strains and wrong roles", async ({ expect }) => {
    const males = [...types].filter(([, type]) => type === "male").map(([id]) => id);
    for (const [query, status] of [
      ["femaleStrainId=TC1_026", 400],
      ["femaleStrainId=TC1_026&maleStrainId=TC9_999", 404],
      ["strainId=TC9_999", 404],
      [`femaleStrainId=${males[0]}&maleStrainId=TC1_022`, 400],
      ["limit=101", 400],
    ] as const) {
      expect((await call("GET", `/api/combining-ability?${query}`)).status).toBe(status);
    }
  });
});

describe("when nothing fits", () => {
  it("the answer is an empty page", async ({ expect }) => {
    expect(await rank("min=weight:5000")).toMatchObject({ data: [], total: 0, hasMore: false });
    const csv = await call<string>("GET", "/api/crosses/ranking?format=csv&min=weight:5000");
    expect(csv.body.trimEnd().split("\r\n")).toHaveLength(1);
  });
});
