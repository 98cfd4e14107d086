import { env } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { describe, it } from "vitest";
import { datasetUploads } from "../../src/db/schema/index.ts";
import { newUuid, sha256Hex } from "../../src/shared/ids.ts";
import { PART_BYTES, UPLOAD_LIFE_MS } from "../../src/training/datasets/uploads/plan.ts";
import { createUploadRepository } from "../../src/training/datasets/uploads/repository.ts";
import { sweepUploads } from "../../src/training/datasets/uploads/service.ts";
import { call, db, type Json, join, type Person, person } from "../support/api.ts";
import { countedDb } from "../support/breeding.ts";
import { makeZip } from "../support/make-zip.ts";

const PATH = "/api/v1/datasets/uploads";
type Upload = { upload_id: string; part_size: number; parts: number; received: number[]; state: string };

/** Bytes that do not compress. */
function noise(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = seed;
  for (let i = 0; i < length; i += 4) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[i] = state >>> 16;
    bytes[i + 1] = state >>> 24;
  }
  return bytes;
}

const CAT = noise(9 * 1024 * 1024, 1);
const DOG = noise(9 * 1024 * 1024, 2);
/** Two parts: 16 MiB and what is left. */
const LARGE = makeZip([
  { name: "train/cat/1.png", content: CAT, method: 0 },
  { name: "train/dog/2.png", content: DOG, method: 0 },
]);
const SMALL = makeZip([
  { name: "cat/1.png", content: "cat" },
  { name: "dog/2.png", content: "dog" },
]);

const begin = (by: Person, zip: Uint8Array, changes: Json = {}) =>
  call<Upload & Json>("POST", PATH, {
    token: by.token,
    body: { name: "Large", format: "imagefolder", project_id: by.projectId, size_bytes: zip.length, ...changes },
  });

const partOf = (zip: Uint8Array, n: number) => zip.slice((n - 1) * PART_BYTES, n * PART_BYTES);

const put = (by: Person, id: string, n: number | string, bytes: Uint8Array, headers: Record<string, string> = {}) =>
  call("PUT", `${PATH}/${id}/parts/${n}`, {
    token: by.token,
    body: bytes,
    headers: { "content-type": "application/octet-stream", "content-length": String(bytes.length), ...headers },
  });

const state = async (by: Person, id: string) =>
  (await call<Upload & Json>("GET", `${PATH}/${id}`, { token: by.token })).body;
const complete = (by: Person, id: string) => call("POST", `${PATH}/${id}/complete`, { token: by.token });
const remove = (by: Person, id: string) => call("DELETE", `${PATH}/${id}`, { token: by.token });

const objects = async (id: string) =>
  (await env.BUCKET.list({ prefix: `datasets/${id}/` })).objects.map(({ key, size }) => [key, size]);

/** Begins and sends all parts. */
async function sent(by: Person, zip: Uint8Array, changes: Json = {}): Promise<string> {
  const begun = await begin(by, zip, changes);
  if (begun.status !== 201) throw new Error(JSON.stringify(begun.body));
  for (let n = 1; n <= begun.body.parts; n++) {
    const answer = await put(by, begun.body.upload_id, n, partOf(zip, n));
    if (answer.status !== 200) throw new Error(JSON.stringify(answer.body));
  }
  return begun.body.upload_id;
}

const rowsOf = async (id: string) => {
  const count = async (sql: string) => (await env.DB.prepare(sql).bind(id).first<{ n: number }>())?.n;
  return {
    uploads: await count("select count(*) n from dataset_uploads where id = ?"),
    parts: await count("select count(*) n from dataset_upload_parts where upload_id = ?"),
    datasets: await count("select count(*) n from datasets where id = ?"),
    removals: await count("select count(*) n from removals where prefix = 'datasets/' || ? || '/'"),
  };
};
const NOTHING = { uploads: 0, parts: 0, datasets: 0, removals: 0 };

describe("an upload in parts", () => {
  it("becomes the same dataset as one request would, with parts in any order and sent again", async ({ expect }) => {
    const owner = await person();
    const begun = await begin(owner, LARGE, {
      description: "two",
      visibility: "public",
      sha256: await sha256Hex(LARGE),
    });
    expect(begun.status).toBe(201);
    const id = begun.body.upload_id;
    expect(begun.body).toMatchObject({
      state: "open",
      part_size: PART_BYTES,
      parts: 2,
      received: [],
      dataset_id: null,
    });

    expect((await put(owner, id, 2, partOf(LARGE, 2))).body).toEqual({ n: 2, size_bytes: LARGE.length - PART_BYTES });
    expect((await state(owner, id)).received).toEqual([2]);
    const early = await complete(owner, id);
    expect([early.status, early.body]).toEqual([
      422,
      { detail: "parts: not received: 1", code: "VALIDATION_ERROR", field: "parts" },
    ]);
    const hash = await sha256Hex(partOf(LARGE, 1));
    // The wrong bytes first, then the right ones in their place.
    expect((await put(owner, id, 1, noise(PART_BYTES, 9))).status).toBe(200);
    expect((await put(owner, id, 1, partOf(LARGE, 1), { "x-part-sha256": hash })).status).toBe(200);
    expect((await put(owner, id, 2, partOf(LARGE, 2))).status).toBe(200);
    expect(await state(owner, id)).toMatchObject({ state: "open", received: [1, 2] });

    const done = await complete(owner, id);
    expect(done.status).toBe(200);
    expect(done.body).toMatchObject({
      id,
      name: "Large",
      description: "two",
      visibility: "public",
      file_count: 2,
      total_size_bytes: CAT.length + DOG.length,
      class_names: ["cat", "dog"],
      owner_id: owner.id,
      project_id: owner.projectId,
    });
    expect((await call("GET", `/api/v1/datasets/${id}`, { token: owner.token })).body).toEqual(done.body);
    const again = await complete(owner, id);
    expect([again.status, again.body]).toEqual([200, done.body]);
    expect(await state(owner, id)).toMatchObject({ state: "completed", dataset_id: id, received: [] });
    expect((await put(owner, id, 1, partOf(LARGE, 1))).body).toMatchObject({ code: "UPLOAD_CLOSED" });
    expect((await remove(owner, id)).body).toMatchObject({ code: "UPLOAD_CLOSED" });
    expect(await objects(id)).toEqual([[`datasets/${id}/upload.zip`, LARGE.length]]);

    const file = await call<string>("GET", `/api/v1/datasets/${id}/files/2`, {
      token: owner.token,
      headers: { range: "bytes=0-3" },
    });
    expect([file.status, file.headers.get("etag")]).toEqual([206, `"${await sha256Hex(DOG)}"`]);

    expect((await call("DELETE", `/api/v1/datasets/${id}`, { token: owner.token })).status).toBe(204);
    expect(await rowsOf(id)).toEqual(NOTHING);
    expect((await complete(owner, id)).status).toBe(404);
  });

  it("refuses what is no such part, and keeps what it had", async ({ expect }) => {
    const owner = await person();
    const id = (await begin(owner, LARGE)).body.upload_id;
    await put(owner, id, 1, partOf(LARGE, 1));
    const part = partOf(LARGE, 2);
    for (const [n, bytes, headers, field] of [
      [0, part, {}, "n"],
      [3, part, {}, "n"],
      [10_001, part, {}, "n"],
      ["two", part, {}, "n"],
      ["1.0", part, {}, "n"],
      [2, part.slice(1), {}, "content-length"],
      [2, new Uint8Array(0), {}, "content-length"],
      [1, part, {}, "content-length"],
      [2, part, { "x-part-sha256": "0".repeat(64) }, "x-part-sha256"],
      [2, part, { "x-part-sha256": "xyz" }, "x-part-sha256"],
    ] as const) {
      const answer = await put(owner, id, n, bytes, headers);
      expect([n, answer.status, answer.body]).toEqual([
        n,
        422,
        expect.objectContaining({ code: "VALIDATION_ERROR", field }),
      ]);
    }
    expect((await state(owner, id)).received).toEqual([1]);
    // A part that arrived wrong is not the one that was there before either.
    await put(owner, id, 1, partOf(LARGE, 1), { "x-part-sha256": "0".repeat(64) });
    expect((await state(owner, id)).received).toEqual([]);
    await remove(owner, id);
  });

  it("is gone on with by the one who began it, read by members, and not there for others", async ({ expect }) => {
    const [owner, editor, viewer, stranger] = [await person(), await person(), await person(), await person()];
    await join(owner.projectId, editor.id, "editor");
    await join(owner.projectId, viewer.id, "viewer");
    const id = await sent(owner, SMALL);
    for (const [by, read, write] of [
      [editor, 200, 403],
      [viewer, 200, 403],
      [stranger, 404, 404],
    ] as const) {
      expect((await call("GET", `${PATH}/${id}`, { token: by.token })).status).toBe(read);
      expect((await put(by, id, 1, SMALL)).status).toBe(write);
      expect((await complete(by, id)).status).toBe(write);
      expect((await remove(by, id)).status).toBe(write);
    }
    for (const [method, path] of [
      ["GET", id],
      ["PUT", `${id}/parts/1`],
      ["POST", `${id}/complete`],
      ["DELETE", id],
    ] as const) {
      expect((await call(method, `${PATH}/${path}`)).status).toBe(401);
      const other = path.replace(id, newUuid());
      const answer = await call(method, `${PATH}/${other}`, { token: owner.token });
      expect([method, answer.status, answer.body.code]).toEqual([method, 404, "UPLOAD_NOT_FOUND"]);
      expect((await call(method, `${PATH}/${path.replace(id, "x")}`, { token: owner.token })).status).toBe(422);
    }
    expect(await state(owner, id)).toMatchObject({ state: "open", received: [1] });
    expect((await begin(viewer, SMALL, { project_id: owner.projectId })).status).toBe(403);
    expect((await begin(stranger, SMALL, { project_id: owner.projectId })).status).toBe(404);

    // Who loses the project loses the upload into it.
    const mine = await sent(editor, SMALL, { project_id: owner.projectId });
    await env.DB.prepare("update project_members set role = 'viewer' where user_id = ?1 and project_id = ?2")
      .bind(editor.id, owner.projectId)
      .run();
    expect([(await put(editor, mine, 1, SMALL)).status, (await complete(editor, mine)).status]).toEqual([403, 403]);
    expect((await state(owner, mine)).received).toEqual([1]);
  });

  it("refuses a beginning that cannot end well", async ({ expect }) => {
    const owner = await person();
    for (const [changes, field] of [
      [{ name: " " }, "name"],
      [{ name: undefined }, "name"],
      [{ format: "zip" }, "format"],
      [{ visibility: "all" }, "visibility"],
      [{ size_bytes: 0 }, "size_bytes"],
      [{ size_bytes: 21 }, "size_bytes"],
      [{ size_bytes: 4 * 1024 ** 3 + 1 }, "size_bytes"],
      [{ size_bytes: 22.5 }, "size_bytes"],
      [{ size_bytes: "99" }, "size_bytes"],
      [{ sha256: "A".repeat(64) }, "sha256"],
      [{ project_id: 0 }, "project_id"],
      [{ owner_id: 1 }, "owner_id"],
    ] as const) {
      const answer = await begin(owner, SMALL, changes);
      expect([changes, answer.status, answer.body.field]).toEqual([changes, 422, field]);
    }
    const ids: string[] = [];
    for (let i = 0; i < 10; i++) ids.push((await begin(owner, SMALL)).body.upload_id);
    const over = await begin(owner, SMALL);
    expect([over.status, over.body.code]).toEqual([409, "QUOTA_EXCEEDED"]);
    await remove(owner, ids[0] ?? "");
    expect((await begin(owner, SMALL)).status).toBe(201);
  });

  it("that is no dataset is refused for good, and nothing of it stays", async ({ expect }) => {
    const owner = await person();
    const damaged = SMALL.slice();
    damaged[40] = (damaged[40] ?? 0) ^ 0xff;
    for (const [zip, changes, field] of [
      [damaged, {}, "files"],
      [noise(100, 3), {}, "files"],
      [makeZip([{ name: "../x.png", content: "x" }]), {}, "files"],
      [SMALL, { format: "coco" }, "format"],
      [SMALL, { sha256: "0".repeat(64) }, "sha256"],
    ] as const) {
      const id = await sent(owner, zip, changes);
      const refused = await complete(owner, id);
      expect([refused.status, refused.body]).toEqual([
        422,
        expect.objectContaining({ code: "VALIDATION_ERROR", field }),
      ]);
      const again = await complete(owner, id);
      expect([again.status, again.body]).toEqual([refused.status, refused.body]);
      expect(await state(owner, id)).toMatchObject({
        state: "refused",
        dataset_id: null,
        refusal: { detail: refused.body.detail, field },
      });
      expect(await objects(id)).toEqual([]);
      expect((await put(owner, id, 1, zip)).status).toBe(409);
      expect(await rowsOf(id)).toEqual({ ...NOTHING, uploads: 1 });
      expect((await remove(owner, id)).status).toBe(204);
      expect(await rowsOf(id)).toEqual(NOTHING);
    }
  });

  it("completed twice at once is one dataset, and both hear of it", async ({ expect }) => {
    const owner = await person();
    const id = await sent(owner, SMALL);
    const answers = await Promise.all([complete(owner, id), complete(owner, id), complete(owner, id)]);
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(new Set(answers.map(({ body }) => JSON.stringify(body))).size).toBe(1);
    expect(await rowsOf(id)).toEqual({ ...NOTHING, uploads: 1, datasets: 1 });
  });

  it("goes on after a crash at any step of the completion", async ({ expect }) => {
    const owner = await person();
    const id = await sent(owner, SMALL);
    // Storage has joined the parts, and nobody wrote it down.
    const [row] = await db.select().from(datasetUploads).where(eq(datasetUploads.id, id));
    const parts = await env.DB.prepare("select n, etag from dataset_upload_parts where upload_id = ?")
      .bind(id)
      .all<{ n: number; etag: string }>();
    await env.BUCKET.resumeMultipartUpload(`datasets/${id}/upload.zip`, row?.storageUploadId ?? "").complete(
      parts.results.map(({ n, etag }) => ({ partNumber: n, etag })),
    );
    expect((await complete(owner, id)).status).toBe(200);

    // Written down, and not read to the end.
    const next = await sent(owner, SMALL);
    const uploads = createUploadRepository(env.DB);
    const found = await uploads.find({ userId: owner.id, tokenVersion: 1 }, next);
    await env.BUCKET.resumeMultipartUpload(
      `datasets/${next}/upload.zip`,
      found?.upload?.storageUploadId ?? "",
    ).complete((found?.parts ?? []).map(({ n, etag }) => ({ partNumber: n, etag })));
    await uploads.assembled(next, Date.now());
    expect(await state(owner, next)).toMatchObject({ state: "assembled" });
    expect((await put(owner, next, 1, SMALL)).status).toBe(409);
    expect((await complete(owner, next)).status).toBe(200);
  });

  it("whose stored part is another than the noted one asks for the parts again", async ({ expect }) => {
    const owner = await person();
    const id = await sent(owner, SMALL);
    await env.DB.prepare("update dataset_upload_parts set etag = 'stale' where upload_id = ?").bind(id).run();
    const answer = await complete(owner, id);
    expect([answer.status, answer.body.field]).toEqual([422, "parts"]);
    expect(await state(owner, id)).toMatchObject({ state: "open", received: [] });
    await put(owner, id, 1, SMALL);
    expect((await complete(owner, id)).status).toBe(200);
  });

  it("given up leaves nothing, and is not found after", async ({ expect }) => {
    const owner = await person();
    const id = await sent(owner, LARGE);
    expect((await remove(owner, id)).status).toBe(204);
    expect([await rowsOf(id), await objects(id)]).toEqual([NOTHING, []]);
    expect((await remove(owner, id)).status).toBe(404);
    expect((await put(owner, id, 1, partOf(LARGE, 1))).status).toBe(404);
    expect((await complete(owner, id)).status).toBe(404);
  });

  it("removed while it is read becomes no dataset", async ({ expect }) => {
    const owner = await person();
    const id = await sent(owner, SMALL);
    const answers = await Promise.all([complete(owner, id), remove(owner, id)]);
    const after = await call("GET", `/api/v1/datasets/${id}`, { token: owner.token });
    // Whoever was first: either a whole dataset and a refused removal, or nothing at all.
    if (answers[0].status === 200) {
      expect([answers[1].status, after.status, (await objects(id)).length]).toEqual([409, 200, 1]);
    } else {
      expect([answers[0].status, answers[1].status, after.status]).toEqual([404, 204, 404]);
      expect([await rowsOf(id), await objects(id)]).toEqual([NOTHING, []]);
    }
  });

  it("costs one statement or batch to read, and no table is read as a whole", async ({ expect }) => {
    const owner = await person();
    const id = await sent(owner, SMALL);
    const { db: counted, trips } = countedDb();
    const uploads = createUploadRepository(counted);
    const principal = { userId: owner.id, tokenVersion: 1 };
    await uploads.find(principal, id);
    await uploads.beginPart(principal, id, 1, SMALL.length);
    await uploads.notePart(id, { n: 1, etag: "x" }, 1);
    await uploads.expired(1, 10);
    await uploads.ofProject(owner.projectId, 10);
    expect(trips.length).toBe(5);
    for (const sql of trips.flat()) {
      const bound = Array.from({ length: sql.split("?").length - 1 }, () => 1);
      const plan = await env.DB.prepare(`explain query plan ${sql}`)
        .bind(...bound)
        .all<{ detail: string }>();
      const scans = plan.results
        .map(({ detail }) => detail)
        .filter((detail) => /^SCAN (?!CONSTANT|\(sub)/.test(detail));
      expect([sql, scans]).toEqual([sql, []]);
    }
  });
});

describe("the sweep", () => {
  const sweep = (nowMs: number) => sweepUploads({ DB: env.DB, BUCKET: env.BUCKET }, nowMs);

  it("removes uploads a day after their last sign of life, and leaves datasets and younger ones alone", async ({
    expect,
  }) => {
    const owner = await person();
    const [old, young, done, bad] = [
      await sent(owner, SMALL),
      await sent(owner, SMALL),
      await sent(owner, SMALL),
      await sent(owner, noise(50, 4)),
    ];
    await complete(owner, done);
    await complete(owner, bad);
    const at = Date.now();
    const age = (id: string, ms: number) =>
      db
        .update(datasetUploads)
        .set({ updatedAt: at - ms })
        .where(eq(datasetUploads.id, id));
    for (const id of [old, done, bad]) await age(id, UPLOAD_LIFE_MS + 1);
    await age(young, UPLOAD_LIFE_MS - 1);
    expect(await sweep(at)).toBeGreaterThanOrEqual(3);
    expect(await rowsOf(old)).toEqual(NOTHING);
    expect(await rowsOf(bad)).toEqual(NOTHING);
    expect(await rowsOf(done)).toEqual({ ...NOTHING, datasets: 1 });
    expect((await objects(done)).length).toBe(1);
    expect(await state(owner, young)).toMatchObject({ state: "open", received: [1] });
    expect((await put(owner, old, 1, SMALL)).status).toBe(404);
    expect((await complete(owner, young)).status).toBe(200);
  });

  it("leaves an upload alone that moved on meanwhile", async ({ expect }) => {
    const owner = await person();
    const id = await sent(owner, SMALL);
    const uploads = createUploadRepository(env.DB);
    const [seen] = await db.select().from(datasetUploads).where(eq(datasetUploads.id, id));
    if (!seen) throw new Error("no upload");
    expect(await uploads.removeUnchanged({ ...seen, updatedAt: seen.updatedAt - 1 }, Date.now())).toBe(false);
    expect(await state(owner, id)).toMatchObject({ received: [1] });
  });
});

describe("deleting a project", () => {
  it("removes the uploads into it in every state, with their parts, and leaves other projects' alone", async ({
    expect,
  }) => {
    const [owner, editor] = [await person(), await person()];
    const made = await call<{ id: number }>("POST", "/api/v1/projects", { token: owner.token, body: { name: "Gone" } });
    const into = { project_id: made.body.id };
    await join(made.body.id, editor.id, "editor");
    const [open, assembled, completed, refused, theirs, elsewhere] = [
      await sent(owner, SMALL, into),
      await sent(owner, SMALL, into),
      await sent(owner, SMALL, into),
      await sent(owner, noise(50, 5), into),
      await sent(editor, SMALL, into),
      await sent(owner, SMALL),
    ];
    await complete(owner, completed);
    await complete(owner, refused);
    const uploads = createUploadRepository(env.DB);
    const stored = async (id: string) => {
      const found = await uploads.find({ userId: owner.id, tokenVersion: 1 }, id);
      const parts = (found?.parts ?? []).map(({ n, etag }) => ({ partNumber: n, etag }));
      const multipart = env.BUCKET.resumeMultipartUpload(
        `datasets/${id}/upload.zip`,
        found?.upload?.storageUploadId ?? "",
      );
      return { multipart, parts };
    };
    const joined = await stored(assembled);
    await joined.multipart.complete(joined.parts);
    await uploads.assembled(assembled, Date.now());
    const pending = await stored(open);
    expect([await objects(assembled), pending.parts.length]).toEqual([[expect.anything()], 1]);

    expect((await call("DELETE", `/api/v1/projects/${made.body.id}`, { token: owner.token })).status).toBe(204);
    const ids = [open, assembled, completed, refused, theirs];
    const left = async () => ({
      project: await env.DB.prepare("select id from projects where id = ?").bind(made.body.id).first(),
      rows: await Promise.all(ids.map(rowsOf)),
      objects: (await Promise.all(ids.map(objects))).flat(),
    });
    const nothing = { project: null, rows: ids.map(() => NOTHING), objects: [] };
    // The removal goes on behind the answer.
    for (let i = 0; i < 50 && JSON.stringify(await left()) !== JSON.stringify(nothing); i += 1) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(await left()).toEqual(nothing);
    // Storage holds no parts to join any more.
    await expect(pending.multipart.complete(pending.parts)).rejects.toThrow();
    expect((await put(owner, open, 1, SMALL)).status).toBe(404);
    expect(await state(owner, elsewhere)).toMatchObject({ state: "open", received: [1] });
  });
});
