import type { Taps } from "./resample.ts";

/**
 * Resizing of rows by SIMD: `row-kernel.wat` with its memory laid out for one image after the other. Pure but for that
 * memory, which holds a few rows and never an image.
 */

const PAGE_BYTES = 64 * 1024;

/** Resized rows are kept up to so many bytes; beyond, those that are needed again are made again. */
const MAX_KEPT_BYTES = 1024 * 1024;

/** Exports of the module, which describes them. */
type Exports = {
  memory: WebAssembly.Memory;
  resizeRow(
    pixels: number,
    first: number,
    end: number,
    weights: number,
    count: number,
    rounded: number,
    out: number,
  ): void;
  addRow(sum: number, row: number, weight: number, count: number): void;
  planes(
    row: number,
    count: number,
    rounded: number,
    out: number,
    plane: number,
    redScale: number,
    greenScale: number,
    blueScale: number,
    redShift: number,
    greenShift: number,
    blueShift: number,
  ): void;
};

/** What is done to a colour's value at the end: value * scale + shift. */
export type Affine = { scale: number; shift: number };

/** Puts one source row, pixels from `columns.first[0]` on, into `pixels`; each is one number, alpha above blue above green above red. */
export type ReadRow = (y: number, pixels: Int32Array) => void;

export type RowKernel = ReturnType<typeof createRowKernel>;

/** @param module compiled `row-kernel.wat` */
export function createRowKernel(module: WebAssembly.Module) {
  // What the module exports, by its text.
  const { memory, ...kernel } = new WebAssembly.Instance(module).exports as unknown as Exports;

  return {
    /**
     * Prepares for an image. The maker that is returned works until the next image is begun.
     * @param rounded whether values become whole numbers 0..255: `columns` after resizing along x, `rows` at the end
     * @param colours what is done to red, green and blue at the end
     * @returns makes row y of the target: its red, green and blue values, valid until the next row is made
     */
    begin(
      readRow: ReadRow,
      columns: Taps,
      rows: Taps,
      rounded: { columns: boolean; rows: boolean },
      colours: readonly [Affine, Affine, Affine],
    ): (y: number) => readonly [Float32Array, Float32Array, Float32Array] {
      const { count, first, begin } = columns;
      const weightCount = begin[count] as number;
      const origin = first[0] as number;
      const width = (first[count - 1] as number) - origin + weightCount - (begin[count - 1] as number);
      // The module works on four pixels at once.
      const rowBytes = Math.ceil(count / 4) * 64;
      const planeBytes = rowBytes / 4;
      const kept = Math.min(rows.most + 1, Math.max(Math.floor(MAX_KEPT_BYTES / rowBytes), 1));

      let usedBytes = 0;
      const take = (bytes: number) => {
        const at = usedBytes;
        usedBytes += Math.ceil(bytes / 16) * 16;
        return at;
      };
      const pixelsAt = take(width * 4);
      const firstAt = take(count * 4);
      const beginAt = take((count + 1) * 4);
      const weightsAt = take(weightCount * 4);
      const sumAt = take(rowBytes);
      const planesAt = take(planeBytes * 3);
      const keptAt = take(rowBytes * kept);
      const missingBytes = usedBytes - memory.buffer.byteLength;
      if (missingBytes > 0) memory.grow(Math.ceil(missingBytes / PAGE_BYTES));

      const { buffer } = memory;
      const pixels = new Int32Array(buffer, pixelsAt, width);
      new Int32Array(buffer, firstAt, count).set(first.map((pixel) => pixel - origin));
      new Int32Array(buffer, beginAt, count + 1).set(begin);
      new Float32Array(buffer, weightsAt, weightCount).set(columns.weights.subarray(0, weightCount));
      const sum = new Float32Array(buffer, sumAt, rowBytes / 4);
      const plane = (channel: number) => new Float32Array(buffer, planesAt + channel * planeBytes, count);
      const planes = [plane(0), plane(1), plane(2)] as const;
      const [red, green, blue] = colours;

      // Neighbouring target rows share source rows.
      const keptRows = new Int32Array(kept).fill(-1);
      /** Address of a source row that is resized along x. */
      const resized = (y: number): number => {
        const slot = y % kept;
        const at = keptAt + slot * rowBytes;
        if (keptRows[slot] !== y) {
          readRow(y, pixels);
          kernel.resizeRow(pixelsAt, firstAt, beginAt + 4, weightsAt, count, Number(rounded.columns), at);
          keptRows[slot] = y;
        }
        return at;
      };

      return (y) => {
        const top = rows.first[y] as number;
        const from = rows.begin[y] as number;
        const taps = (rows.begin[y + 1] as number) - from;
        let at = sumAt;
        if (taps === 1) {
          at = resized(top);
        } else {
          sum.fill(0);
          for (let i = 0; i < taps; i += 1) {
            kernel.addRow(sumAt, resized(top + i), rows.weights[from + i] as number, count);
          }
        }
        kernel.planes(
          at,
          count,
          Number(rounded.rows),
          planesAt,
          planeBytes,
          red.scale,
          green.scale,
          blue.scale,
          red.shift,
          green.shift,
          blue.shift,
        );
        return planes;
      };
    },
  };
}
