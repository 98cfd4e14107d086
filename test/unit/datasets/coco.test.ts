import { describe, it } from "vitest";
import { coco } from "../../../src/training/datasets/formats/coco.ts";
import { openFormat } from "../../../src/training/datasets/formats/index.ts";

type Json = Record<string, unknown>;

function read(images: string[], documents: Record<string, unknown>) {
  const opened = openFormat(
    coco,
    [...images, ...Object.keys(documents)].map((path) => ({ path, sizeBytes: 1 })),
  );
  if (!opened.ok) return { problem: opened.error, summary: null };
  const { reading, strippedPrefix } = opened.value;
  for (const [path, document] of Object.entries(documents)) {
    const inner = path.slice(strippedPrefix.length);
    if (!reading.wanted.has(inner)) continue;
    const taken = reading.take(inner, JSON.stringify(document));
    if (!taken.ok) return { problem: taken.error, summary: null };
  }
  const finished = reading.finish();
  return finished.ok ? { problem: null, summary: finished.value } : { problem: finished.error, summary: null };
}

const CATEGORIES = [
  { id: 18, name: "dog", supercategory: "animal" },
  { id: 17, name: "cat", supercategory: "animal" },
];

const box = (imageId: number, categoryId: number, more: Json = {}): Json => ({
  id: imageId * 100 + categoryId,
  image_id: imageId,
  category_id: categoryId,
  bbox: [1, 1, 10.5, 10.5],
  area: 110,
  iscrowd: 0,
  ...more,
});

const document = (images: Json[], annotations: Json[], categories: Json[] = CATEGORIES): Json => ({
  info: {},
  licenses: [],
  images,
  annotations,
  categories,
});

const image = (id: number, fileName: string): Json => ({ id, file_name: fileName, width: 100, height: 100 });
const warningsOf = (result: ReturnType<typeof read>) => result.summary?.warnings.map((warning) => warning.code);

describe("coco", () => {
  it("joins the files of its splits and counts annotations per category, ordered by id", ({ expect }) => {
    const result = read(["train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg"], {
      "annotations/instances_train2017.json": document(
        [image(1, "1.jpg"), image(2, "2.jpg")],
        [box(1, 18), box(1, 17), box(2, 18)],
      ),
      "annotations/instances_val2017.json": document([image(3, "3.jpg")], [box(3, 18)]),
      "annotations/captions_val2017.json": { not: "looked at" },
    });
    expect(result.summary).toMatchObject({
      format: "coco",
      layout: "per_split",
      taskType: "object_detection",
      numClasses: 2,
      classNames: ["cat", "dog"],
      classDistribution: { cat: 1, dog: 3 },
      imageCount: 3,
      splits: { train: 2, val: 1, test: 0 },
    });
    expect(result.summary?.placements.get("val2017/3.jpg")).toEqual({ split: "val", label: null });
    expect(warningsOf(result)).toContain("unused_annotations");
  });

  it("finds images in images/, in folders of the split, beside the file, or by a name that only one has", ({
    expect,
  }) => {
    const found = (path: string, file: string, name: string) =>
      read([path], { [file]: document([image(1, name)], [box(1, 17)]) }).summary?.placements.has(path) ?? false;
    expect(found("images/1.jpg", "annotations/instances.json", "1.jpg")).toBe(true);
    expect(found("images/train2017/1.jpg", "annotations/instances_train2017.json", "1.jpg")).toBe(true);
    expect(found("train/1.jpg", "train/_annotations.coco.json", "1.jpg")).toBe(true);
    expect(found("some/where/1.jpg", "annotations/all.json", "1.jpg")).toBe(true);
    expect(found("train2017/1.jpg", "annotations/instances_train2017.json", "train2017/1.jpg")).toBe(true);
    expect(found("images/2.jpg", "annotations/instances.json", "1.jpg")).toBe(false);
  });

  it("takes splits from _annotations.coco.json in each folder", ({ expect }) => {
    const { summary } = read(["train/1.jpg", "valid/1.jpg", "test/1.jpg"], {
      "train/_annotations.coco.json": document([image(0, "1.jpg")], [box(0, 17)]),
      "valid/_annotations.coco.json": document([image(0, "1.jpg")], [box(0, 17)]),
      "test/_annotations.coco.json": document([image(0, "1.jpg")], [box(0, 18)]),
    });
    expect(summary?.splits).toEqual({ train: 1, val: 1, test: 1 });
  });

  it("tells the task by the labels", ({ expect }) => {
    const taskOf = (more: Json, file = "annotations/instances_train.json") =>
      read(["images/1.jpg"], { [file]: document([image(1, "1.jpg")], [box(1, 17, more)]) }).summary?.taskType;
    expect(taskOf({})).toBe("object_detection");
    expect(taskOf({ segmentation: [] })).toBe("object_detection");
    expect(taskOf({ segmentation: [[1, 1, 2, 2, 3, 1]] })).toBe("instance_segmentation");
    expect(taskOf({ segmentation: { size: [100, 100], counts: "abc" }, iscrowd: 1 })).toBe("instance_segmentation");
    expect(taskOf({ keypoints: [1, 1, 2], num_keypoints: 1 }, "annotations/person_keypoints_train.json")).toBe(
      "pose_estimation",
    );
    expect(taskOf({ bbox: undefined })).toBe("image_classification");
  });

  it("warns of labels without the outline that others have, of images listed twice and images left out", ({
    expect,
  }) => {
    const outlined = box(1, 17, { segmentation: [[1, 1, 2, 2, 3, 1]] });
    const result = read(["images/1.jpg", "images/2.jpg"], {
      "annotations/instances_train.json": document(
        [image(1, "1.jpg"), image(9, "9.jpg")],
        [outlined, box(1, 18, { segmentation: [] })],
      ),
      "annotations/instances_val.json": document([image(1, "1.jpg")], [outlined]),
    });
    expect(warningsOf(result)).toEqual(
      expect.arrayContaining(["missing_files", "incomplete_annotations", "unlabelled_images", "image_in_two_splits"]),
    );
  });

  it("does not count labels of images that were not uploaded", ({ expect }) => {
    const { summary } = read(["images/1.jpg"], {
      "annotations/instances.json": document(
        [image(1, "1.jpg"), image(2, "2.jpg")],
        [box(1, 17), box(2, 18), box(2, 18)],
      ),
    });
    expect(summary?.classDistribution).toEqual({ cat: 1, dog: 0 });
  });
});

describe("what is not coco", () => {
  it("is refused on the field format", ({ expect }) => {
    expect(read(["train/cat/1.png"], {}).problem).toEqual({
      field: "format",
      message: 'coco needs annotations/*.json or <split>/_annotations.coco.json; found "train/cat/1.png"',
    });
    expect(read([], { "annotations/instances.json": document([], []) }).problem?.field).toBe("format");
    expect(read(["images/1.jpg"], { "annotations/captions_train.json": {} }).problem?.field).toBe("format");
    const nested = { classes: [{ id: 0, name: "a" }], images: [{ file_name: "1.jpg", annotation: { class_id: 0 } }] };
    expect(read(["images/1.jpg"], { "annotations/instances.json": nested }).problem).toEqual({
      field: "format",
      message: "coco: annotations/instances.json has no list of annotations",
    });
  });

  it("is refused when no listed image was uploaded", ({ expect }) => {
    const { problem } = read(["images/other.jpg"], {
      "annotations/instances.json": document([image(1, "1.jpg")], [box(1, 17)]),
    });
    expect(problem?.message).toBe(
      'annotations/instances.json: none of the images it lists was uploaded, for example "1.jpg"',
    );
  });
});

describe("broken coco files are refused with their place", () => {
  const one = (images: Json[], annotations: Json[], categories?: Json[]) =>
    read(["images/1.jpg"], { "annotations/instances.json": document(images, annotations, categories) }).problem
      ?.message;

  it("in images, annotations and categories", ({ expect }) => {
    const at = "annotations/instances.json line 1";
    expect(one([image(1, "1.jpg")], [box(5, 17)])).toBe(`${at} (annotations[0].image_id): no image has the id "5"`);
    expect(one([image(1, "1.jpg")], [box(1, 99)])).toBe(`${at} (annotations[0].category_id): no class has the id 99`);
    expect(one([image(1, "1.jpg")], [box(1, 17, { bbox: [0, 0, -1, 5] })])).toContain(
      "(annotations[0].bbox): a box with a negative",
    );
    expect(one([image(1, "1.jpg")], [box(1, 17, { bbox: [0, 0, null, 5] })])).toContain("(annotations[0].bbox[2])");
    expect(one([image(1, "1.jpg"), image(1, "2.jpg")], [])).toContain("(images[1].id)");
    expect(one([{ file_name: "1.jpg" }], [])).toContain("an image without an id");
    expect(one([image(1, "../1.jpg")], [])).toContain("(images[0].file_name): the file name leads out of its folder");
    expect(one([], [], [{ id: "x", name: "a" }])).toContain("(categories[0].id)");
  });

  it("when two files give one category two names, or one name two ids", ({ expect }) => {
    const files = (categories: Json[]) =>
      read(["images/1.jpg", "images/2.jpg"], {
        "annotations/instances_train.json": document([image(1, "1.jpg")], [box(1, 17)]),
        "annotations/instances_val.json": document([image(2, "2.jpg")], [], categories),
      }).problem?.message;
    expect(files([{ id: 17, name: "dog" }])).toBe(
      'annotations/instances_val.json: category 17 is "dog", but "cat" in annotations/instances_train.json',
    );
    expect(files([{ id: 99, name: "cat" }])).toBe('the category name "cat" has two ids');
  });
});
