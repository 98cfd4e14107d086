import { describe, it } from "vitest";
import { correlation, meanAndSd } from "../../../src/breeding/genetics/panel.ts";
import { FALLBACK_PANEL, FRUIT_TRAITS, inRange } from "../../../src/breeding/genetics/traits.ts";
import { isStrainId } from "../../../src/breeding/strains/csv.ts";
import { sampleStrains } from "../../../src/breeding/strains/sample.ts";

describe("sample strains", () => {
  const strains = sampleStrains();

  it("are 50, the same each time, of all three types, with the contract's line as printed", ({ expect }) => {
    expect(strains).toHaveLength(50);
    expect(sampleStrains()).toEqual(strains);
    expect(sampleStrains(50, 1)).not.toEqual(strains);
    expect(new Set(strains.map((s) => s.type))).toEqual(new Set(["male", "female", "both"]));
    expect(strains.find((s) => s.id === "TC1_022")).toEqual({
      id: "TC1_022",
      name: "TC1_022",
      type: "both",
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
    });
    for (const id of ["TC1_023", "TC1_026", "TC1_027"]) expect(strains.find((s) => s.id === id)?.type).toBe("both");
    expect(new Set(strains.map((s) => s.id)).size).toBe(50);
  });

  it("are complete, plausible tomatoes whose numbers agree with each other", ({ expect }) => {
    for (const { id, phenotype } of sampleStrains(300, 9)) {
      expect(isStrainId(id)).toBe(true);
      for (const trait of FRUIT_TRAITS) {
        const value = phenotype[trait];
        expect(value !== null && inRange(trait, value), `${id} ${trait}`).toBe(true);
      }
      const { weight, length, width, ratio } = phenotype;
      expect(Math.abs((ratio ?? 0) - (length ?? 0) / (width ?? 1))).toBeLessThanOrEqual(0.0051);
      const k = (weight ?? 0) / ((length ?? 0) * (width ?? 0) ** 2);
      expect(k).toBeGreaterThan(4.3e-4);
      expect(k).toBeLessThan(8e-4);
    }
  });

  it("have the panel's means, spreads and correlations", ({ expect }) => {
    const many = sampleStrains(800, 3);
    const of = (trait: (typeof FRUIT_TRAITS)[number]) => many.map((s) => s.phenotype[trait] ?? Number.NaN);
    const weight = of("weight").map(Math.log);
    const ratio = of("ratio").map(Math.log);
    expect(meanAndSd(weight).mean).toBeCloseTo(FALLBACK_PANEL.weight.mean, 0.9);
    expect(meanAndSd(weight).sd / FALLBACK_PANEL.weight.sd).toBeCloseTo(1, 1);
    expect(correlation(weight, ratio)).toBeCloseTo(-0.46, 0.9);
    expect(correlation(weight, of("sugarContent"))).toBeLessThan(-0.3);
    expect(correlation(of("skinThickness"), of("firmness"))).toBeGreaterThan(0.2);
  });
});
