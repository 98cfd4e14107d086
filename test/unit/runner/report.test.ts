import { describe, it } from "vitest";
import { finishLimits } from "../../../runner/embedded/agent/attempt.ts";
import { endingOf, eventsOf, lastEvent, type TrainerEnd } from "../../../runner/embedded/agent/report.ts";
import type { ImageResult, ValidationData } from "../../../runner/embedded/trainer-messages.ts";

const imageResult = (i: number, label = "cat"): ImageResult => ({
  image_path: `val/${i}.png`,
  image_name: `${i}.png`,
  true_label: label,
  true_label_id: 0,
  predicted_label: label,
  predicted_label_id: 0,
  confidence: 1,
  is_correct: true,
  top5_predictions: [],
});
const validation = (images: ImageResult[]): { type: "validation"; data: ValidationData } => ({
  type: "validation",
  data: {
    epoch: 4,
    task_type: "image_classification",
    primary_metric_name: "accuracy",
    primary_metric_value: 1,
    overall_loss: 0,
    metrics: { accuracy: 1, precision: 1, recall: 1, f1: 1 },
    per_class_metrics: {},
    confusion_matrix: [[1]],
    class_names: ["cat"],
    images,
  },
});

describe("eventsOf", () => {
  it("writes an epoch in the contract's names", ({ expect }) => {
    const message = {
      type: "epoch",
      epoch: 2,
      loss: 0.5,
      accuracy: 0.8,
      learningRate: 0.01,
      extraMetrics: { f1: 1 },
    } as const;
    expect(eventsOf(message)).toEqual([
      {
        event: "epoch_complete",
        data: { epoch: 2, loss: 0.5, accuracy: 0.8, learning_rate: 0.01, extra_metrics: { f1: 1 } },
      },
    ]);
  });

  it("keeps up to 500 images with their validation", ({ expect }) => {
    const [only, ...rest] = eventsOf(validation(Array.from({ length: 500 }, (_, i) => imageResult(i))));
    expect(rest).toEqual([]);
    expect(only).toMatchObject({ event: "validation", data: { epoch: 4, confusion_matrix: [[1]] } });
    expect(only?.data.images).toHaveLength(500);
    expect(eventsOf(validation([]))[0]?.data.images).toEqual([]);
  });

  it("pages more images, each once, in order", ({ expect }) => {
    const all = Array.from({ length: 1201 }, (_, i) => imageResult(i));
    const events = eventsOf(validation(all));
    expect(events.map(({ event }) => event)).toEqual(["validation", "validation_images", "validation_images"]);
    expect(events.map(({ data }) => data.offset)).toEqual([undefined, 500, 1000]);
    expect(events.flatMap(({ data }) => data.images)).toEqual(all);
    expect(events.every(({ data }) => data.epoch === 4)).toBe(true);
  });

  it("makes pages smaller when the images say much", ({ expect }) => {
    const events = eventsOf(validation(Array.from({ length: 300 }, (_, i) => imageResult(i, "한".repeat(600)))));
    expect(events.length).toBeGreaterThan(3);
    for (const event of events) expect(Buffer.byteLength(JSON.stringify(event))).toBeLessThan(300 * 1024);
    expect(events.flatMap(({ data }) => data.images)).toHaveLength(300);
  });
});

describe("endingOf", () => {
  const end = (finished: TrainerEnd["finished"], over: Partial<TrainerEnd> = {}): TrainerEnd => ({
    finished,
    exitCode: 0,
    signal: null,
    stderrTail: [],
    ...over,
  });
  const table: [string, TrainerEnd, "stop" | "release" | null, string, string][] = [
    ["done", end({ reason: "done" }), null, "completed", "done"],
    ["done although it should be given back", end({ reason: "done" }), "release", "completed", "done"],
    ["done after a stop: the server has stopped it", end({ reason: "done" }), "stop", "stopped", "user_stop"],
    ["stopped by us", end({ reason: "user_stop" }), "stop", "stopped", "user_stop"],
    [
      "killed after the grace of a stop",
      end(null, { exitCode: null, signal: "SIGKILL" }),
      "stop",
      "stopped",
      "user_stop",
    ],
    ["stopped by a drain", end({ reason: "user_stop" }), "release", "released", "runner_shutdown"],
    ["killed by a drain", end(null, { exitCode: null, signal: "SIGKILL" }), "release", "released", "runner_shutdown"],
    ["stopped by the system, not by us", end({ reason: "user_stop" }), null, "released", "runner_shutdown"],
    [
      "bad settings",
      end({ reason: "invalid_config", message: "x" }, { exitCode: 1 }),
      null,
      "failed",
      "invalid_config",
    ],
    ["no data", end({ reason: "dataset_unavailable" }, { exitCode: 1 }), null, "failed", "dataset_unavailable"],
    ["a bad state", end({ reason: "checkpoint_corrupt" }, { exitCode: 1 }), null, "failed", "checkpoint_corrupt"],
    ["an exception", end({ reason: "exit_nonzero" }, { exitCode: 1 }), null, "failed", "exit_nonzero"],
    ["gone without a word", end(null), null, "failed", "exit_nonzero"],
    ["a crash", end(null, { exitCode: 139 }), null, "failed", "exit_nonzero"],
  ];
  for (const [name, how, intent, event, reason] of table) {
    it(`${name}: ${event} (${reason})`, ({ expect }) => {
      expect(endingOf(how, intent)).toMatchObject({ event, reason, exitCode: how.exitCode, signal: how.signal });
    });
  }

  it("quotes the last lines of a trainer that died", ({ expect }) => {
    const { message } = endingOf(end(null, { exitCode: 3, stderrTail: ["Traceback", "RuntimeError: no"] }), null);
    expect(message).toBe("the trainer ended with exit code 3 and without a last word\nTraceback\nRuntimeError: no");
    expect(endingOf(end(null, { exitCode: null, signal: "SIGKILL" }), null).message).toContain("out of memory");
    expect(endingOf(end(null, { exitCode: null }), null).message).toBe("the trainer could not be started");
    const long = endingOf(end(null, { exitCode: 1, stderrTail: Array(20).fill("x".repeat(500)) }), null).message;
    expect(long?.length).toBeLessThanOrEqual(4000);
  });
});

describe("lastEvent", () => {
  it("announces the log and says what could not be stored", ({ expect }) => {
    const ending = endingOf({ finished: { reason: "done" }, exitCode: 0, signal: null, stderrTail: [] }, null);
    expect(lastEvent(ending, { chunks: { stdout: 3, stderr: 0 }, failed: 1 }, ["best.onnx: too large"])).toEqual({
      event: "completed",
      data: {
        reason: "done",
        exit_code: 0,
        signal: null,
        message: "best.onnx: too large",
        log_chunks: { stdout: 3, stderr: 0 },
        chunks_failed: 1,
      },
    });
    expect(lastEvent(ending, { chunks: { stdout: 0, stderr: 0 }, failed: 0 }, []).data.message).toBe(null);
  });
});

describe("finishLimits", () => {
  it("leaves time for the last event after a stop, and does not hurry a job that has ended by itself", ({ expect }) => {
    const { uploadsMs, logsMs } = finishLimits({ event: "stopped" }, 1000, 9000);
    expect(uploadsMs + logsMs).toBeLessThan(1000);
    expect(finishLimits({ event: "completed" }, 1000, 9000)).toMatchObject({ uploadsMs: 9000, lastEventMs: 9000 });
  });
});
