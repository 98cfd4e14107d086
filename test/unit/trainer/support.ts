import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseConfig, type TrainerConfig } from "../../../runner/embedded/trainer/config.ts";
import type { ImageSet, TrainingData } from "../../../runner/embedded/trainer/data.ts";
import type { Checkpoint } from "../../../runner/embedded/trainer/files.ts";
import { createRandom } from "../../../runner/embedded/trainer/random.ts";
import type { TrainPorts } from "../../../runner/embedded/trainer/train.ts";
import type { TrainerMessage } from "../../../runner/embedded/trainer-messages.ts";
import { writePng } from "../../support/png-writer.ts";

/** A spec as the server sends it, for images of 8 x 8 pixels in two classes. */
export const spec = (changes: Record<string, unknown> = {}) => ({
  job_id: 1,
  framework: "embedded",
  model_name: "cnn_small",
  task_type: "image_classification",
  dataset_id: "00000000-0000-4000-8000-000000000000",
  dataset_format: "imagefolder",
  num_classes: 2,
  class_names: ["left", "right"],
  epochs: 4,
  batch_size: 8,
  learning_rate: 0.01,
  advanced_config: null,
  primary_metric: "accuracy",
  primary_metric_mode: "max",
  image_size: 8,
  ...changes,
});

export function configOf(changes: Record<string, unknown> = {}): TrainerConfig {
  const parsed = parseConfig(spec(changes));
  if (!parsed.ok) throw new Error(`${parsed.error.field}: ${parsed.error.message}`);
  return parsed.value;
}

const SIZE = 8;

/** Noise with a bright half: the class says which. */
function halves(count: number, seed: number): ImageSet {
  const random = createRandom(seed);
  const labels = Array.from({ length: count }, (_, i) => i % 2);
  return {
    labels,
    paths: labels.map((label, i) => `train/${label === 0 ? "left" : "right"}/${i}.png`),
    images: labels.map((label) =>
      Float32Array.from({ length: SIZE * SIZE }, (_, at) => {
        const isBright = at % SIZE < SIZE / 2 === (label === 0);
        return (isBright ? 0.6 : -0.6) + (random() - 0.5);
      }),
    ),
  };
}

/** 27 images for training, so that the last batch of 8 is not full, and 9 for validation. */
export const halvesData = (): TrainingData => ({
  classNames: ["left", "right"],
  input: {
    name: "input",
    layout: "NCHW",
    width: SIZE,
    height: SIZE,
    channels: 1,
    dtype: "float32",
    scale: 1 / 255,
    mean: [0.5],
    std: [0.5],
    resize: "stretch",
    pad_value: 0,
  },
  train: halves(27, 1),
  validation: halves(9, 2),
});

export type Recorder = TrainPorts & { messages: TrainerMessage[]; saved: Checkpoint[]; lines: string[] };

/**
 * Ports that keep what goes out. `stopAt` and `checkpointAt` count the batches at whose end the command arrives, from 1.
 */
export function recorder({ stopAt = 0, checkpointAt = 0 } = {}): Recorder {
  const messages: TrainerMessage[] = [];
  const saved: Checkpoint[] = [];
  const lines: string[] = [];
  let polls = 0;
  let milliseconds = 0;
  return {
    messages,
    saved,
    lines,
    send: async (message) => void messages.push(structuredClone(message)),
    save: async (checkpoint) => {
      saved.push(structuredClone(checkpoint));
      return { type: "checkpoint", epoch: checkpoint.epoch, role: checkpoint.role, files: [] };
    },
    log: (line) => void lines.push(line),
    stopRequested: () => {
      polls += 1;
      return polls === stopAt;
    },
    takeCheckpointRequest: () => polls === checkpointAt && polls > 0,
    clock: () => {
      milliseconds += 10;
      return milliseconds;
    },
  };
}

export const ofType = <T extends TrainerMessage["type"]>(messages: TrainerMessage[], type: T) =>
  messages.filter((message): message is Extract<TrainerMessage, { type: T }> => message.type === type);

/** A flat PNG; one number makes it grey. */
export const flatPng = (size: number, [red, green = red, blue = red]: [number, number?, number?]) =>
  writePng({ width: size, height: size, colourType: 2, depth: 8, sample: (_x, _y, c) => [red, green, blue][c] ?? 0 });

/** Writes files below a folder. */
export async function writeFiles(folder: string, files: Record<string, Uint8Array | string>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), content);
  }
}
