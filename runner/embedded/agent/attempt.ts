import { randomBytes } from "node:crypto";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import type { TrainerJob, TrainerMessage, TrainerResume } from "../trainer-messages.ts";
import { ApiError, type Client } from "./client.ts";
import type { Clock } from "./clock.ts";
import type { ContentCache } from "./dataset/cache.ts";
import { download, HashMismatch } from "./dataset/download.ts";
import { DatasetUnavailable, prepareDataset } from "./dataset/prepare.ts";
import { errorText, writeAtomically } from "./files.ts";
import { ENDING_FILE, LEASE_FILE, type Lease, TRAINER_FILE } from "./lease.ts";
import { type FinishLimits, LeaseLost, type Link, openLink } from "./link.ts";
import { type Ending, endingOf, eventsOf, type Intent, type TrainerEnd } from "./report.ts";
import { identityOf, TrainerProcess } from "./trainer-process.ts";
import type { AcceptAnswer } from "./wire.ts";

/** After SIGTERM at the end of the grace. */
const TERM_TO_KILL_MS = 5_000;
/** A file of the dataset that cannot be had for so long, while the server is there, is not going to come. */
const FETCH_PATIENCE_MS = 15 * 60_000;
/** Of the time that the server grants after a stop, the share for uploads; the rest is for logs and the last event. */
const SHARE_FOR_UPLOADS = 0.7;
const SHARE_FOR_LOGS = 0.2;

export type AttemptDeps = {
  client: Client;
  clock: Clock;
  cache: ContentCache;
  /** Entry file of the trainer of each framework. */
  trainers: ReadonlyMap<string, string>;
  /** Folder of all attempts. */
  folder: string;
  secrets: readonly string[];
  log: (line: string) => void;
};

export type AttemptResult =
  | { event: Ending["event"]; reason: Ending["reason"] }
  /** The server took the job away, or could not be told how it ended. */
  | { event: "abandoned"; reason: null };

type Accepted = z.infer<typeof AcceptAnswer>;
type Halt = "stop" | "release" | "kill";

/** One attempt at one job: brings the data, runs the trainer, reports, cleans up. */
export class Attempt {
  readonly #deps: AttemptDeps;
  readonly #accepted: Accepted;
  readonly #lease: Lease;
  readonly #folder: string;
  /** Aborted as soon as the attempt should not go on, for whatever reason. */
  readonly #halted = new AbortController();
  #intent: Intent = null;
  #killed = false;
  #trainer: TrainerProcess | null = null;
  #stage: "dataset" | "training" | "finishing" = "dataset";
  #epoch: number | null = null;

  constructor(deps: AttemptDeps, jobId: number, accepted: Accepted) {
    this.#deps = deps;
    this.#accepted = accepted;
    const { attempt, job_token: jobToken, timers, limits } = accepted;
    this.#lease = { url: deps.client.baseUrl, jobId, attempt, jobToken, timers, limits };
    // Another server has jobs and attempts of the same numbers.
    this.#folder = join(deps.folder, `${jobId}-${attempt}-${randomBytes(4).toString("hex")}`);
  }

  get name(): string {
    return `job ${this.#lease.jobId} attempt ${this.#lease.attempt}`;
  }

  /** Saves a checkpoint and gives the job back: it is queued again at once. */
  release(): void {
    this.#halt("release", this.#lease.timers.stop_grace_s * 1000);
  }

  /** Ends the trainer now; what it did since its last checkpoint is lost. */
  kill(): void {
    this.#halt("kill", 0);
  }

  /**
   * Runs to the end. Whatever happens to the job is reported to the server, or there is nobody to report to.
   * @throws when its folder cannot be made
   */
  async run(): Promise<AttemptResult> {
    const { client, clock, secrets } = this.#deps;
    const log = (line: string) => this.#deps.log(`${this.name}: ${line}`);
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    await writeAtomically(join(this.#folder, LEASE_FILE), JSON.stringify(this.#lease));
    const link = await openLink({
      client,
      clock,
      lease: this.#lease,
      folder: this.#folder,
      secrets,
      log,
      onStop: (graceMs) => {
        log("the server wants it stopped");
        this.#halt("stop", graceMs);
      },
      onCheckpoint: () => this.#trainer?.send({ type: "checkpoint" }),
      progress: () => ({ stage: this.#stage, ...(this.#epoch !== null && { epoch: this.#epoch }) }),
    });
    link.start();
    let keep = false;
    let ending: Ending | null = null;
    try {
      ending = await this.#work(link, log).catch((error: unknown) => {
        if (link.gone.aborted) throw error;
        // This machine's fault, not the job's: somebody else may do better.
        return failed("runner_lost", `the runner failed: ${errorText(error)}`);
      });
      this.#stage = "finishing";
      await writeAtomically(join(this.#folder, ENDING_FILE), JSON.stringify(ending)).catch((error: unknown) =>
        log(errorText(error)),
      );
      const delivered = await link.finish(ending, this.#limitsOf(ending));
      log(`${ending.event} (${ending.reason})${delivered ? "" : ", which the server does not know yet"}`);
      // Ended in a hurry: the next start of this agent delivers it.
      keep = !delivered && this.#killed;
    } catch (error) {
      const why: unknown = link.gone.reason;
      log(`given up: ${why instanceof LeaseLost ? why.message : errorText(error)}`);
    } finally {
      this.#trainer?.kill("SIGKILL");
      await link.close();
      if (!keep) await rm(this.#folder, { recursive: true, force: true });
    }
    return ending === null ? { event: "abandoned", reason: null } : { event: ending.event, reason: ending.reason };
  }

  #halt(how: Halt, graceMs: number): void {
    if (how === "kill") {
      this.#killed = true;
      this.#intent ??= "release";
      this.#trainer?.kill("SIGKILL");
    } else if (this.#intent === null) {
      this.#intent = how;
      if (this.#trainer !== null) void this.#endTrainer(this.#trainer, graceMs);
    }
    this.#halted.abort(new Error(how));
  }

  /** Asks, waits, insists. */
  async #endTrainer(trainer: TrainerProcess, graceMs: number): Promise<void> {
    const { clock } = this.#deps;
    const over = new AbortController();
    void trainer.ended.then(() => over.abort());
    trainer.send({ type: "stop" });
    await clock.sleep(graceMs, over.signal);
    if (!over.signal.aborted) trainer.kill("SIGTERM");
    await clock.sleep(TERM_TO_KILL_MS, over.signal);
    if (!over.signal.aborted) trainer.kill("SIGKILL");
  }

  /** The job itself. @throws only when the link is gone */
  async #work(link: Link, log: (line: string) => void): Promise<Ending> {
    const nothingRan: TrainerEnd = { finished: null, exitCode: null, signal: null, stderrTail: [] };
    const entry = this.#deps.trainers.get(this.#accepted.spec.framework);
    if (entry === undefined) {
      return failed("invalid_config", `this runner has no trainer for ${this.#accepted.spec.framework}`);
    }
    let job: TrainerJob;
    try {
      job = await this.#prepare(link, log);
    } catch (error) {
      link.gone.throwIfAborted();
      if (this.#intent !== null) return endingOf(nothingRan, this.#intent);
      if (error instanceof ApiError && error.code === "STALE_LEASE") throw error;
      const reason =
        error instanceof DatasetUnavailable
          ? "dataset_unavailable"
          : error instanceof ResumeUnusable
            ? "checkpoint_corrupt"
            : "runner_lost";
      link.note("stderr", `${reason}: ${errorText(error)}`);
      log(`${reason}: ${errorText(error)}`);
      return failed(reason, errorText(error));
    }
    return this.#train(entry, job, link, log);
  }

  async #prepare(link: Link, log: (line: string) => void): Promise<TrainerJob> {
    const { client, cache } = this.#deps;
    const { jobId, jobToken: token } = this.#lease;
    const signal = AbortSignal.any([link.gone, this.#halted.signal]);
    const retry = { ...link.retry, signal, giveUpAfterMs: FETCH_PATIENCE_MS };
    const dataDir = join(this.#folder, "data");
    const workDir = join(this.#folder, "work");
    await mkdir(workDir, { recursive: true });

    const { files, bytes, fetchedBytes } = await prepareDataset({ client, jobId, token, cache, dataDir, retry });
    const line = `dataset: ${files} files, ${bytes} bytes, ${fetchedBytes} of them fetched, the rest was here`;
    link.note("stdout", line);
    log(line);
    return { spec: this.#accepted.spec, dataDir, workDir, resume: await this.#fetchResume(link, retry) };
  }

  async #fetchResume(link: Link, retry: Link["retry"]): Promise<TrainerResume | null> {
    const { resume } = this.#accepted;
    if (resume === null) return null;
    const { client } = this.#deps;
    const { jobId, jobToken: token } = this.#lease;
    const target = join(this.#folder, "resume.state");
    const path = `/api/v1/internal/jobs/${jobId}/artifacts/${resume.artifact_id}/content`;
    try {
      await download({ client, path, token, target, size: resume.size, sha256: resume.sha256, retry });
    } catch (error) {
      retry.signal.throwIfAborted();
      // The server then goes back to the checkpoint before this one.
      const unusable = error instanceof HashMismatch || (error instanceof ApiError && error.status === 404);
      throw unusable ? new ResumeUnusable(errorText(error), { cause: error }) : error;
    }
    link.note("stdout", `resumes from the checkpoint of epoch ${resume.epoch}`);
    return { path: target, epoch: resume.epoch, weightsOnly: resume.weights_only };
  }

  async #train(entry: string, job: TrainerJob, link: Link, log: (line: string) => void): Promise<Ending> {
    const jobFile = join(this.#folder, "job.json");
    await writeFile(jobFile, JSON.stringify(job), { mode: 0o600 });
    if (this.#halted.signal.aborted) {
      return endingOf({ finished: null, exitCode: null, signal: null, stderrTail: [] }, this.#intent);
    }
    const said: Pick<TrainerEnd, "finished"> = { finished: null };
    let taken: Promise<void> = Promise.resolve();
    const onMessage = (message: TrainerMessage) => {
      if (message.type === "finished") said.finished = { reason: message.reason, message: message.message };
      else if (message.type === "checkpoint") {
        taken = taken
          .then(() => link.checkpoint(message))
          .catch((error: unknown) => link.note("stderr", `a checkpoint was lost: ${errorText(error)}`));
      } else {
        for (const event of eventsOf(message)) link.emit(event);
        if (message.type === "epoch") {
          this.#epoch = message.epoch;
          log(`epoch ${message.epoch}`);
        }
      }
    };
    this.#stage = "training";
    const trainer = new TrainerProcess(entry, jobFile, job.workDir, {
      onMessage,
      onOutput: (stream, bytes) => link.output(stream, bytes),
      onNoise: (line) => link.note("stderr", line),
    });
    this.#trainer = trainer;
    const killIt = () => trainer.kill("SIGKILL");
    link.gone.addEventListener("abort", killIt, { once: true });
    const mark = { pid: trainer.pid, identity: await identityOf(trainer.pid) };
    await writeAtomically(join(this.#folder, TRAINER_FILE), JSON.stringify(mark));
    const exit = await trainer.ended;
    link.gone.removeEventListener("abort", killIt);
    link.gone.throwIfAborted();
    await taken;
    await link.endLogs();
    return endingOf({ ...said, ...exit, stderrTail: link.stderrTail() }, this.#intent);
  }

  #limitsOf(ending: Ending): FinishLimits {
    const { finalize_s, terminal_retry_s } = this.#lease.timers;
    if (this.#killed) return { uploadsMs: 0, logsMs: 500, lastEventMs: 1_500 };
    return finishLimits(ending, finalize_s * 1000, terminal_retry_s * 1000);
  }
}

/** The checkpoint to resume from is gone or damaged. */
class ResumeUnusable extends Error {
  override readonly name = "ResumeUnusable";
}

const failed = (reason: Ending["reason"], message: string): Ending => ({
  event: "failed",
  reason,
  message,
  exitCode: null,
  signal: null,
});

/**
 * After a stop the server waits for `finalizeMs` at most, and whoever shuts a runner down waits for it; a job that ended by
 * itself keeps its lease for as long as its last checkpoints take.
 */
export function finishLimits(ending: Pick<Ending, "event">, finalizeMs: number, lastEventMs: number): FinishLimits {
  const hurried = ending.event === "stopped" || ending.event === "released";
  return {
    uploadsMs: hurried ? finalizeMs * SHARE_FOR_UPLOADS : lastEventMs,
    logsMs: hurried ? finalizeMs * SHARE_FOR_LOGS : finalizeMs,
    lastEventMs,
  };
}
