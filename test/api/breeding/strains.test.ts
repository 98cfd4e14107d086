import { env } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { BREEDING_LIMITS } from "../../../src/breeding/limits.ts";
import {
  ImportAnswerSchema,
  StrainAnswerSchema,
  StrainListSchema,
  StrainWrittenSchema,
} from "../../../src/breeding/strains/schemas.ts";
import { call, type Json, type Person, person } from "../../support/api.ts";
import { loadSamples, newStrainId } from "../../support/breeding.ts";

const PHENOTYPE = {
  weight: 52.1,
  length: 43.2,
  width: 45.9,
  sugarContent: 5.6,
  firmness: 0.62,
  skinThickness: 5.1,
  shape: "round",
};

/** Two strains as Korean Excel writes them: cp949, header 계통명, 과중 (g), …, 과형, 구분. */
const KOREAN_FILE =
  "sOjF67jtLLD6wd8gKGcpLLD6wOUgKG1tKSyw+sb4IChtbSkstOe1tSAoJSkssPq9x7DmtbUgKGtnKSyw+sfHtc6ysiAobW0pLLD6x/wssbi60A0KS1JfMSw1Mi4xLDQzLjIsNDUuOSw1LjYsMC42Miw1LjEstdWx27TZLL7nv+sNCktSXzIsMTIuNCwyOC4xLDI1LjAsNy45LDAuNDUsMy4yLLTesL/H/Cy6zrDoDQo=";

let owner: Person;
let stranger: Person;
let admin: Person;
beforeAll(async () => {
  await loadSamples();
  [owner, stranger, admin] = await Promise.all([person(), person(), person({ admin: true })]);
});

const create = (by: Person | undefined, body: Json) => call("POST", "/api/strains", { token: by?.token, body });

async function stored(overrides: Json = {}, by = owner): Promise<string> {
  const id = String(overrides.id ?? newStrainId());
  const answer = await create(by, { phenotype: PHENOTYPE, ...overrides, id });
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return id;
}

const importFile = (by: Person, file: string | Uint8Array, query = "") =>
  call("POST", `/api/strains/import${query}`, {
    token: by.token,
    body: file,
    headers: { "content-type": "text/csv" },
  });

const reportOf = (body: unknown) => ImportAnswerSchema.parse(body).data;
const idsOf = (body: Json) => (body.data as Json[]).map((strain) => strain.id);

describe("GET /api/strains", () => {
  it("answers the declared form, ordered by id", async ({ expect }) => {
    const answer = await call("GET", "/api/strains");
    const { data, total } = StrainListSchema.strict().parse(answer.body);
    expect(total).toBe(data.length);
    expect(data.map((strain) => strain.id)).toEqual([...data.map((strain) => strain.id)].sort());
    expect(data.filter((strain) => strain.metadata.isSample).length).toBe(50);
    expect(new Set(data.map((strain) => strain.type))).toEqual(new Set(["male", "female", "both"]));
  });

  it("filters by exact type, and by what a strain can be used as", async ({ expect }) => {
    for (const type of ["male", "female", "both"]) {
      const { data } = StrainListSchema.parse((await call("GET", `/api/strains?type=${type}`)).body);
      expect(data.length).toBeGreaterThan(0);
      expect(data.every((strain) => strain.type === type)).toBe(true);
    }
    const mothers = StrainListSchema.parse((await call("GET", "/api/strains?usableAs=female")).body).data;
    expect(new Set(mothers.map((strain) => strain.type))).toEqual(new Set(["female", "both"]));
  });

  it("searches ids and names whatever their case, and takes the text literally", async ({ expect }) => {
    const id = newStrainId("search");
    await create(owner, { id, name: "Ünïté 100%_빨강", phenotype: PHENOTYPE });
    for (const search of [id.toUpperCase(), "ÜNÏTÉ", "100%_", "빨강".normalize("NFD")]) {
      const answer = await call("GET", `/api/strains?search=${encodeURIComponent(search)}`);
      expect(idsOf(answer.body)).toEqual([id]);
    }
    for (const search of ["%", "_%_", "' or 1=1 --", "\u0000", "x".repeat(60), "\\", "*"]) {
      const answer = await call("GET", `/api/strains?search=${encodeURIComponent(search)}`);
      expect(answer.status).toBe(200);
      expect(idsOf(answer.body).filter((found) => found !== id)).toEqual([]);
    }
    expect((await call("GET", "/api/strains?search=TC1_02&type=both&unknown=1")).status).toBe(200);
    expect((await call("GET", "/api/strains?search=%ED%A0%80")).status).toBe(200);
  });
});

describe("one strain", () => {
  it("is created, read, changed and deleted", async ({ expect }) => {
    const id = newStrainId("새 계통-1.0");
    const created = await create(owner, {
      id,
      type: "female",
      phenotype: PHENOTYPE,
      shapeKo: "둥글다",
      source: "밭 3",
    });
    expect(created.status).toBe(201);
    const { data } = StrainWrittenSchema.strict().parse(created.body);
    expect(data).toMatchObject({
      id,
      name: id,
      type: "female",
      phenotype: { ...PHENOTYPE, ratio: 0.9412 },
      metadata: { source: "밭 3", isSample: false, shapeKo: "둥글다", imageSource: "rendered" },
    });
    expect(data.metadata.imageUrl).toBe(`/images/tomato/strains/${encodeURIComponent(id)}.png`);

    const path = `/api/strains/${encodeURIComponent(id)}`;
    expect(StrainAnswerSchema.parse((await call("GET", path)).body).data).toEqual(data);
    const changed = await call("PUT", path, {
      token: owner.token,
      body: { name: "이름", phenotype: { ...PHENOTYPE, sugarContent: null } },
    });
    expect(changed.status).toBe(200);
    expect(changed.body.data).toMatchObject({
      id,
      name: "이름",
      type: "both",
      phenotype: { sugarContent: null },
      metadata: { source: "밭 3", createdAt: data.metadata.createdAt },
    });
    const removed = await call("DELETE", path, { token: owner.token });
    expect(removed).toMatchObject({ status: 200, body: { success: true, data: { id } } });
    expect((await call("GET", path)).status).toBe(404);
    expect((await call("DELETE", path, { token: owner.token })).status).toBe(404);
    expect((await call("PUT", path, { token: owner.token, body: { phenotype: PHENOTYPE } })).status).toBe(404);
  });

  it("is found under its id in whatever form of Unicode it is asked for", async ({ expect }) => {
    const id = await stored({ id: newStrainId("한글") });
    const answer = await call("GET", `/api/strains/${encodeURIComponent(id.normalize("NFD"))}`);
    expect(answer.status).toBe(200);
  });

  it.for([
    ["id with a slash", { id: "a/b" }],
    ["id that goes up", { id: ".." }],
    ["id with a control character", { id: "a\u0000b" }],
    ["id of 65 characters", { id: "x".repeat(65) }],
    ["id that is a word of the API", { id: "import" }],
    ["empty id", { id: "" }],
    ["no id", { id: undefined }],
    ["unknown type", { type: "hermaphrodite" }],
    ["negative weight", { phenotype: { ...PHENOTYPE, weight: -1 } }],
    ["zero length", { phenotype: { ...PHENOTYPE, length: 0 } }],
    ["absurd sugar", { phenotype: { ...PHENOTYPE, sugarContent: 400 } }],
    ["text for a number", { phenotype: { ...PHENOTYPE, firmness: "hard" } }],
    ["a trait left out", { phenotype: { ...PHENOTYPE, firmness: undefined } }],
    ["a ratio that length and width contradict", { phenotype: { ...PHENOTYPE, ratio: 1.2 } }],
    ["unknown shape", { phenotype: { ...PHENOTYPE, shape: "star" } }],
    ["unknown trait", { phenotype: { ...PHENOTYPE, lycopene: 3 } }],
    ["no phenotype", { phenotype: undefined }],
    ["a field that is not for the caller to set", { createdBy: 1 }],
    ["name of two lines", { name: "a\nb" }],
  ] as const)("is refused with %s, and nothing is stored", async ([, overrides], { expect }) => {
    const id = newStrainId();
    const answer = await create(owner, { id, phenotype: PHENOTYPE, ...overrides });
    expect(answer).toMatchObject({ status: 400, body: { success: false, error: expect.stringMatching(/[가-힣]/) } });
    expect((await call("GET", `/api/strains/${id}`)).status).toBe(404);
  });

  it("keeps its id: a second one under it is refused and the first unchanged", async ({ expect }) => {
    const id = await stored();
    const before = await call("GET", `/api/strains/${id}`);
    for (const by of [owner, stranger]) {
      const again = await create(by, { id, phenotype: { ...PHENOTYPE, weight: 1 } });
      expect(again).toMatchObject({ status: 400, body: { error: expect.stringContaining(id) } });
    }
    expect((await call("GET", `/api/strains/${id}`)).body).toEqual(before.body);
  });

  it("created twice at once is created once", async ({ expect }) => {
    const id = newStrainId();
    const answers = await Promise.all([1, 2, 3].map(() => create(owner, { id, phenotype: PHENOTYPE })));
    expect(answers.map((answer) => answer.status).sort()).toEqual([201, 400, 400]);
  });

  it("ignores keys that would reach the prototype", async ({ expect }) => {
    const id = newStrainId();
    const body = `{"id":"${id}","__proto__":{"polluted":true},"phenotype":${JSON.stringify(PHENOTYPE)}}`;
    const answer = await call("POST", "/api/strains", {
      token: owner.token,
      body,
      headers: { "content-type": "application/json" },
    });
    expect([201, 400]).toContain(answer.status);
    expect(({} as Json).polluted).toBeUndefined();
  });
});

describe("who may write", () => {
  it("nobody without a token, in phase 1 too", async ({ expect }) => {
    const id = await stored();
    for (const [method, path, body] of [
      ["POST", "/api/strains", { id: newStrainId(), phenotype: PHENOTYPE }],
      ["PUT", `/api/strains/${id}`, { phenotype: PHENOTYPE }],
      ["DELETE", `/api/strains/${id}`],
      ["POST", "/api/strains/import", "id,weight\nX,5"],
      ["PUT", `/api/strains/${id}/image`, Uint8Array.of(1)],
      ["DELETE", `/api/strains/${id}/image`],
    ] as const) {
      for (const token of [undefined, "nonsense"]) {
        const answer = await call(method, path, { body, token });
        expect({ method, path, status: answer.status, body: answer.body }).toEqual({
          method,
          path,
          status: 401,
          body: { success: false, error: "유효한 액세스 토큰이 필요합니다" },
        });
        expect(answer.headers.get("www-authenticate")).toBe("Bearer");
      }
    }
  });

  it("not a user who is gone: the token alone does not do", async ({ expect }) => {
    const gone = await person();
    const id = await stored();
    await env.DB.prepare("update users set disabled_at = 1 where id = ?").bind(gone.id).run();
    for (const [method, path, body] of [
      ["POST", "/api/strains", { id: newStrainId(), phenotype: PHENOTYPE }],
      ["PUT", `/api/strains/${id}`, { phenotype: PHENOTYPE }],
      ["DELETE", `/api/strains/${id}`],
      ["POST", "/api/strains/import?allowMissing=true", "id,weight\nX,5"],
      ["POST", "/api/strains/import?allowMissing=true&dryRun=true", "id,weight\nX,5"],
      ["DELETE", `/api/strains/${id}/image`],
    ] as const) {
      const answer = await call(method, path, { body, token: gone.token });
      expect({ method, path, status: answer.status }).toEqual({ method, path, status: 401 });
    }
    expect((await call("GET", "/api/strains/X")).status).toBe(404);
  });

  it("a stranger reads but cannot change; the owner and administrators can", async ({ expect }) => {
    const id = await stored();
    const path = `/api/strains/${id}`;
    const before = await call("GET", path);
    for (const [method, url, body] of [
      ["PUT", path, { phenotype: { ...PHENOTYPE, weight: 1 } }],
      ["DELETE", path],
      ["DELETE", `${path}/image`],
    ] as const) {
      const answer = await call(method, url, { token: stranger.token, body });
      expect(answer).toMatchObject({ status: 403, body: { success: false, error: expect.stringMatching(/[가-힣]/) } });
    }
    expect((await call("GET", path)).body).toEqual(before.body);
    expect((await call("PUT", path, { token: admin.token, body: { phenotype: PHENOTYPE } })).status).toBe(200);
    expect((await call("DELETE", path, { token: admin.token })).status).toBe(200);
  });

  it("anybody with an account changes what nobody in particular added", async ({ expect }) => {
    const answer = await call("PUT", "/api/strains/TC1_010", { token: stranger.token, body: { phenotype: PHENOTYPE } });
    expect(answer.status).toBe(200);
  });
});

describe("import and export", () => {
  it("reads a Korean file in cp949 and keeps the word of the shape", async ({ expect }) => {
    const file = Uint8Array.from(atob(KOREAN_FILE), (char) => char.charCodeAt(0));
    const answer = await importFile(owner, file);
    expect(answer.status).toBe(200);
    expect(reportOf(answer.body)).toMatchObject({ encoding: "cp949", total: 2, accepted: 2, created: 2, refused: [] });
    expect((await call("GET", "/api/strains/KR_1")).body.data).toMatchObject({
      phenotype: { weight: 52.1, shape: "round" },
      metadata: { shapeKo: "둥글다", source: "csv import" },
    });
    expect((await call("GET", "/api/strains/KR_2")).body.data).toMatchObject({
      type: "male",
      phenotype: { shape: "oval" },
    });
  });

  it("stores the rows that are in order and reports the others by line", async ({ expect }) => {
    const [good, other] = [newStrainId(), newStrainId()];
    const header = "id\tweight\tlength\twidth\tbrix\tfirmness\tskinThickness\tshape\ttype";
    const row = (id: string, weight = "40") => `${id}\t${weight}\t40\t38\t5\t0.5\t5\tround\tboth`;
    const file = [header, row(good), row("bad id!"), row(other, "heavy"), row(good), `${newStrainId()}\t40`].join("\n");
    const report = reportOf((await importFile(owner, `\uFEFF${file}`)).body);
    expect(report).toMatchObject({ encoding: "utf-8", total: 5, accepted: 1, created: 1, updated: 0 });
    expect(report.refused.map(({ line, code }) => [line, code])).toEqual([
      [3, "ID_INVALID"],
      [4, "NOT_A_NUMBER"],
      [5, "DUPLICATE"],
      [6, "INCOMPLETE"],
    ]);
    expect((await call("GET", `/api/strains/${good}`)).status).toBe(200);
    expect((await call("GET", `/api/strains/${other}`)).status).toBe(404);
  });

  it("takes incomplete rows only when asked to, and leaves unknown values unknown", async ({ expect }) => {
    const id = newStrainId();
    const file = `Genotype,FruitWeight,SugarContent\n${id},31.5,NA`;
    expect(reportOf((await importFile(owner, file)).body)).toMatchObject({ accepted: 0 });
    expect((await call("GET", `/api/strains/${id}`)).status).toBe(404);
    expect(reportOf((await importFile(owner, file, "?allowMissing=true")).body)).toMatchObject({ created: 1 });
    expect((await call("GET", `/api/strains/${id}`)).body.data).toMatchObject({
      phenotype: { weight: 31.5, sugarContent: null, length: null, shape: null },
    });
    const predicted = await call("POST", "/api/predictions", { body: { maleStrainId: id, femaleStrainId: "TC1_022" } });
    expect(predicted.status).toBe(201);
  });

  it("the same file again updates; a changed one changes", async ({ expect }) => {
    const id = newStrainId();
    const file = (weight: number) => `id,weight\n${id},${weight}`;
    const first = reportOf((await importFile(owner, file(10), "?allowMissing=true")).body);
    const again = reportOf((await importFile(owner, file(10), "?allowMissing=true")).body);
    const changed = reportOf((await importFile(owner, file(20), "?allowMissing=true")).body);
    expect([first, again, changed].map(({ created, updated }) => [created, updated])).toEqual([
      [1, 0],
      [0, 1],
      [0, 1],
    ]);
    expect((await call("GET", `/api/strains/${id}`)).body.data).toMatchObject({ phenotype: { weight: 20 } });
  });

  it("a dry run says the same and stores nothing", async ({ expect }) => {
    const [mine, unknown, theirs] = [await stored(), newStrainId(), await stored({}, stranger)];
    const file = `id,weight\n${mine},1\n${unknown},2\n${theirs},3`;
    const dry = reportOf((await importFile(owner, file, "?allowMissing=true&dryRun=true")).body);
    expect(dry).toMatchObject({ dryRun: true, accepted: 2, created: 1, updated: 1 });
    expect(dry.refused).toMatchObject([{ line: 4, code: "NOT_ALLOWED" }]);
    expect((await call("GET", `/api/strains/${unknown}`)).status).toBe(404);
    const real = reportOf((await importFile(owner, file, "?allowMissing=true")).body);
    expect({ ...real, dryRun: true }).toEqual(dry);
    expect((await call("GET", `/api/strains/${theirs}`)).body.data).toMatchObject({ phenotype: { weight: 52.1 } });
    expect((await call("GET", `/api/strains/${mine}`)).body.data).toMatchObject({ phenotype: { weight: 1 } });
  });

  it("what is exported imports back identically", async ({ expect }) => {
    await stored({ name: "=HYPERLINK(1)", shapeKo: "둥글다" });
    const exported = await call<string>("GET", "/api/strains/export");
    expect(exported.headers.get("content-type")).toBe("text/csv; charset=utf-8");
    expect(exported.headers.get("content-disposition")).toContain("attachment");
    const before = StrainListSchema.parse((await call("GET", "/api/strains")).body).data;
    const report = reportOf((await importFile(admin, exported.body, "?allowMissing=true")).body);
    expect(report).toMatchObject({ total: before.length, updated: before.length, refused: [] });
    const after = StrainListSchema.parse((await call("GET", "/api/strains")).body).data;
    const facts = (list: typeof before) =>
      list.map(({ id, name, type, phenotype, metadata }) => ({ id, name, type, phenotype, ko: metadata.shapeKo }));
    expect(facts(after)).toEqual(facts(before));
    expect((await call<string>("GET", "/api/strains/export")).body).toBe(exported.body);
    expect(exported.body).toContain("'=HYPERLINK(1)");
  });

  it.for([
    ["nothing", ""],
    ["no header it knows", "a,b\n1,2"],
    ["an open quote", 'id,weight\nX,"5'],
    ["bytes of no encoding", Uint8Array.of(0xff, 0xff, 0x80, 0x0a)],
    ["a workbook", Uint8Array.of(0x50, 0x4b, 0x03, 0x04, 0xff, 0xff)],
  ] as const)("a file of %s is refused as a whole", async ([, file], { expect }) => {
    const answer = await importFile(owner, file, "?allowMissing=true");
    expect(answer).toMatchObject({ status: 400, body: { success: false, error: expect.stringMatching(/[가-힣]/) } });
  });

  it("a file above the size limit is refused, whether or not it says how long it is", async ({ expect }) => {
    const answer = await importFile(owner, new Uint8Array(BREEDING_LIMITS.importBytes + 1).fill(0x41));
    expect(answer).toMatchObject({ status: 400, body: { success: false } });
  });

  it("more strains than there is room for are refused, all of them", async ({ expect }) => {
    const rows = Array.from({ length: BREEDING_LIMITS.strains }, (_, i) => `${newStrainId(`many${i}`)},5`);
    const before = (await call("GET", "/api/strains")).body.total;
    const answer = await importFile(owner, ["id,weight", ...rows].join("\n"), "?allowMissing=true");
    expect(answer).toMatchObject({ status: 400, body: { error: expect.stringContaining("500") } });
    expect((await call("GET", "/api/strains")).body.total).toBe(before);
  });
});
