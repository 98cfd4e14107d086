import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { TrainerCommand, TrainerJob, TrainerMessage } from "../../../runner/embedded/trainer-messages.ts";

/**
 * A trainer for tests of everything around training: its epochs last 100 ms, its loss is 1/epoch, its state is the number of
 * the epoch, and it prints one line to each stream in every epoch. `seed` of the job chooses how it behaves:
 * 1 dies with exit code 3 in epoch 3 · 2 kills itself in epoch 3 · 3 ignores every wish to stop.
 */
const job = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as TrainerJob;
const { epochs, advanced_config } = job.spec as { epochs: number; advanced_config: { seed?: number } };
const behaviour = advanced_config.seed ?? 0;

const EPOCH_MS = 100;
let stopping = false;
const stop = () => {
  stopping = behaviour !== 3;
};
process.on("message", (command: TrainerCommand) => {
  if (command.type === "stop") stop();
});
process.on("disconnect", stop);
process.on("SIGTERM", stop);

const send = (message: TrainerMessage) =>
  new Promise<void>((resolve) => {
    if (process.connected) process.send?.(message, undefined, undefined, () => resolve());
    else resolve();
  });

async function save(epoch: number): Promise<void> {
  const folder = join(job.workDir, "checkpoints");
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `last-${epoch}.state`);
  writeFileSync(`${path}.tmp`, JSON.stringify({ epoch }));
  renameSync(`${path}.tmp`, path);
  await send({ type: "checkpoint", epoch, role: "last", files: [{ kind: "checkpoint", path, name: "last.state" }] });
}

const resumed =
  job.resume === null ? 0 : (JSON.parse(readFileSync(job.resume.path, "utf8")) as { epoch: number }).epoch;
if (!existsSync(job.dataDir)) throw new Error("no data");
await send({ type: "started", totalEpochs: epochs });
console.log(`begins after epoch ${resumed}`);
let epoch = resumed;
while (epoch < epochs && !stopping) {
  await sleep(EPOCH_MS);
  epoch += 1;
  if (epoch === 3 && behaviour === 1) {
    process.stderr.write("the disk of the trainer is on fire\n");
    process.exit(3);
  }
  if (epoch === 3 && behaviour === 2) process.kill(process.pid, "SIGKILL");
  console.log(`line of epoch ${epoch}`);
  console.error(`remark of epoch ${epoch}`);
  await send({ type: "epoch", epoch, loss: 1 / epoch, accuracy: 0.5, learningRate: 0.001, extraMetrics: {} });
  if (epoch % 5 === 0) await save(epoch);
}
if (stopping) await save(epoch);
await send({ type: "finished", reason: stopping ? "user_stop" : "done" });
process.disconnect?.();
