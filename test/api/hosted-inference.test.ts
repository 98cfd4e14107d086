import { env } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { describe, it } from "vitest";
import { users } from "../../src/db/schema/index.ts";
import { decodePng } from "../../src/training/inference/png.ts";
import { InferenceBatchSchema, InferenceSchema } from "../../src/training/inference/schemas.ts";
import { call, db, type Json, type Person, person } from "../support/api.ts";
import { workerWith } from "../support/breeding.ts";
import { imageFixture } from "../support/images/fixtures.ts";
import { pngHeaderOnly, writePng } from "../support/png-writer.ts";
import { detected, publishedModels, type Run } from "../support/workers-ai.ts";

const PATH = "/api/v1/test-inference";
const RESNET = "microsoft/resnet-50";
const MOONDREAM = "moondream/moondream3.1-9B-A2B";
const DETR = { "facebook/detr-resnet-50": { id: "@cf/facebook/detr-resnet-50", kind: "detection" } };

const small = writePng({ width: 40, height: 20, colourType: 2, depth: 8, sample: (x) => x });

type Fields = Record<string, string | number | Uint8Array<ArrayBuffer> | Uint8Array<ArrayBuffer>[]>;

const formOf = (fields: Fields) => {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    const values = Array.isArray(value) ? value : [value];
    for (const [i, one] of values.entries()) {
      if (one instanceof Uint8Array) form.append(name, new Blob([one]), `image-${i}.bin`);
      else form.append(name, String(one));
    }
  }
  return form;
};

/** The Worker with the platform's binding replaced at the rim. */
function platform(answer: (run: Run, signal: AbortSignal) => unknown, variables: Json = {}) {
  const AI = publishedModels(answer);
  const worker = workerWith({ AI, ...variables });
  const infer = (by: Person, fields: Fields) => worker<Json>("POST", PATH, { token: by.token, body: formOf(fields) });
  return { infer, worker, runs: AI.runs };
}

const cats = () => [
  { label: "LYNX", score: 0.08 },
  { label: "TABBY", score: 0.9 },
  { label: "TOW TRUCK", score: 0.02 },
];

describe("a pretrained classifier", () => {
  it("answers in the contract's shape and names the engine", async ({ expect }) => {
    const { infer, runs } = platform(cats);
    const answer = await infer(await person(), { model_name: RESNET, file: small, top_k: 2 });
    expect([answer.status, answer.body]).toEqual([
      200,
      {
        predictions: [
          { label: "TABBY", label_id: null, confidence: 0.9 },
          { label: "LYNX", label_id: null, confidence: 0.08 },
        ],
        task_type: "image_classification",
        model_name: RESNET,
        inference_time_ms: expect.any(Number),
        engine: "workers-ai",
        checkpoint: null,
        image: { type: "png", width: 40, height: 20 },
        timings: { queue_ms: 0, load_ms: 0, compute_ms: expect.any(Number) },
      },
    ]);
    InferenceSchema.parse(answer.body);
    expect(runs.map(({ id }) => id)).toEqual(["@cf/microsoft/resnet-50"]);
    expect(runs[0]?.inputs.image).toEqual([...small]);
  });

  it("may be named with the platform's prefix, and stands behind the id that is configured", async ({ expect }) => {
    const models = JSON.stringify({ [RESNET]: { id: "@cf/facebook/detr-resnet-50", kind: "classification" } });
    const { infer, runs } = platform(cats, { HOSTED_MODELS: models });
    const answer = await infer(await person(), { model_name: `@cf/${RESNET}`, file: small });
    expect([answer.status, answer.body.model_name]).toEqual([200, RESNET]);
    expect(runs[0]?.id).toBe("@cf/facebook/detr-resnet-50");
  });

  it("gets an image that lies on its side upright, as a PNG without where it was taken", async ({ expect }) => {
    const { infer, runs } = platform(cats);
    const answer = await infer(await person(), { model_name: RESNET, file: imageFixture("exif-6.jpg") });
    expect([answer.status, answer.body.image]).toEqual([200, { type: "jpeg", width: 24, height: 16 }]);
    const sent = decodePng(Uint8Array.from((runs[0]?.inputs.image as number[]) ?? []));
    if (!sent.ok) throw new Error(sent.error.message);
    expect([sent.value.width, sent.value.height]).toEqual([16, 24]);
  });

  it("gets a large image smaller, and a WebP as PNG", async ({ expect }) => {
    const { infer, runs } = platform(cats);
    const by = await person();
    let seed = 1;
    const noise = () => {
      seed ^= seed << 13;
      seed ^= seed >>> 17;
      seed ^= seed << 5;
      return seed & 255;
    };
    const large = writePng({ width: 700, height: 350, colourType: 2, depth: 8, sample: noise });
    expect(large.byteLength).toBeGreaterThan(512 * 1024);
    expect((await infer(by, { model_name: RESNET, file: large })).status).toBe(200);
    expect((await infer(by, { model_name: RESNET, file: imageFixture("lossy.webp") })).status).toBe(200);
    const sizes = runs.map(({ inputs }) => {
      const sent = decodePng(Uint8Array.from(inputs.image as number[]));
      return sent.ok ? [sent.value.width, sent.value.height] : sent.error.message;
    });
    expect(sizes).toEqual([
      [512, 256],
      [24, 16],
    ]);
  });
});

it("an image that is small only as a file is not handed on as it came", async ({ expect }) => {
  const { infer, runs } = platform(cats);
  const answer = await infer(await person(), { model_name: RESNET, file: pngHeaderOnly(7_000, 7_000) });
  expect([answer.status, answer.body.field]).toEqual([422, "file"]);
  expect(runs).toEqual([]);
});

describe("a pretrained detector", () => {
  it("answers boxes in pixels of the original, as upright as it is shown", async ({ expect }) => {
    const { infer } = platform(
      () => [
        { label: "cat", score: 0.9, box: { xmin: 4, ymin: 6, xmax: 8, ymax: 12 } },
        { label: "mat", score: 0.1, box: { xmin: 0, ymin: 0, xmax: 16, ymax: 24 } },
      ],
      { HOSTED_MODELS: JSON.stringify(DETR) },
    );
    const by = await person();
    const upright = await infer(by, { model_name: "facebook/detr-resnet-50", file: imageFixture("exif-6.jpg") });
    expect(upright.body).toMatchObject({
      task_type: "object_detection",
      num_detections: 1,
      predictions: [{ label: "cat", label_id: null, confidence: 0.9 }],
      predicted_boxes: [{ label: "cat", bbox: [6, 9, 4, 6], x1: 4, y1: 6, x2: 8, y2: 12, format: "yolo" }],
    });
    InferenceSchema.parse(upright.body);
    const low = await infer(by, { model_name: "facebook/detr-resnet-50", file: small, confidence_threshold: 0.05 });
    expect(low.body).toMatchObject({ num_detections: 2 });
    const one = await infer(by, {
      model_name: "facebook/detr-resnet-50",
      file: small,
      confidence_threshold: 0.05,
      max_detections: 1,
    });
    expect(one.body).toMatchObject({ num_detections: 1, predictions: [{ label: "cat" }] });
  });

  it("is listed where it is configured, and not elsewhere", async ({ expect }) => {
    const by = await person();
    const names = async (variables: Json) => {
      const { body } = await platform(cats, variables).worker<{ models: { model_name: string }[] }>(
        "GET",
        "/api/v1/models/list?framework=workers-ai",
        { token: by.token },
      );
      return body.models.map(({ model_name }) => model_name);
    };
    expect(await names({})).toEqual([RESNET, MOONDREAM]);
    expect(await names({ HOSTED_MODELS: JSON.stringify({ ...DETR, [MOONDREAM]: null }) })).toEqual([
      RESNET,
      "facebook/detr-resnet-50",
    ]);
  });

  it("that takes words looks for each phrase and gives no confidence", async ({ expect }) => {
    const { infer, runs } = platform(({ inputs }) =>
      inputs.target === "leaf" ? detected() : detected([0.25, 0.5, 0.75, 1]),
    );
    const answer = await infer(await person(), {
      model_name: MOONDREAM,
      target: " ripe tomato , leaf,ripe tomato,",
      file: small,
      max_detections: 20,
    });
    expect(answer.body).toMatchObject({
      task_type: "object_detection",
      predictions: [{ label: "ripe tomato", label_id: 0, confidence: null }],
      predicted_boxes: [{ x1: 10, y1: 10, x2: 30, y2: 20, bbox: [20, 15, 20, 10], confidence: null }],
    });
    InferenceSchema.parse(answer.body);
    const image = `data:image/png;base64,${Buffer.from(small).toString("base64")}`;
    expect(runs.map(({ inputs }) => inputs)).toEqual([
      { task: "detect", image, target: "ripe tomato", max_objects: 20 },
      { task: "detect", image, target: "leaf", max_objects: 20 },
    ]);
  });
});

describe("which model is meant", () => {
  it.for<[string, Fields, number, string, string | null]>([
    ["a job and a name", { training_job_id: 5, model_name: RESNET }, 422, "VALIDATION_ERROR", "model_name"],
    ["neither", {}, 422, "VALIDATION_ERROR", "training_job_id"],
    ["a checkpoint of a name", { model_name: RESNET, checkpoint: "best" }, 422, "VALIDATION_ERROR", "checkpoint"],
    ["no name", { model_name: " " }, 422, "VALIDATION_ERROR", "model_name"],
    ["a name nobody knows", { model_name: "microsoft/resnet-51" }, 404, "MODEL_NOT_FOUND", "model_name"],
    ["another platform's path", { model_name: "../@cf/microsoft/resnet-50" }, 404, "MODEL_NOT_FOUND", "model_name"],
    ["an object's own name", { model_name: "constructor" }, 404, "MODEL_NOT_FOUND", "model_name"],
    ["a name that is trained", { model_name: "yolo11n" }, 422, "VALIDATION_ERROR", "model_name"],
    ["a detector without words", { model_name: MOONDREAM }, 422, "VALIDATION_ERROR", "target"],
    ["words that are none", { model_name: MOONDREAM, target: " , " }, 422, "VALIDATION_ERROR", "target"],
    ["nine phrases", { model_name: MOONDREAM, target: "a,b,c,d,e,f,g,h,i" }, 422, "VALIDATION_ERROR", "target"],
    ["a long phrase", { model_name: MOONDREAM, target: "x".repeat(101) }, 422, "VALIDATION_ERROR", "target"],
    ["no box at all", { model_name: RESNET, max_detections: 0 }, 422, "VALIDATION_ERROR", "max_detections"],
    ["an overlap of 2", { model_name: RESNET, iou_threshold: 2 }, 422, "VALIDATION_ERROR", "iou_threshold"],
  ])("is not said by %s", async ([, fields, status, code, field], { expect }) => {
    const { infer, runs } = platform(cats);
    const answer = await infer(await person(), { file: small, ...fields });
    expect([answer.status, answer.body.code, answer.body.field]).toEqual([status, code, field]);
    expect(runs).toEqual([]);
  });

  it("is nobody's business who may not log in", async ({ expect }) => {
    const { infer, worker, runs } = platform(cats);
    expect((await worker("POST", PATH, { body: formOf({ model_name: RESNET, file: small }) })).status).toBe(401);
    const gone = await person();
    await db.update(users).set({ disabledAt: Date.now() }).where(eq(users.id, gone.id));
    expect((await infer(gone, { model_name: RESNET, file: small })).status).toBe(401);
    expect(runs).toEqual([]);
  });

  it("cannot be run without the platform", async ({ expect }) => {
    const by = await person();
    const answer = await call("POST", PATH, { token: by.token, body: formOf({ model_name: RESNET, file: small }) });
    expect([answer.status, answer.body.code, answer.headers.get("retry-after")]).toEqual([
      503,
      "INFERENCE_UNAVAILABLE",
      null,
    ]);
  });

  it("cannot be run on what is no image", async ({ expect }) => {
    const { infer, runs } = platform(cats);
    const answer = await infer(await person(), { model_name: RESNET, file: imageFixture("small.gif") });
    expect([answer.status, answer.body.field]).toEqual([422, "file"]);
    expect(runs).toEqual([]);
  });
});

describe("what goes wrong at the platform", () => {
  it.for([
    ["3040: Capacity temporarily exceeded, please try again.", 503, "INFERENCE_UNAVAILABLE", "5"],
    ["3007: Request timeout", 504, "INFERENCE_TIMEOUT", null],
    ["5007: No such model", 503, "INFERENCE_UNAVAILABLE", null],
    ["3006: Request is too large", 422, "VALIDATION_ERROR", null],
  ] as const)("%s is told as %d", async ([message, status, code, retryAfter], { expect }) => {
    const { infer } = platform(() => Promise.reject(new Error(message)));
    const answer = await infer(await person(), { model_name: RESNET, file: small });
    expect([answer.status, answer.body.code, answer.headers.get("retry-after")]).toEqual([status, code, retryAfter]);
    expect(JSON.stringify(answer.body)).not.toContain("@cf/");
  });

  it("a model that never answers is given up", async ({ expect }) => {
    const { infer } = platform(() => new Promise(() => undefined), { HOSTED_TIMEOUT_MS: "100" });
    const answer = await infer(await person(), { model_name: RESNET, file: small });
    expect([answer.status, answer.body.code]).toEqual([504, "INFERENCE_TIMEOUT"]);
  });

  it("an answer that says nothing is not made into one", async ({ expect }) => {
    const { infer } = platform(() => [{}]);
    const answer = await infer(await person(), { model_name: RESNET, file: small });
    expect([answer.status, answer.body.code]).toEqual([503, "INFERENCE_UNAVAILABLE"]);
  });
});

describe("the budget of a day", () => {
  const spend = (infer: ReturnType<typeof platform>["infer"], by: Person) => async () =>
    (await infer(by, { model_name: RESNET, file: small })).status;

  it("is each user's own, and says when the next begins", async ({ expect }) => {
    const { infer, runs } = platform(cats, { HOSTED_DAILY_BUDGET_PER_USER: "2" });
    const [one, other] = [await person(), await person()];
    const ask = spend(infer, one);
    expect([await ask(), await ask(), await ask()]).toEqual([200, 200, 429]);
    const refused = await infer(one, { model_name: RESNET, file: small });
    expect(refused.body.code).toBe("RATE_LIMITED");
    const wait = Number(refused.headers.get("retry-after"));
    expect(wait).toBeGreaterThan(0);
    expect(wait).toBeLessThanOrEqual(86_400);
    expect(await spend(infer, other)()).toBe(200);
    expect(runs).toHaveLength(3);
  });

  it("is the deployment's too, and being refused does not use up one's own", async ({ expect }) => {
    const { infer, runs } = platform(cats, { HOSTED_DAILY_BUDGET: "0" });
    const by = await person();
    expect([await spend(infer, by)(), await spend(infer, by)()]).toEqual([429, 429]);
    expect(runs).toEqual([]);
    const day = new Date().toISOString().slice(0, 10);
    expect((await env.RATE_LIMITER.getByName(`hosted:${day}:${by.id}`).peek(86_400_000)).count).toBe(0);
  });

  it("is not charged for a run that found no capacity, but for one that was only late", async ({ expect }) => {
    const by = await person();
    const day = new Date().toISOString().slice(0, 10);
    const used = async () => (await env.RATE_LIMITER.getByName(`hosted:${day}:${by.id}`).peek(86_400_000)).count;
    await spend(platform(() => Promise.reject(new Error("3040: no capacity"))).infer, by)();
    expect(await used()).toBe(0);
    await spend(platform(() => new Promise(() => undefined), { HOSTED_TIMEOUT_MS: "100" }).infer, by)();
    expect(await used()).toBe(1);
  });
});

describe("several files", () => {
  it("are each answered or refused on their own", async ({ expect }) => {
    let asked = 0;
    const { infer } = platform(() => {
      asked += 1;
      return asked === 2 ? Promise.reject(new Error("3040: no capacity")) : cats();
    });
    const answer = await infer(await person(), {
      model_name: RESNET,
      file: [small, imageFixture("small.gif"), small, imageFixture("exif-6.jpg")],
    });
    const batch = InferenceBatchSchema.parse(answer.body);
    expect([answer.status, batch.total, batch.succeeded, batch.failed]).toEqual([200, 4, 2, 2]);
    expect(batch.results.map(({ index, image_name, error }) => [index, image_name, error])).toEqual([
      [0, "image-0.bin", null],
      [
        1,
        "image-1.bin",
        {
          detail: expect.stringMatching(/JPEG, PNG or WebP/),
          code: "VALIDATION_ERROR",
          field: "file",
          retry_after_s: null,
        },
      ],
      [2, "image-2.bin", { detail: expect.any(String), code: "INFERENCE_UNAVAILABLE", field: null, retry_after_s: 5 }],
      [3, "image-3.bin", null],
    ]);
    expect(batch.results[3]?.result).toMatchObject({ task_type: "image_classification", model_name: RESNET });
  });
});
