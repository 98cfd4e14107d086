/**
 * A picture from outside (a breeder's photo, a painted fruit) as an SVG that draws it upright at a bounded size. What comes out
 * of the rasteriser is a new PNG: nothing of the file but its pixels is left, no place and no time of a camera.
 *
 * Sources: PNG specification (W3C, third edition) 11.2.1; ITU-T T.81 annex B; Exif 2.32 section 4.6.
 */
import { fail, ok, type Result } from "../../shared/result.ts";

/** What a file says about itself in its first bytes. The declared type is not looked at. */
export interface PhotoHeader {
  type: "png" | "jpeg";
  /** Pixels as stored, before the orientation is applied. */
  width: number;
  height: number;
  /** Exif orientation 1 to 8; 1 where the file says nothing. */
  orientation: number;
}

/** 4 bytes a pixel and the decoder's own memory: 42 MB of the 128 an isolate has. */
export const MAX_PHOTO_PIXELS = 4_000_000;
/** Longer edge of the stored picture. */
const MAX_EDGE = 1024;
/** A progressive JPEG may repaint itself in any number of scans; usual are ten. */
const MAX_SCANS = 100;

const refused = (message: string) => fail("VALIDATION_ERROR", message);

const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** Reads the header and holds it against the limits, before anything is decoded. Messages are Korean: users see them. */
export function readPhotoHeader(bytes: Uint8Array): Result<PhotoHeader> {
  const header = PNG_SIGNATURE.every((byte, at) => bytes[at] === byte)
    ? pngHeader(bytes)
    : bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff
      ? jpegHeader(bytes)
      : null;
  if (header === null) return refused("PNG 또는 JPEG 이미지여야 합니다");
  if (header === "damaged" || header.width === 0 || header.height === 0) return refused("이미지를 읽을 수 없습니다");
  if (header.width * header.height > MAX_PHOTO_PIXELS) {
    return refused(`이미지가 너무 큽니다: ${header.width}×${header.height} (최대 ${MAX_PHOTO_PIXELS / 1e6}백만 화소)`);
  }
  return ok(header);
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function pngHeader(bytes: Uint8Array): PhotoHeader | "damaged" {
  if (bytes.length < 33 || String.fromCharCode(...bytes.subarray(12, 16)) !== "IHDR") return "damaged";
  const view = viewOf(bytes);
  return { type: "png", width: view.getUint32(16), height: view.getUint32(20), orientation: 1 };
}

function jpegHeader(bytes: Uint8Array): PhotoHeader | "damaged" {
  const view = viewOf(bytes);
  let orientation = 1;
  let at = 2;
  while (at + 4 <= bytes.length) {
    if (bytes[at] !== 0xff) return "damaged";
    const marker = bytes[at + 1] ?? 0;
    if (marker === 0xff) {
      at++;
      continue;
    }
    const size = view.getUint16(at + 2);
    const body = at + 4;
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) {
      if (body + 5 > bytes.length || countScans(bytes) > MAX_SCANS) return "damaged";
      return { type: "jpeg", height: view.getUint16(body + 1), width: view.getUint16(body + 3), orientation };
    }
    if (marker === 0xe1) orientation = exifOrientation(bytes.subarray(body, at + 2 + size)) ?? orientation;
    // Start of scan or end of image before a frame.
    if (marker === 0xda || marker === 0xd9 || size < 2) return "damaged";
    at += 2 + size;
  }
  return "damaged";
}

/** Start-of-scan markers: inside entropy-coded data 0xFF is always escaped. */
function countScans(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(0xff); at >= 0; at = bytes.indexOf(0xff, at + 1)) if (bytes[at + 1] === 0xda) count++;
  return count;
}

/** Tag 0x0112 of the first directory of an Exif segment; null where there is none or it makes no sense. */
function exifOrientation(segment: Uint8Array): number | null {
  if (segment.length < 20 || String.fromCharCode(...segment.subarray(0, 6)) !== "Exif\0\0") return null;
  const tiff = viewOf(segment.subarray(6));
  const little = tiff.getUint16(0) === 0x4949;
  const directory = tiff.getUint32(4, little);
  if (directory + 2 > tiff.byteLength) return null;
  const entries = tiff.getUint16(directory, little);
  for (let entry = 0; entry < entries; entry++) {
    const offset = directory + 2 + 12 * entry;
    if (offset + 12 > tiff.byteLength) return null;
    if (tiff.getUint16(offset, little) !== 0x0112) continue;
    const value = tiff.getUint16(offset + 8, little);
    return value >= 1 && value <= 8 ? value : null;
  }
  return null;
}

/** The affine map from stored to upright pixels, for an image of w × h, as an SVG matrix. */
const UPRIGHT: Record<number, (w: number, h: number) => string> = {
  1: () => "1 0 0 1 0 0",
  2: (w) => `-1 0 0 1 ${w} 0`,
  3: (w, h) => `-1 0 0 -1 ${w} ${h}`,
  4: (_, h) => `1 0 0 -1 0 ${h}`,
  5: () => "0 1 1 0 0 0",
  6: (_, h) => `0 1 -1 0 ${h} 0`,
  7: (w, h) => `0 -1 -1 0 ${h} ${w}`,
  8: (w) => `0 -1 1 0 0 ${w}`,
};

function base64(bytes: Uint8Array): string {
  let text = "";
  // In pieces: a call takes a limited number of arguments.
  for (let at = 0; at < bytes.length; at += 0x8000)
    text += String.fromCharCode(...bytes.subarray(at, Math.min(at + 0x8000, bytes.length)));
  return btoa(text);
}

/**
 * The file drawn upright.
 * @param square edge in px of a square that is filled, cutting off what does not fit; absent: the picture's own proportions
 */
export function photoSvg(bytes: Uint8Array, header: PhotoHeader, square?: number): string {
  const { type, width: w, height: h, orientation } = header;
  const turned = orientation >= 5;
  const [width, height] = turned ? [h, w] : [w, h];
  const scale = Math.min(1, MAX_EDGE / Math.max(width, height));
  const size =
    square === undefined
      ? { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) }
      : { width: square, height: square };
  const matrix = (UPRIGHT[orientation] ?? UPRIGHT[1])?.(w, h) ?? "";
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${size.width}" height="${size.height}" ` +
    `viewBox="0 0 ${width} ${height}" preserveAspectRatio="xMidYMid ${square === undefined ? "meet" : "slice"}">` +
    `<image transform="matrix(${matrix})" width="${w}" height="${h}" href="data:image/${type};base64,${base64(bytes)}"/></svg>`
  );
}
