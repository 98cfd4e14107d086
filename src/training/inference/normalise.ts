import { crc32, deflateSync } from "node:zlib";
import { concatenate } from "../../shared/memory.ts";
import type { ModelInput } from "./manifest.ts";
import { imageToTensor, type Pixels } from "./preprocess.ts";
import type { RowKernel } from "./row-kernel.ts";

/**
 * An image for a model that somebody else runs: upright, no larger than the model has a use for, and in a format that every
 * host reads. What a host does with an Exif orientation is not known, and a large image would be sent as a list of numbers.
 * Pure.
 */

export type NormalisedImage = { png: Uint8Array<ArrayBuffer>; width: number; height: number };

/** Width and height as the image is shown (Exif orientation 5 to 8 lie on their side), with the longer side at most `maxEdge`. */
export function fittedSize(
  stored: { width: number; height: number },
  orientation: number,
  maxEdge: number,
): { width: number; height: number } {
  const [width, height] = orientation >= 5 ? [stored.height, stored.width] : [stored.width, stored.height];
  const ratio = Math.min(1, maxEdge / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * ratio)), height: Math.max(1, Math.round(height * ratio)) };
}

/** Turns, shrinks and encodes decoded pixels; alpha is composited on white. */
export function normalisePixels(
  kernel: RowKernel,
  pixels: Pixels,
  orientation: number,
  maxEdge: number,
): NormalisedImage {
  const { width, height } = fittedSize(pixels, orientation, maxEdge);
  const input: ModelInput = {
    name: "rgb",
    layout: "NCHW",
    width,
    height,
    channels: 3,
    dtype: "float32",
    scale: 1,
    mean: [0, 0, 0],
    std: [1, 1, 1],
    resize: "stretch",
    pad_value: 0,
  };
  const planes = imageToTensor(kernel, pixels, input, orientation);
  const plane = width * height;
  // PNG rows: a filter byte (0, none) before each.
  const rowBytes = 1 + width * 3;
  const rows = new Uint8Array(rowBytes * height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const at = y * rowBytes + 1 + x * 3;
      for (let channel = 0; channel < 3; channel += 1) {
        rows[at + channel] = Math.round(planes[channel * plane + y * width + x] ?? 0);
      }
    }
  }
  return { png: encodePng(width, height, rows), width, height };
}

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** A chunk as PNG (third edition) 5.3 has it: length, type, data, CRC of the latter two. */
function chunk(type: string, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

/** Eight bits, red, green, blue. Level 1: the bytes go to a neighbour, and time counts more than size. */
function encodePng(width: number, height: number, rows: Uint8Array): Uint8Array<ArrayBuffer> {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 2, 0, 0, 0], 8);
  return concatenate([
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(rows, { level: 1 })),
    chunk("IEND", new Uint8Array(0)),
  ]);
}
