/** The child of `worker-process.ts`: serves the production bundle until it is killed. */
import { z } from "zod";
import { startBenchServer } from "../bench/server.ts";
import { READY, type WorkerProcessOptions } from "./worker-process.ts";

const CRON_MS = 60_000;

const OptionsSchema = z.object({
  folder: z.string(),
  port: z.int(),
  settings: z.record(z.string(), z.string()),
  statements: z.array(z.string()),
  isRestart: z.boolean(),
});

const { folder, port, settings, statements, isRestart }: WorkerProcessOptions = OptionsSchema.parse(
  JSON.parse(process.argv[2] ?? ""),
);
const server = await startBenchServer(folder, settings, { port, isRestart });
if (!isRestart && statements.length > 0) await server.db.batch(statements.map((text) => server.db.prepare(text)));
console.log(READY);
setInterval(() => {
  // Deployed, the platform does this.
  server.tick().catch((error: unknown) => console.error("cron", error));
  for (const line of server.complaints.splice(0)) console.error(line);
}, CRON_MS);
// Nobody is left to kill it.
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) process.exit(1);
}, 1_000);
