import { sql } from "drizzle-orm";
import { runBatch } from "../../db/batch.ts";
import { type Caller, meSql } from "../caller.ts";
import { FRUIT_TRAITS, type FruitTrait, type Observation, type Phenotype } from "../genetics/traits.ts";
import type { StrainRow } from "../strains/record.ts";
import { joinState, type StateRow, stateColumns } from "./state.ts";

export type ModelRepository = ReturnType<typeof createModelRepository>;

/** What a fit needs, as it was at one moment. */
export type Snapshot = { revision: number; modelRevision: number | null; strains: StrainRow[]; records: Observation[] };

export type ModelFitRow = {
  version: string;
  size_bytes: number;
  strains: number;
  observations: number;
  /** JSON. */
  summary: string;
  created_at: number;
};

/** Forecasts per trait that the live calibration looks back on. */
export const CALIBRATION_WINDOW = 200;

/** Models kept beside the current one: a prediction that was just reading an older one can finish. */
const KEPT_MODELS = 10;

/** Sums over the newest forecasts of one trait; `squares` of confidence minus outcome. */
export type ForecastSums = {
  trait: FruitTrait;
  n: number;
  covered: number;
  hits: number;
  confidence: number;
  squares: number;
};

export type Overview = { state: StateRow; fit: ModelFitRow | null; scores: ForecastSums[] };

type ObservationRow = { mother_id: string; father_id: string; n: number; phenotype: string };

/** Calls with everything that a fit, and what it rests on, is stored as. */
export function createModelRepository(binding: D1Database) {
  return {
    async snapshot(): Promise<Snapshot> {
      const [state, strains, observations] = await runBatch(binding, [
        sql`select ${stateColumns} from (select 1) ${joinState}`,
        sql`select * from strains order by id`,
        sql`select mother_id, father_id, n, phenotype from observations order by id`,
      ]);
      const row = state?.results[0] as StateRow | undefined;
      return {
        revision: row?.revision ?? 0,
        modelRevision: row?.model_revision ?? null,
        strains: (strains?.results ?? []) as StrainRow[],
        records: ((observations?.results ?? []) as ObservationRow[]).map((observation) => ({
          motherId: observation.mother_id,
          fatherId: observation.father_id,
          n: observation.n,
          // Written by this API only, after validation.
          phenotype: JSON.parse(observation.phenotype) as Phenotype,
        })),
      };
    },

    /** Makes a stored fit the current one unless newer data were fitted meanwhile. Answers versions that fell out of use. */
    async publish(fit: ModelFitRow, revision: number): Promise<string[]> {
      const [, , dropped] = await runBatch(binding, [
        sql`insert into model_fits (version, size_bytes, strains, observations, summary, created_at)
            values (${fit.version}, ${fit.size_bytes}, ${fit.strains}, ${fit.observations}, ${fit.summary}, ${fit.created_at})
            on conflict (version) do update set created_at = excluded.created_at`,
        sql`insert into breeding_state (id, revision, changed_at, model_revision, model_version)
            values (1, ${revision}, ${fit.created_at}, ${revision}, ${fit.version})
            on conflict (id) do update set model_revision = excluded.model_revision, model_version = excluded.model_version
            where model_revision is null or model_revision <= excluded.model_revision`,
        sql`delete from model_fits where version not in (
              select version from model_fits order by created_at desc, version limit ${KEPT_MODELS})
            and version not in (select model_version from breeding_state where model_version is not null)
            returning version`,
      ]);
      return ((dropped?.results ?? []) as { version: string }[]).map((row) => row.version);
    },

    /** The state, its fit and the live calibration. Undefined: the caller is not valid. */
    async overview(caller: Caller): Promise<Overview | undefined> {
      const [result] = await runBatch(binding, [
        sql`with me as (${meSql(caller)})
            select ${stateColumns}, f.version, f.size_bytes, f.strains, f.observations, f.summary, f.created_at,
              (select json_group_array(json((
                  select json_array(t.value, count(*), sum(covered), sum(hit), sum(confidence),
                      sum((confidence - hit) * (confidence - hit)))
                  from (select covered, hit, confidence from forecasts
                        where trait = t.value order by observation_id desc limit ${CALIBRATION_WINDOW}))))
                from json_each(${JSON.stringify(FRUIT_TRAITS)}) t) as calibration
            from me ${joinState} left join model_fits f on f.version = st.model_version`,
      ]);
      const row = result?.results[0] as (StateRow & Partial<ModelFitRow> & { calibration: string }) | undefined;
      if (row === undefined) return undefined;
      const { version, size_bytes, strains, observations, summary, created_at } = row;
      const stored = [version, size_bytes, strains, observations, summary, created_at].every((value) => value != null);
      return {
        state: row,
        fit: stored ? ({ version, size_bytes, strains, observations, summary, created_at } as ModelFitRow) : null,
        scores: (JSON.parse(row.calibration) as [FruitTrait, number, ...(number | null)[]][]).map(
          ([trait, n, covered, hits, confidence, squares]) => ({
            trait,
            n,
            covered: covered ?? 0,
            hits: hits ?? 0,
            confidence: confidence ?? 0,
            squares: squares ?? 0,
          }),
        ),
      };
    },
  };
}
