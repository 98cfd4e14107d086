import { createServer, connect as openSocket, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { Random } from "./random.ts";

/**
 * A TCP proxy that does to connections what networks do. It does not read HTTP: it counts an exchange as begun when the client
 * sends after the server did, which is exact for one request at a time on a connection.
 */

export const EXCHANGE_FAULTS = [
  /** The request never arrives. */
  "drop",
  /** Half of the request's first bytes arrive, then the connection is gone. */
  "cutRequest",
  /** The request is delivered; its answer never comes back. */
  "loseAnswer",
  /** The answer is cut in the middle. */
  "cutAnswer",
  /** The client's side is told that the server has finished sending while it has not. */
  "halfClose",
  /** Everything arrives late. */
  "delay",
] as const;
export type ExchangeFault = (typeof EXCHANGE_FAULTS)[number];

export class FaultyProxy {
  readonly #server: Server;
  readonly #upstreamPort: number;
  readonly #random: Random;
  readonly #open = new Set<() => void>();
  readonly counts = new Map<ExchangeFault | "partition", number>();
  /** Probability that an exchange goes wrong, 0 … 1. */
  faultRate = 0;
  #partition: "none" | "refuse" | "silent" = "none";

  private constructor(upstreamPort: number, random: Random) {
    this.#upstreamPort = upstreamPort;
    this.#random = random;
    this.#server = createServer({ allowHalfOpen: true }, (client) => this.#serve(client));
  }

  static async start(upstreamPort: number, random: Random): Promise<FaultyProxy> {
    const proxy = new FaultyProxy(upstreamPort, random);
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get url(): string {
    const address = this.#server.address();
    if (address === null || typeof address === "string") throw new Error("the proxy is closed");
    return `http://127.0.0.1:${address.port}`;
  }

  /** Cuts everything off: `refuse` resets connections, `silent` lets them hang. */
  partition(how: "refuse" | "silent"): void {
    this.#partition = how;
    this.#count("partition");
    if (how === "refuse") this.#cutAll();
  }

  heal(): void {
    this.#partition = "none";
    // What hung would hang on.
    this.#cutAll();
  }

  async close(): Promise<void> {
    this.#cutAll();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #cutAll(): void {
    for (const cut of [...this.#open]) cut();
  }

  #count(what: ExchangeFault | "partition"): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  #serve(client: Socket): void {
    if (this.#partition === "refuse") {
      client.on("error", () => {});
      client.resetAndDestroy();
      return;
    }
    const upstream = openSocket({ host: "127.0.0.1", port: this.#upstreamPort, allowHalfOpen: true });
    const cut = () => {
      this.#open.delete(cut);
      client.destroy();
      upstream.destroy();
    };
    this.#open.add(cut);
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true);
      socket.on("error", cut);
      socket.on("close", cut);
    }
    let fault: ExchangeFault | null = null;
    let clientSpoke = false;
    let delayMs = 0;
    const up = inOrder(upstream);
    const down = inOrder(client);
    client.on("data", (bytes: Buffer) => {
      if (this.#partition !== "none") return;
      if (!clientSpoke) {
        clientSpoke = true;
        fault = this.#random.next() < this.faultRate ? this.#random.pick(EXCHANGE_FAULTS) : null;
        if (fault !== null) this.#count(fault);
        delayMs = fault === "delay" ? this.#random.between(200, 1_500) : 0;
      }
      if (fault === "drop") cut();
      else if (fault === "cutRequest") {
        upstream.write(bytes.subarray(0, bytes.length >> 1));
        setTimeout(cut, 20);
      } else up(bytes, delayMs);
    });
    upstream.on("data", (bytes: Buffer) => {
      if (this.#partition !== "none") return;
      clientSpoke = false;
      if (fault === "loseAnswer") cut();
      else if (fault === "cutAnswer") {
        client.write(bytes.subarray(0, bytes.length >> 1));
        setTimeout(cut, 5);
      } else if (fault === "halfClose") {
        client.end(bytes.subarray(0, Math.max(1, bytes.length - 3)));
        fault = null;
      } else down(bytes, delayMs);
    });
    client.on("end", () => upstream.end());
    upstream.on("end", () => client.end());
  }
}

/** Writes pieces in the order in which they came, also when some of them are held back. */
function inOrder(to: Socket): (bytes: Buffer, delayMs: number) => void {
  let waiting = 0;
  let before: Promise<void> = Promise.resolve();
  const write = (bytes: Buffer) => {
    if (to.writable) to.write(bytes);
  };
  return (bytes, delayMs) => {
    if (waiting === 0 && delayMs === 0) {
      write(bytes);
      return;
    }
    waiting += 1;
    before = before.then(async () => {
      await sleep(delayMs);
      write(bytes);
      waiting -= 1;
    });
  };
}
