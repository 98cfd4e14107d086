import { DurableObject } from "cloudflare:workers";
import { sha256Hex } from "../../shared/ids.ts";
import { logger } from "../../shared/logger.ts";
import { release } from "../../shared/memory.ts";
import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import { openChunkReader } from "../../shared/streams.ts";
import { Gate } from "./gate.ts";
import {
  type ImageHeader,
  isCmyk,
  MAX_IMAGE_BYTES,
  MAX_PIXELS_BESIDE_BINDING,
  readImageHeader,
  SHRINKABLE,
} from "./image-header.ts";
import { checkModelSize } from "./limits.ts";
import type { CheckpointManifest } from "./manifest.ts";
import { checkModelFacts, readModelFacts } from "./model-file.ts";
import { MODEL_BUDGET_BYTES, ModelShelf, openBytes } from "./models.ts";
import { type NormalisedImage, normalisePixels } from "./normalise.ts";
import type { OnnxModel } from "./onnx-runtime.ts";
import { readAnswer } from "./postprocess.ts";
import { frameOf, imageToTensor, type Pixels } from "./preprocess.ts";
import type { InferenceOptions, InferenceResult } from "./results.ts";
import { MAX_SHRUNK_EDGE, shrinkImage } from "./shrink.ts";

/** A file in the object store, and what it must be. */
export type StoredFile = { key: string; sha256: string; sizeBytes: number };

export type InferRequest = {
  model: StoredFile;
  /** The weights file beside the graph, under the name by which the graph refers to it. */
  external: (StoredFile & { path: string }) | null;
  manifest: CheckpointManifest;
  /** The image file. A view of a larger buffer would send all of the buffer. */
  image: Uint8Array;
  options: InferenceOptions;
};

export type InferAnswer = {
  result: InferenceResult;
  /** Whether the model had to be loaded for this call. */
  cold: boolean;
  /**
   * Milliseconds before the image was looked at. A deployed Worker's clock stands still while it computes, so the time
   * for the image itself is what the caller measures around the call, less these.
   */
  timings: { queueMs: number; loadMs: number };
};

export type InferFailure = Failure<
  "VALIDATION_ERROR" | "MODEL_MISSING" | "MODEL_NOT_USABLE" | "MODEL_TOO_LARGE" | "BUSY"
>;

/** A shrunk image keeps this many pixels a side for one of the model's, so that the model's own way of resizing still counts. */
const SHRINK_TO = 2;

/** Shared by all objects of the isolate, as its memory is. */
const gate = new Gate({ maxWaitingBytes: 1.5 * MAX_IMAGE_BYTES, maxTurnMs: 90_000 });
const shelf = new ModelShelf<OnnxModel>(MODEL_BUDGET_BYTES, async () => (await loadWasm()).restartRuntime());

/**
 * The WebAssembly half. Loaded when the first image comes, not with the Worker: every isolate would pay for starting it, and
 * most never see an image.
 */
const loadWasm = () => import("./wasm.ts");

type Wasm = Awaited<ReturnType<typeof loadWasm>>;

/**
 * Answers images with one model: the object's name is the hash of the model's content (and a replica number), so that a
 * model stays loaded where its requests go. Holds nothing that has to survive.
 */
export class ModelSession extends DurableObject<Env> {
  /**
   * Runs one image through the model. Loads the model from the object store if it is not loaded, checks that it is the one
   * that was asked for, decodes the image and runs it. A failed run releases the model; the next call loads it again.
   */
  async infer(request: InferRequest): Promise<Result<InferAnswer, InferFailure>> {
    const { manifest, model, external } = request;
    const header = readImageHeader(request.image, SHRINKABLE);
    if (!header.ok) return header;
    const size = checkModelSize(manifest, model.sizeBytes, external?.sizeBytes ?? 0);
    if (!size.ok) return size;

    const queuedAt = Date.now();
    return this.#turn(request.image, async () => {
      const startedAt = Date.now();
      const wasm = await loadWasm();
      const hash = external ? `${model.sha256}+${external.sha256}` : model.sha256;
      const kept = shelf.get(hash);
      const loaded = kept ? ok(kept) : await this.#load(wasm, hash, model, external);
      if (!loaded.ok) return loaded;
      const session = loaded.value;
      const signature = session.check(manifest);
      if (!signature.ok) return signature;
      // The clock moves on only when something outside was waited for; a turn of the event loop is the least of it.
      if (!kept) await scheduler.wait(0);
      const loadMs = Date.now() - startedAt;

      const edge = Math.max(manifest.input.width, manifest.input.height);
      const decoded = await this.#decode(wasm, request.image, header.value, SHRINK_TO * edge, (pixels, orientation) => {
        release(request.image);
        return {
          tensor: imageToTensor(wasm.rowKernel, pixels, manifest.input, orientation),
          frame: frameOf(header.value, pixels, orientation, manifest.input),
        };
      });
      if (!decoded.ok) return decoded;
      const { tensor, frame } = decoded.value;

      let outputs = await session.run(tensor, manifest);
      if (!outputs.ok && outputs.error.code === "MODEL_TOO_LARGE") {
        // Others may have had the memory, or earlier failures: alone in a new one it gets another chance.
        await shelf.clear();
        const again = await this.#load(wasm, hash, model, external);
        if (!again.ok) return again;
        outputs = await again.value.run(tensor, manifest);
      }
      release(tensor);
      if (!outputs.ok) {
        await (outputs.error.code === "MODEL_TOO_LARGE" ? shelf.clear() : shelf.drop(hash));
        return outputs;
      }

      const result = readAnswer(outputs.value, manifest, frame, request.options);
      for (const { data } of outputs.value.values()) release(data);
      if (!result.ok) return result;
      return ok({
        result: result.value,
        cold: !kept,
        timings: { queueMs: startedAt - queuedAt, loadMs },
      });
    });
  }

  /** The image upright, its longer side at most `maxEdge` pixels, as PNG: for a model that runs elsewhere. */
  async normalise(image: Uint8Array, maxEdge: number): Promise<Result<NormalisedImage, InferFailure>> {
    const header = readImageHeader(image, SHRINKABLE);
    if (!header.ok) return header;
    return this.#turn(image, async () => {
      const wasm = await loadWasm();
      return this.#decode(wasm, image, header.value, SHRINK_TO * maxEdge, (pixels, orientation) => {
        release(image);
        return normalisePixels(wasm.rowKernel, pixels, orientation, maxEdge);
      });
    });
  }

  /** Does something with an image when its turn comes. The image is given back then, also when nothing came of it. */
  async #turn<T>(image: Uint8Array, work: () => Promise<Result<T, InferFailure>>): Promise<Result<T, InferFailure>> {
    try {
      const turn = await gate.run(image.byteLength, work);
      return turn.ok ? turn.value : turn;
    } finally {
      release(image);
    }
  }

  /**
   * Decodes an image. A large one, or one in printing inks, comes upright and no larger than needed from the Images binding,
   * where there is one.
   * @param edge pixels that suffice for the longer side
   * @param use gets the pixels and the orientation in which they lie; they are gone when it returns
   */
  async #decode<T>(
    wasm: Wasm,
    image: Uint8Array,
    header: ImageHeader,
    edge: number,
    use: (pixels: Pixels, orientation: number) => T,
  ): Promise<Result<T, InferFailure>> {
    // Absent in a deployment that has none, whatever the generated type says.
    const images = this.env.IMAGES as ImagesBinding | undefined;
    if (images && (header.width * header.height > MAX_PIXELS_BESIDE_BINDING || isCmyk(header))) {
      const shrunk = await shrinkImage(images, image, header, Math.min(edge, MAX_SHRUNK_EDGE));
      if (!shrunk.ok) return shrunk;
      const { bytes, header: small } = shrunk.value;
      return wasm.decodeImage(bytes, small, (pixels) => {
        release(bytes);
        return use(pixels, 1);
      });
    }
    const accepted = readImageHeader(image);
    if (!accepted.ok) return accepted;
    return wasm.decodeImage(image, header, (pixels) => use(pixels, header.orientation));
  }

  async #load(
    wasm: Wasm,
    hash: string,
    model: StoredFile,
    external: InferRequest["external"],
  ): Promise<Result<OnnxModel, InferFailure>> {
    const files: Uint8Array[] = [];
    const read = async (file: StoredFile) => {
      const bytes = await this.#read(file);
      if (bytes.ok) files.push(bytes.value);
      return bytes;
    };
    try {
      const graph = await read(model);
      if (!graph.ok) return graph;
      const facts = readModelFacts(graph.value);
      if (!facts.ok) return facts;
      const allowed = checkModelFacts(facts.value, external ? [external.path] : []);
      if (!allowed.ok) return allowed;
      const weights = external ? await read(external) : ok(null);
      if (!weights.ok) return weights;

      const data = external && weights.value ? { path: external.path, data: weights.value } : null;
      const opened = await shelf.open(hash, openBytes(model.sizeBytes, external?.sizeBytes ?? 0), () =>
        wasm.OnnxModel.open(graph.value, data),
      );
      logger.info("model loaded", {
        ok: opened.ok,
        sha256: model.sha256,
        bytes: model.sizeBytes + (external?.sizeBytes ?? 0),
        onnxWasmBytes: wasm.onnxMemoryBytes(),
        codecWasmBytes: wasm.codecMemoryBytes(),
        models: shelf.size,
      });
      return opened;
    } finally {
      files.forEach(release);
    }
  }

  /** Reads a file into one array of its known size; a collected body would be held twice, and chunks would be left over. */
  async #read(file: StoredFile): Promise<Result<Uint8Array<ArrayBuffer>, InferFailure>> {
    const stored = await this.env.BUCKET.get(file.key);
    if (!stored) return fail("MODEL_MISSING", "The file of this checkpoint is gone");
    const bytes = new Uint8Array(file.sizeBytes);
    let at = 0;
    if (stored.size === file.sizeBytes) {
      const chunks = openChunkReader(stored.body);
      for (let chunk = await chunks.read(); chunk !== undefined; chunk = await chunks.read()) {
        bytes.set(chunk, at);
        at += chunk.byteLength;
      }
    } else {
      await stored.body.cancel();
    }
    if (at !== file.sizeBytes || (await sha256Hex(bytes)) !== file.sha256) {
      release(bytes);
      return fail("MODEL_NOT_USABLE", "The stored file of this checkpoint is not the one that was uploaded");
    }
    return ok(bytes);
  }
}
