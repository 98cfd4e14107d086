import { env } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { signAccessToken } from "../../../src/auth/tokens.ts";
import { randomHex } from "../../../src/shared/ids.ts";
import { call, type Json, type Person, person } from "../../support/api.ts";
import { loadSamples, newStrainId, workerWith } from "../../support/breeding.ts";

let user: Person;
let other: Person;
beforeAll(async () => {
  await loadSamples();
  [user, other] = await Promise.all([person(), person()]);
});

const phaseTwo = (variables: Record<string, string> = {}) => workerWith({ BREEDING_PHASE: "2", ...variables });

/** Small quotas: the counting is the same and the test short. */
const QUOTAS = JSON.stringify({ per15Minutes: 3, perHour: 5 });

const READS = [
  "/api/strains",
  "/api/strains/TC1_022",
  "/api/strains/export",
  "/api/predictions",
  "/api/predictions/PRED_1763366644698_a3f2b1c4",
  "/api/predictions/existing-combinations",
  "/api/predictions/by-combination/TC1_022/TC1_023",
  "/api/predictions/by-combination/TC1_023-TC1_022",
  "/api/observations",
  "/api/model",
  "/api/crosses/ranking",
  "/api/crosses/suggestions?count=1",
  "/api/combining-ability",
];

const address = () => ({ "cf-connecting-ip": `192.0.2.${Math.floor(Math.random() * 250)}-${randomHex(4)}` });

describe("phase 2", () => {
  it("asks for a token on every route of the API, errors in its envelope", async ({ expect }) => {
    const worker = phaseTwo();
    const calls = [
      ...READS.map((path) => ["GET", path] as const),
      ["POST", "/api/predictions"] as const,
      ["POST", "/api/strains"] as const,
    ];
    for (const [method, path] of calls) {
      const answer = await worker(method, path, { headers: address() });
      expect({ path, status: answer.status, body: answer.body }).toEqual({
        path,
        status: 401,
        body: { success: false, error: "유효한 액세스 토큰이 필요합니다" },
      });
    }
  });

  it("lets a user through, on every route", async ({ expect }) => {
    const worker = phaseTwo();
    const created = await worker("POST", "/api/predictions", {
      token: user.token,
      body: { maleStrainId: "TC1_022", femaleStrainId: "TC1_023" },
    });
    expect(created.status).toBe(201);
    for (const path of READS) {
      const answer = await worker("GET", path, { token: user.token });
      expect({ path, status: answer.status }).toEqual({ path, status: path.includes("a3f2b1c4") ? 404 : 200 });
    }
  });

  it("turns away a user who is gone, or whose token was ended, on every route", async ({ expect }) => {
    const worker = phaseTwo();
    for (const change of ["disabled_at = 1", "token_version = token_version + 1"]) {
      const gone = await person();
      await env.DB.prepare(`update users set ${change} where id = ?`).bind(gone.id).run();
      for (const path of READS) {
        const answer = await worker("GET", path, { token: gone.token });
        expect({ path, status: answer.status }).toEqual({ path, status: 401 });
      }
      const body = { maleStrainId: "TC1_022", femaleStrainId: "TC1_023" };
      expect((await worker("POST", "/api/predictions", { token: gone.token, body })).status).toBe(401);
    }
  });

  it("refuses tokens of other kinds, expired ones and other schemes", async ({ expect }) => {
    const worker = phaseTwo();
    const long = Date.now() - 13 * 3600_000;
    const expired = await signAccessToken(env.JWT_SECRET, { userId: user.id, tokenVersion: 1 }, long);
    const foreign = await signAccessToken(
      "another-secret-another-secret-12345",
      { userId: user.id, tokenVersion: 1 },
      Date.now(),
    );
    const [, payload] = user.token.split(".");
    const none = `${btoa('{"alg":"none","typ":"JWT"}').replace(/=+$/, "")}.${payload}.`;
    for (const authorization of [
      `Bearer ${expired}`,
      `Bearer ${foreign}`,
      `Bearer ${none}`,
      `Basic ${user.token}`,
      user.token,
      "Bearer",
      `Bearer ${user.token}, Bearer ${user.token}`,
    ]) {
      const answer = await worker("GET", "/api/strains", { headers: { authorization, ...address() } });
      expect(answer.status).toBe(401);
    }
    const lower = await worker("GET", "/api/strains", { headers: { authorization: `bearer ${user.token}` } });
    expect(lower.status).toBe(200);
    expect((await worker("GET", `/api/strains?token=${user.token}`, { headers: address() })).status).toBe(401);
  });

  it("leaves pictures, the document and the other API as they are", async ({ expect }) => {
    const worker = phaseTwo();
    expect((await worker("GET", "/api/openapi.json")).status).toBe(200);
    expect((await worker("GET", "/images/tomato/strains/TC1_022.png")).status).toBe(200);
    expect((await worker("GET", "/api/v1/nothing")).body).toHaveProperty("code");
    expect((await worker("GET", "/api/nothing")).status).toBe(404);
  });

  it("counts a user's requests and says how many are left", async ({ expect }) => {
    const worker = phaseTwo({ BREEDING_QUOTAS: QUOTAS });
    const someone = await person();
    const answers = [];
    for (let i = 0; i < 5; i++) answers.push(await worker("GET", "/api/strains/TC1_022", { token: someone.token }));
    expect(answers.map((answer) => answer.status)).toEqual([200, 200, 200, 429, 429]);
    expect(answers.map((answer) => answer.headers.get("ratelimit-remaining"))).toEqual(["2", "1", "0", "0", "0"]);
    expect(answers[0]?.headers.get("ratelimit-limit")).toBe("3");
    expect(answers[0]?.headers.get("ratelimit-policy")).toBe("3;w=900, 5;w=3600");
    expect(Number(answers[0]?.headers.get("ratelimit-reset"))).toBeLessThanOrEqual(900);
    expect(answers[0]?.headers.get("retry-after")).toBeNull();
    const refused = answers[3];
    expect(refused?.body).toEqual({ success: false, error: "요청이 너무 많습니다. 잠시 후 다시 시도하세요" });
    expect(Number(refused?.headers.get("retry-after"))).toBeGreaterThan(880);
    // The sixth request is over the hour as well, which lasts longer.
    const sixth = await worker("GET", "/api/strains/TC1_022", { token: someone.token });
    expect(sixth.headers.get("ratelimit-limit")).toBe("5");
    expect(Number(sixth.headers.get("retry-after"))).toBeGreaterThan(3500);
  });

  it("counts exactly when requests come together, and separately for each user", async ({ expect }) => {
    const worker = phaseTwo({ BREEDING_QUOTAS: QUOTAS });
    const [one, two] = await Promise.all([person(), person()]);
    const answers = await Promise.all(
      Array.from({ length: 5 }, () => worker("GET", "/api/strains/TC1_022", { token: one.token })),
    );
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 200, 200, 429, 429]);
    expect((await worker("GET", "/api/strains/TC1_022", { token: two.token })).status).toBe(200);
  });

  it("counts callers without a token by address, and no token opens a user's count", async ({ expect }) => {
    const worker = phaseTwo({ BREEDING_QUOTAS: QUOTAS });
    const headers = address();
    const statuses = [];
    for (let i = 0; i < 5; i++) statuses.push((await worker("GET", "/api/strains", { headers })).status);
    expect(statuses).toEqual([401, 401, 401, 429, 429]);
    expect((await worker("GET", "/api/strains", { headers: address() })).status).toBe(401);
    const someone = await person();
    expect((await worker("GET", "/api/strains", { headers, token: someone.token })).status).toBe(200);
    expect(
      (await worker("GET", "/api/strains", { headers: { ...headers, "x-forwarded-for": "1.2.3.4" } })).status,
    ).toBe(429);
  });

  it("gives single users other limits", async ({ expect }) => {
    const worker = phaseTwo({
      BREEDING_QUOTAS: JSON.stringify({ per15Minutes: 1, users: { [String(other.id)]: { per15Minutes: 3 } } }),
    });
    const statuses = async (token: string) => {
      const all = [];
      for (let i = 0; i < 4; i++) all.push((await worker("GET", "/api/strains/TC1_022", { token })).status);
      return all;
    };
    expect(await statuses(other.token)).toEqual([200, 200, 200, 429]);
    expect(await statuses((await person()).token)).toEqual([200, 429, 429, 429]);
  });

  it("a bad quota is a readable error, and nothing is served", async ({ expect }) => {
    const answer = await phaseTwo({ BREEDING_QUOTAS: '{"perHour":"many"}' })("GET", "/api/strains");
    expect(answer.status).toBe(500);
    expect(JSON.stringify(answer.body)).toContain("BREEDING_QUOTAS");
    expect(answer.body).toMatchObject({ success: false, error: expect.stringMatching(/[가-힣]/) });
  });
});

/** A personal API token of a user, and how to end it. */
async function apiTokenOf(who: Person, body: Json = { name: "script" }) {
  const made = await call<{ id: number; token: string }>("POST", "/api/v1/auth/tokens", { token: who.token, body });
  const revoke = () => call("DELETE", `/api/v1/auth/tokens/${made.body.id}`, { token: who.token });
  return { token: made.body.token, id: made.body.id, revoke };
}

describe("a personal API token", () => {
  it("opens every route in phase 2 until it is revoked", async ({ expect }) => {
    const worker = phaseTwo();
    const { token, revoke } = await apiTokenOf(await person());
    const statusOf = async (path: string) => (await worker("GET", path, { token })).status;
    for (const path of READS) {
      expect({ path, status: await statusOf(path) }).toEqual({ path, status: path.includes("a3f2b1c4") ? 404 : 200 });
    }
    const body = { maleStrainId: "TC1_022", femaleStrainId: "TC1_023" };
    expect((await worker("POST", "/api/predictions", { token, body })).status).toBe(201);
    expect((await revoke()).status).toBe(204);
    for (const path of READS) expect({ path, status: await statusOf(path) }).toEqual({ path, status: 401 });
    expect((await worker("POST", "/api/predictions", { token, body })).status).toBe(401);
  });

  it("writes what its owner may write, in either phase, and nothing else", async ({ expect }) => {
    const owner = await person();
    const { token } = await apiTokenOf(owner);
    const stranger = await apiTokenOf(await person());
    for (const worker of [phaseTwo({ BREEDING_PHASE: "1" }), phaseTwo()]) {
      const id = newStrainId();
      const phenotype = {
        weight: 52.1,
        length: 43.2,
        width: 45.9,
        sugarContent: 5.6,
        firmness: 0.62,
        skinThickness: 5.1,
        shape: "round",
      };
      expect((await worker("POST", "/api/strains", { token, body: { id, phenotype } })).status).toBe(201);
      const path = `/api/strains/${id}`;
      expect((await worker("PUT", path, { token: stranger.token, body: { phenotype } })).status).toBe(403);
      expect((await worker("DELETE", path, { token: stranger.token })).status).toBe(403);
      expect((await worker("PUT", path, { token: owner.token, body: { phenotype } })).status).toBe(200);
      expect((await worker("DELETE", path, { token })).status).toBe(200);
    }
  });

  it("that ran out, whose owner is disabled, or that nobody made is refused for reading and writing", async ({
    expect,
  }) => {
    const worker = phaseTwo();
    const [first, second] = [await person(), await person()];
    const [late, disabled] = [await apiTokenOf(first), await apiTokenOf(second)];
    await env.DB.prepare("update api_tokens set expires_at = ? where id = ?")
      .bind(Date.now() - 1, late.id)
      .run();
    await env.DB.prepare("update users set disabled_at = 1 where id = ?").bind(second.id).run();
    const invented = `cvp_${first.id.toString(16).padStart(12, "0")}${randomHex(20)}`;
    for (const token of [late.token, disabled.token, invented, "cvp_", `cvp_${"0".repeat(52)}`]) {
      expect((await worker("GET", "/api/strains", { token, headers: address() })).status).toBe(401);
      const phaseOne = await call("DELETE", "/api/strains/TC1_022", { token });
      expect([phaseOne.status, phaseOne.body.success]).toEqual([401, false]);
    }
  });

  it("shares its owner's count, and an invented one uses up only its address's", async ({ expect }) => {
    const worker = phaseTwo({ BREEDING_QUOTAS: QUOTAS });
    const owner = await person();
    const { token } = await apiTokenOf(owner);
    const invented = `cvp_${owner.id.toString(16).padStart(12, "0")}${randomHex(20)}`;
    const headers = address();
    const statuses = async (by: string, n: number) => {
      const all = [];
      for (let i = 0; i < n; i++)
        all.push((await worker("GET", "/api/strains/TC1_022", { token: by, headers })).status);
      return all;
    };
    expect(await statuses(invented, 4)).toEqual([401, 401, 401, 429]);
    expect(await statuses(token, 2)).toEqual([200, 200]);
    expect(await statuses(owner.token, 2)).toEqual([200, 429]);
  });
});

describe("phase 1", () => {
  it("wakes no counter", async ({ expect }) => {
    const counters = new Proxy(env.RATE_LIMITER, {
      get: () => {
        throw new Error("a counter was asked");
      },
    });
    const answer = await workerWith({ RATE_LIMITER: counters })("GET", "/api/strains/TC1_022", { token: user.token });
    expect(answer.status).toBe(200);
    expect((await call("GET", "/api/strains/TC1_022")).status).toBe(200);
  });
});
