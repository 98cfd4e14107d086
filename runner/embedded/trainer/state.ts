import { z } from "zod";
import { err, ok, type Result } from "../../../src/shared/result.ts";
import { type CheckpointManifest, checkpointManifestSchema } from "../../../src/training/inference/manifest.ts";
import { type NetworkShape, parameterCount } from "./network.ts";
import type { OptimizerConfig, OptimizerState } from "./optimizer.ts";

/**
 * Everything that a run needs to go on as if it had never stopped, as one file. Pure.
 *
 * Layout: 8 bytes `CVSTATE1`, length of the header (uint32, little-endian), header (JSON, UTF-8), then the float32 arrays
 * weights, first moments, second moments (little-endian). There is no generator of random numbers to store: each epoch
 * and batch draws from a sequence that follows from the seed and its own number.
 */

export type TrainerState = {
  manifest: CheckpointManifest;
  filters: [number, number];
  optimizerType: OptimizerConfig["type"];
  optimizer: OptimizerState;
  /** Complete epochs. */
  epoch: number;
  /** Batches done in the epoch after them. All of them: only its validation is missing. */
  batch: number;
  /** Sums over those batches. */
  partial: EpochSums;
  /** Best validation so far: by the primary metric, among equals by the loss. */
  best: (Mark & { loss: number }) | null;
  /** Like `best`, but gains smaller than early stopping's minimum do not count. */
  plateau: Mark | null;
};

export type EpochSums = { loss: number; correct: number; images: number; trainMs: number };
export type Mark = { value: number; epoch: number };

export const NO_SUMS: EpochSums = { loss: 0, correct: 0, images: 0, trainMs: 0 };

export const networkShape = (state: Pick<TrainerState, "manifest" | "filters">): NetworkShape => ({
  size: state.manifest.input.width,
  channels: state.manifest.input.channels,
  classes: state.manifest.labels.length,
  filters: state.filters,
});

const MAGIC = "CVSTATE1";

const count = z.int().min(0);
const markSchema = z.object({ value: z.number(), epoch: count });

const headerSchema = z.object({
  manifest: checkpointManifestSchema,
  filters: z.tuple([z.int().min(1).max(1024), z.int().min(1).max(1024)]),
  optimizerType: z.enum(["adam", "adamw", "sgd"]),
  step: count,
  epoch: count,
  batch: count,
  partial: z.object({ loss: z.number(), correct: count, images: count, trainMs: z.number().min(0) }),
  best: markSchema.extend({ loss: z.number() }).nullable(),
  plateau: markSchema.nullable(),
});

const arrays = ({ weights, first, second }: OptimizerState) => [weights, first, second];

export function encodeState(state: TrainerState): Uint8Array<ArrayBuffer> {
  const { manifest, filters, optimizerType, optimizer, epoch, batch, partial, best, plateau } = state;
  const header: z.input<typeof headerSchema> = {
    manifest,
    filters,
    optimizerType,
    step: optimizer.step,
    epoch,
    batch,
    partial,
    best,
    plateau,
  };
  const json = new TextEncoder().encode(JSON.stringify(header));
  const values = arrays(optimizer).reduce((sum, { length }) => sum + length, 0);
  const bytes = new Uint8Array(MAGIC.length + 4 + json.length + values * 4);
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode(MAGIC));
  view.setUint32(MAGIC.length, json.length, true);
  bytes.set(json, MAGIC.length + 4);
  let at = MAGIC.length + 4 + json.length;
  for (const array of arrays(optimizer)) {
    for (const value of array) {
      view.setFloat32(at, value, true);
      at += 4;
    }
  }
  return bytes;
}

/** The error is a sentence about what is wrong with the file. */
export function decodeState(bytes: Uint8Array): Result<TrainerState, string> {
  const start = MAGIC.length + 4;
  if (bytes.length < start || new TextDecoder().decode(bytes.subarray(0, MAGIC.length)) !== MAGIC) {
    return err("not a state of this trainer");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(MAGIC.length, true);
  const header = parseHeader(bytes.subarray(start, start + length));
  if (header === null) return err("the state's header is damaged");
  const { step, ...rest } = header;
  const weights = parameterCount(networkShape(rest));
  const second = rest.optimizerType === "sgd" ? 0 : weights;
  if (bytes.length !== start + length + (2 * weights + second) * 4) return err("the state is not complete");

  let at = start + length;
  const read = (values: number) => {
    const array = Float32Array.from({ length: values }, (_, i) => view.getFloat32(at + i * 4, true));
    at += values * 4;
    return array;
  };
  return ok({ ...rest, optimizer: { weights: read(weights), first: read(weights), second: read(second), step } });
}

function parseHeader(bytes: Uint8Array): z.output<typeof headerSchema> | null {
  try {
    const parsed = headerSchema.safeParse(JSON.parse(new TextDecoder().decode(bytes)));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

/** Null when a run on this data can go on from the state, else why not. */
export function whyUnfit(
  state: TrainerState,
  run: { labels: string[]; size: number; optimizerType: OptimizerConfig["type"]; weightsOnly: boolean },
): string | null {
  const { manifest, optimizerType } = state;
  if (manifest.labels.length !== run.labels.length || manifest.labels.some((label, id) => label !== run.labels[id])) {
    return `the state is of a model with the classes ${manifest.labels.slice(0, 10).join(", ")}`;
  }
  if (manifest.input.width !== run.size) {
    return `the state is of a model for images of ${manifest.input.width} pixels, not ${run.size}`;
  }
  if (!run.weightsOnly && optimizerType !== run.optimizerType) {
    return `the state is of a run with the optimizer ${optimizerType}, not ${run.optimizerType}`;
  }
  return null;
}
