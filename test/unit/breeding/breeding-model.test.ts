import { describe, it } from "vitest";
import { fitBreedingModel, predictCross } from "../../../src/breeding/genetics/breeding-model.ts";
import { calibrationOf, forecastObservation } from "../../../src/breeding/genetics/calibration.ts";
import { decodeModel, encodeModel } from "../../../src/breeding/genetics/codec.ts";
import { TOMATO_PRIORS } from "../../../src/breeding/genetics/priors.ts";
import { canonicalJson, modelManifest } from "../../../src/breeding/genetics/provenance.ts";
import { FRUIT_TRAITS, type GeneticStrain } from "../../../src/breeding/genetics/traits.ts";
import { sampleStrains } from "../../../src/breeding/strains/sample.ts";
import { observationOf, phenotypeOf, randomOf, simulateObservation, simulateRecords, strainOf } from "./support.ts";

const strains = sampleStrains();
const at = (i: number) => strains[i] as GeneticStrain;

/** A model's answers for a spread of pairs, as plain data. */
const answers = (model: Parameters<typeof predictCross>[0]) =>
  [0, 7, 14, 21].flatMap((i) => [3, 21, 33].map((j) => predictCross(model, at(i), at(j))));

describe("cross prediction", () => {
  const models = [0, 5, 60].map((count) =>
    fitBreedingModel({ strains, observations: simulateRecords(strains, count, 3) }),
  );

  it("never lets weight, length, width and ratio contradict each other, recorded or not", ({ expect }) => {
    for (const model of models) {
      for (const { traits } of answers(model)) {
        expect(traits.length.value / traits.width.value / traits.ratio.value).toBeCloseTo(1, 12);
        const k = traits.weight.value / (traits.length.value * traits.width.value ** 2);
        expect(k).toBeGreaterThan(3e-4);
        expect(k).toBeLessThan(1.2e-3);
      }
    }
  });

  it("puts every value inside its interval, every confidence between 0 and 1, every grade between 1 and 5", ({
    expect,
  }) => {
    for (const model of models) {
      for (const { traits, shape, overallScore } of answers(model)) {
        for (const trait of FRUIT_TRAITS) {
          const { value, interval, confidence, grade } = traits[trait];
          expect(interval.lower).toBeLessThanOrEqual(value);
          expect(interval.upper).toBeGreaterThanOrEqual(value);
          expect(interval.upper).toBeGreaterThan(interval.lower);
          expect(confidence).toBeGreaterThan(0);
          expect(confidence).toBeLessThan(1);
          expect([1, 2, 3, 4, 5]).toContain(grade);
        }
        expect(shape.confidence).toBe(Math.max(...Object.values(shape.probabilities)));
        expect(overallScore).toBeGreaterThanOrEqual(0);
        expect(overallScore).toBeLessThanOrEqual(5);
      }
    }
  });

  it("is honest without records: confidence about one half, and says it rests on the parents", ({ expect }) => {
    for (const { traits } of answers(models[0] as (typeof models)[number])) {
      for (const trait of FRUIT_TRAITS) {
        expect(traits[trait].confidence).toBeGreaterThan(0.3);
        expect(traits[trait].confidence).toBeLessThan(0.7);
        expect(traits[trait]).toMatchObject({ basis: "parents", nCrosses: 0 });
      }
    }
  });

  it("predicts the same for both directions of a cross", ({ expect }) => {
    for (const model of models) expect(predictCross(model, at(2), at(9))).toEqual(predictCross(model, at(9), at(2)));
  });

  it("lies between its parents when the prior says exactly mid-parent", ({ expect }) => {
    const tiny = { ...TOMATO_PRIORS.weight, h0: 0, th: 1e-6, b0: 1, tb: 1e-6, d0: 0, td: 1e-6 };
    const model = fitBreedingModel({ strains, observations: [], priors: { ...TOMATO_PRIORS, weight: tiny } });
    for (const [a, b] of [
      [1, 5],
      [4, 13],
      [21, 25],
    ] as const) {
      const [x, y] = [at(a).phenotype.weight ?? 0, at(b).phenotype.weight ?? 0];
      const { value } = predictCross(model, at(a), at(b)).traits.weight;
      expect(value).toBeCloseTo(Math.sqrt(x * y), 6);
    }
  });

  it("uses a recorded F1: basis, count and a value drawn to it", ({ expect }) => {
    const record = observationOf(at(1).id, at(4).id, { weight: 300, length: 60, width: 90, sugarContent: 9 }, 4);
    const before = predictCross(fitBreedingModel({ strains, observations: [] }), at(1), at(4));
    const model = fitBreedingModel({ strains, observations: [record] });
    const after = predictCross(model, at(4), at(1));
    expect(after.traits.sugarContent).toMatchObject({ basis: "observed", nCrosses: 1 });
    expect(after.traits.length).toMatchObject({ basis: "observed", nCrosses: 1 });
    expect(after.traits.firmness).toMatchObject({ basis: "parents", nCrosses: 0 });
    expect(after.traits.sugarContent.value).toBeGreaterThan(before.traits.sugarContent.value + 1);
    expect(after.traits.ratio.value).toBeLessThan(before.traits.ratio.value);
    expect(predictCross(model, at(1), at(9)).traits.weight.basis).toBe("gca");
  });

  it("answers for strains that were never measured, for one strain, and for a strain with itself", ({ expect }) => {
    const ghost = strainOf("ghost");
    const cases = [
      { strains: [], pair: [ghost, ghost] },
      { strains: [at(0)], pair: [at(0), at(0)] },
      { strains: [at(0)], pair: [at(0), ghost] },
      { strains: [ghost, strainOf("ghost2")], pair: [ghost, strainOf("ghost2")] },
      { strains: [at(0), at(1)], pair: [strainOf("partial", { length: 40, width: 50 }), at(1)] },
    ] as const;
    for (const { strains: panel, pair } of cases) {
      const prediction = predictCross(fitBreedingModel({ strains: panel, observations: [] }), pair[0], pair[1]);
      for (const trait of FRUIT_TRAITS) {
        const { value, confidence, interval } = prediction.traits[trait];
        expect([value, confidence, interval.lower, interval.upper].every(Number.isFinite)).toBe(true);
      }
    }
    const unknown = predictCross(fitBreedingModel({ strains, observations: [] }), ghost, at(3)).traits;
    expect(unknown.weight.basis).toBe("prior");
  });

  it("never predicts a negative value", ({ expect }) => {
    const dry = Array.from({ length: 6 }, (_, i) => strainOf(`D${i}`, { skinThickness: 0.1 + i }));
    const model = fitBreedingModel({
      strains: dry,
      observations: [observationOf("D0", "D1", { skinThickness: 0 }, 9)],
    });
    const { value, interval } = predictCross(model, dry[0] as GeneticStrain, dry[0] as GeneticStrain).traits
      .skinThickness;
    expect(Math.min(value, interval.lower)).toBeGreaterThanOrEqual(0);
  });

  it("reads a missing ratio and weight off length and width, and leaves other unknowns unknown", ({ expect }) => {
    const full = strainOf("full", { weight: 60, length: 45, width: 45, ratio: 1 });
    const boxed = strainOf("boxed", { length: 45, width: 45 });
    const model = fitBreedingModel({ strains: [...strains, full, boxed], observations: [] });
    expect(predictCross(model, boxed, at(3)).traits.weight.basis).toBe("parents");
    expect(predictCross(model, boxed, at(3)).traits.ratio.value).toBeCloseTo(
      predictCross(model, full, at(3)).traits.ratio.value,
      9,
    );
  });

  it("answers within 5 ms from a stored fit of 200 strains and 1,000 recorded crosses", ({ expect }) => {
    const many = sampleStrains(200, 7);
    const stored = decodeModel(
      encodeModel(fitBreedingModel({ strains: many, observations: simulateRecords(many, 1000, 11) })),
    );
    if (!stored.ok) throw new Error(stored.error.message);
    const pairs = Array.from(
      { length: 40 },
      (_, i) => [many[i] as GeneticStrain, many[199 - i] as GeneticStrain] as const,
    );
    for (const [a, b] of pairs) predictCross(stored.value, a, b);
    const times = pairs.map(([a, b]) => {
      const start = performance.now();
      predictCross(stored.value, a, b);
      return performance.now() - start;
    });
    expect(times.sort((x, y) => x - y)[20]).toBeLessThan(5);
  });
});

describe("stored model", () => {
  const observations = [
    ...simulateRecords(strains, 30, 5),
    observationOf("TC1_001", "removed line", { sugarContent: 6 }),
  ];
  const model = fitBreedingModel({ strains, observations });

  it("predicts the same to the last bit after being stored", ({ expect }) => {
    const stored = decodeModel(encodeModel(model));
    if (!stored.ok) throw new Error(stored.error.message);
    expect(answers(stored.value)).toEqual(answers(model));
    expect([...encodeModel(stored.value)]).toEqual([...encodeModel(model)]);
  });

  it("reads from the middle of another buffer", ({ expect }) => {
    const bytes = encodeModel(model);
    const inside = new Uint8Array(bytes.length + 13);
    inside.set(bytes, 5);
    expect(decodeModel(inside.subarray(5, 5 + bytes.length)).ok).toBe(true);
  });

  it("refuses bytes that are cut, longer, of another format or no model at all", ({ expect }) => {
    const bytes = encodeModel(model);
    const otherFormat = bytes.slice();
    otherFormat[4] = 9;
    const brokenHeader = bytes.slice();
    brokenHeader[12] = 0x7d;
    const wrong = [
      new Uint8Array(),
      new TextEncoder().encode("not a model at all"),
      bytes.subarray(0, 100),
      bytes.subarray(0, bytes.length - 8),
      new Uint8Array([...bytes, 0, 0, 0, 0, 0, 0, 0, 0]),
      otherFormat,
      brokenHeader,
    ];
    for (const [i, w] of wrong.entries()) {
      const result = decodeModel(w);
      expect(result.ok ? `case ${i}` : result.error.code).toBe("MODEL_UNREADABLE");
    }
  });
});

describe("provenance", () => {
  it("is the same text whatever the order of strains, records and properties", ({ expect }) => {
    const observations = simulateRecords(strains, 5, 1);
    const turned = { strains: [...strains].reverse(), observations: [...observations].reverse() };
    expect(modelManifest(turned)).toBe(modelManifest({ strains, observations }));
    expect(canonicalJson({ b: [1, { d: null, c: "x" }], a: 0.1 })).toBe('{"a":0.1,"b":[1,{"c":"x","d":null}]}');
  });

  it("changes with a phenotype, a record, a prior, the grid, but not with a strain's role", ({ expect }) => {
    const input = { strains, observations: simulateRecords(strains, 5, 1) };
    const base = modelManifest(input);
    const first = at(0);
    const sweeter = { ...first, phenotype: { ...first.phenotype, sugarContent: 9 } };
    const variants = [
      { ...input, strains: [sweeter, ...strains.slice(1)] },
      { ...input, observations: input.observations.slice(1) },
      { ...input, priors: { ...TOMATO_PRIORS, k: { ...TOMATO_PRIORS.k, th: 0.31 } } },
      { ...input, grid: { sg2: [0.1], se2: [0.2] } },
    ];
    for (const variant of variants) expect(modelManifest(variant)).not.toBe(base);
    const male = { ...first, type: "male" as const };
    expect(modelManifest({ ...input, strains: [male, ...strains.slice(1)] })).toBe(base);
  });
});

describe("calibration", () => {
  it("scores only what was measured, against the model of before", ({ expect }) => {
    const model = fitBreedingModel({ strains, observations: [] });
    const measured = { n: 3, phenotype: phenotypeOf({ sugarContent: 5, length: 50, width: 50 }) };
    const forecasts = forecastObservation(model, at(0), at(1), measured);
    expect(forecasts.map((f) => f.trait)).toEqual(["length", "width", "ratio", "sugarContent"]);
    const sugar = forecasts.find((f) => f.trait === "sugarContent");
    expect(sugar?.observed).toBe(5);
    expect(sugar?.hit).toBe(Math.abs((sugar?.predicted ?? 0) - 5) <= 0.5 * model.panels.sugarContent.sd);
  });

  it("finds stated confidence and 80 % intervals true for F1 that follow the model's assumptions", ({ expect }) => {
    const random = randomOf(17);
    const observations = simulateRecords(strains, 40, 23);
    const model = fitBreedingModel({ strains, observations });
    const recorded = new Set(
      observations.flatMap((o) => [`${o.motherId} ${o.fatherId}`, `${o.fatherId} ${o.motherId}`]),
    );
    const forecasts = strains.slice(0, 40).flatMap((mother, i) => {
      const father = strains[(i * 7 + 3) % 50] as GeneticStrain;
      if (recorded.has(`${mother.id} ${father.id}`) || mother === father) return [];
      const { n, phenotype } = simulateObservation(mother, father, random);
      return forecastObservation(model, mother, father, { n, phenotype });
    });
    const { n, coverage80, meanConfidence, hitRate, brier } = calibrationOf(forecasts);
    expect(n).toBeGreaterThan(200);
    expect(coverage80).toBeGreaterThan(0.75);
    // The simulated noise is smaller than the priors expect, so the model may only err on the safe side.
    expect((hitRate ?? 0) - (meanConfidence ?? 1)).toBeGreaterThan(-0.05);
    expect(brier).toBeLessThan(0.25);
  });

  it("has no figures without forecasts", ({ expect }) => {
    expect(calibrationOf([])).toEqual({ n: 0, coverage80: null, meanConfidence: null, hitRate: null, brier: null });
    const forecast = { confidence: 0.6, hit: true, covered: false };
    expect(calibrationOf([forecast])).toMatchObject({ n: 1, coverage80: 0, meanConfidence: 0.6, hitRate: 1 });
    expect(calibrationOf([forecast]).brier).toBeCloseTo(0.16, 12);
  });
});
