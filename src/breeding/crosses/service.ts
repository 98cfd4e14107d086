import { unauthorized } from "../../auth/bearer.ts";
import type { Caller } from "../caller.ts";
import { crossEffects, gcaOf } from "../genetics/combining-ability.ts";
import { matingOf, type RankedCross, rankCrosses } from "../genetics/ranking.ts";
import { suggestCrosses } from "../genetics/suggestions.ts";
import { FRUIT_TRAITS, type FruitTrait, MODEL_TRAITS } from "../genetics/traits.ts";
import { pageOf } from "../http.ts";
import { refuse, strainNotFound } from "../messages.ts";
import type { LoadedModel, ModelStore } from "../model/store.ts";
import { combinationId, roleProblem } from "../predictions/combination.ts";
import { type StrainRow, toGenetic } from "../strains/record.ts";
import { writeTable } from "../table.ts";
import { type CombiningQuery, MAX_CSV_ROWS, type RankingQuery, type SuggestionQuery, thresholdsOf } from "./query.ts";
import type { CrossRepository } from "./repository.ts";

export type CrossService = ReturnType<typeof createCrossService>;

const INTERVAL_LEVEL = 0.8;

const rounded = (value: number, digits: number): number => {
  const scale = 10 ** digits;
  return Math.round(value * scale) / scale;
};
const round2 = (value: number) => rounded(value, 2);
const round4 = (value: number) => rounded(value, 4);
const round4OrNull = (value: number | null) => (value === null ? null : round4(value));

const mapTraits = <T>(of: (trait: FruitTrait) => T): Record<FruitTrait, T> =>
  Object.fromEntries(FRUIT_TRAITS.map((trait) => [trait, of(trait)])) as Record<FruitTrait, T>;

const parentsOf = ({ motherId, fatherId }: { motherId: string; fatherId: string }) => ({
  combinationId: combinationId({ femaleId: motherId, maleId: fatherId }),
  femaleStrainId: motherId,
  maleStrainId: fatherId,
});

const toRanked = (row: RankedCross) => ({
  rank: row.rank,
  ...parentsOf(row),
  score: round4(row.score),
  index: round4(row.index),
  ...(row.probability === undefined ? {} : { probability: round4(row.probability) }),
  sizeClass: row.sizeClass,
  observed: row.recorded,
  traits: mapTraits((trait) => {
    const { value, lower = value, upper = value, confidence = 0 } = row.traits[trait];
    return {
      value: round2(value),
      interval: { lower: round2(lower), upper: round2(upper), level: INTERVAL_LEVEL },
      confidence: round2(confidence),
    };
  }),
});

export function createCrossService(deps: { crosses: CrossRepository; models: ModelStore }) {
  const { crosses, models } = deps;

  async function panel(caller: Caller): Promise<LoadedModel & { strains: StrainRow[] }> {
    const found = await crosses.panel(caller);
    if (found === undefined) throw unauthorized();
    return { strains: found.strains, ...(await models.load(found.state)) };
  }

  /** A request for the ranking in the terms of the genetics. */
  function rankingOf(query: RankingQuery, strains: readonly StrainRow[]) {
    const ofType = query.type === undefined ? null : strains.filter((s) => s.type === query.type).map((s) => s.id);
    const wanted = query.strainId === undefined ? null : [query.strainId];
    const parentIds = wanted ?? ofType;
    return {
      weights: query.weights,
      thresholds: thresholdsOf(query),
      sizeClass: query.sizeClass,
      unrecordedOnly: query.unrecordedOnly,
      rankBy: query.rankBy,
      ...(parentIds === null ? {} : { parentIds }),
    };
  }

  /** With both filters a cross must have the named strain as one parent and the type among its parents. */
  function panelFor(query: RankingQuery, strains: readonly StrainRow[]): readonly StrainRow[] {
    if (query.strainId === undefined) return strains;
    const named = strains.find((s) => s.id === query.strainId);
    if (named === undefined) throw strainNotFound();
    if (query.type === undefined || named.type === query.type) return strains;
    return strains.filter((s) => s.type === query.type || s.id === query.strainId);
  }

  return {
    /** One page of all possible crosses by promise. @throws STRAIN_NOT_FOUND for an unknown `strainId` */
    async ranking(caller: Caller, query: RankingQuery) {
      const { strains, model, version } = await panel(caller);
      const candidates = panelFor(query, strains);
      const { rows, total } = rankCrosses(model, candidates.map(toGenetic), {
        ...rankingOf(query, strains),
        offset: (query.page - 1) * query.limit,
        limit: query.limit,
      });
      return { data: rows.map(toRanked), ...pageOf(query, total), modelVersion: version };
    },

    /** All of them as a table, means only. */
    async rankingCsv(caller: Caller, query: RankingQuery): Promise<string> {
      const { strains, model } = await panel(caller);
      const candidates = panelFor(query, strains);
      const { rows } = rankCrosses(model, candidates.map(toGenetic), {
        ...rankingOf(query, strains),
        limit: MAX_CSV_ROWS,
        details: false,
      });
      const header = [
        "rank",
        "femaleStrainId",
        "maleStrainId",
        "score",
        "index",
        ...FRUIT_TRAITS,
        "sizeClass",
        "observed",
      ];
      return writeTable([
        header,
        ...rows.map((row) => [
          row.rank,
          row.motherId,
          row.fatherId,
          round4(row.score),
          round4(row.index),
          ...FRUIT_TRAITS.map((trait) => round2(row.traits[trait].value)),
          row.sizeClass,
          String(row.recorded),
        ]),
      ]);
    },

    /** The next crosses to make: those whose trial would teach most about the best candidates. */
    async suggestions(caller: Caller, query: SuggestionQuery) {
      const { strains, model, version } = await panel(caller);
      const suggested = suggestCrosses(model, strains.map(toGenetic), {
        count: query.count,
        goals: query.goals,
        replicates: query.replicates,
        weights: query.weights,
        thresholds: thresholdsOf(query),
        sizeClass: query.sizeClass,
      });
      return {
        suggestions: suggested.map((one) => ({ ...parentsOf(one), gain: round4(one.gain), share: round4(one.share) })),
        modelVersion: version,
      };
    },

    /**
     * GCA of every strain, and heterosis of the measured crosses, or of one named cross, measured or not.
     * @throws STRAIN_NOT_FOUND · VALIDATION_ERROR for parents in the wrong roles
     */
    async combiningAbility(caller: Caller, query: CombiningQuery) {
      const { strains, model, version } = await panel(caller);
      const byId = new Map(strains.map((strain) => [strain.id, strain]));
      const known = (id: string): StrainRow => {
        const strain = byId.get(id);
        if (strain === undefined) throw strainNotFound();
        return strain;
      };
      if (query.strainId !== undefined) known(query.strainId);

      const named =
        query.femaleStrainId === undefined || query.maleStrainId === undefined
          ? null
          : { female: known(query.femaleStrainId), male: known(query.maleStrainId) };
      const problem = named === null ? null : roleProblem(named.female, named.male);
      if (problem !== null) throw refuse(problem);
      const pairs =
        named === null
          ? measuredCrosses(model, byId, query.strainId)
          : [{ motherId: named.female.id, fatherId: named.male.id }];
      const page = pairs.slice((query.page - 1) * query.limit, query.page * query.limit);

      const estimates = gcaOf(
        model,
        strains.map((strain) => strain.id),
      );
      const gca = (trait: keyof typeof estimates, id: string) => {
        const found = estimates[trait].get(id) ?? { gca: 0, sd: 0, factor: null, crosses: 0 };
        return { ...found, gca: round4(found.gca), sd: round4(found.sd), factor: round4OrNull(found.factor) };
      };
      return {
        data: {
          strains: strains
            .filter((strain) => model.fits.weight.index.has(strain.id))
            .map(({ id, name }) => ({
              strainId: id,
              name,
              gca: {
                weight: gca("weight", id),
                ratio: gca("ratio", id),
                sugarContent: gca("sugarContent", id),
                firmness: gca("firmness", id),
                skinThickness: gca("skinThickness", id),
              },
            })),
          crosses: page.map((pair) => {
            const effects = crossEffects(model, toGenetic(known(pair.motherId)), toGenetic(known(pair.fatherId)));
            const effect = (trait: keyof typeof effects) => ({
              predicted: round2(effects[trait].predicted),
              observed: effects[trait].observed === null ? null : round2(effects[trait].observed),
              sca: round4OrNull(effects[trait].sca),
              midParentHeterosis:
                effects[trait].midParentHeterosis === null ? null : round2(effects[trait].midParentHeterosis),
              betterParentHeterosis:
                effects[trait].betterParentHeterosis === null ? null : round2(effects[trait].betterParentHeterosis),
            });
            return {
              ...parentsOf(pair),
              effects: {
                weight: effect("weight"),
                ratio: effect("ratio"),
                sugarContent: effect("sugarContent"),
                firmness: effect("firmness"),
                skinThickness: effect("skinThickness"),
              },
            };
          }),
          modelVersion: version,
        },
        ...pageOf(query, pairs.length),
      };
    },
  };
}

/** Crosses with a record in any trait, reciprocals merged, by the order of their strains in the model. */
function measuredCrosses(
  model: LoadedModel["model"],
  strains: ReadonlyMap<string, StrainRow>,
  strainId: string | undefined,
): { motherId: string; fatherId: string }[] {
  const { ids } = model.fits.weight;
  const recorded = new Set(MODEL_TRAITS.flatMap((trait) => [...model.fits[trait].records.keys()]));
  return [...recorded]
    .sort((a, b) => a - b)
    .flatMap((key) => {
      const a = strains.get(ids[Math.floor(key / ids.length)] ?? "");
      const b = strains.get(ids[key % ids.length] ?? "");
      if (a === undefined || b === undefined) return [];
      if (strainId !== undefined && a.id !== strainId && b.id !== strainId) return [];
      return [matingOf(a, b) ?? { motherId: a.id, fatherId: b.id }];
    });
}
