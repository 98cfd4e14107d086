import { createHash } from "node:crypto";
import { describe, it } from "vitest";
import { concatenate } from "../../../src/shared/memory.ts";
import { err, ok } from "../../../src/shared/result.ts";
import {
  contentHash,
  type IndexedFile,
  MAX_ANNOTATION_BYTES,
  readLooseContent,
  readZipContent,
  type StoredObject,
} from "../../../src/training/datasets/content.ts";
import { dice } from "../../../src/training/datasets/formats/dice.ts";
import { imagefolder } from "../../../src/training/datasets/formats/imagefolder.ts";
import type { DatasetFormat } from "../../../src/training/datasets/formats/types.ts";
import { makeZip } from "../../support/make-zip.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");
const PNG = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 1);

/** An object in memory that counts how it is read. */
function objectOf(bytes: Uint8Array) {
  const reads = { ranges: 0, streams: 0 };
  const object: StoredObject = {
    sizeBytes: bytes.length,
    async read(offset, length) {
      reads.ranges++;
      return bytes.slice(offset, offset + length);
    },
    async stream(offset) {
      reads.streams++;
      return new Blob([bytes.slice(offset)]).stream();
    },
  };
  return { object, reads };
}

/** Files one behind the other, as the upload leaves them. */
function pack(files: [string, Uint8Array][]) {
  const indexed: IndexedFile[] = [];
  let offset = 0;
  for (const [path, content] of files) {
    indexed.push({
      path,
      sizeBytes: content.length,
      sha256: sha256(content),
      looksLikeImage: content[0] === 0x89,
      dataOffset: offset,
      compressedSizeBytes: content.length,
      method: 0,
      split: null,
      label: null,
    });
    offset += content.length;
  }
  return { ...objectOf(concatenate(files.map(([, content]) => content))), files: indexed };
}

/** A format that wants every text file and knows an image's class from the text beside it. */
const sidecar: DatasetFormat = {
  name: "yolo",
  open(files) {
    const seen = new Map<string, string>();
    return ok({
      wanted: new Set(files.map((file) => file.path).filter((path) => path.endsWith(".txt"))),
      take(path, text) {
        if (text === "bad") return err({ field: "files", message: `${path} is bad` });
        seen.set(path.replace(".txt", ".png"), text);
        return ok(undefined);
      },
      finish: () =>
        ok({
          format: "yolo",
          layout: "x",
          taskType: null,
          numClasses: 0,
          classNames: [],
          classDistribution: {},
          imageCount: 0,
          splits: null,
          warnings: [],
          placements: new Map([...seen].map(([path, label]) => [path, { split: "train" as const, label }])),
        }),
    });
  },
};

describe("the content of a dataset", () => {
  it("is sorted by path, hashed, and placed", async ({ expect }) => {
    const files: [string, Uint8Array][] = [
      ["d/b/2.png", PNG],
      ["d/a/1.png", encode("not a picture")],
      ["d/a/notes.txt", encode("x")],
    ];
    for (const read of [
      async () => readLooseContent(pack(files).object, pack(files).files, imagefolder),
      async () =>
        readZipContent(objectOf(makeZip(files.map(([name, content]) => ({ name, content })))).object, imagefolder),
    ]) {
      const result = await read();
      if (!result.ok) throw new Error(result.error.message);
      const { value } = result;
      expect(value.files.map(({ path, label, split }) => [path, label, split])).toEqual([
        ["a/1.png", "a", null],
        ["a/notes.txt", null, null],
        ["b/2.png", "b", null],
      ]);
      const lines = value.files.map(({ path, sha256: hash }) => `${path}\0${hash}\n`).join("");
      expect(value.contentHash).toBe(sha256(encode(lines)));
      expect(value.totalSizeBytes).toBe(PNG.length + 14);
      expect(value.warnings.map((warning) => warning.code)).toEqual(["few_samples", "extra_files", "not_an_image"]);
    }
  });

  it("has a hash that depends on every path and every byte, and not on the order of arrival", ({ expect }) => {
    const files = [
      { path: "a", sha256: "1" },
      { path: "b", sha256: "2" },
    ];
    const base = contentHash(files);
    expect(contentHash([{ path: "a", sha256: "1" }])).not.toBe(base);
    expect(
      contentHash([
        { path: "a", sha256: "2" },
        { path: "b", sha256: "1" },
      ]),
    ).not.toBe(base);
    expect(contentHash([{ path: "a\x001\nb", sha256: "2" }])).not.toBe(contentHash(files.slice(0, 1)));
  });

  it("fetches few annotation files by their ranges and many in one pass", async ({ expect }) => {
    const labelled = (count: number): [string, Uint8Array][] =>
      Array.from({ length: count }, (_, i): [string, Uint8Array][] => [
        [`${i}.png`, PNG],
        [`${i}.txt`, encode(i === 3 ? "" : `label ${i}`)],
      ]).flat();
    for (const [count, expected] of [
      [10, { ranges: 9, streams: 0 }],
      [500, { ranges: 0, streams: 1 }],
    ] as const) {
      const { object, files, reads } = pack(labelled(count));
      const result = await readLooseContent(object, files, sidecar);
      if (!result.ok) throw new Error(result.error.message);
      expect(reads).toEqual(expected);
      const labels = new Map(result.value.files.map(({ path, label }) => [path, label]));
      for (let i = 0; i < count; i++) expect(labels.get(`${i}.png`)).toBe(i === 3 ? "" : `label ${i}`);
    }
  });

  it("hands zipped annotation files on, deflated and in any order", async ({ expect }) => {
    const { object } = objectOf(
      makeZip([
        { name: "1.txt", content: "one ".repeat(100) },
        { name: "1.png", content: PNG },
      ]),
    );
    const result = await readZipContent(object, sidecar);
    expect(result.ok && result.value.files[0]).toMatchObject({
      path: "1.png",
      label: "one ".repeat(100),
      split: "train",
    });
  });

  it("names the file that a format refuses, that is not UTF-8, or that is too long to be read", async ({ expect }) => {
    const messageOf = async (files: [string, Uint8Array][], format: DatasetFormat) => {
      const loose = await readLooseContent(pack(files).object, pack(files).files, format);
      const zip = makeZip(files.map(([name, content]) => ({ name, content })));
      const zipped = await readZipContent(objectOf(zip).object, format);
      expect(zipped.ok ? null : zipped.error).toEqual(loose.ok ? null : loose.error);
      return loose.ok ? null : loose.error;
    };
    expect(
      await messageOf(
        [
          ["1.png", PNG],
          ["1.txt", encode("bad")],
        ],
        sidecar,
      ),
    ).toEqual({
      code: "VALIDATION_ERROR",
      message: "files: 1.txt is bad",
      field: "files",
    });
    expect(
      await messageOf(
        [
          ["1.png", PNG],
          ["1.txt", Uint8Array.of(0xff)],
        ],
        sidecar,
      ),
    ).toMatchObject({
      message: "files: 1.txt is not UTF-8 text",
    });
    const long = new Uint8Array(MAX_ANNOTATION_BYTES + 1);
    for (let i = 0; i < long.length; i += 97) long[i] = i;
    expect(
      await messageOf(
        [
          ["images/1.png", PNG],
          ["annotations.json", long],
        ],
        dice,
      ),
    ).toMatchObject({
      field: "files",
      message: `files: annotations.json has ${MAX_ANNOTATION_BYTES + 1} bytes; at most ${MAX_ANNOTATION_BYTES} are read`,
    });
  });

  it("reads an annotation file with a byte order mark", async ({ expect }) => {
    const document = {
      classes: [{ id: 0, name: "cat" }],
      images: [{ file_name: "1.png", annotation: { class_id: 0 } }],
    };
    const marked = concatenate([Uint8Array.of(0xef, 0xbb, 0xbf), encode(JSON.stringify(document))]);
    const { object, files } = pack([
      ["images/1.png", PNG],
      ["annotations.json", marked],
    ]);
    const result = await readLooseContent(object, files, dice);
    expect(result.ok && result.value.summary.classDistribution).toEqual({ cat: 1 });
  });
});
