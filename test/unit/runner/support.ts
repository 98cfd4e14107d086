import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { onTestFinished } from "vitest";
import { Client, Reachability, type RetryOptions } from "../../../runner/embedded/agent/client.ts";
import { type Clock, systemClock } from "../../../runner/embedded/agent/clock.ts";

/** A folder that is gone after the test. */
export async function tempFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "cultivar-unit-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

export type Call = { method: string; path: string; headers: IncomingMessage["headers"]; body: Buffer };
export type Reply = {
  status: number;
  json?: unknown;
  body?: Uint8Array;
  headers?: Record<string, string>;
  /** The connection is cut after this much of the body. */
  cutAfter?: number;
};

/** What was sent has arrived by then: a reader throws away what is still waiting when its connection breaks. */
const CUT_AFTER_MS = 50;

/** A server that answers as the test says and remembers what it was asked. A reply of null cuts the connection. */
export async function scriptedServer(answer: (call: Call, count: number) => Reply | null | Promise<Reply | null>) {
  const calls: Call[] = [];
  const server: Server = createServer((request, response) => {
    void respond(request, response);
  });
  const respond = async (request: IncomingMessage, response: ServerResponse) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const raw = Buffer.concat(chunks);
    const body = request.headers["content-encoding"] === "gzip" ? gunzipSync(raw) : raw;
    const call: Call = { method: request.method ?? "", path: request.url ?? "", headers: request.headers, body };
    calls.push(call);
    const reply = await answer(call, calls.length);
    if (reply === null) {
      request.socket.destroy();
      return;
    }
    const content = Buffer.from(reply.body ?? (reply.json === undefined ? "" : JSON.stringify(reply.json)));
    response.writeHead(reply.status, {
      ...(reply.json !== undefined && { "content-type": "application/json" }),
      "content-length": String(content.length),
      ...reply.headers,
    });
    if (reply.cutAfter === undefined) response.end(content);
    else
      response.write(content.subarray(0, reply.cutAfter), () =>
        setTimeout(() => request.socket.destroy(), CUT_AFTER_MS),
      );
  };
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const address = server.address();
  const port = address !== null && typeof address === "object" ? address.port : 0;
  return { calls, url: `http://127.0.0.1:${port}`, client: new Client(`http://127.0.0.1:${port}`, "test") };
}

/** Real time, but no wait is longer than a few milliseconds; the waits that were asked for are kept. */
export function hastyClock(random = () => 0.5): Clock & { slept: number[] } {
  const slept: number[] = [];
  return {
    slept,
    now: systemClock.now,
    random,
    sleep: (ms, signal) => {
      slept.push(ms);
      return systemClock.sleep(Math.min(ms, 5), signal);
    },
  };
}

export function retryOptions(
  clock: Clock = hastyClock(),
  signal: AbortSignal = new AbortController().signal,
): RetryOptions {
  return { clock, backoff: { baseMs: 1000, capMs: 60_000 }, signal, reachability: new Reachability(clock) };
}

export const problem = (status: number, code: string, field: string | null = null): Reply => ({
  status,
  json: { detail: code, code, field },
});
