import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { FinishReason, TrainerCommand, TrainerJob, TrainerMessage } from "../trainer-messages.ts";
import { parseConfig, type TrainerConfig } from "./config.ts";
import { type DataFailure, findSamples, loadData } from "./data.ts";
import { CheckpointStore } from "./files.ts";
import { loadDecoder } from "./images.ts";
import { FILTERS, MAX_WEIGHTS, parameterCount } from "./network.ts";
import { loadRowKernel } from "./row-kernel.ts";
import { decodeState, type TrainerState, whyUnfit } from "./state.ts";
import { manifestOf, startingState, train } from "./train.ts";

/**
 * The child process that trains one job: `node main.ts JOB_FILE`, started by the agent with an IPC channel. This file is
 * its rim: arguments, channel, signals, exit code. Without a channel it trains just as well and says so on stdout only.
 */

const jobSchema = z.object({
  spec: z.unknown(),
  dataDir: z.string().min(1),
  workDir: z.string().min(1),
  resume: z
    .object({ path: z.string().min(1), epoch: z.number(), weightsOnly: z.boolean().optional() })
    .nullable()
    .default(null),
});

type Finish = { reason: FinishReason; message?: string };

const control = { stop: false, checkpoint: false };

function listen(): void {
  process.on("message", (command: TrainerCommand) => {
    if (command.type === "stop") control.stop = true;
    if (command.type === "checkpoint") control.checkpoint = true;
  });
  process.on("SIGTERM", () => {
    control.stop = true;
  });
  process.on("SIGINT", () => {
    // Ctrl-C reaches the whole group of processes; what it means for the job is the agent's decision.
    if (!process.connected) control.stop = true;
  });
  process.on("disconnect", () => {
    control.stop = true;
  });
  // With the agent gone nobody reads the lines, and writing them must not end the run before its checkpoint.
  process.stdout.on("error", () => {});
  process.stderr.on("error", () => {});
}

const agentGone = new Promise<void>((resolve) => void process.once("disconnect", resolve));

/** Resolves when the message has left, or cannot any more: a lost agent is noticed by the disconnect, not here. */
const send = (message: TrainerMessage) => {
  const sent = new Promise<void>((resolve) => {
    if (!process.send || !process.connected) resolve();
    else process.send(message, undefined, undefined, () => resolve());
  });
  // A message that is on its way when the channel closes is never called back.
  return Promise.race([sent, agentGone]);
};

const log = (line: string) => void process.stdout.write(`${line}\n`);
const warn = (line: string) => void process.stderr.write(`warning: ${line}\n`);

async function main(): Promise<Finish> {
  const job: TrainerJob = jobSchema.parse(JSON.parse(await readFile(process.argv[2] ?? "", "utf8")));
  const parsed = parseConfig(job.spec);
  if (!parsed.ok) return { reason: "invalid_config", message: `${parsed.error.field}: ${parsed.error.message}` };
  const config = parsed.value;

  const samples = await findSamples(job.dataDir, config);
  if (!samples.ok) return dataFailure(samples.error);
  for (const line of samples.value.warnings) warn(line);

  const { classNames } = samples.value;
  const weights = parameterCount({
    size: config.input.size,
    channels: 3,
    classes: classNames.length,
    filters: FILTERS,
  });
  if (weights > MAX_WEIGHTS) {
    const shape = `${classNames.length} classes and images of ${config.input.size} pixels`;
    return {
      reason: "invalid_config",
      message: `image_size: ${shape} need ${weights} weights, at most ${MAX_WEIGHTS}`,
    };
  }

  const resumed = await readState(job, config, classNames);
  if (!resumed.ok) return { reason: "checkpoint_corrupt", message: resumed.message };

  const loaded = await loadData({
    dataDir: job.dataDir,
    samples: samples.value,
    input: config.input,
    resumed: resumed.state?.manifest.input ?? null,
    decode: await loadDecoder(),
    kernel: loadRowKernel(),
    cancelled: () => control.stop,
    warn,
  });
  if (!loaded.ok) return dataFailure(loaded.error);
  if (loaded.value === null) return { reason: "user_stop" };
  const data = loaded.value;
  if (config.validation !== null && data.validation.images.length === 0) {
    if (config.validation.earlyStopping !== null) {
      return {
        reason: "invalid_config",
        message: "advanced_config.validation.early_stopping: there are no images for validation",
      };
    }
    warn("there are no images for validation: accuracy is that of the training images");
  }

  const { state } = resumed;
  const from = state && { state, weightsOnly: job.resume?.weightsOnly === true };
  const store = new CheckpointStore(join(job.workDir, "checkpoints"), config.keepCheckpoints);
  const outcome = await train(config, data, startingState(config, manifestOf(data), from), {
    send,
    save: (checkpoint) => store.save(checkpoint),
    log,
    stopRequested: () => control.stop,
    takeCheckpointRequest: () => {
      const requested = control.checkpoint;
      control.checkpoint = false;
      return requested;
    },
    clock: () => performance.now(),
  });
  return { reason: outcome.reason, message: outcome.message };
}

const dataFailure = (error: DataFailure): Finish =>
  error.code === "CONFIG"
    ? { reason: "invalid_config", message: error.field ? `${error.field}: ${error.message}` : error.message }
    : { reason: "dataset_unavailable", message: error.message };

async function readState(
  job: TrainerJob,
  config: TrainerConfig,
  labels: string[],
): Promise<{ ok: true; state: TrainerState | null } | { ok: false; message: string }> {
  if (job.resume === null) return { ok: true, state: null };
  const weightsOnly = job.resume.weightsOnly === true;
  let bytes: Uint8Array;
  try {
    bytes = await readFile(job.resume.path);
  } catch (error) {
    return { ok: false, message: `the state cannot be read: ${messageOf(error)}` };
  }
  const decoded = decodeState(bytes);
  if (!decoded.ok) return { ok: false, message: decoded.error };
  const state = decoded.value;
  const unfit = whyUnfit(state, { labels, size: config.input.size, optimizerType: config.optimizer.type, weightsOnly });
  if (unfit !== null) return { ok: false, message: unfit };
  if (!weightsOnly && state.epoch !== job.resume.epoch) {
    warn(`the state has ${state.epoch} complete epochs, not ${job.resume.epoch}; it is believed`);
  }
  return { ok: true, state };
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

listen();
const finish = await main().catch((error: unknown): Finish => {
  process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  return { reason: "exit_nonzero", message: messageOf(error) };
});
if (finish.message !== undefined && finish.reason !== "done")
  process.stderr.write(`${finish.reason}: ${finish.message}\n`);
else log(`finished: ${finish.reason}`);
await send({ type: "finished", ...finish });
process.exitCode = finish.reason === "done" || finish.reason === "user_stop" ? 0 : 1;
// The open channel would keep the process alive.
if (process.connected) process.disconnect();
