import { evictDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { and, eq } from "drizzle-orm";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import { auditLog } from "../../src/db/schema/index.ts";
import { call, db, events, type Json, job, join, type Lease, person, plainEvent, runningJob } from "../support/api.ts";
import {
  artifact,
  checkpoint,
  clock,
  createArtifact,
  detail,
  endEvent,
  epochEvent,
  heartbeat,
  jobObject,
  putPart,
  quietWorld,
  ring,
  start,
  stop,
  take,
  textBytes,
} from "../support/jobs.ts";

beforeEach(quietWorld);
afterEach(() => {
  vi.restoreAllMocks();
  clock.start();
});

const ask = (jobId: number, token: string) => call("POST", `/api/v1/training/jobs/${jobId}/checkpoint`, { token });

describe("asking for a checkpoint", () => {
  it("is told the runner once, in its next answer of any kind, also across the end of the object", async ({
    expect,
  }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    expect((await heartbeat(lease)).body.desired).toBe("run");
    const asked = await ask(jobId, owner.token);
    expect([asked.status, asked.body]).toMatchObject([202, { job_id: jobId, attempt: 1 }]);
    expect((await ask(jobId, owner.token)).status).toBe(202);
    await evictDurableObject(jobObject(jobId));
    expect((await heartbeat(lease)).body.desired).toBe("checkpoint");
    expect((await heartbeat(lease)).body.desired).toBe("run");
    await ask(jobId, owner.token);
    expect((await events(lease, [epochEvent(1)])).body.desired).toBe("checkpoint");
    expect((await events(lease, [epochEvent(2)])).body.desired).toBe("run");
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", phase: "running" });
  });

  it("gives way to a stop, and does not reach a later attempt", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease, runner } = await runningJob(owner);
    await ask(jobId, owner.token);
    await stop(owner, jobId);
    expect((await heartbeat(lease)).body.desired).toBe("stop");
    expect((await ask(jobId, owner.token)).status).toBe(409);
    await events(lease, [endEvent(1, "stopped")]);
    await start(owner, jobId);
    expect((await heartbeat(await take(runner))).body.desired).toBe("run");
  });

  it("is refused where no runner would hear it, and to viewers", async ({ expect }) => {
    const [owner, viewer] = [await person(), await person()];
    await join(owner.projectId, viewer.id, "viewer");
    const jobId = await job(owner);
    expect((await ask(jobId, owner.token)).body).toMatchObject({ code: "INVALID_STATUS" });
    expect((await ask(jobId, viewer.token)).status).toBe(403);
    await plainEvent(jobId, "started", {});
    expect((await ask(jobId, owner.token)).body).toMatchObject({ code: "INVALID_STATUS" });
    await plainEvent(jobId, "completed", {});
    expect((await ask(jobId, owner.token)).status).toBe(409);
  });
});

describe("old checkpoints", () => {
  const listed = async (jobId: number, token: string) =>
    (
      await call<{ checkpoints: Json[]; total: number }>("GET", `/api/v1/training/jobs/${jobId}/checkpoints`, { token })
    ).body.checkpoints.map(({ epoch, role }) => `${epoch} ${role}`);
  const filesOf = async (jobId: number) => (await env.BUCKET.list({ prefix: `jobs/${jobId}/` })).objects.length;
  const save = async (lease: Lease, seq: number, epoch: number, role: "best" | "last") => {
    const id = await checkpoint(lease, epoch);
    const event = { seq, event: "checkpoint", data: { artifact_id: id, epoch, role } };
    expectTaken(await events(lease, [event]));
    return id;
  };
  const expectTaken = ({ body }: { body: Json }) => {
    if (JSON.stringify(body.rejected) !== "[]") throw new Error(`rejected: ${JSON.stringify(body)}`);
  };

  it("go, from D1 at once and from R2 with the alarm; the best, the last and three more stay", async ({ expect }) => {
    clock.stop();
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await save(lease, 1, 1, "last");
    await save(lease, 2, 2, "best");
    for (let epoch = 3; epoch <= 7; epoch++) {
      clock.advanceS(1);
      await save(lease, epoch, epoch, "last");
    }
    expect(await listed(jobId, owner.token)).toEqual(["7 last", "6 last", "5 last", "2 best"]);
    expect(await filesOf(jobId)).toBe(7);
    clock.advanceS(61);
    vi.spyOn(env.BUCKET, "delete").mockRejectedValueOnce(new Error("internal error"));
    await ring(jobId);
    clock.advanceS(61);
    await ring(jobId);
    expect(await filesOf(jobId)).toBe(4);
  });

  it("are not there for a resume or the runner any more, and an answer that was lost does no harm", async ({
    expect,
  }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const first = await save(lease, 1, 1, "last");
    for (let epoch = 2; epoch <= 4; epoch++) await save(lease, epoch, epoch, "last");
    expect((await artifact(lease, first, "state")).body).toMatchObject({ state: "aborted" });
    expect((await artifact(lease, first, "content")).status).toBe(404);
    // The runner sends both again.
    const again = { seq: 1, event: "checkpoint", data: { artifact_id: first, epoch: 1, role: "last" } };
    expect((await events(lease, [again])).body).toMatchObject({ ack_seq: 4, rejected: [] });
    const late = await events(lease, [{ ...again, seq: 5 }]);
    expect(late.body).toMatchObject({ ack_seq: 5, rejected: [{ seq: 5, field: "data.artifact_id" }] });
    await stop(owner, jobId);
    await events(lease, [endEvent(6, "stopped")]);
    const path = `jobs/${jobId}/1/${first}`;
    expect((await start(owner, jobId, `?resume=true&checkpoint_path=${path}`)).body.code).toBe("CHECKPOINT_NOT_FOUND");
  });

  it("stay while a start names one of them", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease, runner } = await runningJob(owner);
    const ids = [];
    for (let epoch = 1; epoch <= 3; epoch++) ids.push(await save(lease, epoch, epoch, "last"));
    await stop(owner, jobId);
    await events(lease, [endEvent(4, "stopped")]);
    await start(owner, jobId, `?resume=true&checkpoint_path=jobs/${jobId}/1/${ids[0]}`);
    const second = await take(runner);
    expect(second.resume).toMatchObject({ artifact_id: ids[0], epoch: 1 });
    for (let epoch = 2; epoch <= 6; epoch++) await save(second, epoch - 1, epoch, "last");
    // The lineage before this start is left alone; of this one the newest stay.
    expect(await listed(jobId, owner.token)).toEqual(["6 last", "5 last", "4 last", "3 last", "2 last", "1 last"]);
    expect((await artifact(second, ids[0] ?? "", "content")).status).toBe(200);
  });

  it("are told with the models that were exported along, and what was said already is not stored again", async ({
    expect,
  }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const bytes = textBytes("a model");
    const model = await createArtifact(lease, bytes, { kind: "model", name: "best.onnx" });
    const { artifact_id } = model.body;
    await putPart(lease, artifact_id, 1, bytes);
    await artifact(lease, artifact_id, "complete");
    const batch = vi.spyOn(env.DB, "batch");
    const told = (seq: number) =>
      events(lease, [{ seq, event: "checkpoint", data: { artifact_id, epoch: 1, role: "best" } }]);
    expectTaken(await told(1));
    expect(await listed(jobId, owner.token)).toEqual(["1 best"]);
    const before = batch.mock.calls.length;
    expectTaken(await told(2));
    expect(batch.mock.calls.length).toBe(before);
  });

  it("keep their upload apart from files of other kinds", async ({ expect }) => {
    const owner = await person();
    const { lease } = await runningJob(owner);
    const bytes = textBytes("a picture");
    const plot = await createArtifact(lease, bytes, { kind: "plot", name: "loss.png" });
    await putPart(lease, plot.body.artifact_id, 1, bytes);
    await artifact(lease, plot.body.artifact_id, "complete");
    for (let epoch = 1; epoch <= 6; epoch++) await save(lease, epoch, epoch, "last");
    expect((await artifact(lease, plot.body.artifact_id, "content")).status).toBe(200);
  });
});

describe("a stop by an admin", () => {
  const notes = (jobId: number) =>
    db
      .select({ actor: auditLog.actorId })
      .from(auditLog)
      .where(and(eq(auditLog.action, "job.stop"), eq(auditLog.targetId, String(jobId))));

  it("of somebody's job says so, and who it was", async ({ expect }) => {
    const [owner, admin] = [await person(), await person({ admin: true })];
    const { jobId, lease } = await runningJob(owner);
    expect((await stop(admin, jobId)).body).toMatchObject({ job_id: jobId, status: "stopped" });
    expect((await stop(admin, jobId)).status).toBe(200);
    await events(lease, [endEvent(1, "stopped")]);
    expect(await detail(owner, jobId)).toMatchObject({ status: "stopped", reason: "admin_stop" });
    expect(await notes(jobId)).toEqual([{ actor: admin.id }]);
    // No other right comes with it.
    expect((await call("GET", `/api/v1/training/jobs/${jobId}`, { token: admin.token })).status).toBe(404);
    expect((await start(admin, jobId)).status).toBe(404);
  });

  it("of an own job is a user's, and nobody else gets in by it", async ({ expect }) => {
    const [owner, admin, viewer, stranger] = [
      await person(),
      await person({ admin: true }),
      await person(),
      await person(),
    ];
    await join(owner.projectId, admin.id, "editor");
    await join(owner.projectId, viewer.id, "viewer");
    const jobId = await job(owner);
    expect([(await stop(viewer, jobId)).status, (await stop(stranger, jobId)).status]).toEqual([403, 404]);
    expect((await stop(admin, 2 ** 40)).status).toBe(404);
    await stop(admin, jobId);
    expect(await detail(owner, jobId)).toMatchObject({ reason: "user_stop" });
    expect(await notes(jobId)).toEqual([]);
  });
});
