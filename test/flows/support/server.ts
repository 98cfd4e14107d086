import type { ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadLocalData } from "../../../scripts/lib/local-data.ts";
import { endGroup, freePort, spawnDevServer, untilHealthy } from "../../../scripts/lib/server.ts";
import { applyMigrations } from "../../../scripts/lib/wrangler.ts";

/** A real server for flow tests: `wrangler dev` on a port and a folder of its own, with the local user. */

export type FlowServer = {
  url: string;
  /** Where its state is: what `--persist-to` takes. */
  folder: string;
  /** Kills it as a power cut would, and leaves its storage. */
  kill(): Promise<void>;
  /** Serves the same storage on the same port again. */
  start(): Promise<void>;
  /** What it said last. */
  output(): string;
  /** Ends it and removes everything. */
  dispose(): Promise<void>;
};

/** @param timers replace single timers of the runner protocol, in seconds */
export async function startServer(timers: Record<string, number> = {}): Promise<FlowServer> {
  const folder = await mkdtemp(join(tmpdir(), "cultivar-flow-"));
  await applyMigrations(folder);
  await loadLocalData(folder, Date.now());
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const vars = {
    JWT_SECRET: randomBytes(32).toString("hex"),
    INTERNAL_SECRET: randomBytes(32).toString("hex"),
    RUNNER_TIMERS: JSON.stringify(timers),
  };
  let process_: ChildProcess | null = null;
  let output = "";
  // A test run that ends in whatever way leaves no server behind.
  const last = () => {
    if (process_?.pid !== undefined && process_.exitCode === null) process.kill(-process_.pid, "SIGKILL");
  };
  process.on("exit", last);

  const start = async () => {
    const child = spawnDevServer(
      {
        port,
        persistTo: folder,
        args: ["--ip", "127.0.0.1", ...Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`])],
      },
      "pipe",
    );
    process_ = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (chunk) => {
        output = (output + String(chunk)).slice(-8_000);
      });
    }
    try {
      await untilHealthy(url, child);
    } catch (error) {
      await endGroup(child);
      throw new Error(`${String(error)}\n${output}`);
    }
  };
  const kill = async () => {
    const child = process_;
    if (child?.pid === undefined) return;
    const closed = new Promise((resolve) => child.once("close", resolve));
    process.kill(-child.pid, "SIGKILL");
    await closed;
    process_ = null;
  };
  const dispose = async () => {
    process.off("exit", last);
    if (process_ !== null) await endGroup(process_);
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await start();
  } catch (error) {
    await dispose();
    throw error;
  }
  return { url, folder, kill, start, dispose, output: () => output };
}
