import { crc32 } from "node:zlib";
import { describe, it } from "vitest";
import { concatenate } from "../../../src/shared/memory.ts";
import { DEFAULT_ZIP_LIMITS, readZipDirectory, type ZipLimits } from "../../../src/training/datasets/zip/directory.ts";
import { extraField, type MadeEntry, makeZip, u16, u32, u64 } from "../../support/make-zip.ts";

/** A range reader over bytes that fails a test when it is asked for anything outside of them. */
const readerOf = (zip: Uint8Array) => {
  const ranges: [number, number][] = [];
  const read = async (offset: number, length: number) => {
    ranges.push([offset, length]);
    if (offset < 0 || length < 0 || offset + length > zip.length) {
      throw new Error(`range ${offset}+${length} is outside of ${zip.length} bytes`);
    }
    return zip.slice(offset, offset + length);
  };
  return { read, ranges };
};

const open = (zip: Uint8Array, limits: ZipLimits = DEFAULT_ZIP_LIMITS) =>
  readZipDirectory(readerOf(zip).read, zip.length, limits);

const pathsOf = async (zip: Uint8Array) => {
  const result = await open(zip);
  return result.ok ? result.value.entries.map((entry) => entry.path) : result.error;
};

const reasonOf = async (zip: Uint8Array, limits?: ZipLimits) => {
  const result = await open(zip, limits);
  return result.ok ? null : result.error.reason;
};

describe("a sound zip", () => {
  const entries: MadeEntry[] = [
    { name: "train/", externalAttributes: (0o040755 << 16) >>> 0, versionMadeBy: 0x031e },
    { name: "train/cat/1.png", content: "meow".repeat(100), externalAttributes: (0o100644 << 16) >>> 0 },
    { name: "train/dog/2.png", content: "woof", method: 0 },
    { name: "empty.txt", content: "" },
  ];

  it("is indexed: paths, sizes, methods and offsets", async ({ expect }) => {
    const zip = makeZip(entries);
    const result = await open(zip);
    if (!result.ok) throw new Error(result.error.message);
    expect(result.value.entries.map((e) => [e.path, e.sizeBytes, e.method])).toEqual([
      ["train/cat/1.png", 400, 8],
      ["train/dog/2.png", 4, 0],
      ["empty.txt", 0, 0],
    ]);
    expect(result.value.totalSizeBytes).toBe(404);
    expect(result.value.entries[1]?.crc32).toBe(crc32("woof"));
  });

  it("is read through its end and its directory only, never through its data", async ({ expect }) => {
    const zip = makeZip([{ name: "big.bin", content: new Uint8Array(5_000_000), method: 0 }]);
    const { read, ranges } = readerOf(zip);
    expect((await readZipDirectory(read, zip.length)).ok).toBe(true);
    expect(ranges.reduce((sum, [, length]) => sum + length, 0)).toBeLessThan(70_000);
  });

  it("with a large directory is read in windows of at most 1 MiB", async ({ expect }) => {
    const many = Array.from({ length: 20_000 }, (_, i) => ({ name: `images/${"n".repeat(60)}-${i}.png`, content: "" }));
    const zip = makeZip(many);
    const { read, ranges } = readerOf(zip);
    const result = await readZipDirectory(read, zip.length);
    expect(result.ok && result.value.entries).toHaveLength(20_000);
    expect(ranges.length).toBeGreaterThan(2);
    expect(Math.max(...ranges.map(([, length]) => length))).toBeLessThanOrEqual(1024 * 1024);
  });

  it("may have a comment, zip64 records and entries in any order of the directory", async ({ expect }) => {
    expect(await pathsOf(makeZip(entries, { comment: new Uint8Array(65_535).fill(65) }))).toHaveLength(3);
    expect(await pathsOf(makeZip(entries, { zip64End: true }))).toHaveLength(3);
    expect(
      await pathsOf(
        makeZip(
          entries.map((entry) => ({ ...entry, zip64: true })),
          { zip64End: true },
        ),
      ),
    ).toHaveLength(3);
  });

  it("loses the litter of file managers", async ({ expect }) => {
    const zip = makeZip([
      { name: "a.png", content: "1" },
      { name: "__MACOSX/._a.png", content: "x" },
      { name: ".DS_Store", content: "x" },
      { name: "sub/Thumbs.db", content: "x" },
    ]);
    const result = await open(zip);
    expect(result.ok && [result.value.entries.length, result.value.litterCount]).toEqual([1, 3]);
  });

  it("keeps an archive inside it as a file", async ({ expect }) => {
    expect(
      await pathsOf(makeZip([{ name: "inner.zip", content: makeZip([{ name: "../evil", content: "x" }]) }])),
    ).toEqual(["inner.zip"]);
  });
});

describe("names", () => {
  const korean = "고양이/사진.png";
  const cp949 = Uint8Array.from([
    0xb0, 0xed, 0xbe, 0xe7, 0xc0, 0xcc, 0x2f, 0xbb, 0xe7, 0xc1, 0xf8, 0x2e, 0x70, 0x6e, 0x67,
  ]);

  it("marked as UTF-8, by flag or by Unicode field, are read as that", async ({ expect }) => {
    expect(await pathsOf(makeZip([{ name: korean, content: "x" }]))).toEqual([korean]);
    const field = extraField(0x7075, Uint8Array.of(1), u32(crc32(cp949)), new TextEncoder().encode("다른 이름.png"));
    expect(await pathsOf(makeZip([{ name: cp949, content: "x", extra: field }]))).toEqual(["다른 이름.png"]);
  });

  it("with a Unicode field made for another name ignore it", async ({ expect }) => {
    const stale = extraField(0x7075, Uint8Array.of(1), u32(crc32("other")), new TextEncoder().encode("../evil"));
    expect(await pathsOf(makeZip([{ name: cp949, content: "x", extra: stale }]))).toEqual([korean]);
  });

  it("of macOS (UTF-8 without a mark, decomposed) are composed", async ({ expect }) => {
    const raw = new TextEncoder().encode(korean.normalize("NFD"));
    expect(await pathsOf(makeZip([{ name: raw, content: "x" }]))).toEqual([korean]);
  });

  it("of Korean Windows are read as CP949", async ({ expect }) => {
    const zip = makeZip([
      { name: cp949, content: "x" },
      { name: "plain.png", content: "x" },
    ]);
    expect(await pathsOf(zip)).toEqual([korean, "plain.png"]);
    const result = await open(zip);
    expect(result.ok && result.value.nameEncoding).toBe("cp949");
  });

  it("of old tools are read as CP437, also where the bytes happen to be CP949", async ({ expect }) => {
    const tuebingen = Uint8Array.from([0x54, 0x81, 0x62, 0x69, 0x6e, 0x67, 0x65, 0x6e]);
    expect(await pathsOf(makeZip([{ name: tuebingen, content: "x" }]))).toEqual(["Tübingen"]);
    expect(await pathsOf(makeZip([{ name: Uint8Array.from([0x82, 0x2e, 0x70]), content: "x" }]))).toEqual(["é.p"]);
  });

  for (const [what, name] of [
    ["climbing", "../evil.png"],
    ["climbing in the middle", "a/../../evil.png"],
    ["backslash", "..\\evil.png"],
    ["absolute", "/etc/passwd"],
    ["drive letter", "C:/evil.png"],
    ["NUL", "a.png\0.exe"],
    ["fullwidth dots", "\uff0e\uff0e/evil"],
    ["double slash", "a//b"],
    ["dot segment", "a/./b"],
    ["percent-encoded", "%2e%2e%2fevil"],
  ] as const) {
    it(`that are unsafe (${what}) refuse the archive and are named`, async ({ expect }) => {
      const result = await open(
        makeZip([
          { name: "ok.png", content: "1" },
          { name, content: "2" },
        ]),
      );
      expect(result.ok ? null : result.error).toMatchObject({ reason: "unsafe_name", entry: name });
      expect(result.ok ? "" : result.error.message).toContain(JSON.stringify(name));
    });
  }

  it("that are not the UTF-8 they claim to be (overlong dots) are refused", async ({ expect }) => {
    const overlong = Uint8Array.from([0xc0, 0xae, 0xc0, 0xae, 0x2f, 0x61]);
    expect(await reasonOf(makeZip([{ name: overlong, content: "x", flags: 1 << 11 }]))).toBe("unsafe_name");
  });

  it("of folders are checked too", async ({ expect }) => {
    expect(
      await reasonOf(
        makeZip([
          { name: "../", content: "" },
          { name: "a", content: "1" },
        ]),
      ),
    ).toBe("unsafe_name");
  });

  it("used twice are refused, also when they differ only in Unicode form", async ({ expect }) => {
    expect(
      await reasonOf(
        makeZip([
          { name: "a", content: "1" },
          { name: "a", content: "2" },
        ]),
      ),
    ).toBe("duplicate_name");
    const nfd = new TextEncoder().encode("é.png".normalize("NFD"));
    expect(
      await reasonOf(
        makeZip([
          { name: "é.png", content: "1" },
          { name: nfd, content: "2" },
        ]),
      ),
    ).toBe("duplicate_name");
  });

  it("used as a file and as a folder are refused", async ({ expect }) => {
    expect(
      await reasonOf(
        makeZip([
          { name: "a", content: "1" },
          { name: "a/b", content: "2" },
        ]),
      ),
    ).toBe("duplicate_name");
  });

  it("that are prototype members are ordinary names", async ({ expect }) => {
    const names = ["__proto__", "constructor", "a/__proto__/b"];
    expect(await pathsOf(makeZip(names.map((name) => ({ name, content: "1" }))))).toEqual(names);
  });
});

describe("entries that are not plain files", () => {
  for (const [what, mode] of [
    ["symbolic link", 0o120777],
    ["character device", 0o020666],
    ["block device", 0o060666],
    ["pipe", 0o010666],
    ["socket", 0o140666],
    ["file that says it is a folder", 0o040755],
  ] as const) {
    it(`are refused: ${what}`, async ({ expect }) => {
      const result = await open(
        makeZip([
          { name: "x.png", content: "../../etc/passwd", externalAttributes: (mode << 16) >>> 0, versionMadeBy: 0x0314 },
        ]),
      );
      expect(result.ok ? null : result.error).toMatchObject({ reason: "not_a_file", entry: "x.png" });
    });
  }

  it("are refused: folder with content", async ({ expect }) => {
    expect(await reasonOf(makeZip([{ name: "a/", content: "x" }]))).toBe("not_a_file");
  });
});

describe("content that cannot be read", () => {
  it("is refused: encrypted, strongly encrypted, masked", async ({ expect }) => {
    for (const flags of [1, 1 << 6, 1 << 13]) {
      expect(await reasonOf(makeZip([{ name: "a", content: "x", flags }]))).toBe("encrypted");
    }
  });

  it("is refused: other compression methods and patches", async ({ expect }) => {
    for (const method of [1, 6, 9, 12, 14, 93, 95, 99, 0xffff]) {
      expect(await reasonOf(makeZip([{ name: "a", content: "x", method }]))).toBe("unsupported_method");
    }
    expect(await reasonOf(makeZip([{ name: "a", content: "x", flags: 1 << 5 }]))).toBe("unsupported_method");
  });

  it("is refused: nothing but folders and litter", async ({ expect }) => {
    expect(await reasonOf(makeZip([]))).toBe("empty");
    expect(await reasonOf(makeZip([{ name: "a/" }, { name: ".DS_Store", content: "x" }]))).toBe("empty");
  });
});

describe("bombs", () => {
  it("by overlapping entries are refused", async ({ expect }) => {
    const kernel = { name: "a", content: new Uint8Array(1_000_000) };
    const one = makeZip([kernel]);
    const first = await open(one);
    if (!first.ok) throw new Error("expected a sound zip");
    const zip = makeZip([
      kernel,
      { name: "b", content: "1", directory: { offset: 0, compressedSize: 500, size: 1_000_000 } },
    ]);
    const result = await open(zip);
    expect(result.ok ? null : result.error).toMatchObject({ reason: "overlap", entry: "b" });
    const nested = makeZip([kernel, { name: "b", content: "1", directory: { offset: 40 } }]);
    expect(await reasonOf(nested)).toBe("overlap");
  });

  it("whose data reach into the directory are refused", async ({ expect }) => {
    const zip = makeZip([{ name: "a", content: "1", method: 0, directory: { compressedSize: 500, size: 500 } }]);
    expect(await reasonOf(zip)).toBe("overlap");
  });

  it("by number of entries are refused before the directory is read", async ({ expect }) => {
    const limits = { ...DEFAULT_ZIP_LIMITS, maxEntries: 3 };
    const entries = (count: number) => Array.from({ length: count }, (_, i) => ({ name: `${i}`, content: "1" }));
    expect(await reasonOf(makeZip(entries(3)), limits)).toBeNull();
    const zip = makeZip(entries(4));
    const { read, ranges } = readerOf(zip);
    const result = await readZipDirectory(read, zip.length, limits);
    expect(result.ok ? null : result.error.reason).toBe("too_many_entries");
    expect(ranges).toHaveLength(1);
  });

  it("by a zip64 count of billions are refused", async ({ expect }) => {
    for (const count of [2n ** 40n, 2n ** 63n]) {
      const zip = makeZip([{ name: "a", content: "1" }], { zip64End: true, zip64: { count } });
      expect(await reasonOf(zip)).toMatch(/too_many_entries|damaged/);
    }
  });

  it("by declared total, by ratio of the whole and by ratio of one entry are refused", async ({ expect }) => {
    const huge = (size: number, compressedSize?: number) =>
      makeZip([{ name: "a", content: new Uint8Array(200_000), directory: { size, compressedSize } }]);
    expect(await reasonOf(huge(5 * 1024 ** 3 - 1, undefined), { ...DEFAULT_ZIP_LIMITS, maxTotalBytes: 1000 })).toBe(
      "ratio",
    );
    expect(await reasonOf(huge(1_000_000), { ...DEFAULT_ZIP_LIMITS, maxTotalBytes: 999_999 })).toBe("too_large");
    expect(await reasonOf(huge(3_000_000_000))).toBe("ratio");
    const limits = { ...DEFAULT_ZIP_LIMITS, maxEntryRatio: 1e9 };
    const result = await open(huge(3_000_000_000), limits);
    expect(result.ok ? null : result.error).toMatchObject({ reason: "ratio", entry: null });
  });

  it("let a small file compress as well as it likes", async ({ expect }) => {
    expect(await reasonOf(makeZip([{ name: "blank.bmp", content: new Uint8Array(2_000_000) }]))).toBeNull();
  });
});

describe("damage", () => {
  const zip = makeZip([
    { name: "a.png", content: "content of a" },
    { name: "b.png", content: "content of b" },
  ]);

  it("by cutting anywhere is refused", async ({ expect }) => {
    for (let length = 0; length < zip.length; length++) {
      expect(await reasonOf(zip.subarray(0, length)), `${length} bytes`).toMatch(/not_a_zip|damaged/);
    }
  });

  it("by bytes before or after the archive is refused", async ({ expect }) => {
    expect(await reasonOf(concatenate([new Uint8Array(10), zip]))).toBe("damaged");
    expect(await reasonOf(concatenate([zip, new Uint8Array(1)]))).toBe("not_a_zip");
  });

  it("by any single changed byte never makes the reader throw or leave the file", async ({ expect }) => {
    for (let at = 0; at < zip.length; at++) {
      for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
        const broken = zip.slice();
        broken[at] = value;
        const result = await open(broken);
        expect(typeof result.ok).toBe("boolean");
      }
    }
  });

  it("of the end record is refused: counts, sizes, offsets, split archives", async ({ expect }) => {
    const entries: MadeEntry[] = [{ name: "a", content: "1" }];
    expect(await reasonOf(makeZip(entries, { end: { count: 0 } }))).toBe("damaged");
    expect(await reasonOf(makeZip(entries, { end: { count: 2 } }))).toBe("damaged");
    expect(await reasonOf(makeZip(entries, { end: { directoryOffset: 0 } }))).toBe("damaged");
    expect(await reasonOf(makeZip(entries, { end: { directorySize: 0 } }))).toBe("damaged");
    expect(await reasonOf(makeZip(entries, { end: { directoryOffset: 0xfffffffe } }))).toBe("damaged");
    expect(await reasonOf(makeZip(entries, { end: { disk: 1 } }))).toBe("damaged");
  });

  it("of zip64 values is refused: missing field, short field, beyond 2^53", async ({ expect }) => {
    const entry = (extra: Uint8Array): MadeEntry => ({
      name: "a",
      content: "1",
      extra,
      directory: { size: 0xffffffff, compressedSize: 0xffffffff },
    });
    expect(await reasonOf(makeZip([entry(new Uint8Array(0))]))).toBe("damaged");
    expect(await reasonOf(makeZip([entry(extraField(1, u64(1)))]))).toBe("damaged");
    expect(await reasonOf(makeZip([entry(extraField(1, u64(2n ** 60n), u64(2n ** 60n)))]))).toBe("damaged");
    expect(await reasonOf(makeZip([entry(concatenate([u16(1), u16(9_999)]))]))).toBe("damaged");
  });

  it("of stored sizes that disagree is refused", async ({ expect }) => {
    expect(await reasonOf(makeZip([{ name: "a", content: "1234", method: 0, directory: { size: 3 } }]))).toBe(
      "damaged",
    );
  });

  it("of something else altogether is no zip", async ({ expect }) => {
    expect(await reasonOf(new Uint8Array(0))).toBe("not_a_zip");
    expect(await reasonOf(new TextEncoder().encode("hello ".repeat(20_000)))).toBe("not_a_zip");
    expect(await reasonOf(u32(0x06054b50))).toBe("not_a_zip");
  });
});
