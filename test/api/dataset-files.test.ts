import { env } from "cloudflare:workers";
import { describe, it } from "vitest";
import { datasetFiles } from "../../src/db/schema/index.ts";
import { newUuid, sha256Hex } from "../../src/shared/ids.ts";
import { createDatasetRepository } from "../../src/training/datasets/repository.ts";
import { call, dataset, db, type Json, join, type Person, person } from "../support/api.ts";
import { countedDb } from "../support/breeding.ts";
import { makeZip } from "../support/make-zip.ts";

const PATH = "/api/v1/datasets";

type Page = {
  dataset_id: string;
  files: { file_id: number; path: string; split: string | null; label: string | null }[];
  next_cursor: string | null;
};

async function create(owner: Person, entries: Record<string, string>, fields: Json = {}): Promise<string> {
  const form = new FormData();
  const all = { name: "Files", format: "imagefolder", project_id: owner.projectId, ...fields };
  for (const [name, value] of Object.entries(all)) form.append(name, String(value));
  const zip = makeZip(Object.entries(entries).map(([name, content]) => ({ name, content })));
  form.append("files", new File([zip], "d.zip"));
  const answer = await call("POST", PATH, { token: owner.token, body: form });
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return String(answer.body.id);
}

const PETS = Object.fromEntries([
  ...["train", "val"].flatMap((split) =>
    ["cat", "dog"].flatMap((label) => [1, 2, 3].map((n) => [`${split}/${label}/${n}.png`, `${split}${label}${n}`])),
  ),
  ["train/cat_a/1.png", "x"],
  ["train/readme.txt", "text"],
  ["train/cat%/1.png", "y"],
  ["train/고양이/1.png", "z"],
]);

const list = async (by: Person, id: string, query = "") =>
  call<Page>("GET", `${PATH}/${id}/files${query && `?${query}`}`, { token: by.token });

const pathsOf = (page: Page) => page.files.map(({ path }) => path);

/** All pages behind each other. */
async function all(by: Person, id: string, query: Record<string, string>) {
  const found: string[] = [];
  let cursor: string | null = null;
  do {
    const next: URLSearchParams = new URLSearchParams({ ...query, ...(cursor === null ? {} : { cursor }) });
    const page = await list(by, id, String(next));
    if (page.status !== 200) throw new Error(JSON.stringify(page.body));
    found.push(...pathsOf(page.body));
    cursor = page.body.next_cursor;
  } while (cursor !== null);
  return found;
}

describe("GET /datasets/{id}/files", () => {
  it("lists each file once in the order of the paths, whatever the size of the pages", async ({ expect }) => {
    const owner = await person();
    const id = await create(owner, PETS);
    const sorted = Object.keys(PETS).sort();
    for (const limit of ["1", "5", "500"]) expect(await all(owner, id, { limit })).toEqual(sorted);
    const page = await list(owner, id, "limit=1&prefix=train/dog/2");
    expect(page.body).toEqual({
      dataset_id: id,
      files: [
        {
          file_id: sorted.indexOf("train/dog/2.png") + 1,
          path: "train/dog/2.png",
          size_bytes: 9,
          sha256: await sha256Hex("traindog2"),
          split: "train",
          label: "dog",
        },
      ],
      next_cursor: null,
    });
  });

  it("filters by split, label and prefix, alone and together, page by page", async ({ expect }) => {
    const owner = await person();
    const id = await create(owner, PETS);
    const everything = (await list(owner, id)).body.files;
    const splits = [undefined, "train", "val", "test", "none"];
    const labels = [undefined, "cat", "고양이", "cat%", "absent"];
    const prefixes = [
      undefined,
      "train/",
      "train/cat",
      "train/cat%",
      "train/cat_",
      "val/dog/3.png",
      "zz",
      "_",
      "train/고",
    ];
    for (const split of splits) {
      for (const label of labels) {
        for (const prefix of prefixes) {
          const query = Object.fromEntries(
            Object.entries({ split, label, prefix }).flatMap(([key, value]) =>
              value === undefined ? [] : [[key, value]],
            ),
          );
          const expected = everything.filter(
            (file) =>
              (split === undefined || (file.split ?? "none") === split) &&
              (label === undefined || file.label === label) &&
              (prefix === undefined || file.path.startsWith(prefix)),
          );
          expect([query, await all(owner, id, { ...query, limit: "4" })]).toEqual([
            query,
            expected.map(({ path }) => path),
          ]);
        }
      }
    }
  });

  it("reads an index for every filter, and one statement", async ({ expect }) => {
    const owner = await person();
    const id = await create(owner, PETS);
    const counted = countedDb();
    const rows = createDatasetRepository(counted.db);
    const principal = { userId: owner.id, tokenVersion: 1 };
    for (const [filter, index] of [
      [{}, "dataset_files USING PRIMARY KEY"],
      [{ split: "val" }, "dataset_files_split"],
      [{ split: null }, "dataset_files_split"],
      [{ label: "cat" }, "dataset_files_label"],
      [{ prefix: "train/" }, "dataset_files_path"],
      [{ prefix: "train/", label: "cat", split: "train" }, "dataset_files_path"],
    ] as const) {
      for (const after of [0, 2]) {
        counted.trips.length = 0;
        await rows.files(principal, id, filter, after, 10);
        expect(counted.trips.map((trip) => trip.length)).toEqual([1]);
        const sql = counted.trips[0]?.[0] ?? "";
        const bound = Array.from({ length: sql.split("?").length - 1 }, () => 1);
        const plan = await env.DB.prepare(`explain query plan ${sql}`)
          .bind(...bound)
          .all<{ detail: string }>();
        const details = plan.results.map(({ detail }) => detail);
        expect(details.filter((detail) => /^SCAN (?!me\b|users\b)/.test(detail))).toEqual([]);
        expect(details.join("\n")).toContain(index);
        expect(details.join("\n")).not.toContain("TEMP B-TREE");
      }
    }
    counted.trips.length = 0;
    await rows.fileFor(principal, id, 1);
    expect(counted.trips.map((trip) => trip.length)).toEqual([1]);
  });

  it("is readable by members, by everybody when public, and by nobody else", async ({ expect }) => {
    const [owner, viewer, stranger] = [await person(), await person(), await person()];
    await join(owner.projectId, viewer.id, "viewer");
    const secret = await dataset(owner);
    const open = await dataset(owner, { visibility: "public" });
    for (const [by, id, status] of [
      [owner, secret, 200],
      [viewer, secret, 200],
      [stranger, secret, 404],
      [stranger, open, 200],
      [stranger, newUuid(), 404],
    ] as const) {
      const answers = [await list(by, id), await call("GET", `${PATH}/${id}/files/1`, { token: by.token })];
      expect(answers.map((answer) => answer.status)).toEqual([status, status]);
      if (status === 404) for (const { body } of answers) expect(body).toMatchObject({ code: "DATASET_NOT_FOUND" });
    }
    expect((await call("GET", `${PATH}/${secret}/files`)).status).toBe(401);
    expect((await call("GET", `${PATH}/${secret}/files/1`)).status).toBe(401);
  });

  it("has an empty page for a dataset without a match, and refuses what it does not offer", async ({ expect }) => {
    const owner = await person();
    const id = await dataset(owner);
    expect((await list(owner, id, "label=none")).body).toEqual({ dataset_id: id, files: [], next_cursor: null });
    const other = btoa(JSON.stringify(["dataset_files", 1]));
    for (const [query, field] of [
      ["limit=0", "limit"],
      ["limit=501", "limit"],
      ["limit=1.0", "limit"],
      ["split=all", "split"],
      ["label=", "label"],
      ["prefix=", "prefix"],
      [`prefix=${"a".repeat(1_025)}`, "prefix"],
      ["cursor=garbage", "cursor"],
      [`cursor=${other}`, "cursor"],
      ["split=val&split=test", "split"],
    ]) {
      const answer = await list(owner, id, query);
      expect([query, answer.status, answer.body]).toEqual([
        query,
        422,
        expect.objectContaining({ code: "VALIDATION_ERROR", field }),
      ]);
    }
  });
});

describe("GET /datasets/{id}/files/{file_id}", () => {
  const get = (by: Person, id: string, file: number | string, headers: Record<string, string> = {}, method = "GET") =>
    call<string>(method, `${PATH}/${id}/files/${file}`, { token: by.token, headers: { ...headers } });

  it("serves a picture inline by range and by hash, and never lets a browser guess", async ({ expect }) => {
    const owner = await person();
    const id = await create(owner, { "train/cat/1.png": "0123456789", "train/dog/2.png": "abc" });
    const whole = await get(owner, id, 1);
    expect([whole.status, whole.body]).toEqual([200, "0123456789"]);
    expect(Object.fromEntries(whole.headers)).toMatchObject({
      "content-type": "image/png",
      "content-length": "10",
      "accept-ranges": "bytes",
      "x-content-type-options": "nosniff",
      "cache-control": "private, no-cache",
      etag: `"${await sha256Hex("0123456789")}"`,
    });
    expect(whole.headers.get("content-disposition")).toBeNull();
    expect(whole.headers.get("content-security-policy")).toContain("sandbox");
    const etag = whole.headers.get("etag") ?? "";
    for (const [headers, status, body] of [
      [{ range: "bytes=2-4" }, 206, "234"],
      [{ range: "bytes=-3" }, 206, "789"],
      [{ range: "bytes=8-99" }, 206, "89"],
      [{ range: "bytes=2-4", "if-range": etag }, 206, "234"],
      [{ range: "bytes=2-4", "if-range": '"other"' }, 200, "0123456789"],
      [{ range: `bytes=${Array.from({ length: 1_000 }, () => "0-1").join(",")}` }, 200, "0123456789"],
      [{ range: "items=0-1" }, 200, "0123456789"],
      [{ "if-none-match": etag }, 304, ""],
      [{ "if-none-match": '"other"' }, 200, "0123456789"],
    ] as const) {
      const answer = await get(owner, id, 1, headers);
      expect([headers, answer.status, answer.body]).toEqual([headers, status, body]);
    }
    for (const range of ["bytes=10-", "bytes=-0", "bytes=5-2"]) {
      const answer = await get(owner, id, 1, { range });
      expect([range, answer.status, answer.headers.get("content-range")]).toEqual([range, 416, "bytes */10"]);
    }
    const head = await get(owner, id, 1, {}, "HEAD");
    expect([head.status, head.body, head.headers.get("content-length")]).toEqual([200, "", "10"]);
  });

  it("makes everything that is no picture a download, whatever its name says", async ({ expect }) => {
    const owner = await person();
    const id = await create(owner, {
      "train/cat/1.png": "a",
      "train/dog/1.png": "b",
      "train/page.html": "<script>alert(1)</script>",
      'train/q"uote.svg': "<svg/>",
    });
    const files = (await list(owner, id)).body.files.filter(({ path }) => !path.endsWith(".png"));
    expect(files.length).toBe(2);
    for (const { file_id } of files) {
      const answer = await get(owner, id, file_id);
      expect(answer.headers.get("content-type")).toBe("application/octet-stream");
      expect(answer.headers.get("content-disposition")).toMatch(/^attachment; filename="[\w.-]+";/);
    }
  });

  it("is not found under a number of another dataset, and refuses what is no number", async ({ expect }) => {
    const owner = await person();
    const [one, other] = [await dataset(owner), await dataset(await person())];
    await db.insert(datasetFiles).values({
      datasetId: other,
      fileId: 77,
      path: "x.png",
      sizeBytes: 1,
      sha256: "0".repeat(64),
      storageKey: `datasets/${other}/1`,
    });
    const missing = await get(owner, one, 77);
    expect([missing.status, missing.body]).toEqual([404, expect.objectContaining({ code: "FILE_NOT_FOUND" })]);
    for (const bad of ["0", "-1", "1.0", "1e3", "01", "x", "9007199254740993", "%31%00"]) {
      expect((await get(owner, one, bad)).status, bad).toBe(422);
    }
    expect((await get(owner, one, "..%2f1")).status).toBeGreaterThanOrEqual(404);
  });
});
