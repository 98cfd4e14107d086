import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, describe, it } from "vitest";
import { decodeState } from "../../../runner/embedded/trainer/state.ts";
import type { TrainerJob, TrainerMessage } from "../../../runner/embedded/trainer-messages.ts";
import { checkpointManifestSchema } from "../../../src/training/inference/manifest.ts";
import { flatPng, ofType, spec, writeFiles } from "./support.ts";

/** The trainer as the agent runs it: a process of its own, on real files. */

const MAIN = new URL("../../../runner/embedded/trainer/main.ts", import.meta.url).pathname;

let root = "";
let dataDir = "";
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "trainer-main-"));
  dataDir = join(root, "data");
  const files: Record<string, Uint8Array> = {};
  for (let i = 0; i < 12; i += 1) {
    files[`train/left/${i}.png`] = flatPng(8, [i * 8]);
    files[`train/right/${i}.png`] = flatPng(8, [255 - i * 8]);
  }
  files["val/left/0.png"] = flatPng(8, [20]);
  files["val/right/0.png"] = flatPng(8, [230]);
  await writeFiles(dataDir, files);
});
afterAll(() => rm(root, { recursive: true, force: true }));

type Ended = { code: number | null; messages: TrainerMessage[]; stdout: string; stderr: string; workDir: string };

let jobs = 0;

/** Runs a job to its end; `on` sees each message as it arrives. */
async function run(
  job: Partial<TrainerJob>,
  on: (message: TrainerMessage, child: ChildProcess) => void = () => {},
): Promise<Ended> {
  jobs += 1;
  const workDir = join(root, `work-${jobs}`);
  await mkdir(workDir);
  const file = join(workDir, "job.json");
  await writeFile(file, JSON.stringify({ spec: spec(), dataDir, workDir, resume: null, ...job }));
  const child = fork(MAIN, [file], { stdio: ["ignore", "pipe", "pipe", "ipc"] });
  const messages: TrainerMessage[] = [];
  if (!child.stdout || !child.stderr) throw new Error("unreachable");
  const output = Promise.all([text(child.stdout), text(child.stderr)]);
  child.on("message", (message: TrainerMessage) => {
    messages.push(message);
    on(message, child);
  });
  const [code] = await once(child, "exit");
  const [stdout, stderr] = await output;
  return { code, messages, workDir, stdout, stderr };
}

const long = spec({ epochs: 1000 });

/** Reads the newest state that was announced. */
async function newestState(messages: TrainerMessage[]) {
  const last = ofType(messages, "checkpoint").findLast(({ role }) => role === "last");
  const path = last?.files.find(({ kind }) => kind === "checkpoint")?.path ?? "";
  const decoded = decodeState(await readFile(path));
  if (!decoded.ok) throw new Error(decoded.error);
  return { path, state: decoded.value };
}

describe("the trainer process", () => {
  it("trains, reports and leaves complete files", async ({ expect }) => {
    const { code, messages, stdout, stderr, workDir } = await run({ spec: spec({ epochs: 3 }) });
    expect(code).toBe(0);
    expect(stderr).toMatch(/^warning: Only 26 images.*\n$/);
    expect(messages[0]).toEqual({ type: "started", totalEpochs: 3 });
    expect(messages.at(-1)).toEqual({ type: "finished", reason: "done" });
    expect(ofType(messages, "epoch").map(({ epoch }) => epoch)).toEqual([1, 2, 3]);
    const checkpoints = ofType(messages, "checkpoint");
    expect(checkpoints.filter(({ role }) => role === "last")).toHaveLength(3);
    expect(checkpoints.some(({ role }) => role === "best")).toBe(true);
    for (const file of checkpoints.flatMap(({ files }) => files)) {
      expect((await readFile(file.path)).length).toBeGreaterThan(1000);
      if (file.kind === "model") expect(checkpointManifestSchema.parse(file.manifest)).toEqual(file.manifest);
    }
    expect((await readdir(join(workDir, "checkpoints"))).filter((name) => name.endsWith(".tmp"))).toEqual([]);
    expect(stdout).toMatch(/24 training and 2 validation images/);
    expect(stdout).toMatch(/epoch 3\/3 .* val acc/);
  });

  it("saves and stops on command, goes on from there, and stops on SIGTERM", async ({ expect }) => {
    const endless = spec({ epochs: 1000, advanced_config: { checkpoint_interval: 1000 } });
    let asked = 0;
    const first = await run({ spec: endless }, (message, child) => {
      if (message.type === "epoch" && message.epoch === 1) child.send({ type: "checkpoint" });
      if (message.type !== "checkpoint" || message.role !== "last") return;
      asked += 1;
      if (asked === 1) child.send({ type: "stop" });
    });
    expect(first.code).toBe(0);
    expect(first.messages.at(-1)).toEqual({ type: "finished", reason: "user_stop" });
    expect(asked).toBe(2);
    const { path, state } = await newestState(first.messages);
    expect(state.epoch).toBeGreaterThanOrEqual(1);
    expect(state.epoch).toBeLessThan(1000);

    const second = await run({ spec: endless, resume: { path, epoch: state.epoch } }, (message, child) => {
      if (message.type === "epoch") child.kill("SIGTERM");
    });
    expect(second.code).toBe(0);
    expect(second.messages.at(-1)).toEqual({ type: "finished", reason: "user_stop" });
    expect(second.stdout).toContain(`resumed after epoch ${state.epoch}`);
    expect(ofType(second.messages, "epoch")[0]?.epoch).toBe(state.epoch + 1);
    expect((await newestState(second.messages)).state.epoch).toBeGreaterThan(state.epoch);
  });

  it("stops with a checkpoint when the agent is gone", async ({ expect }) => {
    const { code, workDir, stdout } = await run({ spec: long }, (message, child) => {
      if (message.type === "epoch" && child.connected) child.disconnect();
    });
    expect(code).toBe(0);
    expect(stdout).toContain("checkpoint saved");
    expect((await readdir(join(workDir, "checkpoints"))).some((name) => name.endsWith(".state"))).toBe(true);
  });

  it("names the setting that it does not support", async ({ expect }) => {
    const refused = spec({ advanced_config: { scheduler: { type: "one_cycle" } } });
    const { code, messages, stderr } = await run({ spec: refused });
    expect(code).toBe(1);
    expect(messages).toEqual([
      {
        type: "finished",
        reason: "invalid_config",
        message: expect.stringMatching(/^advanced_config\.scheduler\.type: /),
      },
    ]);
    expect(stderr).toContain("invalid_config: advanced_config.scheduler.type");
  });

  it("says when no image can be read", async ({ expect }) => {
    const broken = join(root, "broken");
    await writeFiles(broken, { "left/1.png": "nothing", "right/1.png": "nothing" });
    const { code, messages, stderr } = await run({ dataDir: broken });
    expect(code).toBe(1);
    expect(messages).toMatchObject([{ type: "finished", reason: "dataset_unavailable" }]);
    expect(stderr).toMatch(/warning: left\/1\.png: .*\n/);
  });

  it("refuses a damaged state", async ({ expect }) => {
    const path = join(root, "damaged.state");
    await writeFile(path, "CVSTATE1 and then nothing");
    const { code, messages } = await run({ resume: { path, epoch: 1 } });
    expect(code).toBe(1);
    expect(messages).toMatchObject([{ type: "finished", reason: "checkpoint_corrupt" }]);
  });

  it("refuses a job file that is none", async ({ expect }) => {
    const { code, messages } = await run({ workDir: "" });
    expect(code).toBe(1);
    expect(messages).toMatchObject([
      { type: "finished", reason: "exit_nonzero", message: expect.stringContaining("workDir") },
    ]);
  });
});
