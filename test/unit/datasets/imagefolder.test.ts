import { describe, it } from "vitest";
import { imagefolder } from "../../../src/training/datasets/formats/imagefolder.ts";
import { fileWarnings, openFormat } from "../../../src/training/datasets/formats/index.ts";

const files = (...paths: string[]) => paths.map((path) => ({ path, sizeBytes: 10 }));
const numbered = (folder: string, count: number) => Array.from({ length: count }, (_, i) => `${folder}/${i}.png`);

function read(paths: string[]) {
  const opened = openFormat(imagefolder, files(...paths));
  if (!opened.ok) return { problem: opened.error, summary: null, strippedPrefix: null };
  const finished = opened.value.reading.finish();
  if (!finished.ok) throw new Error(finished.error.message);
  return { problem: null, summary: finished.value, strippedPrefix: opened.value.strippedPrefix };
}

const codes = (paths: string[]) => read(paths).summary?.warnings.map((warning) => warning.code);

describe("an image folder", () => {
  it("divided into train and val counts images per class over both", ({ expect }) => {
    const { summary } = read([
      ...numbered("train/dog", 70),
      ...numbered("train/cat", 80),
      ...numbered("val/cat", 20),
      ...numbered("val/dog", 30),
    ]);
    expect(summary).toMatchObject({
      format: "imagefolder",
      layout: "split_folders",
      taskType: "image_classification",
      numClasses: 2,
      classNames: ["cat", "dog"],
      classDistribution: { cat: 100, dog: 100 },
      splits: { train: 150, val: 50, test: 0 },
      imageCount: 200,
      warnings: [],
    });
    expect(summary?.placements.get("val/dog/3.png")).toEqual({ split: "val", label: "dog" });
  });

  it("of class folders alone is not divided", ({ expect }) => {
    const { summary } = read([...numbered("cat", 60), ...numbered("dog", 60)]);
    expect(summary).toMatchObject({ layout: "class_folders", splits: null, classDistribution: { cat: 60, dog: 60 } });
    expect(summary?.placements.get("cat/0.png")).toEqual({ split: null, label: "cat" });
  });

  it("numbers classes in the order of their names as texts", ({ expect }) => {
    const names = ["10", "2", "1", "b", "Z", "가", "🍅", "a"];
    const { summary } = read(names.flatMap((name) => numbered(name, 1)));
    expect(summary?.classNames).toEqual(["1", "10", "2", "Z", "a", "b", "가", "🍅"]);
  });

  it("takes every name of a split, and pictures deeper inside a class", ({ expect }) => {
    const { summary } = read(["Training/a/1.png", "valid/b/2.JPEG", "testing/a/deep/er/3.webp"]);
    expect(summary?.splits).toEqual({ train: 1, val: 1, test: 1 });
    expect(summary?.classNames).toEqual(["a", "b"]);
  });

  it("may have a class that is called like a split beside others", ({ expect }) => {
    expect(read(["test/1.png", "cat/2.png"]).summary?.classNames).toEqual(["cat", "test"]);
  });

  it("inside one folder around everything is read without it", ({ expect }) => {
    const { summary, strippedPrefix } = read(["digits/train/0/a.png", "digits/train/1/b.png"]);
    expect(strippedPrefix).toBe("digits/");
    expect(summary?.classNames).toEqual(["0", "1"]);
    expect([...(summary?.placements.keys() ?? [])]).toEqual(["train/0/a.png", "train/1/b.png"]);
    expect(read(["train/0/a.png", "train/1/b.png"]).strippedPrefix).toBe("");
  });

  it("keeps class names that are prototype members", ({ expect }) => {
    const { summary } = read(["__proto__/1.png", "constructor/2.png", "constructor/3.png"]);
    expect(JSON.stringify(summary?.classDistribution)).toBe('{"__proto__":1,"constructor":2}');
    expect(summary?.numClasses).toBe(2);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  it("asks for no text", ({ expect }) => {
    const opened = imagefolder.open(files("a/1.png", "b/2.png"));
    expect(opened.ok && opened.value.wanted.size).toBe(0);
  });
});

describe("warnings of an image folder", () => {
  it("imbalance begins above a ratio of 2", ({ expect }) => {
    expect(codes([...numbered("a", 100), ...numbered("b", 50)])).not.toContain("class_imbalance");
    expect(codes([...numbered("a", 101), ...numbered("b", 50)])).toContain("class_imbalance");
  });

  it("a small class begins below 70 % of the mean", ({ expect }) => {
    // Mean 100: 70 is not below.
    expect(codes([...numbered("a", 130), ...numbered("b", 70)])).not.toContain("small_class");
    expect(codes([...numbered("a", 131), ...numbered("b", 69)])).toContain("small_class");
  });

  it("few samples begin below 100", ({ expect }) => {
    expect(codes([...numbered("a", 50), ...numbered("b", 50)])).toEqual([]);
    expect(codes([...numbered("a", 50), ...numbered("b", 49)])).toEqual(["few_samples"]);
  });

  it("name images without a class, files that are no images, and classes that are never trained", ({ expect }) => {
    const found = read(["train/a/1.png", "train/b/2.png", "val/c/3.png", "test/4.png", "train/a/notes.txt"]).summary
      ?.warnings;
    expect(found?.find((w) => w.code === "unlabelled_images")?.message).toContain('"test/4.png"');
    expect(found?.find((w) => w.code === "extra_files")?.message).toContain('"train/a/notes.txt"');
    expect(found?.find((w) => w.code === "class_not_in_train")?.message).toContain('"c"');
  });
});

describe("what is no image folder", () => {
  for (const [what, paths, found] of [
    ["no images", ["data.csv", "a/b.txt"], "no image among"],
    ["nothing", [], "no image"],
    ["images without folders", ["1.png", "2.png"], "images without a folder"],
    ["one class", ["cat/1.png", "cat/2.png"], 'images without a folder such as "1.png", "2.png"'],
    ["splits without classes", ["train/1.png", "val/2.png"], "images without a folder"],
    [
      "dice",
      ["annotations.json", "images/1.png", "masks/1.png"],
      '"annotations.json", which belongs to another format',
    ],
    ["coco", ["annotations/instances_train.json", "train2017/1.jpg", "val2017/2.jpg"], "belongs to another format"],
    ["yolo", ["images/train/1.jpg", "labels/train/1.txt", "extra/2.jpg"], "belongs to another format"],
  ] as const) {
    it(`is refused on the field format, with what was found: ${what}`, ({ expect }) => {
      const { problem } = read([...paths]);
      expect(problem?.field).toBe("format");
      expect(problem?.message).toContain("imagefolder needs at least two class folders");
      expect(problem?.message).toContain(found);
    });
  }

  it("is refused with more classes than can be stored", ({ expect }) => {
    const { problem } = read(Array.from({ length: 25_001 }, (_, i) => `c${i}/1.png`));
    expect(problem?.message).toContain("25001 classes");
    expect(read(["a".repeat(201), "b"].map((name) => `${name}/1.png`)).problem?.message).toContain("longer than 200");
  });
});

describe("files of any format", () => {
  it("are warned of when images are empty or names differ only in case", ({ expect }) => {
    const warnings = fileWarnings([
      { path: "a/1.png", sizeBytes: 0 },
      { path: "labels/1.txt", sizeBytes: 0 },
      { path: "a/X.png", sizeBytes: 1 },
      { path: "a/x.png", sizeBytes: 1 },
    ]);
    expect(warnings.map((warning) => warning.code)).toEqual(["empty_files", "case_collision"]);
    expect(warnings[0]?.message).toBe('1 images are empty: "a/1.png"');
  });
});
