import { describe, it } from "vitest";
import { identityOf, parseReport, type Report } from "../../../src/training/jobs/events.ts";
import { parseLenientJson } from "../../../src/training/runners/lenient-json.ts";

const LIMITS = { names: 5, nameLength: 20 };

/** As it arrives: through JSON text. */
const read = (event: string, json: string | object) =>
  parseReport(event, typeof json === "string" ? parseLenientJson(json) : json, LIMITS);

const report = (event: string, json: string | object): Report => {
  const parsed = read(event, json);
  if (!parsed.ok) throw new Error(parsed.error.message);
  return parsed.value;
};

const problem = (event: string, json: string | object): string => {
  const parsed = read(event, json);
  return parsed.ok ? "accepted" : `${parsed.error.code} ${parsed.error.field}`;
};

describe("each event", () => {
  it("is read with the least and with all it can hold", ({ expect }) => {
    expect(report("started", {})).toEqual({ type: "started", totalEpochs: null });
    expect(report("started", { total_epochs: 50 })).toEqual({ type: "started", totalEpochs: 50 });
    expect(report("epoch_complete", { epoch: 10, loss: 0.45, accuracy: 0.85, learning_rate: 0.0008 })).toEqual({
      type: "metric",
      epoch: 10,
      step: 0,
      loss: 0.45,
      accuracy: 0.85,
      learningRate: 0.0008,
      extraMetrics: {},
      nonFinite: null,
    });
    expect(report("epoch_complete", { epoch: 1, step: 7, extra_metrics: { f1: 0.5, "a b/ü": 1 } })).toMatchObject({
      step: 7,
      loss: null,
      extraMetrics: { f1: 0.5, "a b/ü": 1 },
    });
    expect(report("checkpoint", { artifact_id: "8ab5c6e4-0f92-4fff-8f4e-441c08d94cef", epoch: 3 })).toEqual({
      type: "checkpoint",
      artifactId: "8ab5c6e4-0f92-4fff-8f4e-441c08d94cef",
      epoch: 3,
      role: null,
    });
    expect(report("log", { lines: ["a", "b"] })).toEqual({
      type: "log",
      stream: "stdout",
      lines: ["a", "b"],
      atMs: null,
    });
    expect(report("log", { stream: "stderr", lines: [], timestamp: "2025-11-06T12:00:00Z" })).toMatchObject({
      stream: "stderr",
      atMs: Date.parse("2025-11-06T12:00:00Z"),
    });
    expect(report("validation", { epoch: 2 })).toEqual({
      type: "validation",
      epoch: 2,
      taskType: null,
      primaryMetricName: null,
      primaryMetricValue: null,
      overallLoss: null,
      metrics: {},
      perClassMetrics: null,
      confusionMatrix: null,
      classNames: null,
      checkpointPath: null,
      images: [],
    });
    expect(report("validation_images", { epoch: 2, offset: 500, images: [{ image_name: "a.png" }] })).toMatchObject({
      type: "validationImages",
      offset: 500,
      images: [{ imageName: "a.png", imagePath: null, top5Predictions: null }],
    });
    for (const outcome of ["completed", "failed", "stopped", "released"]) {
      expect(report(outcome, {})).toMatchObject({ type: "end", outcome, logChunks: null, chunksFailed: 0 });
    }
    expect(
      report("failed", {
        reason: "oom",
        message: "out of memory",
        exit_code: 137,
        signal: "SIGKILL",
        log_chunks: { stdout: 3 },
        chunks_failed: 2,
      }),
    ).toEqual({
      type: "end",
      outcome: "failed",
      reason: "oom",
      message: "out of memory",
      logChunks: { stdout: 3, stderr: 0 },
      chunksFailed: 2,
    });
    expect(report("failed", { error_message: "x".repeat(9_000) })).toMatchObject({ message: "x".repeat(4_000) });
  });

  it("is refused by name or data, with the field at fault", ({ expect }) => {
    expect(problem("nonsense", {})).toBe("VALIDATION_ERROR event");
    for (const name of ["__proto__", "constructor", "toString", ""]) {
      expect(problem(name, {})).toBe("VALIDATION_ERROR event");
    }
    for (const data of ["null", "[]", '"text"', "3"])
      expect(problem("epoch_complete", data)).toBe("VALIDATION_ERROR data");
    for (const epoch of ["-1", "1000000000", '"3"', "1.5", "null", "NaN", "1e400", "[]"]) {
      expect(problem("epoch_complete", `{"epoch":${epoch}}`)).toBe("VALIDATION_ERROR data.epoch");
    }
    expect(problem("epoch_complete", { epoch: 1, step: -1 })).toBe("VALIDATION_ERROR data.step");
    expect(problem("started", { total_epochs: 0 })).toBe("VALIDATION_ERROR data.total_epochs");
    expect(problem("checkpoint", { artifact_id: "../../x", epoch: 1 })).toBe("VALIDATION_ERROR data.artifact_id");
    expect(problem("log", { lines: "no list" })).toBe("VALIDATION_ERROR data.lines");
    expect(problem("log", { stream: "stdin", lines: [] })).toBe("VALIDATION_ERROR data.stream");
    expect(problem("completed", { log_chunks: { stdout: -1 } })).toBe("VALIDATION_ERROR data.log_chunks.stdout");
    const images = Array.from({ length: 501 }, () => ({ image_name: "a" }));
    expect(problem("validation", { epoch: 1, images })).toBe("VALIDATION_ERROR data.images");
    expect(problem("validation", { epoch: 1, images: [{}] })).toBe("VALIDATION_ERROR data.images.0.image_name");
  });

  it("ignores keys it does not know", ({ expect }) => {
    expect(report("epoch_complete", { epoch: 1, loss: 1, wandb: { deep: [1] } })).not.toHaveProperty("wandb");
  });
});

describe("numbers that are none", () => {
  it("are null with a flag, as tokens, as texts and as overflow", ({ expect }) => {
    for (const value of [
      "NaN",
      "Infinity",
      "-Infinity",
      "-NaN",
      "1e400",
      "-1e400",
      '"nan"',
      '"NaN"',
      '"inf"',
      '"-inf"',
      '"+Infinity"',
      '" -Infinity "',
    ]) {
      const parsed = report("epoch_complete", `{"epoch":1,"loss":${value},"extra_metrics":{"m":${value}}}`);
      expect([value, parsed]).toEqual([
        value,
        expect.objectContaining({ loss: null, extraMetrics: { m: null }, nonFinite: ["loss", "m"] }),
      ]);
    }
  });

  it("keeps what is a number: minus zero, the largest, the smallest, none at all", ({ expect }) => {
    expect(report("epoch_complete", '{"epoch":1,"loss":-0,"accuracy":1.7976931348623157e308}')).toMatchObject({
      loss: -0,
      accuracy: Number.MAX_VALUE,
      nonFinite: null,
    });
    expect(report("epoch_complete", '{"epoch":1,"loss":5e-324,"accuracy":null}')).toMatchObject({
      loss: Number.MIN_VALUE,
      accuracy: null,
      nonFinite: null,
    });
  });

  it("refuses what is neither", ({ expect }) => {
    for (const loss of ['"high"', '"1.5"', "true", "[1]", "{}", '""']) {
      expect(problem("epoch_complete", `{"epoch":1,"loss":${loss}}`)).toBe("VALIDATION_ERROR data.loss");
      expect(problem("epoch_complete", `{"epoch":1,"extra_metrics":{"m":${loss}}}`)).toBe(
        "VALIDATION_ERROR data.extra_metrics.m",
      );
    }
  });
});

describe("names of metrics", () => {
  it("are free text that stays data", ({ expect }) => {
    const parsed = report(
      "epoch_complete",
      '{"epoch":1,"extra_metrics":{"__proto__":1,"constructor":2,"prototype":3,"":4}}',
    );
    if (parsed.type !== "metric") throw new Error("not a metric");
    expect(Object.entries(parsed.extraMetrics)).toEqual([
      ["__proto__", 1],
      ["constructor", 2],
      ["prototype", 3],
      ["", 4],
    ]);
    expect(Object.getPrototypeOf(parsed.extraMetrics)).toBe(Object.prototype);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  it("are few and short", ({ expect }) => {
    const many = Object.fromEntries(Array.from({ length: 6 }, (_, i) => [`m${i}`, i]));
    expect(problem("epoch_complete", { epoch: 1, extra_metrics: many })).toBe("VALIDATION_ERROR data.extra_metrics");
    const name = "x".repeat(10_000_000);
    expect(problem("epoch_complete", { epoch: 1, extra_metrics: { [name]: 1 } })).toBe(
      `VALIDATION_ERROR data.extra_metrics.${"x".repeat(50)}`,
    );
    expect(problem("epoch_complete", { epoch: 1, extra_metrics: [1] })).toBe("VALIDATION_ERROR data.extra_metrics");
  });
});

describe("a validation", () => {
  it("answers f1 to trainers that write f1_score, in both tables", ({ expect }) => {
    const parsed = report("validation", {
      epoch: 1,
      metrics: { f1_score: 0.8, precision: 0.9 },
      per_class_metrics: { cat: { f1_score: 0.7, support: 3 }, dog: { f1: 0.6, f1_score: 0.1 }, odd: 3 },
    });
    expect(parsed).toMatchObject({
      metrics: { f1: 0.8, precision: 0.9 },
      perClassMetrics: { cat: { f1: 0.7, support: 3 }, dog: { f1: 0.6, f1_score: 0.1 } },
    });
    expect(JSON.stringify(parsed)).not.toContain("odd");
  });

  it("takes bare ids and labelled predictions as the top five", ({ expect }) => {
    const parsed = report("validation", {
      epoch: 1,
      images: [
        { image_name: "a", top5_predictions: [3, 1] },
        { image_name: "b", top5_predictions: [{ label: "cat", label_id: 3, confidence: 0.5 }, { label_id: 4 }] },
      ],
    });
    expect(parsed).toMatchObject({
      images: [
        {
          top5Predictions: [
            { label: "3", label_id: 3, confidence: null },
            { label: "1", label_id: 1, confidence: null },
          ],
        },
        {
          top5Predictions: [
            { label: "cat", label_id: 3, confidence: 0.5 },
            { label: "4", label_id: 4, confidence: null },
          ],
        },
      ],
    });
  });

  it("has a square confusion matrix, with one row for each class", ({ expect }) => {
    const matrix = (confusion_matrix: unknown, class_names?: string[]) =>
      problem("validation", { epoch: 1, confusion_matrix, class_names });
    expect(
      matrix(
        [
          [1, 2],
          [3, 4],
        ],
        ["cat", "dog"],
      ),
    ).toBe("accepted");
    expect(matrix([], ["cat"])).toBe("accepted");
    for (const bad of [
      matrix([[1, 2], [3]]),
      matrix([[1, 2]]),
      matrix(
        [
          [1, 2],
          [3, 4],
        ],
        ["cat"],
      ),
    ]) {
      expect(bad).toBe("VALIDATION_ERROR data.confusion_matrix");
    }
    expect(matrix([["NaN"]])).toBe("VALIDATION_ERROR data.confusion_matrix.0.0");
  });

  it("is bounded: classes, predictions, texts", ({ expect }) => {
    const row = Array.from({ length: 2_001 }, () => 0);
    expect(problem("validation", { epoch: 1, confusion_matrix: [row] })).toMatch(
      /^VALIDATION_ERROR data.confusion_matrix/,
    );
    const classes = Object.fromEntries(row.map((_, i) => [`c${i}`, {}]));
    expect(problem("validation", { epoch: 1, per_class_metrics: classes })).toBe(
      "VALIDATION_ERROR data.per_class_metrics",
    );
    const image = { image_name: "x".repeat(4_001) };
    expect(problem("validation", { epoch: 1, images: [image] })).toBe("VALIDATION_ERROR data.images.0.image_name");
  });
});

describe("the reason of an end", () => {
  it("is the sender's own when it is known and fits, else the usual one", ({ expect }) => {
    const reason = (event: string, given?: string) => {
      const parsed = report(event, given === undefined ? {} : { reason: given });
      return parsed.type === "end" ? parsed.reason : null;
    };
    expect(reason("failed", "dataset_unavailable")).toBe("dataset_unavailable");
    expect(reason("failed", "done")).toBe("exit_nonzero");
    expect(reason("failed", "__proto__")).toBe("exit_nonzero");
    expect(reason("completed", "oom")).toBe("done");
    expect(reason("stopped")).toBe("user_stop");
    expect(reason("released", "done")).toBe("runner_shutdown");
  });
});

describe("the identity of an event without a number", () => {
  it("is event, epoch and step; of log lines their content; of pages none, they replace themselves", ({ expect }) => {
    const identity = (event: string, data: object, digest = "d") => identityOf(report(event, data), digest);
    expect(identity("epoch_complete", { epoch: 3 })).toBe(identity("epoch_complete", { epoch: 3, loss: 9 }, "e"));
    expect(identity("epoch_complete", { epoch: 3 })).not.toBe(identity("epoch_complete", { epoch: 3, step: 1 }));
    expect(identity("validation", { epoch: 3 })).toBe(identity("validation", { epoch: 3, overall_loss: 1 }, "e"));
    expect(identity("validation", { epoch: 3 })).not.toBe(identity("epoch_complete", { epoch: 3 }));
    expect(identity("log", { lines: ["a"] }, "x")).not.toBe(identity("log", { lines: ["a"] }, "y"));
    expect(identity("validation_images", { epoch: 1, offset: 0, images: [] })).toBeNull();
    expect(identity("completed", {})).toBe(identity("failed", {}));
  });
});

describe("a point whose data are plain", () => {
  const names = ["f1", "constructor", "__proto__", "a b/ü", "", "toString", "x".repeat(20), "x".repeat(21)];
  const numbers = [
    "0",
    "-0.5",
    "1e-300",
    "12345.678",
    "1e400",
    "NaN",
    "-Infinity",
    "null",
    '"nan"',
    '"0.5"',
    "true",
    "{}",
  ];

  it("is read as the schema reads it: one that goes through the schema for another reason comes out the same", ({
    expect,
  }) => {
    let seed = 7;
    const any = <T>(list: T[]): T => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return list[Math.floor((seed / 2 ** 31) * list.length)] as T;
    };
    let [taken, refused] = [0, 0];
    for (let i = 0; i < 3_000; i += 1) {
      const extra = Array.from({ length: any([0, 1, 2, 3, 6]) }, (_, n) => [any(names) + (n || ""), any(numbers)]);
      const unique = [...new Map(extra.map(([name, value]) => [name, value]))];
      const field = (name: string, value: string) => (any([0, 1, 2]) === 0 ? [] : [`"${name}":${value}`]);
      const fields = [
        `"epoch":${any(["0", "1", "1000000", "1000001", "1.5", "-1", '"1"'].slice(0, any([2, 3, 7])))}`,
        ...field("step", any(["0", "5", "1000000000000", "1000000000001", "null", "0.5"])),
        ...field("loss", any(numbers)),
        ...field("accuracy", any(numbers)),
        ...field("learning_rate", any(numbers)),
        ...field(
          "extra_metrics",
          any([`{${unique.map(([name, value]) => `${JSON.stringify(name)}:${value}`).join(",")}}`, "null", "[]", "3"]),
        ),
      ];
      const plain = read("epoch_complete", `{${fields.join(",")}}`);
      // A value that is not finite keeps the whole event from the short way, and shows in the flags only.
      const hasAccuracy = fields.some((text) => text.startsWith('"accuracy"'));
      if (hasAccuracy) continue;
      const slow = read("epoch_complete", `{${fields.join(",")},"accuracy":NaN}`);
      if (!plain.ok || !slow.ok) {
        refused += 1;
        expect([plain.ok, !plain.ok && plain.error.field]).toEqual([slow.ok, !slow.ok && slow.error.field]);
        continue;
      }
      taken += 1;
      const { nonFinite, ...rest } = slow.value as Extract<Report, { type: "metric" }>;
      const others = nonFinite?.filter((name) => name !== "accuracy") ?? [];
      expect(plain.value).toEqual({ ...rest, nonFinite: others.length > 0 ? others : null });
    }
    expect(Math.min(taken, refused)).toBeGreaterThan(50);
  });
});
