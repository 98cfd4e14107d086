/**
 * Learning rate of an epoch. Closed forms of the plans that PyTorch's `torch.optim.lr_scheduler` defines under the same
 * names, stepped once an epoch. Pure.
 */

export type Schedule = {
  /** Rate at the start, after the warm-up. */
  learningRate: number;
  plan:
    | { type: "none" }
    | { type: "step"; stepSize: number; gamma: number }
    | { type: "multistep"; milestones: number[]; gamma: number }
    | { type: "exponential"; gamma: number }
    /** Half a wave of `length` epochs down to `minimum`, which then stays. */
    | { type: "cosine"; length: number; minimum: number }
    /** Half waves down to `minimum`; the first takes `length` epochs, each next one `growth` times as many. */
    | { type: "cosine_warm_restarts"; length: number; growth: number; minimum: number };
  /** The rate rises in a line from `warmupLearningRate` over this many epochs; the plan begins after them. */
  warmupEpochs: number;
  warmupLearningRate: number;
};

const wave = (start: number, minimum: number, part: number) =>
  minimum + ((start - minimum) * (1 + Math.cos(Math.PI * part))) / 2;

/** @param epoch from 1 */
export function learningRateAt(schedule: Schedule, epoch: number): number {
  const { learningRate, plan, warmupEpochs, warmupLearningRate } = schedule;
  if (epoch <= warmupEpochs) {
    return warmupLearningRate + ((learningRate - warmupLearningRate) * (epoch - 1)) / warmupEpochs;
  }
  const past = epoch - 1 - warmupEpochs;
  switch (plan.type) {
    case "none":
      return learningRate;
    case "step":
      return learningRate * plan.gamma ** Math.floor(past / plan.stepSize);
    case "multistep":
      return learningRate * plan.gamma ** plan.milestones.filter((milestone) => milestone <= past).length;
    case "exponential":
      return learningRate * plan.gamma ** past;
    case "cosine":
      return wave(learningRate, plan.minimum, Math.min(past / plan.length, 1));
    case "cosine_warm_restarts": {
      let length = plan.length;
      let inCycle = past;
      while (inCycle >= length) {
        inCycle -= length;
        length *= plan.growth;
      }
      return wave(learningRate, plan.minimum, inCycle / length);
    }
  }
}
