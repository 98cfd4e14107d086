/** Names and identities of pictures: pure, so that the same picture always has the same address. */
import { canonicalJson } from "../genetics/provenance.ts";
import type { FruitAppearance, FruitView } from "./fruit-svg.ts";

/** Raised when the renderer draws the same traits differently: pictures made before keep their addresses. */
export const RENDERER_VERSION = 1;
/** Edge of a picture in px. */
export const PICTURE_PX = 640;

/** Everything that an embedded picture is made from; its hash is the identity of the picture. */
export const drawingManifest = (appearance: FruitAppearance, view: FruitView, seed: number): string =>
  canonicalJson({ renderer: RENDERER_VERSION, size: PICTURE_PX, appearance, view, seed });

/** A painting is not repeatable: its identity is what was asked for, and the first answer stays. */
export const paintingManifest = (model: string, prompt: string, pair: string): string =>
  canonicalJson({ model, prompt, pair, size: PICTURE_PX });

/** `2025/11`, in UTC. */
export const monthOf = (epochMs: number): string => new Date(epochMs).toISOString().slice(0, 7).replace("-", "/");

export const stemOf = (maleId: string, femaleId: string): string => `cross_${maleId}_${femaleId}`;

export const pictureFile = (stem: string, sequence: number): string =>
  `${stem}_${String(sequence).padStart(2, "0")}.png`;

/** The contract's address of a picture; letters beyond ASCII are percent-encoded. */
export const pictureUrl = (month: string, stem: string, sequence: number): string =>
  `/images/tomato/predictions/${month}/${encodeURIComponent(pictureFile(stem, sequence))}`;

const YEAR = /^\d{4}$/;
const MONTH = /^(0[1-9]|1[0-2])$/;
/** Ids as `isStrainId` has them, joined by `_`. */
const FILE = /^cross_[\p{L}\p{N}][\p{L}\p{N}_. -]{0,140}_\d{2,6}\.png$/u;

/** Month and file name of a picture's path, decoded; null for anything that is no such path. */
export function readPicturePath(year: string, month: string, file: string): { month: string; file: string } | null {
  if (!YEAR.test(year) || !MONTH.test(month) || !FILE.test(file) || file.includes("..")) return null;
  return { month: `${year}/${month}`, file };
}
