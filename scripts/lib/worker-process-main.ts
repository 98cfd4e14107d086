/** The child of `worker-process.ts`: serves the production bundle until it is killed. */
import { z } from "zod";
import { startBenchServer } from "../bench/server.ts";
import { type ExecuteOrder, READY, type WorkerProcessOptions } from "./worker-process.ts";

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

const OrderSchema = z.object({ sql: z.string(), values: z.array(z.union([z.string(), z.number()])) });
process.on("message", async (message) => {
  try {
    const { sql, values }: ExecuteOrder = OrderSchema.parse(message);
    await server.db
      .prepare(sql)
      .bind(...values)
      .run();
    process.send?.(null);
  } catch (error) {
    process.send?.(String(error));
  }
});
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
