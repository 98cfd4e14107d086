import { err, ok, type Result } from "../../../shared/result.ts";
import { commonTopFolder } from "../paths.ts";
import { coco } from "./coco.ts";
import { dice } from "./dice.ts";
import { imagefolder } from "./imagefolder.ts";
import { isImagePath, splitOfName } from "./images.ts";
import { listed } from "./summary.ts";
import type { DatasetFile, DatasetFormat, DatasetWarning, FormatName, FormatProblem, FormatReading } from "./types.ts";
import { yolo } from "./yolo.ts";

/** Every format, by its name on the wire. */
export const FORMATS: Record<FormatName, DatasetFormat> = { dice, yolo, imagefolder, coco };

export type OpenedDataset = {
  reading: FormatReading;
  /** The one folder around everything that was taken off the paths, with its slash; empty if none was. */
  strippedPrefix: string;
};

const FORMAT_FOLDERS: ReadonlySet<string> = new Set(["images", "labels", "annotations", "masks"]);

/**
 * Opens the files as the declared format. Archives often have one folder around everything: it is taken off when that makes
 * the format fit.
 */
export function openFormat(format: DatasetFormat, files: readonly DatasetFile[]): Result<OpenedDataset, FormatProblem> {
  const asSent = format.open(files);
  if (asSent.ok) return ok({ reading: asSent.value, strippedPrefix: "" });
  const folder = commonTopFolder(files.map((file) => file.path));
  if (folder === null) return err(asSent.error);
  const strippedPrefix = `${folder}/`;
  const inner = format.open(
    files.map(({ path, sizeBytes }) => ({ path: path.slice(strippedPrefix.length), sizeBytes })),
  );
  if (inner.ok) return ok({ reading: inner.value, strippedPrefix });
  // Told about the files as they were meant: a folder that formats themselves use is no wrapping.
  return err(FORMAT_FOLDERS.has(folder) || splitOfName(folder) !== null ? asSent.error : inner.error);
}

/** Warnings about files of any format. */
export function fileWarnings(files: readonly DatasetFile[]): DatasetWarning[] {
  const warnings: DatasetWarning[] = [];
  const empty = files.filter((file) => file.sizeBytes === 0 && isImagePath(file.path)).map((file) => file.path);
  if (empty.length > 0) {
    warnings.push({ code: "empty_files", message: `${empty.length} images are empty: ${listed(empty, 3)}` });
  }
  const seen = new Set<string>();
  const colliding = files
    .map((file) => file.path)
    .filter((path) => {
      const folded = path.toLowerCase();
      if (seen.has(folded)) return true;
      seen.add(folded);
      return false;
    });
  if (colliding.length > 0) {
    warnings.push({
      code: "case_collision",
      message: `${colliding.length} names differ from another only in upper and lower case: ${listed(colliding, 3)}`,
    });
  }
  return warnings;
}
