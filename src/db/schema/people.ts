import { sql } from "drizzle-orm";
import { index, integer, primaryKey, sqliteTable, text } from "drizzle-orm/sqlite-core";
import { TASK_TYPES } from "../../shared/task-types.ts";

/** Times are epoch milliseconds, booleans 0/1. No foreign key cascades anywhere: a rebuilt table would fire them silently. */

export const users = sqliteTable("users", {
  id: integer().primaryKey({ autoIncrement: true }),
  /** Lower-cased. */
  email: text().notNull().unique(),
  fullName: text("full_name").notNull(),
  passwordHash: text("password_hash").notNull(),
  isAdmin: integer("is_admin", { mode: "boolean" }).notNull().default(false),
  /** Part of every access token: raising it ends all of them. */
  tokenVersion: integer("token_version").notNull().default(1),
  createdAt: integer("created_at").notNull(),
  disabledAt: integer("disabled_at"),
});

export const projects = sqliteTable(
  "projects",
  {
    id: integer().primaryKey({ autoIncrement: true }),
    ownerId: integer("owner_id")
      .notNull()
      .references(() => users.id),
    name: text().notNull(),
    description: text(),
    taskType: text("task_type", { enum: TASK_TYPES }),
    /** The owner's project for jobs and datasets that name none; it cannot be deleted. */
    isDefault: integer("is_default", { mode: "boolean" }).notNull().default(false),
    /** Jobs of it that runners may have at the same time; null: as many as there are runners. */
    maxRunningJobs: integer("max_running_jobs"),
    createdAt: integer("created_at").notNull(),
    updatedAt: integer("updated_at").notNull(),
    /** Set when the project was deleted: it has no members any more, and its content is being removed. */
    deletedAt: integer("deleted_at"),
  },
  (table) => [
    index("projects_owner").on(table.ownerId, table.isDefault),
    index("projects_deleted").on(table.deletedAt).where(sql`deleted_at is not null`),
  ],
);

/** Who may do what in a project. The owner has a row too, so that access is one join. */
export const projectMembers = sqliteTable(
  "project_members",
  {
    projectId: integer("project_id")
      .notNull()
      .references(() => projects.id),
    userId: integer("user_id")
      .notNull()
      .references(() => users.id),
    role: text({ enum: ["owner", "editor", "viewer"] }).notNull(),
    createdAt: integer("created_at").notNull().default(sql`(unixepoch() * 1000)`),
  },
  (table) => [
    primaryKey({ columns: [table.projectId, table.userId] }),
    index("project_members_user").on(table.userId, table.projectId),
  ],
);

export type ProjectRole = (typeof projectMembers.$inferSelect)["role"];

/** Personal API tokens for scripts, by their hash. A revoked one has no row. */
export const apiTokens = sqliteTable(
  "api_tokens",
  {
    id: integer().primaryKey({ autoIncrement: true }),
    userId: integer("user_id")
      .notNull()
      .references(() => users.id),
    name: text().notNull(),
    tokenHash: text("token_hash").notNull().unique(),
    /** The last characters, by which its owner recognises it. */
    hint: text().notNull(),
    createdAt: integer("created_at").notNull(),
    expiresAt: integer("expires_at"),
  },
  (table) => [index("api_tokens_user").on(table.userId, table.id)],
);

/** Who did what to whom: written with the act, in its batch, and never changed (triggers refuse it). */
export const auditLog = sqliteTable("audit_log", {
  id: integer().primaryKey({ autoIncrement: true }),
  at: integer().notNull(),
  /** No reference: the row outlives everything that it names. */
  actorId: integer("actor_id"),
  action: text().notNull(),
  targetType: text("target_type").notNull(),
  targetId: text("target_id").notNull(),
  requestId: text("request_id"),
  details: text({ mode: "json" }).$type<Record<string, unknown>>(),
});

/** What a create with an `Idempotency-Key` made, so that its repetition makes nothing more. Kept for a day. */
export const idempotencyKeys = sqliteTable(
  "idempotency_keys",
  {
    userId: integer("user_id")
      .notNull()
      .references(() => users.id),
    key: text().notNull(),
    /** SHA-256 over the operation and its validated input. */
    requestHash: text("request_hash").notNull(),
    resourceId: text("resource_id").notNull(),
    createdAt: integer("created_at").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.userId, table.key] }),
    index("idempotency_keys_created").on(table.createdAt),
  ],
);

/** Objects whose rows are gone and that are still to be removed from storage: written with the deletion, in its batch. */
export const removals = sqliteTable("removals", {
  id: integer().primaryKey({ autoIncrement: true }),
  /** A key prefix that ends in `/`. */
  prefix: text().notNull(),
  createdAt: integer("created_at").notNull(),
});
