import { crc32, deflateSync } from "node:zlib";
import { concatenate } from "../../src/shared/memory.ts";

/** Writes PNG files for tests: any colour type, depth, filter and interlacing, and damaged ones. */

const SIGNATURE = Uint8Array.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const SAMPLES: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;

export function pngChunk(name: string, content: Uint8Array): Uint8Array {
  const body = concatenate([new TextEncoder().encode(name), content]);
  const frame = new Uint8Array(8);
  const view = new DataView(frame.buffer);
  view.setUint32(0, content.length);
  view.setUint32(4, crc32(body));
  return concatenate([frame.subarray(0, 4), body, frame.subarray(4)]);
}

export type PngSpec = {
  width: number;
  height: number;
  colourType: 0 | 2 | 3 | 4 | 6;
  depth: 1 | 2 | 4 | 8 | 16;
  /** Stored sample: 0 .. 2^depth - 1. */
  sample: (x: number, y: number, channel: number) => number;
  /** Filter of each row; the default uses all five in turn. */
  filter?: (row: number) => number;
  interlaced?: boolean;
  palette?: number[];
  transparency?: number[];
  /** Chunks put before the data. */
  extra?: Uint8Array[];
  /** Into how many IDAT chunks the data is cut. */
  parts?: number;
};

export function pngHeader(width: number, height: number, depth: number, colourType: number, interlace = 0): Uint8Array {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([depth, colourType, 0, 0, interlace], 8);
  return pngChunk("IHDR", header);
}

function packRow(spec: PngSpec, y: number, columns: number[]): Uint8Array {
  const samples = SAMPLES[spec.colourType] ?? 1;
  const row = new Uint8Array(Math.ceil((columns.length * samples * spec.depth) / 8));
  columns.forEach((x, i) => {
    for (let channel = 0; channel < samples; channel += 1) {
      const value = spec.sample(x, y, channel);
      const index = i * samples + channel;
      if (spec.depth === 16) row.set([value >> 8, value & 255], index * 2);
      else {
        const bit = index * spec.depth;
        row[bit >> 3] = (row[bit >> 3] ?? 0) | (value << (8 - spec.depth - (bit & 7)));
      }
    }
  });
  return row;
}

function filterRow(row: Uint8Array, above: Uint8Array | null, filter: number, distance: number): Uint8Array {
  const out = new Uint8Array(row.length + 1);
  out[0] = filter;
  row.forEach((value, i) => {
    const a = i < distance ? 0 : (row[i - distance] ?? 0);
    const b = above?.[i] ?? 0;
    const c = i < distance ? 0 : (above?.[i - distance] ?? 0);
    const p = a + b - c;
    const [pa, pb, pc] = [Math.abs(p - a), Math.abs(p - b), Math.abs(p - c)];
    const paeth = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
    out[i + 1] = value - ([0, a, b, Math.floor((a + b) / 2), paeth][filter] ?? 0);
  });
  return out;
}

/** The rows as they are compressed. */
export function pngRows(spec: PngSpec): Uint8Array {
  const filter = spec.filter ?? ((row: number) => row % 5);
  const distance = Math.max(((SAMPLES[spec.colourType] ?? 1) * spec.depth) >> 3, 1);
  const passes = spec.interlaced ? ADAM7 : ([[0, 0, 1, 1]] as const);
  const lines: Uint8Array[] = [];
  for (const [x0, y0, dx, dy] of passes) {
    const columns: number[] = [];
    for (let x: number = x0; x < spec.width; x += dx) columns.push(x);
    let above: Uint8Array | null = null;
    let count = 0;
    for (let y: number = y0; y < spec.height && columns.length > 0; y += dy, count += 1) {
      const row = packRow(spec, y, columns);
      lines.push(filterRow(row, above, filter(count), distance));
      above = row;
    }
  }
  return concatenate(lines);
}

export function writePng(spec: PngSpec): Uint8Array<ArrayBuffer> {
  const data = deflateSync(pngRows(spec));
  const parts = spec.parts ?? 1;
  const size = Math.ceil(data.length / parts);
  const dataChunks = Array.from({ length: parts }, (_, i) => pngChunk("IDAT", data.subarray(i * size, (i + 1) * size)));
  return concatenate([
    SIGNATURE,
    pngHeader(spec.width, spec.height, spec.depth, spec.colourType, spec.interlaced ? 1 : 0),
    ...(spec.extra ?? []),
    ...(spec.palette ? [pngChunk("PLTE", Uint8Array.from(spec.palette))] : []),
    ...(spec.transparency ? [pngChunk("tRNS", Uint8Array.from(spec.transparency))] : []),
    ...dataChunks,
    pngChunk("IEND", new Uint8Array(0)),
  ]);
}

/** A file of nothing but a signature and a header. */
export const pngHeaderOnly = (width: number, height: number): Uint8Array<ArrayBuffer> =>
  concatenate([SIGNATURE, pngHeader(width, height, 8, 6), pngChunk("IEND", new Uint8Array(0))]);
