import { describe, it } from "vitest";
import { crossEntropy } from "../../../runner/embedded/trainer/metrics.ts";
import {
  initialWeights,
  Network,
  type NetworkShape,
  parameterCount,
  parameters,
  pooledSizes,
} from "../../../runner/embedded/trainer/network.ts";
import { createRandom, gaussian } from "../../../runner/embedded/trainer/random.ts";

/** An odd size, so that pooling drops a row and a column both times. */
const SHAPE: NetworkShape = { size: 11, channels: 3, classes: 3, filters: [2, 4] };

const noise = (length: number, seed: number) => {
  const random = createRandom(seed);
  return Float32Array.from({ length }, () => gaussian(random));
};

const LABELS = [2, 0, 1, 1, 0];

/** Mean absolute difference of single precision is far below this. */
const CLOSE = 1e-4;

describe("parameters", () => {
  it("lie one after the other", ({ expect }) => {
    let offset = 0;
    for (const parameter of parameters(SHAPE)) {
      expect(parameter.offset).toBe(offset);
      offset += parameter.length;
    }
    expect(offset).toBe(parameterCount(SHAPE));
    // 3x3x3x2 + 2, 3x3x2x4 + 4, 2x2x4x3 + 3
    expect(offset).toBe(54 + 2 + 72 + 4 + 48 + 3);
  });

  it("halve each side twice", ({ expect }) => {
    expect(pooledSizes(28)).toEqual([14, 7]);
    expect(pooledSizes(11)).toEqual([5, 2]);
  });
});

describe("initialWeights", () => {
  it("follow the seed, with biases of 0 and a spread by the number of inputs", ({ expect }) => {
    const shape: NetworkShape = { size: 28, channels: 1, classes: 10, filters: [16, 32] };
    const weights = initialWeights(shape, createRandom(1));
    expect(weights).toEqual(initialWeights(shape, createRandom(1)));
    expect(weights).not.toEqual(initialWeights(shape, createRandom(2)));
    for (const { name, offset, length } of parameters(shape)) {
      const part = weights.subarray(offset, offset + length);
      if (name.endsWith("bias")) expect(part.every((value) => value === 0)).toBe(true);
      if (name !== "dense.weight") continue;
      const variance = part.reduce((sum, value) => sum + value * value, 0) / length;
      expect(variance * 49 * 32).toBeCloseTo(1, 1);
    }
  });
});

describe("Network", () => {
  const weights = initialWeights(SHAPE, createRandom(5));
  const images = noise(LABELS.length * 11 * 11 * 3, 6);

  it("has the gradient that differences of the loss show", async ({ expect }) => {
    const network = new Network(SHAPE, LABELS.length);
    const gradient = new Float32Array(weights.length);
    const { loss, logits } = await network.addGradient(weights, images, LABELS, gradient);
    expect(loss).toBeCloseTo(
      logits.reduce((sum, row, i) => sum + crossEntropy(row, LABELS[i] ?? -1), 0),
      4,
    );

    const lossAt = async (changed: Float32Array<ArrayBuffer>) =>
      (await network.logits(changed, images, LABELS.length)).reduce(
        (sum, row, i) => sum + crossEntropy(row, LABELS[i] ?? -1),
        0,
      );
    // Along random directions, so that every weight takes part in every comparison.
    for (const seed of [1, 2, 3, 4]) {
      const direction = noise(weights.length, seed);
      const step = 1e-3;
      const moved = (sign: number) => weights.map((value, i) => value + sign * step * (direction[i] ?? 0));
      const slope = ((await lossAt(moved(1))) - (await lossAt(moved(-1)))) / (2 * step);
      const wanted = gradient.reduce((sum, value, i) => sum + value * (direction[i] ?? 0), 0);
      expect(Math.abs(slope - wanted)).toBeLessThan(0.02 * Math.max(1, Math.abs(wanted)));
    }
    // And each array of weights by itself, so that a small one is not lost among the large.
    for (const { offset, length } of parameters(SHAPE)) {
      const direction = new Float32Array(weights.length);
      direction.set(noise(length, offset + 1), offset);
      const step = 2e-3;
      const moved = (sign: number) => weights.map((value, i) => value + sign * step * (direction[i] ?? 0));
      const slope = ((await lossAt(moved(1))) - (await lossAt(moved(-1)))) / (2 * step);
      const wanted = gradient.reduce((sum, value, i) => sum + value * (direction[i] ?? 0), 0);
      expect(Math.abs(slope - wanted)).toBeLessThan(0.03 * Math.max(1, Math.abs(wanted)));
    }
    network.dispose();
  });

  it("computes convolution, pooling and dense layer as they are defined", async ({ expect }) => {
    const network = new Network(SHAPE, 2);
    const [first, second] = await network.logits(weights, images.slice(0, 2 * 363), 2);
    for (const [row, start] of [
      [first, 0],
      [second, 363],
    ] as const) {
      const wanted = byHand(weights, images.subarray(start, start + 363));
      for (const [id, value] of wanted.entries()) expect(row?.[id]).toBeCloseTo(value, 4);
    }
    network.dispose();
  });

  it("does not count images beyond the labels", async ({ expect }) => {
    const network = new Network(SHAPE, LABELS.length);
    const sum = new Float32Array(weights.length);
    const part = await network.addGradient(weights, images, LABELS.slice(0, 2), sum);
    expect(part.logits).toHaveLength(2);
    const small = new Network(SHAPE, 2);
    const wanted = new Float32Array(weights.length);
    const { loss } = await small.addGradient(weights, images.slice(0, 2 * 363), LABELS.slice(0, 2), wanted);
    expect(part.loss).toBeCloseTo(loss, 4);
    expect(Math.max(...sum.map((value, i) => Math.abs(value - (wanted[i] ?? 0))))).toBeLessThan(CLOSE);
    network.dispose();
    small.dispose();
  });

  it("adds gradients up", async ({ expect }) => {
    const network = new Network(SHAPE, LABELS.length);
    const once = new Float32Array(weights.length);
    await network.addGradient(weights, images, LABELS, once);
    const twice = once.slice();
    await network.addGradient(weights, images, LABELS, twice);
    expect(twice).toEqual(once.map((value) => value * 2));
    network.dispose();
  });

  it("cuts large batches into equal parts", ({ expect }) => {
    const shape: NetworkShape = { size: 128, channels: 3, classes: 2, filters: [2, 2] };
    expect(new Network(shape, 6).chunk).toBe(3);
    expect(new Network(shape, 1).chunk).toBe(1);
    expect(new Network({ ...shape, size: 28 }, 512).chunk).toBe(74);
  });
});

/** The definition, in plain loops. */
function byHand(weights: Float32Array, image: Float32Array): number[] {
  const part = (name: string) => {
    const parameter = parameters(SHAPE).find((candidate) => candidate.name === name);
    if (!parameter) throw new Error(name);
    return weights.subarray(parameter.offset, parameter.offset + parameter.length);
  };
  const layer = (input: Float32Array, size: number, inputs: number, outputs: number, index: number): Float32Array => {
    const kernel = part(`conv${index}.weight`);
    const bias = part(`conv${index}.bias`);
    const half = Math.floor(size / 2);
    const out = new Float32Array(half * half * outputs).fill(0); // ReLU: nothing is below 0
    for (let y = 0; y < half * 2; y += 1) {
      for (let x = 0; x < half * 2; x += 1) {
        for (let o = 0; o < outputs; o += 1) {
          let sum = bias[o] ?? 0;
          for (let dy = -1; dy <= 1; dy += 1) {
            for (let dx = -1; dx <= 1; dx += 1) {
              if (y + dy < 0 || y + dy >= size || x + dx < 0 || x + dx >= size) continue;
              for (let i = 0; i < inputs; i += 1) {
                const weight = kernel[(((dy + 1) * 3 + dx + 1) * inputs + i) * outputs + o] ?? 0;
                sum += weight * (input[((y + dy) * size + x + dx) * inputs + i] ?? 0);
              }
            }
          }
          const at = ((y >> 1) * half + (x >> 1)) * outputs + o;
          out[at] = Math.max(out[at] ?? 0, sum);
        }
      }
    }
    return out;
  };
  const hidden = layer(layer(image, 11, 3, 2, 1), 5, 2, 4, 2);
  const dense = part("dense.weight");
  const bias = part("dense.bias");
  return [0, 1, 2].map((id) => hidden.reduce((sum, value, i) => sum + value * (dense[i * 3 + id] ?? 0), bias[id] ?? 0));
}
