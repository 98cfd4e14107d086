import { unauthorized } from "../../auth/bearer.ts";
import { sha256Hex } from "../../shared/ids.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { isoMillis } from "../../shared/time.ts";
import { keys } from "../../storage/keys.ts";
import type { Caller } from "../caller.ts";
import { type BreedingModel, fitBreedingModel } from "../genetics/breeding-model.ts";
import type { Calibration } from "../genetics/calibration.ts";
import { decodeModel, encodeModel } from "../genetics/codec.ts";
import { type ModelSummary, summariseModel } from "../genetics/model-summary.ts";
import { METHOD_VERSION, modelManifest } from "../genetics/provenance.ts";
import type { FruitTrait } from "../genetics/traits.ts";
import { toGenetic } from "../strains/record.ts";
import { isUsable } from "./freshness.ts";
import { CALIBRATION_WINDOW, type ForecastSums, type ModelFitRow, type ModelRepository } from "./repository.ts";
import type { StateRow } from "./state.ts";

export type ModelService = ReturnType<typeof createModelService>;

/** A model ready to predict with. */
export type LoadedModel = { version: string; model: BreedingModel };

/** Hex digits of the hash that names a model. */
const VERSION_LENGTH = 32;

const calibrationOf = ({ n, covered, hits, confidence, squares }: Omit<ForecastSums, "trait">): Calibration => ({
  n,
  coverage80: n === 0 ? null : covered / n,
  meanConfidence: n === 0 ? null : confidence / n,
  hitRate: n === 0 ? null : hits / n,
  brier: n === 0 ? null : squares / n,
});

export function createModelService(deps: { models: ModelRepository; bucket: R2Bucket; now: () => number }) {
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

    /** What the current model rests on and how its forecasts fared. @throws UNAUTHORIZED */
    async describe(caller: Caller) {
      const overview = await models.overview(caller);
      if (overview === undefined) throw unauthorized();
      const { state, scores } = overview;
      const row = isUsable(state, now()) && overview.fit !== null ? overview.fit : (await fitStored()).row;
      const pooled = scores.reduce(
        (sum, score) => ({
          n: sum.n + score.n,
          covered: sum.covered + score.covered,
          hits: sum.hits + score.hits,
          confidence: sum.confidence + score.confidence,
          squares: sum.squares + score.squares,
        }),
        { n: 0, covered: 0, hits: 0, confidence: 0, squares: 0 },
      );
      const summary = JSON.parse(row.summary) as ModelSummary;
      return {
        version: row.version,
        method: METHOD_VERSION,
        fittedAt: isoMillis(row.created_at),
        upToDate: state.model_revision === state.revision || row !== overview.fit,
        strains: row.strains,
        observations: row.observations,
        sizeBytes: row.size_bytes,
        traits: summary,
        calibration: {
          window: CALIBRATION_WINDOW,
          pooled: calibrationOf(pooled),
          traits: Object.fromEntries(scores.map(({ trait, ...sums }) => [trait, calibrationOf(sums)])) as Record<
            FruitTrait,
            Calibration
          >,
        },
      };
    },
  };
}
