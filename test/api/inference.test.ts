import { env } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { describe, it } from "vitest";
import { artifacts, jobAttempts, trainingJobs, users } from "../../src/db/schema/index.ts";
import { newUuid, sha256Hex } from "../../src/shared/ids.ts";
import { concatenate } from "../../src/shared/memory.ts";
import { createOnnxEngine } from "../../src/training/inference/engines/onnx.ts";
import { readImageHeader } from "../../src/training/inference/image-header.ts";
import { createInferenceRepository } from "../../src/training/inference/repository.ts";
import { createInferenceService } from "../../src/training/inference/service.ts";
import { call, db, type Json, job, join, type Person, person } from "../support/api.ts";
import { imageFixture } from "../support/images/fixtures.ts";
import { linearModel } from "../support/onnx-builder.ts";
import { pngHeaderOnly, writePng } from "../support/png-writer.ts";

const PATH = "/api/v1/test-inference";

/** 2 x 2 grey pixels, all white: a model with these weights answers the sum of each row. */
const white = writePng({ width: 2, height: 2, colourType: 0, depth: 8, sample: () => 255 });

const manifestOf = (labels: string[], changes: Json = {}): Json => ({
  schema: 1,
  task: "image_classification",
  framework: "embedded",
  model_name: "cnn_small",
  format: "onnx",
  input: {
    name: "input",
    layout: "NCHW",
    width: 2,
    height: 2,
    channels: 1,
    dtype: "float32",
    scale: 1 / 255,
    mean: [0],
    std: [1],
    resize: "stretch",
    pad_value: 0,
  },
  output: { name: "logits", decode: "softmax" },
  labels,
  external_data: [],
  ...changes,
});

type Saved = { id: string; key: string; sha256: string };

/** A complete artifact, as a runner's upload leaves it. */
async function artifact(
  jobId: number,
  bytes: Uint8Array<ArrayBuffer>,
  values: Partial<typeof artifacts.$inferInsert> = {},
): Promise<Saved> {
  const id = newUuid();
  const attempt = values.attempt ?? 1;
  const storageKey = `jobs/${jobId}/${attempt}/${id}`;
  const sha256 = await sha256Hex(bytes);
  await env.BUCKET.put(storageKey, bytes);
  await db.insert(artifacts).values({
    id,
    jobId,
    attempt,
    kind: "model",
    name: "best.onnx",
    role: "best",
    epoch: 1,
    sizeBytes: bytes.byteLength,
    sha256,
    storageKey,
    createdAt: Date.now(),
    ...values,
  });
  return { id, key: storageKey, sha256 };
}

/** A model that prefers one of its labels by far. */
const sure = (winner: number, count = 3) =>
  linearModel({
    shape: [1, 1, 2, 2],
    weights: Array.from({ length: count }, (_, i) => new Array<number>(4).fill(i === winner ? 2 : 0)),
    bias: new Array<number>(count).fill(0),
  }).graph;

const model = (jobId: number, winner: number, values: Partial<typeof artifacts.$inferInsert> = {}) =>
  artifact(jobId, sure(winner), { manifest: manifestOf(["cat", "dog", "owl"]), ...values });

type Fields = Record<string, string | number | Uint8Array<ArrayBuffer> | undefined>;
type Inference = { predictions: { label: string; label_id: number; confidence: number }[]; checkpoint: Json } & Json;

const infer = (by: Person | null, fields: Fields) => {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Uint8Array) form.append(name, new Blob([value], { type: "image/jpeg" }), "image.jpg");
    else if (value !== undefined) form.append(name, String(value));
  }
  return call<Inference>("POST", PATH, { ...(by && { token: by.token }), body: form });
};

const outcome = async (by: Person, fields: Fields) => {
  const { status, body } = await infer(by, fields);
  return status === 200
    ? [200, body.predictions[0]?.label, body.checkpoint.artifact_id]
    : [status, body.code, body.field];
};

describe("POST /test-inference", () => {
  it("answers what the contract prints, and names what ran", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const best = await model(jobId, 1, { epoch: 7 });
    const answer = await infer(owner, { training_job_id: jobId, file: white, confidence_threshold: 0.25, top_k: 5 });
    const rest = 1 / (2 + Math.exp(8));
    expect([answer.status, answer.body]).toEqual([
      200,
      {
        predictions: [
          { label: "dog", label_id: 1, confidence: expect.closeTo(1 - 2 * rest, 6) },
          { label: "cat", label_id: 0, confidence: expect.closeTo(rest, 6) },
          { label: "owl", label_id: 2, confidence: expect.closeTo(rest, 6) },
        ],
        task_type: "image_classification",
        model_name: "cnn_small",
        inference_time_ms: expect.any(Number),
        engine: "onnx",
        checkpoint: { artifact_id: best.id, epoch: 7, role: "best", sha256: best.sha256 },
        image: { type: "png", width: 2, height: 2 },
        timings: { queue_ms: expect.any(Number), load_ms: expect.any(Number), compute_ms: expect.any(Number) },
      },
    ]);
    expect(answer.body.inference_time_ms).toBeGreaterThan(0);
    expect(answer.headers.get("cache-control")).toMatch(/private/);
  });

  it("answers five labels when not told how many, else as many as told", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const labels = Array.from({ length: 9 }, (_, i) => `label ${i}`);
    await artifact(jobId, sure(4, 9), { manifest: manifestOf(labels) });
    const count = async (topK?: number) =>
      (await infer(owner, { training_job_id: jobId, file: white, top_k: topK })).body.predictions.length;
    expect([await count(), await count(1), await count(100)]).toEqual([5, 1, 9]);
  });

  it("reads JPEG and WebP, and never says where a picture was taken", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await model(jobId, 0);
    for (const [name, type] of [
      ["exif-6.jpg", "jpeg"],
      ["lossy.webp", "webp"],
    ] as const) {
      const answer = await infer(owner, { training_job_id: jobId, file: imageFixture(name) });
      expect([answer.status, answer.body.image]).toEqual([200, { type, width: 24, height: 16 }]);
      expect(JSON.stringify(answer.body)).not.toMatch(/exif|orientation|gps/i);
    }
  });

  it("runs a model whose weights are in a second file", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const split = linearModel({
      shape: [1, 1, 2, 2],
      weights: [
        [0, 0, 0, 0],
        [3, 3, 3, 3],
      ],
      bias: [0, 0],
      external: "model.bin",
    });
    const weights = await artifact(jobId, split.weights, { kind: "file", role: null, name: "model.bin" });
    const manifest = manifestOf(["no", "yes"], { external_data: [{ path: "model.bin", artifact_id: weights.id }] });
    const best = await artifact(jobId, split.graph, { manifest });
    expect(await outcome(owner, { training_job_id: jobId, file: white })).toEqual([200, "yes", best.id]);
    await db.delete(artifacts).where(eq(artifacts.id, weights.id));
    expect(await outcome(owner, { training_job_id: jobId, file: white })).toEqual([
      404,
      "CHECKPOINT_NOT_FOUND",
      "checkpoint",
    ]);
  });

  it("does not take the weights of another job", async ({ expect }) => {
    const owner = await person();
    const [jobId, otherJobId] = [await job(owner), await job(owner)];
    const split = linearModel({
      shape: [1, 1, 2, 2],
      weights: [
        [0, 0, 0, 0],
        [3, 3, 3, 3],
      ],
      bias: [0, 0],
      external: "model.bin",
    });
    const weights = await artifact(otherJobId, split.weights, { kind: "file", role: null, name: "model.bin" });
    await artifact(jobId, split.graph, {
      manifest: manifestOf(["no", "yes"], { external_data: [{ path: "model.bin", artifact_id: weights.id }] }),
    });
    expect(await outcome(owner, { training_job_id: jobId, file: white })).toEqual([
      404,
      "CHECKPOINT_NOT_FOUND",
      "checkpoint",
    ]);
  });
});

describe("the checkpoint that is run", () => {
  it("is the best, else the last, else any; the newest of them", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const run = (checkpoint?: string) => outcome(owner, { training_job_id: jobId, file: white, checkpoint });
    expect(await run()).toEqual([404, "CHECKPOINT_NOT_FOUND", "checkpoint"]);
    const plain = await model(jobId, 0, { role: null, epoch: 1 });
    expect(await run()).toEqual([200, "cat", plain.id]);
    const last = await model(jobId, 1, { role: "last", epoch: 3 });
    expect(await run()).toEqual([200, "dog", last.id]);
    await model(jobId, 0, { role: "best", epoch: 1 });
    const best = await model(jobId, 2, { role: "best", epoch: 2 });
    expect(await run()).toEqual([200, "owl", best.id]);
    expect(await run("best")).toEqual([200, "owl", best.id]);
    expect(await run("last")).toEqual([200, "dog", last.id]);
    expect(await run(plain.id)).toEqual([200, "cat", plain.id]);
    expect(await run(plain.key)).toEqual([200, "cat", plain.id]);
  });

  it("is on the job's present line where there is one: a restart supersedes what came after it", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const attempt = (number: number, resumeEpoch: number) =>
      db.insert(jobAttempts).values({ jobId, attempt: number, owner: "lease", resumeEpoch, startedAt: Date.now() });
    const run = () => outcome(owner, { training_job_id: jobId, file: white });
    await attempt(1, 0);
    const early = await model(jobId, 0, { attempt: 1, epoch: 2 });
    const lost = await model(jobId, 1, { attempt: 1, epoch: 9 });
    expect(await run()).toEqual([200, "dog", lost.id]);
    await attempt(2, 5);
    expect(await run()).toEqual([200, "cat", early.id]);
    await attempt(3, 0);
    // All of them are superseded now; the newest is better than none.
    expect((await run())[0]).toBe(200);
    const again = await model(jobId, 2, { attempt: 3, epoch: 1, role: "last" });
    expect(await run()).toEqual([200, "owl", again.id]);
  });

  it("may be named by the resumable checkpoint of the same epoch", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const third = await model(jobId, 1, { epoch: 3, role: "last" });
    await model(jobId, 0, { epoch: 4, role: "best" });
    const state = await artifact(jobId, Uint8Array.from(new TextEncoder().encode("state of epoch 3")), {
      kind: "checkpoint",
      name: "last.state",
      role: "last",
      epoch: 3,
    });
    expect(await outcome(owner, { training_job_id: jobId, file: white, checkpoint: state.key })).toEqual([
      200,
      "dog",
      third.id,
    ]);
  });

  it("is never one of another job, nor one that is damaged, incomplete or of another kind", async ({ expect }) => {
    const owner = await person();
    const [jobId, otherJobId] = [await job(owner), await job(owner)];
    await model(jobId, 0);
    const other = await model(otherJobId, 1);
    const damaged = await model(jobId, 1, { usable: false, epoch: 9 });
    const bare = await model(jobId, 1, { manifest: null, epoch: 9 });
    const plot = await model(jobId, 1, { kind: "plot", epoch: 9 });
    for (const checkpoint of [
      other.id,
      other.key,
      damaged.id,
      bare.id,
      plot.id,
      newUuid(),
      `jobs/${jobId}/1/${newUuid()}`,
    ]) {
      expect(await outcome(owner, { training_job_id: jobId, file: white, checkpoint })).toEqual([
        404,
        "CHECKPOINT_NOT_FOUND",
        "checkpoint",
      ]);
    }
    expect((await outcome(owner, { training_job_id: jobId, file: white }))[1]).toBe("cat");
  });

  it.for([
    "file:///etc/passwd",
    "s3://bucket/model.onnx",
    "http://169.254.169.254/",
    "../../jobs/1/1/x",
    "jobs/1/1/../2/x",
    "best.onnx",
    "BEST",
    "",
  ])("is not a path or address: %s", async (checkpoint, { expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await model(jobId, 0);
    expect(await outcome(owner, { training_job_id: jobId, file: white, checkpoint })).toEqual([
      422,
      "VALIDATION_ERROR",
      "checkpoint",
    ]);
  });

  it("gone from the store is a checkpoint that is not found", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const best = await artifact(
      jobId,
      linearModel({ shape: [1, 1, 2, 2], weights: [[1, 2, 3, 4.5]], bias: [0] }).graph,
      { manifest: manifestOf(["only"]) },
    );
    await env.BUCKET.delete(best.key);
    expect(await outcome(owner, { training_job_id: jobId, file: white })).toEqual([
      404,
      "CHECKPOINT_NOT_FOUND",
      "checkpoint",
    ]);
  });

  it("that is too large for the Worker is 503 with the reason", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await model(jobId, 0, { sizeBytes: 46_700_000 });
    const answer = await infer(owner, { training_job_id: jobId, file: white });
    expect([answer.status, answer.body.code, answer.body.detail]).toEqual([
      503,
      "INFERENCE_UNAVAILABLE",
      expect.stringMatching(/too large.*46\.7 MB/),
    ]);
  });

  it.for<[string, Json, number, string]>([
    ["of a task that is not there yet", { task: "semantic_segmentation" }, 503, "INFERENCE_UNAVAILABLE"],
    ["of a format that cannot be run", { format: "safetensors" }, 503, "INFERENCE_UNAVAILABLE"],
    ["with a manifest of another version", { schema: 2 }, 422, "VALIDATION_ERROR"],
    ["that contradicts its manifest", { labels: ["cat", "dog"] }, 422, "VALIDATION_ERROR"],
  ])("%s is refused", async ([, changes, status, code], { expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await model(jobId, 0, { manifest: manifestOf(["cat", "dog", "owl"], changes) });
    expect((await outcome(owner, { training_job_id: jobId, file: white })).slice(0, 2)).toEqual([status, code]);
  });

  it("of a job whose task is not there yet is 503, with a model or without", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await db.update(trainingJobs).set({ taskType: "semantic_segmentation" }).where(eq(trainingJobs.id, jobId));
    expect((await outcome(owner, { training_job_id: jobId, file: white })).slice(0, 2)).toEqual([
      503,
      "INFERENCE_UNAVAILABLE",
    ]);
  });
});

describe("two jobs whose best files have one name", () => {
  const pair = async () => {
    const owner = await person();
    const [first, second] = [await job(owner), await job(owner)];
    const [dog, owl] = [await model(first, 1), await model(second, 2)];
    const seen = async () => {
      const answers = [];
      for (const jobId of [first, second]) {
        const { body } = await infer(owner, { training_job_id: jobId, file: white });
        answers.push([body.predictions[0]?.label, body.checkpoint.sha256]);
      }
      return answers;
    };
    return { first, second, dog, owl, seen };
  };

  it("are never taken for one another, also when they are exchanged while both are loaded", async ({ expect }) => {
    const { first, second, dog, owl, seen } = await pair();
    expect(await seen()).toEqual([
      ["dog", dog.sha256],
      ["owl", owl.sha256],
    ]);
    // Each job gets a newer best.onnx: the other one's.
    await model(first, 2, { epoch: 2 });
    await model(second, 1, { epoch: 2 });
    expect(await seen()).toEqual([
      ["owl", owl.sha256],
      ["dog", dog.sha256],
    ]);
  });

  it("answer by their content: bytes that were exchanged in the store are refused, not run", async ({ expect }) => {
    const owner = await person();
    const [first, second] = [await job(owner), await job(owner)];
    const [left, right] = [
      linearModel({ shape: [1, 1, 2, 2], weights: [[1, 2, 3, 4]], bias: [first] }).graph,
      linearModel({ shape: [1, 1, 2, 2], weights: [[4, 3, 2, 1]], bias: [second] }).graph,
    ];
    const manifest = manifestOf(["cat"]);
    const [a, b] = [await artifact(first, left, { manifest }), await artifact(second, right, { manifest })];
    await env.BUCKET.put(a.key, right);
    await env.BUCKET.put(b.key, left);
    for (const jobId of [first, second]) {
      expect(await outcome(owner, { training_job_id: jobId, file: white })).toEqual([
        422,
        "VALIDATION_ERROR",
        "checkpoint",
      ]);
    }
  });
});

describe("who may ask", () => {
  it("is every member of the job's project and nobody else", async ({ expect }) => {
    const [owner, viewer, stranger] = [await person(), await person(), await person()];
    const jobId = await job(owner);
    await model(jobId, 0);
    await join(owner.projectId, viewer.id, "viewer");
    const fields = { training_job_id: jobId, file: white };
    expect((await outcome(viewer, fields))[0]).toBe(200);
    expect(await outcome(stranger, fields)).toEqual([404, "JOB_NOT_FOUND", null]);
    expect(await outcome(owner, { ...fields, training_job_id: 999_999_999 })).toEqual([404, "JOB_NOT_FOUND", null]);
    expect((await infer(null, fields)).status).toBe(401);
    expect((await infer({ ...owner, token: `${owner.token}x` }, fields)).status).toBe(401);
  });
});

describe("the form", () => {
  const withModel = async () => {
    const owner = await person();
    const jobId = await job(owner);
    await model(jobId, 0);
    return { owner, jobId };
  };

  it.for<[string, Fields, string]>([
    ["no file", { file: undefined }, "file"],
    ["an empty file", { file: new Uint8Array(0) }, "file"],
    ["text for a file", { file: "hello" }, "file"],
    [
      "HTML named .jpg",
      { file: concatenate([new TextEncoder().encode("<!doctype html><script>alert(1)</script>")]) },
      "file",
    ],
    ["a GIF", { file: imageFixture("small.gif") }, "file"],
    ["a PNG of 100,000 x 100,000", { file: pngHeaderOnly(100_000, 100_000) }, "file"],
    ["a truncated image", { file: imageFixture("baseline.jpg").slice(0, 200) }, "file"],
    ["a damaged image", { file: imageFixture("rgb.png").map((byte, at) => (at === 60 ? byte ^ 1 : byte)) }, "file"],
    ["more than 16 MiB", { file: new Uint8Array(16 * 1024 * 1024 + 1) }, "file"],
    ["no job", { training_job_id: undefined }, "training_job_id"],
    ["a job of text", { training_job_id: "five" }, "training_job_id"],
    ["job 0", { training_job_id: "0" }, "training_job_id"],
    ["job -1", { training_job_id: "-1" }, "training_job_id"],
    ["job 1.0", { training_job_id: "1.0" }, "training_job_id"],
    ["job 2^53", { training_job_id: "9007199254740993" }, "training_job_id"],
    ["top_k 0", { top_k: "0" }, "top_k"],
    ["top_k 101", { top_k: "101" }, "top_k"],
    ["top_k 1e2", { top_k: "1e2" }, "top_k"],
    ["threshold above 1", { confidence_threshold: "1.5" }, "confidence_threshold"],
    ["negative threshold", { confidence_threshold: "-0.1" }, "confidence_threshold"],
    ["threshold NaN", { confidence_threshold: "NaN" }, "confidence_threshold"],
  ])("with %s is 422 and names the field", async ([, fields, field], { expect }) => {
    const { owner, jobId } = await withModel();
    expect(await outcome(owner, { training_job_id: jobId, file: white, ...fields })).toEqual([
      422,
      "VALIDATION_ERROR",
      field,
    ]);
  });

  it("may come in any order, with fields that are not known", async ({ expect }) => {
    const { owner, jobId } = await withModel();
    const answer = await outcome(owner, {
      __proto__: 1,
      iou_threshold: "0.45",
      file: white,
      top_k: "2",
      training_job_id: jobId,
    });
    expect(answer.slice(0, 2)).toEqual([200, "cat"]);
  });

  it.for(["0", "1", "0.25", ".5", "1.0", " 0.25 "])(
    "takes the threshold %s",
    async (confidence_threshold, { expect }) => {
      const { owner, jobId } = await withModel();
      expect((await outcome(owner, { training_job_id: jobId, file: white, confidence_threshold }))[0]).toBe(200);
    },
  );

  it("with a field given twice is 422", async ({ expect }) => {
    const { owner, jobId } = await withModel();
    const form = new FormData();
    form.append("training_job_id", String(jobId));
    form.append("training_job_id", String(jobId));
    form.append("file", new Blob([white]), "a.png");
    const answer = await call("POST", PATH, { token: owner.token, body: form });
    expect([answer.status, answer.body.field]).toEqual([422, "training_job_id"]);
  });

  it("must be a form", async ({ expect }) => {
    const { owner, jobId } = await withModel();
    const json = await call("POST", PATH, { token: owner.token, body: { training_job_id: jobId } });
    expect([json.status, json.body.code]).toEqual([415, "UNSUPPORTED_MEDIA_TYPE"]);
    const none = await call("POST", PATH, { token: owner.token });
    expect([none.status, none.body.code]).toEqual([415, "UNSUPPORTED_MEDIA_TYPE"]);
    const broken = await call("POST", PATH, {
      token: owner.token,
      body: "--x\r\nnot a part",
      headers: { "content-type": "multipart/form-data; boundary=x" },
    });
    expect([broken.status, broken.body.code]).toEqual([400, "BAD_REQUEST"]);
    const noBoundary = await call("POST", PATH, {
      token: owner.token,
      body: "x",
      headers: { "content-type": "multipart/form-data" },
    });
    expect([noBoundary.status, noBoundary.body.code]).toEqual([400, "BAD_REQUEST"]);
  });
});

describe("several files", () => {
  type Batch = {
    results: { index: number; image_name: string | null; result: Inference | null; error: Json | null }[];
  } & Json;
  const inferAll = (by: Person, jobId: number, files: [string, Uint8Array<ArrayBuffer>][], late: Fields = {}) => {
    const form = new FormData();
    for (const [name, bytes] of files) form.append("file", new Blob([bytes]), name);
    for (const [name, value] of Object.entries({ training_job_id: jobId, ...late })) form.append(name, String(value));
    return call<Batch>("POST", PATH, { token: by.token, body: form });
  };

  it("are answered in their order, each with a result or its own error", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const best = await model(jobId, 1);
    const answer = await inferAll(
      owner,
      jobId,
      [
        ["a.png", white],
        ["사과.jpg", imageFixture("exif-6.jpg")],
        ["text.png", Uint8Array.from(new TextEncoder().encode("hello"))],
        ["huge.png", pngHeaderOnly(100_000, 100_000)],
        ["large.jpg", new Uint8Array(16 * 1024 * 1024 + 1)],
        ["empty.png", new Uint8Array(0)],
        ["last.png", white],
      ],
      { top_k: 1 },
    );
    expect([answer.status, answer.body.total, answer.body.succeeded, answer.body.failed]).toEqual([200, 7, 3, 4]);
    expect(answer.body.results.map(({ index, image_name }) => [index, image_name])).toEqual([
      [0, "a.png"],
      [1, "사과.jpg"],
      [2, "text.png"],
      [3, "huge.png"],
      [4, "large.jpg"],
      [5, "empty.png"],
      [6, "last.png"],
    ]);
    expect(answer.body.results.map(({ result, error }) => result?.predictions[0]?.label ?? error?.field)).toEqual([
      "dog",
      "dog",
      "file",
      "file",
      "file",
      "file",
      "dog",
    ]);
    for (const { result, error } of answer.body.results) {
      expect([result === null, error === null]).toContainEqual(true);
      expect(result === null ? error : result.checkpoint).toMatchObject(
        result === null ? { code: "VALIDATION_ERROR", detail: expect.any(String) } : { artifact_id: best.id },
      );
      expect(result?.predictions.length ?? 1).toBe(1);
    }
  });

  it("do not answer what only the request as a whole can get wrong", async ({ expect }) => {
    const [owner, stranger] = [await person(), await person()];
    const jobId = await job(owner);
    const two: [string, Uint8Array<ArrayBuffer>][] = [
      ["a.png", white],
      ["b.png", white],
    ];
    const none = await inferAll(owner, jobId, two);
    expect([none.status, none.body.code]).toEqual([404, "CHECKPOINT_NOT_FOUND"]);
    await model(jobId, 0);
    const foreign = await inferAll(stranger, jobId, two);
    expect([foreign.status, foreign.body.code]).toEqual([404, "JOB_NOT_FOUND"]);
    const late = await inferAll(owner, jobId, two, { top_k: 0 });
    expect([late.status, late.body.field]).toEqual([422, "top_k"]);
  });

  it("are at most sixteen, and 32 MiB together", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await model(jobId, 0);
    const files = (count: number, bytes = white) =>
      Array.from({ length: count }, (_, i): [string, Uint8Array<ArrayBuffer>] => [`${i}.png`, bytes]);
    const sixteen = await inferAll(owner, jobId, files(16));
    expect([sixteen.status, sixteen.body.succeeded]).toEqual([200, 16]);
    const more = await inferAll(owner, jobId, files(17));
    expect([more.status, more.body.field]).toEqual([422, "file"]);
    const heavy = await inferAll(owner, jobId, files(3, new Uint8Array(11 * 1024 * 1024)));
    expect([heavy.status, heavy.body.field, heavy.body.detail]).toEqual([
      422,
      "file",
      expect.stringContaining("32 MiB"),
    ]);
  });
});

describe("the document", () => {
  it("says that what is wrong with one of several files has retry_after_s", async ({ expect }) => {
    const { body } = await call<{ components: { schemas: Record<string, Json> } }>("GET", "/api/v1/openapi.json");
    expect(body.components.schemas.InferenceBatch).toMatchObject({
      properties: {
        results: {
          items: {
            properties: {
              error: {
                type: ["object", "null"],
                properties: { retry_after_s: { type: ["number", "null"] } },
                required: ["detail", "code", "field", "retry_after_s"],
              },
            },
          },
        },
      },
    });
  });
});

describe("many at once", () => {
  it("answers two jobs their own models, however they interleave", async ({ expect }) => {
    const owner = await person();
    const [cats, owls] = [await job(owner), await job(owner)];
    await model(cats, 0);
    await model(owls, 2);
    const answers = await Promise.all(
      Array.from({ length: 24 }, (_, i) => outcome(owner, { training_job_id: i % 2 ? owls : cats, file: white })),
    );
    expect(answers.map(([, label]) => label)).toEqual(answers.map((_, i) => (i % 2 ? "owl" : "cat")));
  });
});

describe("replicas of a model", () => {
  type Sessions = Parameters<typeof createOnnxEngine>[0]["sessions"];
  const OPTIONS = { confidenceThreshold: 0.25, iouThreshold: 0.45, maxDetections: 100, topK: 5 };

  /** An engine with real objects that notes which are asked; those named in `broken` cannot be reached. */
  const engineOf = (broken: (name: string) => boolean = () => false) => {
    const asked: string[] = [];
    const sessions: Sessions = {
      getByName: (name) => {
        asked.push(name);
        if (broken(name)) throw new Error("overloaded");
        return env.MODEL_SESSION.getByName(name);
      },
    };
    return { asked, engine: createOnnxEngine({ inference: createInferenceRepository(db), sessions, now: Date.now }) };
  };
  const principalOf = async ({ id }: Person) => {
    const [user] = await db.select({ version: users.tokenVersion }).from(users).where(eq(users.id, id));
    return { userId: id, tokenVersion: user?.version ?? 0 };
  };
  const image = () => {
    const header = readImageHeader(white);
    if (!header.ok) throw new Error(header.error.message);
    return { bytes: white, header: header.value };
  };
  /** A model that no other test has asked for. */
  const own = async (owner: Person) => {
    const jobId = await job(owner);
    const { graph } = linearModel({
      shape: [1, 1, 2, 2],
      weights: [
        [0, 0, 0, 0],
        [1, 2, 3, jobId],
      ],
      bias: [0, 0],
    });
    return { jobId, sha256: (await artifact(jobId, graph, { manifest: manifestOf(["no", "yes"]) })).sha256 };
  };

  it("share what comes at once, the lowest first, and answer alike", async ({ expect }) => {
    const owner = await person();
    const { jobId, sha256 } = await own(owner);
    const { asked, engine } = engineOf();
    const prepared = await engine.prepare(await principalOf(owner), { jobId, checkpoint: null });
    const answers = await Promise.all(Array.from({ length: 12 }, () => prepared.run(image(), OPTIONS)));
    const tally = Object.entries(Object.groupBy(asked, (name) => name)).map(([name, all]) => [name, all?.length]);
    expect(tally).toEqual([0, 1, 2, 3].map((replica) => [replica === 0 ? sha256 : `${sha256}:${replica}`, 3]));
    expect(new Set(answers.map(({ result }) => JSON.stringify(result))).size).toBe(1);
    expect(answers[0]?.result.predictions[0]?.label).toBe("yes");
    // What was under way has ended: the next one is the first object's again.
    await prepared.run(image(), OPTIONS);
    expect(asked.at(-1)).toBe(sha256);
  });

  it("stand in for one that cannot be reached", async ({ expect }) => {
    const owner = await person();
    const { jobId, sha256 } = await own(owner);
    const { asked, engine } = engineOf((name) => name === sha256);
    const prepared = await engine.prepare(await principalOf(owner), { jobId, checkpoint: null });
    expect((await prepared.run(image(), OPTIONS)).result.predictions[0]?.label).toBe("yes");
    expect(asked).toEqual([sha256, `${sha256}:1`]);
  });

  it("when two cannot be reached, the answer is to come back, also for one of several files", async ({ expect }) => {
    const owner = await person();
    const { jobId, sha256 } = await own(owner);
    const { asked, engine } = engineOf(() => true);
    const hosted = { prepare: () => Promise.reject(new Error("not asked for")) };
    const service = createInferenceService({ onnx: engine, hosted });
    const principal = await principalOf(owner);
    const ask = (count: number) => {
      const form = new FormData();
      form.append("training_job_id", String(jobId));
      for (let i = 0; i < count; i += 1) form.append("file", new Blob([i === 1 ? "no image" : white]), "a.png");
      return service.test(principal, new Request("http://localhost/", { method: "POST", body: form }));
    };
    await expect(ask(1)).rejects.toMatchObject({ code: "INFERENCE_UNAVAILABLE", headers: { "retry-after": "2" } });
    expect(asked).toEqual([sha256, `${sha256}:1`]);
    const batch = await ask(2);
    expect("results" in batch ? batch.results.map(({ error }) => error) : null).toEqual([
      { detail: expect.any(String), code: "INFERENCE_UNAVAILABLE", field: null, retry_after_s: 2 },
      { detail: expect.any(String), code: "VALIDATION_ERROR", field: "file", retry_after_s: null },
    ]);
  });
});
