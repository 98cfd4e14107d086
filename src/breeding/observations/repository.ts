import { type SQL, sql } from "drizzle-orm";
import type { Principal } from "../../auth/principal.ts";
import { runBatch } from "../../db/batch.ts";
import { type Caller, mayChange, meSql } from "../caller.ts";
import type { Forecast } from "../genetics/calibration.ts";
import type { FruitTrait, Phenotype } from "../genetics/traits.ts";
import { BREEDING_LIMITS } from "../limits.ts";
import { bumpRevision, joinState, type StateRow, stateColumns } from "../model/state.ts";
import type { StrainRow } from "../strains/record.ts";
import type { ObservationRecord } from "./csv.ts";

export type ObservationRepository = ReturnType<typeof createObservationRepository>;

/** A measured cross with the forecasts that were made before it. */
export type StoredObservation = ObservationRecord & {
  id: string;
  createdAt: number;
  forecasts: (Forecast & { modelVersion: string })[];
};

type ObservationRow = {
  id: string;
  mother_id: string;
  father_id: string;
  n: number;
  season: string | null;
  environment: string | null;
  phenotype: string;
  created_at: number;
  forecasts: string;
  total: number;
};

type ForecastJson = [FruitTrait, number, number, number, number, number, number, number, string];

/** JSON texts below the 2 MB that D1 takes as one value. */
const MAX_JSON_LENGTH = 900_000;

/** Rows in as few JSON arrays as fit. Characters are counted; Hangul has three bytes each. */
function chunks(rows: readonly unknown[][]): string[] {
  const out: string[] = [];
  let texts: string[] = [];
  let length = 0;
  for (const row of rows) {
    const text = JSON.stringify(row);
    if (length + text.length > MAX_JSON_LENGTH / 2) {
      out.push(`[${texts.join(",")}]`);
      texts = [];
      length = 0;
    }
    texts.push(text);
    length += text.length + 1;
  }
  if (texts.length > 0) out.push(`[${texts.join(",")}]`);
  return out;
}

const toForecast = (json: ForecastJson): StoredObservation["forecasts"][number] => {
  const [trait, predicted, lower, upper, confidence, observed, hit, covered, modelVersion] = json;
  return {
    trait,
    predicted,
    lower,
    upper,
    confidence,
    observed,
    hit: hit === 1,
    covered: covered === 1,
    modelVersion,
  };
};

const forecastsSql = sql`(select json_group_array(json_array(trait, predicted, lower, upper, confidence, observed, hit, covered,
  model_version)) from forecasts f where f.observation_id = o.id)`;

export function createObservationRepository(binding: D1Database) {
  return {
    /** The named strains (all of them for null) and the state of the model. Undefined: the caller is not valid. */
    async context(
      principal: Principal,
      ids: readonly string[] | null,
    ): Promise<{ state: StateRow; strains: Map<string, StrainRow> } | undefined> {
      const wanted = ids === null ? sql`true` : sql`s.id in (select value from json_each(${JSON.stringify(ids)}))`;
      const [result] = await runBatch(binding, [
        sql`with me as (${meSql(principal)})
            select ${stateColumns}, s.* from me ${joinState} left join strains s on ${wanted}`,
      ]);
      const rows = (result?.results ?? []) as (StateRow & (StrainRow | { id: null }))[];
      const [row] = rows;
      if (row === undefined) return undefined;
      const strains = rows.flatMap((one) => (one.id === null ? [] : [one as StrainRow]));
      return { state: row, strains: new Map(strains.map((strain) => [strain.id, strain])) };
    },

    /**
     * Stores measured crosses with their forecasts and marks the data as changed, in one batch. A file that is stored already,
     * or data beyond the limits, change nothing.
     */
    async save(
      principal: Principal,
      observations: readonly StoredObservation[],
      importId: string | null,
      now: number,
    ): Promise<{ caller: boolean; repeated: boolean; full: boolean; stored: number }> {
      const rows = chunks(
        observations.map((o) => [
          o.id,
          o.femaleId,
          o.maleId,
          o.n,
          o.season,
          o.environment,
          JSON.stringify(o.phenotype),
        ]),
      );
      const forecastRows = chunks(
        observations.flatMap((o) =>
          o.forecasts.map((f) => [
            f.trait,
            o.id,
            f.predicted,
            f.lower,
            f.upper,
            f.confidence,
            f.observed,
            f.hit ? 1 : 0,
            f.covered ? 1 : 0,
            f.modelVersion,
          ]),
        ),
      );
      const me = meSql(principal);
      const parents = JSON.stringify([...new Set(observations.flatMap((o) => [o.femaleId, o.maleId]))]);
      const marker = observations[0]?.id ?? "";
      // The first row decides for all: the guards are in its statement, and the others follow if it is there.
      const isFirst = (at: number): SQL =>
        at > 0
          ? sql`exists (select 1 from observations where id = ${marker})`
          : sql`not exists (select 1 from observations where import_id = ${importId})
              and (select count(*) from observations) + ${observations.length} <= ${BREEDING_LIMITS.observations}
              and (select count(*) from (select mother_id from observations union select father_id from observations
                union select value from json_each(${parents}))) <= ${BREEDING_LIMITS.crossedStrains}`;
      const results = await runBatch(binding, [
        sql`with me as (${me})
            select exists (select 1 from observations where import_id = ${importId}) as repeated from me`,
        ...rows.map(
          (json, at) => sql`
            with me as (${me})
            insert into observations (id, mother_id, father_id, n, season, environment, phenotype, created_by, created_at, import_id)
            select value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, me.id, ${now}, ${importId}
            from json_each(${json}) join me where ${isFirst(at)} returning id`,
        ),
        bumpRevision(now),
        ...forecastRows.map(
          (json) => sql`
            insert into forecasts (trait, observation_id, predicted, lower, upper, confidence, observed, hit, covered, model_version)
            select value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9
            from json_each(${json}) where exists (select 1 from observations where id = ${marker})`,
        ),
      ]);
      const [found] = (results[0]?.results ?? []) as { repeated: number }[];
      const stored = results.slice(1, 1 + rows.length).reduce((sum, result) => sum + result.results.length, 0);
      const repeated = found?.repeated === 1;
      return { caller: found !== undefined, repeated, full: stored === 0 && !repeated, stored };
    },

    /** Whether a file was stored already. Undefined: the caller is not valid. */
    async isImported(principal: Principal, importId: string): Promise<boolean | undefined> {
      const [result] = await runBatch(binding, [
        sql`with me as (${meSql(principal)})
            select exists (select 1 from observations where import_id = ${importId}) as repeated from me`,
      ]);
      const [row] = (result?.results ?? []) as { repeated: number }[];
      return row === undefined ? undefined : row.repeated === 1;
    },

    /** One page, in the order of their making. Undefined: the caller is not valid. */
    async page(
      caller: Caller,
      query: { page: number; limit: number; sort: "asc" | "desc"; strainId?: string },
    ): Promise<{ observations: StoredObservation[]; total: number } | undefined> {
      const order = sql.raw(query.sort);
      const matching =
        query.strainId === undefined
          ? sql`true`
          : sql`(mother_id = ${query.strainId} or father_id = ${query.strainId})`;
      const [result] = await runBatch(binding, [
        sql`with me as (${meSql(caller)})
            select o.*, ${forecastsSql} as forecasts, (select count(*) from observations where ${matching}) as total
            from me left join (select id, mother_id, father_id, n, season, environment, phenotype, created_at
              from observations where ${matching} order by id ${order}
              limit ${query.limit} offset ${(query.page - 1) * query.limit}) o on true
            order by o.id ${order}`,
      ]);
      const rows = (result?.results ?? []) as (ObservationRow | { id: null; total: number })[];
      if (rows.length === 0) return undefined;
      const observations = rows.flatMap((row): StoredObservation[] =>
        row.id === null
          ? []
          : [
              {
                id: row.id,
                femaleId: row.mother_id,
                maleId: row.father_id,
                n: row.n,
                season: row.season,
                environment: row.environment,
                phenotype: JSON.parse(row.phenotype) as Phenotype,
                createdAt: row.created_at,
                forecasts: (JSON.parse(row.forecasts) as ForecastJson[]).map(toForecast),
              },
            ],
      );
      return { observations, total: rows[0]?.total ?? 0 };
    },

    /** Removes a record and its forecasts, which would be scored against a measurement that was withdrawn. */
    async remove(
      principal: Principal,
      id: string,
      now: number,
    ): Promise<{ caller: boolean; known: boolean; removed: boolean }> {
      const me = meSql(principal);
      const [before, removed] = await runBatch(binding, [
        sql`with me as (${me}) select o.id from me left join observations o on o.id = ${id}`,
        sql`with me as (${me})
            delete from observations where id = ${id}
              and exists (select 1 from me where ${mayChange(sql`observations.created_by`)}) returning id`,
        bumpRevision(now),
        sql`delete from forecasts where observation_id = ${id} and not exists (select 1 from observations where id = ${id})`,
      ]);
      const [found] = (before?.results ?? []) as { id: string | null }[];
      return {
        caller: found !== undefined,
        known: found !== undefined && found.id !== null,
        removed: (removed?.results.length ?? 0) > 0,
      };
    },
  };
}
