/**
 * Side by side with MLflow: `npm run bench:peers [-- --quick --points N --uv PATH --patience SECONDS]`. Installs MLflow from
 * PyPI into a virtual environment below the user's cache folder (once), starts both servers, puts the same load on both in
 * turns and prints a Markdown table. Same client, same machine, same run, both storages in memory. MLflow runs as its
 * documentation starts it on one machine: `mlflow server`, whose default store is SQLite.
 */
import { cpus, loadavg, totalmem } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Connection } from "./bench/http.ts";
import { runSlice } from "./bench/load.ts";
import { makeWorkplace } from "./bench/server.ts";
import { median, type Slice, summarize } from "./bench/statistics.ts";
import { startCultivar } from "./bench-peers/cultivar.ts";
import { installMlflow, MLFLOW_VERSION, startMlflow } from "./bench-peers/mlflow.ts";
import type { KillablePeer, Peer } from "./bench-peers/peer.ts";
import { millis, type Row, rate, renderMarkdown, standingOf } from "./bench-peers/table.ts";
import "./gen.ts";

const USAGE = `usage: npm run bench:peers -- [options]
  --quick        half a second for each row, no more than 100,000 points
  --points N     points of the largest chart (default 1000000)
  --patience S   how long a run without its client is watched (default 420)
  --uv PATH      the program uv (default: uv on the PATH, else Python's venv and pip)`;

class UsageError extends Error {}

const CHARTS = [10_000, 100_000, 1_000_000];
const LISTED = 10_000;
const ROUNDS = 3;

type Options = { secondsEach: number; points: number; patienceS: number; uv: string };

function readOptions(args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: "boolean", default: false },
      points: { type: "string" },
      patience: { type: "string", default: "420" },
      uv: { type: "string", default: "uv" },
    },
  });
  const points = Number(values.points ?? (values.quick ? 100_000 : 1_000_000));
  const patienceS = Number(values.patience);
  if (!Number.isInteger(points) || points < 10_000) throw new UsageError("--points must be a number from 10000");
  if (!(patienceS >= 1)) throw new UsageError("--patience must be a number of seconds");
  return { secondsEach: values.quick ? 0.5 : 3, points, patienceS, uv: values.uv };
}

const startedAtMs = performance.now();
const say = (text: string) =>
  process.stderr.write(`${((performance.now() - startedAtMs) / 1000).toFixed(1).padStart(6)} s  ${text}\n`);

/** A row that is measured by load: `prepare` makes the operation for one peer. */
type Load = {
  title: string;
  concurrency: number;
  /** Points or whatever one operation writes; null: what counts is the time of one. */
  unit: { name: string; each: number } | null;
  prepare: (peer: Peer) => Promise<(connection: Connection, lane: number) => Promise<void>>;
  /** What else there is to say about a peer's figure. */
  note?: (peer: Peer) => string;
};

const atLeast = (count: number, wanted: number, what: string) => {
  if (count < wanted) throw new Error(`${what}: ${count} came, ${wanted} were wanted`);
};

const LOADS: Load[] = [
  {
    title: "create a run",
    concurrency: 1,
    unit: { name: "runs", each: 1 },
    prepare: async (peer) => async (connection) => {
      await peer.createRun(connection);
    },
  },
  ...[1, 20].map(
    (concurrency): Load => ({
      title: `one point a request, ${concurrency} connection${concurrency === 1 ? "" : "s"}, one run`,
      concurrency,
      unit: { name: "points", each: 1 },
      prepare: async (peer) => {
        const run = await withConnection(peer, (connection) => peer.createRun(connection));
        let step = 0;
        return (connection) => peer.logPoint(connection, run, step++);
      },
    }),
  ),
  ...[10, 100, 500].map(
    (size): Load => ({
      title: `batches of ${size} points`,
      concurrency: 1,
      unit: { name: "points", each: size },
      prepare: async (peer) => {
        const run = await peer.createBatchRun();
        let step = 0;
        return async (connection) => {
          const from = step;
          step += size;
          await peer.logBatch(connection, run, from, size);
        };
      },
    }),
  ),
  {
    title: "the same batch of 500 points again",
    concurrency: 1,
    unit: { name: "points", each: 500 },
    prepare: async (peer) => {
      const run = await peer.createBatchRun();
      await withConnection(peer, async (connection) => {
        await peer.logBatch(connection, run, 0, 500);
        await peer.logBatch(connection, run, 0, 500);
        const stored = await peer.countPoints(connection, run);
        if (stored !== 500) throw new Error(`${peer.name} stored ${stored} points of 500 that were sent twice`);
      });
      return (connection) => peer.logBatch(connection, run, 0, 500);
    },
  },
  ...(["newest", "name"] as const).map(
    (order): Load => ({
      title: `50 of ${LISTED.toLocaleString("en-US")} runs with a tag, ${order === "newest" ? "newest first" : "by name"}`,
      concurrency: 1,
      unit: null,
      prepare: async (peer) => async (connection) => atLeast(await peer.listRuns(connection, order), 50, "list"),
    }),
  ),
];

function chart(count: number): Load {
  const came = new Map<Peer, number>();
  return {
    title: `chart of ${count.toLocaleString("en-US")} points, 1,000 asked for`,
    concurrency: 1,
    unit: null,
    prepare: async (peer) => {
      const run = await peer.seedPoints(count);
      return async (connection) => {
        const points = await peer.readChart(connection, run);
        // What makes a curve on a screen; each thins out in its own way.
        atLeast(points, 200, "chart");
        came.set(peer, points);
      };
    },
    note: (peer) => `${came.get(peer) ?? 0} points`,
  };
}

async function withConnection<T>(peer: Peer, work: (connection: Connection) => Promise<T>): Promise<T> {
  const connection = new Connection(peer.origin);
  try {
    return await work(connection);
  } finally {
    connection.close();
  }
}

/** Both peers in turns, so that a slow moment of the machine hits both. */
async function measure(load: Load, peers: readonly [Peer, Peer], secondsEach: number): Promise<Row> {
  say(load.title);
  const contestants = [];
  for (const peer of peers) {
    const operation = await load.prepare(peer);
    const connections = Array.from({ length: load.concurrency }, () => new Connection(peer.origin));
    const warmUp = await runSlice(connections, { forMs: 100 }, operation);
    if (warmUp.errors[0] !== undefined) say(`${peer.name}, warming up: ${warmUp.errors[0]}`);
    contestants.push({ peer, operation, connections, slices: [] as Slice[] });
  }
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const { operation, connections, slices } of contestants) {
      slices.push(await runSlice(connections, { forMs: (secondsEach * 1000) / ROUNDS }, operation));
    }
  }
  const [ours, theirs] = contestants.map(({ peer, connections, slices }) => {
    for (const connection of connections) connection.close();
    const { perSecond, p50Ms, errors, firstError } = summarize(slices);
    if (firstError !== null) say(`${peer.name}: ${errors} errors, the first: ${firstError}`);
    const { unit } = load;
    const figure =
      unit === null
        ? millis(median(slices.flatMap((slice) => slice.durationsMs)))
        : rate(perSecond * unit.each, p50Ms, unit.name);
    const notes = [load.note?.(peer), errors > 0 ? `${errors} errors` : undefined].filter((text) => text !== undefined);
    return { ...figure, text: [figure.text, ...notes].join(", ") };
  });
  if (ours === undefined || theirs === undefined) throw new Error("two peers are needed");
  return { title: load.title, ours, theirs, better: load.unit === null ? "lower" : "higher" };
}

/** Seconds from the death of a client until its run is not shown as running any more; infinite after the patience. */
async function watchClient(peer: KillablePeer, patienceS: number): Promise<number> {
  const client = await peer.startClient();
  if (!(await peer.isShownRunning(client.run))) throw new Error(`${peer.name}: the run is not shown as running`);
  await client.kill();
  const killedAtMs = performance.now();
  for (;;) {
    const seconds = (performance.now() - killedAtMs) / 1000;
    if (!(await peer.isShownRunning(client.run))) return seconds;
    if (seconds > patienceS) return Number.POSITIVE_INFINITY;
    await sleep(1_000);
  }
}

/** Kills the server while 20 connections write, starts it again, and counts the acknowledged points that are not there. */
async function loseServer(peer: KillablePeer): Promise<{ acknowledged: number; lost: number; backMs: number }> {
  say(`${peer.name}: kill -9 of the server under load`);
  const lanes = await Promise.all(
    Array.from({ length: 20 }, async () => ({
      run: await withConnection(peer, (connection) => peer.createRun(connection)),
      acknowledged: 0,
    })),
  );
  let isOver = false;
  const writing = lanes.map(async (lane) => {
    const connection = new Connection(peer.origin);
    try {
      while (!isOver) {
        await peer.logPoint(connection, lane.run, lane.acknowledged);
        lane.acknowledged += 1;
      }
    } catch {
      // The server is gone: what was not answered may be there or not.
    } finally {
      connection.close();
    }
  });
  await sleep(3_000);
  await peer.kill();
  isOver = true;
  await Promise.all(writing);
  const downAtMs = performance.now();
  await peer.restart();
  const backMs = performance.now() - downAtMs;
  // What waits in an outbox is delivered after the start.
  await sleep(12_000);
  let lost = 0;
  for (const { run, acknowledged } of lanes) {
    const stored = await withConnection(peer, (connection) => peer.countPoints(connection, run));
    lost += Math.max(0, acknowledged - stored);
  }
  return { acknowledged: lanes.reduce((sum, lane) => sum + lane.acknowledged, 0), lost, backMs };
}

async function main({ secondsEach, points, patienceS, uv }: Options): Promise<void> {
  const bin = await installMlflow(uv, say);
  const loadBefore = loadavg()[0] ?? Number.NaN;
  const workplace = makeWorkplace();
  process.on("exit", () => workplace.remove());
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(130));
  say(`storages in ${workplace.folder}`);
  const ours = await startCultivar(join(workplace.folder, "cultivar"));
  const theirs = await startMlflow(bin, join(workplace.folder, "mlflow"));
  const peers = [ours, theirs] as const;
  const rows: Row[] = [];
  try {
    say("both servers answer; their clients die first, and are watched to the end");
    const silence = peers.map((peer) => watchClient(peer, patienceS));
    // Both are awaited at the end; a failure before that is not to go unheard.
    for (const watched of silence) watched.catch((error: unknown) => say(String(error)));
    say(`${LISTED} runs each`);
    for (const peer of peers) await peer.seedRuns(LISTED);
    const charts = CHARTS.filter((count) => count <= points).map(chart);
    for (const load of [...LOADS, ...charts]) rows.push(await measure(load, peers, secondsEach));

    say("waiting until the dead clients are noticed");
    const [noticed, theirsNoticed] = await Promise.all(silence);
    const duration = (seconds: number | undefined) => ({
      value: seconds ?? Number.NaN,
      text: Number.isFinite(seconds) ? `${Math.round(seconds ?? 0)} s` : `still running after ${patienceS} s`,
    });
    rows.push({
      title: "kill -9 of the client: until its run is not shown as running",
      ours: duration(noticed),
      theirs: duration(theirsNoticed),
      better: "lower",
    });
    const crashes = [await loseServer(ours), await loseServer(theirs)] as const;
    const [lost, theirsLost] = crashes.map(({ acknowledged, lost: gone }) => ({
      value: gone,
      text: `${gone} of ${acknowledged.toLocaleString("en-US")}`,
    }));
    if (lost === undefined || theirsLost === undefined) throw new Error("two peers are needed");
    rows.push(
      { title: "kill -9 of the server: acknowledged points lost", ours: lost, theirs: theirsLost, better: "lower" },
      {
        title: "kill -9 of the server: until it answers again",
        ours: millis(crashes[0].backMs),
        theirs: millis(crashes[1].backMs),
        better: "lower",
      },
    );
  } finally {
    if (rows.length > 0) {
      console.log(`\n${renderMarkdown(rows, `MLflow ${MLFLOW_VERSION}`)}`);
      const standings = rows.map(standingOf);
      const of = (standing: string) => standings.filter((known) => known === standing).length;
      console.log(
        `\n${of("ahead")} ahead, ${of("level")} level, ${of("behind")} behind. ${cpus().length} cores, ` +
          `${Math.round(totalmem() / 2 ** 30)} GiB, load average before the run ${loadBefore.toFixed(1)}, Node ${process.version}.`,
      );
    }
    await Promise.all(peers.map((peer) => peer.dispose()));
  }
}

try {
  if (process.argv.includes("--help")) console.log(USAGE);
  else {
    await main(readOptions(process.argv.slice(2)));
    process.exit(0);
  }
} catch (thrown) {
  const text = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
  const isUsage = thrown instanceof UsageError || /Unknown option|argument missing/.test(text);
  console.error(isUsage ? `bench:peers: ${text.split("\n")[0]}\n${USAGE}` : `bench:peers: ${text}`);
  process.exit(isUsage ? 2 : 1);
}
