import { env } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { describe, it } from "vitest";
import { auditLog, datasets, removals, trainingJobs } from "../../src/db/schema/index.ts";
import { newUuid } from "../../src/shared/ids.ts";
import { keys } from "../../src/storage/keys.ts";
import { createRemovalService, finishRemoval, noteRemoval } from "../../src/storage/removals.ts";
import { createDatasetRepository } from "../../src/training/datasets/repository.ts";
import { call, dataset, db, type Json, job, join, type Person, person, runningJob } from "../support/api.ts";
import { countedDb } from "../support/breeding.ts";

const at = (id: string) => `/api/v1/datasets/${id}`;
const patch = (by: Person, id: string, body: unknown) => call("PATCH", at(id), { token: by.token, body });
const remove = (by: Person, id: string) => call("DELETE", at(id), { token: by.token });
const get = (by: Person, id: string) => call("GET", at(id), { token: by.token });

async function traces(id: string) {
  const [row, files, noted, objects] = await Promise.all([
    env.DB.prepare("select count(*) n from datasets where id = ?").bind(id).first<{ n: number }>(),
    env.DB.prepare("select count(*) n from dataset_files where dataset_id = ?").bind(id).first<{ n: number }>(),
    db
      .select()
      .from(removals)
      .where(eq(removals.prefix, `datasets/${id}/`)),
    env.BUCKET.list({ prefix: `datasets/${id}/` }),
  ]);
  return { rows: row?.n, files: files?.n, noted: noted.length, objects: objects.objects.length };
}
const NOTHING = { rows: 0, files: 0, noted: 0, objects: 0 };
const ALL = { rows: 1, files: 4, noted: 0, objects: 4 };

/** A bucket that fails at the named call. */
const failing = (name: "list" | "delete"): R2Bucket =>
  new Proxy(env.BUCKET, {
    get(target, property) {
      if (property === name) return () => Promise.reject(new Error("storage is away"));
      const value: unknown = Reflect.get(target, property);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });

/** The four people of a dataset's project and beyond. */
async function people() {
  const [owner, editor, viewer, stranger] = await Promise.all([person(), person(), person(), person()]);
  await join(owner.projectId, editor.id, "editor");
  await join(owner.projectId, viewer.id, "viewer");
  return { owner, editor, viewer, stranger };
}

describe("PATCH /datasets/{id}", () => {
  it("changes what is named and leaves the rest", async ({ expect }) => {
    const owner = await person();
    const id = await dataset(owner);
    await db.update(datasets).set({ updatedAt: 1_000 }).where(eq(datasets.id, id));
    const before = (await get(owner, id)).body;
    for (const changes of [
      { name: " 과일 🍅 " },
      { description: "sorted" },
      { visibility: "public" },
      { description: null },
      { name: "x".repeat(200), description: "", visibility: "private" },
    ] satisfies Json[]) {
      const was = (await get(owner, id)).body;
      const answer = await patch(owner, id, changes);
      expect(answer.status).toBe(200);
      const expected: Json = { ...was, ...changes, updated_at: answer.body.updated_at };
      if (typeof expected.name === "string") expected.name = expected.name.trim();
      expect(answer.body).toEqual(expected);
      expect((await get(owner, id)).body).toEqual(answer.body);
    }
    const after = (await get(owner, id)).body;
    expect(after.created_at).toBe(before.created_at);
    expect(after.updated_at).not.toBe(before.updated_at);
  });

  it("is for owners and editors; a public dataset is read by others and changed by none of them", async ({
    expect,
  }) => {
    const { owner, editor, viewer, stranger } = await people();
    const id = await dataset(owner);
    for (const [by, status, code] of [
      [editor, 200, undefined],
      [viewer, 403, "FORBIDDEN"],
      [stranger, 404, "DATASET_NOT_FOUND"],
    ] as const) {
      const answer = await patch(by, id, { description: "mine" });
      expect([answer.status, answer.body.code]).toEqual([status, code]);
    }
    await patch(owner, id, { visibility: "public" });
    expect((await patch(stranger, id, { name: "taken" })).status).toBe(403);
    expect((await call("PATCH", at(id), { body: { name: "taken" } })).status).toBe(401);
    expect((await patch(owner, newUuid(), { name: "x" })).status).toBe(404);
    expect((await get(owner, id)).body.name).toBe("Pets");
  });

  it("refuses empty, unknown and impossible changes, and changes nothing then", async ({ expect }) => {
    const owner = await person();
    const id = await dataset(owner);
    const before = (await get(owner, id)).body;
    for (const [body, field] of [
      [{}, null],
      [{ name: "" }, "name"],
      [{ name: " " }, "name"],
      [{ name: "x".repeat(201) }, "name"],
      [{ name: "a\u0000b" }, "name"],
      [{ name: null }, "name"],
      [{ name: 1 }, "name"],
      [{ description: 7 }, "description"],
      [{ description: "x".repeat(10_001) }, "description"],
      [{ visibility: "secret" }, "visibility"],
      [{ owner_id: 1, name: "x" }, "owner_id"],
      [{ created_at: "2020-01-01T00:00:00Z" }, "created_at"],
      [{ project_id: 1 }, "project_id"],
      [[], null],
    ] as const) {
      const answer = await patch(owner, id, body);
      expect([body, answer.status, answer.body]).toEqual([
        body,
        422,
        expect.objectContaining({ code: "VALIDATION_ERROR", field }),
      ]);
    }
    expect((await patch(owner, id, '{"name":')).status).toBe(415);
    expect((await get(owner, id)).body).toEqual(before);
  });
});

describe("DELETE /datasets/{id}", () => {
  it("removes rows and objects, notes who did it, and is not found after", async ({ expect }) => {
    const owner = await person();
    const [id, neighbour] = [await dataset(owner), await dataset(owner)];
    expect(await traces(id)).toEqual(ALL);
    const answer = await remove(owner, id);
    expect([answer.status, answer.body]).toEqual([204, ""]);
    expect(await traces(id)).toEqual(NOTHING);
    expect(await traces(neighbour)).toEqual(ALL);
    expect((await remove(owner, id)).status).toBe(404);
    expect((await get(owner, id)).status).toBe(404);
    expect((await call("GET", `${at(id)}/files`, { token: owner.token })).status).toBe(404);
    const rows = await db.select().from(auditLog).where(eq(auditLog.targetId, id));
    expect(rows).toEqual([
      expect.objectContaining({
        actorId: owner.id,
        action: "dataset.delete",
        targetType: "dataset",
        requestId: answer.headers.get("x-request-id"),
      }),
    ]);
  });

  it("is for owners and editors", async ({ expect }) => {
    const { owner, editor, viewer, stranger } = await people();
    const id = await dataset(owner);
    const open = await dataset(owner, { visibility: "public" });
    expect((await remove(viewer, id)).status).toBe(403);
    expect((await remove(stranger, id)).status).toBe(404);
    expect((await remove(stranger, open)).status).toBe(403);
    expect((await call("DELETE", at(id))).status).toBe(401);
    expect([await traces(id), await traces(open)]).toEqual([ALL, ALL]);
    expect((await remove(editor, id)).status).toBe(204);
    expect(await db.select().from(auditLog).where(eq(auditLog.targetId, open))).toEqual([]);
  });

  it("waits for queued and running jobs, and not for others", async ({ expect }) => {
    const owner = await person();
    const { jobId } = await runningJob(owner);
    const [running] = await db.select().from(trainingJobs).where(eq(trainingJobs.id, jobId));
    const id = running?.datasetId ?? "";
    const refused = await remove(owner, id);
    expect([refused.status, refused.body]).toEqual([
      409,
      { detail: "A queued or running training job uses this dataset", code: "INVALID_STATUS", field: null },
    ]);
    expect(await traces(id)).toEqual(ALL);
    // The name may change all the while.
    expect((await patch(owner, id, { name: "busy" })).status).toBe(200);
    expect((await call("POST", `/api/v1/training/stop/${jobId}`, { token: owner.token })).status).toBe(200);
    expect((await remove(owner, id)).status).toBe(204);

    const pending = await job(owner);
    const [row] = await db.select().from(trainingJobs).where(eq(trainingJobs.id, pending));
    const used = row?.datasetId ?? "";
    await db.update(trainingJobs).set({ status: "queued" }).where(eq(trainingJobs.id, pending));
    expect((await remove(owner, used)).status).toBe(409);
    await db.update(trainingJobs).set({ status: "pending" }).where(eq(trainingJobs.id, pending));
    expect((await remove(owner, used)).status).toBe(204);
  });

  it("does all in one batch that reads no table as a whole", async ({ expect }) => {
    const owner = await person();
    const id = await dataset(owner);
    const { db: counted, trips } = countedDb();
    const rows = createDatasetRepository(counted);
    const principal = { userId: owner.id, tokenVersion: 1 };
    await rows.update(principal, id, { name: "x" }, 1);
    await rows.delete({ userId: owner.id, requestId: "r" }, principal, id, 1);
    expect(trips.length).toBe(2);
    for (const sql of trips.flat()) {
      const bound = Array.from({ length: sql.split("?").length - 1 }, () => 1);
      const plan = await env.DB.prepare(`explain query plan ${sql}`)
        .bind(...bound)
        .all<{ detail: string }>();
      const scans = plan.results.map(({ detail }) => detail).filter((detail) => /^SCAN (?!CONSTANT ROW)/.test(detail));
      expect([sql, scans]).toEqual([sql, []]);
    }
  });

  it("goes on after a crash between rows and objects", async ({ expect }) => {
    const owner = await person();
    const id = await dataset(owner);
    const principal = { userId: owner.id, tokenVersion: 1 };
    const rows = createDatasetRepository(env.DB);
    const deleted = await rows.delete({ userId: owner.id, requestId: "r" }, principal, id, Date.now());
    expect(deleted.isDeleted).toBe(true);
    expect(await traces(id)).toEqual({ rows: 0, files: 0, noted: 1, objects: 4 });
    expect((await get(owner, id)).status).toBe(404);
    for (const name of ["list", "delete"] as const) {
      await expect(finishRemoval(env.DB, failing(name), keys.datasetPrefix(id))).rejects.toThrow("away");
      expect(await traces(id)).toEqual({ rows: 0, files: 0, noted: 1, objects: 4 });
    }
    await createRemovalService({ binding: env.DB, bucket: env.BUCKET }).run();
    expect(await traces(id)).toEqual(NOTHING);
  });
});

describe("removing a prefix", () => {
  it("takes more objects than one listing has, and not those of a longer id", async ({ expect }) => {
    const id = `removal-${newUuid()}`;
    for (let i = 0; i < 10; i++) await env.BUCKET.put(`${id}/1/${i}`, "x");
    await env.BUCKET.put(`${id}/10/x`, "x");
    const threeAtOnce = new Proxy(env.BUCKET, {
      get(target, property) {
        if (property === "list") return (options: R2ListOptions) => target.list({ ...options, limit: 3 });
        const value: unknown = Reflect.get(target, property);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    await finishRemoval(env.DB, threeAtOnce, `${id}/1/`);
    expect((await env.BUCKET.list({ prefix: `${id}/` })).objects.map(({ key }) => key)).toEqual([`${id}/10/x`]);
  });

  it("is refused for a prefix that ends in no slash", ({ expect }) => {
    for (const prefix of ["", "/", "datasets", "jobs/1"]) expect(() => noteRemoval(prefix, 1), prefix).toThrow(/slash/);
  });
});
