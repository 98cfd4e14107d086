/**
 * Makes the files that are needed by dev, tests, type generation and deploy but not committed: `npm run gen`.
 * Every step compares what it would write with what is there and leaves an up-to-date file alone.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { assemble } from "./lib/assemble.ts";
import { patchDecoderGlue } from "./lib/glue-patch.ts";
import { withSimd } from "./lib/jpeg-simd.ts";
import { clearSharedMemory, importMemory } from "./lib/wasm-patch.ts";

const root = dirname(import.meta.dirname);
const require = createRequire(import.meta.url);

interface Step {
  /** File that is made, relative to the root of the repository. */
  target: string;
  /** What it is made from: a file of this repository that begins with `./`, else a published one as a package path. */
  source: string;
  make: (source: Uint8Array) => Uint8Array | Promise<Uint8Array>;
}

/**
 * Pages that a codec starts with. Data and stack take two; the published minimum of 16 MiB is a reserve, and a memory never
 * shrinks: most pictures need a tenth of it.
 */
const CODEC_PAGES = 16;

const asIs = (source: Uint8Array) => source;

const assembleText = (source: Uint8Array) => assemble(new TextDecoder().decode(source));

const patchGlue = (source: Uint8Array) => new TextEncoder().encode(patchDecoderGlue(new TextDecoder().decode(source)));

/** Types of a decoder's glue, which the published ones no longer describe. */
const declareGlue = () =>
  new TextEncoder().encode(`import type { DecoderFactory } from "../src/training/inference/codecs.ts";

declare const create: DecoderFactory;
export default create;
`);

const steps: Step[] = [
  {
    // ONNX Runtime is published for threads only. Shared memory is not counted by V8 and cannot be capped.
    source: "onnxruntime-web/ort-wasm-simd-threaded.wasm",
    target: "vendor/ort-wasm-simd.wasm",
    make: clearSharedMemory,
  },
  {
    source: "@jsquash/jpeg/codec/dec/mozjpeg_dec.wasm",
    target: "vendor/jpeg-decoder.wasm",
    make: async (wasm) => importMemory(await withSimd(wasm), CODEC_PAGES).wasm,
  },
  { source: "@jsquash/jpeg/codec/dec/mozjpeg_dec.js", target: "vendor/jpeg-decoder.js", make: patchGlue },
  { source: "@jsquash/jpeg/codec/dec/mozjpeg_dec.js", target: "vendor/jpeg-decoder.d.ts", make: declareGlue },
  {
    source: "@jsquash/webp/codec/dec/webp_dec.wasm",
    target: "vendor/webp-decoder.wasm",
    make: (wasm) => importMemory(wasm, CODEC_PAGES).wasm,
  },
  { source: "@jsquash/webp/codec/dec/webp_dec.js", target: "vendor/webp-decoder.js", make: patchGlue },
  { source: "@jsquash/webp/codec/dec/webp_dec.js", target: "vendor/webp-decoder.d.ts", make: declareGlue },
  { source: "./src/training/inference/row-kernel.wat", target: "vendor/row-kernel.wasm", make: assembleText },
  // The documents page needs no CDN.
  { source: "swagger-ui-dist/swagger-ui-bundle.js", target: "public/docs/assets/swagger-ui-bundle.js", make: asIs },
  { source: "swagger-ui-dist/swagger-ui.css", target: "public/docs/assets/swagger-ui.css", make: asIs },
];

/** Written for each product: what it was made from. Size and time of the source spare hashing 14 MB every time. */
interface Stamp {
  source: string;
  sourceSizeBytes: number;
  sourceTimeMs: number;
  makers: string;
}

/** Changes with this script and its library, so that an edited step is run again. */
const makers = [
  "gen.ts",
  "lib/assemble.ts",
  "lib/glue-patch.ts",
  "lib/jpeg-simd.ts",
  "lib/jpeg-simd.wat",
  "lib/wasm-patch.ts",
]
  .reduce((hash, file) => hash.update(readFileSync(join(import.meta.dirname, file))), createHash("sha256"))
  .digest("hex");

/** Not beside the product: what lies in `public/` is served. */
const stampFileOf = (step: Step): string => join(root, "vendor/.stamps", `${step.target.replaceAll("/", "_")}.json`);

function upToDate(target: string, stampFile: string, stamp: Stamp): boolean {
  return existsSync(target) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === JSON.stringify(stamp);
}

/** Another process may read or make the same file: it appears complete or not at all. */
function writeWhole(path: string, content: Uint8Array | string): void {
  const draft = `${path}.${process.pid}.tmp`;
  writeFileSync(draft, content);
  renameSync(draft, path);
}

for (const step of steps) {
  const sourcePath = step.source.startsWith("./") ? join(root, step.source) : require.resolve(step.source);
  const target = join(root, step.target);
  const { size, mtimeMs } = statSync(sourcePath);
  const stamp: Stamp = { source: step.source, sourceSizeBytes: size, sourceTimeMs: Math.trunc(mtimeMs), makers };
  const stampFile = stampFileOf(step);
  if (upToDate(target, stampFile, stamp)) continue;
  mkdirSync(dirname(target), { recursive: true });
  mkdirSync(dirname(stampFile), { recursive: true });
  const product = await step.make(readFileSync(sourcePath));
  writeWhole(target, product);
  writeWhole(stampFile, JSON.stringify(stamp));
  console.log(`gen: ${step.target} (${(product.length / 1024).toFixed(0)} KiB from ${step.source})`);
}
