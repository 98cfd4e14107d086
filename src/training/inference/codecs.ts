import createJpegDecoder from "@jsquash/jpeg/codec/dec/mozjpeg_dec.js";
import createWebpDecoder from "@jsquash/webp/codec/dec/webp_dec.js";
import jpegModule from "../../../vendor/jpeg-decoder.wasm";
import webpModule from "../../../vendor/webp-decoder.wasm";
import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import type { ImageHeader } from "./image-header.ts";
import { decodePng } from "./png.ts";
import type { Pixels } from "./preprocess.ts";

/**
 * Decodes an image whose header was accepted. JPEG and WebP run as WebAssembly (mozjpeg, libwebp), so that a flaw in them
 * stays inside their own memory.
 *
 * The memory of a WebAssembly instance is not given back when the instance is dropped, and a decode that fails keeps what
 * it had taken. So the memory belongs to this module, not to the instance, and both decoders take turns in it: after a
 * failure, or for the other kind of image, the instance is dropped, the memory zeroed and the next one started in it. Any
 * number of damaged images costs nothing.
 *
 * Not for concurrent use: the caller lets one image in at a time.
 */

type Failed = Failure<"VALIDATION_ERROR">;

type Decoder = { decode(bytes: Uint8Array, ...more: boolean[]): Pixels | null };

/** What is used of the options of an Emscripten module. */
type DecoderFactory = (options: {
  noInitialRun: boolean;
  print: () => void;
  printErr: () => void;
  instantiateWasm: (
    imports: WebAssembly.Imports,
    done: (instance: WebAssembly.Instance) => void,
  ) => WebAssembly.Exports;
}) => Promise<Decoder>;

/** What both binaries start with, in pages of 64 KiB, see `scripts/gen.ts`; starting fails if one asks for more. */
const INITIAL_PAGES = 16;
/** 64 MiB. The largest accepted image, progressive, takes 38. */
const MAX_PAGES = 1024;

/** The decoders hand over their result as the browser's `ImageData`, which this runtime does not have. */
class PlainImageData {
  readonly data: Uint8ClampedArray;
  readonly width: number;
  readonly height: number;

  constructor(data: Uint8ClampedArray, width: number, height: number) {
    this.data = data;
    this.width = width;
    this.height = height;
  }
}
if (!("ImageData" in globalThis)) Object.assign(globalThis, { ImageData: PlainImageData });

type Codec = {
  create: DecoderFactory;
  module: WebAssembly.Module;
  /** Arguments after the bytes; each decoder insists on its own number of them. */
  more: boolean[];
};

/** mozjpeg can turn the picture by its Exif orientation; here that happens along with the resizing. */
const TURN_BY_EXIF = false;

const CODECS: Record<"jpeg" | "webp", Codec> = {
  jpeg: { create: createJpegDecoder, module: jpegModule, more: [TURN_BY_EXIF] },
  webp: { create: createWebpDecoder, module: webpModule, more: [] },
};

let memory: WebAssembly.Memory | null = null;
let running: { codec: Codec; decoder: Decoder } | null = null;

/** Leaves the memory as if it were new. */
function reset(): void {
  running = null;
  if (memory) new Uint8Array(memory.buffer).fill(0);
}

async function start(codec: Codec): Promise<Decoder> {
  reset();
  const own = memory ?? new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum: MAX_PAGES });
  memory = own;
  const decoder = await codec.create({
    noInitialRun: true,
    print: () => undefined,
    printErr: () => undefined,
    instantiateWasm: (imports, done) => {
      const instance = new WebAssembly.Instance(codec.module, { ...imports, env: { memory: own } });
      done(instance);
      return instance.exports;
    },
  });
  running = { codec, decoder };
  return decoder;
}

/** The pixels, or null when the decoder refuses the file. */
async function decodeWasm(codec: Codec, bytes: Uint8Array): Promise<Pixels | null> {
  const decoder = running?.codec === codec ? running.decoder : await start(codec);
  try {
    return decoder.decode(bytes, ...codec.more);
  } catch {
    // mozjpeg ends by exit(1), which arrives as a bare object and leaves stack and heap as they were.
    reset();
    return null;
  }
}

/** Wasm memory that the decoders have taken in this isolate. */
export const codecMemoryBytes = (): number => memory?.buffer.byteLength ?? 0;

/**
 * Decodes to RGBA, in the orientation in which the pixels are stored.
 * @param header what `readImageHeader` said about the same bytes
 * @returns `VALIDATION_ERROR` with field `file` when the image is damaged
 */
export async function decodeImage(bytes: Uint8Array, header: ImageHeader): Promise<Result<Pixels, Failed>> {
  if (header.type === "png") return decodePng(bytes);
  const pixels = await decodeWasm(CODECS[header.type], bytes);
  // A decoder that found another picture than the header promised read the file differently: not to be trusted.
  if (pixels?.width !== header.width || pixels.height !== header.height) {
    return fail("VALIDATION_ERROR", `The ${header.type === "jpeg" ? "JPEG" : "WebP"} image is damaged`, "file");
  }
  const { width, height, data } = pixels;
  return ok({ width, height, data, opaque: header.channels < 4 });
}
