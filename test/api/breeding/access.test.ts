import { env } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { createApp } from "../../../src/app.ts";
import type { Json, Person } from "../../support/api.ts";
import { person } from "../../support/api.ts";
import { loadSamples, newStrainId, workerWith } from "../../support/breeding.ts";

/**
 * Every route of the Breeding API, asked by everybody in both phases. The routes are read from the composed app, so a new one
 * without a row here fails the first test.
 */

const CALLERS = ["nobody", "stranger", "owner", "admin"] as const;
type Caller = (typeof CALLERS)[number];
type Sent = { path?: Record<string, string>; query?: string; body?: unknown; headers?: Record<string, string> };
/** What is sent, made anew for each caller, and the statuses in the order of `CALLERS`. */
type Row = { send?: () => Promise<Sent> | Sent; phase1: readonly number[]; phase2: readonly number[] };

const worker = workerWith({ BREEDING_PHASE: "1" });
const workerOfPhase2 = workerWith({ BREEDING_PHASE: "2" });

let people: Record<Exclude<Caller, "nobody">, Person>;

const PHENOTYPE = {
  weight: 52.1,
  length: 43.2,
  width: 45.9,
  sugarContent: 5.6,
  firmness: 0.62,
  skinThickness: 5.1,
  shape: "round",
};
const PARENTS = { maleStrainId: "TC1_022", femaleStrainId: "TC1_023" };
const csv = { "content-type": "text/csv" };

/** Data that a test relies on. */
function made(answer: { status: number; body: Json }): Json {
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return answer.body.data as Json;
}
/** A strain of the owner's. */
async function someStrain(): Promise<string> {
  const id = newStrainId("A");
  made(await worker("POST", "/api/strains", { token: people.owner.token, body: { id, phenotype: PHENOTYPE } }));
  return id;
}
/** A measured cross of the owner's. */
async function someObservation(): Promise<string> {
  const body = { ...PARENTS, phenotype: { weight: 50 } };
  return String(made(await worker("POST", "/api/observations", { token: people.owner.token, body })).id);
}
const somePrediction = async () =>
  String(made(await worker("POST", "/api/predictions", { token: people.owner.token, body: PARENTS })).id);

/** Always open: the document, and pictures, since an `<img>` sends no token. */
const open = (send?: Row["send"]): Row => ({ send, phase1: [200, 200, 200, 200], phase2: [200, 200, 200, 200] });
/** Open in phase 1, any user's in phase 2. */
const read = (send?: Row["send"], status = 200): Row => ({
  send,
  phase1: [status, status, status, status],
  phase2: [401, status, status, status],
});
/** Any user's, in either phase. */
const write = (status: number, send: Row["send"]): Row => {
  const statuses = [401, status, status, status];
  return { send, phase1: statuses, phase2: statuses };
};
/** Who made the thing, and administrators. */
const own = (send: Row["send"], status = 200): Row => {
  const statuses = [401, 403, status, status];
  return { send, phase1: statuses, phase2: statuses };
};

const ROUTES: Record<string, Row> = {
  "GET /api/openapi.json": open(),
  "GET /images/tomato/strains/:file": open(() => ({ path: { file: "TC1_022.png" } })),
  // Reaches the look-up: there is no such picture, whoever asks.
  "GET /images/tomato/predictions/:year/:month/:file": {
    send: () => ({ path: { year: "2025", month: "11", file: "cross_A_B_01.png" } }),
    phase1: [404, 404, 404, 404],
    phase2: [404, 404, 404, 404],
  },

  "GET /api/strains": read(),
  "GET /api/strains/export": read(),
  "GET /api/strains/:id": read(() => ({ path: { id: "TC1_022" } })),
  "POST /api/strains": write(201, () => ({ body: { id: newStrainId("A"), phenotype: PHENOTYPE } })),
  "PUT /api/strains/:id": own(async () => ({ path: { id: await someStrain() }, body: { phenotype: PHENOTYPE } })),
  "DELETE /api/strains/:id": own(async () => ({ path: { id: await someStrain() } })),
  "POST /api/strains/import": write(200, () => ({
    query: "dryRun=true&allowMissing=true",
    body: `id,weight\n${newStrainId("A")},50\n`,
    headers: csv,
  })),
  // Reaches the handler's own check for those who may: these bytes are no picture.
  "PUT /api/strains/:id/image": own(
    async () => ({ path: { id: await someStrain() }, body: "no picture", headers: { "content-type": "image/png" } }),
    400,
  ),
  "DELETE /api/strains/:id/image": own(async () => ({ path: { id: await someStrain() } })),

  "POST /api/predictions": read(() => ({ body: PARENTS }), 201),
  "GET /api/predictions": read(),
  "GET /api/predictions/existing-combinations": read(),
  "GET /api/predictions/by-combination/:maleId/:femaleId": read(() => ({
    path: { maleId: PARENTS.maleStrainId, femaleId: PARENTS.femaleStrainId },
  })),
  "GET /api/predictions/by-combination/:combinationId": read(() => ({ path: { combinationId: "TC1_023-TC1_022" } })),
  "GET /api/predictions/:id": read(async () => ({ path: { id: await somePrediction() } })),

  "GET /api/observations": read(),
  "POST /api/observations": write(201, () => ({ body: { ...PARENTS, phenotype: { weight: 50 } } })),
  "DELETE /api/observations/:id": own(async () => ({ path: { id: await someObservation() } })),
  "POST /api/observations/import": write(200, () => ({
    query: "dryRun=true",
    body: "female,male,weight\nTC1_023,TC1_022,50\n",
    headers: csv,
  })),

  "GET /api/model": read(),
  "GET /api/crosses/ranking": read(),
  "GET /api/crosses/suggestions": read(() => ({ query: "count=1" })),
  "GET /api/combining-ability": read(),
};

const routes = [
  ...new Set(
    createApp()
      .routes.filter(({ method, path }) => method !== "ALL" && /^\/(api(?!\/v1(\/|$))|images)(\/|$)/.test(path))
      .map(({ method, path }) => `${method} ${path}`),
  ),
];

beforeAll(async () => {
  await loadSamples();
  const [stranger, owner, admin] = await Promise.all([person(), person(), person()]);
  await env.DB.prepare("update users set is_admin = 1 where id = ?").bind(admin.id).run();
  people = { stranger, owner, admin };
  // The routes that look for one find it.
  await somePrediction();
});

describe("every route of the Breeding API", () => {
  it("has a row in the table, and the table has no row for a route that is gone", ({ expect }) => {
    expect([...routes].sort()).toEqual(Object.keys(ROUTES).sort());
    expect(routes.filter((route) => !route.startsWith("GET ")).length).toBeGreaterThan(8);
  });

  it.for(routes)("%s", async (route, { expect }) => {
    const row = ROUTES[route];
    if (row === undefined) throw new Error("no row in the table");
    const [method = "", pattern = ""] = route.split(" ");
    for (const [phase, ask] of [
      ["phase1", worker],
      ["phase2", workerOfPhase2],
    ] as const) {
      const statuses: Partial<Record<Caller, number>> = {};
      for (const caller of CALLERS) {
        const { path, query, body, headers } = (await row.send?.()) ?? {};
        const filled = pattern.replace(/:(\w+)/g, (_, name: string) => path?.[name] ?? `no-${name}`);
        const answer = await ask(method, query === undefined ? filled : `${filled}?${query}`, {
          token: caller === "nobody" ? undefined : people[caller].token,
          body,
          headers: { ...headers, "cf-connecting-ip": newStrainId("address") },
        });
        statuses[caller] = answer.status;
        if (answer.status >= 400) expect(answer.body, `${phase} ${caller}`).toMatchObject({ success: false });
        if (answer.status === 401) expect(answer.headers.get("www-authenticate")).toBe("Bearer");
      }
      expect({ phase, statuses }).toEqual({
        phase,
        statuses: Object.fromEntries(CALLERS.map((caller, i) => [caller, row[phase][i]])),
      });
    }
  });
});
