import { ok, type Result } from "../../../shared/result.ts";
import type { TaskType } from "../../../shared/task-types.ts";
import {
  type AnnotationDocument,
  documentWarnings,
  type FileResolver,
  indexByName,
  readAnnotations,
} from "./annotations.ts";
import { isImagePath } from "./images.ts";
import { type JsonObject, readJson } from "./json.ts";
import { balanceWarnings, brokenFile, contradiction, countSplits, distribution, listed, someOf } from "./summary.ts";
import type { DatasetFile, DatasetFormat, DatasetSummary, FormatProblem } from "./types.ts";

/**
 * Three layouts under one name. `nested`: labels inside each image of `annotations.json`. `coco_flat`: classes, images and
 * labels in three lists. `per_task`: a file per task (`annotations_detection.json`) with `storage_info.image_root` before
 * the names of images. The marks mix in practice, so each is looked for by itself.
 */
export const dice: DatasetFormat = {
  name: "dice",
  open(files) {
    const paths = new Set(files.map((file) => file.path));
    const chosen = chooseFile(paths);
    if (chosen === null) {
      return contradiction(
        `dice needs annotations.json, or annotations_<task>.json, at the top; found ${listed([...paths], 3)}`,
      );
    }
    const images = files.filter((file) => isImagePath(file.path));
    if (images.length === 0) return contradiction(`dice: ${chosen.file} without any image beside it`);
    return ok(new DiceReading(files, paths, chosen));
  },
};

type Chosen = { file: string; task: TaskType | "segmentation" | null; others: string[] };

/** Tasks that have a file of their own, the one that leads first. */
const TASK_FILES: readonly [string, TaskType | "segmentation"][] = [
  ["annotations_classification.json", "image_classification"],
  ["annotations_detection.json", "object_detection"],
  ["annotations_segmentation.json", "segmentation"],
  ["annotations_pose.json", "pose_estimation"],
];

function chooseFile(paths: ReadonlySet<string>): Chosen | null {
  const tasks = TASK_FILES.filter(([file]) => paths.has(file));
  const [first, ...others] = tasks;
  if (first) return { file: first[0], task: first[1], others: others.map(([file]) => file) };
  const file = ["annotations.json", "annotation.json"].find((name) => paths.has(name));
  return file === undefined ? null : { file, task: null, others: [] };
}

class DiceReading {
  readonly wanted: ReadonlySet<string>;
  readonly #files: readonly DatasetFile[];
  readonly #paths: ReadonlySet<string>;
  readonly #chosen: Chosen;
  #document: AnnotationDocument | null = null;
  #layout = "nested";

  constructor(files: readonly DatasetFile[], paths: ReadonlySet<string>, chosen: Chosen) {
    this.#files = files;
    this.#paths = paths;
    this.#chosen = chosen;
    this.wanted = new Set([chosen.file]);
  }

  take(path: string, text: string): Result<void, FormatProblem> {
    const read = readJson(path, text, (document) => {
      const imageRoot = imageRootOf(document);
      const annotations = readAnnotations(document, createResolver(this.#paths, imageRoot), this.#chosen.task);
      const perTask = imageRoot !== null || this.#chosen.task !== null;
      return { annotations, layout: perTask ? "per_task" : annotations.nested ? "nested" : "coco_flat" };
    });
    if (!read.ok) return read;
    this.#document = read.value.annotations;
    this.#layout = read.value.layout;
    return ok(undefined);
  }

  finish(): Result<DatasetSummary, FormatProblem> {
    const document = this.#document;
    if (document === null) return brokenFile(`${this.#chosen.file} was not read`);
    const { placements, classNames, counts, missingImages, masks } = document;
    if (placements.size === 0) {
      const what =
        missingImages.length > 0
          ? `none of the images it lists was uploaded, for example ${listed(missingImages, 1)}`
          : "it lists no image that was uploaded";
      return brokenFile(`${this.#chosen.file}: ${what}`);
    }
    const images = this.#files
      .filter((file) => isImagePath(file.path) && !masks.has(file.path))
      .map((file) => file.path);
    const unlisted = images.filter((path) => !placements.has(path));
    const classification = document.taskType === "image_classification";
    return ok({
      format: "dice",
      layout: this.#layout,
      taskType: document.taskType,
      numClasses: classNames.length,
      classNames,
      // A mask's classes are in its pixels, which nobody counts here.
      classDistribution: document.taskType === "semantic_segmentation" ? {} : distribution(classNames, counts),
      imageCount: images.length,
      splits: countSplits(placements.values()),
      placements,
      warnings: [
        ...(document.taskType === "semantic_segmentation"
          ? []
          : balanceWarnings(classNames, counts, images.length, classification ? "images" : "annotations")),
        ...documentWarnings([document]),
        ...someOf(unlisted, "unlabelled_images", "images are not listed"),
        ...(this.#chosen.others.length > 0
          ? [
              {
                code: "several_tasks",
                message: `${this.#chosen.file} is used; also found ${listed(this.#chosen.others)}`,
              },
            ]
          : []),
      ],
    });
  }
}

/** The text before the names of images in the store that the document was made for. */
function imageRootOf(document: unknown): string | null {
  if (typeof document !== "object" || document === null) return null;
  const info = (document as JsonObject).storage_info;
  if (typeof info !== "object" || info === null) return null;
  const root = (info as JsonObject).image_root;
  return typeof root === "string" ? root : null;
}

/**
 * Writers disagree on whether a name counts from the top or from `images/`, so both are tried, and below a storage root each
 * of its tails: `datasets/7/images/` + `a.png` is found as `images/a.png`.
 */
export function createResolver(paths: ReadonlySet<string>, imageRoot: string | null): FileResolver {
  const roots = imageRoot === null ? [] : tailsOf(imageRoot);
  const find = (name: string, folder: string): string | null => {
    const bare = name.startsWith(folder) ? name.slice(folder.length) : name;
    for (const candidate of [name, folder + name, bare, ...roots.map((root) => root + name)]) {
      if (paths.has(candidate)) return candidate;
    }
    return null;
  };
  let byId: Map<string, string | null> | null = null;
  return {
    image: (name) => find(name, "images/"),
    mask: (name) => find(name, "masks/"),
    imageById(id) {
      byId ??= indexByName(paths);
      return find(id, "images/") ?? byId.get(id) ?? null;
    },
  };
}

function tailsOf(root: string): string[] {
  const segments = root.split("/").filter((segment) => segment !== "");
  return segments.slice(-16).map((_, i, last) => `${last.slice(i).join("/")}/`);
}
