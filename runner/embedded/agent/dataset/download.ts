import { createHash } from "node:crypto";
import { open, rename, rm, stat } from "node:fs/promises";
import { bodyOf, type Client, type RetryOptions, retrying, TransportError } from "../client.ts";
import { hashFile, isErrno } from "../files.ts";

/** A file that arrives with another hash is fetched anew this often: a cut partial file or a line that changes bytes. */
const MAX_FETCHES = 3;
const IDLE_MS = 60_000;
/** Small files arrive in one piece; their writing is left to the system. */
const SYNC_FROM_BYTES = 1024 * 1024;

/** The bytes that the server has are not those that it announced. */
export class HashMismatch extends Error {
  override readonly name = "HashMismatch";
}

export type DownloadRequest = {
  client: Client;
  path: string;
  token: string;
  target: string;
  size: number;
  sha256: string;
  retry: RetryOptions;
};

/**
 * Fetches a file of known size and hash to `target`; it is there complete or not at all. Goes on with what `target.part` has
 * by a range, in this process or a later one.
 * @returns bytes that came over the network
 * @throws HashMismatch · what `retrying` throws
 */
export async function download(request: DownloadRequest): Promise<number> {
  const partial = `${request.target}.part`;
  let received = 0;
  for (let fetches = 1; ; fetches += 1) {
    let found: string | null = null;
    await retrying(async () => {
      const fetched = await fetchRest(request, partial);
      received += fetched.received;
      found = fetched.sha256;
    }, request.retry);
    found ??= (await hashFile(partial)).sha256;
    if (found === request.sha256) break;
    await rm(partial, { force: true });
    if (fetches === MAX_FETCHES) {
      throw new HashMismatch(`${request.path} has the hash ${found}, not ${request.sha256}`);
    }
  }
  await rename(partial, request.target);
  return received;
}

/**
 * One request for what is still missing. Returns only when the partial file has its full size.
 * @returns the hash where all of it passed through here, else null
 */
async function fetchRest(
  { client, path, token, size, sha256, retry }: DownloadRequest,
  partial: string,
): Promise<{ received: number; sha256: string | null }> {
  let have = await sizeOf(partial);
  if (have > size) {
    await rm(partial);
    have = 0;
  }
  if (have === size && size > 0) return { received: 0, sha256: null };
  const response = await client.send("GET", path, {
    token,
    headers: {
      accept: "application/octet-stream",
      "accept-encoding": "identity",
      ...(have > 0 && { range: `bytes=${have}-`, "if-range": `"${sha256}"` }),
    },
    streamed: true,
    signal: retry.signal,
  });
  if (response.status !== 206) have = 0;
  const hash = createHash("sha256");
  const file = await open(partial, have > 0 ? "a" : "w", 0o600);
  let received = 0;
  try {
    for await (const bytes of bodyOf(response, IDLE_MS, retry.signal)) {
      received += bytes.byteLength;
      if (have + received > size) throw new TransportError(`${path}: more than ${size} bytes`);
      hash.update(bytes);
      await file.write(bytes);
    }
    if (size >= SYNC_FROM_BYTES) await file.datasync();
  } finally {
    await file.close();
  }
  if (have + received < size) throw new TransportError(`${path}: cut after ${have + received} of ${size} bytes`);
  return { received, sha256: have === 0 ? hash.digest("hex") : null };
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isErrno(error, "ENOENT")) return 0;
    throw error;
  }
}
