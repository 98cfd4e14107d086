import { runInDurableObject } from "cloudflare:test";
import { afterEach, beforeEach, describe, it } from "vitest";
import { call, claim, events, type Json, job, join, type Person, person, runner } from "../support/api.ts";
import {
  clock,
  detail,
  endEvent,
  heartbeat,
  jobObject,
  poolObject,
  quietWorld,
  ring,
  start,
  stop,
  take,
} from "../support/jobs.ts";

beforeEach(quietWorld);
afterEach(() => clock.start());

const JOBS = "/api/v1/training/jobs";
const patch = (by: Person, jobId: number, body: Json) => call("PATCH", `${JOBS}/${jobId}`, { token: by.token, body });
const limit = (by: Person, projectId: number, max: number | null, more: Json = {}) =>
  call("PATCH", `/api/v1/projects/${projectId}`, { token: by.token, body: { max_running_jobs: max, ...more } });
const outcome = async (answer: Promise<{ status: number; body: Json }>) => {
  const { status, body } = await answer;
  return [status, body.code, body.field];
};

const DEFAULTS = {
  priority: 0,
  required_labels: {},
  min_gpu_memory_mb: 0,
  lost_after_s: null,
  max_duration_s: null,
};
const OWN = {
  priority: 7,
  required_labels: { zone: "서울" },
  min_gpu_memory_mb: 16_000,
  lost_after_s: 600,
  max_duration_s: 7_200,
};

describe("the scheduling of a job", () => {
  it("has defaults, is shown, is cloned, and can be changed one by one", async ({ expect }) => {
    const owner = await person();
    expect(await detail(owner, await job(owner))).toMatchObject(DEFAULTS);
    const jobId = await job(owner, { input: OWN });
    expect(await detail(owner, jobId)).toMatchObject(OWN);
    const clone = (body: Json) => call("POST", `${JOBS}/${jobId}/clone`, { token: owner.token, body });
    expect((await clone({})).body).toMatchObject(OWN);
    expect((await clone({ priority: -3, lost_after_s: null })).body).toMatchObject({
      ...OWN,
      priority: -3,
      lost_after_s: null,
    });
    const changed = await patch(owner, jobId, { required_labels: {}, max_duration_s: null });
    expect([changed.status, changed.body]).toEqual([
      200,
      expect.objectContaining({ ...OWN, required_labels: {}, max_duration_s: null }),
    ]);
    expect(await detail(owner, jobId)).toMatchObject({ ...OWN, required_labels: {}, max_duration_s: null });
  });

  it.for<[Json, string]>([
    [{ priority: 101 }, "priority"],
    [{ priority: -101 }, "priority"],
    [{ priority: 0.5 }, "priority"],
    [{ required_labels: { "": "x" } }, "required_labels."],
    [{ required_labels: { zone: 5 } }, "required_labels.zone"],
    [{ required_labels: Object.fromEntries(Array.from({ length: 21 }, (_, i) => [`l${i}`, ""])) }, "required_labels"],
    [{ min_gpu_memory_mb: -1 }, "min_gpu_memory_mb"],
    [{ lost_after_s: 59 }, "lost_after_s"],
    [{ lost_after_s: 3_601 }, "lost_after_s"],
    [{ max_duration_s: 59 }, "max_duration_s"],
  ])("is refused as %j", async ([input, field], { expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    expect(await outcome(patch(owner, jobId, input))).toEqual([422, "VALIDATION_ERROR", field]);
  });

  it("may be urgent up to 10, and above for admins only, who do not hand it on", async ({ expect }) => {
    const [owner, viewer] = [await person(), await person()];
    const admin = await person({ admin: true });
    const jobId = await job(owner, { input: { priority: 10 } });
    await join(owner.projectId, viewer.id, "viewer");
    await join(owner.projectId, admin.id, "editor");
    expect(await outcome(patch(owner, jobId, { priority: 11 }))).toEqual([403, "FORBIDDEN", "priority"]);
    expect(await outcome(patch(viewer, jobId, { priority: 1 }))).toEqual([403, "FORBIDDEN", null]);
    expect((await patch(admin, jobId, { priority: 100 })).body).toMatchObject({ priority: 100 });
    // What is there already may be sent back with something else.
    expect((await patch(owner, jobId, { priority: 100, tags: ["x"] })).status).toBe(200);
    const clone = (by: Person) => call("POST", `${JOBS}/${jobId}/clone`, { token: by.token, body: {} });
    expect((await clone(owner)).body).toMatchObject({ priority: 10 });
    expect((await clone(admin)).body).toMatchObject({ priority: 100 });
    const source = await detail(owner, jobId);
    const create = call("POST", JOBS, {
      token: owner.token,
      body: {
        priority: 11,
        config: {
          framework: "embedded",
          model_name: "cnn_small",
          task_type: "image_classification",
          dataset_id: source.dataset_id,
        },
      },
    });
    expect(await outcome(create)).toEqual([403, "FORBIDDEN", "priority"]);
  });

  it("chooses the runner: labels and the memory of a GPU", async ({ expect }) => {
    const owner = await person();
    const plain = await runner();
    const large = await runner({ description: { labels: { zone: "a" }, gpus: [{ model: "H100", vram_mb: 80_000 }] } });
    await claim(plain);
    const picky = await job(owner, { input: { required_labels: { zone: "a" }, min_gpu_memory_mb: 40_000 } });
    expect((await start(owner, picky)).body.status).toBe("queued");
    expect((await detail(owner, picky)).queue).toMatchObject({ reason: "no_runner_has_labels", live: 1, capable: 0 });
    expect((await claim(plain, 0)).status).toBe(204);
    const offer = await claim(large, 5);
    expect(offer.body.job_id).toBe(picky);
    const hungry = await job(owner, { input: { min_gpu_memory_mb: 90_000 } });
    await start(owner, hungry);
    expect((await detail(owner, hungry)).queue).toMatchObject({ reason: "no_runner_has_gpu_memory", live: 2 });
  });

  it("can be changed in the queue: a runner that waits gets the job at once, order changes", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const gpu = await runner();
    await claim(gpu);
    const [first, second] = [await job(owner), await job(owner)];
    const picky = await job(owner, { input: { required_labels: { zone: "b" } } });
    await start(owner, first);
    clock.advanceS(1);
    await start(owner, second);
    expect((await detail(owner, second)).queue).toMatchObject({ position: 2 });
    await patch(owner, second, { priority: 1 });
    expect((await detail(owner, second)).queue).toMatchObject({ position: 1, reason: "runners_busy" });
    expect((await claim(gpu, 0)).body.job_id).toBe(second);
    expect((await claim(gpu, 0)).body.job_id).toBe(first);
    await start(owner, picky);
    const waiting = claim(gpu, 5);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await patch(owner, picky, { required_labels: {} });
    expect((await waiting).body.job_id).toBe(picky);
  });

  it("stays as it is while a runner has the job, the name does not", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    await claim(gpu);
    const jobId = await job(owner);
    const started = start(owner, jobId);
    const lease = await take(gpu);
    await started;
    expect(await outcome(patch(owner, jobId, { priority: 5 }))).toEqual([409, "INVALID_STATUS", null]);
    expect((await patch(owner, jobId, { experiment_name: "other" })).status).toBe(200);
    expect(await detail(owner, jobId)).toMatchObject({ priority: 0, experiment_name: "other" });
    await stop(owner, jobId);
    expect(await outcome(patch(owner, jobId, { priority: 5 }))).toEqual([409, "INVALID_STATUS", null]);
    await events(lease, [endEvent(1, "stopped")]);
    expect((await patch(owner, jobId, { priority: 5 })).body).toMatchObject({ priority: 5, status: "stopped" });
  });

  it("carries timers of its own, which the runner hears", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const [one, other] = [await runner(), await runner()];
    await claim(one);
    const patient = await job(owner, { input: { lost_after_s: 3_600 } });
    const short = await job(owner, { input: { max_duration_s: 120 } });
    void start(owner, patient);
    const offer = await claim(one, 5);
    const accepted = await call<{ timers: Json }>("POST", `/api/v1/internal/jobs/${patient}/accept`, {
      token: one.token,
      body: { fence: offer.body.fence },
    });
    expect(accepted.body.timers).toMatchObject({ lost_after_s: 3_600, max_duration_s: 86_400, lease_s: 60 });
    await claim(other);
    void start(owner, short);
    const lease = await take(other);
    clock.advanceS(121);
    await heartbeat(lease);
    await ring(short);
    expect(await detail(owner, short)).toMatchObject({ status: "failed", reason: "max_duration" });
    clock.advanceS(3_400);
    await ring(patient);
    expect(await detail(owner, patient)).toMatchObject({ status: "running", phase: "suspect" });
    clock.advanceS(300);
    await ring(patient);
    expect(await detail(owner, patient)).toMatchObject({ status: "queued", reason: "runner_lost" });
  });
});

describe("the limit of a project", () => {
  it("holds its jobs in the queue, nobody else's, and lets the next go when one ends", async ({ expect }) => {
    const [owner, other] = [await person(), await person()];
    const [a, b, c] = [await runner(), await runner(), await runner()];
    for (const gpu of [a, b, c]) await claim(gpu);
    expect((await limit(owner, owner.projectId, 1)).body).toMatchObject({ max_running_jobs: 1, user_role: "owner" });
    const [first, second, foreign] = [await job(owner), await job(owner), await job(other)];
    void start(owner, first);
    const lease = await take(a);
    expect(lease.jobId).toBe(first);
    const waiting = claim(b, 20);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect((await start(owner, second)).body.status).toBe("queued");
    expect((await detail(owner, second)).queue).toMatchObject({ reason: "project_limit", capable: 3, position: 1 });
    await claim(c);
    void start(other, foreign);
    // The runner that waits gets what may run.
    const offer = await waiting;
    expect(offer.body.job_id).toBe(foreign);
    const next = claim(c, 20);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await events(lease, [endEvent(1)]);
    expect((await next).body.job_id).toBe(second);
  });

  it("counts a runner that was told to stop until it has left", async ({ expect }) => {
    const owner = await person();
    const [a, b] = [await runner(), await runner()];
    for (const gpu of [a, b]) await claim(gpu);
    await limit(owner, owner.projectId, 1);
    const [first, second] = [await job(owner), await job(owner)];
    void start(owner, first);
    const lease = await take(a);
    await stop(owner, first);
    await start(owner, second);
    expect((await claim(b, 0)).status).toBe(204);
    await events(lease, [endEvent(1, "stopped")]);
    expect((await claim(b, 5)).body.job_id).toBe(second);
  });

  it("can be raised, taken away, and be none at all; the queue hears it at once", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    await claim(gpu);
    await limit(owner, owner.projectId, 0);
    const jobId = await job(owner);
    await start(owner, jobId);
    expect((await detail(owner, jobId)).queue).toMatchObject({ reason: "project_limit" });
    const waiting = claim(gpu, 20);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await limit(owner, owner.projectId, null);
    expect((await waiting).body.job_id).toBe(jobId);
    const shown = await call("GET", `/api/v1/projects/${owner.projectId}`, { token: owner.token });
    expect(shown.body).toMatchObject({ max_running_jobs: null });
  });

  it("is learned by the pool from a start too, if it was not told", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    await claim(gpu);
    await limit(owner, owner.projectId, 0);
    await runInDurableObject(poolObject(), (_, state) => {
      state.storage.sql.exec("DELETE FROM limits");
    });
    const jobId = await job(owner);
    await start(owner, jobId);
    expect((await claim(gpu, 0)).status).toBe(204);
    expect((await detail(owner, jobId)).queue).toMatchObject({ reason: "project_limit" });
  });

  it("does not wait for ever for a job whose end the pool never heard of", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const [a, b] = [await runner(), await runner()];
    await claim(a);
    await limit(owner, owner.projectId, 1);
    const [first, second] = [await job(owner), await job(owner)];
    void start(owner, first);
    await take(a);
    // The object is gone together with its call to the pool.
    await runInDurableObject(jobObject(first), (_, state) => state.storage.deleteAll());
    await claim(b);
    await start(owner, second);
    expect((await claim(b, 0)).status).toBe(204);
    clock.advanceS(60 + 300 + 60 + 1);
    expect((await claim(b, 0)).body.job_id).toBe(second);
  });

  it("is set by the owner, and by an admin who may nothing else there", async ({ expect }) => {
    const [owner, editor, stranger] = [await person(), await person(), await person()];
    const admin = await person({ admin: true });
    const id = owner.projectId;
    await join(id, editor.id, "editor");
    expect((await limit(admin, id, 3)).body).toMatchObject({ max_running_jobs: 3, user_role: null });
    expect(await outcome(limit(admin, id, 4, { name: "mine" }))).toEqual([404, "PROJECT_NOT_FOUND", null]);
    expect(await outcome(limit(editor, id, 4))).toEqual([403, "FORBIDDEN", null]);
    expect(await outcome(limit(stranger, id, 4))).toEqual([404, "PROJECT_NOT_FOUND", null]);
    expect(await outcome(limit(owner, id, -1))).toEqual([422, "VALIDATION_ERROR", "max_running_jobs"]);
    expect(await outcome(limit(admin, 999_999, 1))).toEqual([404, "PROJECT_NOT_FOUND", null]);
    const renamed = await call("PATCH", `/api/v1/projects/${id}`, { token: owner.token, body: { name: "New" } });
    expect(renamed.body).toMatchObject({ name: "New", max_running_jobs: 3 });
  });
});

describe("machines, to an admin", () => {
  it("are shown with what jobs can ask of them", async ({ expect }) => {
    const admin = await person({ admin: true });
    const description = {
      labels: { zone: "a" },
      gpus: [{ model: "H100", vram_mb: 80_000 }],
      version: "1.2.3",
      os: "linux",
      slots: 2,
    };
    const gpu = await runner({ description });
    await claim(gpu);
    const { body } = await call<{ runners: Json[] }>("GET", "/api/v1/runners?limit=500", { token: admin.token });
    expect(body.runners.find(({ id }) => id === gpu.id)).toMatchObject({ ...description, live: true, busy: false });
  });
});
