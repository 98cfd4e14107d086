import { describe, it } from "vitest";
import {
  applyUpdate,
  clipGradient,
  createOptimizerState,
  type OptimizerConfig,
} from "../../../runner/embedded/trainer/optimizer.ts";

const base: OptimizerConfig = {
  type: "adam",
  weightDecay: 0,
  betas: [0.9, 0.999],
  eps: 1e-8,
  momentum: 0,
  nesterov: false,
};

/** The one weight after each of some gradients, at learning rate 0.1. */
function path(changes: Partial<OptimizerConfig>, start: number, gradients: number[]): number[] {
  const config = { ...base, ...changes };
  const state = createOptimizerState(Float32Array.of(start), config.type);
  return gradients.map((gradient) => {
    applyUpdate(config, state, Float32Array.of(gradient), 0.1);
    return state.weights[0] ?? Number.NaN;
  });
}

// The expected values are worked out by hand from the papers' formulas.
describe("applyUpdate", () => {
  it("adam: first steps are of the learning rate, whatever the gradient's size", ({ expect }) => {
    expect(path({}, 1, [1e-3])[0]).toBeCloseTo(0.9, 5);
    expect(path({}, 1, [-1e3])[0]).toBeCloseTo(1.1, 5);
  });

  it("adam: corrects both means for their start at zero", ({ expect }) => {
    // m = 0.1 * 2 = 0.2, then 0.9 * 0.2 + 0.1 * 1 = 0.28; corrected by 0.19: 1.473684
    // v = 0.004, then 0.999 * 0.004 + 0.001 = 0.004996; corrected by 0.001999: 2.499250, root 1.580902
    const [, second] = path({}, 1, [2, 1]);
    expect(second).toBeCloseTo(0.9 - (0.1 * 1.473684) / 1.580902, 5);
  });

  it("adam: adds the decay to the gradient, so that it is scaled away", ({ expect }) => {
    expect(path({ weightDecay: 0.5 }, 1, [1])[0]).toBeCloseTo(0.9, 5);
    expect(path({ weightDecay: 0.5 }, 1, [0])[0]).toBeCloseTo(0.9, 5);
  });

  it("adamw: shrinks the weight besides", ({ expect }) => {
    expect(path({ type: "adamw", weightDecay: 0.5 }, 1, [1])[0]).toBeCloseTo(0.95 - 0.1, 5);
    expect(path({ type: "adamw", weightDecay: 0.5 }, 1, [0])[0]).toBeCloseTo(0.95, 5);
  });

  it("adam: honours betas and eps", ({ expect }) => {
    // eps as large as the gradient halves the first step
    expect(path({ eps: 1 }, 1, [1])[0]).toBeCloseTo(0.95, 5);
    // without memory each step has the size of the rate
    expect(path({ betas: [0, 0] }, 1, [5, -1])[1]).toBeCloseTo(1, 5);
  });

  it("sgd: goes down the gradient", ({ expect }) => {
    expect(path({ type: "sgd" }, 1, [2])[0]).toBeCloseTo(0.8, 6);
  });

  it("sgd: keeps speed with momentum", ({ expect }) => {
    // velocity 1, then 0.9 + 1 = 1.9, then 1.71
    const seen = path({ type: "sgd", momentum: 0.9 }, 1, [1, 1, 0]);
    for (const [i, weight] of [0.9, 0.71, 0.539].entries()) expect(seen[i]).toBeCloseTo(weight, 6);
  });

  it("sgd: looks ahead with nesterov", ({ expect }) => {
    // 1 + 0.9 * 1 = 1.9, then 1 + 0.9 * 1.9 = 2.71
    const seen = path({ type: "sgd", momentum: 0.9, nesterov: true }, 1, [1, 1]);
    for (const [i, weight] of [0.81, 0.539].entries()) expect(seen[i]).toBeCloseTo(weight, 6);
  });

  it("sgd: adds the decay to the gradient", ({ expect }) => {
    expect(path({ type: "sgd", weightDecay: 0.5 }, 2, [1])[0]).toBeCloseTo(2 - 0.1 * (1 + 1), 6);
  });

  it("counts its steps and keeps second moments only where they are used", ({ expect }) => {
    const state = createOptimizerState(new Float32Array(3), "sgd");
    expect(state.second).toHaveLength(0);
    applyUpdate({ ...base, type: "sgd" }, state, new Float32Array(3), 0.1);
    expect(state.step).toBe(1);
  });
});

describe("clipGradient", () => {
  it("shortens a long gradient in its direction", ({ expect }) => {
    const gradient = Float32Array.of(3, 4);
    expect(clipGradient(gradient, 1)).toBe(5);
    expect(gradient[0]).toBeCloseTo(0.6, 6);
    expect(gradient[1]).toBeCloseTo(0.8, 6);
  });

  it("leaves a short one alone", ({ expect }) => {
    const gradient = Float32Array.of(0.3, 0.4);
    clipGradient(gradient, 1);
    expect(gradient).toEqual(Float32Array.of(0.3, 0.4));
  });
});
