import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { Connection, expectStatus, type HttpRequest, jsonOf } from "../bench/http.ts";
import { endGroup, freePort } from "../lib/server.ts";
import { type KillablePeer, lossAt } from "./peer.ts";

/** MLflow from PyPI, as its documentation starts it on one machine: `mlflow server`, whose default store is SQLite. */

export const MLFLOW_VERSION = "3.17.2";

const CACHE = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "cultivar", `mlflow-${MLFLOW_VERSION}`);
const EXPERIMENT = "0";
const START_PATIENCE_MS = 600_000;
const KINDS = ["a", "b"] as const;

async function run(command: string, args: string[]): Promise<void> {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  let complaint = "";
  child.stderr.on("data", (chunk) => {
    complaint = (complaint + String(chunk)).slice(-4_000);
  });
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`${command} ${args[0]} failed (${code}):\n${complaint}`);
}

const exists = (command: string) =>
  run(command, ["--version"]).then(
    () => true,
    () => false,
  );

/**
 * The folder of a virtual environment with MLflow in it, made if it is not there.
 * @param uv the program `uv`; where there is none, Python's own venv and pip do it
 */
export async function installMlflow(uv: string, say: (text: string) => void): Promise<string> {
  const bin = join(CACHE, "bin");
  if (existsSync(join(bin, "mlflow"))) return bin;
  say(`installing MLflow ${MLFLOW_VERSION} into ${CACHE} (once)`);
  const python = join(bin, "python");
  if (await exists(uv)) {
    await run(uv, ["venv", "--quiet", "--clear", CACHE]);
    await run(uv, ["pip", "install", "--quiet", "--python", python, `mlflow==${MLFLOW_VERSION}`]);
  } else {
    await run("python3", ["-m", "venv", "--clear", CACHE]);
    await run(python, ["-m", "pip", "install", "--quiet", `mlflow==${MLFLOW_VERSION}`]);
  }
  return bin;
}

/** Starts MLflow on a folder of its own. */
export async function startMlflow(bin: string, folder: string): Promise<KillablePeer & { dispose(): Promise<void> }> {
  mkdirSync(folder, { recursive: true });
  const port = await freePort();
  const origin = new URL(`http://127.0.0.1:${port}`);
  const environment = {
    ...process.env,
    PATH: `${bin}:${process.env.PATH ?? ""}`,
    MLFLOW_DISABLE_TELEMETRY: "true",
    DO_NOT_TRACK: "true",
    // Background workers for evaluating traces, which no row needs: seven processes that would take processor time from both.
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION: "false",
    MLFLOW_TRACKING_URI: undefined,
  };
  let server: ChildProcess | null = null;
  let output = "";
  const last = () => {
    if (server?.pid !== undefined && server.exitCode === null) process.kill(-server.pid, "SIGKILL");
  };
  process.on("exit", last);

  const restart = async () => {
    // On a busy machine its workers take longer to load than the five seconds after which uvicorn kills them.
    const patience = ["--uvicorn-opts", "--timeout-worker-healthcheck 300"];
    const child = spawn(join(bin, "mlflow"), ["server", "--host", "127.0.0.1", "--port", String(port), ...patience], {
      cwd: folder,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
      env: environment,
    });
    server = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        output = (output + String(chunk)).slice(-8_000);
      });
    }
    const giveUpAt = Date.now() + START_PATIENCE_MS;
    const isReady = () =>
      fetch(new URL("/api/2.0/mlflow/experiments/get?experiment_id=0", origin), { signal: AbortSignal.timeout(5_000) })
        .then((answer) => answer.ok)
        .catch(() => false);
    while (!(await isReady())) {
      if (child.exitCode !== null || Date.now() > giveUpAt) throw new Error(`MLflow did not start:\n${output}`);
      await sleep(100);
    }
  };
  await restart();

  const post = (path: string, body: unknown): HttpRequest => ({
    method: "POST",
    path: `/api/2.0/mlflow/${path}`,
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const create = async (connection: Connection) => {
    const answer = jsonOf(
      await connection.request(post("runs/create", { experiment_id: EXPERIMENT, start_time: Date.now() })),
      200,
    );
    return z.object({ run: z.object({ info: z.object({ run_id: z.string() }) }) }).parse(answer).run.info.run_id;
  };
  const alone = async <T>(work: (connection: Connection) => Promise<T>): Promise<T> => {
    const connection = new Connection(origin);
    try {
      return await work(connection);
    } finally {
      connection.close();
    }
  };
  const metricAt = (step: number) => ({ key: "loss", value: lossAt(step), timestamp: 1_700_000_000_000 + step, step });
  const inDatabase = <T>(work: (db: DatabaseSync) => T): T => {
    const db = new DatabaseSync(join(folder, "mlflow.db"), { timeout: 30_000 });
    try {
      db.exec("BEGIN IMMEDIATE");
      const result = work(db);
      db.exec("COMMIT");
      return result;
    } finally {
      db.close();
    }
  };
  const status = async (runId: string) => {
    const answer = await alone((connection) =>
      connection.request({ method: "GET", path: `/api/2.0/mlflow/runs/get?run_id=${runId}` }),
    );
    const schema = z.object({ run: z.object({ info: z.object({ status: z.string() }) }) });
    return schema.parse(jsonOf(answer, 200)).run.info.status;
  };

  return {
    name: "MLflow",
    origin,
    createRun: create,
    createBatchRun: () => alone(create),

    async logPoint(connection, runId, step) {
      expectStatus(await connection.request(post("runs/log-metric", { run_id: runId, ...metricAt(step) })), 200);
    },

    async logBatch(connection, runId, step, size) {
      const metrics = Array.from({ length: size }, (_, i) => metricAt(step + i));
      expectStatus(await connection.request(post("runs/log-batch", { run_id: runId, metrics })), 200);
    },

    // What its own pages read a chart with.
    async readChart(connection, runId) {
      const path = `/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?run_ids=${runId}&metric_key=loss&max_results=1000`;
      const answer = jsonOf(await connection.request({ method: "GET", path }), 200);
      return z.object({ metrics: z.array(z.unknown()) }).parse(answer).metrics.length;
    },

    async seedPoints(count) {
      const runId = await alone(create);
      await alone(async (connection) =>
        expectStatus(await connection.request(post("runs/log-metric", { run_id: runId, ...metricAt(0) })), 200),
      );
      inDatabase((db) => {
        const insert = db.prepare(
          `INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('loss', ?, ?, ?, ?, 0)`,
        );
        for (let step = 1; step < count; step += 1) {
          const { value, timestamp } = metricAt(step);
          insert.run(value, timestamp, runId, step);
        }
        const { value, timestamp, step } = metricAt(count - 1);
        db.prepare("UPDATE latest_metrics SET value = ?, timestamp = ?, step = ? WHERE run_uuid = ?").run(
          value,
          timestamp,
          step,
          runId,
        );
      });
      return runId;
    },

    async seedRuns(count) {
      const template = await alone(create);
      inDatabase((db) => {
        const columns = db
          .prepare("SELECT name FROM pragma_table_info('runs')")
          .all()
          .map(({ name }) => String(name));
        const own: Record<string, string> = { run_uuid: "?1", name: "?2", start_time: "?3" };
        const copy = db.prepare(
          `INSERT INTO runs (${columns.join(", ")}) SELECT ${columns.map((name) => own[name] ?? name).join(", ")} FROM runs WHERE run_uuid = ?4`,
        );
        const tag = db.prepare("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)");
        for (let at = 0; at < count; at += 1) {
          const id = at.toString(16).padStart(32, "0");
          const name = `run ${((at * 7_919) % count).toString().padStart(6, "0")}`;
          copy.run(id, name, 1_700_000_000_000 + at, template);
          tag.run("mlflow.runName", name, id);
          tag.run("kind", KINDS[at % 2] ?? "a", id);
        }
      });
    },

    async listRuns(connection, order) {
      const body = {
        experiment_ids: [EXPERIMENT],
        filter: "tags.kind = 'a'",
        order_by: [order === "newest" ? "attributes.start_time DESC" : "attributes.run_name ASC"],
        max_results: 50,
      };
      const answer = jsonOf(await connection.request(post("runs/search", body)), 200);
      return z.object({ runs: z.array(z.unknown()) }).parse(answer).runs.length;
    },

    async countPoints(connection, runId) {
      const path = `/api/2.0/mlflow/metrics/get-history?run_id=${runId}&metric_key=loss`;
      const answer = jsonOf(await connection.request({ method: "GET", path }), 200);
      return z.object({ metrics: z.array(z.unknown()).default([]) }).parse(answer).metrics.length;
    },

    async kill() {
      const killed = server;
      server = null;
      if (killed?.pid === undefined) return;
      const closed = once(killed, "close");
      process.kill(-killed.pid, "SIGKILL");
      await closed;
    },

    restart,

    /** Its own client, as people use it. */
    async startClient() {
      const script = `
import mlflow, time
mlflow.set_tracking_uri("${origin.href.replace(/\/$/, "")}")
with mlflow.start_run() as run:
    print("RUN", run.info.run_id, flush=True)
    for step in range(10**6):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
        time.sleep(1)
`;
      const client = spawn(join(bin, "python"), ["-c", script], {
        cwd: folder,
        stdio: ["ignore", "pipe", "inherit"],
        env: environment,
      });
      let said = "";
      client.stdout.on("data", (chunk) => {
        said += String(chunk);
      });
      for (let waitedMs = 0; !/RUN \w+/.test(said); waitedMs += 100) {
        if (waitedMs > START_PATIENCE_MS || client.exitCode !== null)
          throw new Error("the MLflow client did not start");
        await sleep(100);
      }
      return {
        run: /RUN (\w+)/.exec(said)?.[1] ?? "",
        kill: async () => {
          const closed = once(client, "close");
          client.kill("SIGKILL");
          await closed;
        },
      };
    },

    isShownRunning: async (runId) => (await status(runId)) === "RUNNING",

    async dispose() {
      process.off("exit", last);
      if (server !== null) await endGroup(server);
    },
  };
}
