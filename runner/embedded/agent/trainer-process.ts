import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { setPriority } from "node:os";
import type { Readable } from "node:stream";
import { z } from "zod";
import type { TrainerCommand, TrainerMessage } from "../trainer-messages.ts";
import type { LogStream } from "./outbox/log-shipper.ts";

/** The trainer as a child process that leads its own process group, so that nothing it starts outlives it. */

/** Training gives way to the agent: on a machine with all cores busy the heartbeat still goes out in time. */
const TRAINER_NICENESS = 5;
/** Output that something the trainer started still holds open is given up after this. */
const PIPE_PATIENCE_MS = 2_000;

/** Enough to tell a message from noise; its fields are the trainer's own promise (`trainer-messages.ts`). */
const MessageSchema = z.discriminatedUnion("type", [
  z.looseObject({ type: z.literal("started"), totalEpochs: z.number() }),
  z.looseObject({ type: z.literal("epoch"), epoch: z.number() }),
  z.looseObject({
    type: z.literal("validation"),
    data: z.looseObject({ epoch: z.number(), images: z.array(z.unknown()) }),
  }),
  z.looseObject({ type: z.literal("checkpoint"), epoch: z.number(), files: z.array(z.unknown()) }),
  z.looseObject({ type: z.literal("finished"), reason: z.string() }),
]);

const isMessage = (value: unknown): value is TrainerMessage => MessageSchema.safeParse(value).success;

export type TrainerExit = { exitCode: number | null; signal: string | null };

export type TrainerHooks = {
  onMessage: (message: TrainerMessage) => void;
  /** Resolves when more output may come: the trainer waits for a slow disk, not the memory. */
  onOutput: (stream: LogStream, bytes: Uint8Array) => Promise<void>;
  onNoise: (line: string) => void;
};

export class TrainerProcess {
  readonly #child: ChildProcess;
  readonly #ended: Promise<TrainerExit>;

  /** @param entry file that Node runs, with the path of the job file as its argument */
  constructor(entry: string, jobFile: string, cwd: string, hooks: TrainerHooks) {
    this.#child = spawn(process.execPath, [entry, jobFile], {
      cwd,
      detached: true,
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    const { pid } = this.#child;
    if (pid !== undefined) {
      try {
        setPriority(pid, TRAINER_NICENESS);
      } catch {
        // Gone already, or the system does not allow it: training works all the same.
      }
    }
    this.#child.on("message", (message: unknown) => {
      if (isMessage(message)) hooks.onMessage(message);
      else hooks.onNoise(`the trainer sent a message that is not known: ${JSON.stringify(message)?.slice(0, 200)}`);
    });
    this.#ended = this.#watch(hooks);
  }

  /** Process number, and that of its group; 0 when it could not be started. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** The whole end: process gone, output read to its end, last messages heard, and its group gone with it. */
  get ended(): Promise<TrainerExit> {
    return this.#ended;
  }

  send(command: TrainerCommand): void {
    // A trainer that has closed the channel is about to end anyway.
    if (this.#child.connected) this.#child.send(command, () => {});
  }

  /** Signals the whole group. */
  kill(signal: NodeJS.Signals): void {
    killGroup(this.pid, signal);
  }

  async #watch(hooks: TrainerHooks): Promise<TrainerExit> {
    const child = this.#child;
    const reading = [read(child.stdout, "stdout", hooks), read(child.stderr, "stderr", hooks)];
    const closed = once(child, "close").catch(() => undefined);
    // Comes after the last message.
    const disconnected = once(child, "disconnect").catch(() => undefined);
    const [exitCode, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
      child.once("exit", (code, name) => resolve([code, name]));
      child.once("error", (error) => {
        hooks.onNoise(`the trainer could not be started: ${error.message}`);
        if (child.pid === undefined) resolve([null, null]);
      });
    });
    this.kill("SIGKILL");
    const patience = setTimeout(() => {
      child.stdout?.destroy();
      child.stderr?.destroy();
      if (child.connected) child.disconnect();
    }, PIPE_PATIENCE_MS);
    await Promise.all(reading);
    if (child.pid !== undefined) await Promise.all([closed, child.connected ? disconnected : null]);
    clearTimeout(patience);
    return { exitCode, signal };
  }
}

async function read(stream: Readable | null, name: LogStream, hooks: TrainerHooks): Promise<void> {
  if (stream === null) return;
  try {
    for await (const chunk of stream) await hooks.onOutput(name, chunk as Buffer);
  } catch {
    // Destroyed after its process had ended: what was there has been read.
  }
}

/** Signals a process group; one that is gone is fine. */
export function killGroup(pid: number, signal: NodeJS.Signals): void {
  if (pid <= 1) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // Gone.
  }
}

/**
 * What tells a process from a later one with the same number: its start time in clock ticks since boot, and the boot itself.
 * Null where the system does not say (not Linux) or the process is gone.
 */
export async function identityOf(pid: number): Promise<string | null> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    const boot = await readFile("/proc/sys/kernel/random/boot_id", "utf8");
    // The second field is the name in parentheses and may hold anything; start time is field 22.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[19] === undefined ? null : `${boot.trim()}:${fields[19]}`;
  } catch {
    return null;
  }
}
