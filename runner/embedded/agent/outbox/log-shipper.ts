import { join } from "node:path";
import { ApiError, type Client, type RetryOptions, retrying } from "../client.ts";
import { LogChunker } from "../log-chunker.ts";
import { type Limits, LogAnswer } from "../wire.ts";
import { Journal } from "./journal.ts";

export type LogStream = "stdout" | "stderr";
export const LOG_STREAMS = ["stdout", "stderr"] as const;

const FLUSH_MS = 1_000;
/** A trainer that writes faster than the disk waits when this much is on its way there. */
const MAX_BACKLOG_BYTES = 4 * 1024 * 1024;
/** Last lines that explain a failure. */
const TAIL_LINES = 20;
const TAIL_LINE_LENGTH = 500;

type Chunk = { text: string };

/** One output stream of an attempt: cuts it into chunks, keeps them on disk, sends them in order. */
export class LogShipper {
  readonly #deps: LogShipperDeps;
  readonly #journal: Journal<Chunk>;
  readonly #chunker: LogChunker;
  #stored = 0;
  #failed = 0;
  #tail: string[] = [];
  #ended = false;
  #wake: () => void = () => {};

  private constructor(deps: LogShipperDeps, journal: Journal<Chunk>) {
    this.#deps = deps;
    this.#journal = journal;
    this.#chunker = new LogChunker(deps.limits.log_chunk_bytes, deps.mask);
  }

  static async open(folder: string, deps: LogShipperDeps): Promise<LogShipper> {
    return new LogShipper(
      deps,
      await Journal.open<Chunk>(join(folder, `log-${deps.stream}`), { onTrouble: deps.onTrouble }),
    );
  }

  /** Chunks so far; the last event announces them. */
  get chunks(): number {
    return this.#journal.lastSeq;
  }

  /** Chunks that the server will not have. */
  get failed(): number {
    return this.#failed;
  }

  get pending(): number {
    return this.#journal.lastSeq - this.#journal.releasedSeq;
  }

  /** The last lines, for an error message. */
  get tail(): string[] {
    return this.#tail;
  }

  /** Takes raw output. Resolves when more may come. */
  async write(bytes: Uint8Array): Promise<void> {
    this.#keep(this.#chunker.push(bytes));
    if (this.#journal.backlogBytes > MAX_BACKLOG_BYTES) await this.#journal.flushed();
  }

  /** Adds a line of the agent's own. */
  note(line: string): void {
    if (!this.#ended) this.#keep(this.#chunker.insert(line));
  }

  /** The stream is over: its last, unfinished line is part of it. Resolves when all of it is on disk. */
  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    this.#keep(this.#chunker.end());
    await this.#journal.flushed();
  }

  /** Flushes once a second and sends, until the signal. @throws what ends the right to send, or the signal's reason */
  async run(): Promise<never> {
    const { retry } = this.#deps;
    const unwatch = this.#journal.watch(() => this.#wake());
    const stopped = () => this.#wake();
    retry.signal.addEventListener("abort", stopped);
    // Ends with the signal too.
    void this.#tick();
    try {
      for (;;) {
        retry.signal.throwIfAborted();
        const woken = new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        const next = this.#journal.releasedSeq + 1;
        if (next <= this.#journal.durableSeq) await this.#send(next);
        else await woken;
      }
    } finally {
      unwatch();
      retry.signal.removeEventListener("abort", stopped);
    }
  }

  async close(): Promise<void> {
    await this.#journal.close();
  }

  async #tick(): Promise<void> {
    const { clock, retry } = this.#deps;
    while (!retry.signal.aborted && !this.#ended) {
      await clock.sleep(FLUSH_MS, retry.signal);
      const chunk = this.#chunker.flush();
      if (chunk !== null) this.#keep([chunk]);
    }
  }

  #keep(chunks: string[]): void {
    for (const text of chunks) {
      this.#remember(text);
      // Over the quota the server stores nothing more; the chunk that passes it lets the server say so.
      if (this.#stored > this.#deps.limits.job_log_bytes) continue;
      this.#stored += Buffer.byteLength(text);
      this.#journal.append({ text });
    }
  }

  #remember(text: string): void {
    const lines = text.split("\n").filter((line) => line.trim() !== "");
    this.#tail = [...this.#tail, ...lines.slice(-TAIL_LINES).map((line) => line.slice(0, TAIL_LINE_LENGTH))].slice(
      -TAIL_LINES,
    );
  }

  async #send(seq: number): Promise<void> {
    const { client, jobId, token, stream, retry, onTrouble } = this.#deps;
    const [chunk] = await this.#journal.read([seq]);
    if (chunk === undefined) this.#failed += 1;
    else {
      try {
        await retrying(
          () =>
            client.call("PUT", `/api/v1/internal/jobs/${jobId}/logs/${stream}/${seq}`, LogAnswer, {
              token,
              body: Buffer.from(chunk.text),
              contentType: "text/plain; charset=utf-8",
              signal: retry.signal,
            }),
          retry,
        );
      } catch (error) {
        const lost =
          error instanceof ApiError && (error.code === "LOG_CONFLICT" || [400, 413, 422].includes(error.status));
        if (!lost) throw error;
        this.#failed += 1;
        onTrouble(error);
      }
    }
    await this.#journal.release(seq);
  }
}

export type LogShipperDeps = {
  stream: LogStream;
  client: Client;
  jobId: number;
  token: string;
  limits: Limits;
  mask: (text: string) => string;
  clock: RetryOptions["clock"];
  retry: RetryOptions;
  onTrouble: (error: unknown) => void;
};
