import { crc32 } from "node:zlib";
import { err, ok, type Result } from "../../../shared/result.ts";
import { canonicalPath, fileUsedAsFolder, isLitter } from "../paths.ts";
import { decodeAscii, decodeName, decodeUtf8, type NameEncoding, unicodePathField, unmarkedEncoding } from "./names.ts";

/**
 * The directory of a zip (PKWARE APPNOTE 6.3.10, with zip64), read and checked before a byte of content is believed.
 *
 * A dataset zip stays one object, and its entries are served by range reads, so what is needed is not an unpacker but an
 * index that can be trusted: offsets, sizes, a refusal of everything that reads differently in different tools. Pure apart
 * from the range reads it is given. No archive library is used because none tells where the data of an entry begins without
 * a read per entry, and 50,000 reads are more than a request may make.
 */

/** Reads `length` bytes at `offset`; the range is always inside the object. */
export type RangeReader = (offset: number, length: number) => Promise<Uint8Array>;

export type ZipLimits = {
  maxEntries: number;
  /** All entries unpacked. */
  maxTotalBytes: number;
  /** Unpacked over packed size, of the whole archive and of one entry, once it is large enough for that to matter. */
  maxTotalRatio: number;
  maxEntryRatio: number;
};

export const DEFAULT_ZIP_LIMITS: ZipLimits = {
  // The index of 70,000 files and the statement that stores it take about 70 of an isolate's 128 MB.
  maxEntries: 70_000,
  maxTotalBytes: 4 * 1024 ** 3,
  // Pictures hardly compress; drawn masks and annotation files do, up to about 50. Deflate itself ends at 1,032.
  maxTotalRatio: 100,
  maxEntryRatio: 250,
};

/** Below these sizes a high ratio costs nothing. */
const TOTAL_RATIO_FLOOR_BYTES = 64 * 1024 * 1024;
const ENTRY_RATIO_FLOOR_BYTES = 16 * 1024 * 1024;

export const STORED = 0;
export const DEFLATED = 8;

export type ZipEntry = {
  path: string;
  sizeBytes: number;
  compressedSizeBytes: number;
  crc32: number;
  method: typeof STORED | typeof DEFLATED;
  /** Where the entry's local header begins. */
  headerOffset: number;
  /** What the local header has to repeat. */
  flags: number;
  nameLength: number;
  nameCrc32: number;
};

export type ZipDirectory = {
  /** Files only, in the order of their data; folders and litter are left out. */
  entries: ZipEntry[];
  totalSizeBytes: number;
  /** Files that archivers add and that were left out. */
  litterCount: number;
  /** How names without a mark were read. */
  nameEncoding: NameEncoding;
  /** Where the directory begins: no data may reach beyond. */
  offset: number;
};

export type ZipProblem = {
  reason:
    | "not_a_zip"
    | "damaged"
    | "unsafe_name"
    | "duplicate_name"
    | "not_a_file"
    | "encrypted"
    | "unsupported_method"
    | "overlap"
    | "too_many_entries"
    | "too_large"
    | "ratio"
    | "empty";
  /** For the client; names the entry where there is one. */
  message: string;
  entry: string | null;
};

const problem = (reason: ZipProblem["reason"], message: string, entry: string | null = null) =>
  err<ZipProblem>({ reason, message: entry === null ? message : `${quoted(entry)} ${message}`, entry });

/** A name as it may be shown: short, and without control characters. */
export const quoted = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name);

const END_SIGNATURE = 0x06054b50;
const END_BYTES = 22;
const MAX_COMMENT_BYTES = 0xffff;
const ZIP64_LOCATOR_SIGNATURE = 0x07064b50;
const ZIP64_LOCATOR_BYTES = 20;
const ZIP64_END_SIGNATURE = 0x06064b50;
const ZIP64_END_BYTES = 56;
const ENTRY_SIGNATURE = 0x02014b50;
const ENTRY_BYTES = 46;
const LOCAL_HEADER_BYTES = 30;
/** The directory is read in windows of this size; one entry with its longest name, extra field and comment fits. */
const WINDOW_BYTES = 1024 * 1024;

const EXTRA_ZIP64 = 0x0001;
const EXTRA_UNICODE_PATH = 0x7075;

const FLAG_ENCRYPTED = 1 << 0;
const FLAG_PATCH = 1 << 5;
const FLAG_STRONG_ENCRYPTION = 1 << 6;
const FLAG_UTF8 = 1 << 11;
const FLAG_MASKED_HEADER = 1 << 13;

/** Unix file types in the upper half of the external attributes. */
const TYPE_MASK = 0xf000;
const TYPE_NONE = 0;
const TYPE_REGULAR = 0x8000;
const TYPE_FOLDER = 0x4000;

const MAX_32 = 0xffffffff;
const MAX_16 = 0xffff;

/**
 * Reads and checks the directory of a zip of `sizeBytes`.
 * @returns the index, or the first thing that is wrong, with the entry at fault named
 */
export async function readZipDirectory(
  read: RangeReader,
  sizeBytes: number,
  limits: ZipLimits = DEFAULT_ZIP_LIMITS,
): Promise<Result<ZipDirectory, ZipProblem>> {
  const end = await readEnd(read, sizeBytes);
  if (!end.ok) return end;
  const { entryCount, offset, length } = end.value;
  if (entryCount > limits.maxEntries) {
    return problem("too_many_entries", `The zip has ${entryCount} entries; at most ${limits.maxEntries} are allowed`);
  }
  const records = await readRecords(read, offset, length, entryCount);
  if (!records.ok) return records;
  return indexRecords(records.value, offset, limits);
}

type End = { entryCount: number; offset: number; length: number };

/** Finds the end record and, where there is one, its zip64 form. The directory must stand directly before it. */
async function readEnd(read: RangeReader, sizeBytes: number): Promise<Result<End, ZipProblem>> {
  const damaged = () => problem("damaged", "The zip is damaged or cut off: its directory is not where it should be");
  const tailBytes = Math.min(sizeBytes, END_BYTES + MAX_COMMENT_BYTES);
  if (tailBytes < END_BYTES) return problem("not_a_zip", "The file is not a zip");
  const tailOffset = sizeBytes - tailBytes;
  const tail = viewOf(await read(tailOffset, tailBytes));
  let at = tailBytes - END_BYTES;
  // The comment has to reach exactly to the end of the file, so only one record can be meant.
  while (
    at >= 0 &&
    !(tail.getUint32(at, true) === END_SIGNATURE && tail.getUint16(at + 20, true) === tailBytes - at - END_BYTES)
  ) {
    at--;
  }
  if (at < 0) return problem("not_a_zip", "The file is not a zip, or it is cut off");
  const endOffset = tailOffset + at;
  const disk = tail.getUint16(at + 4, true);
  const directoryDisk = tail.getUint16(at + 6, true);
  const entriesHere = tail.getUint16(at + 8, true);
  let entryCount = tail.getUint16(at + 10, true);
  let length = tail.getUint32(at + 12, true);
  let offset = tail.getUint32(at + 16, true);
  let directoryEnd = endOffset;

  const marksZip64 = entryCount === MAX_16 || length === MAX_32 || offset === MAX_32;
  const locatorOffset = endOffset - ZIP64_LOCATOR_BYTES;
  if (marksZip64 && locatorOffset >= 0) {
    const locator = viewOf(await read(locatorOffset, ZIP64_LOCATOR_BYTES));
    if (locator.getUint32(0, true) === ZIP64_LOCATOR_SIGNATURE) {
      const zip64Offset = readUint64(locator, 8);
      if (zip64Offset === null || zip64Offset + ZIP64_END_BYTES > locatorOffset) return damaged();
      const zip64 = viewOf(await read(zip64Offset, ZIP64_END_BYTES));
      if (zip64.getUint32(0, true) !== ZIP64_END_SIGNATURE) return damaged();
      const count = readUint64(zip64, 32);
      const size = readUint64(zip64, 40);
      const start = readUint64(zip64, 48);
      if (count === null || size === null || start === null) return damaged();
      entryCount = count;
      length = size;
      offset = start;
      directoryEnd = zip64Offset;
    }
  } else if (disk !== 0 || directoryDisk !== 0 || entriesHere !== entryCount) {
    return problem("damaged", "The zip is one part of a split archive");
  }
  if (offset + length !== directoryEnd || entryCount * ENTRY_BYTES > length) return damaged();
  return ok({ entryCount, offset, length });
}

/**
 * An entry as it stands in the directory. It becomes the entry of the index itself: with tens of thousands of
 * them, every object less counts.
 */
type ZipRecord = Omit<ZipEntry, "method"> & {
  method: number;
  /** The name's bytes, as long as it is not known how to read them; `path` is empty until then. */
  unreadName: Uint8Array | null;
  fileType: number;
};

/** Reads the directory's records window by window. */
async function readRecords(
  read: RangeReader,
  offset: number,
  length: number,
  entryCount: number,
): Promise<Result<ZipRecord[], ZipProblem>> {
  const damaged = () => problem("damaged", "The zip's directory is damaged");
  const records: ZipRecord[] = [];
  let windowStart = 0;
  let window: DataView = new DataView(new ArrayBuffer(0));
  let at = 0;
  const ensure = async (bytes: number): Promise<boolean> => {
    if (at + bytes > length) return false;
    if (at + bytes > windowStart + window.byteLength) {
      windowStart = at;
      window = viewOf(await read(offset + at, Math.min(WINDOW_BYTES, length - at)));
    }
    return true;
  };
  for (let i = 0; i < entryCount; i++) {
    if (!(await ensure(ENTRY_BYTES))) return damaged();
    let head = at - windowStart;
    if (window.getUint32(head, true) !== ENTRY_SIGNATURE) return damaged();
    const nameLength = window.getUint16(head + 28, true);
    const extraLength = window.getUint16(head + 30, true);
    const commentLength = window.getUint16(head + 32, true);
    if (!(await ensure(ENTRY_BYTES + nameLength + extraLength + commentLength))) return damaged();
    head = at - windowStart;
    const name = bytesOf(window, head + ENTRY_BYTES, nameLength);
    const extra = bytesOf(window, head + ENTRY_BYTES + nameLength, extraLength);
    const flags = window.getUint16(head + 8, true);
    const zip64 = zip64Field(extra, {
      sizeBytes: window.getUint32(head + 24, true),
      compressedSizeBytes: window.getUint32(head + 20, true),
      headerOffset: window.getUint32(head + 42, true),
    });
    if (zip64 === null) return damaged();
    const readable = readableName(name, extra, flags);
    if (!readable.ok) return readable;
    records.push({
      path: readable.value ?? "",
      sizeBytes: zip64.sizeBytes,
      compressedSizeBytes: zip64.compressedSizeBytes,
      crc32: window.getUint32(head + 16, true),
      method: window.getUint16(head + 10, true),
      headerOffset: zip64.headerOffset,
      flags,
      nameLength,
      nameCrc32: crc32(name),
      unreadName: readable.value === null ? name.slice() : null,
      fileType: (window.getUint32(head + 38, true) >>> 16) & TYPE_MASK,
    });
    at += ENTRY_BYTES + nameLength + extraLength + commentLength;
  }
  return at === length ? ok(records) : damaged();
}

/** The name, if it carries a mark of its encoding or is plain ASCII; null when the other names have to be looked at. */
function readableName(name: Uint8Array, extra: Uint8Array, flags: number): Result<string | null, ZipProblem> {
  const ascii = decodeAscii(name);
  if (ascii !== null) return ok(ascii);
  if (flags & FLAG_UTF8) {
    const decoded = decodeUtf8(name);
    if (decoded !== null) return ok(decoded);
    return problem("unsafe_name", "has a name that is not the UTF-8 it claims to be", decodeName(name, "cp437"));
  }
  const field = extraField(extra, EXTRA_UNICODE_PATH);
  return ok(field && unicodePathField(field, name));
}

/** Checks the records as a whole and turns them into the index. */
function indexRecords(
  records: ZipRecord[],
  directoryOffset: number,
  limits: ZipLimits,
): Result<ZipDirectory, ZipProblem> {
  const nameEncoding = unmarkedEncoding(unreadNames(records));
  const entries: ZipEntry[] = [];
  const paths = new Set<string>();
  let totalSizeBytes = 0;
  let totalCompressedBytes = 0;
  let litterCount = 0;
  for (const record of records) {
    if (record.unreadName !== null) record.path = decodeName(record.unreadName, nameEncoding);
    record.unreadName = null;
    const name = record.path;
    const { sizeBytes, compressedSizeBytes } = record;
    const isFolder = name.endsWith("/");
    const path = canonicalPath(isFolder ? name.slice(0, -1) : name);
    if (!path.ok) return problem("unsafe_name", path.error, name);
    if (record.fileType !== TYPE_NONE && record.fileType !== (isFolder ? TYPE_FOLDER : TYPE_REGULAR)) {
      return problem("not_a_file", "is a link or a device, not a file", name);
    }
    if (record.flags & (FLAG_ENCRYPTED | FLAG_STRONG_ENCRYPTION | FLAG_MASKED_HEADER)) {
      return problem("encrypted", "is encrypted", name);
    }
    if (!isReadable(record)) {
      return problem(
        "unsupported_method",
        `uses compression method ${record.method}; only stored and deflated are read`,
        name,
      );
    }
    if (record.method === STORED && sizeBytes !== compressedSizeBytes) {
      return problem("damaged", "has two different sizes", name);
    }
    if (isFolder) {
      if (sizeBytes > 0) return problem("not_a_file", "is a folder with content", name);
      continue;
    }
    totalSizeBytes += sizeBytes;
    totalCompressedBytes += compressedSizeBytes;
    if (sizeBytes > ENTRY_RATIO_FLOOR_BYTES && sizeBytes > compressedSizeBytes * limits.maxEntryRatio) {
      return problem("ratio", `unpacks to more than ${limits.maxEntryRatio} times its size`, name);
    }
    if (totalSizeBytes > limits.maxTotalBytes) {
      return problem("too_large", `The zip unpacks to more than ${limits.maxTotalBytes} bytes`);
    }
    record.path = path.value;
    if (isLitter(path.value)) {
      litterCount++;
      continue;
    }
    if (paths.has(path.value)) return problem("duplicate_name", "is in the zip twice", path.value);
    paths.add(path.value);
    entries.push(record);
  }
  if (totalSizeBytes > TOTAL_RATIO_FLOOR_BYTES && totalSizeBytes > totalCompressedBytes * limits.maxTotalRatio) {
    return problem("ratio", `The zip unpacks to more than ${limits.maxTotalRatio} times its size`);
  }
  const overlap = findOverlap(records, directoryOffset);
  if (overlap) return overlap;
  const clash = fileUsedAsFolder(paths);
  if (clash !== null) return problem("duplicate_name", "is both a file and a folder", clash);
  if (entries.length === 0) return problem("empty", "The zip contains no files");
  entries.sort((left, right) => left.headerOffset - right.headerOffset);
  return ok({ entries, totalSizeBytes, litterCount, nameEncoding, offset: directoryOffset });
}

const isReadable = (record: ZipRecord): record is ZipRecord & { method: ZipEntry["method"] } =>
  (record.method === STORED || record.method === DEFLATED) && !(record.flags & FLAG_PATCH);

function* unreadNames(records: ZipRecord[]): Generator<Uint8Array> {
  for (const { unreadName } of records) if (unreadName !== null) yield unreadName;
}

/** Data used twice is how a small zip unpacks to petabytes; no archiver writes it. Sorts the records by their data. */
function findOverlap(records: ZipRecord[], directoryOffset: number) {
  records.sort((left, right) => left.headerOffset - right.headerOffset);
  let reached = 0;
  let before = "";
  for (const { path, headerOffset, nameLength, compressedSizeBytes } of records) {
    if (headerOffset < reached) return problem("overlap", `uses the same data as ${quoted(before)}`, path);
    reached = headerOffset + LOCAL_HEADER_BYTES + nameLength + compressedSizeBytes;
    before = path;
    if (reached > directoryOffset) return problem("overlap", "reaches into the zip's directory", path);
  }
  return null;
}

type Sizes = { sizeBytes: number; compressedSizeBytes: number; headerOffset: number };

/** The values of the zip64 extra field in place of those that do not fit 32 bits; null when one is missing or absurd. */
function zip64Field(extra: Uint8Array, sizes: Sizes): Sizes | null {
  const { sizeBytes, compressedSizeBytes, headerOffset } = sizes;
  if (sizeBytes !== MAX_32 && compressedSizeBytes !== MAX_32 && headerOffset !== MAX_32) return sizes;
  const field = extraField(extra, EXTRA_ZIP64);
  if (field === null) return null;
  const view = viewOf(field);
  let at = 0;
  const next = (value: number): number | null => {
    if (value !== MAX_32) return value;
    at += 8;
    return at <= view.byteLength ? readUint64(view, at - 8) : null;
  };
  // The field holds, in this order, only the values that are marked.
  const size = next(sizeBytes);
  const compressed = next(compressedSizeBytes);
  const offset = next(headerOffset);
  if (size === null || compressed === null || offset === null) return null;
  return { sizeBytes: size, compressedSizeBytes: compressed, headerOffset: offset };
}

function extraField(extra: Uint8Array, id: number): Uint8Array | null {
  const view = viewOf(extra);
  for (let at = 0; at + 4 <= extra.length; ) {
    const length = view.getUint16(at + 2, true);
    if (at + 4 + length > extra.length) return null;
    if (view.getUint16(at, true) === id) return extra.subarray(at + 4, at + 4 + length);
    at += 4 + length;
  }
  return null;
}

/** A 64-bit number, or null when it is more than a double can hold exactly. */
function readUint64(view: DataView, at: number): number | null {
  const value = view.getBigUint64(at, true);
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : null;
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const bytesOf = (view: DataView, at: number, length: number): Uint8Array =>
  new Uint8Array(view.buffer, view.byteOffset + at, length);
