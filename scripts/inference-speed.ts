/**
 * How fast models answer in the Worker, beside ONNX Runtime on the same machine: `npm run bench:inference`. The table that
 * `npm run bench` ends with, alone. Runs the production bundle in workerd and onnxruntime-node with one thread in turns with it.
 * `--native DIR`: a folder whose node_modules has onnxruntime-node (`none`: do without); by default it is installed once
 * into the user's cache. `--runs N`: answers of each warm model.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MODELS_NOTE, measureModels, renderModels } from "./bench/models.ts";
import { openNative } from "./bench/native.ts";
import { makeWorkplace, startBenchServer } from "./bench/server.ts";
import { createWorld } from "./bench/world.ts";
import "./gen.ts";

const { values } = parseArgs({ options: { native: { type: "string" }, runs: { type: "string", default: "12" } } });
const runs = Number(values.runs);
if (!Number.isInteger(runs) || runs < 3) throw new Error("--runs is a whole number from 3 on");

const say = (text: string) => process.stderr.write(`${text}\n`);
const native = await openNative(values.native, say);
const workplace = makeWorkplace();
// Miniflare ends the process at a signal by itself, and with it the runtime; the folder must not stay then either.
process.on("exit", () => workplace.remove());
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(130));

const server = await startBenchServer(workplace.folder, {});
try {
  const world = await createWorld(server);
  const rows = await measureModels(world, native, { folder: join(workplace.folder, "native"), runs, say });
  console.log(`${renderModels(rows, true)}\n\n${MODELS_NOTE}`);
  world.close();
} finally {
  native?.stop();
  await server.dispose();
  workplace.remove();
}
