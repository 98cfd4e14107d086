import { describe, it } from "vitest";
import { accept, call, claim, events, type Json, job, person, plainEvent, runner, runningJob } from "../support/api.ts";

describe("a job from start to end", () => {
  it("runs on a lease: claim, accept, events, logs, artifact, end", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const jobId = await job(owner);
    await claim(gpu);
    const start = call("POST", `/api/v1/training/jobs/${jobId}/start`, { token: owner.token });
    const offer = await claim(gpu, 5);
    expect(offer.status).toBe(200);
    expect(offer.body.job_id).toBe(jobId);
    const lease = await accept(gpu, jobId, offer.body.fence);
    const started = await start;
    expect(started.body).toMatchObject({ id: jobId, status: "running", attempt: 1 });
    expect(started.body.started_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);

    const beat = await call("POST", `/api/v1/internal/jobs/${jobId}/heartbeat`, { token: lease.token, body: {} });
    expect(beat.body).toMatchObject({ desired: "run", ack_seq: 0, lease_s: 60 });

    const answer = await events(lease, [
      { seq: 1, event: "started", data: { total_epochs: 3 } },
      { seq: 2, event: "epoch_complete", data: { epoch: 1, loss: 0.5, accuracy: 0.8, learning_rate: 0.001 } },
      { seq: 3, event: "nonsense", data: {} },
      { seq: 4, event: "epoch_complete", data: { epoch: 2, loss: "NaN", accuracy: 0.9 } },
    ]);
    expect(answer.body).toMatchObject({ status: "received", job_id: jobId, ack_seq: 4, missing: [] });
    expect(answer.body.rejected).toEqual([
      expect.objectContaining({ seq: 3, code: "VALIDATION_ERROR", field: "event" }),
    ]);

    const chunk = await call("PUT", `/api/v1/internal/jobs/${jobId}/logs/stdout/1`, {
      token: lease.token,
      body: "[INFO] Starting training...\nepoch 1\n",
    });
    expect([chunk.status, chunk.body]).toEqual([201, { next_seq: 2 }]);

    const bytes = new TextEncoder().encode("weights");
    const sha256 = "9def9ea73af2f10ff17bd2c1f7a8fbb3fca5fe77f4eee4eeb8afd4a8e9fea7e5";
    const wrong = await call("POST", `/api/v1/internal/jobs/${jobId}/artifacts`, {
      token: lease.token,
      body: { kind: "checkpoint", name: "last.state", size: bytes.byteLength, sha256, epoch: 2, role: "last" },
    });
    expect(wrong.status).toBe(201);
    const part = await call("PUT", `/api/v1/internal/jobs/${jobId}/artifacts/${wrong.body.artifact_id}/parts/1`, {
      token: lease.token,
      body: bytes,
      headers: { "content-length": String(bytes.byteLength) },
    });
    expect(part.status).toBe(422);

    const metrics = await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/metrics`, { token: owner.token });
    expect(metrics.body).toMatchObject([
      { id: 1, job_id: jobId, epoch: 1, loss: 0.5, accuracy: 0.8, learning_rate: 0.001, extra_metrics: {} },
      { epoch: 2, loss: null, accuracy: 0.9, non_finite: ["loss"] },
    ]);
    const logs = await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/logs`, { token: owner.token });
    expect(logs.body.map((line) => line.message)).toEqual(["[INFO] Starting training...", "epoch 1"]);

    const end = await events(lease, [
      { seq: 5, event: "completed", data: { exit_code: 0, log_chunks: { stdout: 1, stderr: 0 } } },
    ]);
    // The attempt is over; its runner may still have a log tail to send, so it is not told to drop it.
    expect(end.body).toMatchObject({ ack_seq: 5, desired: "run" });
    const detail = await call("GET", `/api/v1/training/jobs/${jobId}`, { token: owner.token });
    expect(detail.body).toMatchObject({
      status: "completed",
      reason: "done",
      data_complete: true,
      current_epoch: 2,
      total_epochs: 3,
      best: { value: 0.9, epoch: 2 },
      runner_id: gpu.id,
    });
  });

  it("runs on the contract's plain callback alone", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const first = await plainEvent(jobId, "epoch_complete", {
      epoch: 10,
      loss: 0.45,
      accuracy: 0.85,
      learning_rate: 0.0008,
    });
    expect([first.status, first.body]).toEqual([200, { status: "received", job_id: jobId }]);
    await plainEvent(jobId, "epoch_complete", { epoch: 10, loss: 0.45, accuracy: 0.85, learning_rate: 0.0008 });
    const metrics = await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/metrics`, { token: owner.token });
    expect(metrics.body).toHaveLength(1);
    await plainEvent(jobId, "completed", {});
    await plainEvent(jobId, "failed", { message: "lost answer" });
    const detail = await call("GET", `/api/v1/training/jobs/${jobId}`, { token: owner.token });
    expect(detail.body).toMatchObject({ status: "completed", current_epoch: 10 });
  });

  it("stops a running job at once and lets its runner leave", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const stopped = await call("POST", `/api/v1/training/stop/${jobId}`, { token: owner.token });
    expect([stopped.status, stopped.body]).toEqual([
      200,
      { job_id: jobId, status: "stopped", message: "Training job stopped successfully" },
    ]);
    const late = await events(lease, [{ seq: 1, event: "epoch_complete", data: { epoch: 1, loss: 1 } }]);
    expect(late.body).toMatchObject({ desired: "stop", ack_seq: 1 });
    const metrics = await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/metrics`, { token: owner.token });
    expect(metrics.body).toEqual([]);
    await events(lease, [{ seq: 2, event: "stopped", data: {} }]);
    const detail = await call("GET", `/api/v1/training/jobs/${jobId}`, { token: owner.token });
    expect(detail.body).toMatchObject({ status: "stopped", phase: "stopped", reason: "user_stop" });
  });

  it("answers 503 and stays pending when no live runner has the framework", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner, { config: { framework: "ultralytics", model_name: "yolo11n-cls" } });
    const start = await call("POST", `/api/v1/training/jobs/${jobId}/start`, { token: owner.token });
    expect([start.status, start.body.code]).toEqual([503, "TRAINING_SERVICE_UNAVAILABLE"]);
    const detail = await call("GET", `/api/v1/training/jobs/${jobId}`, { token: owner.token });
    expect(detail.body).toMatchObject({ status: "pending", started_at: null });
  });
});
