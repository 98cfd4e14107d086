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
 * it had taken. So the memory belongs to this module, not to the instance: after a failure the instance is dropped, the
 * memory zeroed and the next instance started in it. Any number of damaged images costs nothing.
 *
 * Not for concurrent use: the caller lets one image in at a time.
 */

type Failed = Failure<"VALIDATION_ERROR">;

type Decoder = { decode(bytes: Uint8Array, keepOrientation?: boolean): Pixels | null };

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

/** 64 MiB of 64 KiB pages. The largest accepted image, progressive, takes 35 MiB. */
const MAX_PAGES = 1024;

// The decoders hand over their result as the browser's `ImageData`, which this runtime does not have.
const scope: { ImageData?: unknown } = globalThis;
scope.ImageData ??= class {
  readonly data: Uint8ClampedArray;
  readonly width: number;
  readonly height: number;

  constructor(data: Uint8ClampedArray, width: number, height: number) {
    this.data = data;
    this.width = width;
    this.height = height;
  }
};

class Codec {
  readonly #create: DecoderFactory;
  readonly #module: WebAssembly.Module;
  readonly #minimumPages: number;
  #memory: WebAssembly.Memory | null = null;
  #decoder: Decoder | null = null;

  constructor(create: DecoderFactory, module: WebAssembly.Module, minimumPages: number) {
    this.#create = create;
    this.#module = module;
    this.#minimumPages = minimumPages;
  }

  /** The pixels, or null when the decoder refuses the file. */
  async decode(bytes: Uint8Array): Promise<Pixels | null> {
    this.#memory ??= new WebAssembly.Memory({ initial: this.#minimumPages, maximum: MAX_PAGES });
    this.#decoder ??= await this.#start(this.#memory);
    try {
      return this.#decoder.decode(bytes, false);
    } catch {
      // mozjpeg ends by exit(1), which arrives as a bare object and leaves stack and heap as they were.
      this.#decoder = null;
      new Uint8Array(this.#memory.buffer).fill(0);
      return null;
    }
  }

  get memoryBytes(): number {
    return this.#memory?.buffer.byteLength ?? 0;
  }

  #start(memory: WebAssembly.Memory): Promise<Decoder> {
    return this.#create({
      noInitialRun: true,
      print: () => undefined,
      printErr: () => undefined,
      instantiateWasm: (imports, done) => {
        const instance = new WebAssembly.Instance(this.#module, { ...imports, env: { memory } });
        done(instance);
        return instance.exports;
      },
    });
  }
}

/** The second number is the memory the binary starts with, in pages; starting fails if it asks for more. */
const jpeg = new Codec(createJpegDecoder, jpegModule, 258);
const webp = new Codec(createWebpDecoder, webpModule, 256);

/** Wasm memory that the decoders have taken in this isolate. */
export const codecMemoryBytes = (): number => jpeg.memoryBytes + webp.memoryBytes;

/**
 * Decodes to RGBA, in the orientation in which the pixels are stored.
 * @param header what `readImageHeader` said about the same bytes
 * @returns `VALIDATION_ERROR` with field `file` when the image is damaged
 */
export async function decodeImage(bytes: Uint8Array, header: ImageHeader): Promise<Result<Pixels, Failed>> {
  if (header.type === "png") return decodePng(bytes);
  const pixels = await (header.type === "jpeg" ? jpeg : webp).decode(bytes);
  // A decoder that found another picture than the header promised read the file differently: not to be trusted.
  if (pixels?.width !== header.width || pixels.height !== header.height) {
    return fail("VALIDATION_ERROR", `The ${header.type === "jpeg" ? "JPEG" : "WebP"} image is damaged`, "file");
  }
  return ok(pixels);
}
