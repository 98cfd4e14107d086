import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const ENTRY = join(import.meta.dirname, "../../../runner/embedded/main.ts");

/** Reports and prints what it is told to, without learning anything: see the file. */
export const SCRIPTED_TRAINER = join(import.meta.dirname, "scripted-trainer.ts");

/** The runner as its own process, as `npm run runner` starts it. */
export class RunnerProcess {
  readonly #child: ChildProcess;
  #output = "";

  /** @param args beside `--url` and `--state-dir` */
  constructor(url: string, stateDir: string, ...args: string[]) {
    this.#child = spawn(process.execPath, [ENTRY, "--url", url, "--state-dir", stateDir, ...args], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on("data", (chunk) => {
        this.#output += String(chunk);
      });
    }
  }

  get output(): string {
    return this.#output;
  }

  /** Waits for a line of its output. @throws with the output after `patienceMs` or when it has ended */
  async says(what: RegExp, patienceMs = 30_000): Promise<void> {
    const giveUpAt = Date.now() + patienceMs;
    while (!what.test(this.#output)) {
      const { exitCode, signalCode } = this.#child;
      if (Date.now() > giveUpAt || exitCode !== null || signalCode !== null) {
        throw new Error(`the runner (${exitCode ?? signalCode ?? "running"}) did not say ${what}:\n${this.#output}`);
      }
      await sleep(50);
    }
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** Its exit code, or the signal that ended it. @throws with the output after `patienceMs` */
  async ended(patienceMs = 30_000): Promise<number | string> {
    const { exitCode, signalCode } = this.#child;
    if (exitCode !== null || signalCode !== null) return exitCode ?? signalCode ?? -1;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`the runner did not end:\n${this.#output}`)), patienceMs);
      this.#child.once("close", (code, name) => {
        clearTimeout(timer);
        resolve(code ?? name ?? -1);
      });
    });
  }

  /** For the end of a test, whatever came before: it gives its job back, tells the server, and ends. */
  async dispose(): Promise<void> {
    this.signal("SIGQUIT");
    await this.ended(8_000).catch(() => {
      this.signal("SIGKILL");
      return this.ended();
    });
  }
}
