import type { CheckpointManifest } from "../../../src/training/inference/manifest.ts";
import type { CheckpointMessage, TrainerMessage, ValidationData } from "../trainer-messages.ts";
import { drawTransform, warp } from "./augment.ts";
import type { TrainerConfig } from "./config.ts";
import type { ImageSet, TrainingData } from "./data.ts";
import type { Checkpoint } from "./files.ts";
import { argmax, isImprovement, validationData } from "./metrics.ts";
import { FILTERS, initialWeights, Network, parameterCount } from "./network.ts";
import { encodeOnnx } from "./onnx.ts";
import { applyUpdate, clipGradient, createOptimizerState } from "./optimizer.ts";
import { createRandom, permutation, STREAM } from "./random.ts";
import { learningRateAt } from "./schedule.ts";
import { encodeState, NO_SUMS, networkShape, type TrainerState } from "./state.ts";

/** The training loop. What it learns and reports goes out through `TrainPorts`; it opens no file and no channel itself. */

export type TrainPorts = {
  /** Resolves when the message is handed over. */
  send: (message: TrainerMessage) => Promise<void>;
  /** Puts a checkpoint on disk; the message says where it is. */
  save: (checkpoint: Checkpoint) => Promise<CheckpointMessage>;
  /** One readable line. */
  log: (line: string) => void;
  stopRequested: () => boolean;
  /** true once after each request. */
  takeCheckpointRequest: () => boolean;
  /** Milliseconds, for durations only. */
  clock: () => number;
};

export type TrainOutcome = {
  reason: "done" | "user_stop" | "exit_nonzero";
  message?: string;
  /** As of the end, whatever the reason. */
  state: TrainerState;
};

export function manifestOf(data: Pick<TrainingData, "classNames" | "input">): CheckpointManifest {
  return {
    schema: 1,
    task: "image_classification",
    framework: "embedded",
    model_name: "cnn_small",
    format: "onnx",
    input: data.input,
    output: { name: "logits", decode: "softmax" },
    labels: data.classNames,
    external_data: [],
  };
}

/**
 * Where a run begins: at a state that it goes on from, at epoch 1 with the weights of one, or at epoch 1 with random ones.
 */
export function startingState(
  config: Pick<TrainerConfig, "seed" | "optimizer">,
  manifest: CheckpointManifest,
  from: { state: TrainerState; weightsOnly: boolean } | null,
): TrainerState {
  if (from !== null && !from.weightsOnly) return from.state;
  const filters = from?.state.filters ?? FILTERS;
  const shape = networkShape({ manifest, filters });
  const weights = from?.state.optimizer.weights ?? initialWeights(shape, createRandom(config.seed, STREAM.weights));
  return {
    manifest,
    filters,
    optimizerType: config.optimizer.type,
    optimizer: createOptimizerState(weights, config.optimizer.type),
    epoch: 0,
    batch: 0,
    partial: NO_SUMS,
    best: null,
    plateau: null,
  };
}

/** A turn of the event loop, in which commands are heard. */
const breathe = () => new Promise<void>((resolve) => setImmediate(resolve));

/**
 * Trains from `initial` to the last epoch, an early stop or a stop from outside. The same config, data and initial state
 * give the same weights bit for bit on one machine, wherever in between the run was stopped and resumed.
 */
export async function train(
  config: TrainerConfig,
  data: TrainingData,
  initial: TrainerState,
  ports: TrainPorts,
): Promise<TrainOutcome> {
  const batchSize = Math.min(config.batchSize, data.train.images.length);
  const network = new Network(networkShape(initial), batchSize);
  try {
    return await new Run(config, data, initial, ports, network, batchSize).run();
  } finally {
    network.dispose();
  }
}

class Run {
  readonly #config: TrainerConfig;
  readonly #data: TrainingData;
  readonly #ports: TrainPorts;
  readonly #network: Network;
  readonly #batchSize: number;
  readonly #batches: number;
  #state: TrainerState;

  constructor(
    config: TrainerConfig,
    data: TrainingData,
    initial: TrainerState,
    ports: TrainPorts,
    network: Network,
    batchSize: number,
  ) {
    this.#config = config;
    this.#data = data;
    this.#ports = ports;
    this.#network = network;
    this.#batchSize = batchSize;
    this.#batches = Math.ceil(data.train.images.length / batchSize);
    this.#state = initial;
  }

  async run(): Promise<TrainOutcome> {
    const { epochs } = this.#config;
    await this.#ports.send({ type: "started", totalEpochs: epochs });
    this.#describe();
    // The attempt before may have ended between its last checkpoint and its last word.
    const ended = this.#state.batch === 0 ? this.#earlyStop(this.#state.epoch) : null;
    if (ended !== null) return { ...ended, state: this.#state };
    while (this.#state.epoch < epochs) {
      const outcome = await this.#epoch(this.#state.epoch + 1);
      if (outcome !== null) return { ...outcome, state: this.#state };
    }
    return { reason: "done", state: this.#state };
  }

  #describe(): void {
    const { train, validation, classNames, input } = this.#data;
    const { shape, chunk } = this.#network;
    this.#ports.log(
      `cnn_small: ${input.width}x${input.height}x${input.channels} pixels, ${classNames.length} classes, ` +
        `${parameterCount(shape)} weights; ${train.images.length} training and ${validation.images.length} validation images`,
    );
    const { optimizer, schedule, batchSize } = this.#config;
    this.#ports.log(
      `${optimizer.type}, learning rate ${schedule.learningRate} (${schedule.plan.type}), batches of ${batchSize}` +
        `${chunk < this.#batchSize ? ` in parts of ${chunk}` : ""}, seed ${this.#config.seed}`,
    );
    const { epoch, batch } = this.#state;
    if (epoch > 0 || batch > 0)
      this.#ports.log(`resumed after epoch ${epoch}${batch > 0 ? ` and ${batch} batches` : ""}`);
  }

  /** Null: go on with the next. */
  async #epoch(epoch: number): Promise<Omit<TrainOutcome, "state"> | null> {
    const learningRate = learningRateAt(this.#config.schedule, epoch);
    const order = permutation(this.#data.train.images.length, createRandom(this.#config.seed, STREAM.order, epoch));
    while (this.#state.batch < this.#batches) {
      const loss = await this.#batch(epoch, order, learningRate);
      if (!Number.isFinite(loss)) return diverged(epoch, learningRate);
      this.#logBatch(epoch, loss);
      await breathe();
      if (this.#ports.stopRequested()) return this.#stop();
      if (this.#ports.takeCheckpointRequest()) await this.#saveLast();
    }

    const sums = this.#state.partial;
    let measured: ValidationData | null = null;
    if (this.#isValidated(epoch)) {
      measured = await this.#validate(epoch);
      if (measured === null) return this.#stop();
      if (!Number.isFinite(measured.overall_loss)) return diverged(epoch, learningRate);
    }
    const isBest = this.#closeEpoch(epoch, measured);
    await this.#report(epoch, learningRate, sums, measured);
    if (isBest) await this.#ports.send(await this.#ports.save(this.#checkpoint("best")));

    const ended = this.#earlyStop(epoch);
    const isLast = ended !== null || epoch === this.#config.epochs;
    if (isLast && this.#state.best === null) {
      // Nothing was ever measured: the last weights are the best known ones.
      await this.#ports.send(await this.#ports.save(this.#checkpoint("best")));
    }
    const isDue = this.#ports.takeCheckpointRequest() || epoch % this.#config.checkpointInterval === 0;
    if (isDue || isLast) await this.#saveLast();
    return ended;
  }

  /** One update; returns the mean loss of the batch before it. */
  async #batch(epoch: number, order: Uint32Array, learningRate: number): Promise<number> {
    const { train } = this.#data;
    const { shape, chunk, imageLength } = this.#network;
    const { batch, optimizer } = this.#state;
    const started = this.#ports.clock();
    const chosen = order.subarray(batch * this.#batchSize, (batch + 1) * this.#batchSize);
    const random = createRandom(this.#config.seed, STREAM.augmentation, epoch, batch);
    const gradient = new Float32Array(optimizer.weights.length);
    let loss = 0;
    let correct = 0;
    for (let start = 0; start < chosen.length; start += chunk) {
      const indices = chosen.subarray(start, start + chunk);
      const images = new Float32Array(chunk * imageLength);
      const labels: number[] = [];
      indices.forEach((index, position) => {
        const image = train.images[index] ?? new Float32Array(imageLength);
        const { augmentation } = this.#config;
        if (augmentation === null) images.set(image, position * imageLength);
        else {
          const transform = drawTransform(augmentation, shape.size, random);
          warp(image, shape.size, shape.channels, transform, images, position * imageLength);
        }
        labels.push(train.labels[index] ?? -1);
      });
      const part = await this.#network.addGradient(optimizer.weights, images, labels, gradient);
      loss += part.loss;
      correct += part.logits.filter((row, position) => argmax(row) === labels[position]).length;
    }
    if (Number.isFinite(loss)) {
      for (let i = 0; i < gradient.length; i += 1) gradient[i] = (gradient[i] ?? 0) / chosen.length;
      if (this.#config.gradientClip !== null) clipGradient(gradient, this.#config.gradientClip);
      applyUpdate(this.#config.optimizer, optimizer, gradient, learningRate);
    }
    const { partial } = this.#state;
    this.#state.batch = batch + 1;
    this.#state.partial = {
      loss: partial.loss + loss,
      correct: partial.correct + correct,
      images: partial.images + chosen.length,
      trainMs: partial.trainMs + this.#ports.clock() - started,
    };
    return loss / chosen.length;
  }

  #logBatch(epoch: number, loss: number): void {
    const { logInterval } = this.#config;
    const { batch } = this.#state;
    if (logInterval === null || batch % logInterval !== 0) return;
    this.#ports.log(`epoch ${epoch} batch ${batch}/${this.#batches}  loss ${loss.toFixed(4)}`);
  }

  #isValidated(epoch: number): boolean {
    const { validation, epochs } = this.#config;
    if (validation === null || this.#data.validation.images.length === 0) return false;
    return (epoch >= validation.startEpoch && epoch % validation.interval === 0) || epoch === epochs;
  }

  /** Null when a stop was asked for before the end. */
  async #validate(epoch: number): Promise<ValidationData | null> {
    const { validation, classNames } = this.#data;
    const logits = await classScores(this.#network, this.#state.optimizer.weights, validation, async () => {
      await breathe();
      return this.#ports.stopRequested();
    });
    return logits && validationData(epoch, logits, validation, classNames, this.#config.primaryMetric);
  }

  /** Counts the epoch as complete; true when its weights are the best so far. */
  #closeEpoch(epoch: number, measured: ValidationData | null): boolean {
    const { primaryMetric, validation } = this.#config;
    const { best, plateau } = this.#state;
    this.#state = { ...this.#state, epoch, batch: 0, partial: NO_SUMS };
    if (measured === null || validation === null) return false;
    const { primary_metric_value: value, overall_loss: loss } = measured;
    const minDelta = validation.earlyStopping?.minDelta ?? 0;
    if (isImprovement(value, plateau?.value ?? null, primaryMetric.mode, minDelta))
      this.#state.plateau = { value, epoch };
    // Accuracy on few images has few values and soon repeats its best one; the loss still tells those epochs apart.
    const isEqual = value === best?.value && isImprovement(loss, best.loss, "min");
    if (!isEqual && !isImprovement(value, best?.value ?? null, primaryMetric.mode)) return false;
    this.#state.best = { value, loss, epoch };
    return validation.saveBest;
  }

  #earlyStop(epoch: number): Omit<TrainOutcome, "state"> | null {
    const rule = this.#config.validation?.earlyStopping;
    const { plateau } = this.#state;
    if (!rule || plateau === null || epoch - plateau.epoch < rule.patience || !this.#isValidated(epoch)) return null;
    const { name } = this.#config.primaryMetric;
    const message = `early stopping: ${name} has not improved on ${plateau.value.toFixed(4)} since epoch ${plateau.epoch}`;
    this.#ports.log(message);
    return { reason: "done", message };
  }

  async #report(
    epoch: number,
    learningRate: number,
    sums: TrainerState["partial"],
    measured: ValidationData | null,
  ): Promise<void> {
    const loss = sums.loss / sums.images;
    const trainAccuracy = sums.correct / sums.images;
    const seconds = sums.trainMs / 1000;
    await this.#ports.send({
      type: "epoch",
      epoch,
      loss,
      accuracy: measured?.metrics.accuracy ?? trainAccuracy,
      learningRate,
      extraMetrics: {
        train_accuracy: trainAccuracy,
        ...(measured && {
          val_loss: measured.overall_loss,
          val_accuracy: measured.metrics.accuracy,
          precision: measured.metrics.precision,
          recall: measured.metrics.recall,
          f1: measured.metrics.f1,
        }),
        epoch_seconds: seconds,
        images_per_second: seconds > 0 ? sums.images / seconds : 0,
      },
    });
    if (measured !== null) await this.#ports.send({ type: "validation", data: measured });
    const validated = measured
      ? `  val loss ${measured.overall_loss.toFixed(4)}  val acc ${measured.metrics.accuracy.toFixed(4)}`
      : "";
    this.#ports.log(
      `epoch ${String(epoch).padStart(String(this.#config.epochs).length)}/${this.#config.epochs}  loss ${loss.toFixed(4)}  ` +
        `acc ${trainAccuracy.toFixed(4)}${validated}  lr ${learningRate.toExponential(2)}  ${seconds.toFixed(1)} s`,
    );
  }

  async #stop(): Promise<Omit<TrainOutcome, "state">> {
    await this.#saveLast();
    this.#ports.log(`stopped after epoch ${this.#state.epoch} and ${this.#state.batch} batches, checkpoint saved`);
    return { reason: "user_stop" };
  }

  async #saveLast(): Promise<void> {
    await this.#ports.send(await this.#ports.save(this.#checkpoint("last")));
  }

  #checkpoint(role: Checkpoint["role"]): Checkpoint {
    const { manifest, optimizer, epoch, batch } = this.#state;
    const bytes = encodeOnnx(this.#network.shape, optimizer.weights);
    return { role, epoch, batch, model: { bytes, manifest }, state: role === "last" ? encodeState(this.#state) : null };
  }
}

function diverged(epoch: number, learningRate: number): Omit<TrainOutcome, "state"> {
  const message = `the loss is not a number any more in epoch ${epoch} at learning rate ${learningRate}: try a lower one`;
  return { reason: "exit_nonzero", message };
}

/**
 * Class scores of all images of a set, one row an image; null when `cancelled`, which is asked after each chunk, says so.
 */
export async function classScores(
  network: Network,
  weights: Float32Array<ArrayBuffer>,
  set: ImageSet,
  cancelled: () => Promise<boolean> = async () => false,
): Promise<Float32Array[] | null> {
  const { chunk, imageLength } = network;
  const rows: Float32Array[] = [];
  for (let start = 0; start < set.images.length; start += chunk) {
    const images = new Float32Array(chunk * imageLength);
    const part = set.images.slice(start, start + chunk);
    part.forEach((image, position) => {
      images.set(image, position * imageLength);
    });
    rows.push(...(await network.logits(weights, images, part.length)));
    if (await cancelled()) return null;
  }
  return rows;
}
