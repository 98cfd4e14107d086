/**
 * Update rules on flat arrays of weights. Pure but for the arrays they are given: those are changed in place.
 *
 * Adam: Kingma and Ba 2015, algorithm 1. AdamW: Loshchilov and Hutter 2019, algorithm 2. SGD with momentum: the form of
 * PyTorch's `torch.optim.SGD` (velocity = momentum * velocity + gradient, without dampening). Weight decay of Adam and
 * SGD is added to the gradient (L2), that of AdamW shrinks the weights by learning rate * decay.
 */

export type OptimizerConfig = {
  type: "adam" | "adamw" | "sgd";
  weightDecay: number;
  /** adam, adamw */
  betas: [number, number];
  eps: number;
  /** sgd */
  momentum: number;
  nesterov: boolean;
};

/** All arrays have one value a weight. */
export type OptimizerState = {
  weights: Float32Array<ArrayBuffer>;
  /** Adam: mean of the gradients. SGD: velocity. */
  first: Float32Array<ArrayBuffer>;
  /** Adam: mean of the squared gradients. SGD: empty. */
  second: Float32Array<ArrayBuffer>;
  /** Updates done so far. */
  step: number;
};

export function createOptimizerState(
  weights: Float32Array<ArrayBuffer>,
  type: OptimizerConfig["type"],
): OptimizerState {
  return {
    weights,
    first: new Float32Array(weights.length),
    second: new Float32Array(type === "sgd" ? 0 : weights.length),
    step: 0,
  };
}

/** Shrinks the gradient so that its Euclidean length is at most `longest`; returns the length before. */
export function clipGradient(gradient: Float32Array, longest: number): number {
  let squares = 0;
  for (const value of gradient) squares += value * value;
  const length = Math.sqrt(squares);
  if (length > longest) {
    const factor = longest / length;
    for (let i = 0; i < gradient.length; i += 1) gradient[i] = (gradient[i] ?? 0) * factor;
  }
  return length;
}

/** One update of `state` with the mean gradient of a batch. */
export function applyUpdate(
  config: OptimizerConfig,
  state: OptimizerState,
  gradient: Float32Array,
  learningRate: number,
): void {
  state.step += 1;
  if (config.type === "sgd") updateSgd(config, state, gradient, learningRate);
  else updateAdam(config, state, gradient, learningRate);
}

function updateSgd(config: OptimizerConfig, state: OptimizerState, gradient: Float32Array, learningRate: number): void {
  const { weights, first: velocity } = state;
  const { momentum, weightDecay, nesterov } = config;
  for (let i = 0; i < weights.length; i += 1) {
    const weight = weights[i] ?? 0;
    const slope = (gradient[i] ?? 0) + weightDecay * weight;
    const speed = momentum * (velocity[i] ?? 0) + slope;
    velocity[i] = speed;
    weights[i] = weight - learningRate * (nesterov ? slope + momentum * speed : speed);
  }
}

function updateAdam(
  config: OptimizerConfig,
  state: OptimizerState,
  gradient: Float32Array,
  learningRate: number,
): void {
  const { weights, first, second, step } = state;
  const { betas, eps, weightDecay } = config;
  const [beta1, beta2] = betas;
  const correction1 = 1 - beta1 ** step;
  const correction2 = 1 - beta2 ** step;
  const decoupled = config.type === "adamw";
  const l2 = decoupled ? 0 : weightDecay;
  const keep = decoupled ? 1 - learningRate * weightDecay : 1;
  for (let i = 0; i < weights.length; i += 1) {
    const weight = weights[i] ?? 0;
    const slope = (gradient[i] ?? 0) + l2 * weight;
    const mean = beta1 * (first[i] ?? 0) + (1 - beta1) * slope;
    const square = beta2 * (second[i] ?? 0) + (1 - beta2) * slope * slope;
    first[i] = mean;
    second[i] = square;
    weights[i] = weight * keep - (learningRate * (mean / correction1)) / (Math.sqrt(square / correction2) + eps);
  }
}
