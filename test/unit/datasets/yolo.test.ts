import { describe, it } from "vitest";
import { openFormat } from "../../../src/training/datasets/formats/index.ts";
import { labelPathOf, yolo } from "../../../src/training/datasets/formats/yolo.ts";

/** Reads a dataset of images (no text) and text files, the texts in the given order. */
function read(images: string[], texts: Record<string, string>) {
  const files = [...images, ...Object.keys(texts)].map((path) => ({ path, sizeBytes: 1 }));
  const opened = openFormat(yolo, files);
  if (!opened.ok) return { problem: opened.error, summary: null };
  const { reading, strippedPrefix } = opened.value;
  for (const [path, text] of Object.entries(texts)) {
    const inner = path.slice(strippedPrefix.length);
    if (!reading.wanted.has(inner)) continue;
    const taken = reading.take(inner, text);
    if (!taken.ok) return { problem: taken.error, summary: null };
  }
  const finished = reading.finish();
  return finished.ok ? { problem: null, summary: finished.value } : { problem: finished.error, summary: null };
}

const YAML = "path: ../datasets/pets\ntrain: images/train\nval: images/val\nnc: 2\nnames: ['cat', 'dog']\n";
const IMAGES = ["images/train/1.jpg", "images/train/2.jpg", "images/val/3.jpg"];
const one = (line: string, yaml = YAML) =>
  read(["images/train/1.jpg"], { "labels/train/1.txt": line, "data.yaml": yaml });
const warningsOf = (result: ReturnType<typeof read>) => result.summary?.warnings.map((warning) => warning.code);

describe("yolo", () => {
  it("counts a label per line and class, names classes by id, and takes splits from folders", ({ expect }) => {
    const result = read(IMAGES, {
      "labels/train/1.txt": "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.05 0.05\n\n",
      "labels/train/2.txt": "1 0.5 0.5 1 1\r\n1 .5 .5 1e-1 1.0\r\n",
      "labels/val/3.txt": "",
      "data.yaml": YAML,
    });
    expect(result.summary).toMatchObject({
      format: "yolo",
      layout: "split_folders",
      taskType: "object_detection",
      numClasses: 2,
      classNames: ["cat", "dog"],
      classDistribution: { cat: 1, dog: 3 },
      imageCount: 3,
      splits: { train: 2, val: 1, test: 0 },
    });
    expect(result.summary?.placements.get("images/val/3.jpg")).toEqual({ split: "val", label: null });
  });

  it("reads labels before data.yaml and after it alike", ({ expect }) => {
    const labels = { "labels/train/1.txt": "1 0.5 0.5 0.2 0.2" };
    const before = read(IMAGES.slice(0, 1), { ...labels, "data.yaml": YAML });
    const after = read(IMAGES.slice(0, 1), { "data.yaml": YAML, ...labels });
    expect(before).toEqual(after);
    expect(before.summary?.classDistribution).toEqual({ cat: 0, dog: 1 });
  });

  it("takes images and labels in one folder per split, and flat ones", ({ expect }) => {
    const perSplit = read(["train/images/a.png", "valid/images/b.png"], {
      "train/labels/a.txt": "0 0.5 0.5 0.2 0.2",
      "valid/labels/b.txt": "1 0.5 0.5 0.2 0.2",
      "data.yaml": "train: ../train/images\nval: ../valid/images\nnames: {0: cat, 1: dog}",
    });
    expect(perSplit.summary?.splits).toEqual({ train: 1, val: 1, test: 0 });
    const flat = read(["images/a.png"], { "labels/a.txt": "0 0.5 0.5 0.2 0.2", "data.yaml": "names: [cat]" });
    expect(flat.summary).toMatchObject({ layout: "flat", splits: null, numClasses: 1 });
  });

  it("takes the split from the folders that data.yaml names before the names of folders", ({ expect }) => {
    const { summary } = read(["images/set1/a.png", "images/set2/b.png"], {
      "labels/set1/a.txt": "0 0.5 0.5 0.2 0.2",
      "labels/set2/b.txt": "0 0.5 0.5 0.2 0.2",
      "data.yaml": "train: [./images/set1/]\nval: images/set2\ntest: /absolute/path\nnames: [cat]",
    });
    expect(summary?.splits).toEqual({ train: 1, val: 1, test: 0 });
  });

  it("inside one folder around everything is read without it", ({ expect }) => {
    const { summary } = read(["coco8/images/train/1.jpg"], {
      "coco8/labels/train/1.txt": "0 0.5 0.5 0.2 0.2",
      "coco8/data.yaml": "names: [a]",
    });
    expect(summary?.classNames).toEqual(["a"]);
  });

  it("tells outlines and keypoints by the length of their lines", ({ expect }) => {
    expect(one("0 0.1 0.1 0.2 0.1 0.2 0.2").summary?.taskType).toBe("instance_segmentation");
    expect(one("0 0.1 0.1 0.2 0.1 0.2 0.2\n1 0.5 0.5 0.2 0.2").summary?.taskType).toBe("instance_segmentation");
    const pose3 = `${YAML}kpt_shape: [2, 3]`;
    expect(one("0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.2 0.2 0", pose3).summary?.taskType).toBe("pose_estimation");
    expect(one("0 0.5 0.5 0.2 0.2 0.1 0.1 0.2 0.2", `${YAML}kpt_shape: [2, 2]`).summary?.taskType).toBe(
      "pose_estimation",
    );
  });

  it("numbers the classes when nobody names them", ({ expect }) => {
    const none = read(["images/a.png"], { "labels/a.txt": "3 0.5 0.5 0.2 0.2" });
    expect(none.summary).toMatchObject({ numClasses: 4, classNames: ["0", "1", "2", "3"] });
    expect(warningsOf(none)).toContain("no_class_names");
    const counted = read(["images/a.png"], { "labels/a.txt": "1 0.5 0.5 0.2 0.2", "data.yaml": "nc: 3" });
    expect(counted.summary?.numClasses).toBe(3);
  });

  it("warns of images without labels, labels without images, empty boxes and images elsewhere", ({ expect }) => {
    const result = read(["images/train/1.jpg", "images/train/2.jpg", "preview.png"], {
      "labels/train/1.txt": "0 0.5 0.5 0 0.2\n1 0.5 0.5 0.1 0.1",
      "labels/train/9.txt": "this is never read",
      "labels/classes.txt": "cat\ndog",
      "data.yaml": YAML,
    });
    expect(warningsOf(result)).toEqual([
      "few_samples",
      "unlabelled_images",
      "orphan_annotations",
      "extra_files",
      "empty_boxes",
    ]);
  });

  it("keeps names that are prototype members, numbers and words of YAML", ({ expect }) => {
    const names = (yaml: string) => one("0 0.5 0.5 0.2 0.2", yaml).summary?.classNames;
    expect(names("names: [__proto__, constructor]")).toEqual(["__proto__", "constructor"]);
    expect(names("names: [0, 1, 1.0, no, yes, 0x1f, true]")).toEqual(["0", "1", "1.0", "no", "yes", "0x1f", "true"]);
    expect(names("names:\n  0: 고양이\n  1: 개")).toEqual(["고양이", "개"]);
  });

  it("finds the label file of an image by its last images folder", ({ expect }) => {
    expect(labelPathOf("images/train/a.b.jpg")).toBe("labels/train/a.b.txt");
    expect(labelPathOf("images/x/images/1.png")).toBe("images/x/labels/1.txt");
    expect(labelPathOf("my-images/images/1.png")).toBe("my-images/labels/1.txt");
  });
});

describe("what is not yolo", () => {
  for (const [what, images, texts, found] of [
    ["no labels", ["images/1.jpg"], {}, "images without labels"],
    ["labels without images", [], { "labels/1.txt": "0 1 1 1 1" }, '"labels/1.txt"'],
    ["an image folder", ["train/cat/1.png", "train/dog/2.png"], {}, '"train/cat/1.png"'],
    ["an image folder in a folder", ["pets/cat/1.png", "pets/dog/2.png"], {}, '"cat/1.png"'],
    ["nothing but empty labels", ["images/1.jpg"], { "labels/1.txt": "\n" }, "no label with at least 5 numbers"],
    [
      "labels of other images only",
      ["images/1.jpg"],
      { "labels/2.txt": "0 1 1 1 1" },
      "no label with at least 5 numbers",
    ],
  ] as [string, string[], Record<string, string>, string][]) {
    it(`is refused on the field format: ${what}`, ({ expect }) => {
      const { problem } = read(images, texts);
      expect(problem?.field).toBe("format");
      expect(problem?.message).toContain(found);
    });
  }
});

describe("a broken label line is refused with file and line", () => {
  for (const [what, line, message] of [
    ["four numbers", "0 0.5 0.5 0.2", "4 numbers; a label has at least 5"],
    ["a name in place of the id", "cat 0.5 0.5 0.2 0.2", '"cat" is not a class id'],
    ["a negative id", "-1 0.5 0.5 0.2 0.2", '"-1" is not a class id'],
    ["a fraction as id", "0.5 0.5 0.5 0.2 0.2", '"0.5" is not a class id'],
    ["a huge id", "999999 0.5 0.5 0.2 0.2", "class id 999999"],
    ["NaN", "0 NaN 0.5 0.2 0.2", '"NaN" is not a number'],
    ["Infinity", "0 Infinity 0.5 0.2 0.2", '"Infinity" is not a number'],
    ["1e999", "0 1e999 0.5 0.2 0.2", '"1e999" is not a number'],
    ["a word", "0 x 0.5 0.2 0.2", '"x" is not a number'],
    ["a comma", "0 0,5 0.5 0.2 0.2", '"0,5" is not a number'],
    ["a negative number", "0 -0.1 0.5 0.2 0.2", "-0.1 is negative"],
    ["pixels", "0 120 80 20 20", "120 is above 1"],
    ["six numbers", "0 0.1 0.2 0.3 0.4 0.5", "6 numbers are neither a box nor an outline"],
    ["an even outline", "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "8 numbers are neither a box nor an outline"],
    ["a 2 without keypoints", "0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.3", "2 is above 1"],
    ["a class that data.yaml does not have", "2 0.5 0.5 0.2 0.2", "class id 2, but data.yaml has 2 classes"],
  ] as const) {
    it(what, ({ expect }) => {
      const { problem } = one(`0 0.5 0.5 0.2 0.2\n\n${line}\n`);
      expect(problem?.field).toBe("files");
      expect(problem?.message).toContain("labels/train/1.txt line 3: ");
      expect(problem?.message).toContain(message);
    });
  }

  it("lines that do not have the keypoints that data.yaml announces", ({ expect }) => {
    const { problem } = one("0 0.5 0.5 0.2 0.2\n", `${YAML}kpt_shape: [17, 3]`);
    expect(problem?.message).toBe("labels/train/1.txt line 1: 5 numbers; with kpt_shape a label has 56");
  });
});

describe("a broken data.yaml is refused with its line", () => {
  for (const [what, yaml, message] of [
    ["a tag", "nc: 1\nnames: !!js/function 'x'", "line 2: "],
    ["a standard tag", "nc: 1\nnames: !!set {a}", "line 2: "],
    ["an anchor", "nc: 1\nnames: &n [a]", "line 2: anchors and aliases are not read"],
    ["an alias", "a: &n [a]\nnames: *n", "line 1: anchors and aliases are not read"],
    [
      "aliases that expand without end",
      'a: &a ["x","x"]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: &d [*c,*c]\nnames: [*d,*d]',
      "line 1: anchors and aliases are not read",
    ],
    ["a key twice", "nc: 1\nnc: 2", "line 2: "],
    ["an open list", "nc: 1\nnames: [a, b", "line 2: "],
    ["a list at the top", "- a", "a mapping with nc and names is expected"],
    ["nothing", "", "a mapping with nc and names is expected"],
    ["nc as text", "nc: two", "line 1: nc is a number of classes"],
    ["nc of zero", "nc: 0", "line 1: nc is a number of classes"],
    ["nc of a million", "nc: 1000000", "line 1: nc is a number of classes"],
    ["nc that contradicts names", "names: [a, b]\nnc: 3", "line 2: nc is 3, but there are 2 names"],
    ["names as text", "names: cat", "line 1: names is a list"],
    ["no names", "names: []", "no class names"],
    ["a name that is null", "names:\n  - a\n  - ~", "line 3: a class name is a text"],
    ["a name that is a list", "names: [[a]]", "line 1: a class name is a text"],
    ["a name twice", "names: [a, a]", 'the class name "a" is used twice'],
    ["names by other keys", "names: {x: a}", "names are listed by class id"],
    ["names that leave a class out", "names: {0: a, 2: b}", "names leave out class 1"],
    ["a strange kpt_shape", "names: [a]\nkpt_shape: [17, 4]", "line 2: kpt_shape is"],
    ["kpt_shape as text", "names: [a]\nkpt_shape: many", "line 2: kpt_shape is"],
  ] as const) {
    it(what, ({ expect }) => {
      const { problem } = one("0 0.5 0.5 0.2 0.2", yaml);
      expect(problem?.field).toBe("files");
      expect(problem?.message).toMatch(/^data\.yaml/);
      expect(problem?.message).toContain(message);
    });
  }

  it("a hundred thousand class names, in bounded time", ({ expect }) => {
    const started = performance.now();
    const { problem } = one(
      "0 0.5 0.5 0.2 0.2",
      `names: [${Array.from({ length: 100_000 }, (_, i) => `c${i}`).join(",")}]`,
    );
    expect(problem?.message).toContain("100000 classes");
    expect(one("0 0.5 0.5 0.2 0.2", `names: [${"a,".repeat(600_000)}]`).problem?.message).toContain("longer than");
    expect(performance.now() - started).toBeLessThan(8_000);
  });
});
