import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import type { CheckpointManifest } from "./manifest.ts";
import { tensorLength } from "./preprocess.ts";

/**
 * What fits into the 128 MB of an isolate beside an image, judged before anything is loaded. Pure. Measured with ONNX
 * Runtime Web 1.30: a model in one file takes about 2.5 times its size plus 15 MiB of Wasm memory, because its weights
 * are copied on parsing; weights in a second file are taken over once.
 */

/**
 * 64 KiB pages of Wasm memory that ONNX Runtime may take: 73 MiB. A model that needs more fails alone. Beside it an isolate
 * holds its heap (23 MB), the image codecs (3 MB after usual pictures, 17 after the largest), and either one image (8 MB) or, while
 * a model is loaded, the model's file: `npm run check:inference-memory`. With a tenth less, a resnet50 of int8 weights runs
 * out of memory.
 */
export const MAX_WASM_PAGES = 1168;

/** Graph and weights in one file. */
export const MAX_SINGLE_FILE_BYTES = 20_000_000;

/** Graph plus one external weights file, both together: a convnext_tiny of int8 weights has 28.1 MB. */
export const MAX_EXTERNAL_TOTAL_BYTES = 28_500_000;

/** Float32 values of the input: 20 MB. */
export const MAX_INPUT_VALUES = 5_000_000;

const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

/** `MODEL_TOO_LARGE` with a message that gives the size and the limit. Sizes are those of the stored files. */
export function checkModelSize(
  manifest: Pick<CheckpointManifest, "input">,
  graphBytes: number,
  externalBytes: number,
): Result<null, Failure<"MODEL_TOO_LARGE">> {
  const [total, limit, form] =
    externalBytes > 0
      ? ([graphBytes + externalBytes, MAX_EXTERNAL_TOTAL_BYTES, "a model with external weights"] as const)
      : ([graphBytes, MAX_SINGLE_FILE_BYTES, "a model in one file"] as const);
  if (total > limit || graphBytes > MAX_SINGLE_FILE_BYTES) {
    const [size, most] = total > limit ? [total, limit] : [graphBytes, MAX_SINGLE_FILE_BYTES];
    return fail("MODEL_TOO_LARGE", `The model is too large to run here: ${mb(size)}, at most ${mb(most)} for ${form}`);
  }
  if (tensorLength(manifest.input) > MAX_INPUT_VALUES) {
    const { width, height, channels } = manifest.input;
    return fail("MODEL_TOO_LARGE", `The model's input is too large to run here: ${width} x ${height} x ${channels}`);
  }
  return ok(null);
}
