import { type Failure, fail, ok, type Result } from "../../shared/result.ts";

/**
 * What an image file is and how large it would become, from its header alone, before anything is decoded or allocated.
 * The content decides; a declared type or a file name is not looked at. Pure.
 *
 * Sources: PNG specification (W3C, third edition) 5.2 and 11.2.1; ITU-T T.81 annex B and Exif 2.32 section 4.6;
 * RFC 9649 (WebP) and RFC 6386 section 9.1 (VP8).
 */

export type ImageType = "png" | "jpeg" | "webp";

export type ImageHeader = {
  type: ImageType;
  /** Pixels as stored, before the orientation is applied. */
  width: number;
  height: number;
  /** Channels as stored: 1 grey or palette, 2 grey and alpha, 3 colour, 4 colour and alpha (PNG, WebP) or inks (JPEG: CMYK). */
  channels: 1 | 2 | 3 | 4;
  /** Exif orientation 1..8, as a viewer applies it; 1 where the file says nothing. Read from JPEG only, as browsers do. */
  orientation: number;
};

export type ImageFailure = Failure<"VALIDATION_ERROR">;

/** A file above this size is refused unread: it travels to the decoding object in one message of at most 32 MiB. */
export const MAX_IMAGE_BYTES = 16 * 1024 * 1024;

/**
 * Pixels that can be decoded beside a loaded model inside the 128 MB of an isolate: 4 bytes each, and the decoder's own
 * working memory (PNG: the inflated rows; JPEG and WebP: Wasm memory that is never given back).
 */
export const MAX_PIXELS: Record<ImageType, number> = { png: 4_000_000, jpeg: 5_000_000, webp: 5_000_000 };

/**
 * Pixels of an image that is decoded here where the Images binding could make it smaller: what a codec takes for it, it keeps
 * for good. One number, whatever is in memory at the moment, so that a picture is always answered alike.
 */
export const MAX_PIXELS_BESIDE_BINDING = 2_000_000;

/**
 * Pixels of one side: the most that a JPEG can have; a PNG could be one row of millions. What is prepared for resizing grows
 * with the longer side, not with the image.
 */
export const MAX_EDGE = 65_535;

/** Pixels of an image that the Images binding makes smaller before it is decoded here. */
export const MAX_SHRINKABLE_PIXELS = 50_000_000;

export type ImageLimits = {
  bytes: number;
  pixels: Record<ImageType, number>;
  /** Whether a JPEG in printing inks is accepted, which the decoder here does not read and the Images binding does. */
  cmyk: boolean;
};

/** What is decoded here, beside a loaded model. */
const DECODED_HERE: ImageLimits = { bytes: MAX_IMAGE_BYTES, pixels: MAX_PIXELS, cmyk: false };

/** With the Images binding. */
export const SHRINKABLE: ImageLimits = {
  bytes: MAX_IMAGE_BYTES,
  pixels: { png: MAX_SHRINKABLE_PIXELS, jpeg: MAX_SHRINKABLE_PIXELS, webp: MAX_SHRINKABLE_PIXELS },
  cmyk: true,
};

/** Whether a JPEG stores inks, not colours. */
export const isCmyk = ({ type, channels }: ImageHeader): boolean => type === "jpeg" && channels === 4;

/** A progressive JPEG may repaint the image in any number of scans, each as costly as decoding it once. Usual: about 10. */
export const MAX_JPEG_SCANS = 100;

const bad = (message: string) => fail("VALIDATION_ERROR", message, "file");
const truncated = (type: string) => bad(`The ${type} image is truncated`);

const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

const startsWith = (bytes: Uint8Array, prefix: readonly number[], at = 0): boolean =>
  prefix.every((byte, offset) => bytes[at + offset] === byte);

const ascii = (bytes: Uint8Array, at: number, length: number): string =>
  String.fromCharCode(...bytes.subarray(at, at + length));

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Type of the file by its first bytes; null for anything but PNG, JPEG and WebP. */
export function imageType(bytes: Uint8Array): ImageType | null {
  if (startsWith(bytes, PNG_SIGNATURE)) return "png";
  if (startsWith(bytes, [0xff, 0xd8, 0xff])) return "jpeg";
  if (bytes.length >= 12 && ascii(bytes, 0, 4) === "RIFF" && ascii(bytes, 8, 4) === "WEBP") return "webp";
  return null;
}

/**
 * Reads and checks the header of a whole image file: type, size in pixels, limits, completeness of the container.
 * Every failure is `VALIDATION_ERROR` with field `file`.
 *
 * @param limits other than the Worker's, for a trainer with a machine of its own
 */
export function readImageHeader(
  bytes: Uint8Array,
  limits: ImageLimits = DECODED_HERE,
): Result<ImageHeader, ImageFailure> {
  if (bytes.length === 0) return bad("The image is empty");
  if (bytes.length > limits.bytes) return bad(`The image is larger than ${limits.bytes / 1024 / 1024} MiB`);
  const type = imageType(bytes);
  if (type === null) return bad("The file is not a JPEG, PNG or WebP image");
  const header = { png: readPng, jpeg: readJpeg, webp: readWebp }[type](bytes);
  if (!header.ok) return header;
  const { width, height } = header.value;
  if (width < 1 || height < 1) return bad("The image has no pixels");
  if (isCmyk(header.value) && !limits.cmyk) return bad("A CMYK JPEG image is not supported here, convert it to RGB");
  if (width * height > limits.pixels[type]) {
    const limit = limits.pixels[type] / 1e6;
    return bad(`The image has ${width} x ${height} pixels, more than the ${limit} megapixels allowed for ${type}`);
  }
  if (Math.max(width, height) > MAX_EDGE) {
    return bad(`The image has ${width} x ${height} pixels, more than the ${MAX_EDGE} allowed for one side`);
  }
  return header;
}

/** Bit depths allowed for each colour type, and the channels it stores. */
const PNG_COLOUR_TYPES: Record<number, { depths: readonly number[]; channels: 1 | 2 | 3 | 4 }> = {
  0: { depths: [1, 2, 4, 8, 16], channels: 1 },
  2: { depths: [8, 16], channels: 3 },
  3: { depths: [1, 2, 4, 8], channels: 1 },
  4: { depths: [8, 16], channels: 2 },
  6: { depths: [8, 16], channels: 4 },
};

function readPng(bytes: Uint8Array): Result<ImageHeader, ImageFailure> {
  if (bytes.length < 33) return truncated("PNG");
  const view = viewOf(bytes);
  if (view.getUint32(8) !== 13 || ascii(bytes, 12, 4) !== "IHDR") return bad("The PNG image does not begin with IHDR");
  const colour = PNG_COLOUR_TYPES[view.getUint8(25)];
  const [compression, filter, interlace] = [view.getUint8(26), view.getUint8(27), view.getUint8(28)];
  if (!colour?.depths.includes(view.getUint8(24)) || compression !== 0 || filter !== 0 || interlace > 1) {
    return bad("The PNG header is not valid");
  }
  return ok({
    type: "png",
    width: view.getUint32(16),
    height: view.getUint32(20),
    channels: colour.channels,
    orientation: 1,
  });
}

/** Frame markers that the decoder reads: baseline, extended and progressive Huffman. */
const JPEG_FRAMES = [0xc0, 0xc1, 0xc2];
/** The other frame markers: lossless, differential, arithmetic. 0xc4 (tables), 0xc8 and 0xcc are not frames. */
const JPEG_OTHER_FRAMES = [0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf];

const isStandalone = (marker: number) => marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8);

/** Offset of the code of the next marker at or after `at`, as decoders find it: garbage and fill bytes are skipped. */
function nextMarker(bytes: Uint8Array, at: number): number {
  for (let from = at; ; ) {
    const mark = bytes.indexOf(0xff, from);
    if (mark < 0) return -1;
    let code = mark + 1;
    while (bytes[code] === 0xff) code += 1;
    if (code >= bytes.length) return -1;
    if (bytes[code] !== 0) return code; // 0xff 0x00 is a byte of data
    from = code + 1;
  }
}

function readJpeg(bytes: Uint8Array): Result<ImageHeader, ImageFailure> {
  const view = viewOf(bytes);
  let frame: { width: number; height: number; channels: 1 | 3 | 4 } | null = null;
  let orientation = 1;
  let scans = 0;
  for (let at = nextMarker(bytes, 2); at >= 0; ) {
    const marker = view.getUint8(at);
    if (marker === 0xd9) {
      if (frame && scans > 0) return ok({ type: "jpeg", ...frame, orientation });
      return bad("The JPEG image has no picture in it");
    }
    if (isStandalone(marker)) {
      at = nextMarker(bytes, at + 1);
      continue;
    }
    if (at + 3 > bytes.length) return truncated("JPEG");
    const size = view.getUint16(at + 1);
    const segment = bytes.subarray(at + 3, at + 1 + size);
    if (size < 2 || at + 1 + size > bytes.length) return truncated("JPEG");
    if (JPEG_OTHER_FRAMES.includes(marker)) return bad("This kind of JPEG (lossless or arithmetic) is not supported");
    if (JPEG_FRAMES.includes(marker)) {
      const read = readJpegFrame(segment, frame !== null);
      if (!read.ok) return read;
      frame = read.value;
    } else if (marker === 0xe1 && ascii(segment, 0, 6) === "Exif\0\0") {
      orientation = exifOrientation(segment.subarray(6)) ?? orientation;
    } else if (marker === 0xda) {
      if (!frame) return bad("The JPEG image has data before its header");
      scans += 1;
      if (scans > MAX_JPEG_SCANS) return bad(`The JPEG image has more than ${MAX_JPEG_SCANS} scans`);
    }
    at = nextMarker(bytes, at + 1 + size);
  }
  return truncated("JPEG");
}

function readJpegFrame(
  segment: Uint8Array,
  repeated: boolean,
): Result<{ width: number; height: number; channels: 1 | 3 | 4 }, ImageFailure> {
  if (repeated) return bad("The JPEG image has two headers");
  if (segment.length < 6) return truncated("JPEG");
  const view = viewOf(segment);
  const [precision, height, width, channels] = [
    view.getUint8(0),
    view.getUint16(1),
    view.getUint16(3),
    view.getUint8(5),
  ];
  if (precision !== 8) return bad(`A JPEG image of ${precision} bits a channel is not supported`);
  if (channels !== 1 && channels !== 3 && channels !== 4)
    return bad(`A JPEG image of ${channels} channels is not supported`);
  if (height === 0) return bad("A JPEG image without a height in its header is not supported");
  return ok({ width, height, channels });
}

/** Tag 0x0112 of the first directory of a TIFF block, 1..8; null when there is none or the block is damaged. */
function exifOrientation(tiff: Uint8Array): number | null {
  if (tiff.length < 8) return null;
  const view = viewOf(tiff);
  const order = ascii(tiff, 0, 2);
  if (order !== "II" && order !== "MM") return null;
  const little = order === "II";
  const directory = view.getUint32(4, little);
  if (directory + 2 > tiff.length) return null;
  const count = view.getUint16(directory, little);
  for (let entry = 0; entry < count; entry += 1) {
    const at = directory + 2 + entry * 12;
    if (at + 12 > tiff.length) return null;
    if (view.getUint16(at, little) !== 0x0112) continue;
    const value = view.getUint16(at + 8, little);
    return view.getUint16(at + 2, little) === 3 && value >= 1 && value <= 8 ? value : null;
  }
  return null;
}

function readWebp(bytes: Uint8Array): Result<ImageHeader, ImageFailure> {
  const view = viewOf(bytes);
  const end = 8 + view.getUint32(4, true);
  if (end > bytes.length) return truncated("WebP");
  let canvas: { width: number; height: number; alpha: boolean } | null = null;
  for (let at = 12; at + 8 <= end; ) {
    const chunk = ascii(bytes, at, 4);
    const size = view.getUint32(at + 4, true);
    const content = bytes.subarray(at + 8, at + 8 + size);
    if (at + 8 + size > end) return truncated("WebP");
    if (chunk === "VP8X") {
      if (content.length < 10) return truncated("WebP");
      const extended = viewOf(content);
      const flags = extended.getUint8(0);
      if (flags & 0x02) return bad("An animated WebP image is not supported");
      canvas = { width: 1 + uint24(extended, 4), height: 1 + uint24(extended, 7), alpha: (flags & 0x10) !== 0 };
    } else if (chunk === "VP8 " || chunk === "VP8L") {
      const frame = chunk === "VP8 " ? readVp8(content) : readVp8l(content);
      if (!frame.ok) return frame;
      const { width, height } = frame.value;
      // The extended header is only a claim about the frame; one that disagrees is a lie or a damaged file.
      if (canvas && (canvas.width !== width || canvas.height !== height)) return bad("The WebP header is not valid");
      return canvas?.alpha ? ok({ ...frame.value, channels: 4 }) : frame;
    }
    at += 8 + size + (size % 2);
  }
  return bad("The WebP image has no picture in it");
}

const uint24 = (view: DataView, at: number): number => view.getUint16(at, true) + view.getUint8(at + 2) * 65_536;

function readVp8(content: Uint8Array): Result<ImageHeader, ImageFailure> {
  if (content.length < 10) return truncated("WebP");
  const view = viewOf(content);
  const isKeyFrame = (view.getUint8(0) & 1) === 0;
  if (!isKeyFrame || !startsWith(content, [0x9d, 0x01, 0x2a], 3)) return bad("The WebP header is not valid");
  const [width, height] = [view.getUint16(6, true) & 0x3fff, view.getUint16(8, true) & 0x3fff];
  return ok({ type: "webp", width, height, channels: 3, orientation: 1 });
}

function readVp8l(content: Uint8Array): Result<ImageHeader, ImageFailure> {
  if (content.length < 5) return truncated("WebP");
  const view = viewOf(content);
  const bits = view.getUint32(1, true);
  if (view.getUint8(0) !== 0x2f || bits >>> 29 !== 0) return bad("The WebP header is not valid");
  const [width, height] = [1 + (bits & 0x3fff), 1 + ((bits >>> 14) & 0x3fff)];
  return ok({ type: "webp", width, height, channels: bits & (1 << 28) ? 4 : 3, orientation: 1 });
}
