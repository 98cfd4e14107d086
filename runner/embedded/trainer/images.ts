import { readFile } from "node:fs/promises";
import createJpegDecoder from "@jsquash/jpeg/codec/dec/mozjpeg_dec.js";
import createWebpDecoder from "@jsquash/webp/codec/dec/webp_dec.js";
import { err, ok, type Result } from "../../../src/shared/result.ts";
import { type ModuleOptions, moduleOptions } from "../../../src/training/inference/emscripten.ts";
import { type ImageLimits, readImageHeader } from "../../../src/training/inference/image-header.ts";
import { decodePng } from "../../../src/training/inference/png.ts";
import type { Pixels } from "../../../src/training/inference/preprocess.ts";

/**
 * Decoding of image files under Node with the decoders of the Worker.
 */

export type DecodedImage = { pixels: Pixels; orientation: number };

/** Never throws; the error is a sentence. Not for concurrent use. */
export type DecodeImage = (bytes: Uint8Array) => Promise<Result<DecodedImage, string>>;

/** Photographs of every usual camera. RGBA of the largest takes 240 MB. */
const LIMITS: ImageLimits = {
  bytes: 64 * 1024 * 1024,
  pixels: { png: 60_000_000, jpeg: 60_000_000, webp: 60_000_000 },
  cmyk: false,
};

/** The bindings count their arguments: WebP takes the file alone, JPEG also whether to turn it upright. */
type Decoder = { decode(bytes: Uint8Array, ...more: boolean[]): Pixels | null };

type DecoderFactory = (options: ModuleOptions) => Promise<Decoder>;

/** A decoder that starts anew after a failure: a damaged file leaves it in the middle of its work. */
class Codec {
  readonly #create: DecoderFactory;
  readonly #module: WebAssembly.Module;
  readonly #more: boolean[];
  #decoder: Decoder | null = null;

  constructor(create: DecoderFactory, module: WebAssembly.Module, more: boolean[] = []) {
    this.#create = create;
    this.#module = module;
    this.#more = more;
  }

  /** Null when the decoder refuses the file. */
  async decode(bytes: Uint8Array): Promise<Pixels | null> {
    this.#decoder ??= await this.#create(moduleOptions(this.#module));
    try {
      return this.#decoder.decode(bytes, ...this.#more);
    } catch {
      this.#decoder = null;
      return null;
    }
  }
}

const compile = async (specifier: string) =>
  WebAssembly.compile(await readFile(new URL(import.meta.resolve(specifier))));

export async function loadDecoder(): Promise<DecodeImage> {
  const jpeg = new Codec(createJpegDecoder, await compile("@jsquash/jpeg/codec/dec/mozjpeg_dec.wasm"), [false]);
  const webp = new Codec(createWebpDecoder, await compile("@jsquash/webp/codec/dec/webp_dec.wasm"));
  return async (bytes) => {
    const header = readImageHeader(bytes, LIMITS);
    if (!header.ok) return err(header.error.message);
    const { type, width, height, orientation } = header.value;
    if (type === "png") {
      const png = decodePng(bytes);
      return png.ok ? ok({ pixels: png.value, orientation }) : err(png.error.message);
    }
    const pixels = await (type === "jpeg" ? jpeg : webp).decode(bytes);
    if (pixels?.width !== width || pixels.height !== height) return err("The image is damaged");
    return ok({ pixels, orientation });
  };
}
