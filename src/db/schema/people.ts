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
    createdAt: integer("created_at").notNull(),
    updatedAt: integer("updated_at").notNull(),
  },
  (table) => [index("projects_owner").on(table.ownerId, table.isDefault)],
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
