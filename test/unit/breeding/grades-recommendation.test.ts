import { describe, it } from "vitest";
import { cutsOf, expectedGrade, FROZEN_CUTS, gradeOf, overallScore } from "../../../src/breeding/genetics/grades.ts";
import { normalCdf } from "../../../src/breeding/genetics/normal.ts";
import { panelOf } from "../../../src/breeding/genetics/panel.ts";
import { recommend, sizeClassOf } from "../../../src/breeding/genetics/recommendation.ts";

describe("panel", () => {
  const fallback = { mean: 10, sd: 2 };

  it("uses mean and sample SD of five strains or more", ({ expect }) => {
    expect(panelOf([1, 2, 3, 4, 5], fallback)).toEqual({ mean: 3, sd: Math.sqrt(2.5), count: 5 });
  });

  it("pools the spread of two to four strains with the fallback", ({ expect }) => {
    // s² = 2, n = 2: (1·2 + 4·4)/5 = 3.6
    expect(panelOf([5, 7], fallback)).toEqual({ mean: 6, sd: Math.sqrt(3.6), count: 2 });
  });

  it("falls back where there is nothing to measure a spread with", ({ expect }) => {
    expect(panelOf([], fallback)).toEqual({ mean: 10, sd: 2, count: 0 });
    expect(panelOf([7], fallback)).toEqual({ mean: 7, sd: 2, count: 1 });
    expect(panelOf([7, 7, 7, 7, 7, 7], fallback)).toEqual({ mean: 7, sd: 2, count: 6 });
  });
});

describe("grades", () => {
  it("cuts the panel at its quintiles by linear interpolation", ({ expect }) => {
    const values = Array.from({ length: 16 }, (_, i) => i * 10);
    expect(cutsOf(values, "weight")).toEqual([30, 60, 90, 120]);
    expect(cutsOf(values.slice(0, 14), "weight")).toEqual(FROZEN_CUTS.weight);
  });

  it("counts the cuts at or below the value, ties included", ({ expect }) => {
    const cuts = [1, 2, 2, 3] as const;
    expect([0.9, 1, 1.9, 2, 3, 9].map((v) => gradeOf(v, cuts))).toEqual([1, 2, 2, 4, 5, 5]);
  });

  it("expects the middle grade of a distribution centred on the panel, between 1 and 5 always", ({ expect }) => {
    const cuts = FROZEN_CUTS.sugarContent;
    const grade = (mean: number, sd: number) => expectedGrade("sugarContent", cuts, (x) => normalCdf((x - mean) / sd));
    expect(grade(4.4, 1)).toBeCloseTo(3, 0);
    expect(grade(0, 0.1)).toBeCloseTo(1, 6);
    expect(grade(20, 0.1)).toBeCloseTo(5, 6);
  });

  it("scores with the given weights, leaves out missing traits and stays within 0 and 5", ({ expect }) => {
    expect(overallScore({ weight: 3, length: 3, sugarContent: 3, firmness: 3 })).toBe(3);
    expect(overallScore({ sugarContent: 4, firmness: 1 })).toBe(2.6);
    expect(overallScore({ weight: 5, firmness: 1 }, { weight: 1 })).toBe(5);
    expect(overallScore({})).toBe(0);
  });
});

describe("recommendation", () => {
  const base = {
    weight: 34.89,
    sugarContent: 5.32,
    firmness: 0.53,
    firmnessCuts: FROZEN_CUTS.firmness,
    confidences: [0.92, 0.88, 0.9, 0.86],
  };

  it("is the contract's text for the contract's numbers", ({ expect }) => {
    expect(recommend(base)).toBe("중과종으로 다용도 활용 가능. 가공용으로 활용 권장");
  });

  it("names the size class by its borders", ({ expect }) => {
    expect([29.999, 30, 199.999, 200].map(sizeClassOf)).toEqual(["small", "medium", "medium", "large"]);
    expect(recommend({ ...base, weight: 12 })).toMatch(/^소과종\(방울토마토\)으로 간편 생식용에 적합\. /);
    expect(recommend({ ...base, weight: 250 })).toMatch(/^대과종으로 슬라이스·스테이크용에 적합\. /);
  });

  it("asks more sugar of smaller fruit, and lets sugar go before firmness", ({ expect }) => {
    const use = (weight: number, sugarContent: number, firmness = 0.53) =>
      recommend({ ...base, weight, sugarContent, firmness }).split(". ")[1];
    expect([use(20, 7.9), use(20, 8)]).toEqual(["가공용으로 활용 권장", "당도가 높아 생식용으로 활용 권장"]);
    expect([use(100, 5.9), use(100, 6)]).toEqual(["가공용으로 활용 권장", "당도가 높아 생식용으로 활용 권장"]);
    expect([use(300, 4.9), use(300, 5)]).toEqual(["가공용으로 활용 권장", "당도가 높아 생식용으로 활용 권장"]);
    expect([use(100, 5, 0.649), use(100, 5, 0.65), use(100, 7, 0.65)]).toEqual([
      "가공용으로 활용 권장",
      "경도가 높아 가공·유통용으로 활용 권장",
      "당도가 높아 생식용으로 활용 권장",
    ]);
  });

  it("advises a trial cross when the mean confidence is low", ({ expect }) => {
    expect(recommend({ ...base, confidences: [0.4, 0.4, 0.4, 0.59] })).toMatch(
      /예측 불확실성이 커 시험 교배 후 재평가 권장$/,
    );
    expect(recommend({ ...base, confidences: [0.45, 0.45, 0.45, 0.45] })).not.toMatch(/재평가/);
  });
});
