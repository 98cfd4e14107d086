import { randomBytes } from "node:crypto";
import { mkdir, readdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it, onTestFinished } from "vitest";
import type { RetryOptions } from "../../../runner/embedded/agent/client.ts";
import { EventSender, type OutboxEvent } from "../../../runner/embedded/agent/outbox/event-sender.ts";
import { Journal } from "../../../runner/embedded/agent/outbox/journal.ts";
import { LogShipper } from "../../../runner/embedded/agent/outbox/log-shipper.ts";
import { Uploads } from "../../../runner/embedded/agent/uploads.ts";
import { DEFAULT_LIMITS, type Limits } from "../../../runner/embedded/agent/wire.ts";
import { type Call, hastyClock, problem, type Reply, retryOptions, scriptedServer, tempFolder } from "./support.ts";

/** Runs a sender's loop beside the test and ends it with the test. */
function beside(loop: () => Promise<never>, abort: AbortController): { failed: Promise<unknown> } {
  const failed = loop().catch((error: unknown) => error);
  onTestFinished(async () => {
    abort.abort(new Error("test over"));
    await failed;
  });
  return { failed };
}

async function until(happened: () => boolean, patienceMs = 5_000): Promise<void> {
  const giveUpAt = Date.now() + patienceMs;
  while (!happened()) {
    if (Date.now() > giveUpAt) throw new Error("it did not happen");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

type Sent = { seq: number; event: string; data: Record<string, unknown> };
const sentIn = (call: Call) => (JSON.parse(String(call.body)) as { events: Sent[] }).events;

/** The callback as the server does it: a mark, the numbers above it, each event once. */
function callbackServer() {
  const have = new Map<number, Sent>();
  const mark = () => {
    let next = 1;
    while (have.has(next)) next += 1;
    return next - 1;
  };
  const accept = (call: Call): Reply => {
    for (const event of sentIn(call)) if (!have.has(event.seq)) have.set(event.seq, event);
    const missing: [number, number][] = [];
    for (let seq = mark() + 1; seq < Math.max(...have.keys()); seq += 1) if (!have.has(seq)) missing.push([seq, seq]);
    return { status: 200, json: { ack_seq: mark(), missing: missing.slice(0, 20), rejected: [], desired: "run" } };
  };
  return { have, accept };
}

async function eventSender(
  answer: (call: Call, count: number) => Reply | null | Promise<Reply | null>,
  limits: Partial<Limits> = {},
) {
  const { client, calls } = await scriptedServer(answer);
  const folder = await tempFolder();
  const journal = await Journal.open<OutboxEvent>(folder, { onTrouble: () => {} });
  onTestFinished(() => journal.close());
  const abort = new AbortController();
  const notes: string[] = [];
  const desired: string[] = [];
  const sender = new EventSender({
    client,
    jobId: 5,
    token: "t",
    journal,
    limits: { ...DEFAULT_LIMITS, ...limits },
    retry: retryOptions(hastyClock(), abort.signal),
    onDesired: (wish) => desired.push(wish),
    log: (line) => notes.push(line),
    onRejected: (line) => notes.push(line),
  });
  const add = (count: number, data: Record<string, unknown> = {}) => {
    for (let i = 0; i < count; i += 1) journal.append({ event: "epoch_complete", data });
  };
  return { sender, journal, calls, notes, desired, add, folder, run: () => beside(() => sender.run(), abort) };
}

describe("EventSender", () => {
  it("sends while more comes in, in batches, each once, and deletes what is acknowledged", async ({ expect }) => {
    const { have, accept } = callbackServer();
    const { sender, journal, calls, add, run } = await eventSender(async (call) => {
      await new Promise((resolve) => setTimeout(resolve, 10));
      return accept(call);
    });
    run();
    for (let i = 0; i < 20; i += 1) {
      add(100);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await until(() => sender.acked === 2000);
    expect([...have.keys()]).toEqual(Array.from({ length: 2000 }, (_, i) => i + 1));
    expect(calls.length).toBeLessThan(20);
    expect(calls.reduce((sum, call) => sum + sentIn(call).length, 0)).toBe(2000);
    expect(Math.max(...calls.map((call) => sentIn(call).length))).toBeLessThanOrEqual(500);
    expect([sender.pending, journal.releasedSeq]).toEqual([0, 2000]);
  });

  it("keeps a batch within the limit of a body", async ({ expect }) => {
    const { accept } = callbackServer();
    const { sender, calls, add, run } = await eventSender(accept, { body_bytes: 5000 });
    add(50, { text: "x".repeat(900) });
    run();
    await until(() => sender.acked === 50);
    expect(calls.length).toBeGreaterThan(9);
    for (const { body } of calls) expect(body.length).toBeLessThanOrEqual(5000);
  });

  it("repeats a batch whose answer was lost, and one that was refused for now", async ({ expect }) => {
    const { have, accept } = callbackServer();
    const { sender, calls, add, run } = await eventSender((call, count) => {
      if (count === 1) {
        accept(call);
        return null;
      }
      return count === 2 ? problem(503, "STORAGE_UNAVAILABLE") : accept(call);
    });
    add(3);
    run();
    await until(() => sender.acked === 3);
    expect(calls.map((call) => sentIn(call).map(({ seq }) => seq))).toEqual([
      [1, 2, 3],
      [1, 2, 3],
      [1, 2, 3],
    ]);
    expect(have.size).toBe(3);
  });

  it("sends again exactly what the server says it misses", async ({ expect }) => {
    const { sender, calls, add, run } = await eventSender((_, count) => ({
      status: 200,
      json:
        count === 1
          ? {
              ack_seq: 2,
              missing: [
                [3, 3],
                [5, 6],
              ],
              rejected: [],
              desired: "run",
            }
          : { ack_seq: 8, missing: [], rejected: [], desired: "run" },
    }));
    add(8);
    run();
    await until(() => sender.acked === 8);
    expect(sentIn(calls[1] as Call).map(({ seq }) => seq)).toEqual([3, 5, 6]);
  });

  it("notes what was rejected and goes on", async ({ expect }) => {
    const { sender, notes, desired, add, run } = await eventSender(() => ({
      status: 200,
      json: {
        ack_seq: 2,
        missing: [],
        rejected: [{ seq: 1, code: "VALIDATION_ERROR", message: "bad" }],
        desired: "stop",
      },
    }));
    add(2);
    run();
    await until(() => sender.acked === 2);
    expect(notes).toEqual(["event 1 (epoch_complete) was rejected: bad (VALIDATION_ERROR)"]);
    expect(desired).toEqual(["stop"]);
  });

  it("finds the one event for which a batch is refused, and sends all others", async ({ expect }) => {
    const { have, accept } = callbackServer();
    const { sender, notes, journal, add, run } = await eventSender((call) =>
      String(call.body).includes("poison") ? problem(413, "PAYLOAD_TOO_LARGE") : accept(call),
    );
    add(5);
    journal.append({ event: "validation", data: { text: "poison" } });
    add(5);
    run();
    await until(() => sender.acked === 11);
    expect(have.get(6)).toMatchObject({
      event: "log",
      data: { lines: [expect.stringContaining("PAYLOAD_TOO_LARGE")] },
    });
    expect([...have.values()].filter(({ event }) => event === "epoch_complete")).toHaveLength(10);
    expect(notes).toHaveLength(1);
  });

  it("fills the number of a record that the disk has lost", async ({ expect }) => {
    const { have, accept } = callbackServer();
    const { sender, journal, add, run } = await eventSender(accept);
    add(2);
    await journal.flushed();
    journal.skipTo(4);
    add(1);
    run();
    await until(() => sender.acked === 5);
    expect([...have.values()].map(({ event }) => event)).toEqual([
      "epoch_complete",
      "epoch_complete",
      "log",
      "log",
      "epoch_complete",
    ]);
  });

  it("ends when the lease is gone", async ({ expect }) => {
    const { add, calls, run } = await eventSender(() => problem(409, "STALE_LEASE"));
    add(1);
    expect(await run().failed).toMatchObject({ code: "STALE_LEASE" });
    expect(calls).toHaveLength(1);
  });

  it("goes on after a restart with what was not acknowledged", async ({ expect }) => {
    const { have, accept } = callbackServer();
    const first = await eventSender((call, count) => (count > 1 ? new Promise<null>(() => {}) : accept(call)));
    first.add(3);
    first.run();
    await until(() => first.sender.acked === 3);
    first.add(2);
    await first.journal.flushed();

    const { client } = await scriptedServer(accept);
    const journal = await Journal.open<OutboxEvent>(first.folder, { onTrouble: () => {} });
    const abort = new AbortController();
    const second = new EventSender({
      client,
      jobId: 5,
      token: "t",
      journal,
      limits: DEFAULT_LIMITS,
      retry: retryOptions(hastyClock(), abort.signal),
      onDesired: () => {},
      log: () => {},
      onRejected: () => {},
    });
    beside(() => second.run(), abort);
    await until(() => second.acked === 5);
    expect(have.size).toBe(5);
  });
});

async function logShipper(answer: (call: Call, count: number) => Reply | null, limits: Partial<Limits> = {}) {
  const { client, calls } = await scriptedServer(answer);
  const abort = new AbortController();
  const folder = await tempFolder();
  const open = async () => {
    const opened = await LogShipper.open(folder, {
      stream: "stdout",
      client,
      jobId: 5,
      token: "t",
      limits: { ...DEFAULT_LIMITS, ...limits },
      mask: (text) => text.replaceAll("hunter2", "[masked]"),
      clock: hastyClock(),
      retry: retryOptions(hastyClock(), abort.signal),
      onTrouble: () => {},
    });
    onTestFinished(() => opened.close());
    return opened;
  };
  const shipper = await open();
  return { shipper, calls, open, run: (which = shipper) => beside(() => which.run(), abort) };
}
const stored: Reply = { status: 201, json: { next_seq: 1 } };
const text = (content: string) => new TextEncoder().encode(content);

describe("LogShipper", () => {
  it("sends numbered chunks in order, masked, and keeps the last lines", async ({ expect }) => {
    const { shipper, calls, run } = await logShipper(() => stored, { log_chunk_bytes: 3000 });
    run();
    for (let i = 0; i < 200; i += 1) await shipper.write(text(`line ${i} hunter2 ${"x".repeat(80)}\n`));
    await shipper.write(text("no end"));
    await shipper.end();
    await until(() => shipper.pending === 0);
    expect(calls.map(({ path }) => path)).toEqual(calls.map((_, i) => `/api/v1/internal/jobs/5/logs/stdout/${i + 1}`));
    expect(shipper.chunks).toBe(calls.length);
    const all = calls.map(({ body }) => String(body)).join("");
    expect(all).not.toContain("hunter2");
    expect(all.split("\n")).toHaveLength(201);
    for (const { body } of calls) expect(body.length).toBeLessThanOrEqual(3000);
    expect(shipper.tail.at(-1)).toBe("no end");
    expect(shipper.tail).toHaveLength(20);
  });

  it("repeats a chunk until it is stored, then goes on with the next", async ({ expect }) => {
    const replies = [null, problem(503, "NO"), problem(429, "NO"), stored, stored];
    const { shipper, calls, run } = await logShipper((_, count) => replies[count - 1] as Reply | null, {
      log_chunk_bytes: 3000,
    });
    await shipper.write(text(`${"a".repeat(2900)}\n${"b".repeat(2900)}\n`));
    await shipper.end();
    run();
    await until(() => shipper.pending === 0);
    expect(calls.map(({ path }) => path.at(-1))).toEqual(["1", "1", "1", "1", "2"]);
    expect(shipper.failed).toBe(0);
  });

  it("counts a chunk that the server will not have and goes on", async ({ expect }) => {
    const { shipper, calls, run } = await logShipper(
      (_, count) => (count === 1 ? problem(409, "LOG_CONFLICT") : stored),
      {
        log_chunk_bytes: 3000,
      },
    );
    await shipper.write(text(`${"a".repeat(2900)}\n${"b".repeat(2900)}\n`));
    await shipper.end();
    run();
    await until(() => shipper.pending === 0);
    expect([calls.length, shipper.failed, shipper.chunks]).toEqual([2, 1, 2]);
  });

  it("ends when the lease is gone", async ({ expect }) => {
    const { shipper, run } = await logShipper(() => problem(409, "STALE_LEASE"));
    await shipper.write(text("x\n"));
    await shipper.end();
    expect(await run().failed).toMatchObject({ code: "STALE_LEASE" });
  });

  it("sends after a restart what an earlier process has kept", async ({ expect }) => {
    const { shipper, calls, open, run } = await logShipper(() => stored);
    await shipper.write(text("kept\n"));
    await shipper.end();
    const again = await open();
    run(again);
    await until(() => again.pending === 0);
    expect(calls.map(({ path, body }) => [path.at(-1), String(body)])).toEqual([["1", "kept\n"]]);
  });

  it("keeps no more on disk than a job may have", async ({ expect }) => {
    const { shipper } = await logShipper(() => stored, { log_chunk_bytes: 3000, job_log_bytes: 10_000 });
    for (let i = 0; i < 100; i += 1) await shipper.write(text(`${"a".repeat(2900)}\n`));
    await shipper.end();
    expect(shipper.chunks).toBe(4);
  });
});

type Artifact = { parts: Map<number, Buffer>; complete: boolean; body: Record<string, unknown> };

/** The artifact calls as the server does them. `fault` comes first: what it answers is the answer. */
async function artifactServer(
  partSize: number,
  fault: (call: Call, count: number) => Reply | null | undefined = () => undefined,
) {
  const artifacts: Artifact[] = [];
  const idOf = (index: number) => `00000000-0000-4000-8000-00000000000${index}`;
  const server = await scriptedServer((call, count) => {
    const wrong = fault(call, count);
    if (wrong !== undefined) return wrong;
    const [, index, part, complete] =
      /artifacts\/[0-9a-f-]{35}(\d)(?:\/parts\/(\d+)|(\/complete))?$/.exec(call.path) ?? [];
    if (index === undefined) {
      const body = JSON.parse(String(call.body)) as Record<string, unknown>;
      artifacts.push({ parts: new Map(), complete: false, body });
      const parts = Math.max(1, Math.ceil(Number(body.size) / partSize));
      return { status: 201, json: { artifact_id: idOf(artifacts.length), part_size: partSize, parts } };
    }
    const artifact = artifacts[Number(index) - 1];
    if (artifact === undefined) return problem(404, "ARTIFACT_NOT_FOUND");
    if (part !== undefined) {
      artifact.parts.set(Number(part), call.body);
      return { status: 200, json: { n: Number(part) } };
    }
    if (complete !== undefined) {
      artifact.complete = true;
      return { status: 200, json: { artifact_id: idOf(Number(index)), checkpoint_path: "x" } };
    }
    const parts = Math.max(1, Math.ceil(Number(artifact.body.size) / partSize));
    const state = artifact.complete ? "complete" : "open";
    return { status: 200, json: { state, part_size: partSize, parts, received: [...artifact.parts.keys()] } };
  });
  return { ...server, artifacts };
}

async function uploader(
  client: Parameters<typeof Uploads.open>[1]["client"],
  folder?: string,
  reported: (seq: number) => Promise<void> = async () => {},
) {
  const where = folder ?? (await tempFolder());
  const abort = new AbortController();
  const retry: RetryOptions = retryOptions(hastyClock(), abort.signal);
  const storedFiles: { artifactId: string; epoch: number; role: string }[] = [];
  const uploads = await Uploads.open(where, {
    client,
    jobId: 5,
    token: "t",
    retry,
    reported,
    onStored: async (checkpoint) => {
      storedFiles.push(checkpoint);
    },
    note: () => {},
  });
  return { uploads, folder: where, stored: storedFiles, run: () => beside(() => uploads.run(), abort) };
}

async function checkpointFile(bytes: Buffer): Promise<string> {
  const path = join(await tempFolder(), "last.state");
  await writeFile(path, bytes);
  return path;
}
const message = (path: string, epoch = 1) => ({
  type: "checkpoint" as const,
  epoch,
  role: "last" as const,
  files: [{ kind: "checkpoint" as const, path, name: "last.state" }],
});

describe("Uploads", () => {
  const bytes = randomBytes(25_000);

  it("sends a file in the parts that the server asks for, announces it, and leaves nothing", async ({ expect }) => {
    const { client, artifacts, calls } = await artifactServer(10_000);
    const { uploads, stored: announced, folder, run } = await uploader(client);
    run();
    await uploads.add(message(await checkpointFile(bytes), 7), 0);
    await until(() => uploads.pending === 0);
    expect(artifacts[0]?.body).toMatchObject({
      kind: "checkpoint",
      name: "last.state",
      size: 25_000,
      epoch: 7,
      role: "last",
    });
    expect(Buffer.concat([...(artifacts[0]?.parts.values() ?? [])])).toEqual(bytes);
    expect(calls.filter(({ method }) => method === "PUT").every(({ headers }) => headers["x-part-sha256"])).toBe(true);
    expect(announced).toMatchObject([{ epoch: 7, role: "last" }]);
    expect(await readdir(join(folder, "uploads"))).toEqual([]);
  });

  it("stores an empty file", async ({ expect }) => {
    const { client, artifacts } = await artifactServer(10_000);
    const { uploads, run } = await uploader(client);
    run();
    await uploads.add(message(await checkpointFile(Buffer.alloc(0))), 0);
    await until(() => uploads.pending === 0);
    expect(artifacts[0]).toMatchObject({ complete: true });
  });

  it("keeps the file when its trainer deletes it", async ({ expect }) => {
    const { client, artifacts } = await artifactServer(100_000);
    const { uploads, run } = await uploader(client);
    const path = await checkpointFile(bytes);
    await uploads.add(message(path), 0);
    await rm(path);
    run();
    await until(() => uploads.pending === 0);
    expect(artifacts[0]?.parts.get(1)).toEqual(bytes);
  });

  it("leaves out a file that is gone already", async ({ expect }) => {
    const { client } = await artifactServer(100_000);
    const { uploads } = await uploader(client);
    await uploads.add(message("/nowhere/last.state"), 0);
    expect([uploads.pending, uploads.failures]).toEqual([0, []]);
  });

  it("sends the newest of those that wait", async ({ expect }) => {
    const { client, artifacts } = await artifactServer(100_000);
    const { uploads, stored: announced, run } = await uploader(client);
    for (const epoch of [1, 2, 3]) await uploads.add(message(await checkpointFile(Buffer.from(`${epoch}`)), epoch), 0);
    expect(uploads.pending).toBe(1);
    run();
    await until(() => uploads.pending === 0);
    expect(artifacts).toHaveLength(1);
    expect(announced).toMatchObject([{ epoch: 3 }]);
  });

  it("does not complete a checkpoint before the server has the events that came before it", async ({ expect }) => {
    const { client, artifacts } = await artifactServer(100_000);
    const asked: number[] = [];
    let report = () => {};
    const reported = (seq: number) => {
      asked.push(seq);
      return new Promise<void>((resolve) => {
        report = resolve;
      });
    };
    const { uploads, folder } = await uploader(client);
    await uploads.add(message(await checkpointFile(bytes)), 12);
    // Also after a restart of the agent.
    const again = await uploader(client, folder, reported);
    again.run();
    await until(() => asked.length > 0);
    expect([asked, artifacts[0]?.parts.size, artifacts[0]?.complete]).toEqual([[12], 1, false]);
    report();
    await until(() => again.uploads.pending === 0);
    expect(artifacts[0]?.complete).toBe(true);
  });

  it("sends only the part that is missing after a cut", async ({ expect }) => {
    let cuts = 0;
    const { client, artifacts, calls } = await artifactServer(10_000, (call) =>
      /parts\/2$/.test(call.path) && cuts++ === 0 ? null : undefined,
    );
    const { uploads, run } = await uploader(client);
    run();
    await uploads.add(message(await checkpointFile(bytes)), 0);
    await until(() => uploads.pending === 0);
    expect(calls.filter(({ method }) => method === "PUT").map(({ path }) => path.at(-1))).toEqual(["1", "2", "2", "3"]);
    expect(calls.filter(({ method }) => method === "GET")).toHaveLength(1);
    expect(Buffer.concat([...(artifacts[0]?.parts.values() ?? [])])).toEqual(bytes);
  });

  it("does not send a part again of which only the answer was lost", async ({ expect }) => {
    let lost = 0;
    const { client, calls, artifacts } = await artifactServer(10_000, (call) => {
      if (!/parts\/1$/.test(call.path) || lost++ > 0) return undefined;
      artifacts[0]?.parts.set(1, call.body);
      return null;
    });
    const { uploads, run } = await uploader(client);
    run();
    await uploads.add(message(await checkpointFile(bytes)), 0);
    await until(() => uploads.pending === 0);
    expect(calls.filter(({ path }) => path.endsWith("parts/1"))).toHaveLength(1);
  });

  it("begins anew when the bytes arrived damaged, or the server has given the upload up", async ({ expect }) => {
    for (const wrong of [problem(422, "VALIDATION_ERROR", "sha256"), problem(409, "UPLOAD_CLOSED")]) {
      let faults = 0;
      const { client, artifacts } = await artifactServer(100_000, (call) =>
        call.method === "PUT" && faults++ === 0 ? wrong : undefined,
      );
      const { uploads, stored: announced, run } = await uploader(client);
      run();
      await uploads.add(message(await checkpointFile(bytes)), 0);
      await until(() => uploads.pending === 0);
      expect(artifacts.map(({ complete }) => complete)).toEqual([false, true]);
      expect(announced).toHaveLength(1);
    }
  });

  it("gives one file up that is refused, says so, and takes the next", async ({ expect }) => {
    const { client } = await artifactServer(100_000, (call) =>
      call.method === "POST" && String(call.body).includes('"epoch":1') ? problem(413, "PAYLOAD_TOO_LARGE") : undefined,
    );
    const { uploads, stored: announced, run } = await uploader(client);
    run();
    await uploads.add(message(await checkpointFile(bytes), 1), 0);
    await until(() => uploads.pending === 0);
    await uploads.add(message(await checkpointFile(bytes), 2), 0);
    await until(() => uploads.pending === 0);
    expect(uploads.failures).toEqual([expect.stringContaining("last.state of epoch 1 could not be stored")]);
    expect(announced).toMatchObject([{ epoch: 2 }]);
  });

  it("goes on with an upload that an earlier process has begun", async ({ expect }) => {
    const first = await artifactServer(10_000, (call) =>
      /parts\/3$/.test(call.path) ? problem(503, "NO") : undefined,
    );
    const begun = await uploader(first.client);
    begun.run();
    await begun.uploads.add(message(await checkpointFile(bytes)), 0);
    await until(() => first.calls.some(({ path }) => path.endsWith("parts/3")));

    const second = await artifactServer(10_000);
    second.artifacts.push(...first.artifacts);
    const again = await uploader(second.client, begun.folder);
    expect(again.uploads.pending).toBe(1);
    again.run();
    await until(() => again.uploads.pending === 0);
    expect(second.calls.filter(({ method }) => method === "PUT").map(({ path }) => path.at(-1))).toEqual(["3"]);
    expect(Buffer.concat([...(second.artifacts[0]?.parts.values() ?? [])])).toEqual(bytes);
    expect(again.stored).toHaveLength(1);
  });

  it("ends when the lease is gone and keeps the file", async ({ expect }) => {
    const { client } = await artifactServer(10_000, () => problem(409, "STALE_LEASE"));
    const { uploads, folder, run } = await uploader(client);
    await mkdir(folder, { recursive: true });
    await uploads.add(message(await checkpointFile(bytes)), 0);
    expect(await run().failed).toMatchObject({ code: "STALE_LEASE" });
    expect((await stat(join(folder, "uploads/1.bytes"))).size).toBe(bytes.length);
  });
});
