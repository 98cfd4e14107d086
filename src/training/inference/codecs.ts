import createJpegDecoder from "../../../vendor/jpeg-decoder.js";
import jpegModule from "../../../vendor/jpeg-decoder.wasm";
import createWebpDecoder from "../../../vendor/webp-decoder.js";
import webpModule from "../../../vendor/webp-decoder.wasm";
import { release } from "../../shared/memory.ts";
import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import { type ModuleOptions, moduleOptions } from "./emscripten.ts";
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
 * The pixels of JPEG and WebP are used where the decoder put them, while it waits: an image is never held twice.
 *
 * Not for concurrent use: the caller lets one image in at a time.
 */

type Failed = Failure<"VALIDATION_ERROR">;

/** Null when the file is refused; otherwise the pixels were handed to the constructor of `ImageData` meanwhile. */
type Decoder = { decode(bytes: Uint8Array, ...more: boolean[]): object | null };

/** `globals` is our own option, see `scripts/lib/glue-patch.ts`. */
export type DecoderFactory = (
  options: ModuleOptions & {
    globals: Record<"Uint8ClampedArray" | "ImageData", new (...made: never[]) => object>;
  },
) => Promise<Decoder>;

/** What both binaries start with, in pages of 64 KiB, see `scripts/gen.ts`; starting fails if one asks for more. */
const INITIAL_PAGES = 16;
/** 64 MiB. The largest accepted image, progressive, takes 38. */
const MAX_PAGES = 1024;

/** What is being done with the pixels of the image that is being decoded. */
let onPixels: ((pixels: Pixels) => void) | null = null;

/** Stands for the array that a decoder would copy its pixels to. */
class DecoderBytes {
  readonly view: Uint8Array;

  /** @param view the decoder's memory, valid until it goes on */
  constructor(view: Uint8Array) {
    this.view = view;
  }
}

/** Stands for the browser's `ImageData`, the last thing that a decoder makes before it frees the pixels. */
class DecodedImage {
  constructor({ view }: DecoderBytes, width: number, height: number) {
    onPixels?.({ width, height, data: view });
  }
}

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
    ...moduleOptions(codec.module, { env: { memory: own } }),
    globals: { Uint8ClampedArray: DecoderBytes, ImageData: DecodedImage },
  });
  running = { codec, decoder };
  return decoder;
}

/** Calls `use` with the pixels, unless the decoder refuses the file. @throws what `use` throws */
async function decodeWasm(codec: Codec, bytes: Uint8Array, use: (pixels: Pixels) => void): Promise<void> {
  const decoder = running?.codec === codec ? running.decoder : await start(codec);
  const thrown: unknown[] = [];
  onPixels = (pixels) => {
    try {
      use(pixels);
    } catch (error) {
      // Not through the decoder, which would never clear up.
      thrown.push(error);
    }
  };
  try {
    decoder.decode(bytes, ...codec.more);
  } catch {
    // mozjpeg ends by exit(1), which arrives as a bare object and leaves stack and heap as they were.
    reset();
  } finally {
    onPixels = null;
  }
  if (thrown.length > 0) throw thrown[0];
}

/** Wasm memory that the decoders have taken in this isolate. */
export const codecMemoryBytes = (): number => memory?.buffer.byteLength ?? 0;

/**
 * Decodes to RGBA, in the orientation in which the pixels are stored.
 * @param header what `readImageHeader` said about the same bytes
 * @param use what is to be done with the pixels, at once: they are gone when it returns
 * @returns what `use` returns; `VALIDATION_ERROR` with field `file` when the image is damaged
 */
export async function decodeImage<T>(
  bytes: Uint8Array,
  header: ImageHeader,
  use: (pixels: Pixels) => T,
): Promise<Result<T, Failed>> {
  const { type, width, height } = header;
  if (type === "png") {
    const pixels = decodePng(bytes);
    if (!pixels.ok) return pixels;
    const made = use(pixels.value);
    release(pixels.value.data);
    return ok(made);
  }
  let made: Result<T, Failed> = fail(
    "VALIDATION_ERROR",
    `The ${type === "jpeg" ? "JPEG" : "WebP"} image is damaged`,
    "file",
  );
  await decodeWasm(CODECS[type], bytes, (pixels) => {
    // A decoder that found another picture than the header promised read the file differently: not to be trusted.
    if (pixels.width !== width || pixels.height !== height) return;
    made = ok(use({ ...pixels, opaque: header.channels < 4 }));
  });
  return made;
}
