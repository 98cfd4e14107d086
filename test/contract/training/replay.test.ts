import { env } from "cloudflare:workers";
import { eq, sql } from "drizzle-orm";
import { beforeAll, describe, it } from "vitest";
import { hashPassword } from "../../../src/auth/password.ts";
import { artifacts, datasets, projectMembers, projects, trainingJobs, users } from "../../../src/db/schema/index.ts";
import { newUuid, sha256Hex } from "../../../src/shared/ids.ts";
import {
  type Answer,
  accept,
  call,
  claim,
  dataset,
  db,
  type Json,
  type Person,
  plainEvent,
  runner,
} from "../../support/api.ts";
import { makeZip } from "../../support/make-zip.ts";
import { linearModel } from "../../support/onnx-builder.ts";
import { writePng } from "../../support/png-writer.ts";
import callbackRequest from "./examples/callback.request.json" with { type: "json" };
import callbackResponse from "./examples/callback.response.json" with { type: "json" };
import createDatasetResponse from "./examples/create-dataset.response.json" with { type: "json" };
import createJobRequest from "./examples/create-job.request.json" with { type: "json" };
import createJobResponse from "./examples/create-job.response.json" with { type: "json" };
import getConfigSchemaResponse from "./examples/get-config-schema.response.json" with { type: "json" };
import getDatasetResponse from "./examples/get-dataset.response.json" with { type: "json" };
import getJobResponse from "./examples/get-job.response.json" with { type: "json" };
import getLogsResponse from "./examples/get-logs.response.json" with { type: "json" };
import getMetricsResponse from "./examples/get-metrics.response.json" with { type: "json" };
import getValidationImagesResponse from "./examples/get-validation-images.response.json" with { type: "json" };
import getValidationResultsResponse from "./examples/get-validation-results.response.json" with { type: "json" };
import listDatasetsResponse from "./examples/list-datasets.response.json" with { type: "json" };
import listModelsResponse from "./examples/list-models.response.json" with { type: "json" };
import loginRequest from "./examples/login.request.json" with { type: "json" };
import loginResponse from "./examples/login.response.json" with { type: "json" };
import startJobResponse from "./examples/start-job.response.json" with { type: "json" };
import stopJobResponse from "./examples/stop-job.response.json" with { type: "json" };
import testInferenceResponse from "./examples/test-inference.response.json" with { type: "json" };
import { missingFrom } from "./shape.ts";

/**
 * Every JSON example of the Training contract, sent as it is printed, in the order in which a user meets them. The printed
 * ids exist: user 1, project 2 "My Project", the dataset, and a next job id of 5.
 */

const DATASET_ID = createJobRequest.config.dataset_id;
const JOB_ID = createJobResponse.id;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;
let owner: Person;

const auth = () => ({ token: owner.token });
const summary = ({ status, body }: Answer<unknown>, printed: unknown) => [status, missingFrom(body, printed)];

beforeAll(async () => {
  const at = Date.now();
  const { email, password } = loginRequest;
  await db.insert(users).values({
    id: 1,
    email,
    fullName: loginResponse.user.full_name,
    passwordHash: await hashPassword(password),
    createdAt: at,
  });
  await db.insert(projects).values([
    { id: 1, ownerId: 1, name: "Uncategorized", isDefault: true, createdAt: at, updatedAt: at },
    { id: 2, ownerId: 1, name: getJobResponse.project_name, createdAt: at, updatedAt: at },
  ]);
  await db.insert(projectMembers).values([1, 2].map((projectId) => ({ projectId, userId: 1, role: "owner" as const })));
  owner = { id: 1, email, token: "", projectId: 2 };
  await dataset(owner, { id: DATASET_ID, projectId: 2 });
  const classNames = Array.from({ length: 10 }, (_, i) => `class ${i}`);
  await db
    .update(datasets)
    .set({ name: "My Dataset", description: "Description here", format: "dice", numClasses: 10, classNames })
    .where(eq(datasets.id, DATASET_ID));
});

describe("the contract's examples", () => {
  it("logs in", async ({ expect }) => {
    const answer = await call<typeof loginResponse>("POST", "/api/v1/auth/login", { body: loginRequest });
    expect(summary(answer, loginResponse)).toEqual([200, []]);
    expect(answer.body.token_type).toBe("bearer");
    expect(answer.body.user).toEqual(loginResponse.user);
    owner = { ...owner, token: answer.body.access_token };
  });

  it("creates the job, pending, with everything that was sent", async ({ expect }) => {
    // Ids are never used again: the one before the printed one is taken and given back.
    const before = await call<{ id: number }>("POST", "/api/v1/training/jobs", { ...auth(), body: createJobRequest });
    await db
      .update(trainingJobs)
      .set({ id: JOB_ID - 1 })
      .where(eq(trainingJobs.id, before.body.id));
    await db.run(sql`update sqlite_sequence set seq = ${JOB_ID - 1} where name = 'training_jobs'`);
    const answer = await call("POST", "/api/v1/training/jobs", { ...auth(), body: createJobRequest });
    expect(summary(answer, createJobResponse)).toEqual([201, []]);
    const { created_at, output_dir, ...printed } = createJobResponse;
    expect(answer.body).toMatchObject(printed);
    expect(answer.body.output_dir).toBe(`jobs/${JOB_ID}`);
    expect(answer.body.created_at).toMatch(TIME);
  });

  it("starts it on a waiting runner: running, with its time", async ({ expect }) => {
    const gpu = await runner({ frameworks: ["timm"] });
    await claim(gpu);
    const starting = call("POST", `/api/v1/training/jobs/${JOB_ID}/start`, auth());
    const offer = await claim(gpu, 5);
    await accept(gpu, JOB_ID, offer.body.fence);
    const answer = await starting;
    expect(summary(answer, startJobResponse)).toEqual([200, []]);
    expect(answer.body).toMatchObject({ id: JOB_ID, status: "running" });
    expect(answer.body.started_at).toMatch(TIME);
  });

  it("stops it", async ({ expect }) => {
    const answer = await call("POST", `/api/v1/training/stop/${JOB_ID}`, auth());
    expect([answer.status, answer.body]).toEqual([200, stopJobResponse]);
  });

  it("takes the callback and shows it in the detail, the metrics and the logs", async ({ expect }) => {
    const created = await call<{ id: number }>("POST", "/api/v1/training/jobs", { ...auth(), body: createJobRequest });
    const jobId = created.body.id;
    const answer = await call("POST", "/api/v1/internal/training/callback", {
      headers: { "x-internal-auth": env.INTERNAL_SECRET },
      body: { ...callbackRequest, job_id: jobId },
    });
    expect([answer.status, answer.body]).toEqual([200, { ...callbackResponse, job_id: jobId }]);

    const [printed] = getMetricsResponse;
    await plainEvent(jobId, "epoch_complete", {
      epoch: 11,
      loss: printed?.loss,
      accuracy: printed?.accuracy,
      learning_rate: printed?.learning_rate,
      extra_metrics: printed?.extra_metrics,
      mlflow_run_id: getJobResponse.mlflow_run_id,
    });
    await plainEvent(jobId, "log", { stream: "stdout", lines: [getLogsResponse[0]?.message] });

    const detail = await call("GET", `/api/v1/training/jobs/${jobId}`, auth());
    expect(summary(detail, getJobResponse)).toEqual([200, []]);
    const { id, current_epoch, created_at, started_at, ...same } = getJobResponse;
    expect(detail.body).toMatchObject({ ...same, id: jobId, current_epoch: 11 });

    const metrics = await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/metrics?limit=1`, auth());
    expect(summary(metrics, getMetricsResponse)).toEqual([200, []]);
    expect(metrics.body[0]).toMatchObject({ extra_metrics: printed?.extra_metrics, loss: printed?.loss, epoch: 11 });
    const first = await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/metrics`, auth());
    expect(first.body[0]).toMatchObject(callbackRequest.data);

    const logs = await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/logs?log_type=stdout`, auth());
    expect(summary(logs, getLogsResponse)).toEqual([200, []]);
    expect(logs.body[0]).toMatchObject({ log_type: "stdout", message: getLogsResponse[0]?.message });
    const none = await call<Json[]>("GET", `/api/v1/training/jobs/${jobId}/logs?log_type=stderr`, auth());
    expect([none.status, none.body]).toEqual([200, []]);
  });

  it("answers validation results and their images as they were reported", async ({ expect }) => {
    const created = await call<{ id: number }>("POST", "/api/v1/training/jobs", { ...auth(), body: createJobRequest });
    const jobId = created.body.id;
    const [printed] = getValidationResultsResponse.results;
    const [image] = getValidationImagesResponse.images;
    const { id: _, created_at, ...result } = printed ?? {};
    const { id: __, ...reported } = image ?? {};
    const images = [reported, { ...reported, image_name: "cat_002.jpg", is_correct: false, predicted_label: "dog" }];
    await plainEvent(jobId, "validation", { ...result, class_names: ["cat", "dog"], images });

    const answer = await call<{ results: Json[] }>("GET", `/api/v1/validation/results/${jobId}`, auth());
    expect(summary(answer, getValidationResultsResponse)).toEqual([200, []]);
    expect(answer.body).toMatchObject({ job_id: jobId, results: [result] });
    expect(answer.body.results[0]?.created_at).toMatch(TIME);

    const resultId = String(answer.body.results[0]?.id);
    const page = await call("GET", `/api/v1/validation/images/${resultId}`, auth());
    expect(summary(page, getValidationImagesResponse)).toEqual([200, []]);
    expect(page.body).toMatchObject({ validation_result_id: Number(resultId), total: 2, skip: 0, limit: 50 });
    expect(page.body).toMatchObject({ images: [reported, { image_name: "cat_002.jpg" }] });
    const wrong = await call("GET", `/api/v1/validation/images/${resultId}?is_correct=false&skip=0&limit=1`, auth());
    expect(wrong.body).toMatchObject({ images: [{ image_name: "cat_002.jpg" }], total: 1, limit: 1 });
  });

  it("answers the configuration schema", async ({ expect }) => {
    const path = "/api/v1/training/config-schema?framework=timm&task_type=image_classification";
    const answer = await call<typeof getConfigSchemaResponse>("GET", path, auth());
    const { schema, ...rest } = getConfigSchemaResponse;
    expect(summary(answer, rest)).toEqual([200, []]);
    for (const field of schema.fields) {
      const actual = answer.body.schema.fields.find(({ name }) => name === field.name);
      expect(missingFrom(actual, field), field.name).toEqual([]);
      const { options, ...plain } = field;
      expect(actual).toMatchObject(plain);
    }
  });

  it("creates a dataset from the printed form, and lists and shows it", async ({ expect }) => {
    const form = new FormData();
    form.append("name", "My Dataset");
    form.append("description", "Description here");
    form.append("format", "dice");
    form.append("visibility", "private");
    form.append("project_id", "2");
    for (const [name, bytes] of diceFiles()) form.append("files", new File([bytes], name));
    const created = await call<{ id: string }>("POST", "/api/v1/datasets", { ...auth(), body: form });
    expect(summary(created, createDatasetResponse)).toEqual([201, []]);
    const { id, file_count, total_size_bytes, num_classes, created_at, ...same } = createDatasetResponse;
    expect(created.body).toMatchObject({ ...same, num_classes: 2, file_count: 3 });

    const zipped = new FormData();
    for (const [name, value] of form) if (typeof value === "string") zipped.append(name, value);
    zipped.append("files", new File([makeZip(diceFiles().map(([name, content]) => ({ name, content })))], "data.zip"));
    const same2 = await call("POST", "/api/v1/datasets", { ...auth(), body: zipped });
    expect(summary(same2, createDatasetResponse)).toEqual([201, []]);

    const list = await call("GET", "/api/v1/datasets?project_id=2&format=dice&skip=0&limit=50", auth());
    expect(summary(list, listDatasetsResponse)).toEqual([200, []]);
    expect(list.body).toMatchObject({ total: 3, skip: 0, limit: 50 });

    const detail = await call("GET", `/api/v1/datasets/${created.body.id}`, auth());
    const { class_distribution, ...printed } = getDatasetResponse;
    expect(summary(detail, printed)).toEqual([200, []]);
    expect(detail.body.class_distribution).toEqual({ cat: 1, dog: 1 });
    const known = await call("GET", `/api/v1/datasets/${DATASET_ID}`, auth());
    expect(summary(known, getDatasetResponse)).toEqual([200, []]);
    expect(known.body).toMatchObject({ id: DATASET_ID, name: "My Dataset", num_classes: 10 });
  });

  it("lists the models", async ({ expect }) => {
    const answer = await call<typeof listModelsResponse>(
      "GET",
      "/api/v1/models/list?framework=timm&task_type=image_classification",
      auth(),
    );
    expect(summary(answer, listModelsResponse)).toEqual([200, []]);
    const { description, ...printed } = listModelsResponse.models[0] ?? {};
    expect(answer.body.models).toContainEqual(expect.objectContaining(printed));
  });

  it("runs inference on a checkpoint", async ({ expect }) => {
    const created = await call<{ id: number }>("POST", "/api/v1/training/jobs", { ...auth(), body: createJobRequest });
    await saveModel(created.body.id, ["cat", "dog"]);
    const form = new FormData();
    form.append("training_job_id", String(created.body.id));
    form.append("file", new Blob([white], { type: "image/png" }), "cat.png");
    form.append("confidence_threshold", "0.25");
    form.append("top_k", "5");
    const answer = await call<typeof testInferenceResponse>("POST", "/api/v1/test-inference", {
      ...auth(),
      body: form,
    });
    expect(summary(answer, testInferenceResponse)).toEqual([200, []]);
    const { predictions, task_type, model_name } = answer.body;
    expect(predictions.map(({ label, label_id }) => [label, label_id])).toEqual([
      ["cat", 0],
      ["dog", 1],
    ]);
    expect([task_type, model_name]).toEqual([testInferenceResponse.task_type, testInferenceResponse.model_name]);
  });
});

const white = writePng({ width: 2, height: 2, colourType: 0, depth: 8, sample: () => 255 });

/** Two labelled pictures in the first of the three dice layouts. */
function diceFiles(): [string, Uint8Array<ArrayBuffer>][] {
  const image = (id: number, name: string) => ({
    id,
    file_name: `images/${name}.png`,
    width: 2,
    height: 2,
    depth: 1,
    split: "train",
    annotation: { class_id: id - 1, class_name: name, confidence: 1 },
  });
  const annotations = {
    format_version: "1.0",
    task_type: "image_classification",
    classes: [
      { id: 0, name: "cat" },
      { id: 1, name: "dog" },
    ],
    images: [image(1, "cat"), image(2, "dog")],
  };
  return [
    ["annotations.json", Uint8Array.from(new TextEncoder().encode(JSON.stringify(annotations)))],
    ["images/cat.png", Uint8Array.from(white)],
    ["images/dog.png", Uint8Array.from([...white, 0])],
  ];
}

/** A model that prefers its first label, stored as a runner's upload leaves it. */
async function saveModel(jobId: number, labels: string[]): Promise<void> {
  const bytes = linearModel({
    shape: [1, 1, 2, 2],
    weights: labels.map((_, i) => new Array<number>(4).fill(i === 0 ? 1 : 0)),
    bias: labels.map(() => 0),
  }).graph;
  const id = newUuid();
  const storageKey = `jobs/${jobId}/1/${id}`;
  await env.BUCKET.put(storageKey, bytes);
  await db.insert(artifacts).values({
    id,
    jobId,
    attempt: 1,
    kind: "model",
    name: "best.onnx",
    role: "best",
    epoch: 10,
    sizeBytes: bytes.byteLength,
    sha256: await sha256Hex(bytes),
    storageKey,
    createdAt: Date.now(),
    manifest: {
      schema: 1,
      task: "image_classification",
      framework: "timm",
      model_name: "resnet50",
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
    },
  });
}
