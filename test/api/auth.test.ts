import { env } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { describe, it } from "vitest";
import { hashPassword } from "../../src/auth/password.ts";
import { auditLog, users } from "../../src/db/schema/index.ts";
import { randomHex } from "../../src/shared/ids.ts";
import { call, db, type Json, job, type Person, person } from "../support/api.ts";

const LOGIN = "/api/v1/auth/login";
const PASSWORD = "correct horse";

/** A user with a password, at an address of their own: the counts of one test are not those of another. */
async function withPassword() {
  const who = await person();
  await db
    .update(users)
    .set({ passwordHash: await hashPassword(PASSWORD) })
    .where(eq(users.id, who.id));
  const own = `2001:db8::${randomHex(2)}`;
  const login = (password: string, address = own) =>
    call("POST", LOGIN, { body: { email: who.email, password }, headers: { "cf-connecting-ip": address } });
  return { ...who, address: own, login };
}

const tokenOf = async (who: Person, body: Json = { name: "script" }) => {
  const made = await call<{ id: number; token: string }>("POST", "/api/v1/auth/tokens", { token: who.token, body });
  return made.body;
};
const actionsOf = async (userId: number) =>
  (await db.select().from(auditLog).where(eq(auditLog.actorId, userId)).orderBy(auditLog.id)).map((row) => row.action);
const me = (token: string) => call("GET", "/api/v1/auth/me", { token });

describe("login", () => {
  it("knows the e-mail in any case, and the caller afterwards", async ({ expect }) => {
    const who = await withPassword();
    const answer = await call("POST", LOGIN, { body: { email: who.email.toUpperCase(), password: PASSWORD } });
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({
      token_type: "bearer",
      expires_in: 43_200,
      user: { id: who.id, email: who.email },
    });
    const caller = await me(String(answer.body.access_token));
    expect([caller.status, caller.body]).toEqual([
      200,
      {
        id: who.id,
        email: who.email,
        full_name: "Test Person",
        is_admin: false,
        default_project_id: who.projectId,
        credential: "access_token",
        created_at: expect.stringMatching(/Z$/),
      },
    ]);
    expect(await actionsOf(who.id)).toEqual(["login"]);
  });

  it("answers an unknown e-mail as it answers a wrong password, after as much work", async ({ expect }) => {
    const who = await withPassword();
    const timed = async (email: string) => {
      const from = performance.now();
      const answer = await call("POST", LOGIN, {
        body: { email, password: "wrong password" },
        headers: { "cf-connecting-ip": `2001:db8::${randomHex(2)}` },
      });
      return { status: answer.status, body: answer.body, ms: performance.now() - from };
    };
    await timed(who.email);
    const [known, unknown] = [await timed(who.email), await timed(`${randomHex(8)}@example.com`)];
    expect([unknown.status, unknown.body]).toEqual([known.status, known.body]);
    expect(known.status).toBe(401);
    // Without the work of hashing it would be a hundredth.
    expect(unknown.ms).toBeGreaterThan(known.ms / 4);
  });

  it.for([
    [{ email: "user@example.com", password: "" }, "password"],
    [{ email: "user@example.com", password: "x".repeat(101) }, "password"],
    [{ email: "user@example.com" }, "password"],
    [{ email: "user@example.com", password: 1 }, "password"],
    [{ email: "no address", password: "x" }, "email"],
    [{ email: `${"a".repeat(100_000)}@`, password: "x" }, "email"],
    [{ email: `a@${"a.".repeat(100)}`, password: "x" }, "email"],
    [{ email: ["a@example.com"], password: "x" }, "email"],
  ] as const)("refuses %j before any hashing", async ([body, field], { expect }) => {
    const from = performance.now();
    const answer = await call("POST", LOGIN, { body });
    expect([answer.status, answer.body.code, answer.body.field]).toEqual([422, "VALIDATION_ERROR", field]);
    expect(performance.now() - from).toBeLessThan(1_000);
  });

  it("stops guessing after ten tries, at once, without locking the owner out", async ({ expect }) => {
    const who = await withPassword();
    const guesses = await Promise.all(Array.from({ length: 40 }, (_, i) => who.login(`guess number ${i}`)));
    const statuses = guesses.map((guess) => guess.status);
    expect(statuses.filter((status) => status === 401)).toHaveLength(10);
    expect(statuses.filter((status) => status === 429)).toHaveLength(30);
    const refused = guesses.find((guess) => guess.status === 429);
    expect(refused?.body).toMatchObject({ code: "RATE_LIMITED", field: null });
    expect(Number(refused?.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(Number(refused?.headers.get("retry-after"))).toBeLessThanOrEqual(900);
    // The right password does not help from there either, but it does from where its owner is.
    expect((await who.login(PASSWORD)).status).toBe(429);
    expect((await who.login(PASSWORD, `2001:db8::${randomHex(2)}`)).status).toBe(200);
    // What the client claims about itself changes nothing.
    const forged = await call("POST", LOGIN, {
      body: { email: who.email, password: PASSWORD },
      headers: {
        "cf-connecting-ip": who.address,
        "x-forwarded-for": "203.0.113.9",
        "x-real-ip": "203.0.113.9",
      },
    });
    expect(forged.status).toBe(429);
  });

  it("stops guesses that are spread over accounts", async ({ expect }) => {
    const address = `2001:db8::${randomHex(2)}`;
    const counter = env.RATE_LIMITER.getByName(`login:${address}`);
    for (let i = 0; i < 100; i += 1) await counter.hit(60_000);
    const answer = await call("POST", LOGIN, {
      body: { email: `${randomHex(8)}@example.com`, password: "guess" },
      headers: { "cf-connecting-ip": address },
    });
    expect(answer.status).toBe(429);
  });

  it("does not count good logins", async ({ expect }) => {
    const who = await withPassword();
    for (let i = 0; i < 12; i += 1) expect((await who.login(PASSWORD)).status).toBe(200);
  });
});

describe("password", () => {
  const change = (token: string, body: Json) => call("POST", "/api/v1/auth/password", { token, body });

  it("changes, ends every other access token, and lets the new one in", async ({ expect }) => {
    const who = await withPassword();
    const script = await tokenOf(who);
    const answer = await change(who.token, { current_password: PASSWORD, new_password: "another horse" });
    expect(answer.status).toBe(200);
    expect((await me(who.token)).status).toBe(401);
    expect((await me(String(answer.body.access_token))).status).toBe(200);
    expect((await me(script.token)).status).toBe(200);
    expect((await who.login(PASSWORD)).status).toBe(401);
    expect((await who.login("another horse")).status).toBe(200);
    expect(await actionsOf(who.id)).toEqual(["token.create", "password.change", "login"]);
  });

  it("ends the API tokens too when asked", async ({ expect }) => {
    const who = await withPassword();
    const script = await tokenOf(who);
    const body = { current_password: PASSWORD, new_password: "another horse", revoke_api_tokens: true };
    expect((await change(who.token, body)).status).toBe(200);
    expect((await me(script.token)).status).toBe(401);
  });

  it("refuses weak ones, wrong ones and scripts", async ({ expect }) => {
    const who = await withPassword();
    for (const [current, next, field] of [
      [PASSWORD, "short", "new_password"],
      [PASSWORD, "x".repeat(101), "new_password"],
      [PASSWORD, who.email.toUpperCase(), "new_password"],
      [PASSWORD, PASSWORD, "new_password"],
      ["wrong one", "another horse", "current_password"],
    ]) {
      const answer = await change(who.token, { current_password: current, new_password: next });
      expect([answer.status, answer.body.field]).toEqual([422, field]);
    }
    const script = await tokenOf(who);
    const body = { current_password: PASSWORD, new_password: "another horse" };
    expect((await change(script.token, body)).status).toBe(403);
    expect((await me(who.token)).status).toBe(200);
  });

  it("stops guesses of the current password by whoever holds a token", async ({ expect }) => {
    const who = await withPassword();
    const tries = await Promise.all(
      Array.from({ length: 15 }, (_, i) =>
        change(who.token, { current_password: `no ${i}`, new_password: "another horse" }),
      ),
    );
    expect(tries.filter((answer) => answer.status === 422)).toHaveLength(10);
    expect(tries.filter((answer) => answer.status === 429)).toHaveLength(5);
  });
});

describe("API tokens", () => {
  it("do what their owner may, are shown once, and end when revoked", async ({ expect }) => {
    const who = await person();
    const made = await tokenOf(who, { name: "nightly", expires_in_days: 30 });
    expect(made.token).toMatch(/^cvp_[0-9a-f]{52}$/);
    const jobId = await job({ ...who, token: made.token });
    for (const path of [
      `/api/v1/training/jobs/${jobId}`,
      "/api/v1/projects",
      "/api/v1/models/list",
      "/api/v1/datasets",
    ]) {
      expect((await call("GET", path, { token: made.token })).status, path).toBe(200);
    }
    expect((await me(made.token)).body).toMatchObject({ id: who.id, credential: "api_token" });
    const list = await call<{ tokens: Json[] }>("GET", "/api/v1/auth/tokens", { token: who.token });
    expect(list.body.tokens).toEqual([
      {
        id: made.id,
        name: "nightly",
        hint: made.token.slice(-4),
        created_at: expect.any(String),
        expires_at: expect.any(String),
      },
    ]);
    const stored = await env.DB.prepare("select * from api_tokens where id = ?").bind(made.id).first<Json>();
    expect(JSON.stringify(stored)).not.toContain(made.token.slice(4));

    const revoke = () => call("DELETE", `/api/v1/auth/tokens/${made.id}`, { token: who.token });
    expect((await revoke()).status).toBe(204);
    expect((await revoke()).status).toBe(404);
    for (const path of [`/api/v1/training/jobs/${jobId}`, "/api/v1/models/list"]) {
      expect((await call("GET", path, { token: made.token })).status).toBe(401);
    }
    expect(await actionsOf(who.id)).toEqual(["token.create", "token.revoke"]);
  });

  it("end with their time and with their owner", async ({ expect }) => {
    const who = await person();
    const short = await tokenOf(who, { name: "short", expires_in_days: 1 });
    const long = await tokenOf(who);
    await env.DB.prepare("update api_tokens set expires_at = ? where id = ?")
      .bind(Date.now() - 1, short.id)
      .run();
    expect([(await me(short.token)).status, (await me(long.token)).status]).toEqual([401, 200]);
    await db.update(users).set({ disabledAt: Date.now() }).where(eq(users.id, who.id));
    expect((await me(long.token)).status).toBe(401);
  });

  it("make no credentials, and belong to the user that is written in them only", async ({ expect }) => {
    const [who, other] = [await person(), await person()];
    const made = await tokenOf(who);
    const more = await call("POST", "/api/v1/auth/tokens", { token: made.token, body: { name: "more" } });
    expect([more.status, more.body.code]).toEqual([403, "FORBIDDEN"]);
    const id = (of: Person) => of.id.toString(16).padStart(12, "0");
    const forged = made.token.replace(id(who), id(other));
    expect((await me(forged)).status).toBe(401);
  });

  it("are limited in number, and need a name", async ({ expect }) => {
    const who = await person();
    const at = Date.now();
    await env.DB.prepare(
      `insert into api_tokens (user_id, name, token_hash, hint, created_at)
       with recursive n(i) as (select 1 union all select i + 1 from n where i < 50)
       select ?, 'n', ? || i, 'x', ? from n`,
    )
      .bind(who.id, randomHex(8), at)
      .run();
    const full = await call("POST", "/api/v1/auth/tokens", { token: who.token, body: { name: "one more" } });
    expect([full.status, full.body.code]).toEqual([409, "QUOTA_EXCEEDED"]);
    for (const body of [{}, { name: "" }, { name: "x", expires_in_days: 0 }, { name: "x", expires_in_days: 1e9 }]) {
      expect((await call("POST", "/api/v1/auth/tokens", { token: who.token, body })).status).toBe(422);
    }
  });
});

describe("the audit log", () => {
  it("cannot be changed or shortened, even in the database", async ({ expect }) => {
    const who = await person();
    await tokenOf(who);
    for (const statement of ["update audit_log set action = 'nothing'", "delete from audit_log"]) {
      let message = "";
      try {
        await env.DB.prepare(statement).run();
      } catch (thrown) {
        message = String(thrown);
      }
      expect(message).toMatch(/audit rows are never/);
    }
    expect(await actionsOf(who.id)).toEqual(["token.create"]);
    const [row] = await db.select().from(auditLog).where(eq(auditLog.actorId, who.id));
    expect(row).toMatchObject({ targetType: "token", requestId: expect.stringMatching(/^[0-9a-f-]{36}$/) });
  });
});
