import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, it } from "vitest";
import { greyPng } from "../../scripts/lib/png.ts";
import { type Json, type LogLine, User } from "./support/api.ts";
import { RunnerProcess, SCRIPTED_TRAINER } from "./support/runner.ts";
import { type FlowServer, startServer } from "./support/server.ts";

/** The runner as a process, the server as a process, HTTP in between. */

const SIDE = 10;
const PER_CLASS = { train: 12, val: 8 };
/** Short times, so that what takes minutes in use takes seconds here. */
const TIMERS = {
  heartbeat_s: 0.5,
  claim_wait_s: 5,
  offer_s: 5,
  lease_s: 4,
  lost_after_s: 60,
  stop_grace_s: 10,
  finalize_s: 20,
  retry_base_s: 0.2,
  retry_cap_s: 2,
};

let server: FlowServer;
let user: User;
let datasetId: string;
let folder: string;
const runners: RunnerProcess[] = [];

/** A runner that is ready for work. */
async function runner(name: string, ...args: string[]): Promise<RunnerProcess> {
  const started = new RunnerProcess(server.url, join(folder, name), "--name", name, ...args);
  runners.push(started);
  await started.says(/ready: /);
  return started;
}
const scripted = (name: string, ...args: string[]) =>
  runner(name, "--trainer", `embedded=${SCRIPTED_TRAINER}`, ...args);

/** Two classes: bright on the left, bright on the right; every image is another one. */
function image(left: boolean, index: number): Uint8Array<ArrayBuffer> {
  const samples = Uint8Array.from({ length: SIDE * SIDE }, (_, at) => {
    const bright = at % SIDE < SIDE / 2 === left;
    return (bright ? 200 : 20) + ((at * 7 + index * 13) % 40);
  });
  return Uint8Array.from(greyPng(samples, SIDE, SIDE));
}

async function createDataset(): Promise<string> {
  const form = new FormData();
  form.set("name", "sides");
  form.set("format", "imagefolder");
  for (const [split, count] of Object.entries(PER_CLASS)) {
    for (const side of ["left", "right"]) {
      for (let index = 0; index < count; index += 1) {
        const bytes = image(side === "left", index + (split === "val" ? 100 : 0));
        form.append("files", new File([bytes], `${split}/${side}/${index}.png`, { type: "image/png" }));
      }
    }
  }
  return (await user.call<{ id: string }>("POST", "/datasets", form)).id;
}

const job = (epochs: number, advanced: Json = {}) =>
  user.createJob({ dataset_id: datasetId, epochs, batch_size: 8, learning_rate: 0.01, advanced_config: advanced });
const numbers = (count: number, from = 1) => Array.from({ length: count }, (_, i) => from + i);
const messages = (lines: LogLine[], stream: string) =>
  lines.filter(({ log_type }) => log_type === stream).map(({ message }) => message);

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cultivar-runner-"));
  server = await startServer(TIMERS);
  user = await User.logIn(server.url);
  datasetId = await createDataset();
}, 90_000);

afterEach(async () => {
  await Promise.all(runners.splice(0).map((started) => started.dispose()));
});

afterAll(async () => {
  await server?.dispose();
  await rm(folder, { recursive: true, force: true });
});

describe("the embedded runner", () => {
  it("trains a job to its end: metrics, logs, validation, images, a usable checkpoint", async ({ expect }) => {
    const once = await runner("once", "--once");
    const jobId = await job(3, { preprocessing: { image_size: SIDE } });
    await user.start(jobId);
    const done = await user.until(jobId, ({ status }) => status === "completed" || status === "failed");
    expect(done).toMatchObject({
      status: "completed",
      reason: "done",
      attempt: 1,
      current_epoch: 3,
      data_complete: true,
    });

    const metrics = await user.metrics(jobId);
    expect(metrics.map(({ epoch }) => epoch)).toEqual([1, 2, 3]);
    const logs = messages(await user.logs(jobId), "stdout");
    expect(logs.filter((line) => /^epoch \d\/3 /.test(line))).toHaveLength(3);
    expect(logs.at(-1)).toBe("finished: done");

    const { results } = await user.call<{ results: { id: number; epoch: number; confusion_matrix: number[][] }[] }>(
      "GET",
      `/validation/results/${jobId}`,
    );
    expect(results.map(({ epoch }) => epoch).sort()).toEqual([1, 2, 3]);
    const images = 2 * PER_CLASS.val;
    expect(results[0]?.confusion_matrix.flat().reduce((sum, count) => sum + count, 0)).toBe(images);
    const page = await user.call<{ total: number; images: { image_path: string }[] }>(
      "GET",
      `/validation/images/${results[0]?.id}`,
    );
    expect(page.total).toBe(images);
    expect(page.images.map(({ image_path }) => image_path)).toContain("val/left/0.png");

    const form = new FormData();
    form.set("training_job_id", String(jobId));
    form.set("file", new File([image(true, 500)], "unseen.png"));
    const answer = await user.call<{ predictions: { label: string }[]; checkpoint: Json }>(
      "POST",
      "/test-inference",
      form,
    );
    expect(answer.predictions).toHaveLength(2);
    expect(answer.checkpoint).toMatchObject({ role: "best" });

    expect(await once.ended()).toBe(0);
    expect(await readdir(join(folder, "once/attempts"))).toEqual([]);
  });

  it("stops a job, keeps its last checkpoint, and goes on from it", async ({ expect }) => {
    const worker = await runner("stopping");
    const jobId = await job(500, { preprocessing: { image_size: SIDE } });
    await user.start(jobId);
    await user.until(jobId, ({ current_epoch }) => current_epoch >= 2);
    expect(await user.stop(jobId)).toMatchObject({ status: "stopped" });
    const stopped = await user.until(jobId, ({ phase }) => phase !== "leaving");
    expect(stopped).toMatchObject({ status: "stopped", phase: "stopped", reason: "user_stop", data_complete: true });
    await worker.says(/stopped \(user_stop\)/);
    const before = await user.metrics(jobId);

    await user.start(jobId, "?resume=true");
    const resumed = await user.until(jobId, (now) => now.current_epoch >= stopped.current_epoch + 3);
    expect(resumed).toMatchObject({ status: "running", attempt: 2 });
    const second = (await user.metrics(jobId)).filter(({ attempt }) => attempt === 2).map(({ epoch }) => epoch);
    // What was trained between the stop and the last checkpoint is not done again (and has no point of its own).
    expect(second[0]).toBeGreaterThan(before.length);
    expect(second).toEqual(numbers(second.length, second[0]));
    expect(messages(await user.logs(jobId), "stdout")).toContainEqual(expect.stringMatching(/^resumed after epoch/));
    await user.stop(jobId);
    await user.until(jobId, ({ phase }) => phase === "stopped");
  });

  it("loses nothing and repeats nothing when the server is killed in the middle", async ({ expect }) => {
    const worker = await scripted("outage", "--once");
    const jobId = await job(40);
    await user.start(jobId);
    await user.until(jobId, ({ current_epoch }) => current_epoch >= 10);
    await server.kill();
    await sleep(1_500);
    await server.start();
    const done = await user.until(jobId, ({ status }) => status !== "running");
    expect(done).toMatchObject({ status: "completed", attempt: 1, data_complete: true });
    expect((await user.metrics(jobId)).map(({ epoch }) => epoch)).toEqual(numbers(40));
    const logs = await user.logs(jobId);
    expect(messages(logs, "stdout").filter((line) => line.startsWith("line"))).toEqual(
      numbers(40).map((epoch) => `line of epoch ${epoch}`),
    );
    expect(messages(logs, "stderr")).toEqual(numbers(40).map((epoch) => `remark of epoch ${epoch}`));
    expect(await worker.ended()).toBe(0);
  });

  it("reports a job as lost when it is started again after kill -9, and takes it up from its checkpoint", async ({
    expect,
  }) => {
    const first = await scripted("killed");
    const jobId = await job(25);
    await user.start(jobId);
    await user.until(jobId, ({ current_epoch }) => current_epoch >= 12);
    first.signal("SIGKILL");
    await first.ended();
    const second = new RunnerProcess(server.url, join(folder, "killed"), "--trainer", `embedded=${SCRIPTED_TRAINER}`);
    runners.push(second);
    await second.says(/leftover .*(reported: failed \(runner_lost\)|dropped)/);
    const done = await user.until(jobId, ({ status }) => status === "completed");
    expect(done).toMatchObject({ attempt: 2 });
    const metrics = await user.metrics(jobId);
    expect(metrics.map(({ epoch }) => epoch)).toEqual(numbers(25));
    const again = metrics.filter(({ attempt }) => attempt === 2);
    // Epoch 10 was the last one with a checkpoint that was surely stored.
    expect(again[0]?.epoch).toBeGreaterThanOrEqual(6);
  });

  it("finishes its job after one SIGTERM and gives it back after two", async ({ expect }) => {
    const patient = await scripted("patient");
    const finished = await job(10);
    await user.start(finished);
    await user.until(finished, ({ current_epoch }) => current_epoch >= 2);
    patient.signal("SIGTERM");
    expect(await patient.ended()).toBe(0);
    expect(await user.job(finished)).toMatchObject({ status: "completed", attempt: 1 });

    const hurried = await scripted("hurried");
    const released = await job(200);
    await user.start(released);
    await user.until(released, ({ current_epoch }) => current_epoch >= 2);
    hurried.signal("SIGTERM");
    await hurried.says(/finishing 1 job/);
    hurried.signal("SIGTERM");
    expect(await hurried.ended()).toBe(0);
    const queued = await user.job(released);
    expect(queued).toMatchObject({ status: "queued" });

    await scripted("successor");
    const taken = await user.until(released, ({ attempt, current_epoch }) => attempt === 2 && current_epoch >= 4);
    const metrics = await user.metrics(released);
    expect(metrics.map(({ epoch }) => epoch)).toEqual(numbers(metrics.length));
    expect(taken.status).toBe("running");
    await user.stop(released);
    await user.until(released, ({ phase }) => phase === "stopped");
  });

  it("says why a trainer died, and goes on to the next job", async ({ expect }) => {
    await scripted("deaths");
    const burnt = await job(5, { seed: 1 });
    await user.start(burnt);
    const failed = await user.until(burnt, ({ status }) => status === "failed");
    expect(failed).toMatchObject({ reason: "exit_nonzero", data_complete: true });
    expect(failed.message).toMatch(/exit code 3[\s\S]*on fire/);
    const killed = await job(5, { seed: 2 });
    await user.start(killed);
    expect((await user.until(killed, ({ status }) => status === "failed")).message).toMatch(/SIGKILL/);
  });
});
