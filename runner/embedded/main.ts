import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Agent, AgentStopped } from "./agent/agent.ts";
import { Client, Reachability } from "./agent/client.ts";
import { systemClock } from "./agent/clock.ts";
import { ContentCache } from "./agent/dataset/cache.ts";
import { errorText, readJson } from "./agent/files.ts";
import { settleLeftovers } from "./agent/leftovers.ts";
import { tryLock } from "./agent/lock.ts";
import { createMask } from "./agent/mask.ts";
import { HELP, type Options, parseOptions } from "./agent/options.ts";
import { type RegistrationDeps, RegistrationFailed, register, signIn } from "./agent/registration.ts";
import { DEFAULT_TIMERS } from "./agent/wire.ts";

/** `npm run runner`: arguments, signals and exit code around the agent. */

const EXIT = { ended: 0, failed: 1, usage: 2, inUse: 3 } as const;

/** The trainers that come with this runner. */
const TRAINERS: [string, string][] = [["embedded", join(import.meta.dirname, "trainer/main.ts")]];
/** How long unfinished business of an earlier process may delay the end of this one. */
const LEFTOVER_PATIENCE_MS = 10_000;

const SAME_KEY_MS = 250;

const mask = createMask([]);
const log = (line: string) => console.log(`${new Date().toISOString().slice(11, 19)} ${mask(line)}`);

async function readStdin(): Promise<string> {
  let text = "";
  for await (const chunk of process.stdin) text += String(chunk);
  return text;
}

async function versionOf(): Promise<string> {
  const manifest = await readJson(join(import.meta.dirname, "../../package.json"));
  const version = typeof manifest === "object" && manifest !== null && "version" in manifest ? manifest.version : null;
  return typeof version === "string" ? version : "0";
}

async function main(options: Options): Promise<number> {
  const { stateDir, name, slots, once } = options;
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const lock = await tryLock(join(stateDir, "agent.lock"));
  if (lock === null) {
    console.error(`runner: another process uses ${stateDir}; give this one another --state-dir`);
    return EXIT.inUse;
  }
  const clock = systemClock;
  const stopped = new AbortController();
  let agent: Agent | null = null;
  let signals = 0;
  let lastSignalMs = Number.NEGATIVE_INFINITY;
  for (const signal of ["SIGTERM", "SIGINT", "SIGQUIT"] as const) {
    process.on(signal, () => {
      const sinceMs = performance.now() - lastSignalMs;
      lastSignalMs = performance.now();
      // One Ctrl-C arrives twice: from the terminal, and from the npm that runs this.
      if (signal === "SIGINT" && sinceMs < SAME_KEY_MS) return;
      signals = signal === "SIGQUIT" ? 3 : signals + 1;
      stopped.abort(new Error(signal));
      const jobs = agent?.activeJobs ?? 0;
      if (signals === 1) {
        log(jobs === 0 ? `${signal}: leaving` : `${signal}: finishing ${jobs} job(s); again to give them back`);
        agent?.drain();
      } else if (signals === 2) {
        log(`${signal}: saving checkpoints and giving ${jobs} job(s) back; again to end at once`);
        agent?.release();
      } else {
        log(`${signal}: ending at once`);
        agent?.kill();
      }
    });
  }
  try {
    const version = await versionOf();
    const userAgent = `cultivar-runner/${version} (embedded)`;
    const client = new Client(options.url, userAgent);
    const trainers = new Map([...TRAINERS, ...options.trainers]);
    const { retry_base_s, retry_cap_s } = DEFAULT_TIMERS;
    const registration: RegistrationDeps = {
      client,
      retry: {
        clock,
        backoff: { baseMs: retry_base_s * 1000, capMs: retry_cap_s * 1000 },
        signal: stopped.signal,
        reachability: new Reachability(clock),
        onRetry: (error, delayMs) => log(`${error.message}; again in ${(delayMs / 1000).toFixed(1)} s`),
      },
      stateDir,
      name,
      slots,
      frameworks: [...trainers.keys()],
      labels: options.labels,
      version,
      credentials: options.credentials,
      readStdin,
      log,
    };
    const runner = await signIn(registration);
    const attemptsFolder = join(stateDir, "attempts");
    const { settled } = await settleLeftovers({
      folder: attemptsFolder,
      userAgent,
      clock,
      secrets: [runner.runnerToken],
      log,
    });
    agent = new Agent({
      client,
      clock,
      cache: new ContentCache(join(stateDir, "cache"), options.cacheBytes, clock),
      trainers,
      attemptsFolder,
      slots,
      once,
      runner,
      renew: () => register(registration),
      log,
      onReady: () =>
        log(
          `ready: ${name} (${runner.runnerId}) at ${client.baseUrl}, ${[...trainers.keys()].join(", ")}, ${slots} slot(s)`,
        ),
    });
    if (!stopped.signal.aborted) await agent.run();
    await Promise.race([settled, clock.sleep(LEFTOVER_PATIENCE_MS)]);
    return EXIT.ended;
  } catch (error) {
    if (stopped.signal.aborted) return EXIT.ended;
    const known = error instanceof AgentStopped || error instanceof RegistrationFailed;
    console.error(
      `runner: ${mask(known || !(error instanceof Error) ? errorText(error) : (error.stack ?? error.message))}`,
    );
    return EXIT.failed;
  } finally {
    await lock.release();
  }
}

// Whoever reads the lines may go away; the job goes on.
process.stdout.on("error", () => {});
process.stderr.on("error", () => {});

const options = parseOptions(process.argv.slice(2));
if (!options.ok) {
  console.error(`runner: ${options.error}\n\n${HELP}`);
  process.exitCode = EXIT.usage;
} else if (options.value === "help") console.log(HELP);
else process.exit(await main(options.value));
