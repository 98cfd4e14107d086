import { index, integer, sqliteTable, text } from "drizzle-orm/sqlite-core";
import { users } from "./people.ts";

export type Gpu = { model: string; vram_mb: number };

export const runners = sqliteTable("runners", {
  id: text().primaryKey(),
  /** Registering the same machine again keeps the id and replaces the token. */
  machineId: text("machine_id").notNull().unique(),
  pool: text().notNull(),
  name: text().notNull(),
  os: text(),
  gpus: text({ mode: "json" }).$type<Gpu[]>().notNull(),
  frameworks: text({ mode: "json" }).$type<string[]>().notNull(),
  labels: text({ mode: "json" }).$type<Record<string, string>>().notNull(),
  slots: integer().notNull(),
  version: text(),
  tokenHash: text("token_hash").notNull().unique(),
  drain: integer({ mode: "boolean" }).notNull().default(false),
  registeredAt: integer("registered_at").notNull(),
  revokedAt: integer("revoked_at"),
});

export const registrationTokens = sqliteTable(
  "registration_tokens",
  {
    tokenHash: text("token_hash").primaryKey(),
    pool: text().notNull(),
    usesLeft: integer("uses_left").notNull(),
    expiresAt: integer("expires_at").notNull(),
    createdBy: integer("created_by").references(() => users.id),
    createdAt: integer("created_at").notNull(),
  },
  (table) => [index("registration_tokens_expiry").on(table.expiresAt)],
);
