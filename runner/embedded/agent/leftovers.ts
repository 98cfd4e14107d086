import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { finishLimits } from "./attempt.ts";
import { Client } from "./client.ts";
import type { Clock } from "./clock.ts";
import { errorText, readJson } from "./files.ts";
import { ENDING_FILE, EndingSchema, LEASE_FILE, LeaseSchema, TRAINER_FILE, TrainerMarkSchema } from "./lease.ts";
import { LeaseLost, openLink } from "./link.ts";
import type { Ending } from "./report.ts";
import { identityOf, killGroup } from "./trainer-process.ts";

/** A trainer that lost its agent saves and leaves by itself; it gets this long. */
const TRAINER_PATIENCE_MS = 10_000;

/** What an attempt is called that nobody brought to its end: charged as lost, so a job that takes its runner down ends. */
const LOST: Ending = {
  event: "failed",
  reason: "runner_lost",
  message: "the runner's process ended during the job and was started again",
  exitCode: null,
  signal: null,
};

export type LeftoverDeps = {
  /** Folder of all attempts. */
  folder: string;
  userAgent: string;
  clock: Clock;
  secrets: readonly string[];
  log: (line: string) => void;
};

/**
 * Looks after the attempts that an earlier process of this runner left unfinished (it was killed, or the machine lost power):
 * ends their trainers, sends what is in their outbox and how they ended. An attempt that the server has given to somebody
 * else by now answers 409 once, and its outbox is dropped.
 * @returns as soon as it is known which they are; `settled` when they are done with
 */
export async function settleLeftovers(deps: LeftoverDeps): Promise<{ settled: Promise<void> }> {
  await mkdir(deps.folder, { recursive: true, mode: 0o700 });
  const names = await readdir(deps.folder);
  const all = names.map((name) =>
    settle(join(deps.folder, name), name, deps).catch((error: unknown) =>
      deps.log(`leftover ${name}: ${errorText(error)}`),
    ),
  );
  return { settled: Promise.all(all).then(() => undefined) };
}

async function settle(folder: string, name: string, deps: LeftoverDeps): Promise<void> {
  const { clock } = deps;
  const log = (line: string) => deps.log(`leftover ${name}: ${line}`);
  await endTrainer(folder, clock, log);
  const lease = LeaseSchema.safeParse(await readJson(join(folder, LEASE_FILE)));
  if (!lease.success) {
    await rm(folder, { recursive: true, force: true });
    return;
  }
  const ending = EndingSchema.safeParse(await readJson(join(folder, ENDING_FILE)));
  const link = await openLink({
    client: new Client(lease.data.url, deps.userAgent),
    clock,
    lease: lease.data,
    folder,
    secrets: deps.secrets,
    log,
    // The trainer is gone, and the end is about to be reported in any case.
    onStop: () => {},
    onCheckpoint: () => {},
    progress: () => ({ stage: "finishing" }),
  });
  try {
    await link.greet();
    link.start();
    const how = ending.success ? ending.data : LOST;
    const { finalize_s, terminal_retry_s } = lease.data.timers;
    const delivered = await link.finish(how, finishLimits(how, finalize_s * 1000, terminal_retry_s * 1000));
    log(delivered ? `reported: ${how.event} (${how.reason})` : "could not be reported");
  } catch (error) {
    log(`dropped: ${error instanceof LeaseLost ? error.message : errorText(error)}`);
  } finally {
    await link.close();
  }
  await rm(folder, { recursive: true, force: true });
}

async function endTrainer(folder: string, clock: Clock, log: (line: string) => void): Promise<void> {
  const mark = TrainerMarkSchema.safeParse(await readJson(join(folder, TRAINER_FILE)));
  if (!mark.success || mark.data.identity === null) return;
  const { pid, identity } = mark.data;
  // Another process may have the number by now.
  const lives = async () => (await identityOf(pid)) === identity;
  if (!(await lives())) return;
  log(`its trainer (${pid}) still runs and is ended`);
  killGroup(pid, "SIGTERM");
  for (let waitedMs = 0; waitedMs < TRAINER_PATIENCE_MS && (await lives()); waitedMs += 100) await clock.sleep(100);
  if (await lives()) killGroup(pid, "SIGKILL");
}
