import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { crc32, createInflateRaw, inflateRawSync } from "node:zlib";
import { err, ok, type Result } from "../../../shared/result.ts";
import { SequentialReader } from "../../../shared/streams.ts";
import { quoted, STORED, type ZipEntry, type ZipProblem } from "./directory.ts";

/**
 * One pass over a zip that believes nothing: each local header must repeat what the directory says, each entry must unpack
 * to its declared size and checksum. Memory does not grow with the archive or with an entry.
 */

/** What the pass found out about an entry. */
export type VerifiedEntry = {
  entry: ZipEntry;
  /** Where the entry's data begin in the zip. */
  dataOffset: number;
  /** Of the unpacked content, lower-case hex. */
  sha256: string;
  /** The first bytes of the content, at most {@link HEAD_BYTES}. */
  head: Uint8Array;
  /** The whole content, for the entries that were asked for. */
  content: Uint8Array | null;
};

/** Enough to tell the picture formats apart. */
export const HEAD_BYTES = 16;

/** Entries up to these sizes are unpacked in one call, which is several times faster than a stream of their own. */
const SYNC_PACKED_BYTES = 1024 * 1024;
const SYNC_UNPACKED_BYTES = 8 * 1024 * 1024;

const LOCAL_HEADER_BYTES = 30;
const LOCAL_SIGNATURE = 0x04034b50;
const MAX_32 = 0xffffffff;
const FLAG_DESCRIPTOR = 1 << 3;
/** Bits that change how the data have to be read: encryption, descriptor after the data, patch data, masked headers. */
const BINDING_FLAGS = 0x2069;

/**
 * @param stream the zip from its first byte
 * @param entries in the order of their data, from the directory
 * @param keep whether the content of an entry is wanted; it is held in memory until `visit` returns, so the caller bounds it
 * @param visit called for each entry in turn; a failure it returns ends the pass and is returned
 */
export async function verifyZip<E>(
  stream: ReadableStream<Uint8Array>,
  entries: readonly ZipEntry[],
  keep: (path: string) => boolean,
  visit: (verified: VerifiedEntry) => Result<void, E>,
): Promise<Result<void, ZipProblem | E>> {
  const reader = new SequentialReader(stream);
  try {
    for (const entry of entries) {
      const verified = await verifyEntry(reader, entry, keep(entry.path));
      if (!verified.ok) return verified;
      const visited = visit(verified.value);
      if (!visited.ok) return visited;
    }
    return ok(undefined);
  } finally {
    // A stream that has failed refuses the cancel; its own error is the one to report.
    await reader.cancel().catch(() => undefined);
  }
}

const damaged = (entry: ZipEntry, message: string) =>
  err<ZipProblem>({ reason: "damaged", message: `${quoted(entry.path)} ${message}`, entry: entry.path });

async function verifyEntry(
  reader: SequentialReader,
  entry: ZipEntry,
  keep: boolean,
): Promise<Result<VerifiedEntry, ZipProblem>> {
  await reader.skipTo(entry.headerOffset);
  const header = await reader.take(LOCAL_HEADER_BYTES);
  if (header === null) return damaged(entry, "is cut off");
  const local = readLocalHeader(header);
  const name = await reader.take(local.nameLength);
  if (name === null) return damaged(entry, "is cut off");
  if (!agrees(local, name, entry)) {
    return damaged(entry, "is described differently in the zip's directory and before its data");
  }
  const dataOffset = entry.headerOffset + LOCAL_HEADER_BYTES + local.nameLength + local.extraLength;
  if (!(await reader.skipTo(dataOffset))) return damaged(entry, "is cut off");

  const content = new ContentCheck(entry.sizeBytes, keep);
  const dataEnd = dataOffset + entry.compressedSizeBytes;
  const unpacked = await unpack(reader, entry, dataEnd, content);
  if (!unpacked.ok) return unpacked;
  if (!(await reader.skipTo(dataEnd))) return damaged(entry, "is cut off");
  if (content.sizeBytes !== entry.sizeBytes) return damaged(entry, "unpacks to another size than the zip says");
  if (content.crc32 !== entry.crc32) return damaged(entry, "does not match its checksum");
  return ok({ entry, dataOffset, sha256: content.sha256(), head: content.head, content: content.bytes });
}

type LocalHeader = ReturnType<typeof readLocalHeader>;

function readLocalHeader(bytes: Uint8Array) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return {
    signature: view.getUint32(0, true),
    flags: view.getUint16(6, true),
    method: view.getUint16(8, true),
    crc32: view.getUint32(14, true),
    compressedSizeBytes: view.getUint32(18, true),
    sizeBytes: view.getUint32(22, true),
    nameLength: view.getUint16(26, true),
    extraLength: view.getUint16(28, true),
  };
}

function agrees(local: LocalHeader, name: Uint8Array, entry: ZipEntry): boolean {
  if (local.signature !== LOCAL_SIGNATURE || local.method !== entry.method) return false;
  if ((local.flags & BINDING_FLAGS) !== (entry.flags & BINDING_FLAGS)) return false;
  if (name.length !== entry.nameLength || crc32(name) !== entry.nameCrc32) return false;
  // With a descriptor the real values stand behind the data, and these are zero.
  if (local.flags & FLAG_DESCRIPTOR) return true;
  const is = (value: number, expected: number) => value === expected || value === MAX_32;
  return (
    local.crc32 === entry.crc32 &&
    is(local.compressedSizeBytes, entry.compressedSizeBytes) &&
    is(local.sizeBytes, entry.sizeBytes)
  );
}

/** Reads the entry's data and feeds its content to `content`; stops as soon as there is more than was declared. */
async function unpack(
  reader: SequentialReader,
  entry: ZipEntry,
  dataEnd: number,
  content: ContentCheck,
): Promise<Result<void, ZipProblem>> {
  if (entry.method === STORED) {
    for await (const chunk of reader.upTo(dataEnd)) content.add(chunk);
    return ok(undefined);
  }
  if (entry.compressedSizeBytes > SYNC_PACKED_BYTES || entry.sizeBytes > SYNC_UNPACKED_BYTES) {
    return unpackStreaming(reader, entry, dataEnd, content);
  }
  const packed = await reader.take(entry.compressedSizeBytes);
  if (packed === null) return damaged(entry, "is cut off");
  try {
    const { buffer, engine } = inflateWithInfo(packed, entry.sizeBytes);
    content.add(buffer);
    return engine.bytesWritten === packed.length ? ok(undefined) : damaged(entry, BYTES_BEHIND);
  } catch (error) {
    // Going over the limit is a RangeError, in Node and in the Worker alike.
    return damaged(entry, error instanceof RangeError ? UNPACKS_TO_MORE : CANNOT_BE_UNPACKED);
  }
}

async function unpackStreaming(
  reader: SequentialReader,
  entry: ZipEntry,
  dataEnd: number,
  content: ContentCheck,
): Promise<Result<void, ZipProblem>> {
  let sourceFailure: { error: unknown } | null = null;
  let tooMuch = false;
  async function* packed() {
    const chunks = reader.upTo(dataEnd);
    while (true) {
      let next: IteratorResult<Uint8Array, void>;
      // Only the read is guarded: a failure of the unpacking is thrown into this generator at its `yield`.
      try {
        next = await chunks.next();
      } catch (error) {
        sourceFailure = { error };
        return;
      }
      if (next.done) return;
      // The inflater may hold a chunk while the next one is read.
      yield next.value.slice();
    }
  }
  const inflate = createInflateRaw();
  try {
    await pipeline(Readable.from(packed()), inflate, async (unpacked: AsyncIterable<Uint8Array>) => {
      for await (const chunk of unpacked) {
        tooMuch ||= content.sizeBytes + chunk.length > entry.sizeBytes;
        if (tooMuch) break;
        content.add(chunk);
      }
    });
  } catch {
    // What the zip's storage threw is kept apart: everything else is the data's fault.
  }
  rethrow(sourceFailure);
  if (tooMuch) return damaged(entry, UNPACKS_TO_MORE);
  // Data that ended early or made no sense leave the content short, which the caller reports.
  const isWhole = content.sizeBytes === entry.sizeBytes;
  return isWhole && inflate.bytesWritten < entry.compressedSizeBytes ? damaged(entry, BYTES_BEHIND) : ok(undefined);
}

const UNPACKS_TO_MORE = "unpacks to more than the zip says";
const CANNOT_BE_UNPACKED = "cannot be unpacked";
/** Unpackers disagree on whether that is an error, and one that serves the entry later does not accept it. */
const BYTES_BEHIND = "has other bytes behind its packed data";

function inflateWithInfo(
  packed: Uint8Array,
  maxBytes: number,
): { buffer: Uint8Array; engine: { bytesWritten: number } } {
  const unpacked: unknown = inflateRawSync(packed, { maxOutputLength: Math.max(1, maxBytes), info: true });
  // With `info` the result is an object of the output and the engine; its published type is the output alone.
  return unpacked as { buffer: Uint8Array; engine: { bytesWritten: number } };
}

function rethrow(failure: { error: unknown } | null): void {
  if (failure) throw failure.error;
}

/** Size, checksum, hash and beginning of a content that passes by in chunks, and the content itself if it is wanted. */
class ContentCheck {
  readonly bytes: Uint8Array | null;
  sizeBytes = 0;
  crc32 = 0;
  head: Uint8Array = new Uint8Array(0);
  readonly #hash = createHash("sha256");

  constructor(expectedBytes: number, keep: boolean) {
    this.bytes = keep ? new Uint8Array(expectedBytes) : null;
  }

  add(chunk: Uint8Array): void {
    if (this.head.length < HEAD_BYTES) {
      const missing = chunk.subarray(0, HEAD_BYTES - this.head.length);
      this.head = Uint8Array.from([...this.head, ...missing]);
    }
    this.bytes?.set(chunk, this.sizeBytes);
    this.sizeBytes += chunk.length;
    this.crc32 = crc32(chunk, this.crc32);
    this.#hash.update(chunk);
  }

  sha256(): string {
    return this.#hash.digest("hex");
  }
}
