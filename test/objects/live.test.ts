import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import { relay } from "../../src/training/jobs/live/relay.ts";
import { events, job, type Lease, person, runningJob } from "../support/api.ts";
import { clock, endEvent, epochEvent, jobObject, logChunk, quietWorld, ring, stop } from "../support/jobs.ts";
import { eventsPath, request, socketsOf, watch } from "../support/live.ts";
import { SseReader } from "../support/sse.ts";

beforeEach(quietWorld);
afterEach(() => {
  vi.restoreAllMocks();
  clock.start();
});

const points = (reader: SseReader) =>
  reader.of("metrics").flatMap(({ data }) => (data.points as { epoch: number }[]).map(({ epoch }) => epoch));
const report = async (lease: Lease, from: number, to: number) => {
  for (let epoch = from; epoch <= to; epoch++) await events(lease, [epochEvent(epoch)]);
};
const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

describe("the object of a job that is watched", () => {
  it("may sleep and be ended at any time: its watchers miss nothing and get nothing twice", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const readers = [await watch(jobId, owner), await watch(jobId, owner)];
    for (const reader of readers) await reader.until((seen) => seen.length === 1);
    for (let epoch = 1; epoch <= 12; epoch++) {
      await events(lease, [epochEvent(epoch)]);
      // Before the tick, after it, and in the middle of the next one.
      if (epoch % 3 === 1) await readers[0]?.until(() => points(readers[0] as SseReader).includes(epoch));
      if (epoch % 3 !== 0) await evictDurableObject(jobObject(jobId), { webSockets: "hibernate" });
    }
    await events(lease, [endEvent(13)]);
    for (const reader of readers) {
      await reader.closed();
      expect(points(reader)).toEqual(numbers(1, 12));
      expect(reader.of("end")).toHaveLength(1);
    }
  });

  it("ends its watchers' streams when it is cut off, and they go on where they were", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const reader = await watch(jobId, owner);
    await reader.until((seen) => seen.length === 1);
    await report(lease, 1, 3);
    await reader.until(() => points(reader).includes(3));
    await evictDurableObject(jobObject(jobId), { webSockets: "close" });
    await reader.closed();
    await report(lease, 4, 5);
    const again = await watch(jobId, owner, reader.lastId);
    await again.until(() => points(again).includes(5));
    expect([...points(reader), ...points(again)]).toEqual(numbers(1, 5));
  });

  it("keeps nothing, and makes no table, while nobody has ever watched", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await report(lease, 1, 3);
    const tables = await runInDurableObject(jobObject(jobId), (_, state) =>
      state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name LIKE 'live%'").toArray(),
    );
    expect(tables).toEqual([]);
  });

  it("keeps a bounded number of events, and sends who is too far behind a reset", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const reader = await watch(jobId, owner);
    await reader.until((seen) => seen.length === 1);
    const text = `${"x".repeat(199)}\n`.repeat(1_000);
    for (let seq = 1; seq <= 25; seq++) await logChunk(lease, seq, text);
    await reader.until(() => reader.of("log").length === 25, 20_000);
    const kept = await runInDurableObject(jobObject(jobId), (_, state) =>
      state.storage.sql.exec<{ n: number }>("SELECT sum(length(data)) AS n FROM live_events").one(),
    );
    expect(kept.n).toBeLessThan(4.5 * 1024 * 1024);
    const first = reader.of("log")[0]?.id;
    const [late, near] = [await watch(jobId, owner, first), await watch(jobId, owner, reader.of("log")[20]?.id)];
    await late.until((seen) => seen.length === 2);
    expect(late.events.map(({ event }) => event)).toEqual(["reset", "status"]);
    // A long replay comes in pages, each once the one before it was read.
    await near.until(() => near.of("log").length === 4);
    expect(near.of("log").map(({ data }) => data.first_id)).toEqual([22, 23, 24, 25].map((n) => (n - 1) * 1_000 + 1));
    await logChunk(lease, 26, "newest\n");
    await near.until(() => near.of("log").length === 5);
  });

  it("forgets what it kept when nobody has come back, also of a job that has ended", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const [reader, other] = [await watch(jobId, owner), await watch(jobId, owner)];
    await report(lease, 1, 3);
    await events(lease, [endEvent(4)]);
    await reader.closed();
    await other.closed();
    await vi.waitFor(async () => expect(await socketsOf(jobId)).toBe(0));
    const kept = () =>
      runInDurableObject(jobObject(jobId), (_, state) =>
        state.storage.sql.exec<{ n: number }>("SELECT count(*) AS n FROM live_events").one(),
      );
    for (const [seconds, some] of [
      [601, true],
      [601, false],
    ] as const) {
      clock.advanceS(seconds);
      await ring(jobId);
      expect((await kept()).n > 0).toBe(some);
    }
    // Nothing has happened since: the end is still known.
    const headers = { authorization: `Bearer ${owner.token}`, "last-event-id": reader.lastId };
    expect((await request(eventsPath(jobId), headers)).status).toBe(204);
  });

  it("tells the end of a job whose tail never came, when its time is over", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const reader = await watch(jobId, owner);
    await events(lease, [endEvent(1, "completed", { log_chunks: { stdout: 1, stderr: 0 } })]);
    clock.advanceS(601);
    await ring(jobId);
    await reader.until(() => reader.of("status").some(({ data }) => data.data_complete === false));
    expect(reader.of("end")).toEqual([]);
    clock.advanceS(601);
    await ring(jobId);
    await reader.closed();
    expect(reader.events.at(-1)?.event).toBe("end");
  });

  it("is told when a watcher goes", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const [stays, goes] = [await watch(jobId, owner), await watch(jobId, owner)];
    const keepsUntil = () =>
      runInDurableObject(
        jobObject(jobId),
        (_, state) => state.storage.kv.get<{ untilMs: number | null }>("live")?.untilMs,
      );
    expect(await socketsOf(jobId)).toBe(2);
    await goes.cancel();
    await vi.waitFor(async () => expect(await socketsOf(jobId)).toBe(1));
    expect(await keepsUntil()).toBeNull();
    await stays.cancel();
    await vi.waitFor(async () => expect(await keepsUntil()).toBeGreaterThan(Date.now()));
    expect(await socketsOf(jobId)).toBe(0);
    const back = await watch(jobId, owner, stays.lastId);
    expect(await keepsUntil()).toBeNull();
    await stop(owner, jobId);
    await back.closed();
    expect(back.events.map(({ event }) => event)).toEqual(["status", "end"]);
    await vi.waitFor(async () => expect(await socketsOf(jobId)).toBe(0));
  });
});

describe("five hundred watchers of one job", () => {
  it("miss nothing, while one that does not read is dropped", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const readers: SseReader[] = [];
    for (let i = 0; i < 25; i++) {
      readers.push(...(await Promise.all(Array.from({ length: 20 }, () => watch(jobId, owner)))));
    }
    // Opened, and never read.
    const stuck = await request(eventsPath(jobId), { authorization: `Bearer ${owner.token}` });
    expect(await socketsOf(jobId)).toBe(501);
    const [first] = readers;
    for (let n = 1; n <= 20; n++) {
      await events(lease, [epochEvent(n)]);
      if (n % 5 === 0) await first?.until(() => points(first).includes(n), 60_000);
    }
    const text = `${"x".repeat(99)}\n`.repeat(1_000);
    for (let n = 1; n <= 3; n++) {
      await logChunk(lease, n, text);
      await first?.until(() => first.of("log").length === n, 60_000);
    }
    await logChunk(lease, 4, "one more\n");
    await vi.waitFor(async () => expect(await socketsOf(jobId)).toBe(500), { timeout: 60_000 });
    await events(lease, [endEvent(21, "completed", { log_chunks: { stdout: 4, stderr: 0 } })]);
    for (const reader of readers) await reader.closed(60_000);
    const wrong = readers.filter(
      (reader) =>
        JSON.stringify(points(reader)) !== JSON.stringify(numbers(1, 20)) ||
        JSON.stringify(reader.of("log").map(({ data }) => data.first_id)) !== "[1,1001,2001,3001]" ||
        reader.of("end").length !== 1 ||
        new Set(reader.events.map(({ id }) => id)).size !== reader.events.length,
    );
    expect(wrong).toEqual([]);
    await expect(stuck.text()).rejects.toThrow("watcher dropped");
  }, 180_000);
});

describe("the Worker's side of a watcher", () => {
  const options = { beatMs: 20, beatsPerCheck: 2, maxQueuedBytes: 100_000, maxStuckBeats: 5 };
  const pair = () => {
    const [near, far] = Object.values(new WebSocketPair()) as [WebSocket, WebSocket];
    far.accept();
    far.addEventListener("message", ({ data }) => {
      if (data === "ping") far.send("pong");
    });
    return { near, far };
  };
  const closeOf = (socket: WebSocket) =>
    new Promise<string>((resolve) => socket.addEventListener("close", ({ reason }) => resolve(reason)));
  const frame = (id: number, data: unknown = {}, more = false) =>
    JSON.stringify({ events: [[id, "status", JSON.stringify(data)]], more });

  it("keeps the connection with comments, and ends it once the right to watch is lost", async ({ expect }) => {
    const { near, far } = pair();
    const answers = [true, true, false];
    const mayWatch = vi.fn(async () => answers.shift() ?? true);
    const closed = closeOf(far);
    const reader = new SseReader(relay(near, { ...options, mayWatch }));
    far.send(frame(1));
    await reader.closed();
    expect(await closed).toBe("not allowed");
    expect(mayWatch).toHaveBeenCalledTimes(3);
    expect(reader.comments).toBeGreaterThanOrEqual(6);
    expect(reader.events).toHaveLength(1);
  });

  it("goes on when the check fails once or twice, and ends when it cannot be made at all", async ({ expect }) => {
    const { near, far } = pair();
    let calls = 0;
    // The third failure in a row is one too many; the first two were followed by a success.
    const mayWatch = vi.fn(async () => {
      calls += 1;
      if (calls === 3) return true;
      throw new Error("D1_ERROR: internal error");
    });
    const reader = new SseReader(relay(near, { ...options, mayWatch }));
    expect(await closeOf(far)).toBe("not allowed");
    await reader.closed();
    expect(mayWatch).toHaveBeenCalledTimes(6);
  });

  it("drops a client that leaves even a little unread for long", async ({ expect }) => {
    const { near, far } = pair();
    const body = relay(near, { ...options, mayWatch: async () => true });
    far.send(frame(1, "x".repeat(40_000)));
    expect(await closeOf(far)).toBe("stuck");
    await expect(new Response(body).text()).rejects.toThrow("watcher dropped: stuck");
  });

  it("drops a client for whom too much waits, at once", async ({ expect }) => {
    const { near, far } = pair();
    const body = relay(near, { ...options, beatMs: 60_000, mayWatch: async () => true });
    for (let id = 1; id <= 4; id++) far.send(frame(id, "x".repeat(60_000)));
    expect(await closeOf(far)).toBe("slow");
    await expect(new Response(body).text()).rejects.toThrow("watcher dropped: slow");
  });

  it("asks for the next page only when there is room for it", async ({ expect }) => {
    const { near, far } = pair();
    const asked: number[] = [];
    let page = 1;
    far.addEventListener("message", ({ data }) => {
      if (data !== "more") return;
      page += 1;
      asked.push(page);
      far.send(frame(page, "x".repeat(60_000), page < 5));
    });
    const body = relay(near, { ...options, beatMs: 60_000, mayWatch: async () => true });
    far.send(frame(1, "x".repeat(60_000), true));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(asked).toEqual([]);
    const reader = new SseReader(body);
    await reader.until((seen) => seen.length === 5);
    expect(asked).toEqual([2, 3, 4, 5]);
    await reader.cancel();
  });

  it("ends the stream when the object's side is silent", async ({ expect }) => {
    const [near, far] = Object.values(new WebSocketPair()) as [WebSocket, WebSocket];
    far.accept();
    const reader = new SseReader(relay(near, { ...options, mayWatch: async () => true }));
    expect(await closeOf(far)).toBe("silence");
    await reader.closed();
  });

  it("passes on once what is sent again", async ({ expect }) => {
    const { near, far } = pair();
    const reader = new SseReader(relay(near, { ...options, mayWatch: async () => true }));
    for (const id of [4, 5, 4, 5, 6]) far.send(frame(id));
    await reader.until((seen) => seen.length >= 3);
    far.close(1000, "end");
    await reader.closed();
    expect(reader.events.map(({ id }) => id)).toEqual(["4", "5", "6"]);
  });
});
