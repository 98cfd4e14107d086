import { describe, it } from "vitest";
import { canonicalPath, commonTopFolder, compareCodePoints, isLitter } from "../../../src/training/datasets/paths.ts";

describe("canonicalPath", () => {
  for (const [raw, expected] of [
    ["a.png", "a.png"],
    ["train/cat/1.png", "train/cat/1.png"],
    ["./train/1.png", "train/1.png"],
    ["././a", "a"],
    ["..a/b..c/d.", "..a/b..c/d."],
    ["train/고양이/사진 (1).png", "train/고양이/사진 (1).png"],
    ["train/고양이.png".normalize("NFD"), "train/고양이.png"],
    ["100%.png", "100%.png"],
    ["50%25off.png", "50%25off.png"],
    ["전각（１）．png", "전각（１）．png"],
    ["10:30.png", "10:30.png"],
    ["__proto__/constructor.png", "__proto__/constructor.png"],
    ["e\u0301.png", "\u00e9.png"],
    ["🍅.png", "🍅.png"],
  ] as const) {
    it(`keeps ${JSON.stringify(raw)}`, ({ expect }) => {
      expect(canonicalPath(raw)).toEqual({ ok: true, value: expected });
    });
  }

  for (const raw of [
    "",
    "./",
    "/",
    "/etc/passwd",
    "//server/share",
    "../a",
    "a/../b",
    "a/..",
    "a/./b",
    "a//b",
    "a/",
    "..",
    ".",
    "...",
    ".. ",
    "a/ /b",
    "..\\a",
    "a\\b",
    "C:\\a",
    "C:a",
    "c:/a",
    "a:b.png",
    "a\0b",
    "a\nb",
    "a\u0085b",
    "\u2025/a",
    "\uff0e\uff0e/a",
    "..\u2215a",
    "a\u2044b",
    "..\uff0fa",
    "..\uff3ca",
    "%2e%2e/a",
    "%2e%2e%2fa",
    "%252e%252e%252fa",
    "%25252e%25252e%25252fa",
    "..%5ca",
    "a%00/%2e./b",
    "\ud800.png",
    "a".repeat(256),
    "가".repeat(86),
    Array.from({ length: 65 }, () => "a").join("/"),
    Array.from({ length: 10_000 }, () => "a").join("/"),
    `${"a".repeat(250)}/`.repeat(5).slice(0, 1025),
    "a".repeat(16_384),
  ]) {
    it(`refuses ${JSON.stringify(raw.slice(0, 40))} (${raw.length})`, ({ expect }) => {
      expect(canonicalPath(raw).ok).toBe(false);
    });
  }

  it("takes exactly 255 bytes in a name and 1,024 in a path", ({ expect }) => {
    expect(canonicalPath("가".repeat(85)).ok).toBe(true);
    expect(canonicalPath(`${"가".repeat(85)}a`).ok).toBe(false);
    const path = `${"a".repeat(255)}/${"b".repeat(255)}/${"c".repeat(255)}/${"d".repeat(255)}`;
    expect(canonicalPath(`${path}e`).ok).toBe(false);
    expect(new TextEncoder().encode(path).length).toBe(1023);
    expect(canonicalPath(path).ok).toBe(true);
  });
});

describe("compareCodePoints", () => {
  it("orders like the UTF-8 bytes", ({ expect }) => {
    const names = ["🍅", "\uffee", "가", "b", "a", "10", "1", "2", "", "ab", "Z", "é", "a\u{10000}", "a\ue000"];
    const byBytes = [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    expect([...names].sort(compareCodePoints)).toEqual(byBytes);
  });
});

describe("litter", () => {
  it("is what archivers add, and only that", ({ expect }) => {
    for (const path of ["__MACOSX/a/._b.png", "__MACOSX", "a/.DS_Store", "a/._b.png", "Thumbs.db", "x/desktop.ini"]) {
      expect(isLitter(path), path).toBe(true);
    }
    for (const path of ["a/b.png", "a/.hidden.png", "my__MACOSX/a.png", "DS_Store", "a/thumbs.db.png"]) {
      expect(isLitter(path), path).toBe(false);
    }
  });
});

describe("commonTopFolder", () => {
  it("exists only when every file is in it", ({ expect }) => {
    expect(commonTopFolder(["d/a", "d/b/c"])).toBe("d");
    expect(commonTopFolder(["d/a", "e/b"])).toBeNull();
    expect(commonTopFolder(["d/a", "b"])).toBeNull();
    expect(commonTopFolder([])).toBeNull();
  });
});
