import { describe, it } from "vitest";
import { learningRateAt, type Schedule } from "../../../runner/embedded/trainer/schedule.ts";

const rates = (plan: Schedule["plan"], epochs: number, warmupEpochs = 0) =>
  Array.from({ length: epochs }, (_, i) =>
    learningRateAt({ learningRate: 0.1, plan, warmupEpochs, warmupLearningRate: 0.01 }, i + 1),
  );

describe("learningRateAt", () => {
  it("is constant without a plan", ({ expect }) => {
    expect(rates({ type: "none" }, 3)).toEqual([0.1, 0.1, 0.1]);
  });

  it("drops every step", ({ expect }) => {
    const seen = rates({ type: "step", stepSize: 2, gamma: 0.5 }, 5);
    for (const [i, rate] of [0.1, 0.1, 0.05, 0.05, 0.025].entries()) expect(seen[i]).toBeCloseTo(rate, 12);
  });

  it("drops behind each milestone", ({ expect }) => {
    const seen = rates({ type: "multistep", milestones: [1, 3], gamma: 0.1 }, 5);
    for (const [i, rate] of [0.1, 0.01, 0.01, 0.001, 0.001].entries()) expect(seen[i]).toBeCloseTo(rate, 12);
  });

  it("shrinks by the same factor each epoch", ({ expect }) => {
    const seen = rates({ type: "exponential", gamma: 0.5 }, 3);
    for (const [i, rate] of [0.1, 0.05, 0.025].entries()) expect(seen[i]).toBeCloseTo(rate, 12);
  });

  it("falls along half a wave to the minimum and stays there", ({ expect }) => {
    const seen = rates({ type: "cosine", length: 4, minimum: 0.02 }, 7);
    // 0.02 + 0.08 * (1 + cos(pi * t / 4)) / 2
    const wanted = [0.1, 0.0882842712, 0.06, 0.0317157288, 0.02, 0.02, 0.02];
    for (const [i, rate] of wanted.entries()) expect(seen[i]).toBeCloseTo(rate, 9);
  });

  it("starts the wave again, each time longer", ({ expect }) => {
    const seen = rates({ type: "cosine_warm_restarts", length: 1, growth: 2, minimum: 0 }, 7);
    const wanted = [0.1, 0.1, 0.05, 0.1, 0.0853553391, 0.05, 0.0146446609];
    for (const [i, rate] of wanted.entries()) expect(seen[i]).toBeCloseTo(rate, 9);
  });

  it("rises in a line before the plan begins", ({ expect }) => {
    const seen = rates({ type: "step", stepSize: 1, gamma: 0.1 }, 5, 3);
    for (const [i, rate] of [0.01, 0.04, 0.07, 0.1, 0.01].entries()) expect(seen[i]).toBeCloseTo(rate, 12);
  });
});
