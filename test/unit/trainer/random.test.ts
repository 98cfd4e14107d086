import { describe, it } from "vitest";
import { createRandom, gaussian, permutation } from "../../../runner/embedded/trainer/random.ts";

const draw = (random: () => number, count: number) => Array.from({ length: count }, random);

describe("createRandom", () => {
  it("repeats itself for the same key", ({ expect }) => {
    expect(draw(createRandom(42, 1, 7), 20)).toEqual(draw(createRandom(42, 1, 7), 20));
  });

  it("differs for every part of the key, beyond 32 bits too", ({ expect }) => {
    const keys = [[], [0], [0, 0], [1], [1, 0], [0, 1], [42], [42, 3], [3, 42], [42 + 2 ** 32], [2 ** 52 + 42]];
    const firsts = keys.map((key) => createRandom(...key)());
    expect(new Set(firsts).size).toBe(keys.length);
  });

  it("is spread evenly over 0 <= x < 1", ({ expect }) => {
    const bins = new Array<number>(10).fill(0);
    for (const value of draw(createRandom(5), 20_000)) {
      bins[Math.floor(value * 10)] = (bins[Math.floor(value * 10)] ?? 0) + 1;
    }
    expect(bins).toHaveLength(10);
    for (const count of bins) expect(Math.abs(count - 2000)).toBeLessThan(200);
  });

  it("has neighbouring keys that are not correlated", ({ expect }) => {
    const pairs = Array.from({ length: 5000 }, (_, key) => [
      createRandom(7, key)() - 0.5,
      createRandom(7, key + 1)() - 0.5,
    ]);
    const covariance = pairs.reduce((sum, [a = 0, b = 0]) => sum + a * b, 0) / pairs.length;
    expect(Math.abs(covariance * 12)).toBeLessThan(0.05);
  });
});

describe("gaussian", () => {
  it("has mean 0 and variance 1", ({ expect }) => {
    const random = createRandom(9);
    const values = Array.from({ length: 20_000 }, () => gaussian(random));
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.03);
    expect(Math.abs(variance - 1)).toBeLessThan(0.05);
  });
});

describe("permutation", () => {
  it("has every position once", ({ expect }) => {
    const order = [...permutation(100, createRandom(1))];
    expect(order).not.toEqual(order.toSorted((a, b) => a - b));
    expect(order.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  it("knows nothing and one", ({ expect }) => {
    expect([...permutation(0, createRandom(1))]).toEqual([]);
    expect([...permutation(1, createRandom(1))]).toEqual([0]);
  });
});
