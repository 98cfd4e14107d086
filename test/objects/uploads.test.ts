import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import { sha256Hex } from "../../src/shared/ids.ts";
import { call, db, events, type Json, type Lease, person, runningJob } from "../support/api.ts";
import {
  artifact,
  checkpoint,
  clock,
  createArtifact,
  detail,
  endEvent,
  jobObject,
  putPart,
  quietWorld,
  ring,
  textBytes,
} from "../support/jobs.ts";

beforeEach(quietWorld);
afterEach(() => {
  vi.restoreAllMocks();
  clock.start();
});

const MIB = 1024 * 1024;
const PART = 16 * MIB;

/** Bytes that differ from place to place, in two parts. */
const large = (() => {
  const bytes = new Uint8Array(PART + 1000);
  for (let i = 0; i < bytes.length; i += 997) bytes[i] = i % 251;
  return bytes;
})();
const first = large.slice(0, PART);
const second = large.slice(PART);

const stored = (jobId: number) => env.BUCKET.list({ prefix: `jobs/${jobId}/` });
const listed = async (jobId: number) =>
  (await db.query.artifacts.findMany({ where: (row, { eq }) => eq(row.jobId, jobId) })).map((row) => row.id);

const openLarge = async (lease: Lease) => {
  const created = await createArtifact(lease, large, { epoch: 1 });
  if (created.status !== 201) throw new Error(JSON.stringify(created.body));
  return created.body;
};

describe("an upload", () => {
  it("of one part is stored, listed and readable once it is complete", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    const bytes = textBytes("weights");
    const created = await createArtifact(lease, bytes, { epoch: 2, role: "best", name: "best model (1).onnx" });
    expect([created.status, created.body]).toEqual([
      201,
      { artifact_id: expect.any(String), part_size: PART, parts: 1 },
    ]);
    const id = created.body.artifact_id;
    expect((await artifact(lease, id, "state")).body).toMatchObject({
      state: "open",
      received: [],
      epoch: 2,
      role: "best",
    });
    expect((await artifact(lease, id, "content")).status).toBe(404);
    expect((await putPart(lease, id, 1, bytes)).body).toEqual({ n: 1 });
    expect((await artifact(lease, id, "state")).body).toMatchObject({ state: "open", received: [1] });
    expect(await listed(jobId)).toEqual([]);
    const complete = await artifact(lease, id, "complete");
    expect(complete.body).toEqual({ artifact_id: id, checkpoint_path: `jobs/${jobId}/1/${id}` });
    expect(await listed(jobId)).toEqual([id]);
    const content = await artifact(lease, id, "content");
    expect([content.status, content.body, content.headers.get("etag")]).toEqual([
      200,
      "weights",
      `"${await sha256Hex(bytes)}"`,
    ]);
  });

  it("of several parts may lose one: the state names what is there, complete what is missing", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    const { artifact_id: id, parts } = await openLarge(lease);
    expect(parts).toBe(2);
    await putPart(lease, id, 2, second);
    const early = await artifact(lease, id, "complete");
    expect([early.status, early.body.field, early.body.detail]).toEqual([422, "parts", "parts: missing 1"]);
    expect((await artifact(lease, id, "state")).body).toMatchObject({ state: "open", received: [2], parts: 2 });
    await putPart(lease, id, 1, first, { "x-part-sha256": await sha256Hex(first) });
    // The same part again replaces it.
    await putPart(lease, id, 1, first);
    expect((await artifact(lease, id, "complete")).status).toBe(200);
    expect((await artifact(lease, id, "complete")).status).toBe(200);
    const object = await env.BUCKET.get(`jobs/${jobId}/1/${id}`);
    expect(await sha256Hex(new Uint8Array((await object?.arrayBuffer()) ?? new ArrayBuffer()))).toBe(
      await sha256Hex(large),
    );
    const late = await putPart(lease, id, 1, first);
    expect([late.status, late.body.code]).toEqual([409, "UPLOAD_CLOSED"]);
    expect((await artifact(lease, id, "abort")).body.code).toBe("UPLOAD_CLOSED");
    expect(await listed(jobId)).toEqual([id]);
  });

  it("refuses wrong bytes by their hash, and forgets a good part that they replaced", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    const single = await createArtifact(lease, textBytes("weights"), { epoch: 1 });
    const id = single.body.artifact_id;
    const wrong = await putPart(lease, id, 1, textBytes("w3ights"));
    expect([wrong.status, wrong.body.field]).toEqual([422, "sha256"]);
    expect((await artifact(lease, id, "complete")).status).toBe(422);
    expect((await stored(jobId)).objects).toEqual([]);
    expect((await putPart(lease, id, 1, textBytes("weights"))).status).toBe(200);

    const { artifact_id: many } = await openLarge(lease);
    const digest = await sha256Hex(second);
    await putPart(lease, many, 1, first);
    await putPart(lease, many, 2, second, { "x-part-sha256": digest });
    const broken = second.slice();
    broken[0] = 77;
    const refused = await putPart(lease, many, 2, broken, { "x-part-sha256": digest });
    expect([refused.status, refused.body.field]).toEqual([422, "x-part-sha256"]);
    expect((await artifact(lease, many, "state")).body.received).toEqual([1]);
    expect((await artifact(lease, many, "complete")).status).toBe(422);
    await putPart(lease, many, 2, second, { "x-part-sha256": digest });
    expect((await artifact(lease, many, "complete")).status).toBe(200);
    for (const header of ["x", digest.toUpperCase(), ""]) {
      const fresh = await createArtifact(lease, textBytes("weights"));
      const answer = await putPart(lease, fresh.body.artifact_id, 1, textBytes("weights"), { "x-part-sha256": header });
      expect([answer.status, answer.body.field]).toEqual([422, "x-part-sha256"]);
    }
  });

  it("takes parts of the right size only", async ({ expect }) => {
    const { lease } = await runningJob(await person());
    const { artifact_id: id } = await openLarge(lease);
    for (const [n, bytes] of [
      [1, first.slice(1)],
      [2, textBytes("short")],
      [2, new Uint8Array(second.length + 1)],
    ] as const) {
      const answer = await putPart(lease, id, n, bytes);
      expect([answer.status, answer.body.field]).toEqual([422, "content-length"]);
    }
    for (const n of ["0", "3", "10001", "1.5", "x", "1e1"]) {
      const answer = await putPart(lease, id, n, second);
      expect([n, answer.status]).toEqual([n, 422]);
    }
    expect((await artifact(lease, id, "state")).body.received).toEqual([]);
  });

  it("may be empty", async ({ expect }) => {
    const { lease } = await runningJob(await person());
    const created = await createArtifact(lease, new Uint8Array(), { kind: "file" });
    expect((await putPart(lease, created.body.artifact_id, 1, new Uint8Array())).status).toBe(200);
    expect((await artifact(lease, created.body.artifact_id, "complete")).status).toBe(200);
  });

  it("is refused before it begins when its description is no good", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    const bytes = textBytes("w");
    const deep = JSON.parse(`${'{"a":'.repeat(5_000)}1${"}".repeat(5_000)}`) as Json;
    for (const [part, status] of [
      [{ size: -1 }, 422],
      [{ size: 1.5 }, 422],
      [{ size: 50 * 1024 ** 3 + 1 }, 413],
      [{ sha256: "0".repeat(63) }, 422],
      [{ sha256: "../../etc/passwd" }, 422],
      [{ sha256: "A".repeat(64) }, 422],
      [{ name: "" }, 422],
      [{ name: ".." }, 422],
      [{ name: "../x" }, 422],
      [{ name: "a\\b" }, 422],
      [{ name: "a\u0000b" }, 422],
      [{ name: "x".repeat(16_384) }, 422],
      [{ kind: "weights" }, 422],
      [{ epoch: -1 }, 422],
      [{ epoch: 1e9 }, 422],
      [{ role: "newest" }, 422],
      [{ manifest: deep }, 422],
      [{ manifest: { labels: ["x".repeat(300_000)] } }, 422],
    ] as const) {
      const answer = await createArtifact(lease, bytes, part);
      expect([JSON.stringify(part).slice(0, 60), answer.status]).toEqual([JSON.stringify(part).slice(0, 60), status]);
    }
    const rows = await runInDurableObject(jobObject(jobId), (_, state) =>
      state.storage.sql.exec("SELECT count(*) AS n FROM artifacts").one(),
    );
    expect(rows).toEqual({ n: 0 });
  });

  it("that is given up leaves nothing behind", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    const { artifact_id: id } = await openLarge(lease);
    await putPart(lease, id, 2, second);
    expect((await artifact(lease, id, "abort")).status).toBe(204);
    expect((await artifact(lease, id, "abort")).status).toBe(204);
    expect((await artifact(lease, id, "state")).body).toMatchObject({ state: "aborted", received: [] });
    expect((await putPart(lease, id, 1, first)).body.code).toBe("UPLOAD_CLOSED");
    expect((await artifact(lease, id, "complete")).body.code).toBe("UPLOAD_CLOSED");
    const single = await createArtifact(lease, textBytes("w"));
    await putPart(lease, single.body.artifact_id, 1, textBytes("w"));
    await artifact(lease, single.body.artifact_id, "abort");
    expect((await stored(jobId)).objects).toEqual([]);
    expect((await artifact(lease, crypto.randomUUID(), "abort")).body.code).toBe("ARTIFACT_NOT_FOUND");
    expect((await call("GET", `/api/v1/internal/jobs/${jobId}/artifacts/x`, { token: lease.token })).status).toBe(422);
  });

  it("that is never finished is removed after its time, also when its lease is gone", async ({ expect }) => {
    clock.stop();
    const { jobId, lease } = await runningJob(await person());
    const { artifact_id: id } = await openLarge(lease);
    await putPart(lease, id, 1, first);
    const single = await createArtifact(lease, textBytes("w"));
    await putPart(lease, single.body.artifact_id, 1, textBytes("w"));
    await events(lease, [endEvent(1)]);
    clock.advanceS(86_399);
    await ring(jobId);
    expect((await stored(jobId)).objects).toHaveLength(1);
    clock.advanceS(1);
    await ring(jobId);
    expect((await stored(jobId)).objects).toEqual([]);
    const states = await runInDurableObject(jobObject(jobId), (_, state) =>
      state.storage.sql.exec<{ state: string }>("SELECT state FROM artifacts").toArray(),
    );
    expect(states).toEqual([{ state: "aborted" }, { state: "aborted" }]);
  });
});

describe("uploads that race", () => {
  it("are completed once, by two calls at once", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    const { artifact_id: id } = await openLarge(lease);
    await Promise.all([putPart(lease, id, 1, first), putPart(lease, id, 2, second)]);
    const answers = await Promise.all([artifact(lease, id, "complete"), artifact(lease, id, "complete")]);
    expect(answers.map((answer) => answer.status)).toEqual([200, 200]);
    expect(await listed(jobId)).toEqual([id]);
  });

  it("are complete or given up, never both", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    for (let round = 0; round < 4; round++) {
      const { artifact_id: id } = await openLarge(lease);
      await Promise.all([putPart(lease, id, 1, first), putPart(lease, id, 2, second)]);
      const calls = [() => artifact(lease, id, "complete"), () => artifact(lease, id, "abort")];
      const answers = await Promise.all((round % 2 === 0 ? calls : calls.reverse()).map((send) => send()));
      const { state } = (await artifact(lease, id, "state")).body;
      const object = await env.BUCKET.head(`jobs/${jobId}/1/${id}`);
      const isListed = (await listed(jobId)).includes(id);
      expect(answers.map((answer) => answer.status).every((status) => [200, 204, 409].includes(status))).toBe(true);
      expect([state === "complete", isListed]).toEqual([object !== null, object !== null]);
    }
  });

  it("are refused when the job is stopped and started while R2 works", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const bytes = textBytes("w");
    const open = env.BUCKET.createMultipartUpload.bind(env.BUCKET);
    vi.spyOn(env.BUCKET, "createMultipartUpload").mockImplementation(async (...args) => {
      await call("POST", `/api/v1/training/stop/${jobId}`, { token: owner.token });
      await events(lease, [endEvent(1, "stopped")]);
      return open(...args);
    });
    const answer = await createArtifact(lease, large, { epoch: 1 });
    expect([answer.status, answer.body.code]).toEqual([409, "STALE_LEASE"]);
    expect((await createArtifact(lease, bytes)).body.code).toBe("STALE_LEASE");
    expect((await detail(owner, jobId)).status).toBe("stopped");
  });
});

describe("R2 that fails", () => {
  it("is a 503 that can be tried again, at every step", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    const down = () => Promise.reject(new Error("R2 is down"));
    const opening = vi.spyOn(env.BUCKET, "createMultipartUpload").mockImplementationOnce(down);
    const refused = await createArtifact(lease, large);
    expect([refused.status, refused.body.code]).toEqual([503, "STORAGE_UNAVAILABLE"]);
    opening.mockRestore();
    const { artifact_id: id } = await openLarge(lease);

    const resume = env.BUCKET.resumeMultipartUpload.bind(env.BUCKET);
    const failing = vi.spyOn(env.BUCKET, "resumeMultipartUpload").mockImplementation((key, uploadId) => ({
      key,
      uploadId,
      uploadPart: down,
      complete: down,
      abort: () => resume(key, uploadId).abort(),
    }));
    const part = await putPart(lease, id, 1, first);
    expect([part.status, part.body.code, part.headers.get("retry-after")]).toEqual([503, "STORAGE_UNAVAILABLE", "1"]);
    failing.mockRestore();
    await putPart(lease, id, 1, first);
    await putPart(lease, id, 2, second);
    vi.spyOn(env.BUCKET, "resumeMultipartUpload").mockImplementation((key, uploadId) => ({
      ...resume(key, uploadId),
      key,
      uploadId,
      complete: down,
    }));
    expect((await artifact(lease, id, "complete")).body.code).toBe("STORAGE_UNAVAILABLE");
    vi.restoreAllMocks();
    expect((await artifact(lease, id, "state")).body.state).toBe("open");
    expect((await artifact(lease, id, "complete")).status).toBe(200);
    expect(await listed(jobId)).toEqual([id]);
  });

  it("does not lose a completion whose answer was lost", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    const { artifact_id: id } = await openLarge(lease);
    await putPart(lease, id, 1, first);
    await putPart(lease, id, 2, second);
    const resume = env.BUCKET.resumeMultipartUpload.bind(env.BUCKET);
    vi.spyOn(env.BUCKET, "resumeMultipartUpload").mockImplementationOnce((key, uploadId) => {
      const upload = resume(key, uploadId);
      return {
        key,
        uploadId,
        uploadPart: upload.uploadPart.bind(upload),
        abort: upload.abort.bind(upload),
        complete: async (parts) => {
          await upload.complete(parts);
          throw new Error("connection reset");
        },
      };
    });
    expect((await artifact(lease, id, "complete")).status).toBe(200);
    expect(await listed(jobId)).toEqual([id]);
  });

  it("has what it kept of a given-up upload removed later", async ({ expect }) => {
    clock.stop();
    const { jobId, lease } = await runningJob(await person());
    const created = await createArtifact(lease, textBytes("w"));
    await putPart(lease, created.body.artifact_id, 1, textBytes("w"));
    const failing = vi.spyOn(env.BUCKET, "delete").mockRejectedValue(new Error("R2 is down"));
    expect((await artifact(lease, created.body.artifact_id, "abort")).status).toBe(204);
    expect((await artifact(lease, created.body.artifact_id, "state")).body.state).toBe("aborted");
    await ring(jobId);
    expect((await stored(jobId)).objects).toHaveLength(1);
    failing.mockRestore();
    clock.advanceS(60);
    expect(await ring(jobId)).toBe(true);
    expect((await stored(jobId)).objects).toEqual([]);
  });
});

describe("the job's own files", () => {
  it("are read by the lease that holds the job, page by page, by range and by tag", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const base = `/api/v1/internal/jobs/${jobId}/dataset`;
    const manifest = await call<Json & { files: Json[] }>("GET", base, { token: lease.token });
    expect(manifest.body).toMatchObject({ dataset_id: (await detail(owner, jobId)).dataset_id, next_cursor: null });
    expect(manifest.body.files.map((file) => file.path)).toEqual([
      "train/cat/1.png",
      "train/dog/1.png",
      "val/cat/2.png",
      "val/dog/2.png",
    ]);
    const file = await call("GET", `${base}/2`, { token: lease.token });
    expect([file.status, file.body]).toEqual([200, "f1.x"]);
    const range = await call("GET", `${base}/2`, { token: lease.token, headers: { range: "bytes=1-2" } });
    expect([range.status, range.body]).toEqual([206, "1."]);
    const known = await call("GET", `${base}/2`, {
      token: lease.token,
      headers: { "if-none-match": file.headers.get("etag") ?? "" },
    });
    expect(known.status).toBe(304);
    expect((await call("GET", `${base}/99`, { token: lease.token })).status).toBe(404);
    expect((await call("GET", `${base}/x`, { token: lease.token })).status).toBe(422);
  });

  it("count as a sign of life", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    for (const read of [
      () => call("GET", `/api/v1/internal/jobs/${jobId}/dataset`, { token: lease.token }),
      () => call("GET", `/api/v1/internal/jobs/${jobId}/dataset/1`, { token: lease.token }),
      () => checkpoint(lease, 1),
    ]) {
      clock.advanceS(59);
      await read();
      await ring(jobId);
      expect((await detail(owner, jobId)).phase).toBe("running");
    }
  });
});
