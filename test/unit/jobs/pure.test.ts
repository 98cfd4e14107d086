import { describe, it } from "vitest";
import type { Metric, Report, Validation } from "../../../src/training/jobs/events.ts";
import { initialState, type JobState } from "../../../src/training/jobs/machine.ts";
import { maskSecrets } from "../../../src/training/jobs/mask.ts";
import { initialProgress, observe, rewind } from "../../../src/training/jobs/progress.ts";
import { isReason, REASONS, type Reason, reasonOf } from "../../../src/training/jobs/reasons.ts";
import { checkedChoice, resumeEpochOf, resumePoint } from "../../../src/training/jobs/resume.ts";
import { advance, gaps } from "../../../src/training/jobs/seq-window.ts";
import type { Upload } from "../../../src/training/jobs/store.ts";

describe("the window of event numbers", () => {
  it("moves its mark over what follows it, and no further", ({ expect }) => {
    expect(advance(0, [])).toBe(0);
    expect(advance(0, [1, 2, 3])).toBe(3);
    expect(advance(0, [2, 3])).toBe(0);
    expect(advance(3, [1, 2, 3, 4, 6])).toBe(4);
  });

  it("names the gaps below the highest number, at most twenty", ({ expect }) => {
    expect(gaps(0, [])).toEqual([]);
    expect(gaps(0, [1, 2])).toEqual([]);
    expect(gaps(0, [3])).toEqual([[1, 2]]);
    expect(gaps(2, [5, 6, 9])).toEqual([
      [3, 4],
      [7, 8],
    ]);
    expect(
      gaps(
        0,
        Array.from({ length: 100 }, (_, i) => 2 * i + 2),
      ),
    ).toHaveLength(20);
  });

  it("agrees with a plain list of what has arrived, for any order", ({ expect }) => {
    for (let seed = 1; seed <= 50; seed++) {
      const have = Array.from({ length: 40 }, (_, i) => i + 1).filter((n) => Math.sin(seed * 100 + n) > 0);
      const mark = advance(0, have);
      expect(have.filter((n) => n <= mark)).toEqual(Array.from({ length: mark }, (_, i) => i + 1));
      expect(have).not.toContain(mark + 1);
      const missing = new Set(gaps(mark, have).flatMap(([a, b]) => Array.from({ length: b - a + 1 }, (_, i) => a + i)));
      const highest = have.at(-1) ?? 0;
      for (let n = 1; n <= highest; n++) expect(missing.has(n)).toBe(!have.includes(n));
    }
  });
});

const metric = (part: Partial<Metric>): Metric => ({
  type: "metric",
  epoch: 1,
  step: 0,
  loss: null,
  accuracy: null,
  learningRate: null,
  extraMetrics: {},
  nonFinite: null,
  ...part,
});

const validation = (part: Partial<Validation>): Validation => ({
  type: "validation",
  epoch: 1,
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
  ...part,
});

describe("progress", () => {
  const accuracy = { name: "accuracy", mode: "max" } as const;
  const course = (reports: Report[], primary: { name: string; mode: "max" | "min" } = accuracy) =>
    reports.reduce((progress, report) => observe(progress, report, primary), initialProgress());

  it("knows the newest epoch and the best value, in any order", ({ expect }) => {
    const reports = [
      metric({ epoch: 1, accuracy: 0.5 }),
      metric({ epoch: 2, accuracy: 0.9 }),
      metric({ epoch: 3, accuracy: 0.7 }),
      metric({ epoch: 4 }),
    ];
    const best = { currentEpoch: 4, bestValue: 0.9, bestEpoch: 2 };
    expect(course(reports)).toMatchObject(best);
    expect(course([...reports].reverse())).toMatchObject(best);
  });

  it("goes down for a metric that has to fall", ({ expect }) => {
    const loss = { name: "loss", mode: "min" } as const;
    expect(
      course([metric({ loss: 2 }), metric({ epoch: 2, loss: 0.5 }), metric({ epoch: 3, loss: 1 })], loss),
    ).toMatchObject({
      bestValue: 0.5,
      bestEpoch: 2,
    });
  });

  it("finds the primary metric among the extra ones and in validations", ({ expect }) => {
    const map = { name: "mAP50", mode: "max" } as const;
    expect(course([metric({ extraMetrics: { mAP50: 0.4 } })], map).bestValue).toBe(0.4);
    expect(course([validation({ epoch: 6, metrics: { mAP50: 0.6 } })], map)).toMatchObject({
      bestValue: 0.6,
      bestEpoch: 6,
    });
    expect(course([validation({ primaryMetricName: "mAP50", primaryMetricValue: 0.7 })], map).bestValue).toBe(0.7);
    expect(course([validation({ primaryMetricName: "f1", primaryMetricValue: 0.7 })], map).bestValue).toBeNull();
  });

  it("takes no property of every object for a metric", ({ expect }) => {
    for (const name of ["constructor", "toString", "__proto__"]) {
      expect(course([metric({}), validation({})], { name, mode: "max" }).bestValue).toBeNull();
    }
  });

  it("takes back what came after the epoch that an attempt goes on from", ({ expect }) => {
    const progress = course([metric({ epoch: 2, accuracy: 0.5 }), metric({ epoch: 5, accuracy: 0.9 })]);
    expect(rewind(progress, 5)).toMatchObject({ currentEpoch: 5, bestValue: 0.9 });
    expect(rewind(progress, 3)).toMatchObject({ currentEpoch: 3, bestValue: null, bestEpoch: null });
    expect(rewind(progress, 0)).toMatchObject({ currentEpoch: 0, bestValue: null });
  });
});

describe("reasons", () => {
  it("cover the protocol's table", ({ expect }) => {
    const rows = (Object.keys(REASONS) as Reason[]).map(
      (reason) => `${reason} ${REASONS[reason].status} ${REASONS[reason].budget}`,
    );
    expect(rows.sort()).toEqual(
      [
        "done completed null",
        "runner_lost failed infra",
        "start_timeout failed infra",
        "runner_shutdown queued null",
        "dataset_unavailable failed infra",
        "checkpoint_corrupt failed infra",
        "user_stop stopped null",
        "admin_stop stopped null",
        "project_deleted stopped null",
        "exit_nonzero failed user",
        "oom failed user",
        "invalid_config failed user",
        "max_duration failed user",
        "stalled failed user",
        "retries_exhausted failed null",
      ].sort(),
    );
  });

  it("are told from other texts", ({ expect }) => {
    expect([isReason("oom"), isReason("constructor"), isReason("")]).toEqual([true, false, false]);
    expect(reasonOf("failed", null)).toBe("exit_nonzero");
  });
});

describe("what an attempt goes on from", () => {
  const upload = (id: string, attempt: number, epoch: number | null, part: Partial<Upload["row"]> = {}): Upload => ({
    id,
    attempt,
    state: "complete",
    uploadId: null,
    partSize: 1,
    parts: 1,
    row: {
      id,
      attempt,
      kind: "checkpoint",
      name: id,
      role: null,
      epoch,
      sizeBytes: 1,
      sha256: "",
      storageKey: id,
      manifest: null,
      usable: true,
      createdAt: 0,
      ...part,
    },
  });
  const state = (part: Partial<JobState>): JobState => ({ ...initialState(), ...part });

  it("is the newest usable checkpoint of an earlier attempt of its lineage", ({ expect }) => {
    // As the store hands them out: newest attempt and epoch first.
    const complete = [
      upload("now", 3, 9),
      upload("corrupt", 2, 8, { usable: false }),
      upload("plot", 2, 7, { kind: "plot" }),
      upload("unnumbered", 2, null),
      upload("good", 2, 5),
      upload("older", 1, 6),
    ];
    const at = (part: Partial<JobState>) => resumePoint(state(part), complete)?.upload.id ?? null;
    expect(at({ attempt: 3 })).toBe("good");
    expect(at({ attempt: 2 })).toBe("older");
    expect(at({ attempt: 1 })).toBeNull();
    expect(at({ attempt: 3, lineageFrom: 3 })).toBeNull();
    expect(resumeEpochOf(resumePoint(state({ attempt: 3 }), complete))).toBe(5);
  });

  it("is the named checkpoint of the start as long as its lineage has no newer one", ({ expect }) => {
    const complete = [upload("own", 4, 2), upload("named", 1, 7)];
    const resume = { from: "artifact", artifactId: "named", weightsOnly: true } as const;
    const first = resumePoint(state({ attempt: 4, lineageFrom: 4, resume }), complete);
    expect([first?.upload.id, first?.weightsOnly, resumeEpochOf(first)]).toEqual(["named", true, 0]);
    const second = resumePoint(state({ attempt: 5, lineageFrom: 4, resume }), complete);
    expect([second?.upload.id, second?.weightsOnly, resumeEpochOf(second)]).toEqual(["own", false, 2]);
  });

  it("is refused at the start when it does not exist", ({ expect }) => {
    const complete = [upload("a", 1, 1), upload("bad", 1, 2, { usable: false })];
    const check = (resume: Parameters<typeof checkedChoice>[2], known = complete) => {
      const choice = checkedChoice(state({ attempt: 1 }), known, resume);
      return choice.ok ? "ok" : `${choice.error.code} ${choice.error.field}`;
    };
    expect(check({ from: "nothing" }, [])).toBe("ok");
    expect(check({ from: "newest" })).toBe("ok");
    expect(check({ from: "newest" }, [])).toBe("CHECKPOINT_NOT_FOUND resume");
    expect(check({ from: "artifact", artifactId: "a", weightsOnly: true })).toBe("ok");
    expect(check({ from: "artifact", artifactId: "bad", weightsOnly: false })).toBe(
      "CHECKPOINT_NOT_FOUND checkpoint_path",
    );
    expect(check({ from: "artifact", artifactId: "other", weightsOnly: false })).toBe(
      "CHECKPOINT_NOT_FOUND checkpoint_path",
    );
  });
});

describe("secrets in logs", () => {
  it("are masked, other text stays", ({ expect }) => {
    const runner = `cvr_${"a1".repeat(24)}`;
    const jwt = `eyJ${"a".repeat(20)}.eyJ${"b".repeat(40)}.${"c-_".repeat(14)}`;
    expect(maskSecrets(`x ${runner} y`)).toBe("x [masked] y");
    expect(maskSecrets(`Authorization: Bearer ${jwt}\n`)).toBe("Authorization: Bearer [masked]\n");
    expect(maskSecrets(`token=${jwt}, next`)).toBe("token=[masked], next");
    const plain = "epoch 1 loss 0.5 bearer of news, cv_score 0.9 eyJ short\n";
    expect(maskSecrets(plain)).toBe(plain);
  });
});
