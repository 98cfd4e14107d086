import { gzipSync } from "node:zlib";
import { describe, it } from "vitest";
import { z } from "zod";
import {
  ApiError,
  bodyOf,
  isRetryable,
  Reachability,
  retrying,
  TransportError,
} from "../../../runner/embedded/agent/client.ts";
import { hastyClock, problem, retryOptions, scriptedServer } from "./support.ts";

const Schema = z.object({ ok: z.literal(true) });
const good = { status: 200, json: { ok: true } };

describe("Client", () => {
  it("sends the token, JSON, and large bodies as gzip unless that makes them larger", async ({ expect }) => {
    const { client, calls } = await scriptedServer(() => good);
    await client.call("POST", "/a", Schema, { token: "t", json: { text: "x".repeat(50_000) } });
    const noise = crypto.getRandomValues(new Uint8Array(40_000));
    await client.call("PUT", "/b", Schema, { body: noise, contentType: "text/plain" });
    await client.call("PUT", "/c", Schema, { body: noise, contentType: "application/octet-stream" });
    expect(calls[0]?.headers).toMatchObject({
      authorization: "Bearer t",
      "content-type": "application/json",
      "content-encoding": "gzip",
    });
    expect(JSON.parse(String(calls[0]?.body))).toEqual({ text: "x".repeat(50_000) });
    expect(calls[1]?.headers["content-encoding"]).toBe(undefined);
    expect(calls[2]?.headers["content-length"]).toBe("40000");
  });

  it("tells the server's word from that of something in between", async ({ expect }) => {
    const replies = [
      problem(409, "STALE_LEASE"),
      { status: 403, body: Buffer.from("<html>blocked</html>") },
      { status: 302, headers: { location: "https://login.example" } },
      { status: 200, body: Buffer.from("<html>welcome to the hotel</html>") },
      { status: 200, json: { ok: false } },
      null,
    ];
    const { client } = await scriptedServer((_, count) => replies[count - 1] ?? null);
    const errors: unknown[] = [];
    for (const _ of replies) errors.push(await client.call("GET", "/", Schema).catch((error: unknown) => error));
    expect(errors[0]).toMatchObject({ name: "ApiError", status: 409, code: "STALE_LEASE" });
    expect(errors.slice(1).map((error) => error instanceof TransportError)).toEqual(Array(5).fill(true));
    expect(String(errors[2])).toContain("https://login.example");
  });

  it("gives up on a call that gets no answer in time", async ({ expect }) => {
    const { client } = await scriptedServer(() => new Promise(() => {}));
    await expect(client.call("GET", "/", Schema, { timeoutMs: 50 })).rejects.toThrow(TransportError);
  });

  it("ends a body that stands still, and one that is cut", async ({ expect }) => {
    const { client } = await scriptedServer((_, count) => ({
      status: 200,
      body: new Uint8Array(1000),
      ...(count === 1 && { cutAfter: 500 }),
    }));
    const drain = async () => {
      const response = await client.send("GET", "/", { streamed: true });
      let received = 0;
      for await (const chunk of bodyOf(response, 1000, new AbortController().signal)) received += chunk.byteLength;
      return received;
    };
    await expect(drain()).rejects.toThrow(TransportError);
    expect(await drain()).toBe(1000);

    const stalled = new Response(new ReadableStream());
    const read = async () => {
      for await (const _ of bodyOf(stalled, 20, new AbortController().signal)) throw new Error("no data was sent");
    };
    await expect(read()).rejects.toThrow(/no data for/);
  });
});

describe("retrying", () => {
  it("tries 5xx, 408, 429 and cut connections again, and waits as told", async ({ expect }) => {
    const replies = [
      problem(500, "INTERNAL_ERROR"),
      problem(408, "TIMEOUT"),
      { ...problem(429, "RATE_LIMITED"), headers: { "retry-after": "7" } },
      null,
      problem(503, "STORAGE_UNAVAILABLE"),
      good,
    ];
    const { client, calls } = await scriptedServer((_, count) => replies[count - 1] ?? null);
    const clock = hastyClock(() => 0.5);
    await retrying(() => client.call("GET", "/", Schema), retryOptions(clock));
    expect(calls).toHaveLength(6);
    expect(clock.slept).toEqual([500, 1000, 7500, 4000, 8000]);
  });

  it("takes every other 4xx for final at once", async ({ expect }) => {
    for (const status of [400, 401, 403, 404, 409, 410, 413, 422]) {
      const { client, calls } = await scriptedServer(() => problem(status, "NO"));
      const error = await retrying(() => client.call("GET", "/", Schema), retryOptions()).catch(
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(ApiError);
      expect(isRetryable(error)).toBe(false);
      expect(calls).toHaveLength(1);
    }
  });

  it("ends with its signal, also in the middle of a wait", async ({ expect }) => {
    const { client, calls } = await scriptedServer(() => ({
      ...problem(503, "NO"),
      headers: { "retry-after": "3000" },
    }));
    const abort = new AbortController();
    const options = { ...retryOptions(undefined, abort.signal), onRetry: () => abort.abort(new Error("enough")) };
    await expect(retrying(() => client.call("GET", "/", Schema), options)).rejects.toThrow("enough");
    expect(calls).toHaveLength(1);
  });

  it("gives up after its time with the last error", async ({ expect }) => {
    const { client } = await scriptedServer(() => problem(500, "INTERNAL_ERROR"));
    let now = 0;
    const clock = { ...hastyClock(), now: () => now++ };
    const options = { ...retryOptions(clock), giveUpAfterMs: 4 };
    await expect(retrying(() => client.call("GET", "/", Schema), options)).rejects.toThrow("INTERNAL_ERROR");
  });

  it("does not try a program error again", async ({ expect }) => {
    let calls = 0;
    const call = () => {
      calls += 1;
      return Promise.reject(new RangeError("bug"));
    };
    await expect(retrying(call, retryOptions())).rejects.toThrow(RangeError);
    expect(calls).toBe(1);
  });
});

describe("Reachability", () => {
  const cut = new TransportError("cut");
  const never = new AbortController().signal;
  const setup = () => {
    let now = 0;
    const clock = { ...hastyClock(), now: () => now, sleep: endless };
    return {
      reachability: new Reachability(clock),
      pass: (ms: number) => {
        now += ms;
      },
    };
  };
  /** Sleeps until it is woken. */
  const endless = (_: number, signal?: AbortSignal) =>
    new Promise<void>((resolve) => signal?.addEventListener("abort", () => resolve()));
  const isOver = async (sleep: Promise<void>) =>
    Promise.race([sleep.then(() => true), new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 20))]);

  it("wakes who waits when a call gets through after an outage", async ({ expect }) => {
    const { reachability, pass } = setup();
    pass(10_000);
    reachability.failed(cut);
    const sleep = reachability.sleep(60_000, cut, never);
    expect(await isOver(sleep)).toBe(false);
    reachability.worked();
    expect(await isOver(sleep)).toBe(true);
  });

  it("lets one kind of call fail on its own while others get through", async ({ expect }) => {
    const { reachability, pass } = setup();
    reachability.worked();
    pass(1_000);
    reachability.failed(cut);
    const sleep = reachability.sleep(60_000, cut, never);
    reachability.worked();
    expect(await isOver(sleep)).toBe(false);
  });

  it("keeps to a Retry-After", async ({ expect }) => {
    const { reachability, pass } = setup();
    pass(10_000);
    reachability.failed(cut);
    const sleep = reachability.sleep(60_000, new TransportError("busy", { retryAfterMs: 60_000 }), never);
    reachability.worked();
    expect(await isOver(sleep)).toBe(false);
  });
});

// The scripted server inflates; this says that it does so for what the tests rely on.
describe("support", () => {
  it("hands the inflated body to the test", async ({ expect }) => {
    const { url, calls } = await scriptedServer(() => good);
    await fetch(url, { method: "POST", body: gzipSync("hello"), headers: { "content-encoding": "gzip" } });
    expect(String(calls[0]?.body)).toBe("hello");
  });
});
