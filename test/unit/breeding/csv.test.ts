import { describe, it } from "vitest";
import { decodeCp949 } from "../../../src/breeding/cp949.ts";
import { isStrainId, readStrainCsv, type StrainRecord, writeStrainCsv } from "../../../src/breeding/strains/csv.ts";
import {
  decodeText,
  detectDelimiter,
  parseTable,
  readTextCell,
  writeTable,
  writeTextCell,
} from "../../../src/breeding/table.ts";
import { phenotypeOf } from "./support.ts";

const utf8 = (text: string) => new TextEncoder().encode(text);

/** cp949 bytes of a text, by inverting the decoder: no platform has an encoder. */
const encodeCp949 = (() => {
  const bytesOf = new Map<string, number[]>();
  for (let lead = 0x81; lead <= 0xfd; lead++) {
    for (let trail = 0x41; trail <= 0xfe; trail++) {
      try {
        bytesOf.set(decodeCp949(Uint8Array.of(lead, trail)), [lead, trail]);
      } catch {
        // No character has this code.
      }
    }
  }
  return (text: string) =>
    Uint8Array.from([...text].flatMap((c) => (c < "\u0080" ? [c.charCodeAt(0)] : (bytesOf.get(c) ?? []))));
})();

const HEADER = "id,type,weight,length,width,ratio,sugarContent,firmness,skinThickness,shape";
const ROW = "A1,both,47.24,44.38,38.59,1.15,5.24,0.51,6.81,round";
const read = (text: string, options?: { allowMissing?: boolean }) => readStrainCsv(utf8(text), options);

describe("text of a file", () => {
  it("decodes UTF-8 with and without byte order mark, and cp949 with its extension", ({ expect }) => {
    expect(decodeText(utf8("\uFEFF둥글다"))).toEqual({ ok: true, value: { text: "둥글다", encoding: "utf-8" } });
    expect(decodeText(utf8("둥글다"))).toMatchObject({ value: { encoding: "utf-8" } });
    expect([...encodeCp949("둥글다 똠")]).toEqual([0xb5, 0xd5, 0xb1, 0xdb, 0xb4, 0xd9, 0x20, 0x8c, 0x63]);
    expect(decodeText(encodeCp949("둥글다 똠"))).toEqual({ ok: true, value: { text: "둥글다 똠", encoding: "cp949" } });
  });

  it("knows every modern Hangul syllable in cp949, and the codes of some written down elsewhere", ({ expect }) => {
    const syllables = Array.from({ length: 11_172 }, (_, i) => String.fromCodePoint(0xac00 + i)).join("");
    expect(decodeCp949(encodeCp949(syllables))).toBe(syllables);
    const known: [string, number, number][] = [
      ["갂", 0x81, 0x41],
      ["똠", 0x8c, 0x63],
      ["햏", 0xc1, 0x64],
      ["힣", 0xc6, 0x52],
      ["가", 0xb0, 0xa1],
      ["힝", 0xc8, 0xfe],
    ];
    for (const [syllable, ...bytes] of known) expect([...encodeCp949(syllable)], syllable).toEqual(bytes);
  });

  it("refuses codes that cp949 does not have", ({ expect }) => {
    for (const bytes of [[0x80], [0xff, 0x41], [0x81], [0x81, 0x20], [0xc6, 0x53], [0xc7, 0x41], [0x41, 0xb0]]) {
      expect(() => decodeCp949(Uint8Array.from(bytes)), bytes.join()).toThrow(TypeError);
    }
  });

  it("joins Hangul that macOS took apart", ({ expect }) => {
    expect(decodeText(utf8("과중".normalize("NFD")))).toMatchObject({ value: { text: "과중" } });
  });

  it("refuses bytes that are neither", ({ expect }) => {
    expect(decodeText(Uint8Array.of(0xff, 0xfe, 0x41, 0x00)).ok).toBe(false);
    expect(decodeText(Uint8Array.of(0xef, 0xbb, 0xbf, 0xff)).ok).toBe(false);
  });
});

describe("delimited text", () => {
  it("finds the delimiter in the header, not inside quotes", ({ expect }) => {
    expect(detectDelimiter("a,b\tc\td\n1,2")).toBe("\t");
    expect(detectDelimiter('"a;b;c",d\n')).toBe(",");
    expect(detectDelimiter("a;b\n1,5;2")).toBe(";");
    expect(detectDelimiter("")).toBe(",");
  });

  it("reads quotes, doubled quotes, line breaks in quotes, CRLF, LF and CR, and says where rows start", ({
    expect,
  }) => {
    const text = 'a,b\r\n"x ""y""",1\n\n"two\r\nlines",2\r3,4';
    expect(parseTable(text, ",")).toEqual({
      ok: true,
      value: [
        { line: 1, cells: ["a", "b"] },
        { line: 2, cells: ['x "y"', "1"] },
        { line: 4, cells: ["two\r\nlines", "2"] },
        { line: 6, cells: ["3", "4"] },
      ],
    });
  });

  it("keeps empty cells at the end and leaves blank rows out", ({ expect }) => {
    expect(parseTable("a,b,\n,,\n \n1,,", ",")).toMatchObject({
      value: [{ cells: ["a", "b", ""] }, { cells: ["1", "", ""], line: 4 }],
    });
    expect(parseTable("", ",")).toEqual({ ok: true, value: [] });
  });

  it("names the line of a quote that is never closed or is followed by text", ({ expect }) => {
    expect(parseTable('a\nb\n"c\nd', ",")).toMatchObject({ ok: false, error: { line: 3 } });
    expect(parseTable('a\n"b"c,d', ",")).toMatchObject({ ok: false, error: { line: 2 } });
  });

  it("takes time in proportion to the file, quotes or not", ({ expect }) => {
    const start = performance.now();
    parseTable(`${'"'.repeat(1_000_000)}\n`, ",");
    parseTable(",".repeat(1_000_000), ",");
    parseTable('"a""b"\n'.repeat(100_000), ",");
    expect(performance.now() - start).toBeLessThan(3000);
  });

  it("protects formulas on writing, reversibly, also texts that look protected", ({ expect }) => {
    for (const text of ["=1+2", "+1", "-1", "@a", "\tx", "'=x", "''=x", "'quoted'", "plain", "'", ""]) {
      expect(readTextCell(writeTextCell(text))).toBe(text);
    }
    expect(writeTable([["=cmd|' /C calc'!A0", -5, null, 'a"b,c']])).toBe(
      '\uFEFF\'=cmd|\' /C calc\'!A0,-5,,"a""b,c"\r\n',
    );
  });
});

describe("strain import", () => {
  it("reads a complete row", ({ expect }) => {
    const { accepted, refused, warnings, encoding, total } = read(`${HEADER}\n${ROW}\n`);
    expect({ refused, warnings, encoding, total }).toEqual({ refused: [], warnings: [], encoding: "utf-8", total: 1 });
    expect(accepted).toEqual([
      {
        line: 2,
        strain: {
          id: "A1",
          name: "A1",
          type: "both",
          shapeKo: null,
          phenotype: {
            weight: 47.24,
            length: 44.38,
            width: 38.59,
            ratio: 1.15,
            sugarContent: 5.24,
            firmness: 0.51,
            skinThickness: 6.81,
            shape: "round",
          },
        },
      },
    ]);
  });

  it("reads the header variants of public files, English and Korean, in cp949, with tabs", ({ expect }) => {
    const headers = [
      "Genotype,weight,length,width,ratio,brix,firmness,skinThickness,shape",
      "Genotype,FruitWeight,FruitLength,FruitWidth,Ratio,SugarContent,Hardness,SkinThickness,Shape",
      "계통명,과중 (g),과장 (mm),과폭 (mm),과형지수,당도 (%),과실경도 (kg),과피두께 (mm),과형",
      "SampleID,무게,길이,너비,길이/너비,브릭스,경도,과육두께,과실형태",
      "계통 ID,과중(g),과장（mm）, 과폭 ,Ratio,당도,과실 경도,과피 두께,형태".replace("형태", "과실 형태"),
    ];
    for (const header of headers) {
      for (const separator of [",", "\t", ";"]) {
        const text = `${header}\r\nTC1,47.24,44.38,38.59,1.15,5.24,0.51,6.81,약간납작하다\r\n`.replaceAll(
          ",",
          separator,
        );
        for (const bytes of [utf8(text), utf8(`\uFEFF${text}`)]) {
          const result = readStrainCsv(bytes);
          expect(result.refused, header).toEqual([]);
          expect(result.accepted[0]?.strain).toMatchObject({
            id: "TC1",
            shapeKo: "약간납작하다",
            phenotype: { weight: 47.24, skinThickness: 6.81, shape: "round" },
          });
        }
        const korean = readStrainCsv(encodeCp949(text.replace("（mm）", "(mm)")));
        expect(korean.encoding).toBe(/[가-힣]/.test(text) ? "cp949" : "utf-8");
        expect(korean.accepted).toHaveLength(1);
      }
    }
  });

  it("maps the nine Korean shape words and keeps the word; an unknown word takes its class from the ratio", ({
    expect,
  }) => {
    const words = [
      "둥글다",
      "약간납작하다",
      "납작하다",
      "심장형",
      "달걀형",
      "직사각형",
      "원통형",
      "거꿀달걀형",
      "가지형",
      "별모양",
    ];
    const rows = words.map((word, i) => `S${i},both,40,50,36,1.39,5,0.5,5,${word}`);
    const { accepted, warnings } = read([HEADER, ...rows].join("\n"));
    expect(accepted.map((a) => [a.strain.phenotype.shape, a.strain.shapeKo])).toEqual(
      ["round", "round", "round", "round", "oval", "rectangular", "rectangular", "pear", "pear", "oval"].map(
        (shape, i) => [shape, words[i]],
      ),
    );
    expect(warnings).toMatchObject([{ line: 11, column: "shape", code: "SHAPE_UNKNOWN" }]);
  });

  it("reads roles in English and Korean, both by default", ({ expect }) => {
    const types = ["male", "Female", "부계", "모계", "양용", ""];
    const { accepted } = read(`${HEADER}\n${types.map((t, i) => ROW.replace("A1,both", `A${i},${t}`)).join("\n")}`);
    expect(accepted.map((a) => a.strain.type)).toEqual(["male", "female", "male", "female", "both", "both"]);
  });

  it("treats empty, NA, - and . as unknown and takes such rows only when allowed", ({ expect }) => {
    for (const cell of ["", "NA", "na", "-", "."]) {
      const text = `${HEADER}\n${ROW.replace("5.24", cell)}`;
      expect(read(text).refused).toMatchObject([{ line: 2, code: "INCOMPLETE" }]);
      expect(read(text).refused[0]?.message).toContain("sugarContent");
      expect(read(text, { allowMissing: true }).accepted[0]?.strain.phenotype.sugarContent).toBeNull();
    }
    const short = read(`${HEADER}\nA1,both,47.24`, { allowMissing: true });
    expect(short.accepted[0]?.strain.phenotype).toMatchObject({ weight: 47.24, length: null, shape: null });
  });

  it("computes a missing ratio and warns of one that contradicts length and width", ({ expect }) => {
    expect(read(`${HEADER}\n${ROW.replace("1.15", "")}`).accepted[0]?.strain.phenotype.ratio).toBeCloseTo(
      44.38 / 38.59,
      4,
    );
    const { accepted, warnings } = read(`${HEADER}\n${ROW.replace("1.15", "1.25")}`);
    expect(accepted[0]?.strain.phenotype.ratio).toBe(1.25);
    expect(warnings).toMatchObject([{ line: 2, column: "ratio", code: "RATIO_MISMATCH" }]);
  });

  it("reports every fault of a row with its line and column, and keeps the good rows", ({ expect }) => {
    const text = [
      HEADER,
      "A1,both,0,44,38,1.15,5,0.5,6,round",
      "A2,neither,abc,44,38,1.15,5,0.5,6,round",
      '"A3",both,40,44,38,1.15,5,0.5,6,round',
      ",both,40,44,38,1.15,5,0.5,6,round",
      "A/3,both,40,44,38,1.15,5,0.5,6,round",
      "A3,both,40,44,38,1.15,5,0.5,6,round",
      "A4,both,1e999,-1,38,1.15,99,0.5,6,round",
      "A5,both,40,44,38,1.15,5,0.5,6,round,extra",
    ].join("\n");
    const { accepted, refused, total } = read(text);
    expect(total).toBe(8);
    expect(accepted.map((a) => [a.line, a.strain.id])).toEqual([[4, "A3"]]);
    expect(refused.map((r) => [r.line, r.column, r.code])).toEqual([
      [2, "weight", "OUT_OF_RANGE"],
      [3, "weight", "NOT_A_NUMBER"],
      [3, "type", "TYPE_UNKNOWN"],
      [5, "id", "ID_MISSING"],
      [6, "id", "ID_INVALID"],
      [7, "id", "DUPLICATE"],
      [8, "weight", "OUT_OF_RANGE"],
      [8, "length", "OUT_OF_RANGE"],
      [8, "sugarContent", "OUT_OF_RANGE"],
      [9, null, "COLUMN_COUNT"],
    ]);
  });

  it("does not read words as numbers that only look like them", ({ expect }) => {
    for (const cell of ["0x1f", "Infinity", "NaN", "1_000", "4 7", "1,5", "٤٧", "=1+1", "4.7.1"]) {
      expect(read(`${HEADER}\n${ROW.replace("47.24", `"${cell}"`)}`).refused, cell).toMatchObject([
        { code: "NOT_A_NUMBER" },
      ]);
    }
    expect(
      read(`${HEADER}\n${ROW}`.replaceAll(",", ";").replace("47.24", "47,24")).accepted[0]?.strain.phenotype.weight,
    ).toBe(47.24);
  });

  it("refuses files it cannot use, with the reason", ({ expect }) => {
    const codes = (bytes: Uint8Array) => readStrainCsv(bytes).refused.map((r) => r.code);
    expect(codes(utf8(""))).toEqual(["HEADER"]);
    expect(codes(utf8("weight,length\n1,2"))).toEqual(["HEADER"]);
    expect(codes(utf8("id\nA"))).toEqual(["HEADER"]);
    expect(codes(utf8("id,weight,과중\nA,1,2"))).toEqual(["HEADER"]);
    expect(codes(Uint8Array.of(0x50, 0x4b, 0x03, 0x04, 0xff, 0xff))).toEqual(["ENCODING"]);
    expect(codes(utf8(`${HEADER}\n"A1`))).toEqual(["FORMAT"]);
    expect(codes(utf8(`${HEADER}\n${"A,\n".repeat(10_001)}`))).toEqual(["TOO_MANY_ROWS"]);
  });

  it("takes a name for the id where there is no id, and says which columns it ignored", ({ expect }) => {
    const { accepted, warnings } = read(`${HEADER.replace("id", "name")},comment\n${ROW},tasty`);
    expect(accepted[0]?.strain).toMatchObject({ id: "A1", name: "A1" });
    expect(warnings).toMatchObject([{ line: 1, column: "comment", code: "COLUMN_IGNORED" }]);
    expect(read(`name,${HEADER}\n"Big, red",${ROW}`).accepted[0]?.strain).toMatchObject({ id: "A1", name: "Big, red" });
  });

  it("accepts ids of any script that are safe in an address, and no others", ({ expect }) => {
    for (const id of ["TC1_022", "계통-01", "LA 1589", "a.b", "7"]) expect(isStrainId(id), id).toBe(true);
    for (const id of [
      "",
      "-a",
      "=a",
      "a/b",
      "a\\b",
      "..",
      "a..b",
      "a  b",
      "a ",
      " a",
      "a?b",
      "a#b",
      "a%2fb",
      "a\nb",
      "é́\u0000",
      "x".repeat(65),
    ]) {
      expect(isStrainId(id), JSON.stringify(id)).toBe(false);
    }
  });
});

describe("strain export", () => {
  const strains: StrainRecord[] = [
    {
      id: "TC1_022",
      name: '=HYPERLINK("http://x")',
      type: "both",
      shapeKo: "약간납작하다",
      phenotype: phenotypeOf({
        weight: 47.24,
        length: 1 / 3,
        width: 38.59,
        ratio: 1.15,
        sugarContent: 0,
        firmness: 0.51,
        skinThickness: 1e-7,
        shape: "round",
      }),
    },
    { id: "계통 2", name: "a, \"b\" 'c'", type: "male", shapeKo: null, phenotype: phenotypeOf({ weight: 12 }) },
    {
      id: "X",
      name: "'=already",
      type: "female",
      shapeKo: "별모양",
      phenotype: phenotypeOf({ ratio: 1.4, shape: "oval" }),
    },
    {
      id: "Y",
      name: "-",
      type: "female",
      shapeKo: null,
      phenotype: phenotypeOf({ length: 40, width: 50, ratio: 0.9 }),
    },
  ];

  it("reads back identically", ({ expect }) => {
    const text = writeStrainCsv(strains);
    const { accepted, refused } = read(text, { allowMissing: true });
    expect(refused).toEqual([]);
    expect(accepted.map((a) => a.strain)).toEqual(strains);
    expect(writeStrainCsv(accepted.map((a) => a.strain))).toBe(text);
  });

  it("starts with a byte order mark and never has a cell that begins a formula", ({ expect }) => {
    const text = writeStrainCsv(strains);
    expect(text.startsWith("\uFEFF")).toBe(true);
    const rows = parseTable(text.slice(1), ",");
    const cells = rows.ok ? rows.value.flatMap((row) => row.cells) : [];
    expect(cells.filter((cell) => /^[=+\-@\t\r]/.test(cell))).toEqual([]);
    expect(cells.length).toBeGreaterThan(40);
  });
});
