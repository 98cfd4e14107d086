import { env } from "cloudflare:workers";
import { and, eq } from "drizzle-orm";
import { describe, it } from "vitest";
import { auditLog, projects, removals, trainingJobs } from "../../src/db/schema/index.ts";
import {
  call,
  dataset,
  db,
  events,
  type Json,
  job,
  join,
  type Person,
  person,
  plainEvent,
  runner,
  runningJob,
} from "../support/api.ts";

const PATH = "/api/v1/projects";
const make = async (owner: Person, body: Json = { name: "Tomatoes" }) =>
  (await call<{ id: number }>("POST", PATH, { token: owner.token, body })).body.id;
const as = (who: Person, method: string, path: string, body?: unknown) =>
  call(method, path, { token: who.token, body });
const outcome = async (answer: Promise<{ status: number; body: Json }>) => {
  const { status, body } = await answer;
  return [status, body.code ?? null, body.field ?? null];
};

describe("a project", () => {
  it("is made, read, changed and listed with its role and number of jobs", async ({ expect }) => {
    const owner = await person();
    const id = await make(owner, { name: "  Tomatoes ", description: "line 3", task_type: "object_detection" });
    await job(owner, { projectId: id });
    const got = await as(owner, "GET", `${PATH}/${id}`);
    expect(got.body).toMatchObject({
      id,
      name: "Tomatoes",
      description: "line 3",
      task_type: "object_detection",
      user_role: "owner",
      is_default: false,
      experiment_count: 1,
    });
    const changed = await as(owner, "PATCH", `${PATH}/${id}`, { description: null });
    expect(changed.body).toMatchObject({ name: "Tomatoes", description: null, experiment_count: 1 });
    const list = await as(owner, "GET", `${PATH}?limit=1`);
    expect(list.body).toMatchObject({ projects: [{ id, experiment_count: 1 }], total: 2, skip: 0, limit: 1 });
  });

  it.for([
    [{ name: "" }, "name"],
    [{ name: "   " }, "name"],
    [{ name: "x".repeat(201) }, "name"],
    [{ name: "a\u0000" }, "name"],
    [{ name: "a\ud800" }, "name"],
    [{ description: 1 }, "description"],
    [{ task_type: "cooking" }, "task_type"],
    [{ owner_id: 1 }, "owner_id"],
    [{ is_default: true }, "is_default"],
  ] as const)("is not changed by %j", async ([body, field], { expect }) => {
    const owner = await person();
    const id = await make(owner);
    expect(await outcome(as(owner, "PATCH", `${PATH}/${id}`, body))).toEqual([422, "VALIDATION_ERROR", field]);
  });

  it("keeps names with markup, quotes and SQL as text", async ({ expect }) => {
    const owner = await person();
    for (const name of ["<script>alert(1)</script>", "'; drop table projects; --", "고양이", "a%_"]) {
      expect((await as(owner, "GET", `${PATH}/${await make(owner, { name })}`)).body.name).toBe(name);
    }
  });
});

describe("members", () => {
  it("are taken in by e-mail, change role, and are removed", async ({ expect }) => {
    const [owner, guest] = [await person(), await person()];
    const id = await make(owner);
    const jobId = await job(owner, { projectId: id });
    const stop = () => as(guest, "POST", `/api/v1/training/stop/${jobId}`);
    expect((await stop()).status).toBe(404);

    const invited = await as(owner, "POST", `${PATH}/${id}/members`, {
      email: guest.email.toUpperCase(),
      role: "viewer",
    });
    expect([invited.status, invited.body]).toEqual([
      201,
      {
        user_id: guest.id,
        email: guest.email,
        full_name: "Test Person",
        role: "viewer",
        joined_at: expect.any(String),
      },
    ]);
    expect((await stop()).status).toBe(403);
    const members = await as(guest, "GET", `${PATH}/${id}/members`);
    expect((members.body.members as Json[]).map((one) => [one.user_id, one.role])).toEqual([
      [owner.id, "owner"],
      [guest.id, "viewer"],
    ]);

    const changed = await as(owner, "PATCH", `${PATH}/${id}/members/${guest.id}`, { role: "editor" });
    expect([changed.status, changed.body]).toEqual([200, { user_id: guest.id, role: "editor" }]);
    expect((await stop()).status).toBe(200);
    expect((await as(owner, "DELETE", `${PATH}/${id}/members/${guest.id}`)).status).toBe(204);
    expect((await stop()).status).toBe(404);

    const audit = await db
      .select()
      .from(auditLog)
      .where(and(eq(auditLog.actorId, owner.id), eq(auditLog.targetId, String(id))))
      .orderBy(auditLog.id);
    expect(audit.map((row) => [row.action, row.details])).toEqual([
      ["member.add", { user_id: guest.id, role: "viewer" }],
      ["member.change", { user_id: guest.id, role: "editor" }],
      ["member.remove", { user_id: guest.id }],
    ]);
  });

  it("may leave, and only the owner removes others", async ({ expect }) => {
    const [owner, first, second] = [await person(), await person(), await person()];
    const id = await make(owner);
    await join(id, first.id, "editor");
    await join(id, second.id, "viewer");
    expect((await as(first, "DELETE", `${PATH}/${id}/members/${second.id}`)).status).toBe(403);
    expect((await as(first, "DELETE", `${PATH}/${id}/members/${owner.id}`)).status).toBe(403);
    expect((await as(first, "DELETE", `${PATH}/${id}/members/${first.id}`)).status).toBe(204);
    expect((await as(first, "GET", `${PATH}/${id}`)).status).toBe(404);
  });

  it("have their rules: known e-mails, once, no second owner, no change of the first", async ({ expect }) => {
    const [owner, guest, stranger] = [await person(), await person(), await person()];
    const id = await make(owner);
    const invite = (body: Json) => outcome(as(owner, "POST", `${PATH}/${id}/members`, body));
    expect(await invite({ email: "nobody@example.com" })).toEqual([404, "USER_NOT_FOUND", "email"]);
    expect(await invite({ email: guest.email, role: "owner" })).toEqual([422, "VALIDATION_ERROR", "role"]);
    expect(await invite({ email: "x" })).toEqual([422, "VALIDATION_ERROR", "email"]);
    const both = await Promise.all([invite({ email: guest.email }), invite({ email: guest.email })]);
    expect(both.map(([status]) => status).sort()).toEqual([201, 400]);
    expect(await invite({ email: owner.email })).toEqual([400, "BAD_REQUEST", "email"]);
    const member = (who: Person) => `${PATH}/${id}/members/${who.id}`;
    expect(await outcome(as(owner, "PATCH", member(owner), { role: "viewer" }))).toEqual([
      400,
      "BAD_REQUEST",
      "user_id",
    ]);
    expect(await outcome(as(owner, "DELETE", member(owner)))).toEqual([400, "BAD_REQUEST", "user_id"]);
    expect(await outcome(as(owner, "PATCH", member(stranger), { role: "viewer" }))).toEqual([
      404,
      "USER_NOT_FOUND",
      "user_id",
    ]);
    expect(await outcome(as(owner, "DELETE", member(stranger)))).toEqual([404, "USER_NOT_FOUND", "user_id"]);
    const raise = await outcome(as(guest, "PATCH", member(guest), { role: "editor" }));
    expect(raise).toEqual([403, "FORBIDDEN", null]);
  });
});

describe("deleting a project", () => {
  const tables = ["training_metrics", "log_chunks", "artifacts", "validation_results", "job_attempts"];
  const rowsOf = async (jobId: number) => {
    const counts = await Promise.all(
      tables.map((table) =>
        env.DB.prepare(`select count(*) as n from ${table} where job_id = ?`).bind(jobId).first<{ n: number }>(),
      ),
    );
    return counts.map((row) => row?.n);
  };
  const gone = async (check: () => Promise<boolean>) => {
    for (let i = 0; i < 50 && !(await check()); i += 1) await new Promise((resolve) => setTimeout(resolve, 100));
  };

  it("fences off its running job, and leaves nothing of it: rows, objects, access", async ({ expect }) => {
    const owner = await person();
    const guest = await person();
    const id = await make(owner);
    await join(id, guest.id, "editor");
    const { jobId, lease } = await runningJob({ ...owner, projectId: id }, await runner());
    await events(lease, [
      { seq: 1, event: "started", data: { total_epochs: 3 } },
      { seq: 2, event: "epoch_complete", data: { epoch: 1, loss: 1 } },
      { seq: 3, event: "validation", data: { epoch: 1, metrics: { accuracy: 1 } } },
    ]);
    const shared = await dataset({ ...owner, projectId: id }, { visibility: "public" });
    expect((await as(await person(), "GET", `/api/v1/datasets/${shared}`)).status).toBe(200);
    await env.BUCKET.put(`jobs/${jobId}/1/x`, "weights");
    // A neighbour whose number begins alike stays.
    await env.BUCKET.put(`jobs/${jobId}0/1/x`, "weights");

    expect((await as(owner, "DELETE", `${PATH}/${id}`)).status).toBe(204);
    for (const who of [owner, guest]) {
      expect((await as(who, "GET", `${PATH}/${id}`)).status).toBe(404);
      expect((await as(who, "GET", `/api/v1/training/jobs/${jobId}`)).status).toBe(404);
      expect((await as(who, "GET", `/api/v1/datasets/${shared}`)).status).toBe(404);
    }
    const late = await events(lease, [{ seq: 4, event: "epoch_complete", data: { epoch: 2, loss: 1 } }]);
    expect([late.status, late.body.code]).toEqual([409, "STALE_LEASE"]);
    expect((await as(owner, "DELETE", `${PATH}/${id}`)).status).toBe(404);

    await gone(async () => (await db.select().from(projects).where(eq(projects.id, id))).length === 0);
    expect(await db.select().from(projects).where(eq(projects.id, id))).toEqual([]);
    expect(await db.select().from(trainingJobs).where(eq(trainingJobs.projectId, id))).toEqual([]);
    expect(await rowsOf(jobId)).toEqual([0, 0, 0, 0, 0]);
    await gone(async () => (await db.select().from(removals)).length === 0);
    expect((await env.BUCKET.list({ prefix: `jobs/${jobId}/` })).objects).toEqual([]);
    expect((await env.BUCKET.list({ prefix: `datasets/${shared}/` })).objects).toEqual([]);
    expect((await env.BUCKET.list({ prefix: `jobs/${jobId}0/` })).objects).toHaveLength(1);
    const plain = await plainEvent(jobId, "started", {});
    expect([plain.status, plain.body.code]).toEqual([404, "JOB_NOT_FOUND"]);
    const [audit] = await db.select().from(auditLog).where(eq(auditLog.action, "project.delete"));
    expect(audit).toMatchObject({ actorId: owner.id, targetId: String(id) });
  });

  it("is refused for the project of things that name none", async ({ expect }) => {
    const owner = await person();
    expect(await outcome(as(owner, "DELETE", `${PATH}/${owner.projectId}`))).toEqual([400, "BAD_REQUEST", null]);
    expect((await as(owner, "GET", `${PATH}/${owner.projectId}`)).status).toBe(200);
  });
});
