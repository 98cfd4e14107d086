import { sql } from "drizzle-orm";
import { runBatch } from "../../db/batch.ts";
import { type Caller, meSql } from "../caller.ts";
import { joinState, type StateRow, stateColumns } from "../model/state.ts";
import type { StrainRow } from "../strains/record.ts";

export type CrossRepository = ReturnType<typeof createCrossRepository>;

/** All strains (their number is limited) and the state of the model. */
export type CrossPanel = { state: StateRow; strains: StrainRow[] };

export function createCrossRepository(binding: D1Database) {
  return {
    /** Undefined: the caller is not valid. */
    async panel(caller: Caller): Promise<CrossPanel | undefined> {
      const [result] = await runBatch(binding, [
        sql`with me as (${meSql(caller)})
            select ${stateColumns}, s.* from me ${joinState} left join strains s on true order by s.id`,
      ]);
      const rows = (result?.results ?? []) as (StateRow & (StrainRow | { id: null }))[];
      const [row] = rows;
      if (row === undefined) return undefined;
      return { state: row, strains: rows.flatMap((one) => (one.id === null ? [] : [one as StrainRow])) };
    },
  };
}
