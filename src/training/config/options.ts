import type { Option } from "./fields.ts";

/** Options that several frameworks share, so that one value means and reads the same everywhere. */

export const ADAM: Option = { value: "adam", label: "Adam", description: "Adaptive Moment Estimation" };
export const ADAMW: Option = { value: "adamw", label: "AdamW", description: "Adam with weight decay" };
export const SGD: Option = { value: "sgd", label: "SGD", description: "Stochastic Gradient Descent" };
export const RMSPROP: Option = {
  value: "rmsprop",
  label: "RMSprop",
  description: "Steps scaled by a running mean of squared gradients",
};
export const ADAGRAD: Option = {
  value: "adagrad",
  label: "Adagrad",
  description: "Steps scaled by the sum of all squared gradients",
};

export const NO_SCHEDULER: Option = { value: "none", label: "None", description: "The rate stays constant" };
export const STEP: Option = { value: "step", label: "Step", description: "The rate drops every N epochs" };
export const COSINE: Option = {
  value: "cosine",
  label: "Cosine",
  description: "The rate falls along half a cosine wave",
};

export const DIRECTIONS: readonly Option[] = [
  { value: "min", label: "Minimum", description: "Lower is better" },
  { value: "max", label: "Maximum", description: "Higher is better" },
];
