import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "vitest";

const TESTS = join(import.meta.dirname, "../..");

/** Rows of the protocol's table: the number and what stands under "where". */
const rows = readFileSync(join(TESTS, "README.md"), "utf8")
  .split("\n")
  .flatMap((line) => {
    const [, number, , where] = /^\| (\d+) \| ([^|]+) \| (.+) \|$/.exec(line) ?? [];
    return number === undefined || where === undefined ? [] : [{ number: Number(number), where }];
  });

describe("the list of the protocol's tests", () => {
  it("has all 28, once each", ({ expect }) => {
    expect(rows.map(({ number }) => number)).toEqual(Array.from({ length: 28 }, (_, at) => at + 1));
  });

  it("names files and tests that exist", ({ expect }) => {
    const missing: string[] = [];
    for (const { number, where } of rows) {
      for (const part of where.split(/; (?=`)/)) {
        const [, path = ""] = /^`([\w/-]+)`/.exec(part) ?? [];
        const file = join(TESTS, `${path}.test.ts`);
        if (!existsSync(file)) {
          missing.push(`${number}: ${path}`);
          continue;
        }
        const text = readFileSync(file, "utf8");
        for (const [, name = ""] of part.matchAll(/"([^"]+)"/g)) {
          // A title may be cut at either end.
          if (!text.includes(name.replace(/^…|…$/g, ""))) missing.push(`${number}: ${path} "${name}"`);
        }
      }
    }
    expect(missing).toEqual([]);
  });
});
