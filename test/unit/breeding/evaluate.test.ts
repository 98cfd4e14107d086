import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, it } from "vitest";
import { readTrial } from "../../../scripts/lib/trial-data.ts";
import { crossValidate } from "../../../src/breeding/genetics/cross-validation.ts";
import { GENERIC_PRIOR, GRID } from "../../../src/breeding/genetics/priors.ts";
import { randomOf } from "./support.ts";

const utf8 = (text: string) => new TextEncoder().encode(text);

/** A half diallel of six lines with two traits; `size` is log-normal. */
function diallel() {
  const random = randomOf(3);
  const lines = ["A", "B", "C", "D", "E", "F"].map((id) => ({ id, value: 10 * random() }));
  const parents = lines.flatMap(({ id, value }) => [`${id},sugar,${value},2`, `${id},size,${Math.exp(value / 4)},2`]);
  const crosses = lines.flatMap((a, i) =>
    lines.slice(i + 1).flatMap((b) => {
      const value = (a.value + b.value) / 2 + random();
      return [
        `${a.id},${b.id},sugar,${value},3`,
        `${b.id},${a.id},sugar,${value + 0.2},1`,
        `${a.id},${b.id},size,${Math.exp(value / 4)},3`,
      ];
    }),
  );
  return {
    parents: `parent,trait,value,n\n${parents.join("\n")}\n`,
    crosses: `female,male,trait,value,n\n${crosses.join("\n")}\n`,
  };
}

describe("trial data", () => {
  const { parents, crosses } = diallel();
  const files = { parents: utf8(parents), crosses: utf8(crosses) };

  it("merges both directions of a cross by their plots, after the transformation", ({ expect }) => {
    const text = "female,male,trait,value,n\nA,B,size,10,3\nB,A,size,40,1\nA,C,size,5,1";
    const trial = readTrial({ parents: files.parents, crosses: utf8(text) }, { log: ["size"] });
    if (!trial.ok) throw new Error(trial.error.message);
    const pooled = trial.value[0]?.crosses.find((c) => c.b === "B");
    expect(pooled?.y).toBeCloseTo((3 * Math.log(10) + Math.log(40)) / 4, 12);
    expect(trial.value[0]?.crosses).toHaveLength(2);
  });

  it("draws the same limited set of crosses for every trait", ({ expect }) => {
    const drawn = () => {
      const trial = readTrial(files, { maxCrosses: 7 });
      return trial.ok ? trial.value.map((t) => t.crosses.map((c) => `${c.a}${c.b}`).sort()) : [];
    };
    expect(drawn()[0]).toHaveLength(7);
    expect(drawn()[1]).toEqual(drawn()[0]);
    expect(drawn()).toEqual(drawn());
  });

  it("names table and line of what it cannot read", ({ expect }) => {
    const cases: [Partial<typeof files>, string][] = [
      [{ crosses: utf8("female,trait,value\nA,t,1") }, "crosses: no column male"],
      [{ crosses: utf8("female,male,trait,value\nA,B,t,x") }, 'crosses, line 2: value "x" is not a number'],
      [{ crosses: utf8("female,male,trait,value,n\nA,B,t,1,0") }, 'crosses, line 2: n "0"'],
      [{ crosses: utf8("female,male,trait,value\nA,,t,1") }, "crosses, line 2: a name is empty"],
      [{ parents: utf8("parent,trait,value\n") }, "parents: no rows"],
      [{ parents: utf8("parent,trait,value\nA,sugar,1\nB,sugar,1") }, "trait sugar: at least two parents"],
    ];
    for (const [change, message] of cases) {
      const result = readTrial({ ...files, ...change });
      expect(result.ok ? "read" : result.error.message).toContain(message);
    }
  });

  it("holds out what each scheme says", ({ expect }) => {
    const trial = readTrial(files);
    const sugar = trial.ok ? trial.value.find((t) => t.trait === "sugar") : undefined;
    if (!sugar) throw new Error("no sugar");
    const held = (scheme: "LOCO" | "LOPO" | "L2PO") =>
      crossValidate({ ...sugar, scheme, prior: GENERIC_PRIOR, grid: GRID.production });
    // 15 crosses; without one parent 10 remain, without both 6: every fold is large enough, and LOPO predicts twice.
    expect([held("LOCO").length, held("LOPO").length, held("L2PO").length]).toEqual([15, 30, 15]);
    const few = { ...sugar, crosses: sugar.crosses.slice(0, 4) };
    expect(crossValidate({ ...few, scheme: "L2PO", prior: GENERIC_PRIOR, grid: GRID.production })).toEqual([]);
  });
});

describe("npm run evaluate", () => {
  const root = path.resolve(import.meta.dirname, "../../..");
  let folder = "";
  const at = (name: string) => path.join(folder, name);
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), "evaluate-"));
    const { parents, crosses } = diallel();
    writeFileSync(at("p.csv"), parents);
    writeFileSync(at("c.csv"), crosses);
    writeFileSync(at("broken.csv"), "female,male,trait,value\nA,B,sugar,?\n");
    writeFileSync(at("prior.json"), JSON.stringify({ sugar: GENERIC_PRIOR, size: { ...GENERIC_PRIOR, tol: 5 } }));
    writeFileSync(at("bad.json"), JSON.stringify({ ...GENERIC_PRIOR, th: "wide" }));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const run = (...args: string[]) =>
    new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
      execFile(process.execPath, [path.join(root, "scripts/evaluate.ts"), ...args], (error, stdout, stderr) => {
        resolve({ code: typeof error?.code === "number" ? error.code : error ? -1 : 0, stdout, stderr });
      });
    });
  const files = () => ["--parents", at("p.csv"), "--crosses", at("c.csv")];

  it("prints one JSON object with a row per trait and their mean", async ({ expect }) => {
    const { code, stdout } = await run(...files(), "--scheme", "LOCO", "--log", "size", "--priors", at("prior.json"));
    expect(code).toBe(0);
    const { traits, pooled } = JSON.parse(stdout);
    expect(Object.keys(traits)).toEqual(["sugar", "size"]);
    for (const row of [traits.sugar, traits.size, pooled]) {
      expect(Object.keys(row)).toEqual(["n", "r", "nRMSE", "cov80", "cov95", "meanConfidence", "hitRate"]);
    }
    expect(pooled.n).toBe(30);
    expect(pooled.nRMSE).toBeCloseTo((traits.sugar.nRMSE + traits.size.nRMSE) / 2, 12);
    expect(traits.size.meanConfidence).toBeGreaterThan(0.999);
    expect(traits.sugar.nRMSE).toBeLessThan(0.5);
  });

  it("says what could not be predicted and gives nulls, not zeros", async ({ expect }) => {
    const { code, stdout, stderr } = await run(...files(), "--scheme", "L2PO", "--max-crosses", "4");
    expect(code).toBe(0);
    expect(JSON.parse(stdout).pooled).toEqual({
      n: 0,
      r: null,
      nRMSE: null,
      cov80: null,
      cov95: null,
      meanConfidence: null,
      hitRate: null,
    });
    expect(stderr).toContain("too few crosses");
  });

  it("leaves with 2 and a clear text for bad arguments, with 1 for bad data", async ({ expect }) => {
    const cases: [string[], number, string][] = [
      [[], 2, "--scheme must be one of LOCO, LOPO, L2PO"],
      [[...files(), "--scheme", "loco"], 2, "--scheme must be one of"],
      [["--scheme", "LOCO"], 2, "--parents is required"],
      [["--scheme", "LOCO", "--parents", at("none.csv"), "--crosses", at("c.csv")], 2, "cannot read"],
      [[...files(), "--scheme", "LOCO", "--max-crosses", "0"], 2, "--max-crosses"],
      [[...files(), "--scheme", "LOCO", "--frobnicate"], 2, "frobnicate"],
      [[...files(), "--scheme", "LOCO", "--priors", at("bad.json")], 2, "th must be a finite number"],
      [[...files(), "--scheme", "LOCO", "--priors", at("p.csv")], 2, "is not JSON"],
      [[...files(), "--scheme", "LOCO", "--log", "colour"], 2, 'no trait "colour"'],
      [["--parents", at("p.csv"), "--crosses", at("broken.csv"), "--scheme", "LOCO"], 1, "crosses, line 2"],
    ];
    const results = await Promise.all(cases.map(([args]) => run(...args)));
    for (const [i, { code, stdout, stderr }] of results.entries()) {
      expect([code, stdout], cases[i]?.[0].join(" ")).toEqual([cases[i]?.[1], ""]);
      expect(stderr).toContain(cases[i]?.[2]);
    }
  });
});
