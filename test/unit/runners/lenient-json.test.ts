import { describe, it } from "vitest";
import { isTooDeep, parseLenientJson, quoteNonFinite } from "../../../src/training/runners/lenient-json.ts";

describe("lenient JSON", () => {
  it("reads bare non-finite tokens wherever a value may stand", ({ expect }) => {
    for (const token of ["NaN", "-NaN", "Infinity", "-Infinity"]) {
      expect(parseLenientJson(token)).toBe(token);
      expect(parseLenientJson(`[${token}]`)).toEqual([token]);
      expect(parseLenientJson(`[1,${token},2]`)).toEqual([1, token, 2]);
      expect(parseLenientJson(`{"a":${token}}`)).toEqual({ a: token });
      expect(parseLenientJson(`{"a": ${token} ,"b":{"c":[${token}]}}`)).toEqual({ a: token, b: { c: [token] } });
    }
  });

  it("leaves strings alone, whatever stands in them", ({ expect }) => {
    for (const text of [
      "NaN",
      "loss is NaN, not Infinity",
      'quote " NaN',
      "back\\slash NaN",
      'both \\" NaN',
      "ends with a backslash NaN\\",
      "\u2028NaN\u0000",
      "[NaN]",
      "-Infinity",
    ]) {
      const body = { [text]: text, n: "x" };
      expect(parseLenientJson(JSON.stringify(body))).toEqual(body);
      const mixed = `{"t":${JSON.stringify(text)},"v":NaN,${JSON.stringify(text)}:-Infinity}`;
      expect(parseLenientJson(mixed)).toEqual({ t: text, v: "NaN", [text]: "-Infinity" });
    }
  });

  it("agrees with the strict parser on every prefix of a body without such tokens", ({ expect }) => {
    const body = JSON.stringify({ a: [1, -2.5e3, null, true], "NaN in a key": '\\ " Infinity', nested: { b: "-NaN" } });
    for (let length = 0; length <= body.length; length++) {
      const text = body.slice(0, length);
      let strict: unknown;
      try {
        strict = JSON.parse(text);
      } catch {
        strict = undefined;
      }
      expect([text, parseLenientJson(text)]).toEqual([text, strict]);
    }
  });

  it("refuses what only looks like a token", ({ expect }) => {
    for (const text of [
      "[aNaN]",
      "[NaNa]",
      "[Infinit]",
      "[--Infinity]",
      "[1NaN]",
      "[NaN NaN]",
      "{NaN",
      "nan",
      "[+Infinity]",
    ]) {
      expect([text, parseLenientJson(text)]).toEqual([text, undefined]);
    }
  });

  it("takes one pass: a large body costs no more for each byte than a small one", ({ expect }) => {
    const body = `[${Array.from({ length: 200_000 }, () => "NaN").join(",")}]`;
    const before = performance.now();
    expect(quoteNonFinite(body)).toHaveLength(body.length + 2 * 200_000);
    expect(performance.now() - before).toBeLessThan(2_000);
  });

  it("uses the last of two equal keys, once and for all", ({ expect }) => {
    expect(parseLenientJson('{"job_id":1,"job_id":2,"loss":NaN}')).toEqual({ job_id: 2, loss: "NaN" });
  });

  it("reads a body of ten thousand levels, so that it can be refused for its depth", ({ expect }) => {
    const deep = (levels: number) => parseLenientJson(`${"[".repeat(levels)}${"]".repeat(levels)}`);
    expect(isTooDeep(deep(10_000))).toBe(true);
    expect(isTooDeep(parseLenientJson(`${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}`))).toBe(true);
    expect([isTooDeep(deep(64)), isTooDeep(deep(65))]).toEqual([false, true]);
    expect([isTooDeep(null), isTooDeep(3), isTooDeep("x"), isTooDeep(undefined)]).toEqual([false, false, false, false]);
  });
});
