import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, it } from "vitest";
import { EXCHANGE_FAULTS, type ExchangeFault, FaultyProxy } from "../../../scripts/chaos/proxy.ts";

/** Each fault as a client sees it, over real sockets. */

const BODY = "an answer of some length";
let upstream: Server;
let received: string[];
let proxy: FaultyProxy;
/** What the proxy will draw: whether there is a fault, and which. */
let fault: ExchangeFault | null;

beforeEach(async () => {
  received = [];
  upstream = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk) => {
      body += String(chunk);
    });
    request.on("end", () => {
      received.push(body);
      response.end(BODY);
    });
  });
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  fault = null;
  proxy = await FaultyProxy.start((upstream.address() as AddressInfo).port, {
    next: () => (fault === null ? 1 : 0),
    between: () => 300,
    pick: (items) => items.find((item) => item === fault) ?? items[0] ?? fail(),
  });
  proxy.faultRate = 0.5;
});
afterEach(async () => {
  await proxy.close();
  upstream.closeAllConnections();
  await new Promise((resolve) => upstream.close(resolve));
});

const fail = (): never => {
  throw new Error("nothing to pick");
};
const post = async (timeoutMs = 2_000) => {
  const response = await fetch(proxy.url, { method: "POST", body: "sent", signal: AbortSignal.timeout(timeoutMs) });
  return response.text();
};

describe("the faulty proxy", () => {
  it("passes everything on while nothing is wrong", async ({ expect }) => {
    expect([await post(), await post()]).toEqual([BODY, BODY]);
    expect(received).toEqual(["sent", "sent"]);
  });

  it("loses requests before, and answers after they were delivered", async ({ expect }) => {
    for (const kind of EXCHANGE_FAULTS.filter((known) => known !== "delay")) {
      fault = kind;
      received = [];
      await expect(post()).rejects.toThrow();
      const isDelivered = kind === "loseAnswer" || kind === "cutAnswer" || kind === "halfClose";
      expect([kind, received.length]).toEqual([kind, isDelivered ? 1 : 0]);
    }
  });

  it("holds back without changing the order", async ({ expect }) => {
    fault = "delay";
    const startedMs = performance.now();
    expect(await post()).toBe(BODY);
    expect(performance.now() - startedMs).toBeGreaterThan(550);
  });

  it("refuses or swallows everything while it is partitioned, and heals", async ({ expect }) => {
    proxy.partition("refuse");
    await expect(post()).rejects.toThrow();
    proxy.heal();
    expect(await post()).toBe(BODY);
    proxy.partition("silent");
    await expect(post(300)).rejects.toThrow(/timeout/i);
    proxy.heal();
    expect(await post()).toBe(BODY);
  });
});
