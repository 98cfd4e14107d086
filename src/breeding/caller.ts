import { type SQL, sql } from "drizzle-orm";
import { isValidCaller, type Principal } from "../auth/principal.ts";
import { users } from "../db/schema/index.ts";

/** Who reads: nobody in particular while the API is open (phase 1), else the owner of the token. */
export type Caller = Principal | null;

/**
 * A query of one row for a caller who may go on, and of none when the user is gone, disabled or has ended the token, be
 * it an access token or a personal one. Every statement of this API starts with it as `me`: no row at all means 401.
 */
export const meSql = (caller: Caller): SQL =>
  caller === null
    ? sql`select 0 as id, 0 as is_admin`
    : sql`select id, is_admin from ${users} where ${isValidCaller(caller)}`;

/** Whether `me` may change a row: who made it may, administrators may, and everybody where nobody in particular made it. */
export const mayChange = (createdBy: SQL): SQL =>
  sql`(${createdBy} is null or ${createdBy} = me.id or me.is_admin = 1)`;
