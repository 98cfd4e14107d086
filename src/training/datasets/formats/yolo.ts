import { ok, type Result } from "../../../shared/result.ts";
import type { TaskType } from "../../../shared/task-types.ts";
import { commonTopFolder } from "../paths.ts";
import { type DataYaml, readDataYaml } from "./data-yaml.ts";
import { isImagePath, splitOfName, splitOfPath } from "./images.ts";
import {
  balanceWarnings,
  brokenFile,
  contradiction,
  countSplits,
  distribution,
  increment,
  listed,
  MAX_CLASSES,
  someOf,
} from "./summary.ts";
import type { DatasetFile, DatasetFormat, DatasetSummary, FormatProblem, Placement, SplitName } from "./types.ts";

/**
 * A text file of labels beside each image: `images/train/1.jpg` has `labels/train/1.txt`, and `train/images/1.jpg` has
 * `train/labels/1.txt`. A line is a class id and numbers from 0 to 1: 4 of a box, 6 or more of an outline, or a box and its
 * keypoints. `data.yaml` names the classes. An image without labels is a negative.
 */
export const yolo: DatasetFormat = {
  name: "yolo",
  open(files) {
    const paths = new Set(files.map((file) => file.path));
    const images = files.map((file) => file.path).filter((path) => isImagePath(path) && hasFolder(path, "images"));
    const labels = files.map((file) => file.path).filter((path) => path.endsWith(".txt") && hasFolder(path, "labels"));
    // `images` and `labels` are found at any depth; `data.yaml` only counts at the top.
    const top = commonTopFolder(paths);
    const isWrapped = top !== null && top !== "images" && splitOfName(top) === null;
    if (images.length === 0 || labels.length === 0 || isWrapped) {
      const found = images.length > 0 && labels.length === 0 ? "images without labels" : listed([...paths], 3);
      return contradiction(`yolo needs images/… and labels/….txt of the same names; found ${found}`);
    }
    const yaml = ["data.yaml", "data.yml", "dataset.yaml", "dataset.yml"].find((name) => paths.has(name)) ?? null;
    return ok(new YoloReading(files, paths, images, labels, yaml));
  },
};

const hasFolder = (path: string, folder: string): boolean => path.split("/").slice(0, -1).includes(folder);

/** The label file of an image: the last `images` folder becomes `labels`, the ending `.txt`. */
export function labelPathOf(image: string): string {
  const segments = image.split("/");
  const name = segments.pop() ?? "";
  const at = segments.lastIndexOf("images");
  if (at !== -1) segments[at] = "labels";
  return [...segments, `${name.slice(0, name.lastIndexOf("."))}.txt`].join("/");
}

type Place = { file: string; line: number };
const placeText = ({ file, line }: Place): string => `${file} line ${line}`;

/** Numbers of a box without and with its class id. */
const BOX_NUMBERS = 5;
/** A class id, three points. */
const MIN_OUTLINE_NUMBERS = 7;

class YoloReading {
  readonly wanted: ReadonlySet<string>;
  readonly #files: readonly DatasetFile[];
  readonly #images: readonly string[];
  readonly #labels: ReadonlySet<string>;
  readonly #orphans: readonly string[];
  readonly #yamlFile: string | null;
  #yaml: DataYaml | null = null;
  readonly #counts = new Map<number, number>();
  /** Where lines of each length were first seen: whether a length fits is known when `data.yaml` was read. */
  readonly #lengths = new Map<number, Place>();
  #highestClass: { id: number; place: Place } = { id: -1, place: { file: "", line: 0 } };
  /** Where a number above 1 was first seen that can only be a keypoint's visibility. */
  #visibility: Place | null = null;
  #emptyBoxes = 0;

  constructor(
    files: readonly DatasetFile[],
    paths: ReadonlySet<string>,
    images: readonly string[],
    labels: readonly string[],
    yamlFile: string | null,
  ) {
    this.#files = files;
    this.#images = images;
    this.#yamlFile = yamlFile;
    const expected = new Set(images.map(labelPathOf));
    this.#labels = new Set(labels.filter((path) => expected.has(path)));
    this.#orphans = labels.filter((path) => !expected.has(path));
    this.wanted = new Set([...this.#labels, ...(yamlFile !== null && paths.has(yamlFile) ? [yamlFile] : [])]);
  }

  take(path: string, text: string): Result<void, FormatProblem> {
    if (path === this.#yamlFile) {
      const yaml = readDataYaml(path, text);
      if (!yaml.ok) return yaml;
      this.#yaml = yaml.value;
      return ok(undefined);
    }
    let number = 0;
    for (const line of text.split("\n")) {
      number++;
      const words = line.trim();
      if (words === "") continue;
      const wrong = this.#line(words.split(/\s+/), { file: path, line: number });
      if (wrong !== null) return brokenFile(`${path} line ${number}: ${wrong}`);
    }
    return ok(undefined);
  }

  /** Counts one label; the text says what is wrong with it. */
  #line(words: string[], place: Place): string | null {
    const [first = "", ...rest] = words;
    if (!/^\d{1,9}(?:\.0+)?$/.test(first)) return `${listed([first])} is not a class id`;
    const id = Number(first);
    if (id >= MAX_CLASSES) return `class id ${id}; at most ${MAX_CLASSES} classes are allowed`;
    if (words.length < BOX_NUMBERS) return `${words.length} numbers; a label has at least ${BOX_NUMBERS}`;
    for (const [i, word] of rest.entries()) {
      const value = Number(word);
      if (!/^[-+.\d]/.test(word) || !Number.isFinite(value)) return `${listed([word])} is not a number`;
      if (value < 0) return `${word} is negative; numbers are from 0 to 1`;
      if (value <= 1) continue;
      // After the box, every third number of a keypoint label is its visibility: 0, 1 or 2.
      if (value !== 2 || i < 4 || (i - 4) % 3 !== 2)
        return `${word} is above 1; numbers are shares of the image's size`;
      this.#visibility ??= place;
    }
    if (!this.#lengths.has(words.length)) this.#lengths.set(words.length, place);
    if (words.length === BOX_NUMBERS && (Number(rest[2]) === 0 || Number(rest[3]) === 0)) this.#emptyBoxes++;
    if (id > this.#highestClass.id) this.#highestClass = { id, place };
    increment(this.#counts, id);
    return null;
  }

  finish(): Result<DatasetSummary, FormatProblem> {
    if (this.#counts.size === 0) return contradiction(`yolo: no label with at least ${BOX_NUMBERS} numbers was found`);
    const task = this.#task();
    if (!task.ok) return task;
    const names = this.#names();
    if (!names.ok) return names;
    const counts = new Map(names.value.map((name, id) => [name, this.#counts.get(id) ?? 0]));
    const placements = new Map<string, Placement>(
      this.#images.map((path) => [path, { split: this.#splitOf(path), label: null }]),
    );
    const splits = countSplits(placements.values());
    const unlabelled = this.#images.filter((path) => !this.#labels.has(labelPathOf(path)));
    const elsewhere = this.#files.map((file) => file.path).filter((path) => isImagePath(path) && !placements.has(path));
    return ok({
      format: "yolo",
      layout: splits === null ? "flat" : "split_folders",
      taskType: task.value,
      numClasses: names.value.length,
      classNames: names.value,
      classDistribution: distribution(names.value, counts),
      imageCount: this.#images.length,
      splits,
      placements,
      warnings: [
        ...balanceWarnings(names.value, counts, this.#images.length, "labels"),
        ...someOf(unlabelled, "unlabelled_images", "images have no label file and count as negatives"),
        ...someOf(this.#orphans, "orphan_annotations", "label files belong to no image"),
        ...someOf(elsewhere, "extra_files", "images are in no images folder"),
        ...(this.#emptyBoxes > 0 ? [{ code: "empty_boxes", message: `${this.#emptyBoxes} boxes have no area` }] : []),
        ...(this.#yaml?.names
          ? []
          : [{ code: "no_class_names", message: "data.yaml does not name the classes; they are numbered" }]),
      ],
    });
  }

  /** What the lengths of the lines say, with `kpt_shape` if it is given. */
  #task(): Result<TaskType, FormatProblem> {
    const keypoints = this.#yaml?.keypoints ?? null;
    if (keypoints !== null) {
      const expected = BOX_NUMBERS + keypoints.count * keypoints.dimensions;
      for (const [length, place] of this.#lengths) {
        if (length !== expected) {
          return brokenFile(`${placeText(place)}: ${length} numbers; with kpt_shape a label has ${expected}`);
        }
      }
      if (keypoints.dimensions === 3 || this.#visibility === null) return ok("pose_estimation");
    }
    if (this.#visibility !== null)
      return brokenFile(`${placeText(this.#visibility)}: 2 is above 1, and there is no visibility`);
    let task: TaskType = "object_detection";
    for (const [length, place] of this.#lengths) {
      if (length === BOX_NUMBERS) continue;
      if (length < MIN_OUTLINE_NUMBERS || length % 2 === 0) {
        return brokenFile(`${placeText(place)}: ${length} numbers are neither a box nor an outline of x and y pairs`);
      }
      task = "instance_segmentation";
    }
    return ok(task);
  }

  #names(): Result<string[], FormatProblem> {
    const { id, place } = this.#highestClass;
    const names = this.#yaml?.names ?? null;
    const count = names?.length ?? this.#yaml?.classCount ?? id + 1;
    if (id >= count) return brokenFile(`${placeText(place)}: class id ${id}, but data.yaml has ${count} classes`);
    return ok(names ?? Array.from({ length: count }, (_, index) => String(index)));
  }

  /** The folder that `data.yaml` names for a split, else the name of a folder. */
  #splitOf(path: string): SplitName | null {
    for (const { split, folder } of this.#yaml?.folders ?? []) {
      const tail = folder.replace(/^(?:\.{1,2}\/)+/, "").replace(/\/+$/, "");
      if (tail !== "" && !tail.startsWith("/") && path.startsWith(`${tail}/`)) return split;
    }
    return splitOfPath(path);
  }
}
