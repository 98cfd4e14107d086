import { readFileSync } from "node:fs";
import createJpegDecoder from "@jsquash/jpeg/codec/dec/mozjpeg_dec.js";
import { beforeAll, describe, it } from "vitest";
import { generator } from "../../../scripts/bench/networks.ts";
import { encodeJpeg } from "../../../scripts/lib/jpeg-encoder.ts";
import { withSimd } from "../../../scripts/lib/jpeg-simd.ts";
import { moduleOptions } from "../../../src/training/inference/emscripten.ts";
import { fixtureNames, imageFixture } from "../../support/images/fixtures.ts";

type Decoder = { decode(bytes: Uint8Array, preserveOrientation: boolean): ImageData | null };

/** A decoder, in a memory of its own, that starts anew when it has ended by `exit`. */
function decoderOf(binary: Uint8Array<ArrayBuffer>) {
  const module = new WebAssembly.Module(binary);
  let running: Decoder | null = null;
  return async (bytes: Uint8Array): Promise<Uint8ClampedArray | string> => {
    running ??= (await createJpegDecoder(moduleOptions(module))) as Decoder;
    try {
      return running.decode(bytes, false)?.data ?? "refused";
    } catch {
      running = null;
      return "ended";
    }
  };
}

let published: ReturnType<typeof decoderOf>;
let edited: ReturnType<typeof decoderOf>;
beforeAll(async () => {
  const binary = Uint8Array.from(
    readFileSync(new URL(import.meta.resolve("@jsquash/jpeg/codec/dec/mozjpeg_dec.wasm"))),
  );
  published = decoderOf(binary);
  edited = decoderOf(await withSimd(binary));
});

/** What becomes of a file: the same by both decoders, or an error. */
async function outcomeOf(bytes: Uint8Array): Promise<"pixels" | "refused" | "ended"> {
  const [wanted, actual] = [await published(bytes), await edited(bytes)];
  if (typeof wanted === "string" || typeof actual === "string") {
    if (wanted !== actual) throw new Error(`${typeof wanted} by the published decoder, ${typeof actual} by the other`);
    return wanted === "refused" ? "refused" : "ended";
  }
  const at = wanted.length === actual.length ? wanted.findIndex((value, i) => value !== actual[i]) : -2;
  if (at !== -1) throw new Error(`the first byte that differs is ${at}`);
  return "pixels";
}

const random = generator(5);
const below = (limit: number) => Math.floor(((random() + 1) / 2) * limit);

/** Contents that end in many coefficients, in few, in samples beyond 0 to 255, and in none. */
const CONTENTS: Record<string, (at: number) => number> = {
  noise: () => below(256),
  waves: (at) => 128 + 100 * Math.sin(at / 50),
  "black and white": () => 255 * below(2),
  "one colour": () => 77,
};

const KINDS = [
  { kind: "whole chroma", options: { chroma_subsample: 1 } },
  { kind: "halved chroma", options: { chroma_subsample: 2 } },
  { kind: "halved chroma, progressive", options: { chroma_subsample: 2, progressive: true } },
  { kind: "grey", options: { color_space: 1 } },
  { kind: "uncoded colours", options: { color_space: 2 } },
];

async function picture(content: string, quality: number, options: object): Promise<Uint8Array<ArrayBuffer>> {
  const [width, height] = [1 + below(70), 1 + below(70)];
  const valueAt = CONTENTS[content] ?? (() => 0);
  const data = new Uint8ClampedArray(width * height * 4).map((_, at) => (at % 4 === 3 ? 255 : valueAt(at)));
  return encodeJpeg({ width, height, data }, { quality, baseline: true, auto_subsample: false, ...options });
}

describe("the JPEG decoder with SIMD, beside the published one", () => {
  it.for(fixtureNames.filter((name) => name.endsWith(".jpg")))("does the same with %s", async (name, { expect }) => {
    expect(await outcomeOf(imageFixture(name))).toBe(name === "cmyk.jpg" ? "ended" : "pixels");
  });

  it.for(KINDS.flatMap((kind) => Object.keys(CONTENTS).map((content) => ({ ...kind, content }))))(
    "makes the same pixels of $content in $kind",
    async ({ content, options }, { expect }) => {
      for (const quality of [1, 10, 50, 75, 90, 100]) {
        expect(await outcomeOf(await picture(content, quality, options))).toBe("pixels");
      }
    },
  );

  it.for(Object.keys(CONTENTS))("does the same with damaged files of %s", async (content, { expect }) => {
    const outcomes = { pixels: 0, refused: 0, ended: 0 };
    for (let round = 0; round < 120; round += 1) {
      const damaged = await picture(content, 1 + below(100), KINDS[round % 4]?.options ?? {});
      for (let places = 1 + below(4); places > 0; places -= 1) damaged[20 + below(damaged.length - 20)] = below(256);
      outcomes[await outcomeOf(damaged)] += 1;
    }
    expect(outcomes.pixels).toBeGreaterThan(20);
    expect(outcomes.refused + outcomes.ended).toBeGreaterThan(10);
  });

  it("does the same with samples far beyond their range", async ({ expect }) => {
    for (let round = 0; round < 40; round += 1) {
      const file = await picture("noise", 30 + below(60), { chroma_subsample: 1 });
      // Coarsest steps of quantization: 64 bytes behind each DQT marker, its length and its number.
      for (let at = 0; at < file.length - 70; at += 1) {
        if (file[at] === 0xff && file[at + 1] === 0xdb) file.fill(255, at + 5, at + 69);
      }
      expect(await outcomeOf(file)).toBe("pixels");
    }
  });

  it("refuses to edit another binary", async ({ expect }) => {
    const other = readFileSync(new URL(import.meta.resolve("@jsquash/webp/codec/dec/webp_dec.wasm")));
    await expect(withSimd(other)).rejects.toThrow(/^wasm: no function 191/);
  });
});
