import { crc32 } from "node:zlib";

/**
 * The outbox's file format: one record a line, `crc32(json) in 8 hex digits, blank, json, line feed`. JSON has no line feed
 * of its own, so a damaged record costs only itself, and the line that a crash left half written is seen for what it is.
 * Persisted: a reader has to understand what an older agent wrote. Pure.
 */

const PREFIX_BYTES = 9;

export function encodeRecord(value: { seq: number }): string {
  const json = JSON.stringify(value);
  return `${crc32(json).toString(16).padStart(8, "0")} ${json}\n`;
}

export type RecordPlace = {
  seq: number;
  /** Of the JSON, in the file. */
  offset: number;
  length: number;
};

export type Scan = {
  places: RecordPlace[];
  /** Up to here the file ends with a line; what is behind was never completely written. */
  wholeBytes: number;
  /** Lines that are there and not what was written. */
  damaged: number;
};

/** Finds the records of a file. Never fails: what is not a good record is counted and left out. */
export function scanRecords(bytes: Buffer): Scan {
  const places: RecordPlace[] = [];
  let damaged = 0;
  let from = 0;
  for (let end = bytes.indexOf(10, from); end !== -1; end = bytes.indexOf(10, from)) {
    const seq = seqOf(bytes.subarray(from, end));
    if (seq !== null) places.push({ seq, offset: from + PREFIX_BYTES, length: end - from - PREFIX_BYTES });
    // An empty line is a seam: see the writer.
    else if (end > from) damaged += 1;
    from = end + 1;
  }
  return { places, wholeBytes: from, damaged };
}

function seqOf(line: Buffer): number | null {
  if (line.length <= PREFIX_BYTES || line[8] !== 32) return null;
  const json = line.subarray(PREFIX_BYTES);
  if (line.toString("latin1", 0, 8) !== crc32(json).toString(16).padStart(8, "0")) return null;
  const value: unknown = JSON.parse(json.toString("utf8"));
  const seq = typeof value === "object" && value !== null && "seq" in value ? value.seq : null;
  return typeof seq === "number" && Number.isSafeInteger(seq) && seq > 0 ? seq : null;
}
