import { evictDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import {
  call,
  events,
  type Json,
  job,
  type Lease,
  type Person,
  person,
  plainEvent,
  runner,
  runningJob,
} from "../support/api.ts";
import { checkpoint, clock, endEvent, jobObject, logChunk, logsOf, quietWorld, ring, take } from "../support/jobs.ts";

beforeEach(async () => {
  await quietWorld();
  clock.stop();
});
afterEach(() => {
  vi.restoreAllMocks();
  clock.start();
});

const count = async (table: "log_chunks" | "log_blocks", jobId: number) =>
  (await env.DB.prepare(`select count(*) as n from ${table} where job_id = ?`).bind(jobId).first<{ n: number }>())?.n;
const filesOf = async (jobId: number) =>
  (await env.BUCKET.list({ prefix: `jobs/${jobId}/` })).objects
    .map(({ key }) => key)
    .filter((key) => key.endsWith("log.ndjson"));

/** The tail of the log is over, and then the log is put away. */
async function putAway(jobId: number): Promise<void> {
  clock.advanceS(700);
  await ring(jobId);
  clock.advanceS(100);
  await ring(jobId);
}

/** Some chunks of both streams, small and large, with odd content. */
async function write(lease: Lease, chunks: number, label: string): Promise<void> {
  const numbers = { stdout: 0, stderr: 0 };
  for (let i = 0; i < chunks; i += 1) {
    const stream = i % 5 === 4 ? "stderr" : "stdout";
    numbers[stream] += 1;
    const lines = Array.from({ length: (i * 7) % 11 }, (_, n) => `${label} ${stream} ${i}.${n} 한글 "x"`);
    const wide = i % 6 === 3 ? ["y".repeat(60_000)] : [];
    const answer = await logChunk(lease, numbers[stream], [...lines, ...wide, `last of ${i}`].join("\n"), stream);
    if (answer.status !== 201) throw new Error(JSON.stringify(answer));
  }
}

type Line = { id: number; log_type: string; message: string; attempt: number };

async function page(owner: Person, path: string): Promise<{ lines: Line[]; prev: string | null; next: string | null }> {
  const answer = await call<Line[]>("GET", path, { token: owner.token });
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
  const link = (rel: string) =>
    new RegExp(`<([^>]+)>; rel="${rel}"`).exec(answer.headers.get("link") ?? "")?.[1] ?? null;
  return { lines: answer.body, prev: link("prev"), next: link("next") };
}

/** Everything that a reader can see: all pages back from the end and forth from the beginning, for both streams and each. */
async function allViews(owner: Person, jobId: number, sizes = [60, 5_000]): Promise<unknown[]> {
  const seen: unknown[] = [];
  for (const stream of ["", "&log_type=stdout", "&log_type=stderr"]) {
    for (const size of sizes) {
      let path: string | null = `/api/v1/training/jobs/${jobId}/logs?limit=${size}${stream}`;
      let first: string | null = null;
      for (let i = 0; path !== null && i < 60; i += 1) {
        const { lines, prev, next } = await page(owner, path);
        seen.push([stream, size, lines]);
        first = next;
        path = prev;
      }
      for (let i = 0; first !== null && i < 60; i += 1) {
        const { lines, next } = await page(owner, first);
        seen.push([stream, size, lines]);
        first = lines.length === 0 ? null : next;
      }
    }
  }
  return seen;
}

/** Lets statements with this text fail, as often as asked. */
function failStatements(text: string): { stop: () => void } {
  const prepare = env.DB.prepare.bind(env.DB);
  const spy = vi.spyOn(env.DB, "prepare").mockImplementation((query: string) => {
    if (query.includes(text)) throw new Error("D1_ERROR: away");
    return prepare(query);
  });
  return { stop: () => spy.mockRestore() };
}

describe("the log of an attempt that is over", () => {
  it("lies in one file afterwards, and every reader sees the same as before", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await write(lease, 40, "one");
    await events(lease, [endEvent(1)]);
    const before = await allViews(owner, jobId);
    // The tail of the log is still open.
    clock.advanceS(100);
    await ring(jobId);
    expect([await count("log_blocks", jobId), await filesOf(jobId)]).toEqual([0, []]);
    expect((await logChunk(lease, 33, "the tail\n")).status).toBe(201);
    await putAway(jobId);
    expect([await count("log_chunks", jobId), await filesOf(jobId)]).toEqual([0, [`jobs/${jobId}/1/log.ndjson`]]);
    expect(await count("log_blocks", jobId)).toBeGreaterThan(1);
    expect((await logsOf(owner, jobId)).at(-1)).toBe("the tail");
    const withTail = await allViews(owner, jobId);
    expect(withTail.length).toBeGreaterThanOrEqual(before.length);
    // What was there before the tail is unchanged, line by line.
    const whole = (views: unknown[]) =>
      JSON.stringify((views as [string, number, Line[]][]).find(([s, n]) => s === "" && n === 5_000)?.[2]);
    expect(whole(withTail).startsWith(whole(before).slice(0, -1))).toBe(true);
    expect((await call("GET", `/api/v1/training/jobs/${jobId}/logs`, { token: (await person()).token })).status).toBe(
      404,
    );
  });

  it("can be read at every step on the way, and a step that fails is done again", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await write(lease, 15, "steps");
    await events(lease, [endEvent(1)]);
    const before = await allViews(owner, jobId);

    const broken = vi.spyOn(env.BUCKET, "put").mockRejectedValue(new Error("R2 is away"));
    await putAway(jobId);
    expect([await count("log_blocks", jobId), await filesOf(jobId)]).toEqual([0, []]);
    expect(await allViews(owner, jobId)).toEqual(before);
    broken.mockRestore();

    const unnoted = failStatements("into log_blocks");
    await putAway(jobId);
    expect([await count("log_blocks", jobId), (await filesOf(jobId)).length]).toEqual([0, 1]);
    unnoted.stop();
    expect(await allViews(owner, jobId)).toEqual(before);

    const kept = failStatements("delete from log_chunks");
    await putAway(jobId);
    expect(await count("log_blocks", jobId)).toBeGreaterThan(0);
    expect(await count("log_chunks", jobId)).toBe(15);
    kept.stop();
    // Both places have the lines now: none is shown twice.
    expect(await allViews(owner, jobId)).toEqual(before);

    await evictDurableObject(jobObject(jobId));
    await putAway(jobId);
    expect(await count("log_chunks", jobId)).toBe(0);
    expect(await allViews(owner, jobId)).toEqual(before);
    // Nothing is left to do, however often the alarm rings.
    await putAway(jobId);
    expect(await allViews(owner, jobId)).toEqual(before);
  });

  it("joins with the lines of later attempts, and with those that still come", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const { jobId, lease } = await runningJob(owner, gpu);
    await write(lease, 15, "first");
    await checkpoint(lease, 1);
    await events(lease, [{ seq: 1, event: "released", data: { reason: "runner_shutdown" } }]);
    const second = await take(gpu);
    await write(second, 10, "second");
    const before = await allViews(owner, jobId, [25, 5_000]);
    clock.advanceS(61);
    await ring(jobId);
    expect(await filesOf(jobId)).toEqual([`jobs/${jobId}/1/log.ndjson`]);
    expect(await count("log_chunks", jobId)).toBe(10);
    expect(await allViews(owner, jobId, [25, 5_000])).toEqual(before);
    await events(second, [endEvent(1)]);
    await putAway(jobId);
    expect(await filesOf(jobId)).toEqual([`jobs/${jobId}/1/log.ndjson`, `jobs/${jobId}/2/log.ndjson`]);
    expect(await count("log_chunks", jobId)).toBe(0);
    expect(await allViews(owner, jobId, [25, 5_000])).toEqual(before);
  });

  it("waits for what D1 has not got yet", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await plainEvent(jobId, "log", { lines: ["one"] });
    const broken = vi.spyOn(env.DB, "batch").mockRejectedValue(new Error("D1_ERROR: away"));
    await plainEvent(jobId, "log", { lines: ["two"] });
    await plainEvent(jobId, "completed", {});
    await putAway(jobId);
    expect(await filesOf(jobId)).toEqual([]);
    broken.mockRestore();
    await putAway(jobId);
    expect([await count("log_chunks", jobId), await logsOf(owner, jobId)]).toEqual([0, ["one", "two"]]);
  });

  it("goes with its job", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await write(lease, 3, "gone");
    await events(lease, [endEvent(1)]);
    await putAway(jobId);
    expect((await filesOf(jobId)).length).toBe(1);
    expect((await call("DELETE", `/api/v1/training/jobs/${jobId}`, { token: owner.token })).status).toBe(204);
    expect(await count("log_blocks", jobId)).toBe(0);
    clock.start();
    for (let i = 0; i < 100 && (await filesOf(jobId)).length > 0; i += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(await filesOf(jobId)).toEqual([]);
  });

  it("says so when its file cannot be read", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await write(lease, 3, "lost");
    await events(lease, [endEvent(1)]);
    await putAway(jobId);
    await env.BUCKET.delete(`jobs/${jobId}/1/log.ndjson`);
    const answer = await call<Json>("GET", `/api/v1/training/jobs/${jobId}/logs`, { token: owner.token });
    expect([answer.status, answer.body.code]).toEqual([503, "STORAGE_UNAVAILABLE"]);
  });
});
