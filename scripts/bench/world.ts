import { eq, getTableColumns } from "drizzle-orm";
import { z } from "zod";
import { runBatch } from "../../src/db/batch.ts";
import { createDb } from "../../src/db/client.ts";
import { datasets, jobAttempts, trainingJobs } from "../../src/db/schema/index.ts";
import { newUuid } from "../../src/shared/ids.ts";
import { type StoredMetric, statementsFor } from "../../src/training/jobs/projection.ts";
import { createSegmenter, type PointTrack } from "../../src/training/jobs/segments.ts";
import { addUserSql } from "../lib/people.ts";
import { Connection, expectStatus, type HttpRequest, jsonOf } from "./http.ts";
import type { BenchServer } from "./server.ts";

export const API = "/api/v1";
const PERSON = { email: "bench@example.com", fullName: "Bench", password: "a-password-of-the-benchmark", admin: true };

const LoginSchema = z.object({ access_token: z.string() });
const RegistrationSchema = z.object({ registration_token: z.string() });
const RunnerSchema = z.object({ runner_token: z.string() });
const OfferSchema = z.object({ job_id: z.number(), fence: z.number() });
const AcceptSchema = z.object({ job_token: z.string(), attempt: z.number() });
const DocumentSchema = z.object({
  paths: z.record(z.string(), z.record(z.string(), z.object({ parameters: z.array(z.unknown()).optional() }))),
});
const ParameterSchema = z.object({ name: z.string() });

export type Runner = { token: string; instanceId: string };
export type Lease = { jobId: number; attempt: number; token: string };

export type World = Awaited<ReturnType<typeof createWorld>>;

export const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
export const JSON_TYPE = { "content-type": "application/json" };

/** The people, jobs and runners that the scenarios work with, made as they are asked for. */
export async function createWorld(server: BenchServer) {
  const db = createDb(server.db);
  const main = new Connection(server.app);
  const connections = [main];
  const nowMs = Date.now();

  const connect = () => {
    const connection = new Connection(server.app);
    connections.push(connection);
    return connection;
  };
  const ask = async (request: HttpRequest, ...expected: number[]) => jsonOf(await main.request(request), ...expected);
  const post = (path: string, headers: Record<string, string>, body: unknown): HttpRequest => ({
    method: "POST",
    path: API + path,
    headers: { ...JSON_TYPE, ...headers },
    body: JSON.stringify(body),
  });

  const statements = (await addUserSql(PERSON, nowMs)).split(";\n").filter((text) => text.trim() !== "");
  await server.db.batch(statements.map((text) => server.db.prepare(text)));
  const projectRow = await server.db.prepare("SELECT id, owner_id FROM projects WHERE is_default = 1").first();
  const { id: projectId, owner_id: userId } = z.object({ id: z.number(), owner_id: z.number() }).parse(projectRow);
  const loginRequest = post("/auth/login", {}, { email: PERSON.email, password: PERSON.password });
  const { access_token: userToken } = LoginSchema.parse(await ask(loginRequest, 200));
  const { paths } = DocumentSchema.parse(await ask({ method: "GET", path: `${API}/openapi.json` }, 200));

  const datasetId = newUuid();
  await db.insert(datasets).values({
    id: datasetId,
    projectId,
    ownerId: userId,
    name: "Bench",
    format: "imagefolder",
    visibility: "private",
    taskType: "image_classification",
    fileCount: 0,
    totalSizeBytes: 0,
    numClasses: 10,
    classNames: Array.from({ length: 10 }, (_, label) => String(label)),
    classDistribution: {},
    warnings: [],
    contentHash: "0".repeat(64),
    createdAt: nowMs,
    updatedAt: nowMs,
  });

  const created = await ask(
    post("/training/jobs", bearer(userToken), {
      project_id: projectId,
      experiment_name: "bench",
      config: {
        framework: "embedded",
        model_name: "cnn_small",
        task_type: "image_classification",
        dataset_id: datasetId,
        epochs: 1_000,
      },
    }),
    201,
  );
  const { id: templateJobId } = z.object({ id: z.number() }).parse(created);
  const copied = Object.values(getTableColumns(trainingJobs))
    .map((column) => column.name)
    .filter((name) => name !== "id")
    .join(", ");

  /** Pending jobs as the API would have made them, as many in one statement as wanted. */
  async function createJobs(count: number): Promise<number[]> {
    const { results } = await server.db
      .prepare(
        `INSERT INTO training_jobs (${copied})
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         SELECT ${copied} FROM training_jobs, n WHERE id = ? RETURNING id`,
      )
      .bind(count, templateJobId)
      .all<{ id: number }>();
    return results.map((row) => row.id);
  }

  async function createJob(): Promise<number> {
    const [jobId] = await createJobs(1);
    if (jobId === undefined) throw new Error("no job was made");
    return jobId;
  }

  let registrationToken: Promise<string> | null = null;
  const registration = () => {
    registrationToken ??= ask(post("/runners/tokens", bearer(userToken), { uses: 1_000 }), 201).then(
      (answer) => RegistrationSchema.parse(answer).registration_token,
    );
    return registrationToken;
  };

  return {
    server,
    db,
    userToken,
    userId,
    projectId,
    templateJobId,
    loginRequest,
    connect,
    createJobs,
    createJob,
    close: () => {
      for (const connection of connections) connection.close();
    },

    /** Whether the build has this route of the Training API, and a parameter of it if one is named. */
    has(method: "get" | "post", path: string, parameter?: string): boolean {
      const route = paths[API + path]?.[method];
      if (route === undefined || parameter === undefined) return route !== undefined;
      return (route.parameters ?? []).some((given) => ParameterSchema.safeParse(given).data?.name === parameter);
    },

    /** A job of one attempt with as many points, a thousand steps in each epoch, stored as its object would have done it. */
    async createPoints(count: number): Promise<number> {
      const jobId = await createJob();
      await db.insert(jobAttempts).values({ jobId, attempt: 1, owner: "plain", resumeEpoch: 0, startedAt: nowMs });
      const segmenter = createSegmenter();
      let track: PointTrack | undefined;
      const perBatch = 5_000;
      for (let from = 0; from < count; from += perBatch) {
        const rows = Array.from({ length: Math.min(perBatch, count - from) }, (_, i): StoredMetric => {
          const n = from + i;
          return {
            id: n + 1,
            attempt: 1,
            epoch: Math.floor(n / 1_000) + 1,
            step: n % 1_000,
            loss: 2.3 / (1 + n / 5_000),
            accuracy: 1 - 0.9 / (1 + n / 5_000),
            learningRate: 0.001,
            extraMetrics: { f1: 0.81, val_loss: 0.52 },
            nonFinite: null,
            createdAt: nowMs + n,
          };
        });
        const taken = segmenter.take(track, 1, rows);
        track = taken.track;
        await runBatch(server.db, statementsFor(jobId, [{ kind: "metrics", rows, segments: taken.work }]));
      }
      await db
        .update(trainingJobs)
        .set({ currentEpoch: Math.ceil(count / 1_000) })
        .where(eq(trainingJobs.id, jobId));
      return jobId;
    },

    /** A registered runner that the pool has seen. */
    async createRunner(name: string): Promise<Runner> {
      const body = { machine_id: name, name, frameworks: ["embedded"], slots: 1, protocol: 1 };
      const register = post("/internal/runners/register", bearer(await registration()), body);
      const connection = connect();
      const answer = jsonOf(await connection.request(register), 201);
      const runner = { token: RunnerSchema.parse(answer).runner_token, instanceId: name };
      expectStatus(await connection.request(claimRequest(runner, 0)), 204);
      connection.close();
      return runner;
    },

    /**
     * The way of a job into the hands of a runner: the runner waits, the user starts, the offer comes, the runner accepts.
     * With several of them at once a runner may get another one's job.
     */
    async startClaimAccept(user: Connection, machine: Connection, runner: Runner, jobId: number): Promise<Lease> {
      const start: HttpRequest = {
        method: "POST",
        path: `${API}/training/jobs/${jobId}/start`,
        headers: bearer(userToken),
      };
      const [offer, started] = await Promise.all([
        machine.request(claimRequest(runner, 20)).then(async (answer) => {
          const { job_id, fence } = OfferSchema.parse(jsonOf(answer, 200));
          const accept = post(`/internal/jobs/${job_id}/accept`, bearer(runner.token), { fence });
          const { job_token, attempt } = AcceptSchema.parse(jsonOf(await machine.request(accept), 200));
          return { jobId: job_id, attempt, token: job_token };
        }),
        user.request(start),
      ]);
      expectStatus(started, 200);
      return offer;
    },
  };
}

const claimRequest = (runner: Runner, waitS: number): HttpRequest => ({
  method: "POST",
  path: `${API}/internal/runners/claim`,
  headers: { ...JSON_TYPE, ...bearer(runner.token) },
  body: JSON.stringify({ instance_id: runner.instanceId, free_slots: 1, wait_s: waitS }),
});
