/**
 * How fast the Worker is beside the least that a Worker on the same D1 can do: `npm run bench`. Builds the production bundle,
 * runs it in workerd without any proxy in between, storage in memory, and ends by itself. Options: `npm run bench -- --help`.
 *
 * The scenarios take turns in short slices, several rounds long, and ratios are taken inside a round: on a machine with other
 * work a slow moment hits a scenario and its baseline alike. At the end, models beside ONNX Runtime (`bench/models.ts`).
 */
import { cpus, loadavg, totalmem } from "node:os";
import { join } from "node:path";
import type { Connection } from "./bench/http.ts";
import { runSlice } from "./bench/load.ts";
import { MODELS_NOTE, type ModelRow, measureModels, modelVerdict, renderModels } from "./bench/models.ts";
import { type NativeRuntime, openNative } from "./bench/native.ts";
import { type BenchOptions, MODELS, readOptions, USAGE, UsageError } from "./bench/options.ts";
import { machineLine, type Row, renderMarkdown, renderText, rowOf } from "./bench/report.ts";
import { choose, type Ready, type Scenario } from "./bench/scenario.ts";
import { connectionsFor, SCENARIOS } from "./bench/scenarios.ts";
import { type BenchServer, makeWorkplace, startBenchServer } from "./bench/server.ts";
import type { Slice } from "./bench/statistics.ts";
import { createWorld, type World } from "./bench/world.ts";
import "./gen.ts";

/** Long leases and no quotas: alarms and refusals of jobs that nobody works on any more are not what is measured. */
const SETTINGS = {
  RUNNER_TIMERS: JSON.stringify({ lease_s: 3_600, plain_silence_s: 7_200, offer_s: 600 }),
  RUNNER_LIMITS: JSON.stringify({ queued_jobs_per_project: 1_000_000, job_log_bytes: 2 ** 40 }),
};

/** Answers of each warm model; `npm run bench:inference` takes more. */
const MODEL_RUNS = 6;

/** A warm-up is a quarter of a second or less: what needs this long for it hinders everybody else. */
const SLOW_MS = 4_000;

const startedAtMs = performance.now();
const progress = (text: string) => {
  if (interrupted) return;
  process.stderr.write(`${((performance.now() - startedAtMs) / 1000).toFixed(1).padStart(6)} s  ${text}\n`);
};

const loadBefore = loadavg()[0] ?? Number.NaN;
const workplace = makeWorkplace();
let starting: Promise<BenchServer> | null = null;
let world: World | null = null;
let native: NativeRuntime | null = null;
const open: Connection[] = [];
let interrupted = false;

let cleaning: Promise<void> | null = null;
function cleanUp(): Promise<void> {
  cleaning ??= (async () => {
    for (const connection of open) connection.close();
    world?.close();
    native?.stop();
    // One that is still being built is waited for: it would go on writing into the folder.
    await starting?.then(
      (server) => server.dispose(),
      () => undefined,
    );
    workplace.remove();
  })();
  return cleaning;
}

// Miniflare ends the process at a signal by itself, and with it the runtime; the folder must not stay then either.
process.on("exit", () => workplace.remove());
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    if (interrupted) process.exit(130);
    process.stderr.write("\nbench: interrupted, cleaning up\n");
    interrupted = true;
    void cleanUp().then(() => process.exit(130));
  });
}

type Contestant = { scenario: Scenario; ready: Ready; connections: Connection[]; slices: Slice[] };

async function prepareAll(scenarios: Scenario[], home: World): Promise<Contestant[]> {
  const contestants: Contestant[] = [];
  for (const scenario of scenarios) {
    const ready = await scenario.prepare(home).catch((thrown: unknown) => {
      throw new Error(`${scenario.name} cannot be prepared: ${thrown instanceof Error ? thrown.message : thrown}`);
    });
    if (typeof ready === "string") {
      progress(`skipped ${scenario.name}: ${ready}`);
      continue;
    }
    const connections = connectionsFor(scenario, home);
    open.push(...connections);
    contestants.push({ scenario, ready, connections, slices: [] });
  }
  return contestants;
}

async function run({ scenario, ready, connections }: Contestant, forMs: number, server: BenchServer): Promise<Slice> {
  await ready.refill?.();
  const { operation, operationsPerLane } = ready;
  const slice = await runSlice(connections, { forMs, operationsPerLane }, operation, server.cpuMs);
  const [first] = slice.errors;
  if (first !== undefined) progress(`${scenario.name}: ${slice.errors.length} errors, the first: ${first}`);
  return slice;
}

/**
 * One operation on each connection before a slice, not counted but for its errors: while the others had their turn objects
 * were evicted and connections closed.
 */
async function wake({ ready, connections }: Contestant): Promise<string[]> {
  if (ready.operationsPerLane !== undefined) return [];
  return (await runSlice(connections, { forMs: 1_000, operationsPerLane: 1 }, ready.operation)).errors;
}

/** Rounds of slices until each scenario has had its time. */
async function measure(contestants: Contestant[], options: BenchOptions, server: BenchServer): Promise<void> {
  progress("warm-up");
  const { rounds } = options;
  const forMs = (options.secondsEach * 1000) / rounds;
  const lasting: Contestant[] = [];
  for (const contestant of contestants) {
    const slice = await run(contestant, forMs / 2, server);
    if (slice.wallMs < SLOW_MS) {
      lasting.push(contestant);
      continue;
    }
    // Repeating it would take the time of all others; this one slice is its figure.
    progress(`${contestant.scenario.name} took ${(slice.wallMs / 1000).toFixed(1)} s and is not repeated`);
    contestant.slices.push(slice);
    await server.db.prepare("SELECT 1").first();
  }
  for (let round = 1; round <= rounds; round += 1) {
    progress(`round ${round} of ${rounds}`);
    for (const contestant of lasting) {
      // The first round is complete in any case: without it there would be no figures.
      if (round > 1 && performance.now() - startedAtMs > options.atMostMs) {
        progress("out of time");
        return;
      }
      const errors = await wake(contestant);
      const slice = await run(contestant, forMs, server);
      contestant.slices.push({ ...slice, errors: [...errors, ...slice.errors] });
    }
  }
}

async function models(home: World, { native: chosen }: BenchOptions): Promise<ModelRow[]> {
  progress("models beside ONNX Runtime");
  native = await openNative(chosen, progress);
  return measureModels(home, native, { folder: join(workplace.folder, "native"), runs: MODEL_RUNS, say: progress });
}

async function main(options: BenchOptions): Promise<number> {
  const scenarios = choose(SCENARIOS, options.only);
  progress(`production bundle, storage in ${workplace.folder}${workplace.inMemory ? " (memory)" : " (disk: slower)"}`);
  starting = startBenchServer(workplace.folder, SETTINGS);
  const server = await starting;
  progress("data");
  world = await createWorld(server);
  const contestants = await prepareAll(scenarios, world);
  if (contestants.length > 0) await measure(contestants, options, server);
  const slicesOf = (name: string) => contestants.find(({ scenario }) => scenario.name === name)?.slices;
  const rows: Row[] = contestants.map(({ scenario, slices }) => rowOf(scenario, slices, slicesOf));
  const machine = machineLine({
    cores: cpus().length,
    memoryGiB: totalmem() / 2 ** 30,
    processor: cpus()[0]?.model.trim() ?? "unknown",
    storage: workplace.inMemory ? "in memory" : "on disk",
    loadBefore,
  });
  const modelRows = options.models ? await models(world, options) : [];
  const { complaints } = server;
  await cleanUp();
  const { markdown } = options;
  const tables = [
    ...(rows.length > 0 ? [markdown ? renderMarkdown(rows) : renderText(rows)] : []),
    ...(options.models ? [`${renderModels(modelRows, markdown)}\n\n${MODELS_NOTE}`] : []),
    machine,
  ];
  console.log(`${markdown ? "" : "\n"}${tables.join("\n\n")}`);
  if (complaints.length > 0)
    console.log(`\nThe Worker logged ${complaints.length} warnings, the first: ${complaints[0]}`);
  const errors = rows.reduce((sum, { summary }) => sum + summary.errors, 0);
  const missed = [
    ...rows.filter(({ verdict }) => verdict?.met === false).map(({ scenario }) => scenario.name),
    ...modelRows.filter((row) => modelVerdict(row)?.met === false).map(({ name }) => name),
  ];
  progress(`${errors} errors, ${missed.length === 0 ? "all targets met" : `targets missed: ${missed.join(", ")}`}`);
  return errors === 0 ? 0 : 1;
}

try {
  if (process.argv.includes("--help")) {
    console.log(USAGE);
  } else {
    const options = readOptions(process.argv.slice(2));
    if (options.list) {
      for (const { name, title, concurrency } of SCENARIOS) console.log(`${name.padEnd(18)} ${title}, ${concurrency}`);
      console.log(`${MODELS.padEnd(18)} models beside ONNX Runtime, a table of its own`);
    } else {
      process.exitCode = await main(options);
    }
  }
} catch (thrown) {
  if (!interrupted) console.error(`bench: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
  if (thrown instanceof UsageError) console.error(USAGE);
  process.exitCode = thrown instanceof UsageError ? 2 : 1;
} finally {
  await cleanUp();
}
