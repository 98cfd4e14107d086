import { describe, it } from "vitest";
import { dice } from "../../../src/training/datasets/formats/dice.ts";
import { openFormat } from "../../../src/training/datasets/formats/index.ts";

type Json = Record<string, unknown>;

function read(paths: string[], document: unknown, file = "annotations.json") {
  return readText(paths, typeof document === "string" ? document : JSON.stringify(document), file);
}

function readText(paths: string[], text: string, file: string) {
  const opened = openFormat(
    dice,
    [...paths, file].map((path) => ({ path, sizeBytes: 10 })),
  );
  if (!opened.ok) return { problem: opened.error, summary: null };
  const { reading } = opened.value;
  for (const path of reading.wanted) {
    const taken = reading.take(path, text);
    if (!taken.ok) return { problem: taken.error, summary: null };
  }
  const finished = reading.finish();
  return finished.ok ? { problem: null, summary: finished.value } : { problem: finished.error, summary: null };
}

const CLASSES = [
  { id: 1, name: "dog", color: "#fff", supercategory: "animal" },
  { id: 0, name: "cat", color: "#000", supercategory: "animal" },
];

const nested = (task: string | undefined, images: Json[], more: Json = {}): Json => ({
  format_version: "1.0",
  dataset_id: "x",
  dataset_name: "y",
  ...(task === undefined ? {} : { task_type: task }),
  classes: CLASSES,
  images,
  ...more,
});

const image = (id: number, labels: Json, more: Json = {}): Json => ({
  id,
  file_name: `images/${id}.jpg`,
  width: 100,
  height: 80,
  depth: 3,
  ...labels,
  ...more,
});

const paths = (count: number) => Array.from({ length: count }, (_, i) => `images/${i}.jpg`);
const warningsOf = (result: ReturnType<typeof read>) => result.summary?.warnings.map((warning) => warning.code);

describe("dice, nested, classification", () => {
  const document = nested("classification", [
    image(0, { annotation: { class_id: 0, class_name: "cat", confidence: 1 } }, { split: "train" }),
    image(1, { annotation: { class_id: 1, class_name: "dog" } }, { split: "train" }),
    image(2, { annotation: { class_id: 1 } }, { split: "val" }),
    image(3, { annotation: { class_name: "dog" } }, { split: null }),
    image(4, { annotation: null }),
  ]);

  it("counts images per class, orders classes by id, and takes splits from the images", ({ expect }) => {
    const { summary } = read(paths(5), document);
    expect(summary).toMatchObject({
      format: "dice",
      layout: "nested",
      taskType: "image_classification",
      numClasses: 2,
      classNames: ["cat", "dog"],
      classDistribution: { cat: 1, dog: 3 },
      imageCount: 5,
      splits: { train: 2, val: 1, test: 0 },
    });
    expect(summary?.placements.get("images/2.jpg")).toEqual({ split: "val", label: "dog" });
    expect(summary?.placements.get("images/4.jpg")).toEqual({ split: null, label: null });
  });

  it("warns of images without a class, images that are not listed and images that are missing", ({ expect }) => {
    const result = read(["images/0.jpg", "images/1.jpg", "images/4.jpg", "images/extra.jpg"], document);
    expect(warningsOf(result)).toEqual(["few_samples", "missing_files", "unlabelled_images", "unlabelled_images"]);
    expect(result.summary?.classDistribution).toEqual({ cat: 1, dog: 1 });
    expect(result.summary?.imageCount).toBe(4);
    expect(result.summary?.warnings[1]?.message).toBe(
      '2 listed images were not uploaded: "images/2.jpg", "images/3.jpg"',
    );
  });

  it("finds images named with and without images/, wherever they were put", ({ expect }) => {
    const bare = nested("classification", [{ id: 0, file_name: "a.jpg", annotation: { class_id: 0 } }]);
    expect(read(["images/a.jpg"], bare).summary?.placements.has("images/a.jpg")).toBe(true);
    expect(read(["a.jpg"], bare).summary?.placements.has("a.jpg")).toBe(true);
    const full = nested("classification", [{ id: 0, file_name: "images/a.jpg", annotation: { class_id: 0 } }]);
    expect(read(["a.jpg"], full).summary?.placements.has("a.jpg")).toBe(true);
  });

  it("matches names whose Unicode form differs", ({ expect }) => {
    const decomposed = nested("classification", [
      { file_name: "images/고양이.jpg".normalize("NFD"), annotation: { class_id: 0 } },
    ]);
    expect(read(["images/고양이.jpg"], decomposed).summary?.placements.size).toBe(1);
  });

  it("may be called annotation.json and lie in one folder around everything", ({ expect }) => {
    const opened = openFormat(dice, [
      { path: "export/annotation.json", sizeBytes: 1 },
      { path: "export/images/0.jpg", sizeBytes: 1 },
    ]);
    expect(opened.ok && [opened.value.strippedPrefix, [...opened.value.reading.wanted]]).toEqual([
      "export/",
      ["annotation.json"],
    ]);
  });

  it("takes class ids as numbers or as their text, and the hyphenated and short names of tasks", ({ expect }) => {
    const text = { ...nested("image-classification", [image(0, { annotation: { class_id: "1" } })]) };
    text.classes = [
      { id: "0", name: "cat" },
      { id: "1", name: "dog" },
    ];
    expect(read(paths(1), text).summary?.classDistribution).toEqual({ cat: 0, dog: 1 });
  });

  it("keeps class names that are prototype members", ({ expect }) => {
    const text = `{"classes":[{"id":0,"name":"__proto__"},{"id":1,"name":"constructor"}],"__proto__":{"polluted":1},
      "images":[{"file_name":"images/0.jpg","annotation":{"class_id":0,"__proto__":{"class_id":1}}}]}`;
    const { summary } = read(paths(1), text);
    expect(JSON.stringify(summary?.classDistribution)).toBe('{"__proto__":1,"constructor":0}');
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });
});

describe("dice, nested, boxes and outlines", () => {
  const box = (classId: number, bbox: unknown, more: Json = {}): Json => ({
    id: 1,
    class_id: classId,
    class_name: classId === 0 ? "cat" : "dog",
    bbox,
    bbox_format: "xywh",
    area: 100,
    iscrowd: 0,
    ...more,
  });

  it("detection counts annotations per class", ({ expect }) => {
    const { summary } = read(
      paths(3),
      nested("object_detection", [
        image(0, { annotations: [box(0, [1, 2, 3, 4]), box(1, [0, 0, 100, 80])] }),
        image(1, { annotations: [box(1, [5, 5, 5.5, 5.25])] }),
        image(2, { annotations: [] }),
      ]),
    );
    expect(summary).toMatchObject({
      taskType: "object_detection",
      classDistribution: { cat: 1, dog: 2 },
      imageCount: 3,
    });
    expect(summary?.placements.get("images/0.jpg")).toEqual({ split: null, label: null });
  });

  it("instance segmentation takes polygons and runs", ({ expect }) => {
    const { summary } = read(
      paths(2),
      nested("segmentation", [
        image(0, { annotations: [box(0, [1, 2, 3, 4], { segmentation: [[1, 2, 3, 4, 5, 6]] })] }),
        image(1, { annotations: [box(1, [1, 2, 3, 4], { segmentation: { size: [80, 100], counts: [1, 2, 3] } })] }),
      ]),
    );
    expect(summary).toMatchObject({ taskType: "instance_segmentation", classDistribution: { cat: 1, dog: 1 } });
  });

  it("pose takes triples of x, y, visibility", ({ expect }) => {
    const keypoints = Array.from({ length: 17 }, (_, i) => [i, i, i % 3]).flat();
    const { summary } = read(
      paths(1),
      nested("pose", [image(0, { annotations: [box(0, [1, 2, 3, 4], { keypoints, num_keypoints: 17 })] })]),
    );
    expect(summary).toMatchObject({ taskType: "pose_estimation", classDistribution: { cat: 1, dog: 0 } });
  });

  it("semantic segmentation has a mask per image, which is not a picture of its own", ({ expect }) => {
    const mask = (name: string) => ({ annotation: { mask_file: name, mask_format: "indexed_png", num_classes: 2 } });
    const result = read(
      ["images/0.jpg", "images/1.jpg", "masks/0.png"],
      nested("semantic_segmentation", [image(0, mask("masks/0.png")), image(1, mask("1.png"))]),
    );
    expect(result.summary).toMatchObject({
      taskType: "semantic_segmentation",
      numClasses: 2,
      classDistribution: {},
      imageCount: 2,
    });
    expect(warningsOf(result)).toEqual(["missing_masks"]);
  });

  it("infers the task from the labels when the document does not tell", ({ expect }) => {
    const taskOf = (labels: Json) => read(paths(1), nested(undefined, [image(0, labels)])).summary?.taskType;
    expect(taskOf({ annotation: { class_id: 0 } })).toBe("image_classification");
    expect(taskOf({ annotation: { mask_file: "masks/0.png" } })).toBe("semantic_segmentation");
    expect(taskOf({ annotations: [box(0, [1, 2, 3, 4])] })).toBe("object_detection");
    expect(taskOf({ annotations: [box(0, [1, 2, 3, 4], { segmentation: [[1, 2, 3, 4, 5, 6]] })] })).toBe(
      "instance_segmentation",
    );
    expect(taskOf({ annotations: [box(0, [1, 2, 3, 4], { keypoints: [1, 2, 0] })] })).toBe("pose_estimation");
  });

  it("warns of boxes without an area and over the edge", ({ expect }) => {
    const result = read(
      paths(1),
      nested("detection", [
        image(0, { annotations: [box(0, [1, 1, 0, 5]), box(1, [50, 50, 60, 10]), box(1, [0, 0, 101, 81])] }),
      ]),
    );
    expect(warningsOf(result)).toEqual(["small_class", "few_samples", "empty_boxes", "boxes_outside_image"]);
  });
});

describe("dice, flat", () => {
  const flat = (images: Json[], annotations: Json[], more: Json = {}): Json => ({
    categories: [
      { id: 0, name: "__background__" },
      { id: 7, name: "dog" },
      { id: 3, name: "cat" },
    ],
    images,
    annotations,
    ...more,
  });

  it("joins labels and images by id, as number or text, and skips the background", ({ expect }) => {
    const { summary } = read(
      ["images/a.jpg", "images/b.jpg"],
      flat(
        [
          { id: 1, file_name: "a.jpg", width: 10, height: 10 },
          { id: "2", file_name: "b.jpg" },
        ],
        [
          { id: 1, image_id: "1", category_id: 3, bbox: [0, 0, 5, 5] },
          { id: 2, image_id: 2, category_id: 7, bbox: [0, 0, 5, 5] },
          { id: 3, image_id: 2, category_id: 0, bbox: [0, 0, 5, 5] },
        ],
      ),
    );
    expect(summary).toMatchObject({
      layout: "coco_flat",
      taskType: "object_detection",
      numClasses: 2,
      classNames: ["cat", "dog"],
      classDistribution: { cat: 1, dog: 1 },
    });
  });

  it("without images rebuilds them from the files, by path, name or name without ending", ({ expect }) => {
    const result = read(
      ["images/image_1.jpg", "images/train/image_2.png", "images/3.jpg"],
      flat(
        [],
        [
          { image_id: "image_1", category_id: 3 },
          { image_id: "train/image_2.png", category_id: 7 },
          { image_id: 3, category_id: 7 },
          { image_id: "nowhere", category_id: 7 },
        ],
      ),
    );
    expect(result.summary).toMatchObject({
      taskType: "image_classification",
      classDistribution: { cat: 1, dog: 2 },
      splits: { train: 1, val: 0, test: 0 },
    });
    expect(warningsOf(result)).toContain("orphan_annotations");
  });

  it("does not guess when a name without ending is shared", ({ expect }) => {
    const result = read(
      ["images/a/1.jpg", "images/b/1.jpg", "images/c/2.jpg"],
      flat(
        [],
        [
          { image_id: "1", category_id: 3 },
          { image_id: "2", category_id: 3 },
        ],
      ),
    );
    expect(result.summary?.classDistribution).toEqual({ cat: 1, dog: 0 });
  });

  it("counts the first class of an image and warns of a second one", ({ expect }) => {
    const result = read(
      paths(1),
      flat(
        [{ id: 0, file_name: "0.jpg" }],
        [
          { image_id: 0, category_id: 3 },
          { image_id: 0, category_id: 3 },
          { image_id: 0, category_id: 7 },
        ],
      ),
    );
    expect(result.summary?.classDistribution).toEqual({ cat: 1, dog: 0 });
    expect(warningsOf(result)).toContain("several_labels");
  });

  it("refuses labels of images that are not in its list", ({ expect }) => {
    const { problem } = read(paths(1), flat([{ id: 0, file_name: "0.jpg" }], [{ image_id: 5, category_id: 3 }]));
    expect(problem?.message).toBe('annotations.json line 1 (annotations[0].image_id): no image has the id "5"');
  });
});

describe("dice, a file per task", () => {
  it("finds images below the storage root that the file was made for", ({ expect }) => {
    const { summary } = read(
      ["images/a.jpg", "images/negative.jpg"],
      {
        storage_info: { image_root: "datasets/42/images/" },
        categories: [{ id: 1, name: "cat" }],
        images: [{ id: 1, file_name: "a.jpg" }],
        annotations: [{ image_id: 1, category_id: 1, bbox: [1, 1, 2, 2] }],
      },
      "annotations_detection.json",
    );
    expect(summary).toMatchObject({ layout: "per_task", taskType: "object_detection", imageCount: 2, numClasses: 1 });
    expect(summary?.placements.has("images/a.jpg")).toBe(true);
  });

  it("takes the task from the file's name, and names the files that are not used", ({ expect }) => {
    const document = { classes: CLASSES, images: [image(0, { annotation: { class_id: 0 } })] };
    const opened = openFormat(dice, [
      { path: "annotations_classification.json", sizeBytes: 1 },
      { path: "annotations_pose.json", sizeBytes: 1 },
      { path: "annotations.json", sizeBytes: 1 },
      { path: "images/0.jpg", sizeBytes: 1 },
    ]);
    if (!opened.ok) throw new Error(opened.error.message);
    expect([...opened.value.reading.wanted]).toEqual(["annotations_classification.json"]);
    expect(opened.value.reading.take("annotations_classification.json", JSON.stringify(document)).ok).toBe(true);
    const finished = opened.value.reading.finish();
    expect(finished.ok && finished.value.taskType).toBe("image_classification");
    expect(finished.ok && finished.value.warnings.find((w) => w.code === "several_tasks")?.message).toContain(
      "annotations_pose.json",
    );
  });

  it("tells instance from semantic segmentation by the labels", ({ expect }) => {
    const semantic = { classes: CLASSES, images: [image(0, { annotation: { mask_file: "0.png" } })] };
    expect(read(paths(1), semantic, "annotations_segmentation.json").summary?.taskType).toBe("semantic_segmentation");
    const instance = { classes: CLASSES, images: [image(0, { annotations: [] })] };
    expect(read(paths(1), instance, "annotations_segmentation.json").summary?.taskType).toBe("instance_segmentation");
  });
});

describe("what is not dice", () => {
  it("is refused on the field format, with what was found", ({ expect }) => {
    const opened = openFormat(dice, [
      { path: "train/cat/1.png", sizeBytes: 1 },
      { path: "train/dog/1.png", sizeBytes: 1 },
    ]);
    expect(opened.ok ? null : opened.error).toEqual({
      field: "format",
      message:
        'dice needs annotations.json, or annotations_<task>.json, at the top; found "train/cat/1.png", "train/dog/1.png"',
    });
    expect(read([], nested("classification", [])).problem?.field).toBe("format");
  });

  it("is refused when no listed image was uploaded, or none is listed", ({ expect }) => {
    const { problem } = read(
      ["images/other.jpg"],
      nested("classification", [image(0, { annotation: { class_id: 0 } })]),
    );
    expect(problem).toEqual({
      field: "files",
      message: 'annotations.json: none of the images it lists was uploaded, for example "images/0.jpg"',
    });
    expect(read(paths(1), nested("classification", [])).problem?.message).toContain("lists no image");
  });
});

describe("a broken annotation file", () => {
  const first = (labels: Json, more: Json = {}) => nested(undefined, [image(0, labels, more)]);
  const boxed = (bbox: unknown, more: Json = {}) =>
    nested("detection", [
      image(0, {
        annotations: [
          { class_id: 0, bbox: [1, 1, 1, 1] },
          { class_id: 0, bbox, ...more },
        ],
      }),
    ]);
  const at = (path: string) => `(${path})`;

  for (const [what, document, position] of [
    ["a list in place of the document", [], "an object"],
    ["no classes", { images: [] }, at("categories")],
    ["classes that are no list", { classes: {} }, at("classes")],
    ["an empty list of classes", { classes: [] }, at("classes")],
    ["a class without an id", { classes: [{ name: "a" }] }, at("classes[0].id")],
    ["a class id that is negative", { classes: [{ id: -1, name: "a" }] }, at("classes[0].id")],
    ["a class id that is a fraction", { classes: [{ id: 1.5, name: "a" }] }, at("classes[0].id")],
    ["a class id that is odd text", { classes: [{ id: "01", name: "a" }] }, at("classes[0].id")],
    ["a class id that is null", { classes: [{ id: null, name: "a" }] }, at("classes[0].id")],
    ["a class without a name", { classes: [{ id: 0, name: "" }] }, at("classes[0].name")],
    [
      "a class id used twice",
      {
        classes: [
          { id: 1, name: "a" },
          { id: "1", name: "b" },
        ],
      },
      at("classes[1].id"),
    ],
    [
      "a class name used twice",
      {
        classes: [
          { id: 1, name: "a" },
          { id: 2, name: "a" },
        ],
      },
      at("classes[1].name"),
    ],
    ["a class name with a line break", { classes: [{ id: 1, name: "a\nb" }] }, at("classes")],
    ["a million classes", { classes: Array.from({ length: 1_000_000 }, () => 0) }, "1000000 classes"],
    ["an unknown task", nested("juggling", []), at("task_type")],
    ["images that are no list", { classes: CLASSES, images: {} }, at("images")],
    ["an image that is no object", { classes: CLASSES, images: [5] }, at("images[0]")],
    ["an image without a name", { classes: CLASSES, images: [{ id: 1 }] }, at("images[0].file_name")],
    [
      "a name that climbs",
      { classes: CLASSES, images: [{ file_name: "../../etc/passwd" }] },
      at("images[0].file_name"),
    ],
    [
      "an image listed twice",
      { classes: CLASSES, images: [{ file_name: "a.jpg" }, { file_name: "./a.jpg" }] },
      at("images[1].file_name"),
    ],
    [
      "an image id used twice",
      {
        classes: CLASSES,
        images: [
          { id: 1, file_name: "a.jpg" },
          { id: "1", file_name: "b.jpg" },
        ],
      },
      at("images[1].id"),
    ],
    [
      "an image without an area",
      { classes: CLASSES, images: [{ file_name: "a.jpg", width: 0, height: 5 }] },
      at("images[0]"),
    ],
    ["an unknown split", first({ annotation: null }, { split: "holdout" }), at("images[0].split")],
    ["an unknown class", first({ annotation: { class_id: 9 } }), at("images[0].annotation.class_id")],
    ["an unknown class name", first({ annotation: { class_name: "cow" } }), at("images[0].annotation.class_name")],
    ["a label without a class", first({ annotation: {} }), at("images[0].annotation.class_id")],
    [
      "a class name of another class",
      first({ annotation: { class_id: 0, class_name: "dog" } }),
      'class 0 is "cat", not "dog"',
    ],
    ["a mask that climbs", first({ annotation: { mask_file: "/etc/passwd" } }), at("images[0].annotation.mask_file")],
    ["a box of three", boxed([1, 2, 3]), at("images[0].annotations[1].bbox")],
    ["a box with a negative width", boxed([1, 2, -3, 4]), at("images[0].annotations[1].bbox")],
    ["a box with a negative place", boxed([-1, 2, 3, 4]), at("images[0].annotations[1].bbox")],
    ["a box of texts", boxed([1, 2, 3, "4"]), at("images[0].annotations[1].bbox[3]")],
    ["a box with null", boxed([1, null, 3, 4]), at("images[0].annotations[1].bbox[1]")],
    ["no box", boxed(undefined), at("images[0].annotations[1].bbox")],
    ["a box in another form", boxed([1, 2, 3, 4], { bbox_format: "xyxy" }), at("images[0].annotations[1].bbox_format")],
    [
      "a polygon of two points",
      nested("segmentation", [image(0, { annotations: [{ class_id: 0, segmentation: [[1, 2, 3, 4]] }] })]),
      at("images[0].annotations[0].segmentation[0]"),
    ],
    [
      "a polygon with an odd number",
      nested("segmentation", [image(0, { annotations: [{ class_id: 0, segmentation: [[1, 2, 3, 4, 5, 6, 7]] }] })]),
      at("images[0].annotations[0].segmentation[0]"),
    ],
    [
      "a polygon with a text",
      nested("segmentation", [image(0, { annotations: [{ class_id: 0, segmentation: [[1, 2, 3, 4, 5, "6"]] }] })]),
      at("images[0].annotations[0].segmentation[0][5]"),
    ],
    [
      "keypoints that are no triples",
      nested("pose", [image(0, { annotations: [{ class_id: 0, keypoints: [1, 2] }] })]),
      at("images[0].annotations[0].keypoints"),
    ],
    [
      "a visibility of 3",
      nested("pose", [image(0, { annotations: [{ class_id: 0, keypoints: [1, 2, 3] }] })]),
      at("images[0].annotations[0].keypoints[2]"),
    ],
  ] as [string, unknown, string][]) {
    it(`is refused with its place: ${what}`, ({ expect }) => {
      const { problem } = read(["images/0.jpg", "a.jpg", "b.jpg"], document);
      expect(problem?.field).toBe("files");
      expect(problem?.message).toContain("annotations.json line 1");
      expect(problem?.message).toContain(position);
    });
  }

  it("names the line of the value", ({ expect }) => {
    const text = `{
  "note": "a \\" quote, a { brace and a [ bracket",
  "classes": [{"id": 0, "name": "cat"}],
  "task_type": "detection",
  "images": [
    {"file_name": "images/0.jpg", "annotations": []},
    {"file_name": "images/1.jpg",
     "annotations": [
       {"class_id": 0, "bbox": [1, 1, 1, 1]},
       {"class_id": 0,
        "bbox": [1, 1, -1, 1]}
     ]}
  ]
}`;
    expect(read(paths(2), text).problem?.message).toBe(
      "annotations.json line 11 (images[1].annotations[1].bbox): a box with a negative number",
    );
  });

  for (const [what, text, line] of [
    ["NaN", '{\n"classes": [],\n"x": [1, NaN]}', " line 3"],
    ["Infinity", '{\n"x": -Infinity}', " line 2"],
    ["a trailing comma", '{"x": [1,\n]}', " line 2"],
    ["a missing comma", '{"x": 1\n"y": 2}', " line 2"],
    ["a missing colon", '{"x"\n1}', " line 2"],
    ["a single quote", "{\n'x': 1}", " line 2"],
    ["an open text", '{"x": "abc\n', " line 1"],
    ["an open list", '{"x": [1,\n2', " line 2"],
    ["a wrong bracket", '{"x": [1}\n', " line 1"],
    ["two documents", "{}\n{}", " line 2"],
    ["a comment", '{\n// hello\n"x": 1}', " line 2"],
    ["a bad escape", '{"x":\n"\\q"}', " line 2"],
    ["nothing", "", ""],
    ["blanks", " \n ", ""],
  ] as const) {
    it(`that is not JSON is refused with its line: ${what}`, ({ expect }) => {
      expect(read(paths(1), text).problem?.message).toBe(`annotations.json${line}: not valid JSON`);
    });
  }

  it("with a number too large for a double is refused", ({ expect }) => {
    const text = JSON.stringify(boxed([1, 1, 1, 777])).replace("777", "1e999");
    expect(read(paths(1), text).problem?.message).toContain("(images[0].annotations[1].bbox[3]): a finite number");
  });

  it("with a text of megabytes before the mistake is refused with its line", ({ expect }) => {
    const text = `{"x": "${"long ".repeat(1_000_000)}",\n"y": NaN}`;
    expect(read(paths(1), text).problem?.message).toBe("annotations.json line 2: not valid JSON");
    expect(read(paths(1), text.slice(0, 3_000_000)).problem?.message).toBe("annotations.json line 1: not valid JSON");
  });

  it("nested 100,000 lists deep is refused without running out of stack", ({ expect }) => {
    const deep = `{"classes": ${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
    expect(read(paths(1), deep).problem?.field).toBe("files");
  });

  it("of 200,000 boxes is read in about a second", ({ expect }) => {
    const images = Array.from({ length: 2_000 }, (_, i) =>
      image(i, { annotations: Array.from({ length: 100 }, (_, j) => ({ class_id: j % 2, bbox: [j, j, 1, 1] })) }),
    );
    const text = JSON.stringify(nested("detection", images));
    const started = performance.now();
    expect(read(paths(2_000), text).summary?.classDistribution).toEqual({ cat: 100_000, dog: 100_000 });
    expect(performance.now() - started).toBeLessThan(4_000);
  });
});
