import { randomBytes } from "node:crypto";
import { appendFileSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { TrainerCommand, TrainerJob, TrainerMessage } from "../../runner/embedded/trainer-messages.ts";

/**
 * A trainer that learns nothing: it sleeps, reports, prints and saves, and notes in `CHAOS_EMITTED` each point it has reported,
 * so that what readers are shown can be held against it. Each point has a loss of its own and each line is unlike all others.
 * `seed` of the job: 1 dies in epoch 4 · 2 says that the job is invalid · 3 does not listen when it should stop.
 */
const EPOCH_MS = Number(process.env.CHAOS_EPOCH_MS ?? 300);
const SAVES_EVERY = 4;
const DIES_IN = 4;

const job = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as TrainerJob;
const { epochs, advanced_config } = job.spec as { epochs: number; advanced_config: { seed?: number } };
const behaviour = advanced_config.seed ?? 0;
const emitted = process.env.CHAOS_EMITTED;
const nonce = randomBytes(6).toString("hex");

let stopping = false;
const stop = () => {
  stopping = behaviour !== 3;
};
process.on("message", (command: TrainerCommand) => {
  if (command.type === "stop") stop();
});
// Without its agent nobody hears it; a deaf one ends too, or it would run for ever.
process.on("disconnect", () => {
  stopping = true;
});
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
  writeFileSync(`${path}.tmp`, JSON.stringify({ epoch, nonce }));
  renameSync(`${path}.tmp`, path);
  await send({ type: "checkpoint", epoch, role: "last", files: [{ kind: "checkpoint", path, name: "last.state" }] });
}

const resumed =
  job.resume === null ? 0 : (JSON.parse(readFileSync(job.resume.path, "utf8")) as { epoch: number }).epoch;
await send({ type: "started", totalEpochs: epochs });
console.log(`${nonce} begins after epoch ${resumed}`);
if (behaviour === 2) {
  await send({ type: "finished", reason: "invalid_config", message: "config.seed: this trainer refuses 2" });
  process.exit(0);
}
let epoch = resumed;
while (epoch < epochs && !stopping) {
  await sleep(EPOCH_MS);
  epoch += 1;
  if (behaviour === 1 && epoch >= DIES_IN) {
    console.error(`${nonce} dies`);
    process.exit(3);
  }
  const loss = Math.random();
  if (emitted !== undefined) appendFileSync(emitted, `${JSON.stringify({ epoch, loss })}\n`);
  await send({ type: "epoch", epoch, loss, accuracy: epoch / epochs, learningRate: 0.001, extraMetrics: {} });
  console.log(`${nonce} line of epoch ${epoch}`);
  if (epoch % 3 === 0) console.error(`${nonce} remark of epoch ${epoch}`);
  if (epoch % SAVES_EVERY === 0) await save(epoch);
}
if (stopping) await save(epoch);
await send({ type: "finished", reason: stopping ? "user_stop" : "done" });
process.disconnect?.();
