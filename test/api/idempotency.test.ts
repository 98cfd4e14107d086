import { env } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { describe, it } from "vitest";
import { KEY_LIFE_MS, sweepKeys } from "../../src/db/idempotency.ts";
import { datasets, datasetUploads, idempotencyKeys, projects } from "../../src/db/schema/index.ts";
import { randomHex } from "../../src/shared/ids.ts";
import { type Answer, call, db, type Json, type Person, person } from "../support/api.ts";
import { makeZip } from "../support/make-zip.ts";

/** Creates besides those of jobs: a repeated request makes nothing more and answers what the first one made. */

const zip = (content: string) =>
  makeZip([
    { name: "cat/1.png", content },
    { name: "dog/2.png", content: "dog" },
  ]);

function form(name: string, content: string): FormData {
  const body = new FormData();
  body.append("name", name);
  body.append("format", "imagefolder");
  body.append("files", new File([zip(content)], "pets.zip"));
  return body;
}

type Create = (who: Person, key: string | null, variant: string) => Promise<Answer>;
const send = (path: string, bodyOf: (variant: string) => unknown): Create => {
  return (who, key, variant) =>
    call("POST", `/api/v1/${path}`, {
      token: who.token,
      body: bodyOf(variant),
      headers: key === null ? {} : { "idempotency-key": key },
    });
};

const KINDS: { what: string; id: string; create: Create; count: (who: Person) => Promise<number> }[] = [
  {
    what: "a project",
    id: "id",
    create: send("projects", (name) => ({ name })),
    // The default project was there before.
    count: async (who) => (await db.$count(projects, eq(projects.ownerId, who.id))) - 1,
  },
  {
    what: "a dataset",
    id: "id",
    create: send("datasets", (content) => form("Pets", content)),
    count: (who) => db.$count(datasets, eq(datasets.ownerId, who.id)),
  },
  {
    what: "an upload in parts",
    id: "upload_id",
    create: send("datasets/uploads", (name) => ({ name, format: "dice", size_bytes: 1_000 })),
    count: (who) => db.$count(datasetUploads, eq(datasetUploads.ownerId, who.id)),
  },
];

describe.each(KINDS)("Idempotency-Key of $what", ({ id, create, count }) => {
  it("makes one, however often and however close together it comes", async ({ expect }) => {
    const owner = await person();
    const key = randomHex(8);
    const answers = await Promise.all([1, 2, 3].map(() => create(owner, key, "a")));
    const later = await create(owner, key, "a");
    expect([...answers, later].map((answer) => [answer.status, answer.body[id]])).toEqual(
      Array(4).fill([201, answers[0]?.body[id]]),
    );
    expect(later.body).toEqual(answers[0]?.body);
    expect(await count(owner)).toBe(1);
  });

  it("makes another one without a key, with another key, and for another user", async ({ expect }) => {
    const [owner, other] = [await person(), await person()];
    const key = randomHex(8);
    const made = [
      await create(owner, key, "a"),
      await create(owner, null, "a"),
      await create(owner, randomHex(8), "a"),
      await create(other, key, "a"),
    ];
    expect(made.map((answer) => answer.status)).toEqual([201, 201, 201, 201]);
    expect(new Set(made.map((answer) => answer.body[id])).size).toBe(4);
  });

  it("refuses a key that was used for another request, and makes nothing", async ({ expect }) => {
    const owner = await person();
    const key = randomHex(8);
    await create(owner, key, "a");
    const { status, body } = await create(owner, key, "b");
    expect([status, body.code, body.field]).toEqual([422, "VALIDATION_ERROR", "Idempotency-Key"]);
    expect(await count(owner)).toBe(1);
  });
});

describe("Idempotency-Key", () => {
  it("leaves no file of a repeated upload behind", async ({ expect }) => {
    const owner = await person();
    const key = randomHex(8);
    const create = send("datasets", () => form("Pets", "cat"));
    const before = new Set((await env.BUCKET.list({ prefix: "datasets/" })).objects.map((object) => object.key));
    const { body } = await create(owner, key, "");
    await create(owner, key, "");
    const after = (await env.BUCKET.list({ prefix: "datasets/" })).objects.filter(({ key }) => !before.has(key));
    expect(after).toHaveLength(1);
    expect(after[0]?.key).toContain(String(body.id));
  });

  it("does not remember what was refused", async ({ expect }) => {
    const owner = await person();
    const key = randomHex(8);
    const refused = send("datasets/uploads", () => ({ name: "x", format: "dice", size_bytes: 1_000 }));
    for (let i = 0; i < 10; i++) await refused(owner, null, "");
    expect((await refused(owner, key, "")).status).toBe(409);
    const open = await call<{ uploads: Json[] }>("GET", "/api/v1/datasets/uploads", { token: owner.token });
    expect(open.body.uploads).toHaveLength(10);
    await call("DELETE", `/api/v1/datasets/uploads/${open.body.uploads[0]?.upload_id}`, { token: owner.token });
    expect((await refused(owner, key, "")).status).toBe(201);
  });

  it("is forgotten after a day", async ({ expect }) => {
    const owner = await person();
    const [old, fresh] = [randomHex(8), randomHex(8)];
    const create = send("projects", (name) => ({ name }));
    const first = await create(owner, old, "a");
    await create(owner, fresh, "a");
    const at = Date.now();
    await db
      .update(idempotencyKeys)
      .set({ createdAt: at - KEY_LIFE_MS - 1 })
      .where(eq(idempotencyKeys.key, old));
    // The row is still there, and in nobody's way.
    expect((await create(owner, old, "other")).body.id).not.toBe(first.body.id);
    await db
      .update(idempotencyKeys)
      .set({ createdAt: at - KEY_LIFE_MS - 1 })
      .where(eq(idempotencyKeys.key, old));
    await sweepKeys(env.DB, at);
    const kept = await db.query.idempotencyKeys.findMany({ where: eq(idempotencyKeys.userId, owner.id) });
    expect(kept.map(({ key }) => key)).toEqual([fresh]);
  });
});

describe("GET /datasets/uploads", () => {
  it("lists the caller's own uploads that are no dataset yet, the last touched first", async ({ expect }) => {
    const [owner, other] = [await person(), await person()];
    const begin = (who: Person, name: string) =>
      call("POST", "/api/v1/datasets/uploads", {
        token: who.token,
        body: { name, format: "imagefolder", size_bytes: zip("cat").length },
      });
    const list = async (who: Person) =>
      (await call<{ uploads: Json[] }>("GET", "/api/v1/datasets/uploads", { token: who.token })).body.uploads;
    expect(await list(owner)).toEqual([]);
    const [one, two] = [await begin(owner, "one"), await begin(owner, "two")];
    await begin(other, "theirs");
    await db
      .update(datasetUploads)
      .set({ updatedAt: Date.now() + 5_000 })
      .where(eq(datasetUploads.id, String(one.body.upload_id)));
    expect((await list(owner)).map((upload) => upload.name)).toEqual(["one", "two"]);
    const path = `/api/v1/datasets/uploads/${two.body.upload_id}`;
    const bytes = zip("cat");
    const headers = { "content-type": "application/octet-stream", "content-length": String(bytes.length) };
    await call("PUT", `${path}/parts/1`, { token: owner.token, body: bytes, headers });
    expect((await list(owner)).find((upload) => upload.name === "two")?.received).toEqual([1]);
    expect((await call("POST", `${path}/complete`, { token: owner.token })).status).toBe(200);
    expect((await list(owner)).map((upload) => upload.name)).toEqual(["one"]);
  });
});
