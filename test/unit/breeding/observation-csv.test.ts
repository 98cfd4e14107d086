import { describe, it } from "vitest";
import { BREEDING_LIMITS } from "../../../src/breeding/limits.ts";
import { readObservationCsv } from "../../../src/breeding/observations/csv.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const read = (...lines: string[]) => readObservationCsv(encode(lines.join("\n")));

describe("a file of measured crosses", () => {
  it("is read with English headers", ({ expect }) => {
    const report = read(
      "female,male,n,season,environment,weight,length,width,brix,firmness,shape",
      "TC1_023,TC1_022,3,2025 spring,house A,41.5,40.2,38.8,5.4,0.55,oval",
      "TC1_026,TC1_022,,,,50,,,,,",
    );
    expect(report).toMatchObject({ encoding: "utf-8", total: 2, refused: [], warnings: [] });
    expect(report.accepted.map(({ line }) => line)).toEqual([2, 3]);
    expect(report.accepted[0]?.observation).toEqual({
      femaleId: "TC1_023",
      maleId: "TC1_022",
      n: 3,
      season: "2025 spring",
      environment: "house A",
      phenotype: {
        weight: 41.5,
        length: 40.2,
        width: 38.8,
        ratio: 1.0361,
        sugarContent: 5.4,
        firmness: 0.55,
        skinThickness: null,
        shape: "oval",
      },
    });
    expect(report.accepted[1]?.observation).toMatchObject({ n: 1, season: null, environment: null });
  });

  it("is read with Korean headers, units and words", ({ expect }) => {
    const report = read(
      "모계\t부계\t반복수\t작기\t과중 (g)\t당도 (%)\t과형",
      "가_1\t나-2\t2\t2025 봄\t35\t6.1\t달걀형",
    );
    expect(report.refused).toEqual([]);
    expect(report.accepted[0]?.observation).toMatchObject({
      femaleId: "가_1",
      maleId: "나-2",
      n: 2,
      season: "2025 봄",
      phenotype: { weight: 35, sugarContent: 6.1, shape: "oval" },
    });
  });

  it("accepts decimal commas where semicolons separate", ({ expect }) => {
    expect(read("female;male;weight", "A;B;41,5").accepted[0]?.observation.phenotype.weight).toBe(41.5);
  });

  it("lists every fault with its line and column, and keeps the other rows", ({ expect }) => {
    const report = read(
      "female,male,n,weight,length,width,ratio,shape",
      "A,B,1,-5,,,,",
      ",B,0,10,,,,",
      "A,B,1,,,,,",
      "A,B,1.5,10,40,20,1,star",
      'A,B,1,"4\n2",,,,',
      "A,B,1,42,,,,",
      "A,B,1,42,,,,,surplus",
    );
    expect(report.accepted.map(({ line }) => line)).toEqual([8]);
    expect(report.refused.map(({ line, column, code }) => [line, column, code])).toEqual([
      [2, "weight", "OUT_OF_RANGE"],
      [3, "female", "ID_MISSING"],
      [3, "n", "OUT_OF_RANGE"],
      [4, null, "NO_VALUE"],
      [5, "n", "OUT_OF_RANGE"],
      [5, "ratio", "RATIO_MISMATCH"],
      [5, "shape", "SHAPE_UNKNOWN"],
      [6, "weight", "NOT_A_NUMBER"],
      [9, null, "COLUMN_COUNT"],
    ]);
    for (const { message } of report.refused) expect(message).toMatch(/\p{Script=Hangul}/u);
  });

  it("is refused as a whole without parents, traits, or order in its header", ({ expect }) => {
    for (const [header, code] of [
      ["", "HEADER"],
      ["female,weight", "HEADER"],
      ["female,male", "HEADER"],
      ["female,mother,male,weight", "HEADER"],
      ['female,male,"weight', "FORMAT"],
    ] as const) {
      const report = read(header, "A,B,1");
      expect(report.accepted).toEqual([]);
      expect(report.refused.map((issue) => issue.code)).toEqual([code]);
    }
    expect(readObservationCsv(Uint8Array.of(0xff, 0xff, 0x80)).refused[0]?.code).toBe("ENCODING");
  });

  it("names columns that it ignores", ({ expect }) => {
    expect(read("female,male,weight,mood", "A,B,5,good").warnings).toMatchObject([{ line: 1, column: "mood" }]);
  });

  it("is refused when it has more rows than there is room for", ({ expect }) => {
    const rows = Array.from({ length: BREEDING_LIMITS.observations + 1 }, () => "A,B,5");
    expect(read("female,male,weight", ...rows).refused[0]?.code).toBe("TOO_MANY_ROWS");
  });

  it("takes back the apostrophe that protects a cell from being run as a formula", ({ expect }) => {
    expect(read("female,male,weight,season", "A,B,5,'=1+1").accepted[0]?.observation.season).toBe("=1+1");
  });
});
