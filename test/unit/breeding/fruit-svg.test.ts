import { describe, it } from "vitest";
import { SHAPE_CLASSES } from "../../../src/breeding/genetics/traits.ts";
import {
  appearanceOf,
  escapeXml,
  FRUIT_VIEWS,
  type FruitAppearance,
  loculesOf,
  renderFruitSvg,
  seedOf,
} from "../../../src/breeding/images/fruit-svg.ts";
import { sampleStrains } from "../../../src/breeding/strains/sample.ts";
import { phenotypeOf } from "./support.ts";

const medium: FruitAppearance = {
  length: 47,
  width: 54,
  weight: 80,
  sugarContent: 5,
  firmness: 0.6,
  skinThickness: 5,
  shape: "round",
};

/** Box of the end points of the first path with this attribute: of the fruit's outline, in mm. */
function boxOf(svg: string, marker: string) {
  const path = new RegExp(`${marker}[^>]*?>?<?[^>]*? d="(M[^"]+)"`).exec(svg)?.[1] ?? "";
  const numbers = [...path.matchAll(/-?\d+(?:\.\d+)?/g)].map(Number);
  // M x y, then C with three points each, of which the third lies on the curve.
  const on = numbers.filter((_, i) => i < 2 || (i - 2) % 6 >= 4);
  const xs = on.filter((_, i) => i % 2 === 0);
  const ys = on.filter((_, i) => i % 2 === 1);
  return { width: Math.max(...xs) - Math.min(...xs), height: Math.max(...ys) - Math.min(...ys), points: on.length / 2 };
}

const viewBox = (svg: string) => /viewBox="([^"]+)"/.exec(svg)?.[1] ?? "";

/** Whether every tag is closed in order: enough of XML for what the renderer writes. */
function isBalanced(svg: string): boolean {
  const open: string[] = [];
  for (const [, close, name = "", rest = ""] of svg.matchAll(/<(\/?)([a-zA-Z]+)((?:"[^"]*"|[^">])*)>/g)) {
    if (close) {
      if (open.pop() !== name) return false;
    } else if (!rest.endsWith("/")) open.push(name);
  }
  return open.length === 0;
}

describe("fruit drawing", () => {
  it("is the same for the same input and another for another seed", ({ expect }) => {
    for (const view of FRUIT_VIEWS) {
      const draw = (seed: number) => renderFruitSvg(medium, { view, seed });
      expect(draw(7)).toBe(draw(7));
      expect(draw(7)).not.toBe(draw(8));
    }
    expect(seedOf("TC1_022")).toBe(seedOf("TC1_022"));
    expect(seedOf("TC1_022")).not.toBe(seedOf("TC1_023"));
  });

  it("draws the outline exactly as long and wide as the traits say, in every shape", ({ expect }) => {
    for (const shape of SHAPE_CLASSES) {
      for (const [length, width, weight] of [
        [22, 25, 9],
        [62, 96, 330],
        [80, 40, 75],
      ] as const) {
        const svg = renderFruitSvg({ ...medium, shape, length, width, weight }, { view: "outside", seed: 3 });
        const box = boxOf(svg, 'id="body"');
        expect(box.points).toBe(73);
        expect(box.width).toBeCloseTo(width, 2);
        expect(box.height).toBeCloseTo(length, 2);
      }
    }
  });

  it("draws the pericarp as thick as it is, and both views at one scale with its bar", ({ expect }) => {
    const [outside, section] = FRUIT_VIEWS.map((view) => renderFruitSvg(medium, { view, seed: 3 })) as [string, string];
    expect(viewBox(section)).toBe(viewBox(outside));
    const cavity = boxOf(section, 'id="flesh"');
    expect(cavity.width).toBeCloseTo(medium.width - 2 * medium.skinThickness, 1);
    const [, , field] = viewBox(outside).split(" ").map(Number);
    const bar = /M(-?[\d.]+) (-?[\d.]+)H(-?[\d.]+)/.exec(outside);
    expect(Number(bar?.[3]) - Number(bar?.[1])).toBe(20);
    expect(field).toBeGreaterThan(medium.width);
  });

  it("keeps small and large fruit apart by scale: a longer bar never stands for fewer millimetres", ({ expect }) => {
    const fields = [20, 40, 60, 80, 100, 150].map((mm) =>
      Number(viewBox(renderFruitSvg({ ...medium, length: mm, width: mm }, { view: "outside", seed: 1 })).split(" ")[2]),
    );
    expect(fields).toEqual([...fields].sort((a, b) => a - b));
    expect(new Set(fields).size).toBe(fields.length);
  });

  it("puts few locules in cherries and plums, many in heavy flat fruit", ({ expect }) => {
    const half = () => 0.5;
    const cherry = loculesOf({ ...medium, weight: 9, length: 22, width: 25 }, half);
    const plum = loculesOf({ ...medium, weight: 75, length: 70, width: 42, shape: "rectangular" }, half);
    const beefsteak = loculesOf({ ...medium, weight: 400, length: 66, width: 100 }, half);
    expect([cherry, plum]).toEqual([2, 2]);
    expect(beefsteak).toBeGreaterThan(5);
  });

  it("is redder with more sugar", ({ expect }) => {
    const skin = (sugarContent: number) => {
      const svg = renderFruitSvg({ ...medium, sugarContent }, { view: "outside", seed: 1 });
      const [, colour = ""] = /id="skin".*?<stop offset="0.6" stop-color="#([0-9a-f]{6})"/.exec(svg) ?? [];
      return Number.parseInt(colour.slice(2, 4), 16);
    };
    expect(skin(8)).toBeLessThan(skin(3));
  });

  it("draws every sample strain and any odd numbers: finite, balanced, small, without text, links or scripts", ({
    expect,
  }) => {
    const odd = [0, -5, 1e9, Number.NaN, Number.POSITIVE_INFINITY].map((value) => ({
      ...medium,
      length: value,
      width: value,
      weight: value,
      sugarContent: value,
      firmness: value,
      skinThickness: value,
    }));
    const fruit = [...sampleStrains(50).map((s) => appearanceOf(s.phenotype)), ...odd];
    for (const appearance of fruit) {
      for (const view of FRUIT_VIEWS) {
        const svg = renderFruitSvg(appearance, { view, seed: seedOf(JSON.stringify(appearance)) });
        expect(svg).not.toMatch(/NaN|Infinity|undefined|null/);
        expect(svg).not.toMatch(/<(text|image|script|style|foreignObject|filter|use|a)\b|href|\bon\w+=/);
        expect(isBalanced(svg)).toBe(true);
        expect(svg.length).toBeLessThan(150_000);
      }
    }
  });

  it("escapes whatever stands in a title", ({ expect }) => {
    const title = `</title><script>alert("1")</script> & 'x' \u0000\u0008\uD800 토마토`;
    const svg = renderFruitSvg(medium, { view: "outside", seed: 1, title });
    expect(svg).toContain(
      "<title>&lt;/title&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;x&#39; \uFFFD 토마토</title>",
    );
    expect(isBalanced(svg)).toBe(true);
    expect(escapeXml("a\nb")).toBe("a\nb");
  });

  it("derives what is unknown from what is known", ({ expect }) => {
    expect(appearanceOf(phenotypeOf({ weight: 47.24, length: 44.38, width: 38.59, ratio: 1.15 }))).toMatchObject({
      length: 44.38,
      width: 38.59,
      weight: 47.24,
    });
    const boxed = appearanceOf(phenotypeOf({ length: 50, width: 40 }));
    expect(boxed.weight).toBeCloseTo(5.89e-4 * 50 * 40 ** 2, 9);
    const weighed = appearanceOf(phenotypeOf({ weight: 60, ratio: 1.3 }));
    expect(weighed.length / weighed.width).toBeCloseTo(1.3, 9);
    expect(weighed.weight / (weighed.length * weighed.width ** 2)).toBeCloseTo(5.89e-4, 9);
    const nothing = appearanceOf(phenotypeOf({}));
    expect(Object.values(nothing).every((v) => typeof v === "string" || Number.isFinite(v))).toBe(true);
  });
});
