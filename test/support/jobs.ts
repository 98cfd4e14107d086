import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { asc, eq, gt, max } from "drizzle-orm";
import { vi } from "vitest";
import { jobAttempts, trainingJobs } from "../../src/db/schema/index.ts";
import { sha256Hex } from "../../src/shared/ids.ts";
import { type Answer, accept, call, claim, db, type Json, type Lease, type Person, type TestRunner } from "./api.ts";

/** Helpers of the tests of jobs and runners. Only `Date` is faked: deadlines pass when a test says so, and alarms ring when it runs them. */

let newestQuietJob = 0;

/**
 * Nobody waits for work, no job waits for a runner, and no alarm of an earlier test's job rings into this one. Storage
 * stays, so that ids are never used twice.
 */
export async function quietWorld(): Promise<void> {
  const [newest] = await db.select({ id: max(trainingJobs.id) }).from(trainingJobs);
  // Another file of the same run: its ids begin at 1 again.
  if ((newest?.id ?? 0) < newestQuietJob) newestQuietJob = 0;
  const jobs = await db.select({ id: trainingJobs.id }).from(trainingJobs).where(gt(trainingJobs.id, newestQuietJob));
  for (const { id } of jobs) {
    await runInDurableObject(jobObject(id), (_, state) => state.storage.deleteAlarm());
    newestQuietJob = Math.max(newestQuietJob, id);
  }
  await runInDurableObject(poolObject(), (_, state) => {
    state.storage.sql.exec("DELETE FROM queue");
    state.storage.sql.exec("DELETE FROM live");
    state.storage.sql.exec("DELETE FROM running");
    state.storage.sql.exec("DELETE FROM limits");
  });
  await evictDurableObject(poolObject());
}

export const clock = {
  stop: () => vi.useFakeTimers({ toFake: ["Date"] }),
  advanceS: (seconds: number) => vi.setSystemTime(Date.now() + seconds * 1000),
  start: () => vi.useRealTimers(),
};

export const jobObject = (jobId: number) => env.TRAINING_JOB.getByName(String(jobId));
export const poolObject = () => env.RUNNER_POOL.getByName("default");
export const ring = (jobId: number) => runDurableObjectAlarm(jobObject(jobId));

/** What `TextEncoder` and slices make, for crypto and bodies alike. */
type Bytes = Uint8Array<ArrayBuffer>;

export const textBytes = (text: string): Bytes => new Uint8Array(new TextEncoder().encode(text));

export const start = (owner: Person, jobId: number, query = "") =>
  call("POST", `/api/v1/training/jobs/${jobId}/start${query}`, { token: owner.token });
export const stop = (owner: Person, jobId: number) =>
  call("POST", `/api/v1/training/stop/${jobId}`, { token: owner.token });
export const detail = async (owner: Person, jobId: number) =>
  (await call("GET", `/api/v1/training/jobs/${jobId}`, { token: owner.token })).body;
export const metricsOf = async (owner: Person, jobId: number) =>
  (await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/metrics?limit=10000`, { token: owner.token })).body;
export const logsOf = async (owner: Person, jobId: number) =>
  (await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/logs?limit=5000`, { token: owner.token })).body.map(
    (line) => line.message,
  );
export const attemptsOf = (jobId: number) =>
  db.select().from(jobAttempts).where(eq(jobAttempts.jobId, jobId)).orderBy(asc(jobAttempts.attempt));

/** Takes the job that waits for this runner. */
export async function take(by: TestRunner, waitS = 5): Promise<Lease> {
  const offer = await claim(by, waitS);
  if (offer.status !== 200) throw new Error(`no offer: ${offer.status} ${JSON.stringify(offer.body)}`);
  return accept(by, offer.body.job_id, offer.body.fence);
}

export const heartbeat = (lease: Lease, body: Json = {}) =>
  call("POST", `/api/v1/internal/jobs/${lease.jobId}/heartbeat`, { token: lease.token, body });

export const logChunk = (lease: Lease, seq: number, text: string | Bytes, stream = "stdout") =>
  call("PUT", `/api/v1/internal/jobs/${lease.jobId}/logs/${stream}/${seq}`, { token: lease.token, body: text });

const artifacts = (lease: Lease) => `/api/v1/internal/jobs/${lease.jobId}/artifacts`;

export const createArtifact = async (lease: Lease, bytes: Bytes, part: Json = {}) =>
  call<Json & { artifact_id: string; parts: number; part_size: number }>("POST", artifacts(lease), {
    token: lease.token,
    body: {
      kind: "checkpoint",
      name: "last.state",
      size: bytes.byteLength,
      sha256: await sha256Hex(bytes),
      ...part,
    },
  });

export const putPart = (
  lease: Lease,
  artifactId: string,
  n: number | string,
  bytes: Bytes,
  headers: Record<string, string> = {},
): Promise<Answer> =>
  call("PUT", `${artifacts(lease)}/${artifactId}/parts/${n}`, {
    token: lease.token,
    body: bytes,
    headers: { "content-length": String(bytes.byteLength), ...headers },
  });

export const artifact = (lease: Lease, artifactId: string, action: "state" | "complete" | "abort" | "content") =>
  call(
    action === "complete" ? "POST" : action === "abort" ? "DELETE" : "GET",
    `${artifacts(lease)}/${artifactId}${action === "complete" || action === "content" ? `/${action}` : ""}`,
    { token: lease.token },
  );

/** A complete checkpoint of an epoch. */
export async function checkpoint(lease: Lease, epoch: number): Promise<string> {
  const bytes = textBytes(`weights of epoch ${epoch}`);
  const created = await createArtifact(lease, bytes, { epoch, role: "last" });
  const { artifact_id } = created.body;
  await putPart(lease, artifact_id, 1, bytes);
  const completed = await artifact(lease, artifact_id, "complete");
  if (completed.status !== 200) throw new Error(`not complete: ${JSON.stringify(completed.body)}`);
  return artifact_id;
}

export const epochEvent = (seq: number, epoch = seq, data: Json = {}) => ({
  seq,
  event: "epoch_complete",
  data: { epoch, loss: 1 / epoch, ...data },
});
export const endEvent = (seq: number, event = "completed", data: Json = {}) => ({ seq, event, data });
