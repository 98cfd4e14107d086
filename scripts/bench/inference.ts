import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import encodeJpeg, { init } from "@jsquash/jpeg/encode.js";
import { artifacts } from "../../src/db/schema/index.ts";
import type { CheckpointManifest } from "../../src/training/inference/manifest.ts";
import { type NodeSpec, onnxModel, type TensorSpec } from "../../test/support/onnx-builder.ts";
import type { World } from "./world.ts";

/** A classifier with the layers of MobileNetV2 (3.5 million weights, 14 MB, about 300 million multiplications an image). */

const INPUT_PIXELS = 224;
const LABELS = 1_000;
/** Expansion, channels, blocks, stride of the first: table 2 of the paper (Sandler and others, 2018). */
const BLOCKS: [number, number, number, number][] = [
  [1, 16, 1, 1],
  [6, 24, 2, 2],
  [6, 32, 3, 2],
  [6, 64, 4, 2],
  [6, 96, 3, 1],
  [6, 160, 3, 2],
  [6, 320, 1, 1],
];
const STEM_CHANNELS = 32;
const HEAD_CHANNELS = 1_280;

/** Numbers from -1 to 1 that are the same in every run (a linear congruential generator of Numerical Recipes). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

/** Weights are random, scaled so that values neither vanish nor explode (He and others, 2015). `seed` makes files differ. */
export function mobilenetModel(seed: number): Uint8Array<ArrayBuffer> {
  const random = generator(seed);
  const nodes: NodeSpec[] = [];
  const initializers: TensorSpec[] = [
    { name: "zero", dims: [], floats: [0] },
    { name: "six", dims: [], floats: [6] },
  ];
  const weights = (name: string, dims: number[], fanIn: number) => {
    const scale = Math.sqrt(6 / fanIn);
    const length = dims.reduce((product, dim) => product * dim, 1);
    initializers.push({ name, dims, floats: Float32Array.from({ length }, () => random() * scale) });
  };
  let last = "input";
  let count = 0;
  const conv = (from: number, to: number, kernel: number, stride: number, group: number, clipped: boolean) => {
    count += 1;
    const name = `conv${count}`;
    weights(`${name}.w`, [to, from / group, kernel, kernel], (from / group) * kernel * kernel);
    weights(`${name}.b`, [to], 1_000);
    const pad = (kernel - 1) / 2;
    nodes.push({
      op: "Conv",
      inputs: [last, `${name}.w`, `${name}.b`],
      outputs: [name],
      attributes: [
        { name: "kernel_shape", ints: [kernel, kernel] },
        { name: "pads", ints: [pad, pad, pad, pad] },
        { name: "strides", ints: [stride, stride] },
        { name: "group", int: group },
      ],
    });
    last = name;
    if (!clipped) return;
    last = `${name}.clip`;
    nodes.push({ op: "Clip", inputs: [name, "zero", "six"], outputs: [last] });
  };
  conv(3, STEM_CHANNELS, 3, 2, 1, true);
  let channels = STEM_CHANNELS;
  for (const [expansion, to, repeats, firstStride] of BLOCKS) {
    for (let i = 0; i < repeats; i += 1) {
      const input = last;
      const hidden = channels * expansion;
      if (expansion > 1) conv(channels, hidden, 1, 1, 1, true);
      conv(hidden, hidden, 3, i === 0 ? firstStride : 1, hidden, true);
      conv(hidden, to, 1, 1, 1, false);
      if (i > 0) {
        nodes.push({ op: "Add", inputs: [input, last], outputs: [`${last}.sum`] });
        last = `${last}.sum`;
      }
      channels = to;
    }
  }
  conv(channels, HEAD_CHANNELS, 1, 1, 1, true);
  weights("dense.w", [LABELS, HEAD_CHANNELS], HEAD_CHANNELS);
  weights("dense.b", [LABELS], 1_000);
  nodes.push(
    { op: "GlobalAveragePool", inputs: [last], outputs: ["pooled"] },
    { op: "Flatten", inputs: ["pooled"], outputs: ["flat"], attributes: [{ name: "axis", int: 1 }] },
    {
      op: "Gemm",
      inputs: ["flat", "dense.w", "dense.b"],
      outputs: ["logits"],
      attributes: [{ name: "transB", int: 1 }],
    },
  );
  return onnxModel({
    nodes,
    initializers,
    inputs: [{ name: "input", shape: [1, 3, INPUT_PIXELS, INPUT_PIXELS] }],
    outputs: [{ name: "logits", shape: [1, LABELS] }],
  });
}

const MANIFEST: CheckpointManifest = {
  schema: 1,
  task: "image_classification",
  framework: "timm",
  model_name: "mobilenetv2_100",
  format: "onnx",
  input: {
    name: "input",
    layout: "NCHW",
    width: INPUT_PIXELS,
    height: INPUT_PIXELS,
    channels: 3,
    dtype: "float32",
    scale: 1 / 255,
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
    resize: "crop",
    pad_value: 0,
  },
  output: { name: "logits", decode: "softmax" },
  labels: Array.from({ length: LABELS }, (_, label) => `label ${label}`),
  external_data: [],
};

/** A picture of soft shapes and a little noise, so that it compresses about as a photograph does. */
async function photograph(width: number, height: number): Promise<Uint8Array> {
  const require = createRequire(import.meta.url);
  const wasm = readFileSync(require.resolve("@jsquash/jpeg/codec/enc/mozjpeg_enc.wasm"));
  const module = await WebAssembly.compile(wasm);
  await init({
    instantiateWasm: (imports: WebAssembly.Imports, done: (instance: WebAssembly.Instance) => void) => {
      const instance = new WebAssembly.Instance(module, imports);
      done(instance);
      return instance.exports;
    },
  });
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
  return new Uint8Array(await encodeJpeg({ data, width, height, colorSpace: "srgb" }, { quality: 85 }));
}

export type InferenceWorld = Awaited<ReturnType<typeof prepareInference>>;

/** The picture, and completed jobs with models that no object has loaded yet. */
export async function prepareInference(world: World) {
  const image = await photograph(640, 480);
  const model = mobilenetModel(1);
  return {
    /** A job whose model differs from all others in its last bytes, and is thus another one to its object. */
    async freshModel(): Promise<number> {
      const jobId = await world.createJob();
      const id = randomUUID();
      // An unknown field at the end of the file: its content hash changes and nothing else.
      const bytes = Buffer.concat([model, Buffer.from([0x92, 0x03, 36]), Buffer.from(id)]);
      const storageKey = `jobs/${jobId}/1/${id}`;
      await world.server.bucket.put(storageKey, bytes);
      await world.db.insert(artifacts).values({
        id,
        jobId,
        attempt: 1,
        kind: "model",
        name: "best.onnx",
        role: "best",
        epoch: 1,
        sizeBytes: bytes.byteLength,
        sha256: createHash("sha256").update(bytes).digest("hex"),
        storageKey,
        manifest: MANIFEST,
        createdAt: Date.now(),
      });
      return jobId;
    },

    /** The body of a request for one image. */
    form(boundary: string, jobId: number): Uint8Array {
      const part = (head: string) => `--${boundary}\r\ncontent-disposition: form-data; ${head}\r\n`;
      return Buffer.concat([
        Buffer.from(`${part('name="training_job_id"')}\r\n${jobId}\r\n`),
        Buffer.from(`${part('name="file"; filename="image.jpg"')}content-type: image/jpeg\r\n\r\n`),
        image,
        Buffer.from(`\r\n--${boundary}--\r\n`),
      ]);
    },
  };
}
