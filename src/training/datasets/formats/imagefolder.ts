import { ok, type Result } from "../../../shared/result.ts";
import { compareCodePoints, topFolder } from "../paths.ts";
import { isImagePath, splitOfName } from "./images.ts";
import {
  balanceWarnings,
  classNamesProblem,
  contradiction,
  countSplits,
  distribution,
  increment,
  listed,
  someOf,
} from "./summary.ts";
import type { DatasetFile, DatasetFormat, DatasetSummary, DatasetWarning, FormatProblem, Placement } from "./types.ts";

/**
 * A folder per class: `train/<class>/…` with `val/<class>/…`, or `<class>/…` directly. Class ids follow the sorted folder
 * names, as torchvision's ImageFolder counts them; pictures may lie deeper inside a class.
 */
export const imagefolder: DatasetFormat = {
  name: "imagefolder",
  open(files) {
    const summary = summarise(files);
    return summary.ok ? ok({ wanted: new Set<string>(), take: () => ok(undefined), finish: () => summary }) : summary;
  },
};

const EXPECTED = "imagefolder needs at least two class folders with images, as train/<class>/… or <class>/…";

/** Files that only other formats have; with them the folders are not classes. */
const FOREIGN = /^(?:annotations?(?:_[a-z]+)?\.json|annotations\/[^/]+\.json|data\.ya?ml|labels\/.+\.txt)$/i;

function summarise(files: readonly DatasetFile[]): Result<DatasetSummary, FormatProblem> {
  const images = files.filter((file) => isImagePath(file.path)).map((file) => file.path);
  if (images.length === 0) {
    return contradiction(
      `${EXPECTED}; found no image among ${listed(
        files.map((file) => file.path),
        3,
      )}`,
    );
  }
  const foreign = files.find((file) => FOREIGN.test(file.path));
  if (foreign) return contradiction(`${EXPECTED}; found ${listed([foreign.path])}, which belongs to another format`);

  const divided = images.every((path) => splitOfName(topFolder(path) ?? "") !== null);
  const placements = new Map<string, Placement>();
  const counts = new Map<string, number>();
  const unlabelled: string[] = [];
  for (const path of images) {
    const folders = path.split("/").slice(0, -1);
    const split = divided ? splitOfName(folders[0] ?? "") : null;
    const label = folders[divided ? 1 : 0] ?? null;
    placements.set(path, { split, label });
    if (label === null) unlabelled.push(path);
    else increment(counts, label);
  }
  const classNames = [...counts.keys()].sort(compareCodePoints);
  if (classNames.length < 2) {
    const found =
      classNames.length === 0 ? `images without a folder such as ${listed(images, 2)}` : `only ${listed(classNames)}`;
    return contradiction(`${EXPECTED}; found ${found}`);
  }
  const namesProblem = classNamesProblem(classNames);
  if (namesProblem) return contradiction(`imagefolder: ${namesProblem}`);

  const extra = files.filter((file) => !isImagePath(file.path)).map((file) => file.path);
  const labelled = images.length - unlabelled.length;
  const splits = countSplits(placements.values());
  return ok({
    format: "imagefolder",
    layout: divided ? "split_folders" : "class_folders",
    taskType: "image_classification",
    numClasses: classNames.length,
    classNames,
    classDistribution: distribution(classNames, counts),
    imageCount: images.length,
    splits,
    placements,
    warnings: [
      ...balanceWarnings(classNames, counts, labelled, "images"),
      ...splitWarnings(placements, classNames, divided),
      ...someOf(unlabelled, "unlabelled_images", "images are in no class folder"),
      ...someOf(extra, "extra_files", "files are not images"),
    ],
  });
}

/** Classes that a model would be tested on without having seen them, or a division without training images. */
function splitWarnings(
  placements: ReadonlyMap<string, Placement>,
  classNames: readonly string[],
  divided: boolean,
): DatasetWarning[] {
  if (!divided) return [];
  const trained = new Set<string>();
  for (const { split, label } of placements.values()) if (split === "train" && label !== null) trained.add(label);
  const missing = classNames.filter((name) => !trained.has(name));
  if (missing.length === 0) return [];
  return [{ code: "class_not_in_train", message: `No training image of ${listed(missing)}` }];
}
