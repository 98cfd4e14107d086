import type { ChildProcess } from "node:child_process";
import { createServer } from "node:net";
import { spawnWrangler } from "./wrangler.ts";

/** A port nobody listens on. */
export const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() =>
        address !== null && typeof address === "object" ? resolve(address.port) : reject(new Error("no port")),
      );
    });
  });

/** Waits until the server answers its health route. @throws after `patienceMs`, or when `server` has ended before */
export async function untilHealthy(url: string, server: ChildProcess, patienceMs = 120_000): Promise<void> {
  const giveUpAt = Date.now() + patienceMs;
  while (Date.now() < giveUpAt) {
    if (server.exitCode !== null || server.signalCode !== null) throw new Error("the server ended before it was ready");
    const healthy = await fetch(`${url}/healthz`, { signal: AbortSignal.timeout(2_000) }).then(
      (answer) => answer.ok,
      () => false,
    );
    if (healthy) return;
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
  throw new Error(`the server was not ready after ${patienceMs / 1000} s`);
}

/** `wrangler dev` on one port and one folder of state; `args` are passed on. */
export const spawnDevServer = (
  options: { port: number; persistTo?: string; args?: string[] },
  stdio: "inherit" | "pipe",
): ChildProcess =>
  spawnWrangler(
    [
      "dev",
      "--port",
      String(options.port),
      ...(options.persistTo === undefined ? [] : ["--persist-to", options.persistTo]),
      ...(options.args ?? []),
    ],
    { stdio, detached: stdio === "pipe" },
  );

/** Ends a process that leads a group, and the group: workerd is a child of wrangler. */
export async function endGroup(child: ChildProcess, first: NodeJS.Signals = "SIGTERM", graceMs = 5_000): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const signal = (name: NodeJS.Signals) => {
    try {
      process.kill(-(child.pid ?? 0), name);
    } catch {
      // The group is gone.
    }
  };
  signal(first);
  const timer = setTimeout(() => signal("SIGKILL"), graceMs);
  await ended;
  clearTimeout(timer);
}
