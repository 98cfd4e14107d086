import { mkdir, realpath, statfs } from "node:fs/promises";
import { dirname, join, sep } from "node:path";
import { ApiError, type Client, type RetryOptions, retrying } from "../client.ts";
import { isErrno } from "../files.ts";
import { type ManifestFile, ManifestPage } from "../wire.ts";
import type { ContentCache } from "./cache.ts";
import { checkManifest, distinctContents } from "./plan.ts";

const CONCURRENT_FILES = 8;
/** Left free on the disk for checkpoints and logs. */
const SPARE_BYTES = 256 * 1024 * 1024;

/** The dataset cannot be had; the message says why. */
export class DatasetUnavailable extends Error {
  override readonly name = "DatasetUnavailable";
}

export type DatasetRequest = {
  client: Client;
  jobId: number;
  token: string;
  cache: ContentCache;
  /** Where the files go; made here. */
  dataDir: string;
  retry: RetryOptions;
};

export type DatasetSummary = { files: number; bytes: number; fetchedBytes: number };

/**
 * Brings the job's dataset to `dataDir`: pages through the manifest, checks every name, fetches what the cache does not have,
 * and links the files to their names.
 * @throws DatasetUnavailable · errors that end the attempt · the signal's reason
 */
export async function prepareDataset(request: DatasetRequest): Promise<DatasetSummary> {
  try {
    return await prepare(request);
  } catch (error) {
    request.retry.signal.throwIfAborted();
    const final = error instanceof ApiError && (error.status === 401 || error.status === 403 || error.status === 409);
    if (final || error instanceof DatasetUnavailable) throw error;
    const full = isErrno(error, "ENOSPC", "EDQUOT") ? "the disk is full: " : "";
    throw new DatasetUnavailable(full + (error instanceof Error ? error.message : String(error)), { cause: error });
  }
}

async function prepare(request: DatasetRequest): Promise<DatasetSummary> {
  const { client, jobId, token, cache, dataDir, retry } = request;
  const base = `/api/v1/internal/jobs/${jobId}/dataset`;
  const files = await readManifest(request, base);
  const checked = checkManifest(files);
  if (!checked.ok) throw new DatasetUnavailable(`the manifest is not safe: ${checked.error}`);
  await mkdir(dataDir, { recursive: true });

  const contents = distinctContents(files);
  const bytes = contents.reduce((sum, file) => sum + file.size, 0);
  await needRoom(dataDir, cache, contents);

  let fetchedBytes = 0;
  const namesOf = Map.groupBy(files, ({ sha256 }) => sha256);
  const folders = await createFolders(dataDir);
  const queue = [...contents];
  // The first failure stops the others: they would go on for nothing.
  const stop = new AbortController();
  const signal = AbortSignal.any([retry.signal, stop.signal]);
  const worker = async () => {
    for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
      const source = { client, path: `${base}/${file.file_id}`, token, retry: { ...retry, signal } };
      for (const { path } of namesOf.get(file.sha256) ?? []) {
        const target = await folders.targetOf(path);
        const fetched = await cache.fill(file, source);
        fetchedBytes += fetched;
        await cache.place(file.sha256, target);
      }
    }
  };
  const workers = Array.from({ length: CONCURRENT_FILES }, worker);
  try {
    await Promise.all(workers);
  } catch (error) {
    stop.abort(error);
    await Promise.allSettled(workers);
    throw error;
  }
  if (fetchedBytes > 0) await cache.trim();
  return { files: files.length, bytes, fetchedBytes };
}

async function readManifest({ client, token, retry }: DatasetRequest, base: string): Promise<ManifestFile[]> {
  const files: ManifestFile[] = [];
  for (let cursor: string | null = ""; cursor !== null; ) {
    const query: string = cursor === "" ? "" : `?cursor=${encodeURIComponent(cursor)}`;
    const page = await retrying(
      () => client.call("GET", base + query, ManifestPage, { token, signal: retry.signal }),
      retry,
    );
    files.push(...page.files);
    if (page.next_cursor !== null && page.files.length === 0) {
      throw new DatasetUnavailable("the manifest does not end");
    }
    cursor = page.next_cursor;
  }
  return files;
}

async function needRoom(dataDir: string, cache: ContentCache, contents: readonly ManifestFile[]): Promise<void> {
  let missing = 0;
  for (const file of contents) missing += (await cache.has(file)) ? 0 : file.size;
  if (missing === 0) return;
  const { bavail, bsize } = await statfs(dataDir);
  const free = bavail * bsize;
  if (missing + SPARE_BYTES > free) {
    throw new DatasetUnavailable(`${missing} bytes have to be fetched and ${free} are free on the disk`);
  }
}

/** Makes the folders of files, each once, and sees that they are where they seem to be. */
async function createFolders(dataDir: string): Promise<{ targetOf: (path: string) => Promise<string> }> {
  const root = await realpath(dataDir);
  const made = new Set<string>();
  return {
    targetOf: async (path) => {
      const target = join(root, path);
      const folder = dirname(target);
      if (made.has(folder)) return target;
      await mkdir(folder, { recursive: true });
      // The names were checked; this is about links that somebody else may have put there.
      const real = await realpath(folder);
      if (real !== root && !real.startsWith(root + sep)) {
        throw new DatasetUnavailable(`${JSON.stringify(path)} leads out of the dataset's folder`);
      }
      made.add(folder);
      return target;
    },
  };
}
