import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, it } from "vitest";
import { SseReader } from "../support/sse.ts";
import { type Json, User } from "./support/api.ts";
import { type FlowServer, startServer } from "./support/server.ts";

/** Watching a job over real HTTP, while a machine reports on it through the runner protocol. */

let server: FlowServer;
let user: User;
let token: string;
beforeAll(async () => {
  server = await startServer();
  user = await User.logIn(server.url);
  const body = JSON.stringify({ email: "user@example.com", password: "password123" });
  const answer = await fetch(`${server.url}/api/v1/auth/login`, { method: "POST", headers: JSON_BODY, body });
  token = ((await answer.json()) as { access_token: string }).access_token;
}, 120_000);
afterAll(() => server.dispose());

const JSON_BODY = { "content-type": "application/json" };
const eventsUrl = (jobId: number) => `${server.url}/api/v1/training/jobs/${jobId}/events`;

async function watch(url: string, headers: Record<string, string> = {}): Promise<SseReader> {
  const answer = await fetch(url, { headers });
  if (answer.status !== 200 || answer.body === null) throw new Error(`${answer.status} ${await answer.text()}`);
  return new SseReader(answer.body);
}
const bearer = () => ({ authorization: `Bearer ${token}` });

/** A job that runs, and the calls of the machine that trains it. */
async function runningJob() {
  const internal = async <T = Json>(path: string, credential: string, body: Json): Promise<T> => {
    const headers = { ...JSON_BODY, authorization: `Bearer ${credential}` };
    const url = `${server.url}/api/v1/internal${path}`;
    const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return (await answer.json()) as T;
  };
  const { registration_token: registration } = await user.call<{ registration_token: string }>(
    "POST",
    "/runners/tokens",
    {},
  );
  const machine = randomBytes(4).toString("hex");
  const registered = { machine_id: machine, name: machine, frameworks: ["embedded"], slots: 1, protocol: 1 };
  const { runner_token } = await internal<{ runner_token: string }>("/runners/register", registration, registered);
  const { datasets } = await user.call<{ datasets: { id: string }[] }>("GET", "/datasets");
  const jobId = await user.createJob({ dataset_id: datasets[0]?.id, epochs: 3 });
  const waiting = internal<{ job_id: number; fence: number }>("/runners/claim", runner_token, {
    instance_id: machine,
    free_slots: 1,
    wait_s: 20,
  });
  await sleep(300);
  const started = user.start(jobId);
  const { fence } = await waiting;
  const { job_token } = await internal<{ job_token: string }>(`/jobs/${jobId}/accept`, runner_token, { fence });
  await started;
  let seq = 0;
  const send = (event: string, data: Json) => {
    seq += 1;
    return internal("/training/callback", job_token, { job_id: jobId, events: [{ seq, event, data }] });
  };
  const log = async (n: number, text: string) => {
    const url = `${server.url}/api/v1/internal/jobs/${jobId}/logs/stdout/${n}`;
    const answer = await fetch(url, { method: "PUT", headers: { authorization: `Bearer ${job_token}` }, body: text });
    if (!answer.ok) throw new Error(`log: ${answer.status} ${await answer.text()}`);
  };
  return { jobId, send, log };
}

/**
 * Bytes that a TCP connection of this machine can hold at most while nobody reads: both sides' buffers, which the kernel
 * lets grow to its limits (tcp(7): the third number of `tcp_rmem` and `tcp_wmem`).
 */
async function maxHeldBytes(): Promise<number> {
  const limit = async (name: string) => {
    const text = await readFile(`/proc/sys/net/ipv4/${name}`, "utf8").catch(() => "");
    // Where there is no such file: twice what macOS lets a socket have.
    return Number(text.trim().split(/\s+/)[2] ?? 16 * 1024 * 1024);
  };
  return (await limit("tcp_rmem")) + (await limit("tcp_wmem"));
}

const points = (reader: SseReader) =>
  reader.of("metrics").flatMap(({ data }) => (data.points as { epoch: number }[]).map(({ epoch }) => epoch));

describe("a watched job over HTTP", () => {
  it("is seen by a client with a token and by a browser with a ticket, to the end", async ({ expect }) => {
    const { jobId, send, log } = await runningJob();
    const { url } = await user.call<{ url: string }>("POST", `/training/jobs/${jobId}/events/ticket`);
    const readers = [await watch(eventsUrl(jobId), bearer()), await watch(server.url + url)];
    for (const reader of readers) await reader.until((seen) => seen.length === 1);
    expect((await fetch(server.url + url)).status).toBe(401);
    for (let epoch = 1; epoch <= 3; epoch++) {
      await send("epoch_complete", { epoch, loss: 1 / epoch });
      // As it happens, not at the end.
      for (const reader of readers) await reader.until(() => points(reader).includes(epoch));
    }
    await log(1, "a line\n");
    await send("completed", { log_chunks: { stdout: 1, stderr: 0 } });
    for (const reader of readers) {
      await reader.closed();
      expect(points(reader)).toEqual([1, 2, 3]);
      expect(reader.of("log")[0]?.data).toMatchObject({ first_id: 1, lines: ["a line"] });
      expect(reader.events.at(-1)).toMatchObject({ event: "end", data: { status: "completed" } });
      const headers = { ...bearer(), "last-event-id": reader.lastId };
      expect((await fetch(eventsUrl(jobId), { headers })).status).toBe(204);
    }
  });

  it("is seen without a gap across a power cut of the server", async ({ expect }) => {
    const { jobId, send } = await runningJob();
    const before = await watch(eventsUrl(jobId), bearer());
    await send("epoch_complete", { epoch: 1, loss: 1 });
    await before.until(() => points(before).includes(1));
    await server.kill();
    await before.closed();
    await server.start();
    await send("epoch_complete", { epoch: 2, loss: 0.5 });
    const after = await watch(`${eventsUrl(jobId)}?last_event_id=${before.lastId}`, bearer());
    await after.until(() => points(after).includes(2));
    await send("epoch_complete", { epoch: 3, loss: 0.4 });
    await send("completed", {});
    await after.closed();
    expect(points(after)).toEqual([2, 3]);
    expect(after.of("reset")).toEqual([]);
  });

  it("drops a client that has stopped reading, and no other", async ({ expect }) => {
    const { jobId, send, log } = await runningJob();
    const reader = await watch(eventsUrl(jobId), bearer());
    const { hostname, port, pathname } = new URL(eventsUrl(jobId));
    const stuck = connect({ host: hostname, port: Number(port) });
    let received = "";
    stuck.write(`GET ${pathname} HTTP/1.1\r\nhost: ${hostname}\r\nauthorization: Bearer ${token}\r\n\r\n`);
    await new Promise<void>((resolve) => {
      stuck.once("data", (chunk) => {
        received += String(chunk);
        stuck.pause();
        resolve();
      });
    });
    expect(received).toMatch(/^HTTP\/1\.1 200/);
    const text = `${"x".repeat(127)}\n`.repeat(2_000);
    // More than the connection and the Worker's queue together can take.
    const chunks = Math.ceil((await maxHeldBytes()) / text.length) + 10;
    for (let n = 1; n <= chunks; n++) await log(n, text);
    await send("completed", { log_chunks: { stdout: chunks, stderr: 0 } });
    await reader.closed(60_000);
    expect(reader.of("log")).toHaveLength(chunks);
    const ended = new Promise<void>((resolve) => stuck.once("close", () => resolve()));
    stuck.on("error", () => undefined);
    stuck.on("data", (chunk) => {
      received += String(chunk);
    });
    stuck.resume();
    await ended;
    // What the connection itself held on the way is all that came.
    expect(received.split("event: log").length).toBeLessThan(chunks);
    expect(received).not.toContain("event: end");
  });
});
