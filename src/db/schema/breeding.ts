import { index, integer, primaryKey, real, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";
import { users } from "./people.ts";

/** Tables of the Breeding API. Units: weight g, length and width mm, sugar °Brix, firmness kg, pericarp mm. */

export const strains = sqliteTable("strains", {
  id: text().primaryKey(),
  name: text().notNull(),
  type: text({ enum: ["male", "female", "both"] }).notNull(),
  weight: real(),
  length: real(),
  width: real(),
  ratio: real(),
  sugarContent: real("sugar_content"),
  firmness: real(),
  skinThickness: real("skin_thickness"),
  shape: text({ enum: ["round", "oval", "rectangular", "pear"] }),
  /** The Korean word that the shape was read from. */
  shapeKo: text("shape_ko"),
  source: text().notNull(),
  isSample: integer("is_sample", { mode: "boolean" }).notNull().default(false),
  /** Object of an uploaded picture; null: the picture is drawn from the traits. */
  imageKey: text("image_key"),
  /** Id and name in lower case: SQLite folds ASCII only. */
  searchKey: text("search_key").notNull(),
  /** Who may change it, beside administrators; null: everybody with an account. */
  createdBy: integer("created_by").references(() => users.id),
  createdAt: integer("created_at").notNull(),
  updatedAt: integer("updated_at").notNull(),
});

/** Measured F1 crosses. */
export const observations = sqliteTable(
  "observations",
  {
    /** `OBS_{ms}_{8 hex}`: ids sort by time. */
    id: text().primaryKey(),
    motherId: text("mother_id")
      .notNull()
      .references(() => strains.id),
    fatherId: text("father_id")
      .notNull()
      .references(() => strains.id),
    /** Replicates that the values are means of. */
    n: integer().notNull(),
    season: text(),
    environment: text(),
    /** JSON: the seven traits and the shape, null where not measured. */
    phenotype: text().notNull(),
    createdBy: integer("created_by").references(() => users.id),
    createdAt: integer("created_at").notNull(),
    /** Hash of the file that it came in; null for single records. */
    importId: text("import_id"),
  },
  (table) => [
    index("observations_cross").on(table.motherId, table.fatherId),
    index("observations_father").on(table.fatherId),
    index("observations_import").on(table.importId),
  ],
);

/** What was predicted for a measured cross before its measurement was known, and what came: live calibration. */
export const forecasts = sqliteTable(
  "forecasts",
  {
    trait: text().notNull(),
    observationId: text("observation_id").notNull(),
    predicted: real().notNull(),
    lower: real().notNull(),
    upper: real().notNull(),
    confidence: real().notNull(),
    observed: real().notNull(),
    hit: integer({ mode: "boolean" }).notNull(),
    covered: integer({ mode: "boolean" }).notNull(),
    modelVersion: text("model_version").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.trait, table.observationId] }),
    index("forecasts_observation").on(table.observationId),
  ],
);

/**
 * One row: which data are newest and which model is fitted to which of them. `revision` rises with every change of strains or
 * observations, in the same batch.
 */
export const breedingState = sqliteTable("breeding_state", {
  id: integer().primaryKey(),
  revision: integer().notNull(),
  changedAt: integer("changed_at").notNull(),
  modelRevision: integer("model_revision"),
  modelVersion: text("model_version"),
  predictionCount: integer("prediction_count").notNull().default(0),
});

/** Fitted models; their bytes are objects. The version is a hash of everything that a fit rests on. */
export const modelFits = sqliteTable(
  "model_fits",
  {
    version: text().primaryKey(),
    sizeBytes: integer("size_bytes").notNull(),
    strains: integer().notNull(),
    observations: integer().notNull(),
    /** JSON: per trait what the model rests on. */
    summary: text().notNull(),
    createdAt: integer("created_at").notNull(),
  },
  (table) => [index("model_fits_created").on(table.createdAt)],
);

/** The body is the answer as it was given, with a snapshot of both parents: ids sort by time. */
export const predictions = sqliteTable("predictions", {
  id: text().primaryKey(),
  motherId: text("mother_id").notNull(),
  fatherId: text("father_id").notNull(),
  modelVersion: text("model_version").notNull(),
  body: text().notNull(),
});

/** Crosses that were ever predicted, with their newest prediction. */
export const combinations = sqliteTable(
  "combinations",
  {
    motherId: text("mother_id").notNull(),
    fatherId: text("father_id").notNull(),
    predictionId: text("prediction_id").notNull(),
  },
  (table) => [primaryKey({ columns: [table.motherId, table.fatherId] })],
);

/** Pictures of predicted crosses. Ids may contain `_`, so two crosses can share a stem: numbers belong to the stem. */
export const crossPictures = sqliteTable(
  "cross_pictures",
  {
    /** `cross_{maleId}_{femaleId}`. */
    stem: text().notNull(),
    /** `2025/11`. */
    month: text().notNull(),
    sequence: integer().notNull(),
    /** Hash of everything that the picture is made from. */
    contentKey: text("content_key").notNull(),
    view: text({ enum: ["outside", "section"] }).notNull(),
    engine: text().notNull(),
    createdAt: integer("created_at").notNull(),
    /** Null until the object is there. */
    storedAt: integer("stored_at"),
  },
  (table) => [
    primaryKey({ columns: [table.stem, table.month, table.sequence] }),
    uniqueIndex("cross_pictures_content").on(table.stem, table.contentKey),
  ],
);
