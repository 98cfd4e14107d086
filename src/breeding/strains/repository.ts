import { type SQL, sql } from "drizzle-orm";
import type { Principal } from "../../auth/principal.ts";
import { runBatch } from "../../db/batch.ts";
import { type Caller, mayChange, meSql } from "../caller.ts";
import type { GeneticStrain } from "../genetics/traits.ts";
import { BREEDING_LIMITS } from "../limits.ts";
import { bumpRevision } from "../model/state.ts";
import type { StrainRecord } from "./csv.ts";
import { foldText, INSERT_COLUMNS, type StrainRow, searchKeyOf, TRAIT_COLUMNS, toJsonRow } from "./record.ts";

export type StrainRepository = ReturnType<typeof createStrainRepository>;

export type StrainFilter = {
  type?: GeneticStrain["type"];
  usableAs?: "male" | "female";
  search?: string;
};

/** What a write found: no caller, no strain, not allowed (`row` null), or done. */
export type StrainWrite = { caller: boolean; known: boolean; records: number; row: StrainRow | null };

const insertColumns = sql.raw(INSERT_COLUMNS.join(", "));
const jsonColumns = sql.raw(INSERT_COLUMNS.map((_, at) => `value->>${at}`).join(", "));
const updateColumns = sql.raw(
  INSERT_COLUMNS.filter((name) => name !== "id")
    .map((name) => `${name} = excluded.${name}`)
    .join(", "),
);

/** New and changed strains from positional JSON rows; `from` supplies `me` and limits who may change what. */
export function upsertStrains(input: {
  /** The JSON text of an array of rows. */
  rows: string;
  source: string;
  isSample: boolean;
  now: number;
  me: SQL;
  /** What happens to a strain that exists. */
  onKnown: "keep" | "update";
}): SQL {
  const { rows, source, isSample, now } = input;
  const conflict =
    input.onKnown === "keep"
      ? sql`do nothing`
      : sql`do update set ${updateColumns}, source = excluded.source, is_sample = excluded.is_sample,
              updated_at = excluded.updated_at
            where strains.created_by is null or strains.created_by = excluded.created_by
              or exists (select 1 from me where is_admin = 1)`;
  return sql`
    with me as (${input.me}), r as materialized (select value from json_each(${rows}))
    insert into strains (${insertColumns}, source, is_sample, created_by, created_at, updated_at)
    select ${jsonColumns}, ${source}, ${isSample ? 1 : 0}, nullif(me.id, 0), ${now}, ${now}
    from r join me
    where (select count(*) from r) + (select count(*) from strains where id not in (select value->>0 from r))
      <= ${BREEDING_LIMITS.strains}
    on conflict (id) ${conflict}
    returning id, created_at`;
}

export function createStrainRepository(binding: D1Database) {
  const rowsOf = <T>(result: D1Result<Record<string, unknown>> | undefined): T[] => (result?.results ?? []) as T[];

  const change = async (principal: Principal, id: string, now: number, statement: SQL): Promise<StrainWrite> => {
    const [before, changed] = await runBatch(binding, [
      sql`with me as (${meSql(principal)})
          select s.id, (select count(*) from observations where mother_id = ${id} or father_id = ${id}) as records
          from me left join strains s on s.id = ${id}`,
      statement,
      bumpRevision(now),
    ]);
    const [found] = rowsOf<{ id: string | null; records: number }>(before);
    return {
      caller: found !== undefined,
      known: found !== undefined && found.id !== null,
      records: found?.records ?? 0,
      row: rowsOf<StrainRow>(changed)[0] ?? null,
    };
  };

  return {
    /** Matching strains by id. Undefined: the caller is not valid. */
    async list(caller: Caller, filter: StrainFilter): Promise<StrainRow[] | undefined> {
      const wanted = [
        sql`true`,
        ...(filter.type === undefined ? [] : [sql`s.type = ${filter.type}`]),
        ...(filter.usableAs === undefined ? [] : [sql`s.type in (${filter.usableAs}, 'both')`]),
        // No LIKE: `%` and `_` are text, and patterns are limited to 50 bytes.
        ...(filter.search === undefined ? [] : [sql`instr(s.search_key, ${foldText(filter.search)}) > 0`]),
      ];
      const [result] = await runBatch(binding, [
        sql`with me as (${meSql(caller)})
            select s.* from me left join strains s on ${sql.join(wanted, sql` and `)} order by s.id`,
      ]);
      const rows = rowsOf<StrainRow | { id: null }>(result);
      return rows.length === 0 ? undefined : rows.filter((row): row is StrainRow => row.id !== null);
    },

    /** Undefined: the caller is not valid; null: no such strain. */
    async get(caller: Caller, id: string): Promise<StrainRow | null | undefined> {
      const [result] = await runBatch(binding, [
        sql`with me as (${meSql(caller)}) select s.* from me left join strains s on s.id = ${id}`,
      ]);
      const [row] = rowsOf<StrainRow | { id: null }>(result);
      return row === undefined ? undefined : row.id === null ? null : (row as StrainRow);
    },

    /** Stores a new strain. `row` null: the id is taken (`known`) or there is no room. */
    async create(principal: Principal, strain: StrainRecord, source: string, now: number): Promise<StrainWrite> {
      const rows = JSON.stringify([toJsonRow(strain)]);
      const me = meSql(principal);
      const [before, inserted, , created] = await runBatch(binding, [
        sql`with me as (${me}) select s.id, 0 as records from me left join strains s on s.id = ${strain.id}`,
        upsertStrains({ rows, source, isSample: false, now, me, onKnown: "keep" }),
        bumpRevision(now),
        sql`select * from strains where id = ${strain.id}`,
      ]);
      const [found] = rowsOf<{ id: string | null }>(before);
      const done = rowsOf(inserted).length > 0;
      return {
        caller: found !== undefined,
        known: found !== undefined && found.id !== null,
        records: 0,
        row: done ? (rowsOf<StrainRow>(created)[0] ?? null) : null,
      };
    },

    async update(principal: Principal, strain: StrainRecord, source: string | null, now: number): Promise<StrainWrite> {
      const traits = Object.entries(TRAIT_COLUMNS).map(
        ([trait, column]) => sql`${sql.raw(column)} = ${strain.phenotype[trait as keyof typeof TRAIT_COLUMNS]}`,
      );
      const statement = sql`
        with me as (${meSql(principal)})
        update strains set name = ${strain.name}, type = ${strain.type}, ${sql.join(traits, sql`, `)},
          shape = ${strain.phenotype.shape}, shape_ko = ${strain.shapeKo}, search_key = ${searchKeyOf(strain)},
          source = coalesce(${source}, source), updated_at = ${now}
        where id = ${strain.id} and exists (select 1 from me where ${mayChange(sql`strains.created_by`)})
        returning *`;
      return change(principal, strain.id, now, statement);
    },

    /** A strain with measured crosses stays (`records` says how many). */
    async remove(principal: Principal, id: string, now: number): Promise<StrainWrite> {
      const statement = sql`
        with me as (${meSql(principal)})
        delete from strains where id = ${id} and exists (select 1 from me where ${mayChange(sql`strains.created_by`)})
          and not exists (select 1 from observations where mother_id = ${id})
          and not exists (select 1 from observations where father_id = ${id})
        returning *`;
      return change(principal, id, now, statement);
    },

    /** Sets or clears the uploaded picture; what a model is fitted to does not change. */
    async setPicture(
      principal: Principal,
      id: string,
      key: string | null,
      now: number,
    ): Promise<StrainWrite & { formerKey: string | null }> {
      const me = meSql(principal);
      const [before, changed] = await runBatch(binding, [
        sql`with me as (${me}) select s.id, s.image_key from me left join strains s on s.id = ${id}`,
        sql`with me as (${me})
            update strains set image_key = ${key}, updated_at = ${now}
            where id = ${id} and exists (select 1 from me where ${mayChange(sql`strains.created_by`)}) returning *`,
      ]);
      const [found] = rowsOf<{ id: string | null; image_key: string | null }>(before);
      return {
        caller: found !== undefined,
        known: found !== undefined && found.id !== null,
        records: 0,
        row: rowsOf<StrainRow>(changed)[0] ?? null,
        formerKey: found?.image_key ?? null,
      };
    },

    /** Whether the caller may change each of these strains, for those that exist. Undefined: the caller is not valid. */
    async known(principal: Principal, ids: readonly string[]): Promise<Map<string, boolean> | undefined> {
      const [result] = await runBatch(binding, [
        sql`with me as (${meSql(principal)})
            select s.id, ${mayChange(sql`s.created_by`)} as allowed
            from me left join strains s on s.id in (select value from json_each(${JSON.stringify(ids)}))`,
      ]);
      const rows = rowsOf<{ id: string | null; allowed: number }>(result);
      if (rows.length === 0) return undefined;
      return new Map(rows.flatMap(({ id, allowed }) => (id === null ? [] : [[id, allowed === 1] as const])));
    },

    /** Adds or changes strains that belong to nobody in particular: sample data, imports by whoever runs the deployment. */
    async load(
      strains: readonly StrainRecord[],
      options: { source: string; isSample: boolean },
      now: number,
    ): Promise<number> {
      const rows = JSON.stringify(strains.map(toJsonRow));
      const me = sql`select 0 as id, 1 as is_admin`;
      const [stored] = await runBatch(binding, [
        upsertStrains({ rows, ...options, now, me, onKnown: "update" }),
        bumpRevision(now),
      ]);
      return rowsOf(stored).length;
    },

    /**
     * Stores the strains of a file in one batch: new ones are added, known ones changed. Undefined: the caller is not valid.
     * An id that is missing in the answer was not the caller's to change; if there is no room (`full`), nothing is stored.
     */
    async importAll(
      principal: Principal,
      strains: readonly StrainRecord[],
      source: string,
      now: number,
    ): Promise<{ stored: Map<string, "created" | "updated">; full: boolean } | undefined> {
      const rows = JSON.stringify(strains.map(toJsonRow));
      const me = meSql(principal);
      const [before, stored] = await runBatch(binding, [
        sql`with me as (${me}), r as materialized (select value from json_each(${rows}))
            select (select count(*) from r) + (select count(*) from strains
              where id not in (select value->>0 from r)) > ${BREEDING_LIMITS.strains} as full from me`,
        upsertStrains({ rows, source, isSample: false, now, me, onKnown: "update" }),
        bumpRevision(now),
      ]);
      const [found] = rowsOf<{ full: number }>(before);
      if (found === undefined) return undefined;
      const known = rowsOf<{ id: string; created_at: number }>(stored);
      return {
        stored: new Map(known.map((row) => [row.id, row.created_at === now ? "created" : "updated"])),
        full: found.full === 1,
      };
    },
  };
}
