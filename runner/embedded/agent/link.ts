import { join } from "node:path";
import type { CheckpointMessage } from "../trainer-messages.ts";
import { ApiError, type Client, Reachability, type RetryOptions, retrying } from "./client.ts";
import type { Clock } from "./clock.ts";
import { errorText } from "./files.ts";
import { keepLease } from "./heartbeat.ts";
import type { Lease } from "./lease.ts";
import { createMask } from "./mask.ts";
import { EventSender, type OutboxEvent } from "./outbox/event-sender.ts";
import { Journal } from "./outbox/journal.ts";
import { LOG_STREAMS, LogShipper, type LogStream } from "./outbox/log-shipper.ts";
import { type Ending, lastEvent } from "./report.ts";
import { endsTheAttempt, Uploads } from "./uploads.ts";
import { type Desired, HeartbeatAnswer } from "./wire.ts";

/** How often a wait looks whether what it waits for has happened. */
const POLL_MS = 50;
/** After an error of this machine, not of a call (a disk that cannot be read), a sender begins again. */
const RESTART_MS = 5_000;

export type LinkDeps = {
  client: Client;
  clock: Clock;
  lease: Lease;
  /** The attempt's own folder. */
  folder: string;
  /** Never to appear in what is sent. */
  secrets: readonly string[];
  log: (line: string) => void;
  /** The server wants the trainer to end within a time, or to save and go on. */
  onStop: (graceMs: number) => void;
  onCheckpoint: () => void;
  progress: () => Record<string, unknown>;
};

/** How long each step of the end may take. */
export type FinishLimits = { uploadsMs: number; logsMs: number; lastEventMs: number };

/** The server takes nothing more of this attempt. */
export class LeaseLost extends Error {
  override readonly name = "LeaseLost";
}

export type Link = Awaited<ReturnType<typeof openLink>>;

/**
 * Everything between one attempt and the server: the outbox of events and log chunks, uploads, and the heartbeat. Opens what
 * an earlier agent left in the folder. `gone` is aborted when the server takes nothing more of the attempt, or on `close`.
 */
export async function openLink(deps: LinkDeps) {
  const { client, clock, lease, folder, log } = deps;
  const { jobId, jobToken: token, timers, limits } = lease;
  const ending = new AbortController();
  const gone = ending.signal;
  const reachability = new Reachability(clock);
  const trouble = (error: unknown) => log(errorText(error));
  const retry: RetryOptions = {
    clock,
    backoff: { baseMs: timers.retry_base_s * 1000, capMs: timers.retry_cap_s * 1000 },
    signal: gone,
    reachability,
    onRetry: (error, delayMs, failures) => {
      // An outage of hours is a line now and then.
      if ((failures & (failures - 1)) === 0) {
        log(`${error.message}; try ${failures + 1} in ${(delayMs / 1000).toFixed(1)} s`);
      }
    },
  };
  const mask = createMask([token, ...deps.secrets]);

  const journal = await Journal.open<OutboxEvent>(join(folder, "events"), { onTrouble: trouble });
  let lastSeq: number | null = null;
  let desired: Desired = "run";
  /** What the server wants, from whichever answer says it. After the last event it is of no interest. */
  const heard = (wish: Desired, graceMs = timers.stop_grace_s * 1000) => {
    if (lastSeq !== null || wish === desired) return;
    desired = wish;
    if (wish === "stop") deps.onStop(graceMs);
    if (wish === "checkpoint") deps.onCheckpoint();
    if (wish === "abandon") ending.abort(new LeaseLost("the server wants this attempt abandoned"));
  };

  const emit = ({ event, data }: OutboxEvent) =>
    journal.append({ event, data, emitted_at: new Date(clock.now()).toISOString() });

  const openLog = (stream: LogStream) =>
    LogShipper.open(folder, { stream, client, jobId, token, limits, mask, clock, retry, onTrouble: trouble });
  const logs: Record<LogStream, LogShipper> = { stdout: await openLog("stdout"), stderr: await openLog("stderr") };
  let announcedSeq = 0;
  const uploads = await Uploads.open(folder, {
    client,
    jobId,
    token,
    retry,
    note: (line) => logs.stderr.note(`[runner] ${line}`),
    reported: async (seq) => {
      // The checkpoint before this one is announced first, too: the server may remove it when this one is complete.
      while (events.acked < Math.max(seq, announcedSeq)) {
        gone.throwIfAborted();
        await clock.sleep(POLL_MS, gone);
      }
    },
    onStored: async ({ artifactId, epoch, role }) => {
      announcedSeq = emit({ event: "checkpoint", data: { artifact_id: artifactId, epoch, role } });
      await journal.flushed();
      log(`stored the ${role} checkpoint of epoch ${epoch}`);
    },
  });
  const events = new EventSender({
    client,
    jobId,
    token,
    journal,
    limits,
    retry,
    onDesired: heard,
    log,
    onRejected: (line) => {
      log(line);
      logs.stderr.note(`[runner] ${line}`);
    },
  });
  const outboxSize = () => events.pending + logs.stdout.pending + logs.stderr.pending + uploads.pending;

  const heartbeat = () =>
    keepLease({
      client,
      jobId,
      token,
      timers,
      clock,
      signal: gone,
      reachability,
      report: () => ({ outbox: outboxSize(), progress: deps.progress() }),
      onAnswer: (answer) => heard(answer.desired, answer.grace_s * 1000),
      onTrouble: () => {},
    });

  /** Keeps a loop going until the end of the link; the server's refusal of the attempt is that end. */
  const supervise = async (name: string, loop: () => Promise<never>) => {
    while (!gone.aborted) {
      try {
        await loop();
      } catch (error) {
        if (gone.aborted) return;
        if (endsTheAttempt(error)) ending.abort(new LeaseLost(errorText(error)));
        else {
          log(`${name}: ${errorText(error)}`);
          await clock.sleep(RESTART_MS, gone);
        }
      }
    }
  };
  let loops: Promise<void>[] = [];

  /** True when it came to pass; false after the time, or when the link has ended. */
  const until = async (happened: () => boolean, limitMs: number): Promise<boolean> => {
    const startedMs = clock.now();
    while (!happened()) {
      if (gone.aborted || clock.now() - startedMs >= limitMs) return false;
      await clock.sleep(POLL_MS, gone);
    }
    return true;
  };
  const logsSent = () => LOG_STREAMS.every((stream) => logs[stream].pending === 0);

  return {
    gone,
    retry,
    emit,

    start(): void {
      loops = [
        supervise("heartbeat", heartbeat),
        supervise("events", () => events.run()),
        supervise("stdout", () => logs.stdout.run()),
        supervise("stderr", () => logs.stderr.run()),
        supervise("uploads", () => uploads.run()),
      ];
    },

    /** One heartbeat before anything else, for an agent that comes back: learns how far the server is. */
    async greet(): Promise<void> {
      const answer = await retrying(
        () =>
          client.call("POST", `/api/v1/internal/jobs/${jobId}/heartbeat`, HeartbeatAnswer, {
            token,
            json: { outbox: outboxSize() },
            signal: gone,
          }),
        retry,
      );
      journal.skipTo(answer.ack_seq);
    },

    output: (stream: LogStream, bytes: Uint8Array): Promise<void> => logs[stream].write(bytes),

    /** A line of the agent's own in the job's log. */
    note(stream: LogStream, line: string): void {
      logs[stream].note(`[runner] ${line}`);
    },

    stderrTail: (): readonly string[] => logs.stderr.tail,

    checkpoint: (message: CheckpointMessage): Promise<void> => uploads.add(message, journal.lastSeq),

    /** The streams are over. */
    async endLogs(): Promise<void> {
      await Promise.all(LOG_STREAMS.map((stream) => logs[stream].end()));
    },

    /**
     * Reports the end: first what is still to be uploaded and sent, then the last event.
     * @returns whether the server has the last event
     */
    async finish(how: Ending, limit: FinishLimits): Promise<boolean> {
      const uploaded = await until(() => uploads.pending === 0, limit.uploadsMs);
      const notStored = uploaded ? uploads.failures : [...uploads.failures, "not all checkpoints were stored in time"];
      await Promise.all(LOG_STREAMS.map((stream) => logs[stream].end()));
      await until(() => logsSent() && events.pending === 0, limit.logsMs);
      if (gone.aborted) return false;
      const seq = emit(
        lastEvent(
          how,
          {
            chunks: { stdout: logs.stdout.chunks, stderr: logs.stderr.chunks },
            failed: logs.stdout.failed + logs.stderr.failed,
          },
          notStored,
        ),
      );
      lastSeq = seq;
      await until(() => events.acked >= seq, limit.lastEventMs);
      // The server waits for announced chunks, and takes them for a while after the end.
      if (events.acked >= seq) await until(logsSent, limit.logsMs);
      return events.acked >= seq || isRefusal(gone.reason);
    },

    async close(): Promise<void> {
      ending.abort(new Error("closed"));
      await Promise.all(loops);
      await Promise.all([journal.close(), logs.stdout.close(), logs.stderr.close()]);
    },
  };
}

/** After the last event was sent, a refusal means that an earlier try of it got through, or that nobody waits for it. */
const isRefusal = (reason: unknown): boolean => reason instanceof LeaseLost || reason instanceof ApiError;
