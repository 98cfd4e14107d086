import type { SplitName } from "./types.ts";

const IMAGE_NAME = /\.(?:jpe?g|png|bmp|gif|tiff?|webp)$/i;

/** Whether a file counts as a picture: jpg jpeg png bmp gif tif tiff webp. */
export const isImagePath = (path: string): boolean => IMAGE_NAME.test(path);

/** Whether content begins like one of those formats, whatever its name says. `head`: its first 12 bytes or more. */
export function looksLikeImage(head: Uint8Array): boolean {
  const starts = (...bytes: number[]) => bytes.every((byte, i) => head[i] === byte);
  const ascii = (at: number, text: string) => [...text].every((char, i) => head[at + i] === char.charCodeAt(0));
  return (
    starts(0xff, 0xd8, 0xff) ||
    starts(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a) ||
    ascii(0, "GIF8") ||
    ascii(0, "BM") ||
    (ascii(0, "RIFF") && ascii(8, "WEBP")) ||
    starts(0x49, 0x49, 0x2a, 0x00) ||
    starts(0x4d, 0x4d, 0x00, 0x2a)
  );
}

const SPLIT_BY_NAME: ReadonlyMap<string, SplitName> = new Map([
  ["train", "train"],
  ["training", "train"],
  ["val", "val"],
  ["valid", "val"],
  ["validation", "val"],
  ["test", "test"],
  ["testing", "test"],
]);

/** The split that a folder or a `split` value names; null if it names none. */
export const splitOfName = (name: string): SplitName | null => SPLIT_BY_NAME.get(name.toLowerCase()) ?? null;

/** The split named by one of the folders of a path, the outermost first. */
export function splitOfPath(path: string): SplitName | null {
  for (const folder of path.split("/").slice(0, -1)) {
    const split = splitOfName(folder);
    if (split) return split;
  }
  return null;
}
