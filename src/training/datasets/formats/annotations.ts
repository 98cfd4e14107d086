import type { TaskType } from "../../../shared/task-types.ts";
import { baseName, canonicalPath } from "../paths.ts";
import { isImagePath, splitOfName, splitOfPath } from "./images.ts";
import {
  arrayAt,
  BadValue,
  classIdAt,
  idAt,
  type JsonObject,
  type JsonPath,
  numberAt,
  objectAt,
  textAt,
} from "./json.ts";
import { classNamesProblem, increment, MAX_CLASSES, someOf } from "./summary.ts";
import type { DatasetWarning, Placement, SplitName } from "./types.ts";

/**
 * The document that the dice layouts and COCO share: a list of classes, a list of images, and labels that stand inside each
 * image (nested) or in a list of their own (flat). Every value that a trainer would use is checked here.
 */

/** What a document says, with classes ordered by id and each label checked. */
export type AnnotationDocument = {
  taskType: TaskType;
  nested: boolean;
  classNames: string[];
  /** Without the hidden background class. */
  classesById: ReadonlyMap<number, string>;
  /** Annotations per class; images per class for classification. Only those of pictures that were uploaded. */
  counts: Map<string, number>;
  placements: Map<string, Placement>;
  /** Names of listed pictures that were not uploaded. */
  missingImages: string[];
  missingMasks: string[];
  /** Mask files in use, which are not pictures of their own. */
  masks: Set<string>;
  /** Boxes without an area, and boxes that reach over the edge of their picture. */
  emptyBoxes: number;
  outsideBoxes: number;
  /** Labels without the outline or keypoints that the task is about. */
  incompleteLabels: number;
  /** Pictures of a classification dataset with more than one class. */
  severalLabels: number;
  /** Labels of a flat list whose picture is unknown. */
  orphanLabels: number;
  listedImages: number;
};

/** Finds the uploaded file that a name in a document means. */
export type FileResolver = {
  image(name: string): string | null;
  mask(name: string): string | null;
  /** By what a flat list without images calls a picture: its path, its name, or its name without the ending. */
  imageById(id: string): string | null;
};

type Classes = { names: string[]; byId: Map<number, string> };

/** The hidden class of segmentation tools: it is no class to be learnt. */
const BACKGROUND = "__background__";

const TASK_NAMES: ReadonlyMap<string, TaskType> = new Map([
  ["image_classification", "image_classification"],
  ["classification", "image_classification"],
  ["object_detection", "object_detection"],
  ["detection", "object_detection"],
  ["instance_segmentation", "instance_segmentation"],
  ["segmentation", "instance_segmentation"],
  ["semantic_segmentation", "semantic_segmentation"],
  ["pose_estimation", "pose_estimation"],
  ["pose", "pose_estimation"],
]);

/**
 * Reads a whole document.
 * @param fallbackTask the task that the file's name says, where the document does not
 * @throws BadValue at the first value that is wrong
 */
export function readAnnotations(
  value: unknown,
  files: FileResolver,
  fallbackTask: TaskType | "segmentation" | null = null,
): AnnotationDocument {
  const root = objectAt(value, []);
  const classes = readClasses(root);
  const images = root.images === undefined ? [] : arrayAt(root.images, ["images"]);
  const flat = root.annotations !== undefined;
  const labels = flat ? arrayAt(root.annotations, ["annotations"]) : [];
  const document: AnnotationDocument = {
    taskType: taskOf(root, images, labels, fallbackTask),
    nested: !flat,
    classNames: classes.names,
    classesById: new Map([...classes.byId].filter(([, name]) => name !== BACKGROUND)),
    counts: new Map(),
    placements: new Map(),
    missingImages: [],
    missingMasks: [],
    masks: new Set(),
    emptyBoxes: 0,
    outsideBoxes: 0,
    incompleteLabels: 0,
    severalLabels: 0,
    orphanLabels: 0,
    listedImages: images.length,
  };
  const reader = new DocumentReader(document, classes, files);
  reader.images(images, !flat);
  reader.flatLabels(labels, images.length > 0);
  return document;
}

function readClasses(root: JsonObject): Classes {
  const key = root.classes === undefined ? "categories" : "classes";
  const list = arrayAt(root[key], [key]);
  // Before anything is built from them.
  if (list.length > MAX_CLASSES + 1)
    throw new BadValue([key], `${list.length} classes; at most ${MAX_CLASSES} are allowed`);
  const byId = new Map<number, string>();
  const names = new Set<string>();
  for (const [i, entry] of list.entries()) {
    const at = [key, i];
    const record = objectAt(entry, at);
    const id = classIdAt(record.id, [...at, "id"]);
    const name = textAt(record.name, [...at, "name"]);
    if (byId.has(id)) throw new BadValue([...at, "id"], `class id ${id} is used twice`);
    byId.set(id, name);
    if (name === BACKGROUND) continue;
    if (names.has(name)) throw new BadValue([...at, "name"], `the class name ${JSON.stringify(name)} is used twice`);
    names.add(name);
  }
  const ordered = [...byId].sort(([left], [right]) => left - right).map(([, name]) => name);
  const used = ordered.filter((name) => name !== BACKGROUND);
  if (used.length === 0) throw new BadValue([key], "no classes");
  const wrong = classNamesProblem(used);
  if (wrong) throw new BadValue([key], wrong);
  return { names: used, byId };
}

/** The declared task, else the one the file's name says, else the one that the first telling label is for. */
function taskOf(
  root: JsonObject,
  images: readonly unknown[],
  labels: readonly unknown[],
  fallback: TaskType | "segmentation" | null,
): TaskType {
  if (root.task_type !== undefined && root.task_type !== null) {
    const name = textAt(root.task_type, ["task_type"]).toLowerCase().replaceAll("-", "_");
    const task = TASK_NAMES.get(name);
    if (!task) throw new BadValue(["task_type"], `unknown task ${JSON.stringify(root.task_type).slice(0, 80)}`);
    return task;
  }
  if (fallback !== null && fallback !== "segmentation") return fallback;
  const guessed = guessTask(images, labels);
  if (fallback === "segmentation") return guessed === "semantic_segmentation" ? guessed : "instance_segmentation";
  return guessed;
}

function guessTask(images: readonly unknown[], labels: readonly unknown[]): TaskType {
  let seen: TaskType = "image_classification";
  for (const image of images) {
    if (typeof image !== "object" || image === null) continue;
    const { annotation, annotations } = image as JsonObject;
    if (typeof annotation === "object" && annotation !== null) {
      return "mask_file" in annotation ? "semantic_segmentation" : "image_classification";
    }
    if (Array.isArray(annotations)) seen = strongest(seen, annotations);
  }
  return strongest(seen, labels);
}

/** Keypoints say most, then outlines, then boxes. */
function strongest(seen: TaskType, labels: readonly unknown[]): TaskType {
  let task = seen;
  for (const label of labels) {
    if (typeof label !== "object" || label === null) continue;
    const { bbox, segmentation, keypoints } = label as JsonObject;
    if (Array.isArray(keypoints) && keypoints.length > 0) return "pose_estimation";
    if (hasOutline(segmentation)) task = "instance_segmentation";
    else if (Array.isArray(bbox) && task === "image_classification") task = "object_detection";
  }
  return task;
}

const hasOutline = (value: unknown): boolean =>
  Array.isArray(value) ? value.length > 0 : typeof value === "object" && value !== null;

type ImageSize = { width: number; height: number } | null;
type ListedImage = { path: string | null; size: ImageSize };

class DocumentReader {
  readonly #document: AnnotationDocument;
  readonly #classes: Classes;
  readonly #files: FileResolver;
  readonly #byId = new Map<string, ListedImage>();

  constructor(document: AnnotationDocument, classes: Classes, files: FileResolver) {
    this.#document = document;
    this.#classes = classes;
    this.#files = files;
  }

  images(list: readonly unknown[], nested: boolean): void {
    const names = new Set<string>();
    for (const [i, value] of list.entries()) {
      const at = ["images", i];
      const image = objectAt(value, at);
      const name = this.#fileName(image.file_name, [...at, "file_name"]);
      if (names.has(name)) throw new BadValue([...at, "file_name"], `${JSON.stringify(name)} is listed twice`);
      names.add(name);
      const path = this.#files.image(name);
      const listed = { path, size: sizeOf(image, at) };
      if (path === null) this.#document.missingImages.push(name);
      if (image.id !== undefined) {
        const id = idAt(image.id, [...at, "id"]);
        if (this.#byId.has(id)) throw new BadValue([...at, "id"], `image id ${JSON.stringify(id)} is used twice`);
        this.#byId.set(id, listed);
      } else if (!nested) {
        throw new BadValue(at, "an image without an id");
      }
      const split = this.#split(image.split, [...at, "split"]) ?? (path === null ? null : splitOfPath(path));
      if (path !== null) {
        if (this.#document.placements.has(path)) {
          throw new BadValue([...at, "file_name"], `${JSON.stringify(name)} is the same file as another image`);
        }
        this.#document.placements.set(path, { split, label: null });
      }
      if (nested) this.#nestedLabels(image, listed, at);
    }
  }

  flatLabels(list: readonly unknown[], imagesListed: boolean): void {
    for (const [i, value] of list.entries()) {
      const at = ["annotations", i];
      const label = objectAt(value, at);
      const id = idAt(label.image_id, [...at, "image_id"]);
      const image = this.#byId.get(id) ?? (imagesListed ? undefined : this.#unlisted(id));
      if (image === undefined) {
        if (imagesListed) throw new BadValue([...at, "image_id"], `no image has the id ${JSON.stringify(id)}`);
        this.#document.orphanLabels++;
      }
      this.#label(label, image ?? { path: null, size: null }, at, "category_id");
    }
  }

  /** A picture that only a label names. */
  #unlisted(id: string): ListedImage | undefined {
    const path = this.#files.imageById(id);
    if (path === null) return undefined;
    const image = { path, size: null };
    this.#byId.set(id, image);
    if (!this.#document.placements.has(path)) {
      this.#document.placements.set(path, { split: splitOfPath(path), label: null });
    }
    return image;
  }

  #nestedLabels(image: JsonObject, listed: ListedImage, at: JsonPath): void {
    const { annotation, annotations } = image;
    if (annotation !== undefined && annotation !== null) {
      const inner = [...at, "annotation"];
      const label = objectAt(annotation, inner);
      if (this.#document.taskType === "semantic_segmentation") this.#mask(label, inner);
      else this.#label(label, listed, inner, "class_id");
    }
    if (annotations !== undefined && annotations !== null) {
      for (const [i, value] of arrayAt(annotations, [...at, "annotations"]).entries()) {
        const inner = [...at, "annotations", i];
        this.#label(objectAt(value, inner), listed, inner, "class_id");
      }
    }
  }

  #label(label: JsonObject, image: ListedImage, at: JsonPath, idKey: "class_id" | "category_id"): void {
    const task = this.#document.taskType;
    const name = this.#className(label, idKey, at);
    if (task === "object_detection" || task === "instance_segmentation" || task === "pose_estimation") {
      // An outline or keypoints can stand alone; a detector needs its box.
      if (label.bbox !== undefined || task === "object_detection") this.#box(label, image.size, at);
      if (task === "instance_segmentation") this.#optional(label.segmentation, checkOutline, [...at, "segmentation"]);
      if (task === "pose_estimation") this.#optional(label.keypoints, checkKeypoints, [...at, "keypoints"]);
    }
    if (name === BACKGROUND || image.path === null) return;
    if (task !== "image_classification") {
      increment(this.#document.counts, name);
      return;
    }
    const placement = this.#document.placements.get(image.path);
    if (placement === undefined) return;
    if (placement.label !== null) {
      if (placement.label !== name) this.#document.severalLabels++;
      return;
    }
    placement.label = name;
    increment(this.#document.counts, name);
  }

  /** Exporters leave an empty list, or nothing, where an object was only boxed. */
  #optional(value: unknown, check: (value: unknown, at: JsonPath) => void, at: JsonPath): void {
    if (value === undefined || value === null || (Array.isArray(value) && value.length === 0)) {
      this.#document.incompleteLabels++;
    } else check(value, at);
  }

  #className(label: JsonObject, idKey: "class_id" | "category_id", at: JsonPath): string {
    const given = label.class_name ?? label.category_name;
    const named = given === undefined || given === null ? null : textAt(given, [...at, "class_name"]);
    const id = label[idKey] ?? label[idKey === "class_id" ? "category_id" : "class_id"];
    if (id === undefined && named !== null) {
      if (this.#classes.names.includes(named)) return named;
      throw new BadValue([...at, "class_name"], `${JSON.stringify(named)} is not a class`);
    }
    const classId = classIdAt(id, [...at, idKey]);
    const name = this.#classes.byId.get(classId);
    if (name === undefined) throw new BadValue([...at, idKey], `no class has the id ${classId}`);
    if (named !== null && named !== name) {
      throw new BadValue(at, `class ${classId} is ${JSON.stringify(name)}, not ${JSON.stringify(named)}`);
    }
    return name;
  }

  #mask(label: JsonObject, at: JsonPath): void {
    const name = this.#fileName(label.mask_file, [...at, "mask_file"]);
    const path = this.#files.mask(name);
    if (path === null) this.#document.missingMasks.push(name);
    else this.#document.masks.add(path);
  }

  #box(label: JsonObject, size: ImageSize, at: JsonPath): void {
    const format = label.bbox_format;
    if (format !== undefined && format !== null && format !== "xywh") {
      throw new BadValue([...at, "bbox_format"], `boxes are [x, y, width, height] in pixels ("xywh")`);
    }
    const inner = [...at, "bbox"];
    const box = arrayAt(label.bbox, inner);
    if (box.length !== 4) throw new BadValue(inner, `a box has 4 numbers, not ${box.length}`);
    const [x = 0, y = 0, width = 0, height = 0] = box.map((value, i) => numberAt(value, [...inner, i]));
    if (x < 0 || y < 0 || width < 0 || height < 0) throw new BadValue(inner, "a box with a negative number");
    if (width === 0 || height === 0) this.#document.emptyBoxes++;
    // One pixel of grace: tools round the far edge up.
    else if (size && (x + width > size.width + 1 || y + height > size.height + 1)) this.#document.outsideBoxes++;
  }

  #split(value: unknown, at: JsonPath): SplitName | null {
    if (value === undefined || value === null || value === "") return null;
    const split = splitOfName(textAt(value, at));
    if (split === null) throw new BadValue(at, `unknown split ${JSON.stringify(value).slice(0, 80)}`);
    return split;
  }

  #fileName(value: unknown, at: JsonPath): string {
    const name = canonicalPath(textAt(value, at));
    if (!name.ok) throw new BadValue(at, `the file name ${name.error}`);
    return name.value;
  }
}

function sizeOf(image: JsonObject, at: JsonPath): ImageSize {
  if (image.width === undefined || image.width === null || image.height === undefined || image.height === null)
    return null;
  const width = numberAt(image.width, [...at, "width"]);
  const height = numberAt(image.height, [...at, "height"]);
  if (width <= 0 || height <= 0) throw new BadValue(at, "an image without an area");
  return { width, height };
}

/** Polygons as lists of x, y pairs, or COCO's run-length form. */
function checkOutline(value: unknown, at: JsonPath): void {
  if (!Array.isArray(value)) {
    const runs = objectAt(value, at);
    if (!Array.isArray(runs.size) || (!Array.isArray(runs.counts) && typeof runs.counts !== "string")) {
      throw new BadValue(at, "an outline is a list of polygons, or runs with size and counts");
    }
    return;
  }
  for (const [i, polygon] of value.entries()) {
    const points = arrayAt(polygon, [...at, i]);
    if (points.length < 6 || points.length % 2 !== 0) {
      throw new BadValue([...at, i], "a polygon has at least 3 points, each with x and y");
    }
    const wrong = points.findIndex((number) => !Number.isFinite(number));
    if (wrong !== -1) numberAt(points[wrong], [...at, i, wrong]);
  }
}

function checkKeypoints(value: unknown, at: JsonPath): void {
  const points = arrayAt(value, at);
  if (points.length % 3 !== 0) throw new BadValue(at, "keypoints are triples of x, y, visibility");
  const wrong = points.findIndex((number) => !Number.isFinite(number));
  if (wrong !== -1) numberAt(points[wrong], [...at, wrong]);
  const badVisibility = points.findIndex((number, i) => i % 3 === 2 && number !== 0 && number !== 1 && number !== 2);
  if (badVisibility !== -1) throw new BadValue([...at, badVisibility], "visibility is 0, 1 or 2");
}

/** Images by file name, with and without its ending; null where several share it. */
export function indexByName(paths: ReadonlySet<string>): Map<string, string | null> {
  const index = new Map<string, string | null>();
  for (const path of paths) {
    if (!isImagePath(path)) continue;
    const name = baseName(path);
    for (const key of [name, name.slice(0, name.lastIndexOf("."))]) index.set(key, index.has(key) ? null : path);
  }
  return index;
}

/** Warnings that follow from what was read, for every format with such documents. */
export function documentWarnings(documents: readonly AnnotationDocument[]): DatasetWarning[] {
  const all = (names: (document: AnnotationDocument) => string[]) => documents.flatMap(names);
  const sum = (count: (document: AnnotationDocument) => number) =>
    documents.reduce((total, document) => total + count(document), 0);
  const unlabelled = documents
    .filter((document) => document.taskType === "image_classification")
    .flatMap((document) => [...document.placements])
    .filter(([, placement]) => placement.label === null)
    .map(([path]) => path);
  return [
    ...someOf(
      all((document) => document.missingImages),
      "missing_files",
      "listed images were not uploaded",
    ),
    ...someOf(
      all((document) => document.missingMasks),
      "missing_masks",
      "listed masks were not uploaded",
    ),
    ...someOf(unlabelled, "unlabelled_images", "listed images have no class"),
    ...amount(
      sum((document) => document.orphanLabels),
      "orphan_annotations",
      "annotations belong to no uploaded image",
    ),
    ...amount(
      sum((document) => document.severalLabels),
      "several_labels",
      "annotations give an image a second class and are not used",
    ),
    ...amount(
      sum((document) => document.incompleteLabels),
      "incomplete_annotations",
      "annotations lack the outline or keypoints of the others",
    ),
    ...amount(
      sum((document) => document.emptyBoxes),
      "empty_boxes",
      "boxes have no area",
    ),
    ...amount(
      sum((document) => document.outsideBoxes),
      "boxes_outside_image",
      "boxes reach over the edge of their image",
    ),
  ];
}

const amount = (count: number, code: string, what: string): DatasetWarning[] =>
  count === 0 ? [] : [{ code, message: `${count} ${what}` }];
