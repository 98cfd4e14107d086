import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { endGroup, freePort, untilHealthy } from "./server.ts";

/** The production bundle in a process of its own, so that it can be killed as a power cut would and started again. */

export type WorkerProcess = {
  url: string;
  /** kill -9 of the process and its runtime; the storage stays. */
  kill(): Promise<void>;
  /** Serves the same storage on the same port again. */
  start(): Promise<void>;
  /** Runs a statement on its database, past the API. @throws what the database says */
  execute(sql: string, ...values: (string | number)[]): Promise<void>;
  /** What it said last. */
  output(): string;
  /** Ends it; the folder is the caller's. */
  dispose(): Promise<void>;
};

/** What the parent tells the child, as JSON in its first argument. */
export type WorkerProcessOptions = {
  /** For bundle and storage. */
  folder: string;
  port: number;
  /** Variables and secrets. */
  settings: Record<string, string>;
  /** SQL for the new database, after the migrations. */
  statements: string[];
  isRestart: boolean;
};

/** What the child is asked to run; it answers with null or with what went wrong. One at a time. */
export type ExecuteOrder = { sql: string; values: (string | number)[] };

const ENTRY = join(import.meta.dirname, "worker-process-main.ts");
/** The child's word that everything is there. */
export const READY = "worker-process: ready";
const MAX_OUTPUT = 16_000;

/** Builds, migrates, runs `statements` and serves. `settings` must hold the secrets: they have to outlive the process. */
export async function startWorkerProcess(
  folder: string,
  settings: Record<string, string>,
  statements: string[] = [],
): Promise<WorkerProcess> {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  let child: ChildProcess | null = null;
  let output = "";
  let isRestart = false;
  // Whatever way this process ends, no server stays behind.
  const last = () => {
    if (child?.pid !== undefined && child.exitCode === null) process.kill(-child.pid, "SIGKILL");
  };
  process.on("exit", last);

  const start = async () => {
    const options: WorkerProcessOptions = { folder, port, settings, statements, isRestart };
    const started = spawn(process.execPath, [ENTRY, JSON.stringify(options)], {
      detached: true,
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    child = started;
    for (const stream of [started.stdout, started.stderr]) {
      stream?.on("data", (chunk) => {
        output = (output + String(chunk)).slice(-MAX_OUTPUT);
      });
    }
    const ready = new Promise<void>((resolve) => {
      started.stdout?.on("data", (chunk) => {
        if (String(chunk).includes(READY)) resolve();
      });
      started.once("close", () => resolve());
    });
    try {
      await ready;
      await untilHealthy(url, started);
    } catch (error) {
      await endGroup(started, "SIGKILL");
      throw new Error(`${String(error)}\n${output}`);
    }
    isRestart = true;
  };
  const kill = async () => {
    const killed = child;
    child = null;
    if (killed?.pid === undefined || killed.exitCode !== null || killed.signalCode !== null) return;
    const closed = once(killed, "close");
    process.kill(-killed.pid, "SIGKILL");
    await closed;
  };
  const execute = async (sql: string, ...values: (string | number)[]) => {
    if (child === null) throw new Error("the server is not running");
    const answered = once(child, "message");
    const order: ExecuteOrder = { sql, values };
    child.send(order);
    const [problem] = await answered;
    if (typeof problem === "string") throw new Error(problem);
  };
  await start();
  return {
    url,
    kill,
    start,
    execute,
    output: () => output,
    dispose: async () => {
      process.off("exit", last);
      await kill();
    },
  };
}
