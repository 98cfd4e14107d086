/**
 * Whether more objects for a hot model answer more: `npm run bench:replicas [-- --share 0.35 --seconds 4]`, Linux only.
 *
 * In production each replica runs on a thread, mostly on a machine, of its own. One local workerd runs all its objects on one
 * thread, where more of them cannot raise anything. So several processes of workerd stand in for machines here, each with the
 * production bundle, the same job and the same model, and each held to the same share of a core, so that all of them fit on this
 * machine. The picker of production (`askReplica`) shares the requests out among 1, 2 and 4 of them. What is shown: one hot
 * model is spread evenly and the replicas add up. What is not: how fast a machine of the platform is, and its network.
 */
import { randomBytes } from "node:crypto";
import { cpSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { fail, ok } from "../src/shared/result.ts";
import { askReplica, ReplicaPicker, replicaName } from "../src/training/inference/replicas.ts";
import { Connection, expectStatus, type HttpRequest } from "./bench/http.ts";
import { classifier, inferenceForm, LABELS, photograph, storeModel } from "./bench/inference.ts";
import { mobilenet } from "./bench/networks.ts";
import { childrenNamed, processorTimeOf } from "./bench/processor-time.ts";
import { renderTable } from "./bench/report.ts";
import { type BenchServer, makeWorkplace, startBenchServer } from "./bench/server.ts";
import { median } from "./bench/statistics.ts";
import { type Throttle, throttle } from "./bench/throttle.ts";
import { API, bearer, createWorld } from "./bench/world.ts";
import "./gen.ts";

/** How many replicas there are, in the order in which they are measured: what changes meanwhile hits all of them. */
const ROUNDS = [1, 2, 4, 4, 2, 1];
const MACHINES = 4;
/** Requests at once: two for each of four replicas, which is as many as a replica gets before the next is asked. */
const AT_ONCE = 8;
/** Both tiers of the engine's compiler are through then. */
const WARM_UP = 12;
/** The load begins so much before what is counted. */
const LEAD_MS = 1_500;
const MODEL = "model";

const { values } = parseArgs({
  options: { share: { type: "string", default: "0.35" }, seconds: { type: "string", default: "4" } },
});
const share = Number(values.share);
const secondsEach = Number(values.seconds);
if (!(share >= 0.05 && share <= 1)) throw new Error("--share takes a number from 0.05 to 1, parts of a core");
if (!(secondsEach >= 1 && secondsEach <= 8)) throw new Error("--seconds takes a number from 1 to 8");
const wantedCores = MACHINES * share + 0.2;
if (wantedCores > availableParallelism())
  throw new Error(`four times --share and the client need ${wantedCores} cores`);

type Machine = { server: BenchServer; pid: number };
type Slice = { replicas: number; wallMs: number; latenciesMs: number[]; asked: number[]; usedMs: number[] };

const workplace = makeWorkplace();
let held: Throttle | null = null;
// The watch ends what it watches when this process is gone, however it ended; Miniflare does the same for the others.
process.on("exit", () => workplace.remove());
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(130));

const servers: BenchServer[] = [];
const connections: Connection[] = [];

/** A first one gets the data; the others are copies of its folder. */
async function startMachines(): Promise<{ machines: Machine[]; request: HttpRequest }> {
  const settings = { JWT_SECRET: randomBytes(32).toString("hex"), INTERNAL_SECRET: randomBytes(32).toString("hex") };
  const original = join(workplace.folder, "0");
  const first = await startBenchServer(original, settings);
  servers.push(first);
  const world = await createWorld(first);
  const jobId = await world.createJob();
  await storeModel(first, jobId, mobilenet("int8", LABELS), classifier("mobilenetv2_100"));
  world.close();
  await first.dispose();
  servers.length = 0;

  const machines: Machine[] = [];
  for (let i = 0; i < MACHINES; i += 1) {
    const folder = join(workplace.folder, String(i));
    if (i > 0) cpSync(original, folder, { recursive: true });
  }
  for (let i = 0; i < MACHINES; i += 1) {
    const before = new Set(childrenNamed("workerd"));
    const server = await startBenchServer(join(workplace.folder, String(i)), settings, { isRestart: true });
    servers.push(server);
    const [pid] = childrenNamed("workerd").filter((one) => !before.has(one));
    if (pid === undefined) throw new Error("this machine does not tell which processes run");
    machines.push({ server, pid });
  }
  const body = inferenceForm("replicas", jobId, await photograph(640, 480));
  const headers = { ...bearer(world.userToken), "content-type": "multipart/form-data; boundary=replicas" };
  return { machines, request: { method: "POST", path: `${API}/test-inference`, headers, body } };
}

/**
 * Always as many requests at once, each to the replica that the picker says. What is answered in the middle of the load counts:
 * at its start everything comes at once, and at its end some are under way.
 */
async function load(machines: Machine[], request: HttpRequest): Promise<Slice> {
  const picker = new ReplicaPicker({ replicas: machines.length });
  const names = machines.map((_, replica) => replicaName(MODEL, replica));
  const asked = machines.map(() => 0);
  const latenciesMs: number[] = [];
  let [counts, isOver] = [false, false];
  const lanes = Array.from({ length: AT_ONCE }, async () => {
    const lines = machines.map(({ server }) => new Connection(server.app));
    connections.push(...lines);
    while (!isOver) {
      const at = performance.now();
      const result = await askReplica(picker, MODEL, Date.now, async (name) => {
        const replica = names.indexOf(name);
        const line = lines[replica];
        if (line === undefined) throw new Error(`nobody is named ${name}`);
        const answer = await line.request(request);
        if (answer.status === 503) return fail("BUSY", "busy");
        expectStatus(answer, 200);
        return ok(replica);
      });
      if (!result.ok) throw new Error(result.error.message);
      if (!counts) continue;
      latenciesMs.push(performance.now() - at);
      asked[result.value] = (asked[result.value] ?? 0) + 1;
    }
    for (const line of lines) line.close();
  });
  const watch = async () => {
    const used = () => machines.map(({ pid }) => processorTimeOf(pid) ?? Number.NaN);
    await delay(LEAD_MS);
    const [before, from] = [used(), performance.now()];
    counts = true;
    await delay(secondsEach * 1000);
    counts = false;
    isOver = true;
    return { wallMs: performance.now() - from, usedMs: used().map((now, i) => now - (before[i] ?? Number.NaN)) };
  };
  const [measured] = await Promise.all([watch(), ...lanes]);
  return { replicas: machines.length, latenciesMs, asked, ...measured };
}

function report(slices: Slice[]): string {
  const sum = (list: number[]) => list.reduce((a, b) => a + b, 0);
  const rows = [...new Set(ROUNDS)].map((replicas) => {
    const own = slices.filter((slice) => slice.replicas === replicas);
    const wallMs = sum(own.map((slice) => slice.wallMs));
    const latenciesMs = own.flatMap((slice) => slice.latenciesMs);
    const of = (pick: (slice: Slice) => number[]) =>
      Array.from({ length: replicas }, (_, i) => sum(own.map((slice) => pick(slice)[i] ?? Number.NaN)));
    return {
      replicas,
      perSecond: (latenciesMs.length * 1000) / wallMs,
      p50: median(latenciesMs),
      asked: of(({ asked }) => asked),
      used: of(({ usedMs }) => usedMs).map((ms) => ms / wallMs),
      eachMs: sum(own.flatMap(({ usedMs }) => usedMs)) / latenciesMs.length,
    };
  });
  const one = rows[0]?.perSecond ?? Number.NaN;
  return renderTable(
    ["replicas", "answers/s", "times one", "p50 ms", "processor ms an answer", "answers of each", "cores used by each"],
    rows.map(({ replicas, perSecond, p50, eachMs, asked, used }) => [
      String(replicas),
      perSecond.toFixed(1),
      (perSecond / one).toFixed(2),
      p50.toFixed(0),
      eachMs.toFixed(0),
      asked.join(", "),
      used.map((cores) => cores.toFixed(2)).join(", "),
    ]),
    true,
  );
}

try {
  const say = (text: string) => process.stderr.write(`${text}\n`);
  say("four workerd processes");
  const { machines, request } = await startMachines();
  for (const { server } of machines) {
    const line = new Connection(server.app);
    connections.push(line);
    for (let i = 0; i < WARM_UP; i += 1) expectStatus(await line.request(request), 200);
    line.close();
  }
  held = await throttle(
    machines.map(({ pid }) => pid),
    share,
  );
  const slices: Slice[] = [];
  for (const replicas of ROUNDS) {
    const slice = await load(machines.slice(0, replicas), request);
    say(`${replicas} of them, ${secondsEach} s: ${slice.asked.join(", ")} answers`);
    slices.push(slice);
  }
  console.log(
    `${report(slices)}\n\n${AT_ONCE} requests at once for one model (MobileNetV2, int8 weights), a 640 x 480 JPEG each. Each replica is a ` +
      `process of workerd held to ${share} of a core, in place of a machine of its own; requests are shared out by the picker ` +
      "of production. It shows that replicas add up, not how fast the platform's machines are. Where an answer took more processor " +
      "time than with one, busy cores were slower, and the rate is lower by as much.",
  );
} finally {
  for (const line of connections) line.close();
  await held?.release();
  for (const server of servers) await server.dispose();
  workplace.remove();
}
