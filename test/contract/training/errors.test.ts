import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { createApp } from "../../../src/app.ts";
import { type Answer, call, type Json, job, join, type Person, person, plainEvent } from "../../support/api.ts";
import errorExample from "./examples/error.response.json" with { type: "json" };

/** Every row of the contract's two error tables, provoked. */

const JOBS = "/api/v1/training/jobs";
const UNKNOWN = 2 ** 40;
let owner: Person;
let viewer: Person;
let jobId = 0;

beforeAll(async () => {
  owner = await person();
  viewer = await person();
  await join(owner.projectId, viewer.id, "viewer");
  jobId = await job(owner);
});

const jobWith = (changes: Json): Json => ({
  project_id: owner.projectId,
  config: {
    framework: "embedded",
    model_name: "cnn_small",
    task_type: "image_classification",
    dataset_id: "8ab5c6e4-0f92-4fff-8f4e-441c08d94cef",
    ...changes,
  },
});

/** Status, code and field, once the body is known to have the contract's keys and no others. */
function facts({ status, body }: Answer): unknown[] {
  if (String(Object.keys(body).sort()) !== String(Object.keys(errorExample).sort())) return [status, body];
  return [status, body.code, body.field];
}

const by = (who: Person, method: string, path: string, body?: unknown) =>
  call(method, path, { token: who.token, body });

describe("error codes", () => {
  it("VALIDATION_ERROR is 422 and names the field", async ({ expect }) => {
    const answer = await by(owner, "POST", JOBS, jobWith({ epochs: 0 }));
    expect(facts(answer)).toEqual([422, "VALIDATION_ERROR", "config.epochs"]);
    expect(typeof answer.body.detail).toBe("string");
  });

  it("DATASET_NOT_FOUND is 404", async ({ expect }) => {
    const detail = await by(owner, "GET", "/api/v1/datasets/8ab5c6e4-0f92-4fff-8f4e-000000000000");
    expect(facts(detail)).toEqual([404, "DATASET_NOT_FOUND", null]);
    expect(facts(await by(owner, "POST", JOBS, jobWith({})))).toEqual([404, "DATASET_NOT_FOUND", "config.dataset_id"]);
  });

  it("JOB_NOT_FOUND is 404 on every route of a job", async ({ expect }) => {
    for (const [method, path] of [
      ["GET", `${JOBS}/${UNKNOWN}`],
      ["GET", `${JOBS}/${UNKNOWN}/metrics`],
      ["GET", `${JOBS}/${UNKNOWN}/logs`],
      ["POST", `${JOBS}/${UNKNOWN}/start`],
      ["POST", `/api/v1/training/stop/${UNKNOWN}`],
      ["GET", `/api/v1/validation/results/${UNKNOWN}`],
    ] as const) {
      expect(facts(await by(owner, method, path)), path).toEqual([404, "JOB_NOT_FOUND", null]);
    }
    expect(facts(await plainEvent(UNKNOWN, "epoch_complete", { epoch: 1 }))).toEqual([404, "JOB_NOT_FOUND", null]);
  });

  it("INVALID_STATUS is 409", async ({ expect }) => {
    const done = await job(owner);
    await plainEvent(done, "epoch_complete", { epoch: 1 });
    await plainEvent(done, "completed", {});
    expect(facts(await by(owner, "POST", `${JOBS}/${done}/start`))).toEqual([409, "INVALID_STATUS", null]);
    expect(facts(await by(owner, "POST", `/api/v1/training/stop/${done}`))).toEqual([409, "INVALID_STATUS", null]);
  });

  it("TRAINING_SERVICE_UNAVAILABLE is 503 while no runner lives", async ({ expect }) => {
    const other = await job(owner, { config: { framework: "ultralytics", model_name: "yolo11n-cls" } });
    const answer = await by(owner, "POST", `${JOBS}/${other}/start`);
    expect(facts(answer)).toEqual([503, "TRAINING_SERVICE_UNAVAILABLE", null]);
  });

  it("CHECKPOINT_NOT_FOUND is 404 for whatever is no checkpoint of the job", async ({ expect }) => {
    for (const path of [
      "/app/data/outputs/job_5/checkpoints/epoch_10.pth",
      "../../etc/passwd",
      "..%2f..%2fetc%2fpasswd",
      "file:///etc/passwd",
      "s3://bucket/best.pt",
      "http://169.254.169.254/latest",
      "jobs/1/1/8ab5c6e4-0f92-4fff-8f4e-441c08d94cef",
      `jobs/${jobId}/1/8ab5c6e4-0f92-4fff-8f4e-441c08d94cef`,
      `jobs/${jobId}/1/../1/8ab5c6e4-0f92-4fff-8f4e-441c08d94cef`,
    ]) {
      const answer = await by(owner, "POST", `${JOBS}/${jobId}/start?checkpoint_path=${encodeURIComponent(path)}`);
      expect(facts(answer), path).toEqual([404, "CHECKPOINT_NOT_FOUND", "checkpoint_path"]);
    }
    expect(facts(await by(owner, "POST", `${JOBS}/${jobId}/start?resume=true`))).toEqual([
      404,
      "CHECKPOINT_NOT_FOUND",
      "resume",
    ]);
    const form = new FormData();
    form.append("training_job_id", String(jobId));
    form.append("file", new Blob([Uint8Array.of(0x89, 0x50)]), "a.png");
    expect((await by(owner, "POST", "/api/v1/test-inference", form)).status).toBe(422);
  });
});

describe("statuses", () => {
  it("200 and 201 for what works", async ({ expect }) => {
    expect((await by(owner, "GET", `${JOBS}/${jobId}`)).status).toBe(200);
    const created = await by(owner, "POST", "/api/v1/projects", { name: "My Project" });
    expect(created.status).toBe(201);
  });

  it("400 for a request that cannot be read", async ({ expect }) => {
    const answer = await call("POST", JOBS, {
      token: owner.token,
      body: "{",
      headers: { "content-type": "application/json" },
    });
    expect(facts(answer)).toEqual([400, "BAD_REQUEST", null]);
  });

  it("401 without a token, and with wrong credentials", async ({ expect }) => {
    expect(facts(await call("GET", `${JOBS}/${jobId}`))).toEqual([401, "UNAUTHORIZED", null]);
    const login = await call("POST", "/api/v1/auth/login", {
      body: { email: "x@example.com", password: "password123" },
    });
    expect(facts(login)).toEqual([401, "INVALID_CREDENTIALS", null]);
    const callback = await call("POST", "/api/v1/internal/training/callback", {
      body: { job_id: jobId, event: "started", data: {} },
    });
    expect(facts(callback)).toEqual([401, "UNAUTHORIZED", null]);
  });

  it("403 for a member without the right, and for a wrong callback secret", async ({ expect }) => {
    expect(facts(await by(viewer, "POST", `/api/v1/training/stop/${jobId}`))).toEqual([403, "FORBIDDEN", null]);
    const secret = env.INTERNAL_SECRET;
    for (const wrong of ["wrong", secret.slice(0, -1), `${secret}x`, `${secret}, ${secret}`, secret.toUpperCase()]) {
      const answer = await call("POST", "/api/v1/internal/training/callback", {
        headers: { "x-internal-auth": wrong },
        body: { job_id: jobId, event: "started", data: {} },
      });
      expect(facts(answer)).toEqual([403, "FORBIDDEN", null]);
    }
  });

  it("404 for what does not exist and for what is someone else's, with one body", async ({ expect }) => {
    const stranger = await person();
    const [foreign, unknown] = [
      await by(stranger, "GET", `${JOBS}/${jobId}`),
      await by(stranger, "GET", `${JOBS}/${UNKNOWN}`),
    ];
    expect(facts(foreign)).toEqual([404, "JOB_NOT_FOUND", null]);
    expect(foreign.body).toEqual(unknown.body);
  });

  it("500 for what fails inside", async ({ expect }) => {
    const fail = () => {
      throw new Error("no database");
    };
    const response = await createApp().fetch(
      new Request(`http://localhost:8000${JOBS}/${jobId}`, { headers: { authorization: `Bearer ${owner.token}` } }),
      // A database that fails at every call.
      { ...env, DB: { prepare: fail, batch: fail } as unknown as D1Database },
      createExecutionContext(),
    );
    expect([response.status, await response.json()]).toEqual([
      500,
      { detail: "Internal server error", code: "INTERNAL_ERROR", field: null },
    ]);
  });
});
