import { spawn } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { Connection, expectStatus, type HttpRequest, jsonOf } from "../bench/http.ts";
import { addUserSql } from "../lib/people.ts";
import { greyPng } from "../lib/png.ts";
import { startWorkerProcess } from "../lib/worker-process.ts";
import { ROOT } from "../lib/wrangler.ts";
import { type KillablePeer, lossAt } from "./peer.ts";

/** This project: the production bundle in workerd, default timers and limits. */

const PERSON = { email: "peer@example.com", fullName: "Peer", password: "a-password-of-the-peers", admin: true };
const STEPS_AN_EPOCH = 1_000;
const SEED_BATCH = 500;
const SEED_LANES = 4;
const API = "/api/v1";
const JSON_TYPE = { "content-type": "application/json" };
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

const IdSchema = z.object({ id: z.int() });

export async function startCultivar(folder: string): Promise<KillablePeer & { dispose(): Promise<void> }> {
  const internalSecret = randomBytes(32).toString("hex");
  const statements = (await addUserSql(PERSON, Date.now())).split(";\n").filter((text) => text.trim() !== "");
  const server = await startWorkerProcess(
    folder,
    { JWT_SECRET: randomBytes(32).toString("hex"), INTERNAL_SECRET: internalSecret },
    statements,
  );
  const origin = new URL(server.url);
  const alone = async <T>(work: (connection: Connection) => Promise<T>): Promise<T> => {
    const connection = new Connection(origin);
    try {
      return await work(connection);
    } finally {
      connection.close();
    }
  };
  const post = (path: string, headers: Record<string, string>, body: unknown): HttpRequest => ({
    method: "POST",
    path: API + path,
    headers: { ...JSON_TYPE, ...headers },
    body: JSON.stringify(body),
  });
  const get = (path: string): HttpRequest => ({ method: "GET", path: API + path, headers: bearer(userToken) });

  let userToken = "";
  const login = post("/auth/login", {}, { email: PERSON.email, password: PERSON.password });
  userToken = z
    .object({ access_token: z.string() })
    .parse(jsonOf(await alone((connection) => connection.request(login)), 200)).access_token;
  const tokens = post("/runners/tokens", bearer(userToken), { uses: 1_000 });
  const { registration_token: registrationToken } = z
    .object({ registration_token: z.string() })
    .parse(jsonOf(await alone((connection) => connection.request(tokens)), 201));

  const form = new FormData();
  form.set("name", "peers");
  form.set("format", "imagefolder");
  for (const [at, label] of ["a", "b"].entries()) {
    const samples = Uint8Array.from({ length: 16 }, (_, i) => at * 100 + i);
    form.append("files", new File([Uint8Array.from(greyPng(samples, 4, 4))], `train/${label}/1.png`));
  }
  const uploaded = await fetch(new URL(`${API}/datasets`, origin), {
    method: "POST",
    headers: bearer(userToken),
    body: form,
  });
  const { id: datasetId } = z.object({ id: z.string() }).parse(await uploaded.json());

  const config = {
    framework: "embedded",
    model_name: "cnn_small",
    task_type: "image_classification",
    dataset_id: datasetId,
    epochs: 1_000,
  };
  const createJob = async (connection: Connection) =>
    IdSchema.parse(jsonOf(await connection.request(post("/training/jobs", bearer(userToken), { config })), 201)).id;
  const epochOf = (step: number) => ({
    epoch: Math.floor(step / STEPS_AN_EPOCH) + 1,
    step: step % STEPS_AN_EPOCH,
    loss: lossAt(step),
  });
  /** The job token of each run that takes batches. */
  const leases = new Map<string, string>();

  /** All jobs of the user, in the columns that a copy has from its original. */
  const copyJobs = async (select: string, ...values: number[]) => {
    const template = await alone(createJob);
    await server.execute(
      `INSERT INTO training_jobs (${COPIED.join(", ")}, tags, experiment_name, created_at, updated_at)
       ${select.replace("COPIED", COPIED.map((name) => `job.${name}`).join(", "))} WHERE job.id = ?1`,
      template,
      ...values,
    );
  };

  async function createBatchRun(): Promise<string> {
    const name = randomUUID();
    const machine = new Connection(origin);
    const user = new Connection(origin);
    try {
      const body = { machine_id: name, name, frameworks: ["embedded"], slots: 1, protocol: 1 };
      const registered = await machine.request(post("/internal/runners/register", bearer(registrationToken), body));
      const { runner_token: token } = z.object({ runner_token: z.string() }).parse(jsonOf(registered, 201));
      const claim = (wait_s: number) =>
        post("/internal/runners/claim", bearer(token), { instance_id: name, free_slots: 1, wait_s });
      expectStatus(await machine.request(claim(0)), 204);
      const jobId = await createJob(user);
      const [offered] = await Promise.all([
        machine.request(claim(20)),
        sleep(50).then(() => user.request(post(`/training/jobs/${jobId}/start`, bearer(userToken), {}))),
      ]);
      const { job_id, fence } = z.object({ job_id: z.int(), fence: z.int() }).parse(jsonOf(offered, 200));
      const accepted = await machine.request(post(`/internal/jobs/${job_id}/accept`, bearer(token), { fence }));
      leases.set(String(job_id), z.object({ job_token: z.string() }).parse(jsonOf(accepted, 200)).job_token);
      return String(job_id);
    } finally {
      machine.close();
      user.close();
    }
  }

  async function logBatch(connection: Connection, run: string, step: number, size: number): Promise<void> {
    const events = Array.from({ length: size }, (_, i) => ({
      seq: step + i + 1,
      event: "epoch_complete",
      data: epochOf(step + i),
    }));
    const request = post("/internal/training/callback", bearer(leases.get(run) ?? ""), {
      job_id: Number(run),
      events,
    });
    expectStatus(await connection.request(request), 200);
  }

  return {
    name: "cultivar",
    origin,
    createRun: async (connection) => String(await createJob(connection)),

    createBatchRun,

    async logPoint(connection, run, step) {
      const body = { job_id: Number(run), event: "epoch_complete", data: epochOf(step) };
      const request = post("/internal/training/callback", { "x-internal-auth": internalSecret }, body);
      expectStatus(await connection.request(request), 200);
    },

    logBatch,

    async readChart(connection, run) {
      const answer = jsonOf(await connection.request(get(`/training/jobs/${run}/metrics?max_points=1000`)), 200);
      return z.array(z.unknown()).parse(answer).length;
    },

    // Through the API: what a chart is read from is made while points arrive.
    async seedPoints(count) {
      const run = await createBatchRun();
      let next = 0;
      const lane = async () => {
        const connection = new Connection(origin);
        while (next < count) {
          const step = next;
          next += SEED_BATCH;
          await logBatch(connection, run, step, Math.min(SEED_BATCH, count - step));
        }
        connection.close();
      };
      await Promise.all(Array.from({ length: SEED_LANES }, lane));
      return run;
    },

    async seedRuns(count) {
      await copyJobs(
        `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?2 - 1)
         SELECT COPIED, CASE n.i % 2 WHEN 0 THEN '["a"]' ELSE '["b"]' END,
           printf('run %06d', (n.i * 7919) % ?2), ?3 + n.i, ?3 + n.i FROM n CROSS JOIN training_jobs job`,
        count,
        1_700_000_000_000,
      );
    },

    async listRuns(connection, order) {
      const sort = order === "newest" ? "-created_at" : "experiment_name";
      const answer = jsonOf(await connection.request(get(`/training/jobs?tag=a&sort=${sort}&limit=50`)), 200);
      return z.object({ jobs: z.array(z.unknown()) }).parse(answer).jobs.length;
    },

    async countPoints(connection, run) {
      const answer = jsonOf(await connection.request(get(`/training/jobs/${run}/metrics?limit=10000`)), 200);
      return z.array(z.unknown()).parse(answer).length;
    },

    kill: server.kill,
    restart: server.start,

    /** The embedded runner, with a trainer that reports a point a second. */
    async startClient() {
      const args = ["--url", server.url, "--state-dir", join(folder, "runner"), "--token", registrationToken];
      const trainer = join(ROOT, "scripts/chaos/trainer.ts");
      const client = spawn(
        process.execPath,
        [join(ROOT, "runner/embedded/main.ts"), ...args, "--name", "peer", "--trainer", `embedded=${trainer}`],
        { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, CHAOS_EPOCH_MS: "1000" } },
      );
      let said = "";
      client.stdout.on("data", (chunk) => {
        said += String(chunk);
      });
      const until = async (what: RegExp) => {
        for (let waitedMs = 0; !what.test(said); waitedMs += 100) {
          if (waitedMs > 120_000 || client.exitCode !== null)
            throw new Error(`the runner did not say ${what}:\n${said}`);
          await sleep(100);
        }
      };
      await until(/ready: /);
      const run = await alone(createJob);
      const started = await alone((connection) =>
        connection.request(post(`/training/jobs/${run}/start`, bearer(userToken), {})),
      );
      expectStatus(started, 200);
      await until(/epoch 1/);
      return {
        run: String(run),
        kill: async () => {
          const closed = once(client, "close");
          client.kill("SIGKILL");
          await closed;
        },
      };
    },

    async isShownRunning(run) {
      const answer = jsonOf(await alone((connection) => connection.request(get(`/training/jobs/${run}`))), 200);
      return z.object({ status: z.string() }).parse(answer).status === "running";
    },

    dispose: server.dispose,
  };
}

/** Columns of a job that say nothing of its course. */
const COPIED = [
  "project_id",
  "created_by",
  "framework",
  "model_name",
  "task_type",
  "dataset_id",
  "dataset_format",
  "num_classes",
  "class_names",
  "image_size",
  "epochs",
  "batch_size",
  "learning_rate",
  "primary_metric",
  "primary_metric_mode",
  "advanced_config",
  "status",
  "phase",
];
