import { crc32, inflateSync } from "node:zlib";
import { concatenate, release } from "../../shared/memory.ts";
import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import type { Pixels } from "./preprocess.ts";

/**
 * PNG to RGBA, 8 bits a channel (W3C PNG specification, third edition). Every colour type, depth and interlacing.
 *
 * Written here, on the platform's own zlib, because the WebAssembly decoder keeps what it had allocated whenever a file
 * turns out to be damaged, in a memory that never shrinks: a few dozen bad uploads would end the isolate. This one holds
 * the inflated rows and the result, both known from the header, and lets go of them. It reads the chunks that make up the
 * picture and skips all others, compressed text and profiles included. Also runs under Node, for the embedded trainer.
 */

type Failed = Failure<"VALIDATION_ERROR">;

type Header = {
  width: number;
  height: number;
  depth: number;
  colourType: number;
  interlaced: boolean;
};

/** Samples of one pixel by colour type: grey, colour, palette index, grey and alpha, colour and alpha. */
const SAMPLES: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

/** The seven passes of Adam7: first column and row, distance between columns and rows. */
const ADAM7 = [
  { x: 0, y: 0, dx: 8, dy: 8 },
  { x: 4, y: 0, dx: 8, dy: 8 },
  { x: 0, y: 4, dx: 4, dy: 8 },
  { x: 2, y: 0, dx: 4, dy: 4 },
  { x: 0, y: 2, dx: 2, dy: 4 },
  { x: 1, y: 0, dx: 2, dy: 2 },
  { x: 0, y: 1, dx: 1, dy: 2 },
];
const WHOLE = [{ x: 0, y: 0, dx: 1, dy: 1 }];

const bad = (message: string) => fail("VALIDATION_ERROR", `The PNG image is damaged: ${message}`, "file");

type Chunks = { header: Header; palette: Uint8Array; transparency: Uint8Array; data: Uint8Array[] };

const CRITICAL = new Set(["IHDR", "PLTE", "tRNS", "IDAT"]);

function readChunks(bytes: Uint8Array): Result<Chunks, Failed> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let header: Header | null = null;
  let palette: Uint8Array = new Uint8Array(0);
  let transparency: Uint8Array = new Uint8Array(0);
  const data: Uint8Array[] = [];
  for (let at = 8; ; ) {
    if (at + 12 > bytes.length) return bad("it ends early");
    const size = view.getUint32(at);
    const content = at + 8;
    const end = content + size;
    if (end + 4 > bytes.length) return bad("it ends early");
    const name = String.fromCharCode(...bytes.subarray(at + 4, content));
    if (CRITICAL.has(name) && crc32(bytes.subarray(at + 4, end)) !== view.getUint32(end)) {
      return bad(`checksum of ${name}`);
    }
    if (name === "IHDR") {
      if (size !== 13 || header) return bad("IHDR");
      header = {
        width: view.getUint32(content),
        height: view.getUint32(content + 4),
        depth: view.getUint8(content + 8),
        colourType: view.getUint8(content + 9),
        interlaced: view.getUint8(content + 12) === 1,
      };
    } else if (name === "PLTE") {
      if (size % 3 !== 0 || size > 768) return bad("PLTE");
      palette = bytes.subarray(content, end);
    } else if (name === "tRNS") {
      transparency = bytes.subarray(content, end);
    } else if (name === "IDAT") {
      data.push(bytes.subarray(content, end));
    } else if (name === "IEND") {
      break;
    }
    at = end + 4;
  }
  if (!header || data.length === 0) return bad("it has no picture");
  if (header.colourType === 3 && palette.length === 0) return bad("it has no palette");
  return ok({ header, palette, transparency, data });
}

/** Bytes of one row of `width` pixels, without the byte that names its filter. */
const rowBytes = (width: number, bitsPerPixel: number): number => Math.ceil((width * bitsPerPixel) / 8);

/**
 * workerd's zlib grows its buffer in steps and counts the whole step: with a limit of the exact size it refuses pictures of
 * some sizes, many of those between 40 and 130 kB. With this much room it refused none of any size up to 26 MB.
 */
const INFLATE_STEP_BYTES = 256 * 1024;

function inflate(parts: Uint8Array[], expectedBytes: number): Uint8Array | null {
  const [first] = parts;
  const whole = parts.length === 1 && first ? first : concatenate(parts);
  try {
    // A stream that is too long is seen by its length; it cannot grow beyond the step.
    const inflated = inflateSync(whole, { maxOutputLength: expectedBytes + INFLATE_STEP_BYTES });
    return inflated.length === expectedBytes ? inflated : null;
  } catch {
    return null;
  } finally {
    if (whole !== first) release(whole);
  }
}

/**
 * Undoes the filters of `rows` rows in place (specification, section 9).
 * @param bytesPerPixel distance to the byte "on the left", at least 1
 * @returns false at an unknown filter
 */
function unfilter(data: Uint8Array, start: number, rows: number, stride: number, bytesPerPixel: number): boolean {
  const line = stride + 1;
  for (let row = 0; row < rows; row += 1) {
    const begin = start + row * line + 1;
    const end = begin + stride;
    const first = Math.min(begin + bytesPerPixel, end);
    const above = row === 0 ? -1 : begin - line;
    switch (data[begin - 1]) {
      case 0:
        break;
      case 1: // left
        for (let at = first; at < end; at += 1) data[at] = (data[at] ?? 0) + (data[at - bytesPerPixel] ?? 0);
        break;
      case 2: // above
        if (above < 0) break;
        for (let at = begin; at < end; at += 1) data[at] = (data[at] ?? 0) + (data[at - line] ?? 0);
        break;
      case 3: // average of both, rounded down; what lies outside the picture counts as 0
        for (let at = begin; at < first; at += 1)
          data[at] = (data[at] ?? 0) + (above < 0 ? 0 : (data[at - line] ?? 0) >> 1);
        for (let at = first; at < end; at += 1) {
          const up = above < 0 ? 0 : (data[at - line] ?? 0);
          data[at] = (data[at] ?? 0) + (((data[at - bytesPerPixel] ?? 0) + up) >> 1);
        }
        break;
      case 4: // Paeth: whichever of left, above, above left is nearest to left + above - above left
        if (above < 0) {
          for (let at = first; at < end; at += 1) data[at] = (data[at] ?? 0) + (data[at - bytesPerPixel] ?? 0);
          break;
        }
        for (let at = begin; at < first; at += 1) data[at] = (data[at] ?? 0) + (data[at - line] ?? 0);
        for (let at = first; at < end; at += 1) {
          const a = data[at - bytesPerPixel] ?? 0;
          const b = data[at - line] ?? 0;
          const c = data[at - line - bytesPerPixel] ?? 0;
          const toA = Math.abs(b - c);
          const toB = Math.abs(a - c);
          const toC = Math.abs(a + b - c - c);
          data[at] = (data[at] ?? 0) + (toA <= toB && toA <= toC ? a : toB <= toC ? b : c);
        }
        break;
      default:
        return false;
    }
  }
  return true;
}

/** One sample of a row as it is stored: 1, 2, 4, 8 or 16 bits. */
function sampleAt(data: Uint8Array, rowStart: number, index: number, depth: number): number {
  if (depth === 8) return data[rowStart + index] ?? 0;
  if (depth === 16) return (data[rowStart + index * 2] ?? 0) * 256 + (data[rowStart + index * 2 + 1] ?? 0);
  const bit = index * depth;
  return ((data[rowStart + (bit >> 3)] ?? 0) >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
}

/** Writes the pixels of one unfiltered row; `target` of its pixel i is `from + i * step`, counted in pixels. */
type RowWriter = (rowStart: number, width: number, from: number, step: number) => void;

function rowWriter(chunks: Chunks, data: Uint8Array, out: Uint8ClampedArray): RowWriter {
  const { palette, transparency } = chunks;
  const { depth, colourType } = chunks.header;
  const transparentView = new DataView(transparency.buffer, transparency.byteOffset, transparency.byteLength);
  /** The one stored sample value, of each channel, that means "transparent" (colour types 0 and 2). */
  const keyAt = (channel: number) =>
    transparency.length >= channel * 2 + 2 ? transparentView.getUint16(channel * 2) : -1;
  const to8 = depth === 16 ? 1 / 257 : 255 / ((1 << depth) - 1);

  const put = (at: number, red: number, green: number, blue: number, alpha: number) => {
    out[at * 4] = red;
    out[at * 4 + 1] = green;
    out[at * 4 + 2] = blue;
    out[at * 4 + 3] = alpha;
  };

  if (depth === 8 && colourType === 6) {
    return (rowStart, width, from, step) => {
      for (let i = 0; i < width; i += 1) {
        const at = rowStart + i * 4;
        put(from + i * step, data[at] ?? 0, data[at + 1] ?? 0, data[at + 2] ?? 0, data[at + 3] ?? 0);
      }
    };
  }
  if (depth === 8 && transparency.length === 0 && (colourType === 0 || colourType === 2)) {
    const samples = colourType === 2 ? 3 : 1;
    const blueAt = samples - 1;
    return (rowStart, width, from, step) => {
      for (let i = 0; i < width; i += 1) {
        const at = rowStart + i * samples;
        put(from + i * step, data[at] ?? 0, data[at + (blueAt >> 1)] ?? 0, data[at + blueAt] ?? 0, 255);
      }
    };
  }
  switch (colourType) {
    case 3:
      return (rowStart, width, from, step) => {
        for (let i = 0; i < width; i += 1) {
          const index = sampleAt(data, rowStart, i, depth);
          const entry = index * 3;
          put(
            from + i * step,
            palette[entry] ?? 0,
            palette[entry + 1] ?? 0,
            palette[entry + 2] ?? 0,
            transparency[index] ?? 255,
          );
        }
      };
    case 0:
    case 4: {
      const samples = colourType === 4 ? 2 : 1;
      const key = colourType === 4 ? -1 : keyAt(0);
      return (rowStart, width, from, step) => {
        for (let i = 0; i < width; i += 1) {
          const stored = sampleAt(data, rowStart, i * samples, depth);
          const grey = stored * to8;
          const alpha = samples === 2 ? sampleAt(data, rowStart, i * 2 + 1, depth) * to8 : stored === key ? 0 : 255;
          put(from + i * step, grey, grey, grey, alpha);
        }
      };
    }
    default: {
      const samples = colourType === 6 ? 4 : 3;
      const [keyRed, keyGreen, keyBlue] = colourType === 6 ? [-1, -1, -1] : [keyAt(0), keyAt(1), keyAt(2)];
      return (rowStart, width, from, step) => {
        for (let i = 0; i < width; i += 1) {
          const red = sampleAt(data, rowStart, i * samples, depth);
          const green = sampleAt(data, rowStart, i * samples + 1, depth);
          const blue = sampleAt(data, rowStart, i * samples + 2, depth);
          const isKey = red === keyRed && green === keyGreen && blue === keyBlue;
          const alpha = samples === 4 ? sampleAt(data, rowStart, i * 4 + 3, depth) * to8 : isKey ? 0 : 255;
          put(from + i * step, red * to8, green * to8, blue * to8, alpha);
        }
      };
    }
  }
}

/**
 * Decodes a whole PNG file whose header was accepted by `readImageHeader`: that check bounds the memory used here.
 * Every failure is `VALIDATION_ERROR` with field `file`.
 */
export function decodePng(bytes: Uint8Array): Result<Pixels, Failed> {
  const chunks = readChunks(bytes);
  if (!chunks.ok) return chunks;
  const { width, height, depth, colourType, interlaced } = chunks.value.header;
  const bitsPerPixel = (SAMPLES[colourType] ?? 1) * depth;
  const bytesPerPixel = Math.max(bitsPerPixel >> 3, 1);

  const passes = (interlaced ? ADAM7 : WHOLE)
    .map((pass) => ({
      ...pass,
      width: Math.ceil((width - pass.x) / pass.dx),
      height: Math.ceil((height - pass.y) / pass.dy),
    }))
    .filter((pass) => pass.width > 0 && pass.height > 0)
    .map((pass) => ({ ...pass, stride: rowBytes(pass.width, bitsPerPixel) }));

  const expected = passes.reduce((sum, pass) => sum + pass.height * (pass.stride + 1), 0);
  const data = inflate(chunks.value.data, expected);
  if (!data) return bad("its data");

  const out = new Uint8ClampedArray(width * height * 4);
  const write = rowWriter(chunks.value, data, out);
  let start = 0;
  for (const pass of passes) {
    if (!unfilter(data, start, pass.height, pass.stride, bytesPerPixel)) return bad("unknown filter");
    for (let row = 0; row < pass.height; row += 1) {
      const rowStart = start + row * (pass.stride + 1) + 1;
      write(rowStart, pass.width, (pass.y + row * pass.dy) * width + pass.x, pass.dx);
    }
    start += pass.height * (pass.stride + 1);
  }
  release(data);
  return ok({ width, height, data: out });
}
