import { ok, type Result } from "../../../shared/result.ts";
import type { TaskType } from "../../../shared/task-types.ts";
import { baseName } from "../paths.ts";
import {
  type AnnotationDocument,
  documentWarnings,
  type FileResolver,
  indexByName,
  readAnnotations,
} from "./annotations.ts";
import { isImagePath, splitOfName, splitOfPath } from "./images.ts";
import { readJson } from "./json.ts";
import {
  balanceWarnings,
  brokenFile,
  contradiction,
  countSplits,
  distribution,
  firstDuplicate,
  listed,
  someOf,
} from "./summary.ts";
import type { DatasetFile, DatasetFormat, DatasetSummary, FormatProblem, Placement, SplitName } from "./types.ts";

/**
 * COCO: `annotations/*.json` with images, annotations and categories, one file per split (`instances_train2017.json`), or
 * `_annotations.coco.json` inside each split's folder. All files of one dataset share their categories.
 */
export const coco: DatasetFormat = {
  name: "coco",
  open(files) {
    const paths = files.map((file) => file.path);
    const chosen = chooseFiles(paths);
    if (chosen.used.length === 0) {
      return contradiction(
        `coco needs annotations/*.json or <split>/_annotations.coco.json; found ${listed(paths, 3)}`,
      );
    }
    const images = files.filter((file) => isImagePath(file.path));
    if (images.length === 0) return contradiction(`coco: ${chosen.used[0]} without any image beside it`);
    return ok(new CocoReading(files, chosen));
  },
};

type Chosen = { used: string[]; ignored: string[] };

const ANNOTATIONS =
  /^annotations\/[^/]+\.json$|(?:^|\/)_annotations\.coco\.json$|^(?:annotations|instances[^/]*|person_keypoints[^/]*)\.json$/;

/** Of the kinds that COCO itself publishes, the first that is there; captions and panoptic files label no objects. */
const KINDS = [/^instances/i, /^person_keypoints/i, /^(?!captions|panoptic|stuff)/i];

function chooseFiles(paths: readonly string[]): Chosen {
  const found = paths.filter((path) => ANNOTATIONS.test(path)).sort();
  for (const kind of KINDS) {
    const used = found.filter((path) => kind.test(baseName(path)));
    if (used.length > 0) return { used, ignored: found.filter((path) => !used.includes(path)) };
  }
  return { used: [], ignored: found };
}

/** The split that a file is for: a word of its name (`instances_val2017.json`), else its folder. */
function splitOfFile(path: string): SplitName | null {
  for (const word of baseName(path).split(/[^a-zA-Z]+/)) {
    const split = splitOfName(word);
    if (split) return split;
  }
  return splitOfPath(path);
}

class CocoReading {
  readonly wanted: ReadonlySet<string>;
  readonly #files: readonly DatasetFile[];
  readonly #paths: ReadonlySet<string>;
  readonly #chosen: Chosen;
  readonly #byName: ReadonlyMap<string, string | null>;
  readonly #documents = new Map<string, AnnotationDocument>();
  readonly #classes = new Map<number, { name: string; file: string }>();

  constructor(files: readonly DatasetFile[], chosen: Chosen) {
    this.#files = files;
    this.#paths = new Set(files.map((file) => file.path));
    this.#chosen = chosen;
    this.#byName = indexByName(this.#paths);
    this.wanted = new Set(chosen.used);
  }

  take(path: string, text: string): Result<void, FormatProblem> {
    const read = readJson(path, text, (value) => readAnnotations(value, this.#resolver(path)));
    if (!read.ok) return read;
    const document = read.value;
    if (document.nested) return contradiction(`coco: ${path} has no list of annotations`);
    for (const [id, name] of document.classesById) {
      const known = this.#classes.get(id);
      if (known === undefined) this.#classes.set(id, { name, file: path });
      else if (known.name !== name) {
        return brokenFile(`${path}: category ${id} is ${listed([name])}, but ${listed([known.name])} in ${known.file}`);
      }
    }
    const split = splitOfFile(path);
    for (const placement of document.placements.values()) placement.split ??= split;
    this.#documents.set(path, document);
    return ok(undefined);
  }

  finish(): Result<DatasetSummary, FormatProblem> {
    const unread = this.#chosen.used.find((path) => !this.#documents.has(path));
    if (unread !== undefined) return brokenFile(`${unread} was not read`);
    const classNames = [...this.#classes].sort(([left], [right]) => left - right).map(([, { name }]) => name);
    const twice = firstDuplicate(classNames);
    if (twice !== undefined) return brokenFile(`the category name ${listed([twice])} has two ids`);
    // In the order of names, not of the archive, so that the same files always give the same answer.
    const documents = this.#chosen.used.flatMap((path) => this.#documents.get(path) ?? []);
    const placements = new Map<string, Placement>();
    const counts = new Map<string, number>();
    const inSeveral: string[] = [];
    let taskType: TaskType = "image_classification";
    for (const document of documents) {
      taskType = stronger(taskType, document.taskType);
      for (const [name, count] of document.counts) counts.set(name, (counts.get(name) ?? 0) + count);
      for (const [path, placement] of document.placements) {
        const known = placements.get(path);
        if (known !== undefined && known.split !== placement.split) inSeveral.push(path);
        if (known === undefined) placements.set(path, placement);
      }
    }
    if (placements.size === 0) {
      const [missing] = documents.flatMap((document) => document.missingImages);
      const example = missing === undefined ? "" : `, for example ${listed([missing])}`;
      return brokenFile(`${this.#chosen.used[0]}: none of the images it lists was uploaded${example}`);
    }
    const images = this.#files.filter((file) => isImagePath(file.path)).map((file) => file.path);
    const unlisted = images.filter((path) => !placements.has(path));
    const noun = taskType === "image_classification" ? "images" : "annotations";
    return ok({
      format: "coco",
      layout: this.#chosen.used.length > 1 ? "per_split" : "single_file",
      taskType,
      numClasses: classNames.length,
      classNames,
      classDistribution: distribution(classNames, counts),
      imageCount: images.length,
      splits: countSplits(placements.values()),
      placements,
      warnings: [
        ...balanceWarnings(classNames, counts, images.length, noun),
        ...documentWarnings(documents),
        ...someOf(unlisted, "unlabelled_images", "images are not listed"),
        ...someOf(inSeveral, "image_in_two_splits", "images are listed in more than one split"),
        ...someOf(this.#chosen.ignored, "unused_annotations", "annotation files are not used"),
      ],
    });
  }

  /**
   * Names count from the top, from `images/`, from the annotation file's own folder, or from the folder that the file's
   * name ends in (`instances_train2017.json`, `train2017/`); failing that, a name that only one file has is that file.
   */
  #resolver(file: string): FileResolver {
    const own = file.slice(0, file.length - baseName(file).length);
    const subset = /_([^_]+)\.json$/.exec(baseName(file))?.[1];
    const folders = ["", "images/", own, ...(subset ? [`${subset}/`, `images/${subset}/`] : [])];
    const image = (name: string): string | null => {
      const folder = folders.find((prefix) => this.#paths.has(prefix + name));
      return folder === undefined ? (this.#byName.get(baseName(name)) ?? null) : folder + name;
    };
    return { image, mask: () => null, imageById: (id) => image(id) ?? this.#byName.get(id) ?? null };
  }
}

const STRENGTH: readonly TaskType[] = [
  "image_classification",
  "object_detection",
  "semantic_segmentation",
  "instance_segmentation",
  "pose_estimation",
];

/** The task of files together: of their kinds of labels the one that says most. */
const stronger = (left: TaskType, right: TaskType): TaskType =>
  STRENGTH.indexOf(right) > STRENGTH.indexOf(left) ? right : left;
