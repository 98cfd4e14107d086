import { type SQL, sql } from "drizzle-orm";
import { auditLog } from "../db/schema/index.ts";

export type AuditAction =
  | "login"
  | "password.change"
  | "token.create"
  | "token.revoke"
  | "member.add"
  | "member.change"
  | "member.remove"
  | "project.delete"
  | "dataset.delete"
  | "job.delete"
  | "job.stop"
  | "registration_token.create"
  | "runner.drain"
  | "runner.revoke";

/** Who acts, and in which request. */
export type Actor = { userId: number; requestId: string };

type Entry = {
  action: AuditAction;
  target: { type: "user" | "token" | "project" | "dataset" | "job" | "runner"; id: string | number };
  details?: Record<string, unknown>;
};

/**
 * The statement that writes an audit row, to stand in the batch of the act itself, right behind it: where the act changed
 * nothing (its guard refused), no row is written.
 */
export const auditIfChanged = (actor: Actor, entry: Entry, atMs: number): SQL => sql`
  insert into ${auditLog} (at, actor_id, action, target_type, target_id, request_id, details)
  select ${atMs}, ${actor.userId}, ${entry.action}, ${entry.target.type}, ${String(entry.target.id)}, ${actor.requestId},
    ${entry.details === undefined ? null : JSON.stringify(entry.details)}
  where changes() > 0`;

/** The same for an act that has no statement of its own before it. */
export const audit = (actor: Actor, entry: Entry, atMs: number): SQL => sql`
  insert into ${auditLog} (at, actor_id, action, target_type, target_id, request_id, details)
  values (${atMs}, ${actor.userId}, ${entry.action}, ${entry.target.type}, ${String(entry.target.id)}, ${actor.requestId},
    ${entry.details === undefined ? null : JSON.stringify(entry.details)})`;
