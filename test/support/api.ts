import { env, exports } from "cloudflare:workers";
import { signAccessToken } from "../../src/auth/tokens.ts";
import { createDb } from "../../src/db/client.ts";
import {
  datasetFiles,
  datasets,
  projectMembers,
  projects,
  registrationTokens,
  users,
} from "../../src/db/schema/index.ts";
import { newToken, newUuid, randomHex, sha256Hex } from "../../src/shared/ids.ts";
import { undeclared } from "./declared.ts";

/** Helpers of the tests that call the Worker. Every test makes its own people and things, under random names. */

export const db = createDb(env.DB);
const ORIGIN = "http://localhost:8000";

export type Json = Record<string, unknown>;
export type Answer<T = Json> = { status: number; body: T; headers: Headers };

/**
 * Calls the Worker; an object as `body` is sent as JSON. The answer's body is parsed when it is JSON, and compared with what
 * the route declares.
 * @throws Error for an answer that the OpenAPI document does not have
 */
export async function call<T = Json>(
  method: string,
  path: string,
  options: { token?: string; body?: unknown; headers?: Record<string, string> } = {},
): Promise<Answer<T>> {
  const headers = new Headers(options.headers);
  if (options.token !== undefined) headers.set("authorization", `Bearer ${options.token}`);
  const raw =
    options.body === undefined ||
    typeof options.body === "string" ||
    options.body instanceof Uint8Array ||
    options.body instanceof FormData;
  if (!raw) headers.set("content-type", "application/json");
  const response = await exports.default.fetch(ORIGIN + path, {
    method,
    headers,
    body: raw ? (options.body as BodyInit | undefined) : JSON.stringify(options.body),
  });
  const text = await response.text();
  const isJson = text !== "" && response.headers.get("content-type")?.includes("json");
  const answer = { status: response.status, body: (isJson ? JSON.parse(text) : text) as T, headers: response.headers };
  const contentType = response.headers.get("content-type");
  const problem = undeclared(method, path.replace(/[?#].*$/s, ""), { ...answer, contentType });
  if (problem !== null) throw new Error(problem);
  return answer;
}

export type Person = { id: number; email: string; token: string; projectId: number };

/** A user with a default project and an access token. */
export async function person(options: { admin?: boolean } = {}): Promise<Person> {
  const at = Date.now();
  const email = `${randomHex(8)}@example.com`;
  const [user] = await db
    .insert(users)
    .values({ email, fullName: "Test Person", passwordHash: "none", isAdmin: options.admin ?? false, createdAt: at })
    .returning();
  if (!user) throw new Error("no user");
  const [project] = await db
    .insert(projects)
    .values({ ownerId: user.id, name: "Uncategorized", isDefault: true, createdAt: at, updatedAt: at })
    .returning();
  if (!project) throw new Error("no project");
  await db.insert(projectMembers).values({ projectId: project.id, userId: user.id, role: "owner", createdAt: at });
  const token = await signAccessToken(env.JWT_SECRET, { userId: user.id, tokenVersion: user.tokenVersion }, at);
  return { id: user.id, email, token, projectId: project.id };
}

/** Makes somebody a member of a project. */
export async function join(projectId: number, userId: number, role: "editor" | "viewer"): Promise<void> {
  await db.insert(projectMembers).values({ projectId, userId, role, createdAt: Date.now() });
}

/** A small stored dataset of two classes, as an upload would leave it. */
export async function dataset(
  owner: Person,
  options: { projectId?: number; visibility?: "private" | "public"; id?: string } = {},
): Promise<string> {
  const id = options.id ?? newUuid();
  const at = Date.now();
  const files = ["train/cat/1.png", "train/dog/1.png", "val/cat/2.png", "val/dog/2.png"];
  await db.insert(datasets).values({
    id,
    projectId: options.projectId ?? owner.projectId,
    ownerId: owner.id,
    name: "Pets",
    format: "imagefolder",
    layout: "split",
    visibility: options.visibility ?? "private",
    taskType: "image_classification",
    fileCount: files.length,
    totalSizeBytes: 4 * files.length,
    numClasses: 2,
    classNames: ["cat", "dog"],
    classDistribution: { cat: 2, dog: 2 },
    warnings: [],
    contentHash: await sha256Hex(id),
    createdAt: at,
    updatedAt: at,
  });
  for (const [i, path] of files.entries()) {
    const bytes = new TextEncoder().encode(`f${i}.x`);
    const storageKey = `datasets/${id}/${i + 1}`;
    await env.BUCKET.put(storageKey, bytes);
    await db.insert(datasetFiles).values({
      datasetId: id,
      fileId: i + 1,
      path,
      sizeBytes: bytes.byteLength,
      sha256: await sha256Hex(Uint8Array.from(bytes)),
      storageKey,
    });
  }
  return id;
}

/** A job in the owner's default project, pending. */
export async function job(
  owner: Person,
  options: { config?: Json; projectId?: number; input?: Json } = {},
): Promise<number> {
  const datasetId = await dataset(owner, { projectId: options.projectId });
  const created = await call<{ id: number }>("POST", "/api/v1/training/jobs", {
    token: owner.token,
    body: {
      project_id: options.projectId ?? owner.projectId,
      experiment_name: "test",
      ...options.input,
      config: {
        framework: "embedded",
        model_name: "cnn_small",
        task_type: "image_classification",
        dataset_id: datasetId,
        epochs: 3,
        ...options.config,
      },
    },
  });
  if (created.status !== 201) throw new Error(`job not created: ${JSON.stringify(created.body)}`);
  return created.body.id;
}

export type TestRunner = { id: string; token: string; instanceId: string };

/** A registered runner. */
export async function runner(
  options: { frameworks?: string[]; machineId?: string; description?: Json } = {},
): Promise<TestRunner> {
  const token = newToken("cvreg");
  await db.insert(registrationTokens).values({
    tokenHash: await sha256Hex(token),
    pool: "default",
    usesLeft: 1,
    expiresAt: Date.now() + 60_000,
    createdAt: Date.now(),
  });
  const machineId = options.machineId ?? randomHex(8);
  const answer = await call<{ runner_id: string; runner_token: string }>("POST", "/api/v1/internal/runners/register", {
    token,
    body: {
      machine_id: machineId,
      name: machineId,
      frameworks: options.frameworks ?? ["embedded"],
      slots: 1,
      protocol: 1,
      ...options.description,
    },
  });
  if (answer.status !== 201) throw new Error(`runner not registered: ${JSON.stringify(answer.body)}`);
  return { id: answer.body.runner_id, token: answer.body.runner_token, instanceId: randomHex(8) };
}

export const claim = (by: TestRunner, waitS = 0) =>
  call<{ job_id: number; fence: number; offer_s: number }>("POST", "/api/v1/internal/runners/claim", {
    token: by.token,
    body: { instance_id: by.instanceId, free_slots: 1, wait_s: waitS },
  });

export type Lease = { jobId: number; token: string; attempt: number; fence: number; resume: Json | null };

export async function accept(by: TestRunner, jobId: number, fence: number): Promise<Lease> {
  const answer = await call<{ job_token: string; attempt: number; resume: Json | null }>(
    "POST",
    `/api/v1/internal/jobs/${jobId}/accept`,
    { token: by.token, body: { fence } },
  );
  if (answer.status !== 200) throw new Error(`not accepted: ${JSON.stringify(answer.body)}`);
  return { jobId, token: answer.body.job_token, attempt: answer.body.attempt, fence, resume: answer.body.resume };
}

/** Starts a job with a runner of its own framework-compatible pool and takes it: the job is running. */
export async function runningJob(
  owner: Person,
  by?: TestRunner,
): Promise<{ jobId: number; lease: Lease; runner: TestRunner }> {
  const worker = by ?? (await runner());
  const jobId = await job(owner);
  await claim(worker);
  const started = call("POST", `/api/v1/training/jobs/${jobId}/start`, { token: owner.token });
  const offer = await claim(worker, 5);
  const lease = await accept(worker, offer.body.job_id, offer.body.fence);
  await started;
  return { jobId, lease, runner: worker };
}

export const events = (lease: Lease, list: Json[]) =>
  call("POST", "/api/v1/internal/training/callback", {
    token: lease.token,
    body: { job_id: lease.jobId, events: list },
  });

export const plainEvent = (jobId: number, event: string, data: Json) =>
  call("POST", "/api/v1/internal/training/callback", {
    headers: { "x-internal-auth": env.INTERNAL_SECRET },
    body: { job_id: jobId, event, data },
  });
