import type { Result } from "../../../shared/result.ts";
import type { TaskType } from "../../../shared/task-types.ts";

/**
 * What a dataset format is to the rest: pure code that sees paths and sizes, asks for the text of a few annotation files and
 * says what the dataset contains. It reads nothing itself, and of many files it folds one after the other, so the caller
 * decides how much text is in memory.
 */

export const DATASET_FORMATS = ["dice", "yolo", "imagefolder", "coco"] as const;
export type FormatName = (typeof DATASET_FORMATS)[number];

export type SplitName = "train" | "val" | "test";
/** Images per split. */
export type SplitCounts = Record<SplitName, number>;

export type DatasetFile = { path: string; sizeBytes: number };

/** Something a user should know about a dataset that is accepted all the same. */
export type DatasetWarning = { code: string; message: string };

/** Where a file belongs, as far as the format says so. */
export type Placement = { split: SplitName | null; label: string | null };

export type DatasetSummary = {
  format: FormatName;
  /** Which of the layouts under one format name this is. */
  layout: string;
  taskType: TaskType | null;
  numClasses: number;
  /** Ordered by class id: the index is what a model's output counts. */
  classNames: string[];
  /** Classification: images per class. Otherwise annotations per class. Empty where only pixels tell (semantic). */
  classDistribution: Record<string, number>;
  imageCount: number;
  /** Null when the dataset is not divided. */
  splits: SplitCounts | null;
  warnings: DatasetWarning[];
  placements: ReadonlyMap<string, Placement>;
};

/** Why a dataset is refused. `format`: it is not what was declared. `files`: it is, but a file in it is broken. */
export type FormatProblem = { field: "format" | "files"; message: string };

/** One dataset being read. */
export interface FormatReading {
  /** Files whose text `take` needs, each once, in any order. */
  readonly wanted: ReadonlySet<string>;
  /** @param text the whole file, decoded from UTF-8 */
  take(path: string, text: string): Result<void, FormatProblem>;
  /** After every wanted file was taken. */
  finish(): Result<DatasetSummary, FormatProblem>;
}

export interface DatasetFormat {
  readonly name: FormatName;
  /** Looks at the names alone; a problem says what was looked for and what was found. */
  open(files: readonly DatasetFile[]): Result<FormatReading, FormatProblem>;
}
