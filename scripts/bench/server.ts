import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { unstable_readConfig } from "wrangler";
import { z } from "zod";
import { DATABASE, ROOT, runWrangler } from "../lib/wrangler.ts";
import { type IsolateMemory, isolateMemory } from "./isolate-memory.ts";
import { childProcessorTime } from "./processor-time.ts";

const BUCKET = "BUCKET";
const APP = "app";
const BASELINE = "baseline";
/** Where Linux keeps files in memory. */
const MEMORY_FOLDER = "/dev/shm";

export type BenchServer = {
  app: URL;
  baseline: URL;
  db: D1Database;
  bucket: R2Bucket;
  internalSecret: string;
  /** Processor time of the runtime so far, in milliseconds; null where that cannot be told. */
  cpuMs(): number | null;
  /** What the application's isolate holds; null unless it is inspected, which costs speed. */
  memory: IsolateMemory | null;
  /** Runs what the platform's clock runs each minute. */
  tick(): Promise<void>;
  /** What the Worker logged as a warning or an error. */
  complaints: string[];
  dispose(): Promise<void>;
};

/** What is taken over from `wrangler.toml`. */
const ConfigSchema = z.object({
  compatibility_date: z.string(),
  compatibility_flags: z.array(z.string()),
  vars: z.record(z.string(), z.string()),
  d1_databases: z.array(z.object({ binding: z.string(), database_id: z.string() })),
  r2_buckets: z.array(z.object({ binding: z.string(), bucket_name: z.string() })),
  images: z.object({ binding: z.string() }),
  durable_objects: z.object({ bindings: z.array(z.object({ name: z.string(), class_name: z.string() })) }),
});

export type Workplace = { folder: string; inMemory: boolean; remove(): void };

/** A folder for bundle and storage, in memory where that is possible: on a disk every statement would wait for it. */
export function makeWorkplace(): Workplace {
  const inMemory = existsSync(MEMORY_FOLDER);
  const folder = mkdtempSync(join(inMemory ? MEMORY_FOLDER : tmpdir(), "cultivar-bench-"));
  return { folder, inMemory, remove: () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }) };
}

const MODULE_TYPES = {
  ".js": "ESModule",
  ".wasm": "CompiledWasm",
  ".bin": "Data",
  ".txt": "Text",
  ".html": "Text",
  ".sql": "Text",
} as const;

const isModule = (extension: string): extension is keyof typeof MODULE_TYPES => Object.hasOwn(MODULE_TYPES, extension);

/** What wrangler would upload, its main module first. */
async function bundle(outdir: string, isBuilt: boolean) {
  if (!isBuilt) await runWrangler(["deploy", "--dry-run", "--outdir", outdir]);
  const modules = readdirSync(outdir).flatMap((name) => {
    const extension = extname(name);
    return isModule(extension) ? [{ type: MODULE_TYPES[extension], path: join(outdir, name) }] : [];
  });
  return modules.sort((a, b) => Number(b.path.endsWith("index.js")) - Number(a.path.endsWith("index.js")));
}

/** One row for each statement of a migration file. */
const statementsOf = (file: string) =>
  readFileSync(file, "utf8")
    .split("--> statement-breakpoint")
    .filter((statement) => statement.trim() !== "");

/**
 * Builds the production bundle and runs it in Miniflare, each Worker on a socket of its own: `wrangler dev` and Miniflare's
 * entry would measure their proxies. `settings` are variables of the application, its secrets too where they have to stay.
 * @param options `isRestart`: the folder holds bundle and storage of an earlier process, which go on being used
 */
export async function startBenchServer(
  folder: string,
  settings: Record<string, string>,
  { inspect = false, port = 0, isRestart = false }: { inspect?: boolean; port?: number; isRestart?: boolean } = {},
): Promise<BenchServer> {
  const config = ConfigSchema.parse(unstable_readConfig({ config: join(ROOT, "wrangler.toml") }));
  const modules = await bundle(join(folder, "bundle"), isRestart);
  const secrets = { JWT_SECRET: randomBytes(32).toString("hex"), INTERNAL_SECRET: randomBytes(32).toString("hex") };
  const d1Databases = Object.fromEntries(config.d1_databases.map(({ binding, database_id }) => [binding, database_id]));
  const sockets = [{ host: "127.0.0.1", port: 0 }];
  const { compatibility_date: compatibilityDate, compatibility_flags: compatibilityFlags } = config;
  const complaints: string[] = [];
  const miniflare = new Miniflare({
    ...convertV4MiniflareOptions({
      cf: false,
      host: "127.0.0.1",
      handleStructuredLogs: ({ level, message }) => {
        if (level === "warn" || level === "error") complaints.push(message);
      },
      workers: [
        {
          name: APP,
          modules,
          modulesRoot: join(folder, "bundle"),
          compatibilityDate,
          compatibilityFlags,
          bindings: { ...config.vars, ...secrets, ...settings },
          d1Databases,
          images: { binding: config.images.binding },
          r2Buckets: Object.fromEntries(config.r2_buckets.map(({ binding, bucket_name }) => [binding, bucket_name])),
          durableObjects: Object.fromEntries(
            config.durable_objects.bindings.map(({ name, class_name }) => [
              name,
              { className: class_name, useSQLite: true },
            ]),
          ),
          unsafeDirectSockets: [{ host: "127.0.0.1", port }],
        },
        {
          name: BASELINE,
          modules: [{ type: "ESModule", path: join(import.meta.dirname, "baseline-worker.js") }],
          modulesRoot: import.meta.dirname,
          compatibilityDate,
          compatibilityFlags,
          d1Databases,
          unsafeDirectSockets: sockets,
        },
      ],
    }),
    logRequests: false,
    ...(inspect ? { inspectorPort: 0 } : {}),
    resourcePersistencePath: join(folder, "storage"),
  });
  try {
    // Miniflare has names of its own for the same interface.
    const bucket = z.custom<R2Bucket>().parse(await miniflare.getR2Bucket(BUCKET, APP));
    const db = await miniflare.getD1Database(DATABASE, APP);
    const migrations = join(ROOT, "migrations");
    for (const name of isRestart ? [] : readdirSync(migrations).sort()) {
      if (!name.endsWith(".sql")) continue;
      await db.batch(statementsOf(join(migrations, name)).map((statement) => db.prepare(statement)));
    }
    return {
      app: await miniflare.unsafeGetDirectURL(APP),
      baseline: await miniflare.unsafeGetDirectURL(BASELINE),
      db,
      bucket,
      internalSecret: secrets.INTERNAL_SECRET,
      cpuMs: childProcessorTime("workerd"),
      tick: async () => {
        const worker = await miniflare.getWorker(APP);
        await worker.scheduled({ cron: "* * * * *" });
      },
      complaints,
      memory: inspect ? await isolateMemory(await miniflare.getInspectorURL(), APP) : null,
      dispose: () => miniflare.dispose(),
    };
  } catch (thrown) {
    await miniflare.dispose();
    throw thrown;
  }
}
