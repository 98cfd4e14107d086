/**
 * Proof under fire: `npm run chaos [-- --minutes 10 --jobs 100 --runners 20 --seed N --quick --keep]`. Embedded runners with a
 * trainer that only sleeps and reports work off jobs while runners are killed, frozen and cut off, networks lose and cut single
 * exchanges, and the Worker is killed with -9 and started again on the same storage. Afterwards everything that the runners
 * had acknowledged is looked for through the API. Prints the counts; exit code 1 when anything is not as it must be.
 */
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { z } from "zod";
import { makeWorkplace } from "./bench/server.ts";
import { check, type Reading } from "./chaos/check.ts";
import { type Fault, faultsOf, Machine } from "./chaos/fleet.ts";
import { BEHAVIOUR, type PlannedJob, planJobs } from "./chaos/plan.ts";
import { createRandom, type Random } from "./chaos/random.ts";
import type { JournalEntry } from "./chaos/recorder.ts";
import { User } from "./chaos/user.ts";
import { addUserSql } from "./lib/people.ts";
import { greyPng } from "./lib/png.ts";
import { startWorkerProcess, type WorkerProcess } from "./lib/worker-process.ts";
import "./gen.ts";

const USAGE = `usage: npm run chaos -- [options]
  --minutes N   how long things go wrong (default 10)
  --jobs N      (default 100)
  --runners N   (default 20)
  --seed N      of the plan: jobs, faults and their times (default: random, printed)
  --quick       one minute, 24 jobs, 6 runners
  --keep        leave the folder with journals and storage`;

class UsageError extends Error {}

/** Short, so that in minutes happens what in use takes hours. */
const TIMERS = {
  claim_wait_s: 5,
  heartbeat_s: 1,
  lease_s: 4,
  lost_after_s: 6,
  offer_s: 4,
  stop_grace_s: 4,
  finalize_s: 8,
  retry_base_s: 0.2,
  retry_cap_s: 2,
  terminal_retry_s: 120,
};
/** No checkpoint goes because there are newer ones: each that was acknowledged is looked for. */
const LIMITS = { checkpoints_kept: 10_000 };
const LOST_MS = (TIMERS.lease_s + TIMERS.lost_after_s) * 1000;
/** How long the jobs may take to end once nothing goes wrong any more; on an idle machine it is a few seconds. */
const PATIENCE_MS = 240_000;
/** Of all exchanges on the way. */
const EXCHANGE_FAULT_RATE = 0.04;
const PERSON = { email: "chaos@example.com", fullName: "Chaos", password: "a-password-of-the-chaos", admin: true };

type Options = { forMs: number; jobs: number; runners: number; seed: number; keep: boolean; isQuick: boolean };

function readOptions(args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      minutes: { type: "string" },
      jobs: { type: "string" },
      runners: { type: "string" },
      seed: { type: "string" },
      quick: { type: "boolean", default: false },
      keep: { type: "boolean", default: false },
    },
  });
  const isQuick = values.quick;
  const number = (name: string, text: string | undefined, otherwise: number, max: number) => {
    const value = text === undefined ? otherwise : Number(text);
    if (!(value > 0 && value <= max)) throw new UsageError(`--${name} must be a number up to ${max}`);
    return value;
  };
  return {
    forMs: number("minutes", values.minutes, isQuick ? 0.75 : 10, 600) * 60_000,
    jobs: Math.round(number("jobs", values.jobs, isQuick ? 24 : 100, 10_000)),
    runners: Math.round(number("runners", values.runners, isQuick ? 6 : 20, 200)),
    seed: Math.round(number("seed", values.seed, 1 + Math.floor(Math.random() * 1e9), 1e9)),
    keep: values.keep,
    isQuick,
  };
}

const startedAtMs = performance.now();
const say = (text: string) =>
  console.log(`${((performance.now() - startedAtMs) / 1000).toFixed(1).padStart(6)} s  ${text}`);

const tally = new Map<string, number>();
const count = (what: string, by = 1) => tally.set(what, (tally.get(what) ?? 0) + by);

async function createDataset(user: User): Promise<string> {
  const form = new FormData();
  form.set("name", "chaos");
  form.set("format", "imagefolder");
  for (const split of ["train", "val"]) {
    for (const label of ["a", "b"]) {
      const samples = Uint8Array.from({ length: 16 }, (_, at) => at * 3 + (label === "a" ? 0 : 100));
      form.append("files", new File([Uint8Array.from(greyPng(samples, 4, 4))], `${split}/${label}/1.png`));
    }
  }
  return z.object({ id: z.string() }).parse(await user.expect("POST", "/datasets", form)).id;
}

async function createJob(user: User, datasetId: string, plan: PlannedJob): Promise<number> {
  const config = {
    framework: "embedded",
    model_name: "cnn_small",
    task_type: "image_classification",
    dataset_id: datasetId,
    epochs: plan.epochs,
    advanced_config: { seed: BEHAVIOUR[plan.fate] },
  };
  return z.object({ id: z.int() }).parse(await user.expect("POST", "/training/jobs", { config })).id;
}

type Course = { wish: "run" | "stop"; wasStopped: boolean };

/** What the user does with one job. */
async function accompany(user: User, jobId: number, plan: PlannedJob, endsAtMs: number): Promise<Course> {
  await sleep(plan.startAtMs);
  await user.start(jobId);
  if (!["stopped", "deaf", "resumed"].includes(plan.fate)) return { wish: "run", wasStopped: false };
  const begun = await user.until(jobId, ({ status }) => !["pending", "queued"].includes(status), endsAtMs);
  if (begun === null) return { wish: "run", wasStopped: false };
  await sleep(plan.stopAfterMs);
  if (!(await user.stop(jobId))) return { wish: "run", wasStopped: false };
  count("user stopped a job");
  if (plan.fate !== "resumed") return { wish: "stop", wasStopped: true };
  await sleep(plan.stopAfterMs / 4);
  await user.start(jobId, true);
  count("user started a stopped job again");
  return { wish: "run", wasStopped: true };
}

/**
 * One fault after the other, each on a machine that has none, until the time is over; waits until the last has passed.
 * @param everyMs how often each machine is befallen, on average
 */
async function disturb(machines: Machine[], random: Random, untilMs: number, everyMs: number): Promise<void> {
  const faults = faultsOf(LOST_MS);
  const weighted: Fault[] = faults.flatMap((fault) => Array.from({ length: fault.weight }, () => fault));
  const befallen = new Map<Machine, Promise<void>>();
  const meanPauseMs = everyMs / machines.length;
  for (;;) {
    await sleep(random.between(0.2, 1.8) * meanPauseMs);
    if (Date.now() >= untilMs) break;
    const free = machines.filter((machine) => !befallen.has(machine));
    if (free.length === 0) continue;
    const machine = random.pick(free);
    const fault = random.pick(weighted);
    count(fault.name);
    befallen.set(
      machine,
      fault.befall(machine, random).finally(() => befallen.delete(machine)),
    );
  }
  await Promise.all(befallen.values());
}

/** Kills the Worker a few times, with pauses in which it is gone. */
async function killServer(server: WorkerProcess, random: Random, untilMs: number, everyMs: number): Promise<void> {
  for (;;) {
    await sleep(random.between(0.6, 1.2) * everyMs);
    if (Date.now() >= untilMs) return;
    await server.kill();
    count("Worker killed -9");
    const downAtMs = performance.now();
    await sleep(random.between(0, 0.6) * LOST_MS);
    await server.start();
    say(`the Worker was gone for ${((performance.now() - downAtMs) / 1000).toFixed(1)} s`);
  }
}

const readLines = <T>(file: string): T[] =>
  existsSync(file)
    ? readFileSync(file, "utf8")
        .split("\n")
        // A process that was killed may have left half a line, which is no acknowledgement.
        .flatMap((line) => {
          try {
            return line === "" ? [] : [JSON.parse(line) as T];
          } catch {
            return [];
          }
        })
    : [];

const PointsSchema = z.array(z.object({ epoch: z.int(), attempt: z.int(), loss: z.number().nullable() }));
const LogsSchema = z.array(z.object({ attempt: z.int(), log_type: z.string(), message: z.string() }));
const CheckpointsSchema = z.object({
  checkpoints: z.array(z.object({ artifact_id: z.string(), attempt: z.int(), epoch: z.int().nullable() })),
  total: z.int(),
});
const RunnersSchema = z.object({ runners: z.array(z.object({ name: z.string(), job_ids: z.array(z.int()) })) });

async function read(user: User, jobId: number, plan: PlannedJob, course: Course): Promise<Reading> {
  const path = `/training/jobs/${jobId}`;
  const job = await user.job(jobId);
  const visible = PointsSchema.parse(await user.expect("GET", `${path}/metrics?limit=10000`));
  const history = [];
  for (let attempt = 1; attempt <= job.attempt; attempt += 1) {
    history.push(...PointsSchema.parse(await user.expect("GET", `${path}/metrics?limit=10000&attempt=${attempt}`)));
  }
  const logs = LogsSchema.parse(await user.expect("GET", `${path}/logs?limit=5000`));
  const listed = CheckpointsSchema.parse(await user.expect("GET", `${path}/checkpoints?limit=500`));
  if (logs.length === 5_000 || listed.total > 500) throw new Error(`job ${jobId} has more than one page shows`);
  return {
    jobId,
    plan,
    ...course,
    job,
    visible,
    history,
    logs,
    checkpoints: listed.checkpoints.map(({ artifact_id: id, attempt, epoch }) => ({ id, attempt, epoch })),
  };
}

/** Nothing may be leased any more: no runner has a job, and every job token that was ever given out is refused. */
async function leases(user: User, journal: JournalEntry[]): Promise<string[]> {
  const { runners } = RunnersSchema.parse(await user.expect("GET", "/runners?limit=500"));
  const found = runners
    .filter(({ job_ids }) => job_ids.length > 0)
    .map(({ name, job_ids }) => `runner ${name} still has jobs ${job_ids.join(", ")}`);
  for (const entry of journal) {
    if (entry.type !== "accept") continue;
    const beat = await user.call("POST", `/internal/jobs/${entry.jobId}/heartbeat`, {}, entry.token);
    count("job tokens tried at the end");
    if (beat.status !== 409) {
      found.push(`the token of attempt ${entry.attempt} of job ${entry.jobId} is still good (${beat.status})`);
    }
  }
  return found;
}

async function main(options: Options): Promise<number> {
  const { forMs, jobs, runners, seed, keep } = options;
  const random = createRandom(seed);
  const workplace = makeWorkplace();
  const machines: Machine[] = [];
  let server: WorkerProcess | null = null;
  const destroy = () => {
    for (const machine of machines) machine.destroy();
    if (!keep) workplace.remove();
  };
  process.on("exit", destroy);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(130));
  try {
    say(`seed ${seed}: ${jobs} jobs, ${runners} runners, ${forMs / 60_000} minutes, in ${workplace.folder}`);
    const secret = () => randomBytes(32).toString("hex");
    const statements = (await addUserSql(PERSON, Date.now())).split(";\n").filter((text) => text.trim() !== "");
    const running = await startWorkerProcess(
      workplace.folder,
      {
        JWT_SECRET: secret(),
        INTERNAL_SECRET: secret(),
        RUNNER_TIMERS: JSON.stringify(TIMERS),
        RUNNER_LIMITS: JSON.stringify(LIMITS),
      },
      statements,
    );
    server = running;
    const user = new User(running.url);
    await user.logIn(PERSON.email, PERSON.password);
    const granted = await user.expect("POST", "/runners/tokens", { uses: runners, ttl_s: 3_600 });
    const { registration_token: registrationToken } = z.object({ registration_token: z.string() }).parse(granted);
    const datasetId = await createDataset(user);
    const plans = planJobs(random, jobs, {
      startsMs: forMs * 0.7,
      // A runner should be through with its share of the jobs in two thirds of the time.
      epochs: options.isQuick ? [10, 30] : [20, 90],
    });
    const ids: number[] = [];
    for (const plan of plans) ids.push(await createJob(user, datasetId, plan));
    for (let at = 0; at < runners; at += 1) {
      machines.push(
        await Machine.create({
          name: `machine-${at + 1}`,
          folder: join(workplace.folder, `machine-${at + 1}`),
          registrationToken,
          epochMs: options.isQuick ? 250 : 500,
          serverPort: Number(new URL(running.url).port),
          random: createRandom(seed + at + 1),
        }),
      );
    }
    for (const machine of machines) machine.start();
    await Promise.all(machines.map((machine) => machine.ready()));
    say("all runners are ready; now things go wrong");

    const untilMs = Date.now() + forMs;
    for (const { proxy } of machines) proxy.faultRate = EXCHANGE_FAULT_RATE;
    const courses = plans.map((plan, at) => accompany(user, ids[at] ?? 0, plan, untilMs + PATIENCE_MS));
    await Promise.all([
      disturb(machines, random, untilMs, options.isQuick ? 12_000 : 30_000),
      killServer(running, random, untilMs, options.isQuick ? 20_000 : 80_000),
    ]);
    for (const { proxy } of machines) {
      proxy.faultRate = 0;
      proxy.heal();
    }
    say("nothing goes wrong any more; waiting for the jobs");
    // The last fault may have lasted beyond the time.
    const patientUntilMs = Date.now() + PATIENCE_MS;

    const violations: string[] = [];
    const done = await Promise.all(courses);
    for (const jobId of ids) {
      const ended = ({ phase }: { phase: string }) => ["completed", "failed", "stopped"].includes(phase);
      const job = await user.until(jobId, ended, patientUntilMs);
      if (job === null) violations.push(`job ${jobId} has not ended: ${JSON.stringify(await user.job(jobId))}`);
    }
    say("the runners leave");
    await Promise.all(machines.map((machine) => machine.leave()));
    // Then the tails of the last attempts are over too.
    await sleep((TIMERS.finalize_s + 2) * 1000);

    const journal = machines.flatMap(({ journalFile }) => readLines<JournalEntry>(journalFile));
    const emitted = new Set(
      machines
        .flatMap(({ emittedFile }) => readLines<{ epoch: number; loss: number }>(emittedFile))
        .map(({ epoch, loss }) => `${epoch}:${loss}`),
    );
    violations.push(...(await leases(user, journal)));
    const readings: Reading[] = [];
    for (const [at, jobId] of ids.entries()) {
      const [plan, course] = [plans[at], done[at]];
      if (plan !== undefined && course !== undefined) readings.push(await read(user, jobId, plan, course));
    }
    const verdict = check(readings, journal, emitted);
    violations.push(...verdict.violations);
    for (const { proxy, gaveUp } of machines) {
      for (const [what, times] of proxy.counts) if (what !== "partition") count(`exchange: ${what}`, times);
      if (gaveUp > 0) count("runner ended by itself", gaveUp);
    }
    const table = (counts: [string, number][]) =>
      counts
        .sort(([a], [b]) => a.localeCompare(b))
        .map(([what, times]) => `  ${String(times).padStart(7)}  ${what}`)
        .join("\n");
    console.log(`\nWhat went wrong\n${table([...tally])}\n\nWhat came of it\n${table(Object.entries(verdict.counts))}`);
    if (violations.length > 0) {
      console.log(
        `\nVIOLATIONS (${violations.length}), seed ${seed}\n${violations
          .slice(0, 50)
          .map((line) => `  ${line}`)
          .join("\n")}`,
      );
      if (keep) console.log(`\nThe server's last words:\n${running.output()}`);
    } else console.log("\nNo violation: everything acknowledged is readable once, and nothing is left leased.");
    return violations.length === 0 ? 0 : 1;
  } finally {
    await server?.dispose();
  }
}

try {
  if (process.argv.includes("--help")) console.log(USAGE);
  else process.exit(await main(readOptions(process.argv.slice(2))));
} catch (thrown) {
  const text = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
  const isUsage = thrown instanceof UsageError || /Unknown option|argument missing/.test(text);
  console.error(isUsage ? `chaos: ${text.split("\n")[0]}\n${USAGE}` : `chaos: ${text}`);
  process.exit(isUsage ? 2 : 1);
}
