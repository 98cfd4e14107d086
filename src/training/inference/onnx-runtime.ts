import * as ort from "onnxruntime-web/wasm";
import ortModule from "../../../vendor/ort-wasm-simd.wasm";
import { errorText, logger } from "../../shared/logger.ts";
import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import type { Tensor } from "./decode/boxes.ts";
import { MAX_WASM_PAGES } from "./limits.ts";
import type { CheckpointManifest } from "./manifest.ts";
import { checkSignature, type Port } from "./model-file.ts";
import { type Outputs, outputNames } from "./postprocess.ts";

/**
 * ONNX Runtime Web inside workerd, on one thread.
 *
 * workerd compiles WebAssembly only at upload, never from bytes, and the published binary wants shared memory. So the
 * binary is imported as a module (its shared flag cleared by `npm run gen`), the glue gets a stub of eight bytes in its
 * place, and the calls that the glue then makes are answered here: instantiating the stub gives the imported module, and
 * shared memory gives plain memory with a maximum, so that a model that does not fit fails alone instead of ending the
 * isolate. The patches are made once, before the first session, and touch nothing else. They meet the glue at the points
 * it had in version 1.30.0: an upgrade has to pass the tests that compare outputs.
 */

/** Magic number and version: the shortest valid module. */
const STUB = new Uint8Array([0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00]);

let memory: WebAssembly.Memory | null = null;

function patchGlobals(): void {
  const { instantiate, Memory } = WebAssembly;

  const isStub = (source: unknown) => source instanceof Uint8Array && source.byteLength === STUB.byteLength;
  const answer = async (source: WebAssembly.Module, imports?: WebAssembly.Imports) =>
    isStub(source)
      ? { module: ortModule, instance: new WebAssembly.Instance(ortModule, imports) }
      : instantiate.call(WebAssembly, source, imports);

  class PlainMemory extends Memory {
    constructor(descriptor: WebAssembly.MemoryDescriptor & { shared?: boolean }) {
      const { initial, maximum = MAX_WASM_PAGES, shared } = descriptor;
      super(shared ? { initial, maximum: Math.min(maximum, MAX_WASM_PAGES) } : descriptor);
      if (shared) memory = this;
    }
  }

  // Waiting needs shared memory; the glue does without when the function is absent.
  Object.assign(Atomics, { waitAsync: undefined });
  Object.assign(WebAssembly, { instantiate: answer, Memory: PlainMemory });
}

patchGlobals();
ort.env.wasm.wasmBinary = STUB;
ort.env.wasm.numThreads = 1;
ort.env.wasm.proxy = false;
ort.env.logLevel = "error";

/** Wasm memory that ONNX Runtime has taken in this isolate; it never shrinks. */
export const onnxMemoryBytes = (): number => memory?.buffer.byteLength ?? 0;

/** The shortest model there is: an output that is its input. ONNX IR 8, opset 13; `x` and `y` are float32 of one value. */
const SMALLEST_MODEL = Uint8Array.of(
  ...[8, 8, 66, 2, 16, 13, 58, 47],
  ...[10, 16, 10, 1, 120, 18, 1, 121, 34, 8, 73, 100, 101, 110, 116, 105, 116, 121, 18, 1, 103],
  ...[90, 11, 10, 1, 120, 18, 6, 10, 4, 8, 1, 18, 0, 98, 11, 10, 1, 121, 18, 6, 10, 4, 8, 1, 18, 0],
);

/** The memory of the runtime as it was when it had started and nothing was open: what is not zero in it, and where. */
let pristine: { at: number; bytes: Uint8Array }[] | null = null;

/** Pieces in which memory is looked at; most of it, stack and free heap, is zero. */
const BLOCK_BYTES = 4096;

function nonZeroBlocks(all: Uint8Array): { at: number; bytes: Uint8Array }[] {
  const words = new Int32Array(all.buffer);
  const wordsPerBlock = BLOCK_BYTES / 4;
  const blocks: { at: number; bytes: Uint8Array }[] = [];
  for (let at = 0; at < words.length; at += 1) {
    if (words[at] === 0) continue;
    const first = at - (at % wordsPerBlock);
    blocks.push({ at: first * 4, bytes: all.slice(first * 4, first * 4 + BLOCK_BYTES) });
    at = first + wordsPerBlock - 1;
  }
  return blocks;
}

/** Starts the runtime, and keeps what it needs to be started again. */
async function startRuntime(): Promise<void> {
  if (pristine) return;
  const session = await ort.InferenceSession.create(SMALLEST_MODEL, { executionProviders: ["wasm"] });
  await session.release();
  if (!memory) throw new Error("ONNX Runtime runs in a memory that is not ours");
  pristine = nonZeroBlocks(new Uint8Array(memory.buffer));
}

/**
 * Puts the runtime back to where it was before anything was opened. An allocation that fails in the middle of opening or
 * running leaves behind what was taken before it, and nothing can give that back: memory would be lost with each failure until
 * no model fits. All that the runtime knows lies in its memory, so restoring the memory restores the runtime; it does not
 * become smaller. Every session must have been released.
 */
export function restartRuntime(): void {
  if (!memory || !pristine) return;
  const bytes = new Uint8Array(memory.buffer);
  bytes.fill(0);
  for (const block of pristine) bytes.set(block.bytes, block.at);
}

export type ModelFailure = Failure<"MODEL_TOO_LARGE" | "MODEL_NOT_USABLE">;

/**
 * Short of memory is told by the text only: the runtime's error 6 stands for any exception. Everything else is the model's
 * fault.
 */
function failureOf(thrown: unknown, during: "open" | "run"): { ok: false; error: ModelFailure } {
  const message = errorText(thrown);
  logger.warn("onnx failed", { during, error: message.slice(0, 500), wasmBytes: onnxMemoryBytes() });
  return /bad_alloc|failed to allocate|out of memory/i.test(message)
    ? fail("MODEL_TOO_LARGE", "The model needs more memory than there is here")
    : fail("MODEL_NOT_USABLE", `The model could not be ${during === "open" ? "opened" : "run"}`);
}

const portOf = (value: ort.InferenceSession.ValueMetadata): Port =>
  value.isTensor
    ? { name: value.name, type: value.type, shape: value.shape }
    : { name: value.name, type: null, shape: [] };

/** One opened model. After a failed run it must be released: it keeps memory that later opens need. */
export class OnnxModel {
  readonly #session: ort.InferenceSession;

  private constructor(session: ort.InferenceSession) {
    this.#session = session;
  }

  /**
   * Opens a model.
   * @param external the weights file beside the graph, under the name by which the graph refers to it
   */
  static async open(
    graph: Uint8Array,
    external: { path: string; data: Uint8Array } | null,
  ): Promise<Result<OnnxModel, ModelFailure>> {
    try {
      await startRuntime();
      const session = await ort.InferenceSession.create(graph, {
        executionProviders: ["wasm"],
        ...(external && { externalData: [external] }),
      });
      return ok(new OnnxModel(session));
    } catch (thrown) {
      return failureOf(thrown, "open");
    }
  }

  /** Whether the model takes and gives what a manifest says. */
  check(manifest: CheckpointManifest): Result<null, ModelFailure> {
    return checkSignature(this.#session.inputMetadata.map(portOf), this.#session.outputMetadata.map(portOf), manifest);
  }

  /** Runs one image; `tensor` is in NCHW order. Answers the outputs that the manifest's task needs. */
  async run(tensor: Float32Array, manifest: CheckpointManifest): Promise<Result<Outputs, ModelFailure>> {
    const { name, channels, height, width } = manifest.input;
    const input = new ort.Tensor("float32", tensor, [1, channels, height, width]);
    const outputs = new Map<string, Tensor>();
    try {
      const values = await this.#session.run({ [name]: input }, outputNames(manifest));
      for (const [outputName, { data, dims }] of Object.entries(values)) {
        // The array is ours: what the runtime computed was copied out of its memory.
        if (data instanceof Float32Array) outputs.set(outputName, { dims: [...dims], data });
      }
      for (const value of Object.values(values)) value.dispose();
      return ok(outputs);
    } catch (thrown) {
      return failureOf(thrown, "run");
    } finally {
      input.dispose();
    }
  }

  /** Gives the model's memory back to the runtime; never fails. */
  async release(): Promise<void> {
    try {
      await this.#session.release();
    } catch (thrown) {
      logger.warn("onnx release failed", { error: errorText(thrown).slice(0, 500) });
    }
  }
}
