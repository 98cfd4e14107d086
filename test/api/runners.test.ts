import { createScheduledController, runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { afterEach, beforeEach, describe, it } from "vitest";
import { registrationTokens, runners, trainingJobs } from "../../src/db/schema/index.ts";
import worker from "../../src/index.ts";
import { newToken, newUuid, sha256Hex } from "../../src/shared/ids.ts";
import type { JobSpec } from "../../src/training/jobs/spec.ts";
import {
  call,
  claim,
  db,
  events,
  type Json,
  job,
  person,
  runner,
  runningJob,
  type TestRunner,
} from "../support/api.ts";
import {
  attemptsOf,
  clock,
  detail,
  endEvent,
  heartbeat,
  jobObject,
  logChunk,
  poolObject,
  quietWorld,
  ring,
  start,
  stop,
  take,
} from "../support/jobs.ts";

beforeEach(quietWorld);
afterEach(() => clock.start());

const register = (token: string, machineId: string, part: Json = {}) =>
  call<Json & { runner_id: string; runner_token: string }>("POST", "/api/v1/internal/runners/register", {
    token,
    body: { machine_id: machineId, name: machineId, frameworks: ["embedded"], slots: 1, protocol: 1, ...part },
  });

const claimAs = (token: string, instanceId: string, waitS = 0) =>
  call("POST", "/api/v1/internal/runners/claim", {
    token,
    body: { instance_id: instanceId, free_slots: 1, wait_s: waitS },
  });

describe("registration", () => {
  it("needs a token that an admin made, with as many uses as it has", async ({ expect }) => {
    const admin = await person({ admin: true });
    const someone = await person();
    const body = { pool: "default", uses: 2, ttl_s: 60 };
    expect((await call("POST", "/api/v1/runners/tokens", { body })).status).toBe(401);
    expect((await call("POST", "/api/v1/runners/tokens", { token: someone.token, body })).status).toBe(403);
    const made = await call<{ registration_token: string }>("POST", "/api/v1/runners/tokens", {
      token: admin.token,
      body,
    });
    expect([made.status, made.body]).toEqual([
      201,
      {
        registration_token: expect.stringMatching(/^cvreg_/),
        pool: "default",
        uses: 2,
        expires_at: expect.any(String),
      },
    ]);
    const { registration_token: token } = made.body;
    const statuses = [];
    for (const machine of ["m-1", "m-2", "m-3"]) statuses.push((await register(token, machine)).status);
    expect(statuses).toEqual([201, 201, 401]);
    expect(await db.query.runners.findMany({ where: eq(runners.machineId, "m-3") })).toEqual([]);
    expect(JSON.stringify(await db.select().from(registrationTokens))).not.toContain(token);
    const row = await db.query.auditLog.findFirst({ where: (log) => eq(log.actorId, admin.id) });
    expect([row?.action, JSON.stringify(row)]).toEqual([
      "registration_token.create",
      expect.not.stringContaining(token),
    ]);
    for (const bad of [{ uses: 0 }, { uses: 1_001 }, { ttl_s: 3_601 }, { ttl_s: 0 }, { pool: "other" }]) {
      expect(
        (await call("POST", "/api/v1/runners/tokens", { token: admin.token, body: { ...body, ...bad } })).status,
      ).toBe(422);
    }
  });

  it("of two machines with one use at once: one is a runner", async ({ expect }) => {
    const token = newToken("cvreg");
    await db.insert(registrationTokens).values({
      tokenHash: await sha256Hex(token),
      pool: "default",
      usesLeft: 1,
      expiresAt: Date.now() + 60_000,
      createdAt: Date.now(),
    });
    const answers = await Promise.all([register(token, "race-1"), register(token, "race-2")]);
    expect(answers.map((answer) => answer.status).sort()).toEqual([201, 401]);
  });

  it("refuses tokens that are over, of another pool, forged or of another kind", async ({ expect }) => {
    const [over, elsewhere] = [newToken("cvreg"), newToken("cvreg")];
    const at = Date.now();
    await db.insert(registrationTokens).values([
      { tokenHash: await sha256Hex(over), pool: "default", usesLeft: 5, expiresAt: at - 1, createdAt: at },
      { tokenHash: await sha256Hex(elsewhere), pool: "other", usesLeft: 5, expiresAt: at + 60_000, createdAt: at },
    ]);
    const gpu = await runner();
    const admin = await person({ admin: true });
    for (const token of [over, elsewhere, newToken("cvreg"), "x", gpu.token, admin.token]) {
      expect((await register(token, "never")).status).toBe(401);
    }
    expect((await call("POST", "/api/v1/internal/runners/register", { body: {} })).status).not.toBe(201);
    expect(await db.query.runners.findMany({ where: eq(runners.machineId, "never") })).toEqual([]);
  });

  it("of the same machine keeps its id, replaces its token, and leaves its running job alone", async ({ expect }) => {
    const owner = await person();
    const first = await runner({ machineId: "same-machine" });
    const { jobId, lease } = await runningJob(owner, first);
    const second = await runner({ machineId: "same-machine" });
    expect(second.id).toBe(first.id);
    expect((await claimAs(first.token, first.instanceId)).status).toBe(401);
    expect((await claimAs(second.token, first.instanceId)).status).toBe(204);
    expect((await heartbeat(lease)).body.desired).toBe("run");
    expect((await events(lease, [endEvent(1)])).status).toBe(200);
    expect((await detail(owner, jobId)).status).toBe("completed");
  });

  it("answers the timers and limits, and what is wrong with a description", async ({ expect }) => {
    const token = newToken("cvreg");
    await db.insert(registrationTokens).values({
      tokenHash: await sha256Hex(token),
      pool: "default",
      usesLeft: 50,
      expiresAt: Date.now() + 60_000,
      createdAt: Date.now(),
    });
    const made = await register(token, "full", {
      os: "linux",
      gpus: [{ model: "T4", vram_mb: 16_000 }],
      labels: { zone: "a", constructor: "x" },
      version: "1.2.3",
    });
    expect(made.body).toMatchObject({
      timers: { claim_wait_s: 25, heartbeat_s: 15, lease_s: 60, lost_after_s: 300, progress_timeout_s: null },
      limits: { events_per_batch: 500, seq_window: 10_000 },
    });
    for (const [part, field] of [
      [{ protocol: 2 }, "protocol"],
      [{ frameworks: [] }, "frameworks"],
      [{ slots: 0 }, "slots"],
      [{ gpus: [{ model: "x", vram_mb: -1 }] }, "gpus.0.vram_mb"],
      [{ machine_id: "" }, "machine_id"],
      [{ labels: { a: 1 } }, "labels.a"],
      [{ labels: Object.fromEntries(Array.from({ length: 51 }, (_, i) => [`l${i}`, "x"])) }, "labels"],
    ] as const) {
      const answer = await register(token, "bad", part);
      expect([answer.status, answer.body.field]).toEqual([422, field]);
    }
  });
});

describe("two processes with one token", () => {
  it("let the second in when the first has gone, or was silent for a lease", async ({ expect }) => {
    clock.stop();
    const gpu = await runner();
    expect((await claimAs(gpu.token, "one")).status).toBe(204);
    const second = await claimAs(gpu.token, "two");
    expect([second.status, second.body.code]).toEqual([409, "INSTANCE_CONFLICT"]);
    clock.advanceS(59);
    expect((await claimAs(gpu.token, "two")).status).toBe(409);
    clock.advanceS(1);
    expect((await claimAs(gpu.token, "two")).status).toBe(204);
    expect((await claimAs(gpu.token, "one")).status).toBe(409);
    const leave = (instanceId: string) =>
      call("POST", "/api/v1/internal/runners/offline", { token: gpu.token, body: { instance_id: instanceId } });
    expect((await leave("one")).status).toBe(204);
    expect((await claimAs(gpu.token, "one")).status).toBe(409);
    expect((await leave("two")).status).toBe(204);
    expect((await claimAs(gpu.token, "one")).status).toBe(204);
  });

  it("keep the second out while the first waits, or its job is heard of", async ({ expect }) => {
    clock.stop();
    const { lease, runner: gpu } = await runningJob(await person());
    for (let i = 0; i < 3; i++) {
      clock.advanceS(30);
      await heartbeat(lease);
    }
    // The pool hears of it a moment later.
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect((await claimAs(gpu.token, "two")).status).toBe(409);
    const waiting = claimAs(gpu.token, gpu.instanceId, 1);
    await new Promise((resolve) => setTimeout(resolve, 50));
    clock.advanceS(61);
    expect((await claimAs(gpu.token, "two")).status).toBe(409);
    expect((await waiting).status).toBe(204);
  });
});

describe("claims", () => {
  it("of a connection that ended are not offered anything", async ({ expect }) => {
    const owner = await person();
    const [gone, alive] = await Promise.all([runner(), runner()]);
    const jobId = await job(owner);
    const controller = new AbortController();
    const broken = exports.default
      .fetch("http://localhost:8000/api/v1/internal/runners/claim", {
        method: "POST",
        headers: { authorization: `Bearer ${gone.token}`, "content-type": "application/json" },
        body: JSON.stringify({ instance_id: gone.instanceId, free_slots: 1, wait_s: 20 }),
        signal: controller.signal,
      })
      .catch(() => "aborted");
    const isWaiting = async () => (await poolObject().sightings()).find((s) => s.runnerId === gone.id)?.waiting;
    for (let i = 0; i < 50 && !(await isWaiting()); i++) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(await isWaiting()).toBe(true);
    controller.abort();
    expect(await broken).toBe("aborted");
    for (let i = 0; i < 50 && (await isWaiting()); i++) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(await isWaiting()).toBe(false);
    const offer = claim(alive, 5);
    await start(owner, jobId);
    expect((await offer).body).toMatchObject({ job_id: jobId, fence: 1 });
  });

  it("without a free slot keep the runner live and get nothing", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const jobId = await job(owner);
    const full = call("POST", "/api/v1/internal/runners/claim", {
      token: gpu.token,
      body: { instance_id: gpu.instanceId, free_slots: 0, wait_s: 0.2 },
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect((await start(owner, jobId)).body.status).toBe("queued");
    expect((await full).status).toBe(204);
    expect((await take(gpu)).jobId).toBe(jobId);
  });

  it("are checked before they wait", async ({ expect }) => {
    const gpu = await runner();
    const send = (body: unknown) => call("POST", "/api/v1/internal/runners/claim", { token: gpu.token, body });
    for (const body of [
      {},
      { instance_id: "" },
      { instance_id: "i", free_slots: -1 },
      { instance_id: "i", wait_s: 61 },
    ]) {
      expect((await send(body)).status).toBe(422);
    }
    expect((await call("POST", "/api/v1/internal/runners/claim", { body: { instance_id: "i" } })).status).toBe(401);
  });

  it("of a thousand runners at once all get their answer, and twenty jobs go to twenty of them", async ({ expect }) => {
    const owner = await person();
    const first = await runner();
    await claim(first);
    const jobIds: number[] = [];
    for (let i = 0; i < 20; i++) {
      const jobId = await job(owner);
      jobIds.push(jobId);
      await start(owner, jobId);
    }
    const tokens = Array.from({ length: 1_000 }, () => newToken("cvr"));
    const rows = await Promise.all(tokens.map(async (token, i) => [newUuid(), `storm-${i}`, await sha256Hex(token)]));
    await env.DB.prepare(
      `INSERT INTO runners (id, machine_id, pool, name, gpus, frameworks, labels, slots, token_hash, drain, registered_at)
       SELECT value->>0, value->>1, 'default', value->>1, '[]', '["embedded"]', '{}', 1, value->>2, 0, 0 FROM json_each(?)`,
    )
      .bind(JSON.stringify(rows))
      .run();
    const answers = await Promise.all(tokens.map((token, i) => claimAs(token, `i${i}`, 0)));
    const byStatus = Map.groupBy(answers, (answer) => answer.status);
    expect([...byStatus.keys()].sort()).toEqual([200, 204]);
    const offered = (byStatus.get(200) ?? []).map((answer) => Number(answer.body.job_id));
    expect(offered.filter((jobId) => jobIds.includes(jobId)).sort((a, b) => a - b)).toEqual(jobIds);
  });
});

describe("start", () => {
  const stubStart = async (
    owner: { projectId: number },
    requirements: Partial<JobSpec["requirements"]>,
    priority = 0,
  ) => {
    const person_ = owner as Awaited<ReturnType<typeof person>>;
    const jobId = await job(person_);
    const spec: JobSpec = {
      jobId,
      projectId: owner.projectId,
      datasetId: "d",
      priority,
      primaryMetric: "accuracy",
      primaryMetricMode: "max",
      requirements: { framework: "embedded", labels: {}, gpuMemoryMb: 0, ...requirements },
      wire: { job_id: jobId, task_type: "image_classification" },
    };
    return { jobId, started: await jobObject(jobId).start(spec, { from: "nothing" }) };
  };

  it("keeps a job queued whose labels or memory no live runner has, and says so", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    await claim(gpu);
    const { jobId, started } = await stubStart(owner, { labels: { zone: "b" }, gpuMemoryMb: 80_000 });
    expect(started).toMatchObject({ ok: true, value: { status: "queued" } });
    expect((await detail(owner, jobId)).queue).toEqual({
      position: 1,
      reason: "no_runner_has_labels",
      capable: 0,
      live: 1,
    });
    expect((await claim(gpu, 0)).status).toBe(204);
    clock.stop();
    clock.advanceS(3_600);
    await ring(jobId);
    expect(await detail(owner, jobId)).toMatchObject({
      status: "queued",
      queue: { reason: "no_live_runner", live: 0 },
    });
  });

  it("hands jobs out by priority, then by age", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const gpu = await runner();
    await claim(gpu);
    const low = await stubStart(owner, {}, -1);
    clock.advanceS(1);
    const old = await stubStart(owner, {});
    clock.advanceS(1);
    const young = await stubStart(owner, {});
    clock.advanceS(1);
    const urgent = await stubStart(owner, {}, 5);
    expect((await detail(owner, young.jobId)).queue).toMatchObject({ position: 3 });
    const order: unknown[] = [];
    for (let i = 0; i < 4; i++) order.push((await claim(gpu, 0)).body.job_id);
    expect(order).toEqual([urgent.jobId, old.jobId, young.jobId, low.jobId]);
  });

  it("of a job that waits or runs is refused, and of two at once one wins", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    await claim(gpu);
    const jobId = await job(owner);
    const answers = await Promise.all([start(owner, jobId), start(owner, jobId), start(owner, jobId)]);
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 409, 409]);
    await take(gpu);
    expect((await start(owner, jobId)).body.code).toBe("INVALID_STATUS");
    expect(await attemptsOf(jobId)).toHaveLength(1);
  });

  it("is refused when the project has its share of the queue", async ({ expect }) => {
    const owner = await person();
    await claim(await runner());
    const jobId = await job(owner);
    await runInDurableObject(poolObject(), async (pool) => {
      for (let i = 0; i < 1_000; i++) {
        const requirements = { framework: "other", labels: {}, gpuMemoryMb: 0 };
        await pool.enqueue({
          jobId: 1_000_000 + i,
          projectId: owner.projectId,
          priority: 0,
          queuedAtMs: 0,
          requirements,
        });
      }
    });
    const refused = await start(owner, jobId);
    expect([refused.status, refused.body.code]).toEqual([409, "QUOTA_EXCEEDED"]);
    expect((await detail(owner, jobId)).status).toBe("pending");
    await poolObject().withdraw(1_000_000);
    expect((await start(owner, jobId)).status).toBe(200);
    const other = await person();
    expect((await start(other, await job(other))).status).toBe(200);
  });
});

describe("runners, to an admin", () => {
  const listed = async (token: string, query = "") =>
    call<{ runners: Json[]; total: number }>("GET", `/api/v1/runners${query}`, { token });
  const one = async (token: string, gpu: TestRunner, query = "?limit=500") =>
    (await listed(token, query)).body.runners.find((row) => row.id === gpu.id);

  it("are listed with what they do right now", async ({ expect }) => {
    const admin = await person({ admin: true });
    const owner = await person();
    const { jobId, lease, runner: busy } = await runningJob(owner);
    const idle = await runner();
    expect(await one(admin.token, idle)).toMatchObject({ live: false, last_seen_at: null, busy: false });
    const waiting = claim(idle, 1);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await heartbeat(lease, { sent_at: new Date(Date.now() - 60_000).toISOString() });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await one(admin.token, idle)).toMatchObject({
      live: true,
      waiting: true,
      busy: false,
      job_ids: [],
      draining: false,
    });
    expect(await one(admin.token, busy)).toMatchObject({
      live: true,
      waiting: false,
      busy: true,
      job_ids: [jobId],
      skew_s: 60,
      frameworks: ["embedded"],
      pool: "default",
      last_seen_at: expect.any(String),
    });
    await waiting;
    const answer = await listed(admin.token, "?limit=1&skip=1");
    expect(answer.body).toMatchObject({ skip: 1, limit: 1, total: expect.any(Number) });
    expect(answer.body.runners).toHaveLength(1);
    expect(JSON.stringify(answer.body)).not.toMatch(/token/);
  });

  it("are left out after two weeks of silence, ephemeral ones after a day", async ({ expect }) => {
    clock.stop();
    const gpu = await runner();
    const brief = await runner();
    await db
      .update(runners)
      .set({ labels: { ephemeral: "true" } })
      .where(eq(runners.id, brief.id));
    await claim(gpu);
    const shown = async () => {
      const admin = await person({ admin: true });
      return [
        await one(admin.token, gpu),
        await one(admin.token, brief),
        await one(admin.token, brief, "?archived=true&limit=500"),
      ].map((row) => row !== undefined);
    };
    expect(await shown()).toEqual([true, true, true]);
    clock.advanceS(86_400);
    expect(await shown()).toEqual([true, false, true]);
    clock.advanceS(13 * 86_400);
    expect(await shown()).toEqual([false, false, true]);
  });

  it("are told to drain: the claim that waits hears it, later ones too, the job is finished", async ({ expect }) => {
    const admin = await person({ admin: true });
    const owner = await person();
    const { jobId, lease, runner: gpu } = await runningJob(owner);
    const waiting = claim(gpu, 10);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const drained = await call("POST", `/api/v1/runners/${gpu.id}/drain`, { token: admin.token });
    expect([drained.status, drained.body]).toEqual([200, { id: gpu.id, draining: true }]);
    expect((await waiting).body).toEqual({ drain: true });
    expect((await claim(gpu, 10)).body).toEqual({ drain: true });
    expect((await one(admin.token, gpu))?.draining).toBe(true);
    await events(lease, [endEvent(1)]);
    expect((await detail(owner, jobId)).status).toBe("completed");
    expect((await claim(await runner({ machineId: `again-${gpu.id}` }))).status).toBe(204);
  });

  it("are revoked: the token is dead at once and the job goes back into the queue", async ({ expect }) => {
    const admin = await person({ admin: true });
    const owner = await person();
    const { jobId, lease, runner: gpu } = await runningJob(owner);
    const leaving = await runningJob(owner, gpu);
    await stop(owner, leaving.jobId);
    const tail = await runningJob(owner, gpu);
    await events(tail.lease, [endEvent(1)]);
    const waiting = claim(gpu, 10);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect((await call("DELETE", `/api/v1/runners/${gpu.id}`, { token: admin.token })).status).toBe(204);
    expect((await waiting).status).toBe(204);
    expect((await claim(gpu)).status).toBe(401);
    expect((await heartbeat(lease)).body.code).toBe("STALE_LEASE");
    expect((await heartbeat(leaving.lease)).body.code).toBe("STALE_LEASE");
    expect((await logChunk(tail.lease, 1, "x\n")).body.code).toBe("STALE_LEASE");
    expect(await detail(owner, jobId)).toMatchObject({
      status: "queued",
      reason: "runner_lost",
      message: "The runner was revoked",
    });
    expect(await detail(owner, leaving.jobId)).toMatchObject({ status: "stopped", phase: "stopped" });
    expect(await detail(owner, tail.jobId)).toMatchObject({ status: "completed" });
    expect(await one(admin.token, gpu)).toBeUndefined();
    expect((await take(await runner())).attempt).toBe(2);
    expect((await call("DELETE", `/api/v1/runners/${gpu.id}`, { token: admin.token })).status).toBe(404);
    const actions = await db.query.auditLog.findMany({ where: (log) => eq(log.actorId, admin.id) });
    expect(actions.map(({ action, targetId }) => [action, targetId])).toEqual([["runner.revoke", gpu.id]]);
  });

  it("are nobody else's business", async ({ expect }) => {
    const someone = await person();
    const admin = await person({ admin: true });
    const gpu = await runner();
    const calls = (token?: string, id = gpu.id) => [
      call("GET", "/api/v1/runners", { token }),
      call("POST", `/api/v1/runners/${id}/drain`, { token }),
      call("DELETE", `/api/v1/runners/${id}`, { token }),
    ];
    for (const [token, status] of [
      [undefined, 401],
      [gpu.token, 401],
      [someone.token, 403],
    ] as const) {
      for (const answer of await Promise.all(calls(token))) expect(answer.status).toBe(status);
    }
    const [, drain, revoke] = await Promise.all(calls(admin.token, newUuid()));
    expect([drain?.status, revoke?.body.code]).toEqual([404, "RUNNER_NOT_FOUND"]);
    expect((await call("DELETE", "/api/v1/runners/x", { token: admin.token })).status).toBe(422);
    expect((await claim(gpu)).status).toBe(204);
  });
});

describe("the cron", () => {
  const everyMinute = () => worker.scheduled(createScheduledController(), env);

  it("pokes jobs that have not moved for ten minutes, a bounded number, the stillest first", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const { jobId } = await runningJob(owner);
    const pending = await job(owner);
    clock.advanceS(599);
    await everyMinute();
    expect(await detail(owner, jobId)).toMatchObject({ phase: "running" });
    clock.advanceS(1);
    await everyMinute();
    const moved = await detail(owner, jobId);
    expect(moved).toMatchObject({ status: "queued", reason: "runner_lost" });
    expect((await detail(owner, pending)).status).toBe("pending");
    const before = await db.query.trainingJobs.findFirst({ where: eq(trainingJobs.id, jobId) });
    clock.advanceS(600);
    await everyMinute();
    const after = await db.query.trainingJobs.findFirst({ where: eq(trainingJobs.id, jobId) });
    expect((after?.updatedAt ?? 0) - (before?.updatedAt ?? 0)).toBe(600_000);
    expect(await poolObject().position(jobId)).not.toBeNull();
  });

  it("finds a job whose alarm was lost together with what D1 had not got", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await runInDurableObject(jobObject(jobId), async (_, state) => {
      await state.storage.deleteAlarm();
      const item = {
        kind: "log",
        row: { firstLine: 1, lineCount: 1, attempt: 1, stream: "stdout", seq: 1, text: "late\n", createdAt: 0 },
      };
      state.storage.sql.exec("INSERT INTO outbox (item, bytes) VALUES (?, 1)", JSON.stringify(item));
    });
    clock.advanceS(700);
    await everyMinute();
    expect((await detail(owner, jobId)).status).toBe("queued");
    expect(await db.query.logChunks.findMany({ where: (row) => eq(row.jobId, jobId) })).toHaveLength(1);
    expect((await heartbeat(lease)).body.code).toBe("STALE_LEASE");
  });
});
