import { type AttributeSpec, type NodeSpec, onnxModel, type TensorSpec } from "../../test/support/onnx-builder.ts";

/**
 * Networks with the layers of well-known ones and random weights, as ONNX files: what they cost is what the real ones cost.
 * Deterministic.
 */

/** Graph, and the file beside it that holds the weights; null when they are inside. */
export type NetworkFiles = { graph: Uint8Array<ArrayBuffer>; weights: Uint8Array<ArrayBuffer> | null };

/** Name by which a graph refers to its second file. */
export const WEIGHTS_FILE = "weights.bin";

/** inside: float32 in one file. external: float32 in a second file. int8: rounded to bytes, in a second file. */
export type Weights = "inside" | "external" | "int8";

/** Numbers from -1 to 1 that are the same in every run (a linear congruential generator of Numerical Recipes). */
export function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

type ConvOptions = {
  stride?: number;
  group?: number;
  kernel?: number;
  act?: "none" | "relu" | "relu6" | "silu";
  bias?: number;
};

/** Puts a graph together; each method answers the name of the value that it made. */
class Network {
  readonly #nodes: NodeSpec[] = [];
  readonly #initializers: TensorSpec[] = [];
  readonly #external: Uint8Array[] = [];
  readonly #random: () => number;
  readonly #weights: Weights;
  #externalBytes = 0;
  #count = 0;

  constructor(weights: Weights, seed: number) {
    this.#weights = weights;
    this.#random = generator(seed);
  }

  node(op: string, inputs: string[], ...attributes: AttributeSpec[]): string {
    this.#count += 1;
    const output = `v${this.#count}`;
    this.#nodes.push({ op, inputs, outputs: [output], attributes });
    return output;
  }

  floats(values: readonly number[], dims: number[]): string {
    return this.#initializer((name) => ({ name, dims, floats: values }));
  }

  int64s(values: readonly number[]): string {
    return this.#initializer((name) => ({ name, dims: [values.length], int64s: values }));
  }

  /** Convolution with 'same' padding, with what follows it. */
  conv(from: string, channels: number, to: number, options: ConvOptions = {}): string {
    const { kernel = 3, stride = 1, group = 1, act = "none", bias = 0 } = options;
    const fanIn = (channels / group) * kernel * kernel;
    const weight = this.#weight([to, channels / group, kernel, kernel], fanIn);
    const biases = this.floats(
      Array.from({ length: to }, () => bias + this.#random() / 100),
      [to],
    );
    const pad = (kernel - 1) / 2;
    const value = this.node(
      "Conv",
      [from, weight, biases],
      { name: "kernel_shape", ints: [kernel, kernel] },
      { name: "pads", ints: [pad, pad, pad, pad] },
      { name: "strides", ints: [stride, stride] },
      { name: "group", int: group },
    );
    if (act === "relu") return this.node("Relu", [value]);
    if (act === "relu6") return this.node("Clip", [value, this.floats([0], []), this.floats([6], [])]);
    return act === "silu" ? this.node("Mul", [value, this.node("Sigmoid", [value])]) : value;
  }

  maxPool(from: string, kernel: number, stride: number): string {
    const pad = Math.floor(kernel / 2);
    return this.node(
      "MaxPool",
      [from],
      { name: "kernel_shape", ints: [kernel, kernel] },
      { name: "pads", ints: [pad, pad, pad, pad] },
      { name: "strides", ints: [stride, stride] },
    );
  }

  concat(values: string[], axis = 1): string {
    return this.node("Concat", values, { name: "axis", int: axis });
  }

  /** Averages over the picture, then one value a label. */
  classifier(from: string, channels: number, labels: number): string {
    const pooled = this.node("GlobalAveragePool", [from]);
    const flat = this.node("Flatten", [pooled], { name: "axis", int: 1 });
    const biases = this.floats(
      Array.from({ length: labels }, () => this.#random() / 100),
      [labels],
    );
    return this.node("Gemm", [flat, this.#weight([labels, channels], channels), biases], { name: "transB", int: 1 });
  }

  files(side: number, output: string, shape: number[]): NetworkFiles {
    const graph = onnxModel({
      nodes: [...this.#nodes, { op: "Identity", inputs: [output], outputs: ["output"] }],
      initializers: this.#initializers,
      inputs: [{ name: "input", shape: [1, 3, side, side] }],
      outputs: [{ name: "output", shape }],
    });
    return { graph, weights: this.#weights === "inside" ? null : new Uint8Array(Buffer.concat(this.#external)) };
  }

  #initializer(make: (name: string) => TensorSpec): string {
    const tensor = make(`i${this.#initializers.length}`);
    this.#initializers.push(tensor);
    return tensor.name;
  }

  #beside(bytes: Uint8Array, dims: number[], of: "float" | "int8"): string {
    const offset = this.#externalBytes;
    this.#external.push(bytes);
    this.#externalBytes += bytes.byteLength;
    const external = { location: WEIGHTS_FILE, offset, length: bytes.byteLength };
    return this.#initializer((name) => ({ name, dims, external, of }));
  }

  /** Scaled so that values neither vanish nor explode (He and others, 2015). First axis: output channels. */
  #weight(dims: number[], fanIn: number): string {
    const limit = Math.sqrt(6 / fanIn);
    const length = dims.reduce((product, dim) => product * dim, 1);
    if (this.#weights !== "int8") {
      const values = new Float32Array(length);
      for (let at = 0; at < length; at += 1) values[at] = this.#random() * limit;
      if (this.#weights === "inside") return this.#initializer((name) => ({ name, dims, floats: values }));
      return this.#beside(new Uint8Array(values.buffer), dims, "float");
    }
    const values = new Int8Array(length);
    for (let at = 0; at < length; at += 1) values[at] = Math.round(this.#random() * 127);
    const channels = dims[0] ?? 1;
    const scales = this.floats(new Array<number>(channels).fill(limit / 127), [channels]);
    const zeros = this.#initializer((name) => ({ name, dims: [channels], int8s: new Int8Array(channels) }));
    const stored = this.#beside(new Uint8Array(values.buffer), dims, "int8");
    return this.node("DequantizeLinear", [stored, scales, zeros], { name: "axis", int: 0 });
  }
}

/** Expansion, channels, blocks, stride of the first: table 2 of the MobileNetV2 paper (Sandler and others, 2018). */
const MOBILENET_BLOCKS: [number, number, number, number][] = [
  [1, 16, 1, 1],
  [6, 24, 2, 2],
  [6, 32, 3, 2],
  [6, 64, 4, 2],
  [6, 96, 3, 1],
  [6, 160, 3, 2],
  [6, 320, 1, 1],
];

/** MobileNetV2: 3.5 million weights, 14 MB, about 300 million multiplications an image of 224 x 224. */
export function mobilenet(weights: Weights, labels: number, seed = 1): NetworkFiles {
  const net = new Network(weights, seed);
  let last = net.conv("input", 3, 32, { stride: 2, act: "relu6" });
  let channels = 32;
  for (const [expansion, to, repeats, firstStride] of MOBILENET_BLOCKS) {
    for (let i = 0; i < repeats; i += 1) {
      const input = last;
      const hidden = channels * expansion;
      if (expansion > 1) last = net.conv(last, channels, hidden, { kernel: 1, act: "relu6" });
      last = net.conv(last, hidden, hidden, { stride: i === 0 ? firstStride : 1, group: hidden, act: "relu6" });
      last = net.conv(last, hidden, to, { kernel: 1 });
      if (i > 0) last = net.node("Add", [input, last]);
      channels = to;
    }
  }
  last = net.conv(last, channels, 1_280, { kernel: 1, act: "relu6" });
  return net.files(224, net.classifier(last, 1_280, labels), [1, labels]);
}

/** ResNet-18 (11.7 million weights) or ResNet-50 (25.6 million): table 1 of the paper (He and others, 2015). 224 x 224. */
export function resnet(depth: 18 | 50, weights: Weights, labels: number, seed = 1): NetworkFiles {
  const net = new Network(weights, seed);
  const repeats = depth === 18 ? [2, 2, 2, 2] : [3, 4, 6, 3];
  const expansion = depth === 18 ? 1 : 4;
  let last = net.maxPool(net.conv("input", 3, 64, { kernel: 7, stride: 2, act: "relu" }), 3, 2);
  let channels = 64;
  repeats.forEach((count, stage) => {
    const width = 64 * 2 ** stage;
    for (let i = 0; i < count; i += 1) {
      const stride = i === 0 && stage > 0 ? 2 : 1;
      const to = width * expansion;
      const shortcut = stride > 1 || channels !== to ? net.conv(last, channels, to, { kernel: 1, stride }) : last;
      let value: string;
      if (depth === 18) {
        value = net.conv(net.conv(last, channels, width, { stride, act: "relu" }), width, width);
      } else {
        value = net.conv(last, channels, width, { kernel: 1, act: "relu" });
        value = net.conv(value, width, width, { stride, act: "relu" });
        value = net.conv(value, width, to, { kernel: 1 });
      }
      last = net.node("Relu", [net.node("Add", [shortcut, value])]);
      channels = to;
    }
  });
  return net.files(224, net.classifier(last, channels, labels), [1, labels]);
}

/** A detector with the layers of YOLOv8n (3.2 million weights; Ultralytics' yolov8.yaml, scale n), without DFL. */
export function detector(weights: Weights, labels: number, side = 640, seed = 1): NetworkFiles {
  const net = new Network(weights, seed);
  const conv = (from: string, channels: number, to: number, kernel = 3, stride = 1) =>
    net.conv(from, channels, to, { kernel, stride, act: "silu" });
  /** Cross-stage block: half of the channels go through bottlenecks, all intermediate values are joined. */
  const c2f = (from: string, channels: number, to: number, repeats: number, shortcut: boolean) => {
    const half = to / 2;
    const values = [conv(from, channels, half, 1), conv(from, channels, half, 1)];
    for (let i = 0; i < repeats; i += 1) {
      const last = values.at(-1) ?? from;
      const value = conv(conv(last, half, half), half, half);
      values.push(shortcut ? net.node("Add", [last, value]) : value);
    }
    return conv(net.concat(values), half * values.length, to, 1);
  };
  const upsample = (from: string) => net.node("Resize", [from, "", net.floats([1, 1, 2, 2], [4])]);
  let last = conv(conv("input", 3, 16, 3, 2), 16, 32, 3, 2);
  last = conv(c2f(last, 32, 32, 1, true), 32, 64, 3, 2);
  const p3 = c2f(last, 64, 64, 2, true);
  const p4 = c2f(conv(p3, 64, 128, 3, 2), 128, 128, 2, true);
  last = c2f(conv(p4, 128, 256, 3, 2), 256, 256, 1, true);
  const pooled = [conv(last, 256, 128, 1)];
  for (let i = 0; i < 3; i += 1) pooled.push(net.maxPool(pooled.at(-1) ?? last, 5, 1));
  const p5 = conv(net.concat(pooled), 512, 256, 1);
  const n4 = c2f(net.concat([upsample(p5), p4]), 384, 128, 1, false);
  const n3 = c2f(net.concat([upsample(n4), p3]), 192, 64, 1, false);
  const o4 = c2f(net.concat([conv(n3, 64, 64, 3, 2), n4]), 192, 128, 1, false);
  const o5 = c2f(net.concat([conv(o4, 128, 128, 3, 2), p5]), 384, 256, 1, false);
  const levels: [string, number, number][] = [
    [n3, 64, side / 8],
    [o4, 128, side / 16],
    [o5, 256, side / 32],
  ];
  const scale = net.floats([side], []);
  const outputs = levels.map(([from, channels, cells]) => {
    const boxes = net.conv(conv(conv(from, channels, 64), 64, 64), 64, 4, { kernel: 1 });
    const scores = net.conv(conv(conv(from, channels, 80), 80, 80), 80, labels, { kernel: 1, bias: -3 });
    const both = net.concat([net.node("Mul", [net.node("Sigmoid", [boxes]), scale]), net.node("Sigmoid", [scores])]);
    return net.node("Reshape", [both, net.int64s([1, 4 + labels, cells * cells])]);
  });
  const places = levels.reduce((sum, [, , cells]) => sum + cells * cells, 0);
  return net.files(side, net.concat(outputs, 2), [1, 4 + labels, places]);
}

/** Next to nothing: what a request costs beside its model. */
export function nothing(labels: number, side = 224): NetworkFiles {
  const net = new Network("inside", 1);
  return net.files(side, net.classifier("input", 3, labels), [1, labels]);
}
