import { evictDurableObject } from "cloudflare:test";
import { afterEach, beforeEach, describe, it } from "vitest";
import { accept, call, claim, events, job, person, runner, runningJob } from "../support/api.ts";
import {
  artifact,
  attemptsOf,
  checkpoint,
  clock,
  createArtifact,
  detail,
  endEvent,
  epochEvent,
  heartbeat,
  jobObject,
  logChunk,
  logsOf,
  metricsOf,
  poolObject,
  putPart,
  quietWorld,
  ring,
  start,
  stop,
  take,
  textBytes,
} from "../support/jobs.ts";

beforeEach(async () => {
  await quietWorld();
  clock.stop();
});
afterEach(() => clock.start());

describe("offers", () => {
  it("gives one job to one of two runners that claim at once", async ({ expect }) => {
    const owner = await person();
    const [one, two] = await Promise.all([runner(), runner()]);
    const jobId = await job(owner);
    await claim(one);
    const claims = [claim(one, 1), claim(two, 1)];
    const started = start(owner, jobId);
    const answers = await Promise.all(claims);
    expect(answers.map((answer) => answer.status).sort()).toEqual([200, 204]);
    expect((await started).body.status).toBe("queued");
    expect(await detail(owner, jobId)).toMatchObject({ status: "queued", phase: "offered", attempt: 0 });
  });

  it("queues a job again when the runner that got the offer dies, and spends no attempt", async ({ expect }) => {
    const owner = await person();
    const [dead, alive] = await Promise.all([runner(), runner()]);
    const jobId = await job(owner);
    await claim(dead);
    const offer = claim(dead, 5);
    await start(owner, jobId);
    const { body } = await offer;
    expect(body).toMatchObject({ job_id: jobId, fence: 1, offer_s: 30 });
    clock.advanceS(30);
    expect(await ring(jobId)).toBe(true);
    expect(await detail(owner, jobId)).toMatchObject({ status: "queued", phase: "queued", attempt: 0 });
    const late = await call("POST", `/api/v1/internal/jobs/${jobId}/accept`, { token: dead.token, body: { fence: 1 } });
    expect([late.status, late.body.code]).toEqual([409, "OFFER_GONE"]);
    const lease = await take(alive);
    expect([lease.jobId, lease.fence, lease.attempt]).toEqual([jobId, 2, 1]);
  });

  it("is not lost when a claim's time is over while the offer is under way", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const jobId = await job(owner);
    await claim(gpu);
    await start(owner, jobId);
    // No time to wait at all: the job that is there already is offered all the same.
    expect((await claim(gpu, 0)).body).toMatchObject({ job_id: jobId, fence: 1 });
  });

  it("goes to the newer claim of a process whose connection broke", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const jobId = await job(owner);
    const broken = claim(gpu, 5);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const again = claim(gpu, 5);
    expect((await broken).status).toBe(204);
    await start(owner, jobId);
    expect((await again).body.job_id).toBe(jobId);
  });

  it("makes the same accept twice one attempt", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const other = await runner();
    const jobId = await job(owner);
    await claim(gpu);
    await start(owner, jobId);
    const { body } = await claim(gpu, 5);
    const foreign = await call("POST", `/api/v1/internal/jobs/${jobId}/accept`, {
      token: other.token,
      body: { fence: body.fence },
    });
    expect(foreign.body.code).toBe("OFFER_GONE");
    const [first, second] = await Promise.all([accept(gpu, jobId, body.fence), accept(gpu, jobId, body.fence)]);
    expect([first.attempt, second.attempt]).toEqual([1, 1]);
    expect(await attemptsOf(jobId)).toHaveLength(1);
    expect((await heartbeat(second)).status).toBe(200);
  });

  it("answers `queued` at once when every capable runner is busy", async ({ expect }) => {
    const owner = await person();
    const { runner: busy } = await runningJob(owner);
    const second = await job(owner);
    clock.start();
    const before = Date.now();
    expect((await start(owner, second)).body.status).toBe("queued");
    expect(Date.now() - before).toBeLessThan(1_500);
    expect((await detail(owner, second)).queue).toEqual({ position: 1, reason: "runners_busy", capable: 1, live: 1 });
    expect((await take(busy)).jobId).toBe(second);
  });
});

describe("a lease", () => {
  it("is suspect after 60 s and lost after the grace: queued, fence + 1", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    clock.advanceS(59);
    await ring(jobId);
    expect((await detail(owner, jobId)).phase).toBe("running");
    clock.advanceS(1);
    await ring(jobId);
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", phase: "suspect" });
    clock.advanceS(299);
    await ring(jobId);
    expect((await detail(owner, jobId)).phase).toBe("suspect");
    clock.advanceS(1);
    await ring(jobId);
    expect(await detail(owner, jobId)).toMatchObject({ status: "queued", attempt: 1, reason: "runner_lost" });
    expect(await attemptsOf(jobId)).toMatchObject([{ attempt: 1, outcome: "lost", reason: "runner_lost" }]);
    const next = await take(await runner());
    expect([next.fence, next.attempt]).toEqual([lease.fence + 2, 2]);
  });

  it("is revived by a call within the grace, with nothing lost and no restart", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await events(lease, [epochEvent(1)]);
    clock.advanceS(300);
    await ring(jobId);
    expect((await detail(owner, jobId)).phase).toBe("suspect");
    clock.advanceS(59);
    expect((await heartbeat(lease)).body).toMatchObject({ desired: "run", ack_seq: 1 });
    expect((await events(lease, [epochEvent(2)])).body).toMatchObject({ ack_seq: 2, desired: "run" });
    expect(await detail(owner, jobId)).toMatchObject({ phase: "running", attempt: 1, current_epoch: 2 });
    expect(await attemptsOf(jobId)).toMatchObject([{ attempt: 1, endedAt: null }]);
  });

  it("takes nothing from a zombie after the requeue, whatever it tries", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease: zombie } = await runningJob(owner);
    const bytes = textBytes("half a checkpoint");
    const open = await createArtifact(zombie, bytes, { epoch: 1 });
    clock.advanceS(360);
    await ring(jobId);
    const lease = await take(await runner());
    await events(lease, [epochEvent(1)]);

    const artifactId = open.body.artifact_id;
    const answers = [
      await heartbeat(zombie),
      await events(zombie, [epochEvent(1, 7)]),
      await events(zombie, [endEvent(1, "failed")]),
      await events(zombie, []),
      await call("POST", "/api/v1/internal/training/callback", {
        token: zombie.token,
        body: { job_id: jobId, event: "epoch_complete", data: { epoch: 9 } },
      }),
      await logChunk(zombie, 1, "late\n"),
      await createArtifact(zombie, bytes),
      await putPart(zombie, artifactId, 1, bytes),
      await artifact(zombie, artifactId, "state"),
      await artifact(zombie, artifactId, "complete"),
      await artifact(zombie, artifactId, "content"),
      await artifact(zombie, artifactId, "abort"),
      await call("GET", `/api/v1/internal/jobs/${jobId}/dataset`, { token: zombie.token }),
      await call("GET", `/api/v1/internal/jobs/${jobId}/dataset/1`, { token: zombie.token }),
    ];
    expect(answers.map((answer) => [answer.status, answer.body.code])).toEqual(answers.map(() => [409, "STALE_LEASE"]));
    expect(await metricsOf(owner, jobId)).toMatchObject([{ epoch: 1, attempt: 2 }]);
    expect(await logsOf(owner, jobId)).toEqual([]);
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", attempt: 2, current_epoch: 1 });
  });

  it("refuses a body whose attempt or fence is not the token's", async ({ expect }) => {
    const { jobId, lease } = await runningJob(await person());
    for (const extra of [{ attempt: 2 }, { attempt: 0 }, { fence: 99 }, { fence: "1" }, { attempt: 1, fence: 0 }]) {
      const answer = await call("POST", "/api/v1/internal/training/callback", {
        token: lease.token,
        body: { job_id: jobId, events: [epochEvent(1)], ...extra },
      });
      expect([answer.status, answer.body.code]).toEqual([409, "STALE_LEASE"]);
    }
    const same = await call("POST", "/api/v1/internal/training/callback", {
      token: lease.token,
      body: { job_id: jobId, events: [epochEvent(1)], attempt: lease.attempt, fence: lease.fence },
    });
    expect(same.body.ack_seq).toBe(1);
  });

  it("fails the job when all tries of the infrastructure budget are spent", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const { jobId } = await runningJob(owner, gpu);
    for (let i = 0; i < 10; i++) {
      clock.advanceS(400);
      await ring(jobId);
      expect((await detail(owner, jobId)).status).toBe("queued");
      await take(gpu);
    }
    clock.advanceS(400);
    await ring(jobId);
    expect(await detail(owner, jobId)).toMatchObject({
      status: "failed",
      reason: "retries_exhausted",
      message: "Tried 11 times; the last one ended with runner_lost",
      attempt: 11,
    });
    expect(await attemptsOf(jobId)).toHaveLength(11);
  });

  it("does not care about a runner's clock, and shows how far it is off", async ({ expect }) => {
    const owner = await person();
    for (const [sentAt, skewS] of [
      [new Date(Date.now() - 17 * 60_000).toISOString(), 1_020],
      [new Date(Date.now() + 86_400_000).toISOString(), -86_400],
      ["1970-01-01T00:00:00Z", Math.round(Date.now() / 1000)],
      ["yesterday", null],
      [null, null],
    ] as const) {
      const { jobId, lease, runner: gpu } = await runningJob(owner);
      const beat = await heartbeat(lease, { sent_at: sentAt, outbox: 0, progress: { epoch: 1 }, gpu: [{ util: 1 }] });
      expect(beat.body).toMatchObject({ desired: "run", skew_s: skewS });
      const batch = [{ ...epochEvent(1), emitted_at: sentAt ?? "never" }];
      expect((await events(lease, batch)).body.ack_seq).toBe(1);
      expect((await detail(owner, jobId)).status).toBe("running");
      const sighting = (await poolObject().sightings()).find(({ runnerId }) => runnerId === gpu.id);
      expect(sighting?.skewMs === null ? null : Math.round((sighting?.skewMs ?? 0) / 1000)).toBe(skewS);
    }
  });
});

describe("the alarm", () => {
  it("does no harm when it rings early, late or twice", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await events(lease, [epochEvent(1)]);
    expect([await ring(jobId), await ring(jobId)]).toEqual([true, true]);
    expect(await detail(owner, jobId)).toMatchObject({ phase: "running", attempt: 1 });
    clock.advanceS(40_000);
    expect([await ring(jobId), await ring(jobId), await ring(jobId)]).toEqual([true, true, true]);
    expect(await detail(owner, jobId)).toMatchObject({ phase: "queued", attempt: 1, reason: "runner_lost" });
    expect(await attemptsOf(jobId)).toHaveLength(1);
  });

  it("is not set while nothing can happen by itself", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await events(lease, [endEvent(1)]);
    clock.advanceS(600);
    await ring(jobId);
    // The tail is over; one more may still look after the outbox, and then there is none.
    await ring(jobId);
    expect(await ring(jobId)).toBe(false);
    expect((await heartbeat(lease)).body.code).toBe("STALE_LEASE");
  });

  it("reminds the pool of a queued job after the call between the two was lost", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const { runner: busy } = await runningJob(owner);
    const jobId = await job(owner);
    expect((await start(owner, jobId)).body.status).toBe("queued");
    await poolObject().withdraw(jobId);
    expect((await claim(gpu)).status).toBe(204);
    clock.advanceS(60);
    await ring(jobId);
    expect((await claim(gpu, 5)).body.job_id).toBe(jobId);
    expect(busy.id).not.toBe(gpu.id);
  });
});

describe("an object that ends between any two calls", () => {
  it("has lost nothing", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const jobId = await job(owner);
    const evict = () => evictDurableObject(jobObject(jobId));
    await claim(gpu);
    await start(owner, jobId);
    await evict();
    await evictDurableObject(poolObject());
    const offer = await claim(gpu, 5);
    await evict();
    const lease = await accept(gpu, jobId, offer.body.fence);
    await evict();
    expect((await events(lease, [epochEvent(1), epochEvent(3)])).body).toMatchObject({ ack_seq: 1, missing: [[2, 2]] });
    await evict();
    const artifactId = await (async () => {
      const bytes = textBytes("w");
      const created = await createArtifact(lease, bytes, { epoch: 3 });
      await evict();
      await putPart(lease, created.body.artifact_id, 1, bytes);
      await evict();
      await artifact(lease, created.body.artifact_id, "complete");
      await evict();
      return created.body.artifact_id;
    })();
    expect((await artifact(lease, artifactId, "state")).body.state).toBe("complete");
    await logChunk(lease, 2, "two\n");
    await evict();
    const last = await events(lease, [endEvent(4, "completed", { log_chunks: { stdout: 2, stderr: 0 } })]);
    expect(last.body).toMatchObject({ ack_seq: 1, missing: [[2, 2]] });
    await evict();
    expect(await detail(owner, jobId)).toMatchObject({ status: "running", phase: "finalizing" });
    await logChunk(lease, 1, "one\n");
    await evict();
    expect((await events(lease, [epochEvent(2)])).body).toMatchObject({ ack_seq: 4, missing: [] });
    await evict();
    expect(await detail(owner, jobId)).toMatchObject({ status: "completed", data_complete: true, current_epoch: 3 });
    expect((await metricsOf(owner, jobId)).map((point) => point.epoch)).toEqual([1, 2, 3]);
    expect((await logsOf(owner, jobId)).sort()).toEqual(["one", "two"]);
  });
});

describe("resume", () => {
  it("goes on from the last complete checkpoint, never from an unfinished upload", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    expect(lease.resume).toBeNull();
    const second = await checkpoint(lease, 2);
    await events(lease, [epochEvent(1), epochEvent(2), epochEvent(3), epochEvent(4)]);
    const bytes = textBytes("never finished");
    const open = await createArtifact(lease, bytes, { epoch: 4 });
    await putPart(lease, open.body.artifact_id, 1, bytes);
    clock.advanceS(400);
    await ring(jobId);
    const next = await take(await runner());
    expect(next.resume).toMatchObject({ artifact_id: second, epoch: 2, weights_only: false });
    expect((await artifact(next, second, "content")).body).toBe("weights of epoch 2");
    // What came after the resume point is superseded, not deleted.
    expect((await metricsOf(owner, jobId)).map((point) => [point.epoch, point.attempt])).toEqual([
      [1, 1],
      [2, 1],
    ]);
    await events(next, [epochEvent(1, 3)]);
    expect((await metricsOf(owner, jobId)).map((point) => [point.epoch, point.attempt])).toEqual([
      [1, 1],
      [2, 1],
      [3, 2],
    ]);
    const ofFirst = (query = "") =>
      call<{ epoch: number }[]>("GET", `/api/v1/training/jobs/${jobId}/metrics?attempt=1&limit=3${query}`, {
        token: owner.token,
      });
    const newest = await ofFirst();
    expect(newest.body.map(({ epoch }) => epoch)).toEqual([2, 3, 4]);
    const before = /[?&]before=([^&>]+)[^,]*rel="prev"/.exec(newest.headers.get("link") ?? "")?.[1];
    expect((await ofFirst(`&before=${before}`)).body.map(({ epoch }) => epoch)).toEqual([1]);
    expect((await ofFirst("&max_points=10")).status).toBe(422);
    expect((await detail(owner, jobId)).current_epoch).toBe(3);
  });

  it("goes on from the one before when the runner finds the newest corrupt", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const first = await checkpoint(lease, 1);
    const second = await checkpoint(lease, 2);
    clock.advanceS(400);
    await ring(jobId);
    const gpu = await runner();
    const next = await take(gpu);
    expect(next.resume?.artifact_id).toBe(second);
    await events(next, [endEvent(1, "failed", { reason: "checkpoint_corrupt" })]);
    expect(await detail(owner, jobId)).toMatchObject({ status: "queued", reason: "checkpoint_corrupt" });
    expect((await take(gpu)).resume?.artifact_id).toBe(first);
  });

  it("begins anew after a start without resume, and goes on after one with it", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const { jobId, lease } = await runningJob(owner, gpu);
    const id = await checkpoint(lease, 2);
    await events(lease, [epochEvent(1), epochEvent(2), endEvent(3, "stopped")]);
    expect((await start(owner, jobId, "?resume=true")).body.status).toBe("queued");
    const resumed = await take(gpu);
    expect(resumed.resume).toMatchObject({ artifact_id: id, epoch: 2 });
    expect((await detail(owner, jobId)).current_epoch).toBe(2);
    await events(resumed, [endEvent(1, "stopped")]);
    await start(owner, jobId);
    const anew = await take(gpu);
    expect([anew.resume, anew.attempt]).toEqual([null, 3]);
    expect(await metricsOf(owner, jobId)).toEqual([]);
    await events(anew, [endEvent(1, "stopped")]);
    const path = `jobs/${jobId}/1/${id}`;
    await start(owner, jobId, `?checkpoint_path=${encodeURIComponent(path)}`);
    expect((await take(gpu)).resume).toMatchObject({ artifact_id: id, weights_only: true });
  });

  it("is refused for a checkpoint that is not this job's, and the job stays as it was", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease, runner: gpu } = await runningJob(owner);
    const id = await checkpoint(lease, 2);
    const other = await job(owner);
    await claim(gpu);
    for (const query of [
      "?resume=true",
      `?checkpoint_path=jobs/${jobId}/1/${id}`,
      `?checkpoint_path=jobs/${other}/1/${id}`,
      "?checkpoint_path=..%2F..%2Fetc%2Fpasswd",
      "?checkpoint_path=s3%3A%2F%2Fbucket%2Fx",
    ]) {
      const answer = await start(owner, other, query);
      expect([query, answer.status, answer.body.code]).toEqual([query, 404, "CHECKPOINT_NOT_FOUND"]);
    }
    expect((await detail(owner, other)).status).toBe("pending");
  });
});

describe("stop", () => {
  it("takes a queued and an offered job out at once", async ({ expect }) => {
    const owner = await person();
    const { runner: busy } = await runningJob(owner);
    const gpu = await runner();
    const queued = await job(owner);
    await start(owner, queued);
    expect((await stop(owner, queued)).status).toBe(200);
    expect(await detail(owner, queued)).toMatchObject({ status: "stopped", phase: "stopped", attempt: 0, queue: null });
    expect((await claim(busy, 0)).status).toBe(204);

    const offered = await job(owner);
    await start(owner, offered);
    const offer = await claim(gpu, 5);
    expect((await detail(owner, offered)).phase).toBe("offered");
    expect((await stop(owner, offered)).status).toBe(200);
    const late = await call("POST", `/api/v1/internal/jobs/${offered}/accept`, {
      token: gpu.token,
      body: { fence: offer.body.fence },
    });
    expect(late.body.code).toBe("OFFER_GONE");
    expect((await stop(owner, offered)).status).toBe(200);
  });

  it("stops a pending job, which can be started later", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const jobId = await job(owner);
    expect((await stop(owner, jobId)).status).toBe(200);
    expect(await detail(owner, jobId)).toMatchObject({ status: "stopped", reason: "user_stop" });
    await claim(gpu);
    await start(owner, jobId);
    expect((await take(gpu)).attempt).toBe(1);
  });

  it("leaves a running and a suspect job: the runner hears it, saves a checkpoint, sends its tail and goes", async ({
    expect,
  }) => {
    const owner = await person();
    for (const silentS of [0, 60]) {
      const { jobId, lease } = await runningJob(owner);
      await events(lease, [epochEvent(1)]);
      clock.advanceS(silentS);
      await ring(jobId);
      expect((await detail(owner, jobId)).phase).toBe(silentS === 0 ? "running" : "suspect");
      expect((await stop(owner, jobId)).status).toBe(200);
      expect(await detail(owner, jobId)).toMatchObject({ status: "stopped", phase: "leaving" });
      expect((await heartbeat(lease)).body).toMatchObject({ desired: "stop", grace_s: 120 });
      const id = await checkpoint(lease, 2);
      await logChunk(lease, 1, "saving\n");
      const last = await events(lease, [
        epochEvent(2),
        { seq: 3, event: "checkpoint", data: { artifact_id: id, epoch: 1, role: "last" } },
        endEvent(4, "stopped", { log_chunks: { stdout: 1, stderr: 0 } }),
      ]);
      expect(last.body).toMatchObject({ ack_seq: 4, rejected: [] });
      expect(await detail(owner, jobId)).toMatchObject({ status: "stopped", phase: "stopped", current_epoch: 1 });
      expect((await metricsOf(owner, jobId)).map((point) => point.epoch)).toEqual([1]);
      expect(await logsOf(owner, jobId)).toEqual(["saving"]);
      expect((await start(owner, jobId, "?resume=true")).status).toBe(200);
      expect((await take(await runner())).resume).toMatchObject({ artifact_id: id, epoch: 1 });
    }
  });

  it("ends the wait of a finalizing job and is refused; the reported outcome stands", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await events(lease, [endEvent(2)]);
    expect((await detail(owner, jobId)).phase).toBe("finalizing");
    const answer = await stop(owner, jobId);
    expect([answer.status, answer.body.code]).toEqual([409, "INVALID_STATUS"]);
    expect(await detail(owner, jobId)).toMatchObject({ status: "completed", reason: "done", data_complete: false });
    expect((await stop(owner, jobId)).status).toBe(409);
  });

  it("fences a runner off that never hears it", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await stop(owner, jobId);
    clock.advanceS(119);
    await ring(jobId);
    expect((await detail(owner, jobId)).phase).toBe("leaving");
    clock.advanceS(1);
    await ring(jobId);
    expect(await detail(owner, jobId)).toMatchObject({ status: "stopped", phase: "stopped", data_complete: false });
    expect((await heartbeat(lease)).body.code).toBe("STALE_LEASE");
  });

  it("fences a runner off that hears it and does not go", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await stop(owner, jobId);
    for (let s = 0; s < 720; s += 60) {
      expect((await heartbeat(lease)).body.desired).toBe("stop");
      clock.advanceS(60);
      await ring(jobId);
    }
    expect((await heartbeat(lease)).body.code).toBe("STALE_LEASE");
  });

  it("and the last event have one winner when they race, and nobody gets a 500", async ({ expect }) => {
    const owner = await person();
    const outcomes = new Set<unknown>();
    for (let round = 0; round < 6; round++) {
      const { jobId, lease } = await runningJob(owner);
      const calls = [() => stop(owner, jobId), () => events(lease, [endEvent(1)])];
      const answers = await Promise.all((round % 2 === 0 ? calls : calls.reverse()).map((send) => send()));
      const statuses = answers.map((answer) => answer.status).sort();
      const { status } = await detail(owner, jobId);
      outcomes.add(status);
      expect(status === "completed" ? [200, 409] : [200, 200]).toEqual(statuses);
      expect(["completed", "stopped"]).toContain(status);
      expect(await attemptsOf(jobId)).toMatchObject([{ outcome: status }]);
    }
    expect(outcomes.size).toBeGreaterThan(0);
  });
});

describe("drain", () => {
  it("gives the job back at once when the runner says `released`, and charges nothing", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease, runner: leaving } = await runningJob(owner);
    const id = await checkpoint(lease, 1);
    const other = claim(await runner(), 5);
    const last = await events(lease, [epochEvent(1), endEvent(2, "released", { reason: "runner_shutdown" })]);
    expect(last.body).toMatchObject({ ack_seq: 2, desired: "abandon" });
    const offer = await other;
    expect(offer.body.job_id).toBe(jobId);
    expect(await attemptsOf(jobId)).toMatchObject([{ outcome: "released", reason: "runner_shutdown" }]);
    expect((await heartbeat(lease)).body.code).toBe("STALE_LEASE");
    expect((await detail(owner, jobId)).reason).toBe("runner_shutdown");
    expect(leaving.id).not.toBe(id);
  });

  it("lets a runner finish its job while it claims no more", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease, runner: gpu } = await runningJob(owner);
    await call("POST", "/api/v1/internal/runners/offline", { token: gpu.token, body: { instance_id: gpu.instanceId } });
    expect((await events(lease, [epochEvent(1), endEvent(2)])).body.ack_seq).toBe(2);
    expect((await detail(owner, jobId)).status).toBe("completed");
  });
});

describe("the tail of an ended attempt", () => {
  it("takes log chunks until it is over, and changes nothing else", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await events(lease, [epochEvent(1), endEvent(2)]);
    const before = await detail(owner, jobId);
    expect((await logChunk(lease, 1, "tail\n")).status).toBe(201);
    expect((await events(lease, [epochEvent(3, 9), endEvent(4, "failed")])).status).toBe(200);
    expect((await createArtifact(lease, new Uint8Array(1))).body.code).toBe("STALE_LEASE");
    expect(await logsOf(owner, jobId)).toEqual(["tail"]);
    expect((await metricsOf(owner, jobId)).map((point) => point.epoch)).toEqual([1]);
    expect(await detail(owner, jobId)).toEqual(before);
    clock.advanceS(600);
    // Also before the alarm has rung.
    expect((await logChunk(lease, 2, "too late\n")).body.code).toBe("STALE_LEASE");
    await ring(jobId);
    expect((await logChunk(lease, 2, "too late\n")).body.code).toBe("STALE_LEASE");
    expect((await events(lease, [])).body.code).toBe("STALE_LEASE");
  });

  it("fences off the runner of a job that is started again", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const { jobId, lease } = await runningJob(owner, gpu);
    await stop(owner, jobId);
    await start(owner, jobId);
    expect((await events(lease, [epochEvent(1)])).body.code).toBe("STALE_LEASE");
    expect((await logChunk(lease, 1, "old\n")).body.code).toBe("STALE_LEASE");
    expect(await attemptsOf(jobId)).toMatchObject([{ attempt: 1, outcome: "stopped", reason: "user_stop" }]);
    expect((await take(gpu)).attempt).toBe(2);
  });
});

describe("a job of a deleted project", () => {
  it("is fenced off in one call", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const spec = { jobId } as Parameters<ReturnType<typeof jobObject>["stop"]>[0];
    const gone = await jobObject(jobId).stop(spec, "project_deleted");
    expect(gone).toMatchObject({ ok: true, value: { status: "stopped", phase: "stopped" } });
    expect((await heartbeat(lease)).body.code).toBe("STALE_LEASE");
    expect(await detail(owner, jobId)).toMatchObject({ status: "stopped", reason: "project_deleted" });
  });
});
