import { sha256Hex } from "../../shared/ids.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { keys } from "../../storage/keys.ts";
import { type BreedingModel, fitBreedingModel } from "../genetics/breeding-model.ts";
import { decodeModel, encodeModel } from "../genetics/codec.ts";
import { summariseModel } from "../genetics/model-summary.ts";
import { modelManifest } from "../genetics/provenance.ts";
import { toGenetic } from "../strains/record.ts";
import { isUsable } from "./freshness.ts";
import type { ModelFitRow, ModelRepository } from "./repository.ts";
import type { StateRow } from "./state.ts";

export type ModelStore = ReturnType<typeof createModelStore>;

/** A model ready to predict with. */
export type LoadedModel = { version: string; model: BreedingModel };

/** Hex digits of the hash that names a model. */
const VERSION_LENGTH = 32;

/** Fitted on write, read on prediction: a model is an immutable object under its version; a row says which one is current. */
export function createModelStore(deps: { models: ModelRepository; bucket: R2Bucket; now: () => number }) {
  const { models, bucket, now } = deps;
  /** The model that this isolate used last: decoding a large one takes milliseconds, reading it more. */
  let cached: LoadedModel | null = null;

  /** Fits everything that is stored and makes the result the current model. */
  async function fitStored(): Promise<LoadedModel & { row: ModelFitRow }> {
    const snapshot = await models.snapshot();
    const input = { strains: snapshot.strains.map(toGenetic), observations: snapshot.records };
    const version = (await sha256Hex(modelManifest(input))).slice(0, VERSION_LENGTH);
    const model = fitBreedingModel(input);
    const bytes = encodeModel(model);
    const row: ModelFitRow = {
      version,
      size_bytes: bytes.byteLength,
      strains: input.strains.length,
      observations: input.observations.length,
      summary: JSON.stringify(summariseModel(model)),
      created_at: now(),
    };
    // The object first: a version that can be found can be read.
    await bucket.put(keys.breedingModel(version), bytes);
    const dropped = await models.publish(row, snapshot.revision);
    if (dropped.length > 0) await bucket.delete(dropped.map(keys.breedingModel));
    cached = { version, model };
    return { version, model, row };
  }

  async function read(version: string): Promise<LoadedModel | null> {
    if (cached?.version === version) return cached;
    const object = await bucket.get(keys.breedingModel(version));
    if (object === null) return null;
    const decoded = decodeModel(new Uint8Array(await object.arrayBuffer()));
    if (!decoded.ok) {
      logger.warn("model_unreadable", { version, error: decoded.error.message });
      return null;
    }
    cached = { version, model: decoded.value };
    return cached;
  }

  return {
    fitStored,

    /** The model to predict with, from this isolate's memory or the store; fitted now where there is none to rely on. */
    async load(state: StateRow): Promise<LoadedModel> {
      const stored = isUsable(state, now()) ? await read(state.model_version) : null;
      return stored ?? (await fitStored());
    },

    /**
     * Called after every change of strains or observations, before it is answered. The change itself is stored by then, so a
     * failure here is not the caller's: the next reader fits.
     */
    async refit(): Promise<void> {
      try {
        await fitStored();
      } catch (thrown) {
        logger.error("model_fit_failed", { error: errorText(thrown) });
      }
    },
  };
}
