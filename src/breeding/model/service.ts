import { unauthorized } from "../../auth/bearer.ts";
import { isoMillis } from "../../shared/time.ts";
import type { Caller } from "../caller.ts";
import type { Calibration } from "../genetics/calibration.ts";
import type { ModelSummary } from "../genetics/model-summary.ts";
import { METHOD_VERSION } from "../genetics/provenance.ts";
import type { FruitTrait } from "../genetics/traits.ts";
import { isUsable } from "./freshness.ts";
import { CALIBRATION_WINDOW, type ForecastSums, type ModelRepository } from "./repository.ts";
import type { ModelStore } from "./store.ts";

type Sums = Omit<ForecastSums, "trait">;

const sharesOf = ({ n, covered, hits, confidence, squares }: Sums): Calibration => ({
  n,
  coverage80: n === 0 ? null : covered / n,
  meanConfidence: n === 0 ? null : confidence / n,
  hitRate: n === 0 ? null : hits / n,
  brier: n === 0 ? null : squares / n,
});

const add = (a: Sums, b: Sums): Sums => ({
  n: a.n + b.n,
  covered: a.covered + b.covered,
  hits: a.hits + b.hits,
  confidence: a.confidence + b.confidence,
  squares: a.squares + b.squares,
});

export function createModelService(deps: { models: ModelRepository; store: ModelStore; now: () => number }) {
  const { models, store, now } = deps;
  return {
    /** What the current model rests on and how its forecasts fared. @throws UNAUTHORIZED in phase 2 */
    async describe(caller: Caller) {
      const overview = await models.overview(caller);
      if (overview === undefined) throw unauthorized();
      const { state, fit, scores } = overview;
      const isStored = fit !== null && isUsable(state, now());
      const row = isStored ? fit : (await store.fitStored()).row;
      return {
        version: row.version,
        method: METHOD_VERSION,
        fittedAt: isoMillis(row.created_at),
        upToDate: !isStored || state.model_revision === state.revision,
        strains: row.strains,
        observations: row.observations,
        sizeBytes: row.size_bytes,
        // Written by the store, under the same method version as it is read.
        traits: JSON.parse(row.summary) as ModelSummary,
        calibration: {
          window: CALIBRATION_WINDOW,
          pooled: sharesOf(scores.reduce<Sums>(add, { n: 0, covered: 0, hits: 0, confidence: 0, squares: 0 })),
          traits: Object.fromEntries(scores.map((score) => [score.trait, sharesOf(score)])) as Record<
            FruitTrait,
            Calibration
          >,
        },
      };
    },
  };
}
