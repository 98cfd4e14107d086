import { createHash, randomUUID } from "node:crypto";
import { createDb } from "../../src/db/client.ts";
import { artifacts } from "../../src/db/schema/index.ts";
import type { CheckpointManifest } from "../../src/training/inference/manifest.ts";
import { encodeJpeg } from "../lib/jpeg-encoder.ts";
import { generator, mobilenet, type NetworkFiles, WEIGHTS_FILE } from "./networks.ts";
import type { BenchServer } from "./server.ts";
import type { World } from "./world.ts";

export const LABELS = 1_000;

/** What the network takes and gives: pictures cut to the middle, as torchvision does it, and logits or places of objects. */
export function manifestFor(
  name: string,
  task: "image_classification" | "object_detection",
  side: number,
  labels: number,
) {
  const isDetector = task === "object_detection";
  return {
    schema: 1,
    task,
    framework: isDetector ? "ultralytics" : "timm",
    model_name: name,
    format: "onnx",
    input: {
      name: "input",
      layout: "NCHW",
      width: side,
      height: side,
      channels: 3,
      dtype: "float32",
      scale: 1 / 255,
      mean: isDetector ? [0, 0, 0] : [0.485, 0.456, 0.406],
      std: isDetector ? [1, 1, 1] : [0.229, 0.224, 0.225],
      resize: isDetector ? "letterbox" : "crop",
      pad_value: isDetector ? 114 : 0,
    },
    // Raw values of the last layer: random weights make some so large that all probability would be on one label.
    output: isDetector ? { name: "output", decode: "yolo", nms: "none" } : { name: "output", decode: "none" },
    labels: Array.from({ length: labels }, (_, label) => `label ${label}`),
    external_data: [],
  } satisfies CheckpointManifest;
}

/** A classifier of 224 x 224 pixels and as many labels as all of them have here. */
export const classifier = (name: string) => manifestFor(name, "image_classification", 224, LABELS);

/** A picture of soft shapes and a little noise, so that it compresses about as a photograph does. */
export async function photograph(width: number, height: number): Promise<Uint8Array> {
  const random = generator(7);
  const data = new Uint8ClampedArray(width * height * 4);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const at = (y * width + x) * 4;
      const noise = 10 * random();
      data[at] = 128 + 100 * Math.sin(x / 37 + y / 91) + noise;
      data[at + 1] = 128 + 100 * Math.sin(x / 53 - y / 29) + noise;
      data[at + 2] = 128 + 100 * Math.cos(x / 71 + y / 47) + noise;
      data[at + 3] = 255;
    }
  }
  return encodeJpeg({ data, width, height }, { quality: 85 });
}

const sha256Of = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/**
 * A completed upload of a model for a job that exists, as the runner's upload leaves it.
 */
export async function storeModel(
  server: Pick<BenchServer, "bucket" | "db">,
  jobId: number,
  { graph, weights }: NetworkFiles,
  manifest: CheckpointManifest,
): Promise<void> {
  const db = createDb(server.db);
  const store = async (
    bytes: Uint8Array,
    values: Pick<typeof artifacts.$inferInsert, "kind" | "name" | "role" | "manifest">,
  ) => {
    const id = randomUUID();
    const storageKey = `jobs/${jobId}/1/${id}`;
    await server.bucket.put(storageKey, bytes);
    await db.insert(artifacts).values({
      id,
      jobId,
      attempt: 1,
      epoch: 1,
      sizeBytes: bytes.byteLength,
      sha256: sha256Of(bytes),
      storageKey,
      createdAt: Date.now(),
      ...values,
    });
    return id;
  };
  const beside = weights
    ? await store(weights, { kind: "file", name: WEIGHTS_FILE, role: null, manifest: null })
    : null;
  const external_data = beside === null ? [] : [{ path: WEIGHTS_FILE, artifact_id: beside }];
  await store(graph, { kind: "model", name: "best.onnx", role: "best", manifest: { ...manifest, external_data } });
}

/** The same graph under another content hash: an unknown field at the end of the file. */
export const renewed = (graph: Uint8Array): Uint8Array<ArrayBuffer> =>
  new Uint8Array(Buffer.concat([graph, Buffer.from([0x92, 0x03, 36]), Buffer.from(randomUUID())]));

/** The body of a request for one image. */
export function inferenceForm(
  boundary: string,
  jobId: number,
  image: Uint8Array,
  fields: Record<string, string> = {},
): Uint8Array {
  const part = (head: string) => `--${boundary}\r\ncontent-disposition: form-data; ${head}\r\n`;
  const texts = Object.entries({ training_job_id: String(jobId), ...fields });
  return Buffer.concat([
    ...texts.map(([name, value]) => Buffer.from(`${part(`name="${name}"`)}\r\n${value}\r\n`)),
    Buffer.from(`${part('name="file"; filename="image.jpg"')}content-type: image/jpeg\r\n\r\n`),
    image,
    Buffer.from(`\r\n--${boundary}--\r\n`),
  ]);
}

export type InferenceWorld = Awaited<ReturnType<typeof prepareInference>>;

/** The picture, and completed jobs with models that no object has loaded yet. */
export async function prepareInference(world: World) {
  const image = await photograph(640, 480);
  const { graph, weights } = mobilenet("inside", LABELS);
  return {
    /** A job whose model differs from all others in its last bytes, and is thus another one to its object. */
    async freshModel(): Promise<number> {
      const jobId = await world.createJob();
      await storeModel(world.server, jobId, { graph: renewed(graph), weights }, classifier("mobilenetv2_100"));
      return jobId;
    },

    /** The body of a request for one image. */
    form: (boundary: string, jobId: number): Uint8Array => inferenceForm(boundary, jobId, image),
  };
}
