import { ApiError, type Client, type RetryOptions, retrying } from "../client.ts";
import { CallbackAnswer, type Desired, type Limits } from "../wire.ts";
import { advanceCursor, type Cursor, nextBatch } from "./batch.ts";
import type { Journal, Numbered } from "./journal.ts";

export type OutboxEvent = { event: string; data: Record<string, unknown>; emitted_at?: string };

export type EventSenderDeps = {
  client: Client;
  jobId: number;
  token: string;
  journal: Journal<OutboxEvent>;
  limits: Limits;
  retry: RetryOptions;
  onDesired: (desired: Desired) => void;
  log: (line: string) => void;
  /** An event is not in the job's data; its owner should know. */
  onRejected: (line: string) => void;
};

/** Room for `{"job_id":…,"events":[…]}`. */
const ENVELOPE_BYTES = 200;

/** Takes the place of an event that cannot be sent, so that its number does not hold up those behind it. */
const tombstone = (seq: number, line: string | null): Numbered<OutboxEvent> => ({
  seq,
  event: "log",
  data: { stream: "stderr", lines: line === null ? [] : [line] },
});

/**
 * Sends the events of one attempt in batches, in order, until the server has them all. While one batch is under way the
 * next one grows.
 */
export class EventSender {
  readonly #deps: EventSenderDeps;
  #cursor: Cursor;
  #wake: () => void = () => {};

  constructor(deps: EventSenderDeps) {
    this.#deps = deps;
    const { releasedSeq } = deps.journal;
    this.#cursor = { acked: releasedSeq, sent: releasedSeq, missing: [] };
  }

  get acked(): number {
    return this.#cursor.acked;
  }

  get pending(): number {
    return this.#deps.journal.lastSeq - this.#cursor.acked;
  }

  /** Sends until the signal. @throws what ends the attempt's right to send, or the signal's reason */
  async run(): Promise<never> {
    const { journal, retry } = this.#deps;
    const unwatch = journal.watch(() => this.#wake());
    const wakeOnAbort = () => this.#wake();
    retry.signal.addEventListener("abort", wakeOnAbort);
    try {
      for (;;) {
        retry.signal.throwIfAborted();
        const woken = new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        const batch = this.#next();
        if (batch.length > 0) await this.#deliver(batch);
        else await woken;
      }
    } finally {
      unwatch();
      retry.signal.removeEventListener("abort", wakeOnAbort);
    }
  }

  #next(): number[] {
    const { journal, limits } = this.#deps;
    // Sizes are those before compression: what is within them fits in any case.
    return nextBatch(
      this.#cursor,
      journal.durableSeq,
      { maxEvents: limits.events_per_batch, maxBytes: limits.body_bytes - ENVELOPE_BYTES },
      (seq) => journal.bytesOf(seq),
    );
  }

  async #deliver(batch: number[]): Promise<void> {
    const found = new Map((await this.#deps.journal.read(batch)).map((event) => [event.seq, event]));
    await this.#send(batch.map((seq) => found.get(seq) ?? tombstone(seq, null)));
  }

  async #send(events: Numbered<OutboxEvent>[]): Promise<void> {
    const { client, jobId, token, retry, onDesired, onRejected, journal } = this.#deps;
    try {
      const answer = await retrying(
        () =>
          client.call("POST", "/api/v1/internal/training/callback", CallbackAnswer, {
            token,
            json: { job_id: jobId, events },
            signal: retry.signal,
          }),
        retry,
      );
      for (const { seq, code, message } of answer.rejected) {
        const name = events.find((event) => event.seq === seq)?.event ?? "";
        onRejected(`event ${seq} (${name}) was rejected: ${message} (${code})`);
      }
      this.#cursor = advanceCursor(
        this.#cursor,
        events.map(({ seq }) => seq),
        { ackSeq: answer.ack_seq, missing: answer.missing },
      );
      await journal.release(this.#cursor.acked);
      onDesired(answer.desired);
    } catch (error) {
      const refused = error instanceof ApiError && [400, 413, 422].includes(error.status);
      if (!refused) throw error;
      await this.#narrow(events, error);
    }
  }

  /** A batch was refused as a whole: finds the event that is the cause and sends the others. */
  async #narrow(events: Numbered<OutboxEvent>[], error: ApiError): Promise<void> {
    const [first] = events;
    if (first === undefined) return;
    if (events.length > 1) {
      const half = Math.ceil(events.length / 2);
      await this.#send(events.slice(0, half));
      await this.#send(events.slice(half));
      return;
    }
    // A refused tombstone would go round for ever.
    if (first.event === "log") throw error;
    const line = `[runner] event ${first.seq} (${first.event}) could not be stored: ${error.message}`;
    this.#deps.log(line);
    await this.#send([tombstone(first.seq, line)]);
  }
}
