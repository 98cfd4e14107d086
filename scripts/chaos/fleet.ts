import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { TrainerMarkSchema } from "../../runner/embedded/agent/lease.ts";
import { identityOf, killGroup } from "../../runner/embedded/agent/trainer-process.ts";
import { ROOT } from "../lib/wrangler.ts";
import { FaultyProxy } from "./proxy.ts";
import type { Random } from "./random.ts";

/** The machines: embedded runners, each behind a network of its own, and what befalls them. */

const RUNNER = join(ROOT, "runner/embedded/main.ts");
const RECORDER = join(import.meta.dirname, "recorder.ts");
const TRAINER = join(import.meta.dirname, "trainer.ts");
const MAX_OUTPUT = 200_000;

export type MachineOptions = {
  name: string;
  /** For its state and journals. */
  folder: string;
  registrationToken: string;
  epochMs: number;
  /** Port of the server itself. */
  serverPort: number;
  random: Random;
};

export class Machine {
  readonly #options: MachineOptions;
  readonly proxy: FaultyProxy;
  readonly journalFile: string;
  readonly emittedFile: string;
  /** The end of what its runner has said, over all its lives. */
  output = "";
  /** Lives that ended by themselves, without anybody's wish. */
  gaveUp = 0;
  #child: ChildProcess | null = null;
  #wanted = false;

  private constructor(options: MachineOptions, proxy: FaultyProxy) {
    this.#options = options;
    this.proxy = proxy;
    mkdirSync(options.folder, { recursive: true });
    this.journalFile = join(options.folder, "journal.jsonl");
    this.emittedFile = join(options.folder, "emitted.jsonl");
  }

  static async create(options: MachineOptions): Promise<Machine> {
    return new Machine(options, await FaultyProxy.start(options.serverPort, options.random));
  }

  get name(): string {
    return this.#options.name;
  }

  get #stateDir(): string {
    return join(this.#options.folder, "state");
  }

  /** Starts its runner, as a service manager would: one that ends by itself is started again. */
  start(): void {
    this.#wanted = true;
    const { name, registrationToken, epochMs } = this.#options;
    const child = spawn(
      process.execPath,
      [
        "--import",
        RECORDER,
        RUNNER,
        ...["--url", this.proxy.url, "--state-dir", this.#stateDir, "--name", name, "--token", registrationToken],
        ...["--trainer", `embedded=${TRAINER}`],
      ],
      {
        stdio: ["ignore", "pipe", "pipe"],
        env: {
          ...process.env,
          CHAOS_JOURNAL: this.journalFile,
          CHAOS_EMITTED: this.emittedFile,
          CHAOS_EPOCH_MS: String(epochMs),
        },
      },
    );
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        this.output = (this.output + String(chunk)).slice(-MAX_OUTPUT);
      });
    }
    child.once("close", (code, signal) => {
      if (this.#child !== child) return;
      this.#child = null;
      if (!this.#wanted) return;
      this.gaveUp += 1;
      this.output += `(ended by itself: ${code ?? signal})\n`;
      setTimeout(() => {
        if (this.#wanted && this.#child === null) this.start();
      }, 1_000);
    });
  }

  /** Waits until its runner has registered. @throws after a minute */
  async ready(): Promise<void> {
    for (let waitedMs = 0; !this.output.includes("ready: "); waitedMs += 100) {
      if (waitedMs > 60_000) throw new Error(`${this.name} did not get ready:\n${this.output}`);
      await sleep(100);
    }
  }

  /** kill -9; with `power` its trainers go too, as when the machine loses power. */
  async kill(power: boolean): Promise<void> {
    await this.#end("SIGKILL");
    if (!power) return;
    for (const attempt of readdirSync(join(this.#stateDir, "attempts"), { withFileTypes: true })) {
      try {
        const file = join(attempt.parentPath, attempt.name, "trainer.json");
        const { pid, identity } = TrainerMarkSchema.parse(JSON.parse(readFileSync(file, "utf8")));
        if (identity !== null && (await identityOf(pid)) === identity) killGroup(pid, "SIGKILL");
      } catch {
        // No trainer was running there.
      }
    }
  }

  /** SIGTERM twice: it gives its job back. */
  async release(): Promise<void> {
    this.#wanted = false;
    this.#child?.kill("SIGTERM");
    await sleep(300);
    await this.#end("SIGTERM");
  }

  pause(): void {
    this.#child?.kill("SIGSTOP");
  }

  resume(): void {
    this.#child?.kill("SIGCONT");
  }

  /** Its job is done: it leaves. */
  async leave(): Promise<void> {
    await this.#end("SIGTERM");
    await this.proxy.close();
  }

  /** For an end in a hurry. */
  destroy(): void {
    this.#wanted = false;
    this.#child?.kill("SIGKILL");
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    this.#wanted = false;
    const child = this.#child;
    if (child === null) return;
    const closed = once(child, "close");
    child.kill(signal);
    const patience = setTimeout(() => child.kill("SIGKILL"), 30_000);
    await closed;
    clearTimeout(patience);
    this.#child = null;
  }
}

export type Fault = { name: string; weight: number; befall: (machine: Machine, random: Random) => Promise<void> };

/**
 * What befalls one machine; each ends with the machine as it was.
 * @param lostMs silence after which the server takes a job away: faults last from well below it to well above it
 */
export function faultsOf(lostMs: number): Fault[] {
  const anyTime = (random: Random) => random.between(0.1, 1.6) * lostMs;
  const restart = async (machine: Machine, random: Random) => {
    await sleep(random.next() < 0.5 ? random.between(50, 800) : anyTime(random));
    machine.start();
  };
  return [
    {
      name: "runner killed -9",
      weight: 3,
      befall: async (machine, random) => {
        await machine.kill(false);
        await restart(machine, random);
      },
    },
    {
      name: "machine without power",
      weight: 2,
      befall: async (machine, random) => {
        await machine.kill(true);
        await restart(machine, random);
      },
    },
    {
      name: "runner frozen (SIGSTOP)",
      weight: 3,
      befall: async (machine, random) => {
        machine.pause();
        await sleep(anyTime(random));
        machine.resume();
      },
    },
    {
      name: "network refused",
      weight: 2,
      befall: async ({ proxy }, random) => {
        proxy.partition("refuse");
        await sleep(anyTime(random));
        proxy.heal();
      },
    },
    {
      name: "network silent",
      weight: 2,
      befall: async ({ proxy }, random) => {
        proxy.partition("silent");
        await sleep(anyTime(random));
        proxy.heal();
      },
    },
    {
      name: "runner told to leave (SIGTERM twice)",
      weight: 1,
      befall: async (machine, random) => {
        await machine.release();
        await restart(machine, random);
      },
    },
  ];
}
