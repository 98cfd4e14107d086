import { beforeAll, describe, it } from "vitest";
import { initialWeights, Network, type NetworkShape } from "../../../runner/embedded/trainer/network.ts";
import { encodeOnnx } from "../../../runner/embedded/trainer/onnx.ts";
import { createRandom, gaussian } from "../../../runner/embedded/trainer/random.ts";
import { checkModelFacts, readModelFacts } from "../../../src/training/inference/model-file.ts";

/**
 * Loaded behind the trainer's own outputs: under Node, onnxruntime-web puts a global `Worker` in place, at which jax-js
 * would switch to shared memory in mid-course. A trainer process never loads it.
 */
let ort: typeof import("onnxruntime-web");
const own = new Map<string, { images: Float32Array; logits: Float32Array[] }>();

beforeAll(async () => {
  for (const [name, shape] of SHAPES) {
    const random = createRandom(4);
    const images = Float32Array.from({ length: COUNT * shape.size ** 2 * shape.channels }, () => gaussian(random));
    const network = new Network(shape, COUNT);
    own.set(name, { images, logits: await network.logits(someWeights(shape), images, COUNT) });
    network.dispose();
  }
  ort = await import("onnxruntime-web");
  ort.env.wasm.numThreads = 1;
});

const COUNT = 3;

const SHAPES: [string, NetworkShape][] = [
  ["28 x 28, grey, ten classes", { size: 28, channels: 1, classes: 10, filters: [16, 32] }],
  ["an odd size in colour", { size: 11, channels: 3, classes: 3, filters: [2, 4] }],
  ["the smallest", { size: 8, channels: 1, classes: 2, filters: [16, 32] }],
];

/** Random weights, biases too: those of a fresh network are 0 and would hide a mistake. */
function someWeights(shape: NetworkShape): Float32Array<ArrayBuffer> {
  const random = createRandom(3);
  return initialWeights(shape, random).map((weight) => (weight === 0 ? gaussian(random) * 0.1 : weight));
}

describe("encodeOnnx", () => {
  it.for(SHAPES)("gives the outputs of the trainer itself: %s", async ([name, shape], { expect }) => {
    const { size, channels, classes } = shape;
    const weights = someWeights(shape);
    const { images, logits: wanted } = own.get(name) ?? { images: new Float32Array(), logits: [] };
    const session = await ort.InferenceSession.create(encodeOnnx(shape, weights));
    const planes = Float32Array.from(images, (_, at) => {
      const plane = size * size;
      const channel = Math.floor(at / plane) % channels;
      const image = Math.floor(at / (plane * channels));
      return images[(image * plane + (at % plane)) * channels + channel] ?? 0;
    });
    const run = async (from: number, count: number) => {
      const values = planes.slice(from * size * size * channels, (from + count) * size * size * channels);
      const { logits } = await session.run({ input: new ort.Tensor("float32", values, [count, channels, size, size]) });
      return logits;
    };
    const all = await run(0, COUNT);
    expect(all?.dims).toEqual([COUNT, classes]);
    const differences = wanted.flatMap((row, image) =>
      [...row].map((value, id) => Math.abs(value - Number(all?.data[image * classes + id]))),
    );
    expect(differences).toHaveLength(COUNT * classes);
    expect(Math.max(...differences)).toBeLessThan(1e-4);
    // The batch is free.
    const last = await run(COUNT - 1, 1);
    expect(Number(last?.data[0])).toBeCloseTo(wanted.at(-1)?.[0] ?? Number.NaN, 4);
    await session.release();
  });

  it("names its input and output and leaves only the batch open", async ({ expect }) => {
    const [, shape] = SHAPES[1] ?? [];
    if (!shape) throw new Error("unreachable");
    const session = await ort.InferenceSession.create(encodeOnnx(shape, someWeights(shape)));
    expect(session.inputNames).toEqual(["input"]);
    expect(session.outputNames).toEqual(["logits"]);
    expect(session.inputMetadata[0]).toMatchObject({ type: "float32", shape: ["batch", 3, 11, 11] });
    expect(session.outputMetadata[0]).toMatchObject({ type: "float32", shape: ["batch", 3] });
    await session.release();
  });

  it("is a model that the server takes", ({ expect }) => {
    const [, shape] = SHAPES[0] ?? [];
    if (!shape) throw new Error("unreachable");
    const facts = readModelFacts(encodeOnnx(shape, someWeights(shape)));
    expect(facts).toMatchObject({ ok: true });
    if (!facts.ok) return;
    expect([...facts.value.operators].sort()).toEqual(["Conv", "Flatten", "Gemm", "MaxPool", "Relu"]);
    expect(checkModelFacts(facts.value, [])).toMatchObject({ ok: true });
  });
});
