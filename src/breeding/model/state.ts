import { type SQL, sql } from "drizzle-orm";

/** The row that says which data are newest and which model was fitted to which of them. */
export type StateRow = {
  revision: number | null;
  changed_at: number | null;
  model_revision: number | null;
  model_version: string | null;
};

/** Its columns; `st` is `breeding_state` joined on id 1. No row yet: all null. */
export const stateColumns = sql`st.revision, st.changed_at, st.model_revision, st.model_version`;

export const joinState = sql`left join breeding_state st on st.id = 1`;

/** Marks the data as changed if the statement before it, in the same batch, changed a row. Answers the new revision. */
export const bumpRevision = (now: number): SQL => sql`
  insert into breeding_state (id, revision, changed_at) select 1, 1, ${now} where changes() > 0
  on conflict (id) do update set revision = revision + 1, changed_at = excluded.changed_at
  returning revision`;

/** Marks the data as changed by somebody who does not fit: the next reader does at once. */
export const refitOnRead = (): SQL => sql`
  insert into breeding_state (id, revision, changed_at) values (1, 1, 0)
  on conflict (id) do update set revision = revision + 1, changed_at = 0`;
