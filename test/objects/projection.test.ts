import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { eq, sql } from "drizzle-orm";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import { runBatch } from "../../src/db/batch.ts";
import { trainingJobs } from "../../src/db/schema/index.ts";
import { statementsFor } from "../../src/training/jobs/projection.ts";
import { accept, call, claim, db, events, job, person, plainEvent, runner, runningJob } from "../support/api.ts";
import {
  attemptsOf,
  checkpoint,
  clock,
  detail,
  endEvent,
  epochEvent,
  jobObject,
  logChunk,
  logsOf,
  metricsOf,
  quietWorld,
  ring,
  start,
  stop,
} from "../support/jobs.ts";

beforeEach(quietWorld);
afterEach(() => {
  vi.restoreAllMocks();
  clock.start();
});

const breakDatabase = () => vi.spyOn(env.DB, "batch").mockRejectedValue(new Error("D1_ERROR: internal error"));
const outboxSize = (jobId: number) =>
  runInDurableObject(jobObject(jobId), (_, state) =>
    Number(state.storage.sql.exec("SELECT count(*) AS n FROM outbox").one().n),
  );
const alarmInS = (jobId: number) =>
  runInDurableObject(jobObject(jobId), async (_, state) =>
    Math.round((((await state.storage.getAlarm()) ?? 0) - Date.now()) / 1000),
  );

describe("D1 that fails", () => {
  it("loses nothing: events, logs, files and ends are acknowledged, and their rows come later", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const broken = breakDatabase();
    expect((await events(lease, [epochEvent(1), epochEvent(2)])).body).toMatchObject({ ack_seq: 2, desired: "run" });
    expect((await logChunk(lease, 1, "still here\n")).status).toBe(201);
    const id = await checkpoint(lease, 2);
    expect((await events(lease, [endEvent(3)])).body.ack_seq).toBe(3);
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", current_epoch: 0 });
    expect(await metricsOf(owner, jobId)).toEqual([]);
    // It is tried again, less and less often, and survives the end of the object in between.
    const tries: number[] = [];
    for (let i = 0; i < 5; i++) {
      tries.push(await alarmInS(jobId));
      clock.advanceS(tries.at(-1) ?? 0);
      expect(await ring(jobId)).toBe(true);
    }
    expect(tries[0]).toBeLessThanOrEqual(10);
    expect(tries.slice(1)).toEqual([60, 60, 60, 60]);
    await evictDurableObject(jobObject(jobId));
    expect(await outboxSize(jobId)).toBeGreaterThan(0);
    broken.mockRestore();
    expect(await ring(jobId)).toBe(true);
    expect(await outboxSize(jobId)).toBe(0);
    expect(await detail(owner, jobId)).toMatchObject({ status: "completed", current_epoch: 2, data_complete: true });
    expect((await metricsOf(owner, jobId)).map((point) => [point.id, point.epoch])).toEqual([
      [1, 1],
      [2, 2],
    ]);
    expect(await logsOf(owner, jobId)).toEqual(["still here"]);
    expect(await db.query.artifacts.findMany({ where: (row) => eq(row.jobId, jobId) })).toMatchObject([{ id }]);
    expect(await attemptsOf(jobId)).toMatchObject([{ attempt: 1, outcome: "completed", reason: "done" }]);
  });

  it("does not keep a job from starting, being taken and stopped", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const jobId = await job(owner);
    await claim(gpu);
    const broken = breakDatabase();
    const starting = start(owner, jobId);
    const offer = await claim(gpu, 5);
    const lease = await accept(gpu, offer.body.job_id, offer.body.fence);
    expect((await starting).body.status).toBe("running");
    expect((await stop(owner, jobId)).status).toBe(200);
    expect((await events(lease, [endEvent(1, "stopped")])).body).toMatchObject({ ack_seq: 1 });
    expect((await detail(owner, jobId)).status).toBe("pending");
    broken.mockRestore();
    await ring(jobId);
    expect(await detail(owner, jobId)).toMatchObject({ status: "stopped", attempt: 1, reason: "user_stop" });
  });

  it("takes plain callbacks too", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const broken = breakDatabase();
    for (const epoch of [1, 2]) expect((await plainEvent(jobId, "epoch_complete", { epoch })).status).toBe(200);
    broken.mockRestore();
    expect((await plainEvent(jobId, "epoch_complete", { epoch: 3 })).status).toBe(200);
    expect((await metricsOf(owner, jobId)).map((point) => point.epoch)).toEqual([1, 2, 3]);
  });

  it("has the next call deliver what an earlier one left behind, in order", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const broken = breakDatabase();
    await events(lease, [epochEvent(1)]);
    broken.mockRestore();
    await events(lease, [epochEvent(2)]);
    expect((await metricsOf(owner, jobId)).map((point) => point.id)).toEqual([1, 2]);
    // What D1 has is deleted with the next thing that is stored, or by the alarm.
    expect(await ring(jobId)).toBe(true);
    expect(await outboxSize(jobId)).toBe(0);
  });
});

describe("what D1 has", () => {
  it("is sent once more by an object that ended before it was deleted, and changes nothing", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await events(lease, [epochEvent(1), { seq: 2, event: "log", data: { lines: ["once"] } }]);
    expect(await outboxSize(jobId)).toBeGreaterThan(0);
    await evictDurableObject(jobObject(jobId));
    const batches = vi.spyOn(env.DB, "batch");
    await events(lease, [epochEvent(3, 2)]);
    expect(batches).toHaveBeenCalled();
    expect((await metricsOf(owner, jobId)).map((point) => point.epoch)).toEqual([1, 2]);
    expect(await logsOf(owner, jobId)).toEqual(["once"]);
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", current_epoch: 2 });
    expect(await ring(jobId)).toBe(true);
    expect(await outboxSize(jobId)).toBe(0);
  });
});

describe("D1 that is slow", () => {
  it("gets what arrives together as one commit", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const batch = env.DB.batch.bind(env.DB);
    const slow = vi.spyOn(env.DB, "batch").mockImplementation(async (statements) => {
      await new Promise((resolve) => setTimeout(resolve, 100));
      return batch(statements);
    });
    const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => events(lease, [epochEvent(i + 1)])));
    expect(answers.every((answer) => answer.status === 200)).toBe(true);
    expect(slow.mock.calls.length).toBeLessThanOrEqual(10);
    expect(await metricsOf(owner, jobId)).toHaveLength(40);
    expect((await events(lease, [])).body).toMatchObject({ ack_seq: 40, missing: [] });
  });

  it("does not keep a heartbeat waiting", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const batch = env.DB.batch.bind(env.DB);
    vi.spyOn(env.DB, "batch").mockImplementation(async (statements) => {
      await held;
      return batch(statements);
    });
    const posted = events(lease, [epochEvent(1)]);
    const beat = await call("POST", `/api/v1/internal/jobs/${jobId}/heartbeat`, { token: lease.token, body: {} });
    expect(beat.status).toBe(200);
    release();
    expect((await posted).body.ack_seq).toBe(1);
  });
});

describe("an object that ends before D1 has what it took", () => {
  it("delivers it when its alarm rings, without anybody's call", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const broken = breakDatabase();
    await events(lease, [epochEvent(1)]);
    await evictDurableObject(jobObject(jobId));
    broken.mockRestore();
    expect(await alarmInS(jobId)).toBeLessThanOrEqual(10);
    await ring(jobId);
    expect(await metricsOf(owner, jobId)).toHaveLength(1);
  });
});

describe("the projection", () => {
  it("may be run twice and out of date without harm", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await events(lease, [
      epochEvent(1),
      { seq: 2, event: "validation", data: { epoch: 1, metrics: { a: 1 }, images: [{ image_name: "x" }] } },
      { seq: 3, event: "log", data: { lines: ["line"] } },
      epochEvent(4, 2),
    ]);
    const row = await db.query.trainingJobs.findFirst({ where: eq(trainingJobs.id, jobId) });
    if (!row) throw new Error("no job");
    const items: Parameters<typeof statementsFor>[1] = [
      { kind: "job", row: { ...row, status: "failed", rev: row.rev - 1 } },
      {
        kind: "metrics",
        rows: [
          {
            id: 99,
            epoch: 1,
            step: 0,
            attempt: 1,
            loss: 42,
            accuracy: null,
            learningRate: null,
            extraMetrics: {},
            nonFinite: null,
            createdAt: 0,
          },
        ],
      },
    ];
    for (let i = 0; i < 2; i++) await runBatch(env.DB, statementsFor(jobId, items));
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", current_epoch: 2 });
    expect((await metricsOf(owner, jobId)).map((point) => [point.id, point.loss])).toEqual([
      [1, 1],
      [2, 0.5],
    ]);
  });

  it("is held up by no text that JSON can carry", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const odd = [
      "\ud800",
      "\udfff x",
      "\u0000",
      "\u2028",
      "'; drop table training_jobs; --",
      "%s {{x}} <b>",
      "한글",
      "😀",
      "\\u0000",
      '"',
    ];
    const body = `{"job_id":${jobId},"events":[${odd
      .map((text, i) =>
        JSON.stringify({
          seq: i + 1,
          event: "validation",
          data: {
            epoch: i + 1,
            metrics: { [text]: i },
            per_class_metrics: { [text]: { [text]: text } },
            class_names: [text],
            task_type: text,
            checkpoint_path: text,
            images: [
              { image_name: text, true_label: text, extra_data: { [text]: text }, top5_predictions: [{ label: text }] },
            ],
          },
        }),
      )
      .join(",")},${JSON.stringify({ seq: 11, event: "log", data: { lines: odd } })},${JSON.stringify({
      seq: 12,
      event: "epoch_complete",
      data: { epoch: 1, extra_metrics: Object.fromEntries(odd.map((text, i) => [text, i])) },
    })},${JSON.stringify({ seq: 13, event: "failed", data: { message: odd.join("|"), reason: "oom" } })}]}`;
    const answer = await call("POST", "/api/v1/internal/training/callback", {
      token: lease.token,
      body,
      headers: { "content-type": "application/json" },
    });
    expect(answer.body).toMatchObject({ ack_seq: 13, rejected: [] });
    expect(await ring(jobId)).toBe(true);
    expect(await outboxSize(jobId)).toBe(0);
    expect((await detail(owner, jobId)).status).toBe("failed");
    const results = await call("GET", `/api/v1/validation/results/${jobId}`, { token: owner.token });
    expect([results.status, (results.body.results as unknown[]).length]).toEqual([200, odd.length]);
    expect((await metricsOf(owner, jobId))[0]?.extra_metrics).toMatchObject({ "\u0000": 2, 한글: 6, "😀": 7 });
    expect(await logsOf(owner, jobId)).toHaveLength(odd.length);
    expect(await db.get<{ n: number }>(sql`select count(*) as n from training_jobs where id = ${jobId}`)).toEqual({
      n: 1,
    });
  });
});
