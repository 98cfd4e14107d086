import { type FileHandle, mkdir, open, readdir, readFile, rm, truncate } from "node:fs/promises";
import { join } from "node:path";
import { encodeRecord, scanRecords } from "./frame.ts";

const SEGMENT_BYTES = 1024 * 1024;
const SEGMENT_NAME = /^(\d{12})\.log$/;

type Segment = {
  path: string;
  /** No record in it has a lower number. */
  first: number;
  bytes: number;
};

type Place = { bytes: number } & (
  | { at: "disk"; segment: Segment; offset: number }
  /** The disk refused it; kept until it is acknowledged. */
  | { at: "memory"; line: string }
);

export type Numbered<T> = T & { seq: number };

/**
 * An append-only journal of numbered records in a folder: what is reported of an attempt, until the server has it. Numbers
 * begin at 1 and have no holes. Appends that come together share one write and one flush; what is acknowledged is deleted
 * by whole files. Only places are held in memory, so hours without a server cost disk, not memory.
 *
 * The newest file is never deleted: its name says which number comes next after a restart.
 */
export class Journal<T extends object> {
  readonly #folder: string;
  readonly #onTrouble: (error: unknown) => void;
  readonly #segmentBytes: number;
  readonly #segments: Segment[] = [];
  readonly #places = new Map<number, Place>();
  readonly #watchers = new Set<() => void>();
  #pending: { seq: number; line: string }[] = [];
  #pendingBytes = 0;
  #flushing: Promise<void> | null = null;
  #handle: FileHandle | null = null;
  #broken = false;
  #last = 0;
  #durable = 0;
  #released = 0;

  private constructor(folder: string, options: { onTrouble: (error: unknown) => void; segmentBytes?: number }) {
    this.#folder = folder;
    this.#onTrouble = options.onTrouble;
    this.#segmentBytes = options.segmentBytes ?? SEGMENT_BYTES;
  }

  /** Opens what is there, or begins. A half-written last line is cut off: it was never flushed, so nobody has seen it. */
  static async open<T extends object>(
    folder: string,
    options: { onTrouble: (error: unknown) => void; segmentBytes?: number },
  ): Promise<Journal<T>> {
    const journal = new Journal<T>(folder, options);
    await mkdir(folder, { recursive: true });
    for (const name of (await readdir(folder)).sort()) {
      const first = Number(SEGMENT_NAME.exec(name)?.[1] ?? 0);
      if (first > 0) await journal.#load({ path: join(folder, name), first, bytes: 0 });
    }
    journal.#durable = journal.#last;
    journal.#released = (journal.#places.keys().next().value ?? journal.#last + 1) - 1;
    return journal;
  }

  /** Number of the newest record, on disk or about to be. */
  get lastSeq(): number {
    return this.#last;
  }

  /** Up to here records are flushed; only those may be sent, or a crash could give their number to another record. */
  get durableSeq(): number {
    return this.#durable;
  }

  /** Up to here records are gone, acknowledged. */
  get releasedSeq(): number {
    return this.#released;
  }

  /** Bytes handed in and not yet on disk. */
  get backlogBytes(): number {
    return this.#pendingBytes;
  }

  /** Takes a record and gives it the next number at once; it is on disk when `flushed` says so. */
  append(record: T): number {
    this.#last += 1;
    const line = encodeRecord({ seq: this.#last, ...record });
    this.#pending.push({ seq: this.#last, line });
    this.#pendingBytes += line.length;
    this.#flushing ??= this.#flush();
    return this.#last;
  }

  /** Resolves when everything that was appended so far is on disk. */
  async flushed(): Promise<void> {
    while (this.#flushing !== null) await this.#flushing;
  }

  /** Raises the next number above one that the server has already seen. Only while nothing is on its way to disk. */
  skipTo(seq: number): void {
    this.#last = Math.max(this.#last, seq);
    this.#durable = Math.max(this.#durable, seq);
  }

  /** Size of a record in bytes; 0 when it is not there. */
  bytesOf(seq: number): number {
    return this.#places.get(seq)?.bytes ?? 0;
  }

  /** Records by number; one that is not there, or not readable any more, is left out. */
  async read(seqs: readonly number[]): Promise<Numbered<T>[]> {
    const records: Numbered<T>[] = [];
    let handle: FileHandle | null = null;
    let opened: Segment | null = null;
    try {
      for (const seq of seqs) {
        const place = this.#places.get(seq);
        if (place === undefined) continue;
        if (place.at === "memory") {
          records.push(JSON.parse(place.line.slice(place.line.indexOf(" ") + 1)) as Numbered<T>);
          continue;
        }
        if (opened !== place.segment || handle === null) {
          await handle?.close();
          handle = await open(place.segment.path, "r");
          opened = place.segment;
        }
        const bytes = Buffer.alloc(place.bytes);
        await handle.read(bytes, 0, place.bytes, place.offset);
        try {
          records.push(JSON.parse(bytes.toString("utf8")) as Numbered<T>);
        } catch (error) {
          this.#onTrouble(error);
        }
      }
    } finally {
      await handle?.close();
    }
    return records;
  }

  /** Forgets everything up to `seq` and deletes the files that hold nothing else. */
  async release(seq: number): Promise<void> {
    for (let n = this.#released + 1; n <= Math.min(seq, this.#last); n += 1) this.#places.delete(n);
    this.#released = Math.max(this.#released, Math.min(seq, this.#last));
    for (let next = this.#segments[1]; next && next.first <= this.#released + 1; next = this.#segments[1]) {
      const old = this.#segments.shift();
      if (old) await rm(old.path, { force: true });
    }
  }

  /** Calls back whenever more records are on disk; the answer ends that. */
  watch(onDurable: () => void): () => void {
    this.#watchers.add(onDurable);
    return () => this.#watchers.delete(onDurable);
  }

  /** Flushes and closes. */
  async close(): Promise<void> {
    await this.flushed();
    await this.#handle?.close();
    this.#handle = null;
  }

  async #load(segment: Segment): Promise<void> {
    const bytes = await readFile(segment.path);
    const { places, wholeBytes, damaged } = scanRecords(bytes);
    if (wholeBytes < bytes.length) await truncate(segment.path, wholeBytes);
    if (damaged > 0) this.#onTrouble(new Error(`${segment.path}: ${damaged} damaged records`));
    segment.bytes = wholeBytes;
    this.#segments.push(segment);
    for (const { seq, offset, length } of places) {
      this.#places.set(seq, { at: "disk", segment, offset, bytes: length });
      this.#last = Math.max(this.#last, seq);
    }
    this.#last = Math.max(this.#last, segment.first - 1);
  }

  async #flush(): Promise<void> {
    // What is appended in this turn of the event loop goes into the same write.
    await Promise.resolve();
    while (this.#pending.length > 0) {
      const batch = this.#pending.splice(0);
      const lines = batch.map(({ line }) => line).join("");
      try {
        await this.#write(batch, lines);
      } catch (error) {
        this.#broken = true;
        this.#onTrouble(error);
        for (const { seq, line } of batch) this.#places.set(seq, { at: "memory", line, bytes: line.length });
      }
      this.#pendingBytes -= lines.length;
      this.#durable = Math.max(this.#durable, batch.at(-1)?.seq ?? 0);
      for (const watcher of this.#watchers) watcher();
    }
    this.#flushing = null;
  }

  async #write(batch: { seq: number; line: string }[], lines: string): Promise<void> {
    const { segment, handle } = await this.#current(batch[0]?.seq ?? 1);
    // After a failed write the file may end in half a line; an empty line is the seam.
    const seam = this.#broken ? "\n" : "";
    if (this.#broken) segment.bytes = (await handle.stat()).size;
    const { bytesWritten } = await handle.write(seam + lines);
    const expected = Buffer.byteLength(seam + lines);
    if (bytesWritten !== expected) throw new Error(`only ${bytesWritten} of ${expected} bytes were written`);
    await handle.datasync();
    this.#broken = false;
    let offset = segment.bytes + seam.length;
    for (const { seq, line } of batch) {
      const bytes = Buffer.byteLength(line);
      const prefix = line.indexOf(" ") + 1;
      this.#places.set(seq, { at: "disk", segment, offset: offset + prefix, bytes: bytes - prefix - 1 });
      offset += bytes;
    }
    segment.bytes = offset;
  }

  /** The file that is written to; a full one is followed by a new one. */
  async #current(nextSeq: number): Promise<{ segment: Segment; handle: FileHandle }> {
    const newest = this.#segments.at(-1);
    if (newest && newest.bytes < this.#segmentBytes) {
      this.#handle ??= await open(newest.path, "a");
      return { segment: newest, handle: this.#handle };
    }
    await this.#handle?.close();
    this.#handle = null;
    const path = join(this.#folder, `${String(nextSeq).padStart(12, "0")}.log`);
    this.#handle = await open(path, "a", 0o600);
    const segment: Segment = { path, first: nextSeq, bytes: (await this.#handle.stat()).size };
    this.#segments.push(segment);
    const folder = await open(this.#folder, "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
    return { segment, handle: this.#handle };
  }
}
