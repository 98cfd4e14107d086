import type { CheckpointMessage, FinishReason, TrainerMessage, ValidationData } from "../trainer-messages.ts";
import type { OutboxEvent } from "./outbox/event-sender.ts";

/** From what a trainer says and how it ends to the events of the protocol (its sections 5 and 11). Pure. */

/** Most images of one event, and how large a page of them may be, so that it travels with others in one batch. */
const PAGE_IMAGES = 500;
const PAGE_BYTES = 256 * 1024;
/** Leaves room for what is added to it; the server keeps 4,000 characters. */
const MAX_MESSAGE = 3_500;

export type ReportedMessage = Exclude<TrainerMessage, CheckpointMessage | { type: "finished" }>;

/** The events that say what a message says. A validation of many images becomes several. */
export function eventsOf(message: ReportedMessage): OutboxEvent[] {
  switch (message.type) {
    case "started":
      return [{ event: "started", data: { total_epochs: message.totalEpochs } }];
    case "epoch":
      return [
        {
          event: "epoch_complete",
          data: {
            epoch: message.epoch,
            loss: message.loss,
            accuracy: message.accuracy,
            learning_rate: message.learningRate,
            extra_metrics: message.extraMetrics,
          },
        },
      ];
    case "validation":
      return validationEvents(message.data);
  }
}

function validationEvents({ images, ...result }: ValidationData): OutboxEvent[] {
  const pages = pagesOf(images);
  return [
    { event: "validation", data: { ...result, images: pages[0]?.images ?? [] } },
    ...pages.slice(1).map((page) => ({ event: "validation_images", data: { epoch: result.epoch, ...page } })),
  ];
}

function pagesOf<T>(images: readonly T[]): { offset: number; images: T[] }[] {
  const pages: { offset: number; images: T[] }[] = [];
  let bytes = 0;
  images.forEach((image, offset) => {
    const size = Buffer.byteLength(JSON.stringify(image)) + 1;
    const page = pages.at(-1);
    if (page && page.images.length < PAGE_IMAGES && bytes + size <= PAGE_BYTES) {
      page.images.push(image);
      bytes += size;
    } else {
      pages.push({ offset, images: [image] });
      bytes = size;
    }
  });
  return pages;
}

/** How an attempt ends, before the counts of its log are known. */
export type Ending = {
  event: "completed" | "failed" | "stopped" | "released";
  reason: "done" | "user_stop" | "runner_shutdown" | "runner_lost" | Exclude<FinishReason, "done" | "user_stop">;
  message: string | null;
  exitCode: number | null;
  signal: string | null;
};

/** Why the agent asked the trainer to end: the server wants the job stopped, or this runner goes away. */
export type Intent = "stop" | "release" | null;

export type TrainerEnd = {
  /** Its last message, if it came to that. */
  finished: { reason: FinishReason; message?: string } | null;
  exitCode: number | null;
  signal: string | null;
  /** Its last lines on stderr. */
  stderrTail: readonly string[];
};

/** What the job is told about the end of its trainer. */
export function endingOf(end: TrainerEnd, intent: Intent): Ending {
  const { finished, exitCode, signal } = end;
  const process = { exitCode, signal };
  if (intent === "stop") {
    return { event: "stopped", reason: "user_stop", message: finished?.message ?? null, ...process };
  }
  if (finished?.reason === "done") {
    return { event: "completed", reason: "done", message: finished.message ?? null, ...process };
  }
  // Nobody asked the job to stop: its trainer was told to by the system, or by this agent's own end.
  if (intent === "release" || finished?.reason === "user_stop") {
    return { event: "released", reason: "runner_shutdown", message: "the runner was shut down", ...process };
  }
  if (finished !== null) {
    return { event: "failed", reason: finished.reason, message: finished.message ?? null, ...process };
  }
  return { event: "failed", reason: "exit_nonzero", message: deathOf(end), ...process };
}

const deathOf = (end: TrainerEnd): string => [howItDied(end), ...end.stderrTail].join("\n").slice(0, MAX_MESSAGE);

function howItDied({ exitCode, signal }: TrainerEnd): string {
  // The kernel does not tell anybody that it was short of memory.
  if (signal === "SIGKILL") return "the trainer was killed (SIGKILL); out of memory is the usual cause";
  if (signal !== null) return `the trainer was ended by ${signal}`;
  return exitCode === null
    ? "the trainer could not be started"
    : `the trainer ended with exit code ${exitCode} and without a last word`;
}

/** The last event of an attempt. */
export const lastEvent = (
  ending: Ending,
  log: { chunks: { stdout: number; stderr: number }; failed: number },
  notStored: readonly string[],
): OutboxEvent => ({
  event: ending.event,
  data: {
    reason: ending.reason,
    exit_code: ending.exitCode,
    signal: ending.signal,
    message: [ending.message, ...notStored].filter((text) => text !== null).join("\n") || null,
    log_chunks: log.chunks,
    chunks_failed: log.failed,
  },
});
