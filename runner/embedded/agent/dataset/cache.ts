import {
  chmod,
  copyFile,
  constants as fsConstants,
  link,
  lstat,
  mkdir,
  readdir,
  rm,
  stat,
  utimes,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Client, RetryOptions } from "../client.ts";
import type { Clock } from "../clock.ts";
import { hashFile, isErrno } from "../files.ts";
import { lockOr } from "../lock.ts";
import { download } from "./download.ts";
import { type CacheEntry, toEvict } from "./eviction.ts";

/** Every verified file carries this time of change: one that somebody wrote to afterwards does not. */
const VERIFIED_AT = new Date("2000-01-01T00:00:00Z");
const HASH_NAME = /^[0-9a-f]{64}$/;
/** A partial file that nobody has gone on with for so long is given up. */
const PARTIAL_LIFE_MS = 7 * 86_400_000;

export type Source = { client: Client; path: string; token: string; retry: RetryOptions };

/**
 * Files by the hash of their content, below `sha256/ab/…`: a dataset that was here before, or shares files with another,
 * costs no second download. Processes that share the folder do not fill the same entry at once.
 */
export class ContentCache {
  readonly #folder: string;
  readonly #maxBytes: number;
  readonly #clock: Clock;
  #evicting: Promise<void> = Promise.resolve();

  constructor(folder: string, maxBytes: number, clock: Clock) {
    this.#folder = join(folder, "sha256");
    this.#maxBytes = maxBytes;
    this.#clock = clock;
  }

  /**
   * Makes sure that a content is here.
   * @returns bytes that had to be fetched
   * @throws HashMismatch · what `retrying` throws
   */
  async fill({ sha256, size }: { sha256: string; size: number }, source: Source): Promise<number> {
    const target = this.#pathOf(sha256);
    if (await this.#isGood(target, { sha256, size })) return 0;
    await mkdir(dirname(target), { recursive: true });
    const lock = await lockOr(
      `${target}.lock`,
      () => this.#isGood(target, { sha256, size }),
      this.#clock,
      source.retry.signal,
    );
    if (lock === null) return 0;
    try {
      const received = await download({ ...source, target, sha256, size });
      await this.#stamp(target);
      return received;
    } finally {
      await lock.release();
    }
  }

  /** Whether a file of this name and size is here, good or not. */
  async has({ sha256, size }: { sha256: string; size: number }): Promise<boolean> {
    return (await lstat(this.#pathOf(sha256)).catch(() => null))?.size === size;
  }

  /** Puts a content that was filled under a name of its own: a link, or a copy where links do not go. */
  async place(sha256: string, target: string): Promise<void> {
    const from = this.#pathOf(sha256);
    try {
      await link(from, target);
    } catch (error) {
      if (!isErrno(error, "EXDEV", "EPERM", "ENOTSUP", "EMLINK", "EACCES")) throw error;
      await copyFile(from, target, fsConstants.COPYFILE_EXCL | fsConstants.COPYFILE_FICLONE);
    }
  }

  /** Deletes what was not used for longest until the rest fits the limit. One clean-up at a time. */
  trim(): Promise<void> {
    this.#evicting = this.#evicting.then(() => this.#trim());
    return this.#evicting;
  }

  #pathOf(sha256: string): string {
    return join(this.#folder, sha256.slice(0, 2), sha256);
  }

  /** Whether an entry is there and is what it was; counts as a use. A changed one is looked at again, a wrong one removed. */
  async #isGood(path: string, { sha256, size }: { sha256: string; size: number }): Promise<boolean> {
    let found: Awaited<ReturnType<typeof lstat>>;
    try {
      found = await lstat(path);
    } catch (error) {
      if (isErrno(error, "ENOENT")) return false;
      throw error;
    }
    const untouched = found.isFile() && found.size === size && Number(found.mtimeMs) === VERIFIED_AT.getTime();
    if (!untouched && !(found.isFile() && found.size === size && (await hashFile(path)).sha256 === sha256)) {
      await rm(path, { recursive: true, force: true });
      return false;
    }
    await this.#stamp(path);
    return true;
  }

  async #stamp(path: string): Promise<void> {
    // Linked into the folders of jobs: a trainer that writes to its data would change them for all.
    await chmod(path, 0o444);
    await utimes(path, new Date(this.#clock.now()), VERIFIED_AT);
  }

  async #trim(): Promise<void> {
    const entries: CacheEntry[] = [];
    for (const prefix of await namesIn(this.#folder)) {
      for (const name of await namesIn(join(this.#folder, prefix))) {
        const path = join(this.#folder, prefix, name);
        const found = await stat(path).catch(() => null);
        if (found === null) continue;
        if (HASH_NAME.test(name)) {
          entries.push({ path, bytes: found.size, lastUsedMs: found.atimeMs, inUse: found.nlink > 1 });
        } else if (name.endsWith(".part") && this.#clock.now() - found.mtimeMs > PARTIAL_LIFE_MS) {
          await rm(path, { force: true });
        }
      }
    }
    for (const { path } of toEvict(entries, this.#maxBytes)) await rm(path, { force: true });
  }
}

const namesIn = (folder: string): Promise<string[]> =>
  readdir(folder).catch((error: unknown) => {
    if (isErrno(error, "ENOENT", "ENOTDIR")) return [];
    throw error;
  });
