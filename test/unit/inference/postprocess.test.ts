import { describe, it } from "vitest";
import { classify, softmax, topIndices } from "../../../src/training/inference/postprocess.ts";

const manifest = (labels: string[], decode: "softmax" | "none" = "softmax") => ({
  labels,
  output: { name: "logits", decode },
});
const labels = ["cat", "dog", "owl"];

describe("softmax", () => {
  it("turns logits into probabilities", ({ expect }) => {
    const values = softmax(Float32Array.of(1, 2, 3));
    expect(values[0]).toBeCloseTo(0.09003057, 7);
    expect(values[1]).toBeCloseTo(0.24472847, 7);
    expect(values[2]).toBeCloseTo(0.66524096, 7);
  });

  it("does not overflow on large logits nor vanish on small ones", ({ expect }) => {
    expect([...softmax(Float32Array.of(3e38, 3e38))]).toEqual([0.5, 0.5]);
    expect([...softmax(Float32Array.of(-3e38, -3e38, 3e38))]).toEqual([0, 0, 1]);
    expect([...softmax(Float32Array.of(-7))]).toEqual([1]);
  });

  it("sums to one for a thousand classes", ({ expect }) => {
    const sum = softmax(Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i) * 30)).reduce((a, b) => a + b, 0);
    expect(sum).toBeCloseTo(1, 12);
  });
});

describe("topIndices", () => {
  it("orders from the highest down and keeps ties in label order", ({ expect }) => {
    expect(topIndices(Float64Array.of(0.1, 0.4, 0.1, 0.4), 4)).toEqual([1, 3, 0, 2]);
  });

  it("answers as many as there are", ({ expect }) => {
    expect(topIndices(Float64Array.of(0.3, 0.7), 100)).toEqual([1, 0]);
  });
});

describe("classify", () => {
  it("answers label, label id and confidence in descending order", ({ expect }) => {
    const result = classify(Float32Array.of(0, Math.log(3), 0), manifest(labels), 2);
    expect(result).toEqual({
      ok: true,
      value: [
        { label: "dog", label_id: 1, confidence: expect.closeTo(0.6, 6) },
        { label: "cat", label_id: 0, confidence: expect.closeTo(0.2, 6) },
      ],
    });
  });

  it("takes probabilities as they are when the manifest says so", ({ expect }) => {
    const result = classify(Float32Array.of(0.25, 0.5, 0.25), manifest(labels, "none"), 3);
    expect(result).toMatchObject({ ok: true, value: [{ confidence: 0.5 }, { label: "cat" }, { label: "owl" }] });
  });

  it("answers labels of low confidence too", ({ expect }) => {
    const result = classify(Float32Array.of(0, 0, 50), manifest(labels), 3);
    expect(result.ok && result.value.length).toBe(3);
  });

  it("keeps two labels of the same name apart", ({ expect }) => {
    const result = classify(Float32Array.of(1, 2), manifest(["a", "a"]), 2);
    expect(result).toMatchObject({ ok: true, value: [{ label_id: 1 }, { label_id: 0 }] });
  });

  it.for<[string, Float32Array]>([
    ["fewer values than labels", Float32Array.of(1, 2)],
    ["more values than labels", Float32Array.of(1, 2, 3, 4)],
    ["no values", new Float32Array(0)],
    ["NaN", Float32Array.of(1, Number.NaN, 2)],
    ["Infinity", Float32Array.of(1, 2, Number.POSITIVE_INFINITY)],
  ])("refuses %s instead of inventing an answer", ([_, values], { expect }) => {
    expect(classify(values, manifest(labels), 5)).toMatchObject({ ok: false, error: { code: "MODEL_NOT_USABLE" } });
  });
});
