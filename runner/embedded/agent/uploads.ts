import { createHash } from "node:crypto";
import { copyFile, link, mkdir, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { CheckpointMessage } from "../trainer-messages.ts";
import { ApiError, type Client, type RetryOptions, retrying } from "./client.ts";
import { errorText, hashFile, isErrno, readJson, writeAtomically } from "./files.ts";
import { UploadAnswer, UploadState } from "./wire.ts";

/** Bytes that arrive with another hash, and uploads that the server has closed, are begun anew this often. */
const MAX_BEGINNINGS = 3;
/** A part of 64 MiB over a line of 1 Mbit/s takes nine minutes. */
const PART_TIMEOUT_MS = 20 * 60_000;

/** One file of a checkpoint, as it stands beside it on disk. Persisted: fields may be added as optional ones. */
const EntrySchema = z.object({
  kind: z.enum(["model", "checkpoint"]),
  name: z.string(),
  role: z.enum(["best", "last"]),
  epoch: z.int().min(0),
  manifest: z.record(z.string(), z.unknown()).nullable(),
  artifactId: z.string().nullable().default(null),
  /** Number of the newest event when the checkpoint was made. */
  afterSeq: z.int().min(0).default(0),
});
type Entry = z.infer<typeof EntrySchema>;
type Queued = Entry & { id: number };

export type UploadDeps = {
  client: Client;
  jobId: number;
  token: string;
  retry: RetryOptions;
  /**
   * Resolves when the server has the events up to this number. A complete checkpoint can be resumed from, and then the epochs
   * before it are never trained again: if this machine were lost with their events, the curve would have a hole for good.
   */
  reported: (seq: number) => Promise<void>;
  /** The file is complete at the server: announces it. Resolves when the announcement cannot be lost any more. */
  onStored: (checkpoint: { artifactId: string; epoch: number; role: "best" | "last" }) => Promise<void>;
  note: (line: string) => void;
};

/**
 * Uploads checkpoints beside the training, one file at a time. Files are taken over by a hard link, so the trainer may delete
 * its own; of those that wait, the newest of each name replaces the others. What waits is on disk and survives a restart.
 */
export class Uploads {
  readonly #folder: string;
  readonly #deps: UploadDeps;
  #queue: Queued[] = [];
  #current: Queued | null = null;
  #lastId = 0;
  #failures: string[] = [];
  #wake: () => void = () => {};

  private constructor(folder: string, deps: UploadDeps) {
    this.#folder = folder;
    this.#deps = deps;
  }

  static async open(folder: string, deps: UploadDeps): Promise<Uploads> {
    const uploads = new Uploads(join(folder, "uploads"), deps);
    await mkdir(uploads.#folder, { recursive: true });
    for (const name of await readdir(uploads.#folder)) {
      const id = Number(/^(\d+)\.json$/.exec(name)?.[1] ?? 0);
      if (id === 0) continue;
      uploads.#lastId = Math.max(uploads.#lastId, id);
      const entry = EntrySchema.safeParse(await readJson(join(uploads.#folder, name)));
      if (entry.success) uploads.#queue.push({ ...entry.data, id });
    }
    uploads.#queue.sort((a, b) => a.id - b.id);
    return uploads;
  }

  /** Files that are not stored yet. */
  get pending(): number {
    return this.#queue.length + (this.#current === null ? 0 : 1);
  }

  /** Why single files could not be stored. */
  get failures(): readonly string[] {
    return this.#failures;
  }

  /**
   * Takes the files of a checkpoint over. A file that is gone already has a newer one behind it and is left out.
   * @param afterSeq number of the newest event; the checkpoint is complete only after it
   */
  async add(message: CheckpointMessage, afterSeq: number): Promise<void> {
    for (const file of message.files) {
      this.#lastId += 1;
      const entry: Queued = {
        id: this.#lastId,
        kind: file.kind,
        name: file.name,
        role: message.role,
        epoch: message.epoch,
        manifest: file.manifest ?? null,
        artifactId: null,
        afterSeq,
      };
      try {
        await takeOver(file.path, this.#bytesPath(entry));
      } catch (error) {
        if (!isErrno(error, "ENOENT")) this.#failed(entry, error);
        continue;
      }
      await this.#save(entry);
      const replaced = this.#queue.filter((waiting) => waiting.name === entry.name && waiting.role === entry.role);
      this.#queue = [...this.#queue.filter((waiting) => !replaced.includes(waiting)), entry];
      for (const old of replaced) await this.#forget(old);
      this.#wake();
    }
  }

  /** Uploads what comes, until the signal. @throws what ends the attempt's right to send, or the signal's reason */
  async run(): Promise<never> {
    const { signal } = this.#deps.retry;
    const stopped = () => this.#wake();
    signal.addEventListener("abort", stopped);
    try {
      for (;;) {
        signal.throwIfAborted();
        const woken = new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        const next = this.#queue.shift();
        if (next === undefined) {
          await woken;
          continue;
        }
        this.#current = next;
        try {
          await this.#upload(next);
        } catch (error) {
          signal.throwIfAborted();
          if (endsTheAttempt(error)) throw error;
          this.#failed(next, error);
        }
        await this.#forget(next);
        this.#current = null;
      }
    } finally {
      signal.removeEventListener("abort", stopped);
    }
  }

  async #upload(entry: Queued): Promise<void> {
    const path = this.#bytesPath(entry);
    const { sha256, size } = await hashFile(path);
    for (let beginning = 1; ; beginning += 1) {
      try {
        await this.#transfer(entry, path, sha256, size);
        break;
      } catch (error) {
        const again =
          error instanceof ApiError &&
          (["UPLOAD_CLOSED", "ARTIFACT_NOT_FOUND"].includes(error.code) ||
            ["sha256", "x-part-sha256", "parts"].includes(error.field ?? ""));
        if (!again || beginning === MAX_BEGINNINGS) throw error;
        entry.artifactId = null;
      }
    }
    await this.#deps.onStored({ artifactId: entry.artifactId ?? "", epoch: entry.epoch, role: entry.role });
  }

  /** Create, parts, complete; goes on where an earlier try stopped. */
  async #transfer(entry: Queued, path: string, sha256: string, size: number): Promise<void> {
    const { client, jobId, token, retry } = this.#deps;
    const { signal } = retry;
    const base = `/api/v1/internal/jobs/${jobId}/artifacts`;
    let begun: { partSize: number; parts: number; received: Set<number>; complete: boolean };
    if (entry.artifactId === null) {
      const { kind, name, role, epoch, manifest } = entry;
      const json = { kind, name, role, epoch, size, sha256, ...(manifest && { manifest }) };
      const created = await retrying(() => client.call("POST", base, UploadAnswer, { token, json, signal }), retry);
      entry.artifactId = created.artifact_id;
      await this.#save(entry);
      begun = { partSize: created.part_size, parts: created.parts, received: new Set(), complete: false };
    } else begun = await this.#state(entry.artifactId);
    const own = `${base}/${entry.artifactId}`;

    const file = await open(path, "r");
    try {
      for (let n = 1; n <= begun.parts && !begun.complete; n += 1) {
        if (begun.received.has(n)) continue;
        const bytes = Buffer.alloc(Math.min(begun.partSize, size - (n - 1) * begun.partSize));
        await file.read(bytes, 0, bytes.length, (n - 1) * begun.partSize);
        const digest = createHash("sha256").update(bytes).digest("hex");
        let tries = 0;
        await retrying(async () => {
          // A part whose answer was lost need not travel twice.
          if (tries++ > 0 && entry.artifactId !== null) {
            const { received, complete } = await this.#state(entry.artifactId);
            if (complete || received.has(n)) return;
          }
          await client.send("PUT", `${own}/parts/${n}`, {
            token,
            body: bytes,
            contentType: "application/octet-stream",
            headers: { "x-part-sha256": digest },
            timeoutMs: PART_TIMEOUT_MS,
            signal,
          });
        }, retry);
      }
    } finally {
      await file.close();
    }
    await this.#deps.reported(entry.afterSeq);
    await retrying(() => client.send("POST", `${own}/complete`, { token, signal }), retry);
  }

  async #state(
    artifactId: string,
  ): Promise<{ partSize: number; parts: number; received: Set<number>; complete: boolean }> {
    const { client, jobId, token, retry } = this.#deps;
    const path = `/api/v1/internal/jobs/${jobId}/artifacts/${artifactId}`;
    const state = await retrying(() => client.call("GET", path, UploadState, { token, signal: retry.signal }), retry);
    if (state.state === "aborted") {
      throw new ApiError({ status: 409, code: "UPLOAD_CLOSED", detail: "This upload was aborted" }, null);
    }
    const { part_size: partSize, parts, received } = state;
    return { partSize, parts, received: new Set(received), complete: state.state === "complete" };
  }

  #failed(entry: Entry, error: unknown): void {
    const line = `${entry.name} of epoch ${entry.epoch} could not be stored: ${errorText(error)}`;
    this.#failures.push(line);
    this.#deps.note(line);
  }

  #bytesPath(entry: Queued): string {
    return join(this.#folder, `${entry.id}.bytes`);
  }

  #save({ id, ...entry }: Queued): Promise<void> {
    return writeAtomically(join(this.#folder, `${id}.json`), JSON.stringify(entry));
  }

  async #forget(entry: Queued): Promise<void> {
    await rm(join(this.#folder, `${entry.id}.json`), { force: true });
    await rm(this.#bytesPath(entry), { force: true });
  }
}

/** Whether an error says that nothing more of this attempt is taken. */
export const endsTheAttempt = (error: unknown): boolean =>
  error instanceof ApiError && (error.code === "STALE_LEASE" || error.status === 401 || error.status === 403);

/** A second name for a file's bytes; a copy where the file system has no links. */
async function takeOver(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (error) {
    if (!isErrno(error, "EXDEV", "EPERM", "ENOTSUP", "EMLINK", "EACCES")) throw error;
    await copyFile(from, to);
  }
}
