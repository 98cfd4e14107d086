import { env } from "cloudflare:workers";
import { describe, it } from "vitest";
import { type Content, serveContent } from "../../../src/http/content.ts";
import { sha256Hex } from "../../../src/shared/ids.ts";
import { createDatasetRepository } from "../../../src/training/datasets/repository.ts";
import { createDatasetService } from "../../../src/training/datasets/service.ts";
import { createProjectRepository } from "../../../src/training/projects/repository.ts";
import { createProjectService } from "../../../src/training/projects/service.ts";
import { accept, call, claim, type Json, type Person, person, runner } from "../../support/api.ts";
import { type MadeEntry, makeZip } from "../../support/make-zip.ts";

const projects = createProjectService({
  projects: createProjectRepository(env.DB),
  limitRunning: async () => undefined,
  now: Date.now,
});
const service = createDatasetService({
  datasets: createDatasetRepository(env.DB),
  projects,
  bucket: env.BUCKET,
  now: Date.now,
});

async function create(owner: Person, files: [string, Uint8Array][]): Promise<string> {
  const form = new FormData();
  form.append("name", "files");
  form.append("format", "imagefolder");
  for (const [name, content] of files) form.append("files", new File([content.slice()], name));
  const answer = await call("POST", "/api/v1/datasets", { token: owner.token, body: form });
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return String(answer.body.id);
}

const createZip = (owner: Person, entries: MadeEntry[]) => create(owner, [["d.zip", makeZip(entries)]]);

const noise = (length: number) => {
  const bytes = new Uint8Array(length);
  let state = 99;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[i] = state >>> 16;
  }
  return bytes;
};

const get = async (content: Content, headers: Record<string, string> = {}) => {
  const response = await serveContent(new Request("http://x/", { headers }), content);
  return { status: response.status, headers: response.headers, bytes: new Uint8Array(await response.arrayBuffer()) };
};

describe("a file of a dataset", () => {
  const files: [string, Uint8Array][] = [
    ["a/noise.png", noise(70_000)],
    ["a/text.png", new TextEncoder().encode("repeated text ".repeat(5_000))],
    ["b/empty.png", new Uint8Array(0)],
    ["b/tiny.png", Uint8Array.of(7)],
    ["b/zeros.png", new Uint8Array(9_000_000)],
  ];
  const ways: [string, (owner: Person) => Promise<string>][] = [
    ["sent loose", (owner) => create(owner, files)],
    [
      "deflated in a zip",
      (owner) =>
        createZip(
          owner,
          files.map(([name, content]) => ({ name, content, method: 8 })),
        ),
    ],
    [
      "stored in a zip",
      (owner) =>
        createZip(
          owner,
          files.map(([name, content]) => ({ name, content, method: 0 })),
        ),
    ],
  ];

  it.for(ways)("%s comes back whole, by its hash, and by every kind of range", async ([, make], { expect }) => {
    const id = await make(await person());
    for (const [i, [path, bytes]] of files.entries()) {
      const content = await service.fileContent(id, i + 1);
      const whole = await get(content);
      expect(whole.status, path).toBe(200);
      expect(await sha256Hex(whole.bytes), path).toBe(await sha256Hex(bytes.slice()));
      expect(whole.headers.get("etag")).toBe(`"${await sha256Hex(bytes.slice())}"`);
      expect(whole.headers.get("content-length")).toBe(String(bytes.length));
      expect(whole.headers.get("content-type")).toBe("image/png");
      expect(whole.headers.get("x-content-type-options")).toBe("nosniff");
      const size = bytes.length;
      for (const [from, to] of [
        [0, 0],
        [0, size - 1],
        [1, Math.min(size - 1, 10)],
        [Math.floor(size / 2), size - 1],
        [size - 1, size - 1],
        [Math.floor(size / 3), Math.floor((2 * size) / 3)],
      ] as const) {
        if (from < 0 || from > to || to >= size) continue;
        const part = await get(content, { range: `bytes=${from}-${to}` });
        expect(part.status).toBe(206);
        expect(part.headers.get("content-range")).toBe(`bytes ${from}-${to}/${size}`);
        expect(await sha256Hex(part.bytes), `${path} ${from}-${to}`).toBe(await sha256Hex(bytes.slice(from, to + 1)));
      }
      if (size > 5) expect((await get(content, { range: "bytes=-5" })).bytes).toEqual(bytes.slice(-5));
      const known = await get(content, { "if-none-match": whole.headers.get("etag") ?? "" });
      expect([known.status, known.bytes.length]).toEqual([304, 0]);
      await expect(get(content, { range: `bytes=${size}-` })).rejects.toMatchObject({ code: "RANGE_NOT_SATISFIABLE" });
    }
  });

  it("that is let go of half way does not break the next one", async ({ expect }) => {
    const id = await ways[1]?.[1](await person());
    const content = await service.fileContent(id ?? "", 5);
    const reader = (await content.open(null)).getReader();
    expect((await reader.read()).done).toBe(false);
    await reader.cancel();
    expect((await get(content, { range: "bytes=8999999-" })).bytes).toEqual(Uint8Array.of(0));
  });

  it("that is no picture is served as a download of unknown type", async ({ expect }) => {
    const id = await create(await person(), [
      ["a/1.png", noise(10)],
      ["b/2.png", noise(10)],
      ["b/페이지.html", new TextEncoder().encode("<script>alert(1)</script>")],
    ]);
    const page = await get(await service.fileContent(id, 3));
    expect(page.headers.get("content-type")).toBe("application/octet-stream");
    expect(page.headers.get("content-disposition")).toMatch(/^attachment; filename="[\w.-]+"; filename\*=UTF-8''%ED/);
    expect(page.headers.get("content-security-policy")).toContain("sandbox");
  });

  it("is not found under another number or in another dataset", async ({ expect }) => {
    const id = await ways[0]?.[1](await person());
    for (const [dataset, file] of [
      [id, 6],
      [id, 0],
      [id, -1],
      ["none", 1],
    ] as const) {
      await expect(service.fileContent(dataset ?? "", file)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    }
  });

  it("whose object is gone is a storage error, not an empty file", async ({ expect }) => {
    const id = await ways[0]?.[1](await person());
    await env.BUCKET.delete(`datasets/${id}/files.bin`);
    const content = await service.fileContent(id ?? "", 1);
    await expect(get(content)).rejects.toMatchObject({ code: "STORAGE_UNAVAILABLE" });
  });
});

describe("the manifest", () => {
  it("pages through a zip of 2,500 files in the order of their paths", async ({ expect }) => {
    const entries = Array.from({ length: 2_500 }, (_, i) => ({
      name: `${i % 2 ? "dog" : "cat"}/${i}.png`,
      content: `${i}`,
    }));
    const id = await createZip(await person(), entries);
    const files: { file_id: number; path: string; size: number; sha256: string }[] = [];
    const pages: number[] = [];
    for (let cursor: string | undefined; ; ) {
      const page = await service.manifestPage(id, cursor);
      expect(page.dataset_id).toBe(id);
      expect(page.content_hash).toMatch(/^[0-9a-f]{64}$/);
      files.push(...page.files);
      pages.push(page.files.length);
      if (page.next_cursor === null) break;
      cursor = page.next_cursor;
    }
    expect(pages).toEqual([1_000, 1_000, 500]);
    expect(files.map((file) => file.file_id)).toEqual(Array.from({ length: 2_500 }, (_, i) => i + 1));
    expect(files.map((file) => file.path)).toEqual(entries.map((entry) => entry.name).sort());
    const some = files[1_234];
    expect(some?.sha256).toBe(await sha256Hex(/(\d+)\.png/.exec(some?.path ?? "")?.[1] ?? ""));
    const content = await service.fileContent(id, 1_235);
    expect(await sha256Hex((await get(content)).bytes)).toBe(some?.sha256);
  });

  it("refuses cursors of other lists, and unknown datasets", async ({ expect }) => {
    const id = await create(await person(), [
      ["a/1.png", noise(3)],
      ["b/2.png", noise(3)],
    ]);
    for (const cursor of [
      "",
      "garbage",
      btoa('["other",1]'),
      btoa('["dataset_files",-1]'),
      btoa('["dataset_files","1"]'),
    ]) {
      await expect(service.manifestPage(id, cursor)).rejects.toMatchObject({
        code: "VALIDATION_ERROR",
        field: "cursor",
      });
    }
    await expect(service.manifestPage("none", undefined)).rejects.toMatchObject({ code: "DATASET_NOT_FOUND" });
    const beyond = await service.manifestPage(id, btoa('["dataset_files",99]').replace(/=+$/, ""));
    expect(beyond).toMatchObject({ files: [], next_cursor: null });
  });

  it("and the files reach a runner through its job", async ({ expect }) => {
    const owner = await person();
    const bytes = noise(5_000);
    const datasetId = await createZip(owner, [
      { name: "pets/train/cat/1.png", content: bytes },
      { name: "pets/train/dog/2.png", content: noise(100) },
    ]);
    const job = await call<{ id: number }>("POST", "/api/v1/training/jobs", {
      token: owner.token,
      body: {
        config: {
          framework: "embedded",
          model_name: "cnn_small",
          task_type: "image_classification",
          dataset_id: datasetId,
          epochs: 1,
        },
      },
    });
    expect(job.status).toBe(201);
    const gpu = await runner();
    await claim(gpu);
    const started = call("POST", `/api/v1/training/jobs/${job.body.id}/start`, { token: owner.token });
    const offer = await claim(gpu, 5);
    const lease = await accept(gpu, offer.body.job_id, offer.body.fence);
    await started;
    const base = `/api/v1/internal/jobs/${lease.jobId}/dataset`;
    const manifest = await call<{ files: Json[] }>("GET", base, { token: lease.token });
    expect(manifest.status).toBe(200);
    expect(manifest.body.files.map((file) => file.path)).toEqual(["train/cat/1.png", "train/dog/2.png"]);
    const file = await call("GET", `${base}/1`, { token: lease.token, headers: { range: "bytes=10-19" } });
    expect([file.status, file.headers.get("content-range")]).toEqual([206, "bytes 10-19/5000"]);
    expect(file.headers.get("etag")).toBe(`"${await sha256Hex(bytes)}"`);
    expect((await call("GET", base, { token: owner.token })).status).toBeGreaterThanOrEqual(401);
  });
});
