import { sql } from "drizzle-orm";
import { runBatch } from "../../db/batch.ts";
import { type Caller, meSql } from "../caller.ts";
import { type KnownPicture, knownPicturesSql, markStored, readKnownPictures } from "../images/repository.ts";
import { joinState, type StateRow, stateColumns } from "../model/state.ts";
import type { StrainRow } from "../strains/record.ts";
import type { Pair } from "./combination.ts";
import type { Prediction } from "./schemas.ts";

export type PredictionRepository = ReturnType<typeof createPredictionRepository>;

/** What a prediction starts from. A parent that does not exist is missing in `parents`. */
export type CrossContext = { state: StateRow; parents: Map<string, StrainRow>; pictures: KnownPicture[] };

/** Written by this file only, as the API answers it; the shape grows by optional fields. */
const readBody = (body: string): Prediction => JSON.parse(body) as Prediction;

export function createPredictionRepository(binding: D1Database) {
  const first = <T>(results: D1Result<Record<string, unknown>>[]): T[] => (results[0]?.results ?? []) as T[];

  return {
    /** Both parents, the state of the model, the pictures there are. Undefined: the caller is not valid. */
    async context(caller: Caller, ids: readonly string[], stem: string): Promise<CrossContext | undefined> {
      const rows = first<StateRow & { pictures: string } & (StrainRow | { id: null })>(
        await runBatch(binding, [
          sql`with me as (${meSql(caller)})
              select ${stateColumns}, ${knownPicturesSql(stem)} as pictures, s.* from me ${joinState}
              left join strains s on s.id in (select value from json_each(${JSON.stringify(ids)}))`,
        ]),
      );
      const [row] = rows;
      if (row === undefined) return undefined;
      const parents = rows.flatMap((one) => (one.id === null ? [] : [one as StrainRow]));
      return {
        state: row,
        parents: new Map(parents.map((parent) => [parent.id, parent])),
        pictures: readKnownPictures(row.pictures),
      };
    },

    /** Stores a prediction, its cross, the count of all, and which of its pictures are new, in one batch. */
    async save(
      prediction: Prediction,
      pair: Pair,
      pictures: { stem: string; fresh: readonly string[] } | null,
      now: number,
    ): Promise<void> {
      const { id, modelVersion } = prediction;
      await runBatch(binding, [
        sql`insert into predictions (id, mother_id, father_id, model_version, body)
            values (${id}, ${pair.femaleId}, ${pair.maleId}, ${modelVersion}, ${JSON.stringify(prediction)})`,
        sql`insert into combinations (mother_id, father_id, prediction_id) values (${pair.femaleId}, ${pair.maleId}, ${id})
            on conflict (mother_id, father_id) do update set prediction_id = max(prediction_id, excluded.prediction_id)`,
        sql`insert into breeding_state (id, revision, changed_at, prediction_count) values (1, 0, ${now}, 1)
            on conflict (id) do update set prediction_count = prediction_count + 1`,
        ...(pictures !== null && pictures.fresh.length > 0 ? [markStored(pictures.stem, pictures.fresh, now)] : []),
      ]);
    },

    /** One page of the history. Undefined: the caller is not valid. */
    async page(
      caller: Caller,
      query: { page: number; limit: number; sort: "asc" | "desc" },
    ): Promise<{ predictions: Prediction[]; total: number } | undefined> {
      const order = sql.raw(query.sort);
      const rows = first<{ body: string | null; total: number | null }>(
        await runBatch(binding, [
          sql`with me as (${meSql(caller)})
              select p.body, st.prediction_count as total from me ${joinState}
              left join predictions p on p.id in (select id from predictions order by id ${order}
                limit ${query.limit} offset ${(query.page - 1) * query.limit})
              order by p.id ${order}`,
        ]),
      );
      if (rows.length === 0) return undefined;
      return {
        predictions: rows.flatMap(({ body }) => (body === null ? [] : [readBody(body)])),
        total: rows[0]?.total ?? 0,
      };
    },

    /** Undefined: the caller is not valid; null: no such prediction. */
    async byId(caller: Caller, id: string): Promise<Prediction | null | undefined> {
      const [row] = first<{ body: string | null }>(
        await runBatch(binding, [
          sql`with me as (${meSql(caller)}) select p.body from me left join predictions p on p.id = ${id}`,
        ]),
      );
      return row === undefined ? undefined : row.body === null ? null : readBody(row.body);
    },

    /** The newest prediction of each of these crosses that has one. Undefined: the caller is not valid. */
    async newestOf(caller: Caller, pairs: readonly Pair[]): Promise<Prediction[] | undefined> {
      const json = JSON.stringify(pairs.map(({ femaleId, maleId }) => [femaleId, maleId]));
      const rows = first<{ body: string | null }>(
        await runBatch(binding, [
          sql`with me as (${meSql(caller)})
              select p.body from me
              left join json_each(${json}) r
              left join combinations c on c.mother_id = r.value->>0 and c.father_id = r.value->>1
              left join predictions p on p.id = c.prediction_id`,
        ]),
      );
      return rows.length === 0 ? undefined : rows.flatMap(({ body }) => (body === null ? [] : [readBody(body)]));
    },

    /** Crosses that were ever predicted, by id. Undefined: the caller is not valid. */
    async combinations(
      caller: Caller,
      query: { page: number; limit: number },
    ): Promise<{ pairs: Pair[]; total: number } | undefined> {
      const rows = first<{ mother_id: string | null; father_id: string | null; total: number }>(
        await runBatch(binding, [
          sql`with me as (${meSql(caller)})
              select c.mother_id, c.father_id, (select count(*) from combinations) as total from me
              left join (select mother_id, father_id from combinations order by mother_id, father_id
                limit ${query.limit} offset ${(query.page - 1) * query.limit}) c on true
              order by c.mother_id, c.father_id`,
        ]),
      );
      if (rows.length === 0) return undefined;
      const pairs = rows.flatMap(({ mother_id, father_id }) =>
        mother_id === null || father_id === null ? [] : [{ femaleId: mother_id, maleId: father_id }],
      );
      return { pairs, total: rows[0]?.total ?? 0 };
    },
  };
}
