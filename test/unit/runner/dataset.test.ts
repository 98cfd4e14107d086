import { createHash } from "node:crypto";
import { chmod, mkdir, readdir, readFile, stat, symlink, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "vitest";
import { ContentCache } from "../../../runner/embedded/agent/dataset/cache.ts";
import { download, HashMismatch } from "../../../runner/embedded/agent/dataset/download.ts";
import { type CacheEntry, toEvict } from "../../../runner/embedded/agent/dataset/eviction.ts";
import { checkManifest } from "../../../runner/embedded/agent/dataset/plan.ts";
import { DatasetUnavailable, prepareDataset } from "../../../runner/embedded/agent/dataset/prepare.ts";
import { lockOr, tryLock } from "../../../runner/embedded/agent/lock.ts";
import type { ManifestFile } from "../../../runner/embedded/agent/wire.ts";
import { type Call, hastyClock, problem, type Reply, retryOptions, scriptedServer, tempFolder } from "./support.ts";

const sha256Of = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest("hex");
const fileOf = (path: string, content: Uint8Array | string, fileId = 1): ManifestFile => ({
  file_id: fileId,
  path,
  size: Buffer.byteLength(content),
  sha256: sha256Of(content),
});

describe("checkManifest", () => {
  it("takes ordinary names in any script", ({ expect }) => {
    const files = ["train/cat/1.png", "val/고양이/사진 1.png", "a/b/..c/d...e.png"].map((path) => fileOf(path, "x"));
    expect(checkManifest(files)).toEqual({ ok: true, value: undefined });
  });

  it("refuses every name that could leave the folder or stand for another", ({ expect }) => {
    const bad = [
      "/etc/passwd",
      "../x",
      "a/../../x",
      "a/..",
      ".",
      "",
      "a//b",
      "a/./b",
      "C:/x",
      "c:x",
      "a\\b",
      "..\\x",
      "a\0b",
      "a\nb",
      "a/%2e%2e/b",
      "a/．．/b",
      "./a",
      "e\u0301.png",
      `${"x".repeat(300)}.png`,
    ];
    for (const path of bad)
      expect(checkManifest([fileOf(path, "x")]), JSON.stringify(path)).toMatchObject({ ok: false });
  });

  it("refuses a name twice, and one that is a file and a folder", ({ expect }) => {
    expect(checkManifest([fileOf("a", "x"), fileOf("a", "y")]).ok).toBe(false);
    expect(checkManifest([fileOf("a", "x"), fileOf("a/b", "y")]).ok).toBe(false);
  });
});

describe("toEvict", () => {
  const entry = (path: string, lastUsedMs: number, inUse = false): CacheEntry => ({
    path,
    bytes: 10,
    lastUsedMs,
    inUse,
  });
  const names = (entries: CacheEntry[], max: number) => toEvict(entries, max).map(({ path }) => path);

  it("takes the least recently used until the rest fits, and nothing that is in use", ({ expect }) => {
    const entries = [entry("new", 9), entry("old", 1), entry("used", 0, true), entry("middle", 5)];
    expect(names(entries, 40)).toEqual([]);
    expect(names(entries, 30)).toEqual(["old"]);
    expect(names(entries, 15)).toEqual(["old", "middle", "new"]);
    expect(names(entries, 0)).toEqual(["old", "middle", "new"]);
  });
});

describe("download", () => {
  const content = Buffer.from(Array.from({ length: 5000 }, (_, i) => i % 251));
  const target = async () => join(await tempFolder(), "file");
  const request = (client: Parameters<typeof download>[0]["client"], to: string) => ({
    client,
    path: "/f",
    token: "t",
    target: to,
    size: content.length,
    sha256: sha256Of(content),
    retry: retryOptions(),
  });
  const serve = (call: Call): Reply => {
    const from = Number(/^bytes=(\d+)-$/.exec(call.headers.range ?? "")?.[1] ?? 0);
    return from === 0 ? { status: 200, body: content } : { status: 206, body: content.subarray(from) };
  };

  it("goes on by a range where the connection was cut", async ({ expect }) => {
    const { client, calls } = await scriptedServer((call, count) => ({
      ...serve(call),
      ...(count < 3 && { cutAfter: 1000 }),
    }));
    const to = await target();
    await download(request(client, to));
    expect(await readFile(to)).toEqual(content);
    expect(calls.map(({ headers }) => headers.range)).toEqual([undefined, "bytes=1000-", "bytes=2000-"]);
    expect(calls[1]?.headers["if-range"]).toBe(`"${sha256Of(content)}"`);
    expect(await readdir(join(to, ".."))).toEqual(["file"]);
  });

  it("goes on with what an earlier process has left", async ({ expect }) => {
    const { client, calls } = await scriptedServer(serve);
    const to = await target();
    await writeFile(`${to}.part`, content.subarray(0, 4000));
    expect(await download(request(client, to))).toBe(1000);
    expect(calls[0]?.headers.range).toBe("bytes=4000-");
    expect(await readFile(to)).toEqual(content);
  });

  it("begins anew when what was left is damaged, or longer than the file", async ({ expect }) => {
    const { client } = await scriptedServer(serve);
    for (const left of [Buffer.alloc(4000, 1), Buffer.alloc(content.length, 1), Buffer.alloc(9000, 1)]) {
      const to = await target();
      await writeFile(`${to}.part`, left);
      await download(request(client, to));
      expect(await readFile(to)).toEqual(content);
    }
  });

  it("takes the whole file where the server ignores the range", async ({ expect }) => {
    const { client } = await scriptedServer(() => ({ status: 200, body: content }));
    const to = await target();
    await writeFile(`${to}.part`, content.subarray(0, 10));
    await download(request(client, to));
    expect(await readFile(to)).toEqual(content);
  });

  it("refuses bytes with another hash after a few tries and leaves nothing", async ({ expect }) => {
    const { client, calls } = await scriptedServer(() => ({ status: 200, body: Buffer.alloc(content.length, 7) }));
    const to = await target();
    await expect(download(request(client, to))).rejects.toThrow(HashMismatch);
    expect(calls).toHaveLength(3);
    expect(await readdir(join(to, ".."))).toEqual([]);
  });

  it("makes an empty file of an empty one", async ({ expect }) => {
    const { client } = await scriptedServer(() => ({ status: 200 }));
    const to = await target();
    await download({ ...request(client, to), size: 0, sha256: sha256Of("") });
    expect((await stat(to)).size).toBe(0);
  });
});

/** A server with a manifest in pages and the files behind it. */
async function datasetServer(contents: Record<string, string>, pageFiles = 2) {
  const files = Object.entries(contents).map(([path, content], i) => fileOf(path, content, i + 1));
  const server = await scriptedServer(({ path }) => {
    const url = new URL(path, "http://x");
    const id = Number(/\/dataset\/(\d+)$/.exec(url.pathname)?.[1] ?? 0);
    if (id > 0) return { status: 200, body: Buffer.from(contents[files[id - 1]?.path ?? ""] ?? "") };
    const from = Number(url.searchParams.get("cursor") ?? 0);
    const next = from + pageFiles;
    return {
      status: 200,
      json: {
        dataset_id: "d",
        content_hash: "h",
        files: files.slice(from, next),
        next_cursor: next < files.length ? String(next) : null,
      },
    };
  });
  return { ...server, files };
}

const newCache = async (maxBytes = 1e9, folder?: string) =>
  new ContentCache(folder ?? (await tempFolder()), maxBytes, hastyClock());

describe("prepareDataset", () => {
  const prepare = (client: Parameters<typeof prepareDataset>[0]["client"], cache: ContentCache, dataDir: string) =>
    prepareDataset({ client, jobId: 1, token: "t", cache, dataDir, retry: retryOptions() });

  it("puts all files in place, fetches each content once, and none that is known", async ({ expect }) => {
    const contents = { "a/1": "one", "a/2": "two", "b/1": "one", "b/c/3": "", "4": "four" };
    const { client, calls } = await datasetServer(contents);
    const cache = await newCache();
    const first = join(await tempFolder(), "data");
    expect(await prepare(client, cache, first)).toEqual({ files: 5, bytes: 10, fetchedBytes: 10 });
    for (const [path, content] of Object.entries(contents)) {
      expect(await readFile(join(first, path), "utf8")).toBe(content);
    }
    expect(calls.filter(({ path }) => /dataset\/\d/.test(path))).toHaveLength(4);
    const second = join(await tempFolder(), "data");
    expect(await prepare(client, cache, second)).toMatchObject({ fetchedBytes: 0 });
    expect(calls.filter(({ path }) => /dataset\/\d/.test(path))).toHaveLength(4);
  });

  it("writes nothing of a manifest with one bad name", async ({ expect }) => {
    const { client, calls } = await datasetServer({ good: "x", "../bad": "y" });
    const dataDir = join(await tempFolder(), "data");
    await expect(prepare(client, await newCache(), dataDir)).rejects.toThrow(DatasetUnavailable);
    expect(calls.every(({ path }) => !/dataset\/\d/.test(path))).toBe(true);
    await expect(stat(dataDir)).rejects.toThrow();
  });

  it("does not follow a link that somebody has put into the folder", async ({ expect }) => {
    const { client } = await datasetServer({ "out/x": "x" });
    const elsewhere = await tempFolder();
    const dataDir = join(await tempFolder(), "data");
    await mkdir(dataDir);
    await symlink(elsewhere, join(dataDir, "out"));
    await expect(prepare(client, await newCache(), dataDir)).rejects.toThrow(/leads out/);
    expect(await readdir(elsewhere)).toEqual([]);
  });

  it("says that the dataset cannot be had when a file is gone, and passes a lost lease on", async ({ expect }) => {
    for (const [status, code, kind] of [
      [404, "FILE_NOT_FOUND", "DatasetUnavailable"],
      [409, "STALE_LEASE", "ApiError"],
    ] as const) {
      const files = [fileOf("a", "x")];
      const page = { dataset_id: "d", content_hash: "h", files, next_cursor: null };
      const { client } = await scriptedServer(({ path }) =>
        path.endsWith("/dataset") ? { status: 200, json: page } : problem(status, code),
      );
      const dataDir = join(await tempFolder(), "data");
      const error = await prepare(client, await newCache(), dataDir).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ name: kind });
    }
  });

  it("does not page for ever", async ({ expect }) => {
    const page = { dataset_id: "d", content_hash: "h", files: [], next_cursor: "again" };
    const { client } = await scriptedServer(() => ({ status: 200, json: page }));
    await expect(prepare(client, await newCache(), join(await tempFolder(), "data"))).rejects.toThrow(/does not end/);
  });
});

describe("ContentCache", () => {
  const content = "content";
  const file = fileOf("x", content);
  const serve = () => scriptedServer(() => ({ status: 200, body: Buffer.from(content) }));
  const pathIn = (folder: string) => join(folder, "sha256", file.sha256.slice(0, 2), file.sha256);

  it("fetches again what was changed behind its back, also when size and name are right", async ({ expect }) => {
    const { client, calls } = await serve();
    const folder = await tempFolder();
    const cache = await newCache(1e9, folder);
    const source = { client, path: "/f", token: "t", retry: retryOptions() };
    await cache.fill(file, source);
    const { mode } = await stat(pathIn(folder));
    expect(mode & 0o777).toBe(0o444);
    await chmod(pathIn(folder), 0o644);
    await writeFile(pathIn(folder), "CONTENT");
    expect(await cache.fill(file, source)).toBe(content.length);
    expect(await readFile(pathIn(folder), "utf8")).toBe(content);
    expect(calls).toHaveLength(2);
  });

  it("keeps what only lost its mark", async ({ expect }) => {
    const { client, calls } = await serve();
    const folder = await tempFolder();
    const cache = await newCache(1e9, folder);
    const source = { client, path: "/f", token: "t", retry: retryOptions() };
    await cache.fill(file, source);
    await utimes(pathIn(folder), new Date(), new Date());
    expect(await cache.fill(file, source)).toBe(0);
    expect(calls).toHaveLength(1);
  });

  it("lets two who want the same content at once fetch it once", async ({ expect }) => {
    const { client, calls } = await scriptedServer(async () => {
      await new Promise((resolve) => setTimeout(resolve, 50));
      return { status: 200, body: Buffer.from(content) };
    });
    const folder = await tempFolder();
    const source = { client, path: "/f", token: "t", retry: retryOptions() };
    const caches = [await newCache(1e9, folder), await newCache(1e9, folder), await newCache(1e9, folder)];
    await Promise.all(caches.map((cache) => cache.fill(file, source)));
    expect(calls).toHaveLength(1);
    expect((await readdir(join(folder, "sha256", file.sha256.slice(0, 2)))).sort()).toEqual([file.sha256]);
  });

  it("deletes the oldest when it is too large, and not what a job has linked", async ({ expect }) => {
    const contents = ["aaaaa", "bbbbb", "ccccc"];
    const { client } = await scriptedServer(({ path }) => ({
      status: 200,
      body: Buffer.from(contents[Number(path.slice(1))] ?? ""),
    }));
    const folder = await tempFolder();
    let now = 1e12;
    const cache = new ContentCache(folder, 6, { ...hastyClock(), now: () => (now += 1e6) });
    for (const [i, text] of contents.entries()) {
      await cache.fill(fileOf("x", text), { client, path: `/${i}`, token: "t", retry: retryOptions() });
    }
    await cache.place(sha256Of("aaaaa"), join(folder, "linked"));
    await cache.trim();
    expect(await cache.has(fileOf("x", "aaaaa"))).toBe(true);
    expect(await cache.has(fileOf("x", "bbbbb"))).toBe(false);
    expect(await cache.has(fileOf("x", "ccccc"))).toBe(false);
  });
});

describe("tryLock", () => {
  it("is for one at a time, and free again afterwards", async ({ expect }) => {
    const path = join(await tempFolder(), "lock");
    const first = await tryLock(path);
    expect(first).not.toBe(null);
    expect(await tryLock(path)).toBe(null);
    await first?.release();
    const again = await tryLock(path);
    expect(again).not.toBe(null);
    await again?.release();
  });

  it("takes over from a process that is gone, and from one that has not touched it for long", async ({ expect }) => {
    const path = join(await tempFolder(), "lock");
    // No process has this number: the kernel's limit is lower.
    await writeFile(path, "2000000000");
    const lock = await tryLock(path);
    expect(lock).not.toBe(null);
    await lock?.release();
    await writeFile(path, String(process.pid));
    await utimes(path, new Date(0), new Date(0));
    await (await tryLock(path))?.release();
    await expect(stat(path)).rejects.toThrow();
  });

  it("waits until the other one is done, and needs no lock when the work is done by then", async ({ expect }) => {
    const path = join(await tempFolder(), "lock");
    const held = await tryLock(path);
    let done = false;
    const waiting = lockOr(path, async () => done, hastyClock(), new AbortController().signal);
    done = true;
    expect(await waiting).toBe(null);
    await held?.release();
  });
});
