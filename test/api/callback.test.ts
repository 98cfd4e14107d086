import { createExecutionContext, runInDurableObject, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import { createApp } from "../../src/app.ts";
import {
  call,
  db,
  events,
  type Json,
  job,
  type Lease,
  person,
  plainEvent,
  runner,
  runningJob,
} from "../support/api.ts";
import {
  artifact,
  checkpoint,
  clock,
  createArtifact,
  detail,
  endEvent,
  epochEvent,
  heartbeat,
  jobObject,
  logChunk,
  logsOf,
  metricsOf,
  putPart,
  quietWorld,
  ring,
  start,
  stop,
  take,
  textBytes,
} from "../support/jobs.ts";

beforeEach(quietWorld);
afterEach(() => {
  vi.restoreAllMocks();
  clock.start();
});

const CALLBACK = "/api/v1/internal/training/callback";

/** A body as text, for what `JSON.stringify` cannot write. */
const rawLeased = (lease: Lease, body: string | Uint8Array, headers: Record<string, string> = {}) =>
  call("POST", CALLBACK, { token: lease.token, body, headers: { "content-type": "application/json", ...headers } });

const gzip = async (text: string) =>
  new Uint8Array(
    await new Response(new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer(),
  );

/** mulberry32 */
function randomFrom(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

describe("numbered events", () => {
  it("are stored once, however often they are sent, at the same cost", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const batch = Array.from({ length: 10 }, (_, i) => epochEvent(i + 1));
    await events(lease, batch);
    const commits = vi.spyOn(env.DB, "batch");
    for (let i = 0; i < 100; i++) {
      expect((await events(lease, batch)).body).toMatchObject({ ack_seq: 10, missing: [], rejected: [] });
    }
    expect(commits).toHaveBeenCalledTimes(0);
    expect(await metricsOf(owner, jobId)).toHaveLength(10);

    // The same after a million points: nothing is read that grows, nothing is written.
    await runInDurableObject(jobObject(jobId), (_, state) => {
      const head = state.storage.kv.get<{ mark: number }>("head");
      state.storage.kv.put("head", { ...head, mark: 1_000_000 });
    });
    expect((await events(lease, batch)).body).toMatchObject({ ack_seq: 1_000_000, missing: [] });
    expect(commits).toHaveBeenCalledTimes(0);
    expect((await events(lease, [epochEvent(1_000_001, 11)])).body).toMatchObject({ ack_seq: 1_000_001 });
    expect(commits).toHaveBeenCalledTimes(1);
  });

  it("lead to the same end in any order and any batches", async ({ expect }) => {
    const owner = await person();
    const report = async (order: Json[][]) => {
      const { jobId, lease } = await runningJob(owner);
      for (const batch of order) expect((await events(lease, batch)).status).toBe(200);
      const { status, phase, reason, current_epoch, total_epochs, best, data_complete, message } = await detail(
        owner,
        jobId,
      );
      const points = (await metricsOf(owner, jobId)).map(({ epoch, step, loss, accuracy }) => [
        epoch,
        step,
        loss,
        accuracy,
      ]);
      const results = (await call<Json>("GET", `/api/v1/validation/results/${jobId}`, { token: owner.token })).body;
      const validations = (results.results as Json[]).map(({ epoch, metrics }) => [epoch, metrics]);
      return { status, phase, reason, current_epoch, total_epochs, best, data_complete, message, points, validations };
    };
    const all: Json[] = [
      { seq: 1, event: "started", data: { total_epochs: 4 } },
      ...[1, 2, 3, 4].flatMap((epoch) => [
        {
          seq: 2 * epoch,
          event: "epoch_complete",
          data: { epoch, loss: 1 / epoch, accuracy: [0.1, 0.9, 0.5, 0.7][epoch - 1] },
        },
        { seq: 2 * epoch + 1, event: "validation", data: { epoch, metrics: { accuracy: epoch / 100 } } },
      ]),
      { seq: 10, event: "completed", data: { message: "well done" } },
      { seq: 11, event: "failed", data: { message: "second end" } },
    ];
    const expected = await report([all]);
    expect(expected).toMatchObject({
      status: "completed",
      reason: "done",
      best: { value: 0.9, epoch: 2 },
      data_complete: true,
    });
    for (let seed = 1; seed <= 4; seed++) {
      const random = randomFrom(seed);
      const left = all.slice(0, 10).flatMap((event) => (random() < 0.3 ? [event, event] : [event]));
      const order: Json[][] = [];
      while (left.length > 0) {
        const batch = Array.from({ length: 1 + Math.floor(random() * 4) }, () =>
          left.splice(Math.floor(random() * left.length), 1),
        );
        order.push(batch.flat());
      }
      expect(await report(order)).toEqual(expected);
    }
  });

  it("leave the job finalizing while numbers are missing, and complete it when they come", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const first = await events(lease, [epochEvent(1), epochEvent(4), endEvent(6)]);
    expect(first.body).toMatchObject({
      ack_seq: 1,
      missing: [
        [2, 3],
        [5, 5],
      ],
      desired: "run",
    });
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", phase: "finalizing", completed_at: null });
    await events(lease, [epochEvent(5)]);
    const last = await events(lease, [epochEvent(3), epochEvent(2)]);
    expect(last.body).toMatchObject({ ack_seq: 6, missing: [] });
    expect(await detail(owner, jobId)).toMatchObject({ status: "completed", data_complete: true, current_epoch: 5 });
    expect(await metricsOf(owner, jobId)).toHaveLength(5);
  });

  it("close the job without what never came, after the wait", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await events(lease, [endEvent(3, "completed", { log_chunks: { stdout: 1, stderr: 0 } })]);
    clock.advanceS(599);
    await ring(jobId);
    expect((await detail(owner, jobId)).phase).toBe("finalizing");
    clock.advanceS(1);
    await ring(jobId);
    expect(await detail(owner, jobId)).toMatchObject({ status: "completed", data_complete: false });
  });

  it("wait for announced log chunks, except for those that the runner itself has given up", async ({ expect }) => {
    const owner = await person();
    const waiting = await runningJob(owner);
    await events(waiting.lease, [endEvent(1, "completed", { log_chunks: { stdout: 2, stderr: 1 } })]);
    await logChunk(waiting.lease, 2, "two\n");
    await logChunk(waiting.lease, 1, "err\n", "stderr");
    expect((await detail(owner, waiting.jobId)).phase).toBe("finalizing");
    await logChunk(waiting.lease, 1, "one\n");
    expect(await detail(owner, waiting.jobId)).toMatchObject({ status: "completed", data_complete: true });

    const given = await runningJob(owner);
    await events(given.lease, [endEvent(1, "completed", { log_chunks: { stdout: 5, stderr: 0 }, chunks_failed: 3 })]);
    expect(await detail(owner, given.jobId)).toMatchObject({ status: "completed", data_complete: false });
  });

  it("that are bad are named and count as received; the rest is stored", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const answer = await events(lease, [
      epochEvent(1),
      { seq: 2, event: "nonsense", data: {} },
      { seq: 3, event: "epoch_complete", data: { epoch: -1 } },
      { seq: 4, event: "epoch_complete" },
      { seq: 5, event: 7, data: {} },
      { seq: 6, event: "validation", data: { epoch: 1, confusion_matrix: [[1, 2], [3]] } },
      epochEvent(7, 2),
      { seq: 8, event: "epoch_complete", data: { epoch: 3, unknown: { deep: [] }, loss: 1 }, extra: true },
    ]);
    expect(answer.body).toMatchObject({ ack_seq: 8, missing: [] });
    expect((answer.body.rejected as Json[]).map(({ seq, code, field }) => [seq, code, field])).toEqual([
      [2, "VALIDATION_ERROR", "event"],
      [3, "VALIDATION_ERROR", "data.epoch"],
      [4, "VALIDATION_ERROR", "data"],
      [5, "VALIDATION_ERROR", "event"],
      [6, "VALIDATION_ERROR", "data.confusion_matrix"],
    ]);
    expect((await metricsOf(owner, jobId)).map((point) => point.epoch)).toEqual([1, 2, 3]);
  });

  it("with one number and other content: the first stays and it is reported", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const answer = await events(lease, [epochEvent(1, 1), epochEvent(1, 2), epochEvent(2, 3), epochEvent(2, 3)]);
    expect(answer.body).toMatchObject({ ack_seq: 2 });
    expect((answer.body.rejected as Json[]).map(({ seq, field }) => [seq, field])).toEqual([[1, "seq"]]);
    await events(lease, [epochEvent(1, 9)]);
    expect((await metricsOf(owner, jobId)).map((point) => point.epoch)).toEqual([1, 3]);
  });

  it("have to have numbers that are numbers, near the ones that arrived", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    for (const seq of [2 ** 53, -1, 0, 1.5, "3", null, true]) {
      const answer = await events(lease, [epochEvent(1), { ...epochEvent(1), seq }]);
      expect([seq, answer.status, answer.body.field]).toEqual([seq, 422, "events.1.seq"]);
    }
    expect(await metricsOf(owner, jobId)).toEqual([]);
    const far = await events(lease, [epochEvent(1), epochEvent(3), epochEvent(1_000_000_000)]);
    expect([far.status, far.body.code, far.headers.get("retry-after")]).toEqual([429, "TOO_MANY_EVENTS", "1"]);
    expect(far.body).toMatchObject({ ack_seq: 0, missing: [] });
    await events(lease, [epochEvent(1), epochEvent(3)]);
    const again = await events(lease, [epochEvent(10_002)]);
    expect([again.status, again.body.ack_seq, again.body.missing]).toEqual([429, 1, [[2, 2]]]);
    expect((await events(lease, [epochEvent(10_001)])).body).toMatchObject({
      ack_seq: 1,
      missing: [
        [2, 2],
        [4, 10_000],
      ],
    });
  });

  it("come in batches of 500 at most; an empty one is a sign of life", async ({ expect }) => {
    const { lease } = await runningJob(await person());
    const many = Array.from({ length: 501 }, (_, i) => epochEvent(i + 1));
    const refused = await events(lease, many);
    expect([refused.status, refused.body.field]).toEqual([422, "events"]);
    expect((await events(lease, [])).body).toMatchObject({ status: "received", ack_seq: 0, desired: "run" });
    expect((await events(lease, many.slice(0, 500))).body.ack_seq).toBe(500);
  });

  it("one in a call: what is wrong with it is the answer, and its number counts as received", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const send = (event: string, data: unknown, seq?: number) =>
      call("POST", CALLBACK, { token: lease.token, body: { job_id: jobId, seq, event, data } });
    expect((await send("epoch_complete", { epoch: 1 }, 1)).body).toMatchObject({ ack_seq: 1 });
    const bad = await send("epoch_complete", { epoch: "x" }, 2);
    expect([bad.status, bad.body.field]).toEqual([422, "data.epoch"]);
    expect((await send("epoch_complete", { epoch: 3 }, 3)).body).toMatchObject({ ack_seq: 3, missing: [] });
    // Without a number its identity is event, epoch and step.
    expect((await send("epoch_complete", { epoch: 4, loss: 1 })).body).toMatchObject({
      status: "received",
      ack_seq: 3,
    });
    await send("epoch_complete", { epoch: 4, loss: 2 });
    expect((await metricsOf(owner, jobId)).map((point) => [point.epoch, point.loss])).toEqual([
      [1, null],
      [3, null],
      [4, 1],
    ]);
    await send("completed", {});
    await send("failed", {});
    expect(await detail(owner, jobId)).toMatchObject({ status: "completed", data_complete: true });
  });

  it("say which checkpoint they mean, and it has to be one of this attempt", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const { lease } = await runningJob(owner, gpu);
    const other = await runningJob(owner);
    const own = await checkpoint(lease, 1);
    const foreign = await checkpoint(other.lease, 1);
    const open = (await createArtifact(lease, new Uint8Array(1))).body.artifact_id;
    const event = (seq: number, artifact_id: string) => ({
      seq,
      event: "checkpoint",
      data: { artifact_id, epoch: 5, role: "best" },
    });
    const answer = await events(lease, [
      event(1, own),
      event(2, open),
      event(3, foreign),
      event(4, crypto.randomUUID()),
    ]);
    expect((answer.body.rejected as Json[]).map(({ seq, code }) => [seq, code])).toEqual([
      [2, "VALIDATION_ERROR"],
      [3, "FORBIDDEN"],
      [4, "FORBIDDEN"],
    ]);
    expect((await artifact(lease, own, "state")).body).toMatchObject({ epoch: 5, role: "best" });
  });
});

describe("bodies", () => {
  it("may hold NaN, Infinity, 1e400 and unknown keys", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const answer = await rawLeased(
      lease,
      `{"job_id":${jobId},"wandb":NaN,"events":[
        {"seq":1,"event":"epoch_complete","data":{"epoch":1,"loss":NaN,"accuracy":-Infinity,"learning_rate":1e400,
          "extra_metrics":{"a":Infinity,"b":-0,"c":"nan","__proto__":1,"constructor":2,"say \\"NaN\\"":3,"\\u0000":4}}},
        {"seq":2,"event":"epoch_complete","data":{"epoch":2,"loss":"NaN","note":"NaN"}}]}`,
    );
    expect(answer.body).toMatchObject({ ack_seq: 2, rejected: [] });
    const [first, second] = await metricsOf(owner, jobId);
    expect(first).toMatchObject({
      loss: null,
      accuracy: null,
      learning_rate: null,
      non_finite: ["loss", "accuracy", "learning_rate", "a", "c"],
    });
    expect(Object.entries((first?.extra_metrics ?? {}) as Json)).toEqual([
      ["a", null],
      ["b", 0],
      ["c", null],
      ["__proto__", 1],
      ["constructor", 2],
      ['say "NaN"', 3],
      ["\u0000", 4],
    ]);
    expect(second).toMatchObject({ loss: null, non_finite: ["loss"] });
    expect(({} as Json).a).toBeUndefined();
  });

  it("are used as they were checked when a key stands twice", async ({ expect }) => {
    const owner = await person();
    const a = await runningJob(owner);
    const b = await runningJob(owner);
    const body = (first: number, second: number) =>
      `{"job_id":${first},"job_id":${second},"events":[{"seq":1,"event":"nonsense","event":"epoch_complete","data":{"epoch":1}}]}`;
    expect((await rawLeased(a.lease, body(a.jobId, b.jobId))).status).toBe(403);
    expect((await rawLeased(a.lease, body(b.jobId, a.jobId))).body).toMatchObject({
      job_id: a.jobId,
      ack_seq: 1,
      rejected: [],
    });
    expect(await metricsOf(owner, a.jobId)).toHaveLength(1);
    expect(await metricsOf(owner, b.jobId)).toEqual([]);
  });

  it("are refused when they are no JSON, too deep, too large or of another type", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const problem = async (body: string | Uint8Array, headers: Record<string, string> = {}) => {
      const answer = await rawLeased(lease, body, headers);
      return [answer.status, answer.body.code];
    };
    for (const text of ["", "{", "[1,", "nul", '{"job_id":1}}', "\u0000"]) {
      expect([text, ...(await problem(text))]).toEqual([text, 400, "BAD_REQUEST"]);
    }
    for (const text of [
      "null",
      "[]",
      "3",
      '"x"',
      "{}",
      '{"job_id":"5"}',
      '{"job_id":1.5}',
      '{"job_id":-1}',
      '{"job_id":null}',
    ]) {
      expect([text, ...(await problem(text))]).toEqual([text, 422, "VALIDATION_ERROR"]);
    }
    const deep = `{"job_id":${jobId},"events":[{"seq":1,"event":"validation","data":{"epoch":1,"per_class_metrics":{"c":{"x":${"[".repeat(10_000)}${"]".repeat(10_000)}}}}}]}`;
    expect(await problem(deep)).toEqual([422, "VALIDATION_ERROR"]);
    expect(await problem(`{"job_id":${jobId},"x":${'{"a":'.repeat(50_000)}1${"}".repeat(50_000)}}`)).toEqual([
      422,
      "VALIDATION_ERROR",
    ]);
    const pad = (bytes: number) => `{"job_id":${jobId},"event":"x","data":{"${"m".repeat(bytes)}":1}}`;
    expect(await problem(pad(25_000_000))).toEqual([413, "PAYLOAD_TOO_LARGE"]);
    expect(await problem(pad(512 * 1024))).toEqual([413, "PAYLOAD_TOO_LARGE"]);
    expect(await problem("job_id=5", { "content-type": "application/x-www-form-urlencoded" })).toEqual([
      415,
      "UNSUPPORTED_MEDIA_TYPE",
    ]);
    expect(await problem("{}", { "content-encoding": "br" })).toEqual([415, "UNSUPPORTED_MEDIA_TYPE"]);
    expect((await heartbeat(lease)).body.ack_seq).toBe(0);
  });

  it("may be gzip, within the limit of what they inflate to", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const headers = { "content-encoding": "gzip" };
    const good = await gzip(JSON.stringify({ job_id: jobId, events: [epochEvent(1)] }));
    expect((await rawLeased(lease, good, headers)).body.ack_seq).toBe(1);
    const bomb = await gzip(`{"job_id":${jobId},"x":"${"a".repeat(40_000_000)}"}`);
    expect(bomb.byteLength).toBeLessThan(512 * 1024);
    expect((await rawLeased(lease, bomb, headers)).status).toBe(413);
    expect((await rawLeased(lease, "{}", headers)).status).toBe(400);
    expect((await rawLeased(lease, good.slice(0, 30), headers)).status).toBe(400);
  });

  it("may name a thousand metrics for a job and no more", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const names = (from: number, count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`m${from + i}`, i]));
    const event = (seq: number, extra_metrics: Json) => ({
      seq,
      event: "epoch_complete",
      data: { epoch: seq, extra_metrics },
    });
    const answer = await events(lease, [
      event(1, names(0, 1_000)),
      event(2, names(500, 500)),
      event(3, names(999, 2)),
      event(4, names(0, 1)),
      event(5, names(0, 1_001)),
      event(6, { ["x".repeat(201)]: 1 }),
    ]);
    expect((answer.body.rejected as Json[]).map(({ seq }) => seq).sort()).toEqual([3, 5, 6]);
    expect((await metricsOf(owner, jobId)).map((point) => point.epoch)).toEqual([1, 2, 4]);
  });

  it("may hold no event that does not fit into a row, and nothing of it is stored", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const page = (kind: string, data: Json) => ({
      seq: kind === "validation" ? 1 : 2,
      event: kind,
      data: { epoch: 1, ...data },
    });
    const images = Array.from({ length: 500 }, (_, i) => ({
      image_name: `${i}`,
      extra_data: { t: "한".repeat(1_000) },
    }));
    const body = JSON.stringify({
      job_id: jobId,
      events: [page("validation", { metrics: { a: 1 }, images }), page("validation_images", { offset: 500, images })],
    });
    const answer = await rawLeased(lease, await gzip(body), { "content-encoding": "gzip" });
    expect((answer.body.rejected as Json[]).map(({ seq, field }) => [seq, field])).toEqual([
      [1, "data"],
      [2, "data"],
    ]);
    expect((await call("GET", `/api/v1/validation/results/${jobId}`, { token: owner.token })).body.results).toEqual([]);
    const million = Array.from({ length: 1_000_000 }, () => 0);
    const huge = await gzip(JSON.stringify({ job_id: jobId, events: [page("validation", { images: million })] }));
    expect([200, 413]).toContain((await rawLeased(lease, huge, { "content-encoding": "gzip" })).status);
  });
});

describe("validations", () => {
  it("replace those of the same epoch, and take further pages of images", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const images = (from: number, count: number) =>
      Array.from({ length: count }, (_, i) => ({ image_name: `${from + i}.png`, is_correct: true }));
    await events(lease, [
      { seq: 1, event: "validation", data: { epoch: 1, metrics: { f1_score: 0.1 }, images: images(0, 500) } },
      { seq: 2, event: "validation", data: { epoch: 1, metrics: { f1_score: 0.2 }, images: images(0, 3) } },
      { seq: 3, event: "validation_images", data: { epoch: 1, offset: 3, images: images(3, 2) } },
      { seq: 4, event: "validation_images", data: { epoch: 1, offset: 3, images: images(30, 2) } },
    ]);
    const results = (await call("GET", `/api/v1/validation/results/${jobId}`, { token: owner.token })).body
      .results as Json[];
    expect(results).toMatchObject([{ epoch: 1, metrics: { f1: 0.2 }, task_type: "image_classification" }]);
    const page = await call("GET", `/api/v1/validation/images/${results[0]?.id}`, { token: owner.token });
    expect((page.body.images as Json[]).map((image) => image.image_name)).toEqual([
      "0.png",
      "1.png",
      "2.png",
      "30.png",
      "31.png",
    ]);
  });
});

describe("log chunks", () => {
  it("keep the first bytes of a number", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const first = await logChunk(lease, 1, "one\ntwo\n");
    expect([first.status, first.body]).toEqual([201, { next_seq: 2 }]);
    const again = await logChunk(lease, 1, "one\ntwo\n");
    expect([again.status, again.body]).toEqual([200, { next_seq: 2 }]);
    const other = await logChunk(lease, 1, "something else\n");
    expect([other.status, other.body.code]).toEqual([409, "LOG_CONFLICT"]);
    expect((await logChunk(lease, 1, "err\n", "stderr")).status).toBe(201);
    expect(await logsOf(owner, jobId)).toEqual(["one", "two", "err"]);
  });

  it("race: of two chunks with one number one is stored", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const answers = await Promise.all([
      logChunk(lease, 1, "a\n"),
      logChunk(lease, 1, "b\n"),
      logChunk(lease, 1, "a\n"),
    ]);
    // Which one comes first is not said.
    expect([
      [200, 201, 409],
      [201, 409, 409],
    ]).toContainEqual(answers.map((answer) => answer.status).sort());
    expect(await logsOf(owner, jobId)).toHaveLength(1);
  });

  it("may be empty, no UTF-8, of control characters, and are limited in size", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const empty = await logChunk(lease, 1, "");
    expect([empty.status, empty.body]).toEqual([200, { next_seq: 2 }]);
    expect((await logChunk(lease, 2, new Uint8Array([0x61, 0xff, 0xfe, 0x62, 0x0a]))).status).toBe(201);
    expect((await logChunk(lease, 3, "nul \u0000 esc \u001b[31m\n")).status).toBe(201);
    expect((await logChunk(lease, 4, `${"x".repeat(256 * 1024 - 1)}\n`)).status).toBe(201);
    expect((await logChunk(lease, 5, `${"x".repeat(256 * 1024)}\n`)).status).toBe(413);
    expect((await logChunk(lease, 5, `${"x".repeat(10_000_000)}\n`)).status).toBe(413);
    for (const seq of ["0", "-1", "1.5", "x", "9007199254740993"]) {
      const answer = await call("PUT", `/api/v1/internal/jobs/${jobId}/logs/stdout/${seq}`, {
        token: lease.token,
        body: "x\n",
      });
      expect([seq, answer.status]).toEqual([seq, 422]);
    }
    expect((await logChunk(lease, 100_000, "far\n")).status).toBe(429);
    expect((await logChunk(lease, 1, "x\n", "stdin")).status).toBe(422);
    const lines = await logsOf(owner, jobId);
    expect(lines.slice(0, 2)).toEqual(["a\ufffd\ufffdb", "nul \ufffd esc \u001b[31m"]);
    expect(lines).toHaveLength(3);
  });

  it("hide what looks like a credential", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await logChunk(lease, 1, `Authorization: Bearer ${lease.token}\ntoken cvr_${"0a".repeat(24)}\n`);
    const lines = (await logsOf(owner, jobId)).join("\n");
    expect(lines).toBe("Authorization: Bearer [masked]\ntoken [masked]");
  });

  it("are acknowledged, not stored, above the quota, and the job says so", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await runInDurableObject(jobObject(jobId), (_, state) => {
      const head = state.storage.kv.get<{ counters: Json }>("head");
      state.storage.kv.put("head", { ...head, counters: { ...head?.counters, logBytes: 64 * 1024 * 1024 - 6 } });
    });
    expect((await logChunk(lease, 1, "fits.\n")).status).toBe(201);
    expect((await logChunk(lease, 2, "too much\n")).status).toBe(201);
    await events(lease, [endEvent(1, "completed", { log_chunks: { stdout: 2, stderr: 0 } })]);
    expect(await logsOf(owner, jobId)).toEqual(["fits."]);
    expect(await detail(owner, jobId)).toMatchObject({ log_truncated: true, status: "completed", data_complete: true });
  });

  it("of senders without chunks come as events; a line of ten megabytes is cut", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const body = JSON.stringify({
      job_id: jobId,
      events: [
        { seq: 1, event: "log", data: { stream: "stderr", lines: ["a", "b\nc", ""] } },
        { seq: 2, event: "log", data: { lines: ["x".repeat(3_000_000), "after"] } },
      ],
    });
    expect((await rawLeased(lease, await gzip(body), { "content-encoding": "gzip" })).body.ack_seq).toBe(2);
    const lines = (await logsOf(owner, jobId)).map((line) => String(line));
    expect(lines.slice(0, 3)).toEqual(["a", "b c", ""]);
    expect(lines.slice(3).map((line) => line.length)).toEqual([256 * 1024 - 1, 5]);
  });
});

describe("the contract's plain callback", () => {
  it("drives a job alone, once for each event and epoch", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await plainEvent(jobId, "epoch_complete", { epoch: 1, loss: 1, accuracy: 0.5, learning_rate: 0.1 });
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", attempt: 1, current_epoch: 1 });
    for (let i = 0; i < 5; i++) await plainEvent(jobId, "epoch_complete", { epoch: 1, loss: 2 });
    await plainEvent(jobId, "epoch_complete", { epoch: 2, loss: "NaN" });
    await plainEvent(jobId, "validation", { epoch: 1, metrics: { accuracy: 0.9 } });
    await plainEvent(jobId, "log", { lines: ["hello"], timestamp: "2025-11-06T12:00:00Z" });
    await plainEvent(jobId, "log", { lines: ["hello"], timestamp: "2025-11-06T12:00:00Z" });
    await plainEvent(jobId, "log", { lines: ["hello"], timestamp: "2025-11-06T12:00:01Z" });
    expect((await metricsOf(owner, jobId)).map((point) => [point.epoch, point.loss])).toEqual([
      [1, 1],
      [2, null],
    ]);
    expect(await logsOf(owner, jobId)).toEqual(["hello", "hello"]);
    await plainEvent(jobId, "completed", { message: "ok", mlflow_run_id: "run-1" });
    expect(await detail(owner, jobId)).toMatchObject({
      status: "completed",
      mlflow_run_id: "run-1",
      data_complete: true,
    });
  });

  it("never revives a job, nor touches one that a runner holds", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await plainEvent(jobId, "started", { total_epochs: 5 });
    await stop(owner, jobId);
    for (const event of ["started", "epoch_complete", "validation", "completed", "failed"]) {
      expect((await plainEvent(jobId, event, { epoch: 3 })).status).toBe(200);
    }
    expect((await plainEvent(jobId, "log", { lines: ["tail"] })).status).toBe(200);
    expect(await detail(owner, jobId)).toMatchObject({ status: "stopped", attempt: 1, current_epoch: 0 });
    expect(await metricsOf(owner, jobId)).toEqual([]);
    expect(await logsOf(owner, jobId)).toEqual(["tail"]);

    const { jobId: leased, lease } = await runningJob(owner);
    const refused = await plainEvent(leased, "epoch_complete", { epoch: 1 });
    expect([refused.status, refused.body.code]).toEqual([409, "STALE_LEASE"]);
    await events(lease, [endEvent(1)]);
    expect((await plainEvent(leased, "failed", {})).status).toBe(200);
    expect((await plainEvent(leased, "log", { lines: ["not mine"] })).status).toBe(200);
    expect((await detail(owner, leased)).status).toBe("completed");
    expect(await logsOf(owner, leased)).toEqual([]);
  });

  it("opens a new attempt after stop and start with `started` only", async ({ expect }) => {
    const owner = await person();
    const { runner: busy } = await runningJob(owner);
    const jobId = await job(owner);
    await plainEvent(jobId, "epoch_complete", { epoch: 7 });
    await stop(owner, jobId);
    await start(owner, jobId);
    await plainEvent(jobId, "epoch_complete", { epoch: 8 });
    await plainEvent(jobId, "completed", {});
    expect(await detail(owner, jobId)).toMatchObject({ status: "queued", attempt: 1 });
    await plainEvent(jobId, "started", {});
    await plainEvent(jobId, "epoch_complete", { epoch: 1 });
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", attempt: 2, current_epoch: 1 });
    expect((await metricsOf(owner, jobId)).map((point) => [point.epoch, point.attempt])).toEqual([[1, 2]]);
    const nothing = await call("POST", "/api/v1/internal/runners/claim", {
      token: busy.token,
      body: { instance_id: busy.instanceId, free_slots: 1, wait_s: 0 },
    });
    expect(nothing.status).toBe(204);
  });

  it("takes the tail of its log for a while only", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const jobId = await job(owner);
    await plainEvent(jobId, "completed", {});
    await plainEvent(jobId, "log", { lines: ["in time"] });
    clock.advanceS(600);
    await plainEvent(jobId, "log", { lines: ["too late"] });
    expect(await logsOf(owner, jobId)).toEqual(["in time"]);
  });

  it("fails a job that it drove and then left alone", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const jobId = await job(owner);
    await plainEvent(jobId, "started", {});
    clock.advanceS(7_199);
    await plainEvent(jobId, "epoch_complete", { epoch: 1 });
    clock.advanceS(7_199);
    await ring(jobId);
    expect((await detail(owner, jobId)).status).toBe("running");
    clock.advanceS(1);
    await ring(jobId);
    expect(await detail(owner, jobId)).toMatchObject({ status: "failed", reason: "stalled" });
  });

  it("stays apart from a runner that is being offered the job", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const jobId = await job(owner);
    await call("POST", "/api/v1/internal/runners/claim", { token: gpu.token, body: { instance_id: "i", wait_s: 0 } });
    const starting = start(owner, jobId);
    const offer = await call<{ fence: number }>("POST", "/api/v1/internal/runners/claim", {
      token: gpu.token,
      body: { instance_id: "i", wait_s: 5 },
    });
    const [plain, accepted] = await Promise.all([
      plainEvent(jobId, "started", {}),
      call("POST", `/api/v1/internal/jobs/${jobId}/accept`, { token: gpu.token, body: { fence: offer.body.fence } }),
    ]);
    expect([
      [200, 409],
      [409, 200],
    ]).toContainEqual([plain.status, accepted.status]);
    await starting;
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", attempt: 1 });
  });

  it("answers what is wrong with its input", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const send = (body: unknown) =>
      call("POST", CALLBACK, { headers: { "x-internal-auth": env.INTERNAL_SECRET }, body });
    const field = async (body: unknown) => {
      const answer = await send(body);
      return [answer.status, answer.body.code, answer.body.field];
    };
    expect(await field({ job_id: jobId, event: "nonsense", data: {} })).toEqual([422, "VALIDATION_ERROR", "event"]);
    expect(await field({ job_id: jobId, event: "epoch_complete" })).toEqual([422, "VALIDATION_ERROR", "data"]);
    expect(await field({ job_id: jobId, data: {} })).toEqual([422, "VALIDATION_ERROR", "event"]);
    expect(await field({ job_id: jobId, event: "epoch_complete", data: { epoch: -1 } })).toEqual([
      422,
      "VALIDATION_ERROR",
      "data.epoch",
    ]);
    expect(await field({ job_id: jobId, event: "released", data: {} })).toEqual([422, "VALIDATION_ERROR", "event"]);
    expect(await field({ event: "started", data: {} })).toEqual([422, "VALIDATION_ERROR", "job_id"]);
    expect(await field({ job_id: 999_999, event: "started", data: {} })).toEqual([404, "JOB_NOT_FOUND", null]);
    expect((await detail(owner, jobId)).status).toBe("pending");
    const foreign = { job_id: jobId, event: "checkpoint", data: { artifact_id: crypto.randomUUID(), epoch: 1 } };
    expect((await send(foreign)).status).toBe(403);
  });

  it("leaves no table behind in an object that knows no job", async ({ expect }) => {
    await plainEvent(888_888, "started", {});
    const tables = await runInDurableObject(jobObject(888_888), (_, state) =>
      state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name = 'outbox'").toArray(),
    );
    expect(tables).toEqual([]);
  });
});

describe("credentials", () => {
  const event = (jobId: number) => ({ job_id: jobId, event: "epoch_complete", data: { epoch: 1 } });

  it("of the plain callback: missing 401, wrong 403", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const secret = env.INTERNAL_SECRET;
    const status = async (headers: Record<string, string>) =>
      (await call("POST", CALLBACK, { headers, body: event(jobId) })).status;
    expect(await status({})).toBe(401);
    expect(await status({ "x-internal-auth": "" })).toBe(401);
    for (const wrong of ["x", secret.slice(0, -1), `${secret}x`, `${secret}, ${secret}`, secret.toUpperCase()]) {
      expect(await status({ "x-internal-auth": wrong })).toBe(403);
    }
    expect(await status({ authorization: `Bearer ${secret}` })).toBe(401);
    expect(await status({ authorization: "Basic abc", "x-internal-auth": secret })).toBe(401);
    expect((await call("POST", `${CALLBACK}?x-internal-auth=${secret}`, { body: event(jobId) })).status).toBe(401);
    // Before the body is looked at.
    expect((await call("POST", CALLBACK, { headers: { "x-internal-auth": "x" }, body: "{" })).status).toBe(403);
    expect((await detail(owner, jobId)).status).toBe("pending");
    expect(await status({ "x-internal-auth": secret })).toBe(200);
  });

  it("of the plain callback while the secret is rotated, and where none is configured", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const app = createApp();
    const send = async (
      secrets: Partial<Record<"INTERNAL_SECRET" | "INTERNAL_SECRET_PREVIOUS", string>>,
      given: string,
    ) => {
      const context = createExecutionContext();
      const { INTERNAL_SECRET: _, ...rest } = env;
      const request = new Request(`http://localhost:8000${CALLBACK}`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-internal-auth": given },
        body: JSON.stringify(event(jobId)),
      });
      const response = await app.fetch(request, { ...rest, ...secrets }, context);
      await waitOnExecutionContext(context);
      return response.status;
    };
    const [old, current] = ["a-secret-of-the-past-0123456789abcdef", "a-secret-of-today-0123456789abcdefgh"];
    const rotating = { INTERNAL_SECRET: current, INTERNAL_SECRET_PREVIOUS: old };
    expect([await send(rotating, old), await send(rotating, current)]).toEqual([200, 200]);
    expect([await send({ INTERNAL_SECRET: current }, old), await send({ INTERNAL_SECRET: current }, current)]).toEqual([
      403, 200,
    ]);
    expect(await send({}, current)).toBe(503);
  });

  it("of one job open nothing of another, nor a user's route", async ({ expect }) => {
    const owner = await person();
    const stranger = await person();
    const a = await runningJob(owner);
    const b = await runningJob(stranger);
    const bytes = textBytes("w");
    const foreign = await createArtifact(b.lease, bytes, { epoch: 1 });
    const asB: Lease = { ...b.lease, token: a.lease.token };
    const answers = [
      await heartbeat(asB),
      await events(asB, [epochEvent(1)]),
      await logChunk(asB, 1, "x\n"),
      await createArtifact(asB, bytes),
      await putPart(asB, foreign.body.artifact_id, 1, bytes),
      await artifact(asB, foreign.body.artifact_id, "complete"),
      await artifact(asB, foreign.body.artifact_id, "abort"),
      await call("GET", `/api/v1/internal/jobs/${b.jobId}/dataset`, { token: a.lease.token }),
      await call("GET", `/api/v1/internal/jobs/${b.jobId}/dataset/1`, { token: a.lease.token }),
    ];
    expect(answers.map((answer) => [answer.status, answer.body.code])).toEqual(answers.map(() => [403, "FORBIDDEN"]));
    // The artifact of another job, asked for under the own one, is just not there.
    expect((await artifact(a.lease, foreign.body.artifact_id, "content")).status).toBe(404);
    expect((await putPart(a.lease, foreign.body.artifact_id, 1, bytes)).status).toBe(404);
    const datasetId = (await detail(owner, a.jobId)).dataset_id;
    for (const path of [`/api/v1/training/jobs/${a.jobId}`, "/api/v1/training/jobs", `/api/v1/datasets/${datasetId}`]) {
      expect((await call("GET", path, { token: a.lease.token })).status).toBe(401);
      expect((await call("GET", path, { token: a.runner.token })).status).toBe(401);
    }
    for (const token of [owner.token, a.runner.token, "x", "eyJhbGciOiJub25lIn0.e30."]) {
      expect((await heartbeat({ ...a.lease, token })).status).toBe(401);
      expect((await events({ ...a.lease, token }, [])).status).toBe(401);
    }
    for (const token of [owner.token, a.lease.token]) {
      const body = { instance_id: "i", wait_s: 0 };
      expect((await call("POST", "/api/v1/internal/runners/claim", { token, body })).status).toBe(401);
      expect(
        (await call("POST", `/api/v1/internal/jobs/${a.jobId}/accept`, { token, body: { fence: 1 } })).status,
      ).toBe(401);
    }
  });

  it("are asked before the path is read", async ({ expect }) => {
    for (const path of ["0", "x", "1.0", "999999", "-1", "%20"]) {
      expect((await call("GET", `/api/v1/internal/jobs/${path}/dataset`)).status).toBe(401);
    }
    expect((await call("GET", "/api/v1/internal/jobs/1/artifacts/accept")).status).toBe(401);
    expect((await call("PUT", "/api/v1/internal/jobs/1/logs/stdout/accept", { body: "x" })).status).toBe(401);
  });

  it("of an earlier attempt open no upload of a later one", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const gpu = await runner();
    const { jobId, lease } = await runningJob(owner, gpu);
    const bytes = textBytes("w");
    const old = await createArtifact(lease, bytes, { epoch: 1 });
    await events(lease, [endEvent(1, "released")]);
    const next = await take(gpu);
    const id = old.body.artifact_id;
    expect([
      next.jobId,
      (await putPart(next, id, 1, bytes)).status,
      (await artifact(next, id, "complete")).status,
    ]).toEqual([jobId, 403, 403]);
    expect((await artifact(next, id, "abort")).status).toBe(403);
  });
});

describe("what a repeated end changes", () => {
  it("nothing: the first one stays, also when its answer was lost", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await events(lease, [epochEvent(1), endEvent(2)]);
    const before = await detail(owner, jobId);
    for (const event of ["completed", "failed", "stopped", "released"]) {
      expect((await events(lease, [endEvent(3, event)])).status).toBe(200);
      expect((await events(lease, [endEvent(2, event)])).status).toBe(200);
    }
    expect(await detail(owner, jobId)).toEqual(before);
    expect(await db.query.jobAttempts.findMany({ where: (row, { eq }) => eq(row.jobId, jobId) })).toHaveLength(1);
  });
});
