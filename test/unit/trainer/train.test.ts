import { describe, it } from "vitest";
import type { TrainingData } from "../../../runner/embedded/trainer/data.ts";
import { parameters } from "../../../runner/embedded/trainer/network.ts";
import { encodeOnnx } from "../../../runner/embedded/trainer/onnx.ts";
import { decodeState, networkShape, type TrainerState } from "../../../runner/embedded/trainer/state.ts";
import { manifestOf, startingState, train } from "../../../runner/embedded/trainer/train.ts";
import { configOf, halvesData, ofType, type Recorder, recorder } from "./support.ts";

const data = halvesData();

/** 27 images for training in batches of 8, 9 for validation: how often a stop is asked about in an epoch. */
const BATCHES = 4;
const LOOKS = BATCHES + 2;

async function run(
  changes: Record<string, unknown> = {},
  ports: Recorder = recorder(),
  from: TrainerState | null = null,
  on: TrainingData = data,
) {
  const config = configOf(changes);
  const outcome = await train(
    config,
    on,
    startingState(config, manifestOf(on), from && { state: from, weightsOnly: false }),
    ports,
  );
  return { outcome, ports, weights: outcome.state.optimizer.weights };
}

/** The state in the newest checkpoint, as a later process reads it. */
function savedState(ports: Recorder): TrainerState {
  const bytes = ports.saved.findLast(({ role }) => role === "last")?.state;
  if (!bytes) throw new Error("no state was saved");
  const decoded = decodeState(bytes);
  if (!decoded.ok) throw new Error(decoded.error);
  return decoded.value;
}

describe("train", () => {
  it.for(["adam", "adamw", "sgd"] as const)("learns with %s", async (type, { expect }) => {
    const { outcome, ports } = await run({ advanced_config: { optimizer: { type } } });
    expect(outcome.reason).toBe("done");
    const epochs = ofType(ports.messages, "epoch");
    expect(epochs.map(({ epoch }) => epoch)).toEqual([1, 2, 3, 4]);
    expect(epochs.at(-1)?.loss).toBeLessThan((epochs[0]?.loss ?? 0) / 2);
    expect(epochs.at(-1)?.accuracy).toBe(1);
  });

  it("reports each epoch in order", async ({ expect }) => {
    const { ports } = await run({ epochs: 2, learning_rate: 0.0001 });
    const order = ports.messages.map((message) =>
      message.type === "checkpoint" ? `${message.role} ${message.epoch}` : message.type,
    );
    expect(order[0]).toBe("started");
    expect(order.filter((entry) => entry !== "best 2")).toEqual([
      "started",
      "epoch",
      "validation",
      "best 1",
      "last 1",
      "epoch",
      "validation",
      "last 2",
    ]);
    const [first] = ofType(ports.messages, "epoch");
    const [validation] = ofType(ports.messages, "validation");
    expect(first).toMatchObject({
      accuracy: validation?.data.metrics.accuracy,
      learningRate: 0.0001,
      extraMetrics: {
        val_loss: validation?.data.overall_loss,
        val_accuracy: validation?.data.metrics.accuracy,
        precision: validation?.data.metrics.precision,
        recall: validation?.data.metrics.recall,
        f1: validation?.data.metrics.f1,
      },
    });
    // The recorder's clock moves 10 ms a look: four batches, each looked at twice.
    expect(first?.extraMetrics.epoch_seconds).toBeCloseTo(0.04, 9);
    expect(first?.extraMetrics.images_per_second).toBeCloseTo(27 / 0.04, 3);
    expect(validation?.data.images.map(({ image_path }) => image_path)).toEqual(data.validation.paths);
    expect(ports.lines.join("\n")).toMatch(/epoch 1\/2 {2}loss \d\.\d{4}/);
  });

  it("gives the same weights bit for bit, and others with another seed", async ({ expect }) => {
    const first = await run({ epochs: 2 });
    const second = await run({ epochs: 2 });
    expect(second.weights).toEqual(first.weights);
    const third = await run({ epochs: 2, advanced_config: { seed: 43 } });
    expect(third.weights).not.toEqual(first.weights);
  });

  it("shuffles and augments anew in each epoch", async ({ expect }) => {
    const plain = await run({ epochs: 1, advanced_config: { augmentation: { enabled: false } } });
    const augmented = await run({ epochs: 1 });
    expect(plain.weights).not.toEqual(augmented.weights);
  });

  it.for(["adam", "sgd"] as const)(
    "makes of 2 epochs, a resume and 2 more what 4 in a row make, with %s",
    async (type, { expect }) => {
      const changes = { advanced_config: { optimizer: { type, momentum: 0.9 }, scheduler: { type: "cosine" } } };
      const straight = await run(changes);
      const half = recorder();
      half.saved.push(...straight.ports.saved.filter(({ epoch }) => epoch <= 2));
      expect(savedState(half)).toMatchObject({ epoch: 2, batch: 0 });
      const resumed = await run(changes, recorder(), savedState(half));
      expect(ofType(resumed.ports.messages, "epoch").map(({ epoch }) => epoch)).toEqual([3, 4]);
      expect(resumed.outcome.reason).toBe("done");
      expect(resumed.weights).toEqual(straight.weights);
    },
  );

  it("can be stopped behind any batch and within the validation", async ({ expect }) => {
    const straight = await run({ epochs: 2 });
    const metrics = (ports: Recorder) =>
      ofType(ports.messages, "epoch").map(({ epoch, loss, accuracy }) => [epoch, loss, accuracy]);
    for (let stopAt = 1; stopAt <= 2 * LOOKS; stopAt += 1) {
      const stopped = await run({ epochs: 2 }, recorder({ stopAt }));
      expect(stopped.outcome.reason, `stop ${stopAt}`).toBe("user_stop");
      expect(ofType(stopped.ports.messages, "checkpoint").at(-1)?.role).toBe("last");
      const { epoch, batch } = savedState(stopped.ports);
      expect([epoch, batch]).toEqual([Math.floor((stopAt - 1) / LOOKS), Math.min(((stopAt - 1) % LOOKS) + 1, BATCHES)]);
      const resumed = await run({ epochs: 2 }, recorder(), savedState(stopped.ports));
      expect(resumed.weights).toEqual(straight.weights);
      expect([...metrics(stopped.ports), ...metrics(resumed.ports)]).toEqual(metrics(straight.ports));
    }
  });

  it("does nothing more when everything is done", async ({ expect }) => {
    const before = await run({ epochs: 2 });
    const again = await run({ epochs: 2 }, recorder(), savedState(before.ports));
    expect(again.outcome.reason).toBe("done");
    expect(again.ports.messages).toEqual([{ type: "started", totalEpochs: 2 }]);
  });

  it("saves a checkpoint on request and goes on", async ({ expect }) => {
    const { outcome, ports } = await run({ epochs: 1 }, recorder({ checkpointAt: 2 }));
    expect(outcome.reason).toBe("done");
    expect(ports.saved.map(({ role, epoch, batch }) => [role, epoch, batch])).toEqual([
      ["last", 0, 2],
      ["best", 1, 0],
      ["last", 1, 0],
    ]);
  });

  it("saves the model with the weights of the state", async ({ expect }) => {
    const { ports } = await run({ epochs: 1 });
    const last = ports.saved.at(-1);
    const state = savedState(ports);
    expect(last?.model.bytes).toEqual(encodeOnnx(networkShape(state), state.optimizer.weights));
    expect(last?.model.manifest).toMatchObject({ labels: ["left", "right"], input: { channels: 1, width: 8 } });
  });

  it("keeps to the checkpoint interval, but saves the end", async ({ expect }) => {
    const { ports } = await run({ epochs: 5, advanced_config: { checkpoint_interval: 2 } });
    expect(ports.saved.filter(({ role }) => role === "last").map(({ epoch }) => epoch)).toEqual([2, 4, 5]);
  });

  it("keeps to the validation interval and first epoch, but validates the end", async ({ expect }) => {
    const validation = { val_interval: 2, val_start_epoch: 3 };
    const { ports } = await run({ epochs: 7, advanced_config: { validation } });
    expect(ofType(ports.messages, "validation").map((message) => message.data.epoch)).toEqual([4, 6, 7]);
    const [first] = ofType(ports.messages, "epoch");
    expect(first?.accuracy).toBe(first?.extraMetrics.train_accuracy);
    expect(first?.extraMetrics).not.toHaveProperty("val_loss");
  });

  it("saves the best checkpoint only when the primary metric, or at equal value the loss, improves", async ({
    expect,
  }) => {
    for (const [primary_metric, sign] of [
      ["accuracy", 1],
      ["loss", -1],
    ] as const) {
      const { ports } = await run({ epochs: 6, learning_rate: 0.03, primary_metric, primary_metric_mode: null });
      let best: [number, number] = [Number.NEGATIVE_INFINITY, 0];
      const wanted: number[] = [];
      for (const { data: measured } of ofType(ports.messages, "validation")) {
        const value = sign * measured.primary_metric_value;
        const isBetter = value > best[0] || (value === best[0] && measured.overall_loss < best[1]);
        if (isBetter) {
          wanted.push(measured.epoch);
          best = [value, measured.overall_loss];
        }
      }
      expect(ports.saved.filter(({ role }) => role === "best").map(({ epoch }) => epoch)).toEqual(wanted);
    }
  });

  it("calls the last weights the best when nothing is measured", async ({ expect }) => {
    const { ports } = await run({ epochs: 2, advanced_config: { validation: { enabled: false } } });
    expect(ports.saved.map(({ role, epoch }) => `${role} ${epoch}`)).toEqual(["last 1", "best 2", "last 2"]);
    const nothing = { images: [], labels: [], paths: [] };
    const empty = await run({ epochs: 1 }, recorder(), null, { ...data, validation: nothing });
    expect(empty.ports.saved.map(({ role }) => role)).toEqual(["best", "last"]);
    expect(ofType(empty.ports.messages, "validation")).toEqual([]);
  });

  it("stops early when nothing is gained, also after a resume", async ({ expect }) => {
    const validation = { early_stopping: true, early_stopping_patience: 2, early_stopping_min_delta: 0.9 };
    const changes = { epochs: 20, advanced_config: { validation } };
    const { outcome, ports } = await run(changes);
    expect(outcome).toMatchObject({ reason: "done", state: { epoch: 3 } });
    expect(outcome.message).toMatch(/early stopping: accuracy .* epoch 1/);
    expect(ports.saved.at(-1)).toMatchObject({ role: "last", epoch: 3 });

    const stopped = await run(changes, recorder({ stopAt: LOOKS + 2 }));
    const resumed = await run(changes, recorder(), savedState(stopped.ports));
    expect(resumed.outcome.state.epoch).toBe(3);
    const again = await run(changes, recorder(), savedState(resumed.ports));
    expect(again.outcome).toMatchObject({ reason: "done", state: { epoch: 3 } });
    expect(ofType(again.ports.messages, "epoch")).toEqual([]);
  });

  it("gives up when the loss is no number, and saves nothing broken", async ({ expect }) => {
    const changes = {
      epochs: 5,
      learning_rate: 1,
      advanced_config: { optimizer: { type: "sgd", weight_decay: 1, momentum: 1 } },
    };
    const broken = startingState(configOf(changes), manifestOf(data), null);
    broken.optimizer.weights.fill(1e30);
    const { outcome, ports } = await run(changes, recorder(), broken);
    expect(outcome.reason).toBe("exit_nonzero");
    expect(outcome.message).toContain("learning rate 1");
    expect(ports.saved).toEqual([]);
  });

  it("follows the schedule and says so", async ({ expect }) => {
    const { ports } = await run({
      epochs: 3,
      advanced_config: { scheduler: { type: "step", step_size: 1, gamma: 0.5 } },
    });
    expect(ofType(ports.messages, "epoch").map(({ learningRate }) => learningRate)).toEqual([0.01, 0.005, 0.0025]);
  });

  it("limits the length of the gradient", async ({ expect }) => {
    const changes = (gradient_clip_value: number | null) => ({
      epochs: 1,
      batch_size: 512,
      advanced_config: { gradient_clip_value, optimizer: { type: "sgd", momentum: 0 } },
    });
    const moved = async (clip: number | null) => {
      const start = startingState(configOf(changes(clip)), manifestOf(data), null).optimizer.weights;
      const { weights } = await run(changes(clip));
      return Math.hypot(...weights.map((weight, i) => weight - (start[i] ?? 0)));
    };
    // One batch of all images: one step of rate x length.
    expect(await moved(0.001)).toBeCloseTo(0.01 * 0.001, 8);
    expect(await moved(null)).toBeGreaterThan(0.001);
  });

  it("logs inside an epoch when asked to", async ({ expect }) => {
    const { ports } = await run({ epochs: 1, advanced_config: { log_interval: 2 } });
    expect(ports.lines.filter((line) => line.includes("batch ")).map((line) => line.slice(0, 17))).toEqual([
      "epoch 1 batch 2/4",
      "epoch 1 batch 4/4",
    ]);
  });
});

describe("startingState", () => {
  it("takes the weights alone when only they are wanted", async ({ expect }) => {
    const config = configOf();
    const { outcome } = await run({ epochs: 1 });
    const from = { state: outcome.state, weightsOnly: true };
    const state = startingState(config, manifestOf(data), from);
    expect(state.optimizer.weights).toEqual(outcome.state.optimizer.weights);
    expect(state).toMatchObject({ epoch: 0, batch: 0, best: null, optimizer: { step: 0 } });
    expect(state.optimizer.first.every((value) => value === 0)).toBe(true);
  });

  it("has room for every weight", ({ expect }) => {
    const state = startingState(configOf(), manifestOf(data), null);
    const last = parameters(networkShape(state)).at(-1);
    expect(state.optimizer.weights).toHaveLength((last?.offset ?? 0) + (last?.length ?? 0));
  });
});
