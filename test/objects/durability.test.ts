import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import { events, job, person, plainEvent, runningJob } from "../support/api.ts";
import { detail, epochEvent, jobObject, logsOf, metricsOf, quietWorld, ring } from "../support/jobs.ts";

beforeEach(quietWorld);
afterEach(() => vi.restoreAllMocks());

describe("an item that D1 refuses for good", () => {
  it("is set aside with the reason, and holds up nothing that came before or after it", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const batch = env.DB.batch.bind(env.DB);
    const away = vi.spyOn(env.DB, "batch").mockRejectedValue(new Error("D1_ERROR: away"));
    await events(lease, [epochEvent(1)]);
    // No code of ours makes such an item; one that did would find it again here.
    await runInDurableObject(jobObject(jobId), (_, state) => {
      const bad = JSON.stringify({
        kind: "attemptStart",
        row: { attempt: 9, owner: null, resumeEpoch: 0, startedAt: 0 },
      });
      state.storage.sql.exec("INSERT INTO outbox (item, bytes) VALUES (?, ?)", bad, bad.length);
    });
    await events(lease, [epochEvent(2)]);
    away.mockImplementation(batch);
    await events(lease, [{ seq: 3, event: "log", data: { lines: ["still here"] } }]);
    expect((await metricsOf(owner, jobId)).map((point) => point.epoch)).toEqual([1, 2]);
    expect(await logsOf(owner, jobId)).toEqual(["still here"]);
    expect(await detail(owner, jobId)).toMatchObject({ current_epoch: 2 });
    // What D1 has is deleted with the next thing that is stored, or by the alarm.
    expect(await ring(jobId)).toBe(true);
    const left = await runInDurableObject(jobObject(jobId), (_, state) => ({
      outbox: state.storage.sql.exec("SELECT id FROM outbox").toArray().length,
      letters: state.storage.sql
        .exec<{ item: string; error: string }>("SELECT item, error FROM dead_letters")
        .toArray(),
    }));
    expect(left.outbox).toBe(0);
    expect(left.letters).toEqual([
      { item: expect.stringContaining("attemptStart"), error: expect.stringMatching(/constraint/i) },
    ]);
    // It goes on as if nothing had been.
    expect((await events(lease, [epochEvent(4, 3)])).body.ack_seq).toBe(4);
    expect(await metricsOf(owner, jobId)).toHaveLength(3);
  });
});

/** What a call costs: statements and rows read in the object's own storage, and round trips to D1. */
async function costOf(jobId: number, act: () => Promise<unknown>) {
  const batches = vi.spyOn(env.DB, "batch");
  const before = batches.mock.calls.length;
  const cursors: { rowsRead: number }[] = [];
  const spied = await runInDurableObject(jobObject(jobId), (_, state) => {
    const { sql } = state.storage;
    const exec = sql.exec.bind(sql);
    return vi.spyOn(sql, "exec").mockImplementation((query: string, ...values: SqlStorageValue[]) => {
      const cursor = exec(query, ...values);
      cursors.push(cursor);
      return cursor;
    });
  });
  await act();
  const cost = {
    statements: cursors.length,
    rowsRead: cursors.reduce((sum, { rowsRead }) => sum + rowsRead, 0),
    batches: batches.mock.calls.length - before,
  };
  spied.mockRestore();
  batches.mockRestore();
  return cost;
}

describe("a duplicate", () => {
  it("costs the same at 10 and at 1,000,000 stored points, and nothing in D1: plain callbacks", async ({ expect }) => {
    const owner = await person();
    const costs = [];
    for (const size of [10, 1_000_000]) {
      const jobId = await job(owner);
      await plainEvent(jobId, "epoch_complete", { epoch: 1, loss: 1 });
      await runInDurableObject(jobObject(jobId), (_, state) => {
        state.storage.sql.exec(
          `INSERT OR IGNORE INTO plain_events (attempt, identity)
           WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
           SELECT 1, 'metric:' || i || ':0' FROM n`,
          size,
        );
      });
      const again = () => plainEvent(jobId, "epoch_complete", { epoch: 1, loss: 1 });
      await again();
      costs.push(await costOf(jobId, async () => expect((await again()).status).toBe(200)));
    }
    expect(costs[0]?.statements).toBeGreaterThan(0);
    expect(costs[0]?.batches).toBe(0);
    expect(costs[1]).toEqual(costs[0]);
  });

  it("costs the same at 10 and at 1,000,000 numbers: batches on a lease", async ({ expect }) => {
    const owner = await person();
    const costs = [];
    for (const size of [10, 1_000_000]) {
      const { jobId, lease } = await runningJob(owner);
      await events(
        lease,
        Array.from({ length: 10 }, (_, i) => epochEvent(i + 1)),
      );
      // As if so many had come in their order: they are one mark.
      await runInDurableObject(jobObject(jobId), (_, state) => {
        const head = state.storage.kv.get<{ mark: number }>("head");
        state.storage.kv.put("head", { ...head, mark: size });
      });
      const again = () =>
        events(
          lease,
          Array.from({ length: 10 }, (_, i) => epochEvent(i + 1)),
        );
      await again();
      costs.push(
        await costOf(jobId, async () => expect((await again()).body).toMatchObject({ ack_seq: size, rejected: [] })),
      );
    }
    expect(costs[0]?.statements).toBeGreaterThan(0);
    expect(costs[0]?.batches).toBe(0);
    expect(costs[1]).toEqual(costs[0]);
  });
});
