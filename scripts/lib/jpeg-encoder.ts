import { readFileSync } from "node:fs";
import encode, { init } from "@jsquash/jpeg/encode.js";
import { moduleOptions } from "../../src/training/inference/emscripten.ts";

type Options = Parameters<typeof encode>[1];

let started: Promise<void> | null = null;

/** Encodes RGBA as JPEG, by the encoder that belongs to the Worker's decoder. */
export async function encodeJpeg(
  image: { width: number; height: number; data: Uint8ClampedArray<ArrayBuffer> },
  options: Options,
): Promise<Uint8Array<ArrayBuffer>> {
  started ??= (async () => {
    const path = new URL(import.meta.resolve("@jsquash/jpeg/codec/enc/mozjpeg_enc.wasm"));
    const module = await WebAssembly.compile(readFileSync(path));
    await init(moduleOptions(module));
  })();
  await started;
  return new Uint8Array(await encode({ ...image, colorSpace: "srgb" }, options));
}
