import { jit, nn, numpy as np, valueAndGrad } from "@jax-js/jax";
import { gaussian, type Random } from "./random.ts";

/**
 * The network `cnn_small`: convolution, ReLU, pooling, twice, then one dense layer; and its gradient by jax-js.
 *
 * Images are in the order row, column, channel. A convolution is the sum of nine matrix products, one for each position
 * of the 3 x 3 window: jax-js multiplies matrices about fifty times as fast as it runs its own convolution.
 */

export type NetworkShape = {
  /** Pixels of each side. */
  size: number;
  channels: 1 | 3;
  classes: number;
  /** Output channels of the two convolutions. */
  filters: [number, number];
};

export const FILTERS: [number, number] = [16, 32];

const KERNEL = 3;
const WINDOW = KERNEL * KERNEL;

/** Where one array of weights lies in the flat array of all. */
export type Parameter = {
  name: "conv1.weight" | "conv1.bias" | "conv2.weight" | "conv2.bias" | "dense.weight" | "dense.bias";
  /** conv: window position (row by row), input, output. dense: input (row, column, channel), output. */
  dims: number[];
  offset: number;
  length: number;
  /** Inputs of one output; 0 for a bias. */
  fanIn: number;
};

/** Side of the images behind each pooling, which drops an odd last row and column. */
export function pooledSizes(size: number): [number, number] {
  const first = Math.floor(size / 2);
  return [first, Math.floor(first / 2)];
}

export function parameters({ size, channels, classes, filters }: NetworkShape): Parameter[] {
  const [first, second] = filters;
  const [, side] = pooledSizes(size);
  const inputs = side * side * second;
  const list: Pick<Parameter, "name" | "dims" | "fanIn">[] = [
    { name: "conv1.weight", dims: [WINDOW, channels, first], fanIn: WINDOW * channels },
    { name: "conv1.bias", dims: [first], fanIn: 0 },
    { name: "conv2.weight", dims: [WINDOW, first, second], fanIn: WINDOW * first },
    { name: "conv2.bias", dims: [second], fanIn: 0 },
    { name: "dense.weight", dims: [inputs, classes], fanIn: inputs },
    { name: "dense.bias", dims: [classes], fanIn: 0 },
  ];
  let offset = 0;
  return list.map((parameter) => {
    const length = parameter.dims.reduce((product, dim) => product * dim, 1);
    const placed = { ...parameter, offset, length };
    offset += length;
    return placed;
  });
}

export const parameterCount = (shape: NetworkShape): number =>
  parameters(shape).reduce((sum, { length }) => sum + length, 0);

/** A model with more is too large for inference in the Worker (20 MB in one file), and for patience on a CPU. */
export const MAX_WEIGHTS = 5_000_000;

/** Random weights, biases 0. Before a ReLU the variance is 2 / inputs (He et al. 2015), else 1 / inputs. */
export function initialWeights(shape: NetworkShape, random: Random): Float32Array<ArrayBuffer> {
  const weights = new Float32Array(parameterCount(shape));
  for (const { name, offset, length, fanIn } of parameters(shape)) {
    if (fanIn === 0) continue;
    const deviation = Math.sqrt((name === "dense.weight" ? 1 : 2) / fanIn);
    for (let i = 0; i < length; i += 1) weights[offset + i] = gaussian(random) * deviation;
  }
  return weights;
}

/** 3 x 3, stride 1, zeros around the image. Takes ownership of its arguments, as jax-js wants it. */
function convolve(images: np.Array, weight: np.Array): np.Array {
  const [count = 0, height = 0, width = 0, channels = 0] = images.shape;
  const padded = np.pad(images, [
    [0, 0],
    [1, 1],
    [1, 1],
    [0, 0],
  ]);
  let sum: np.Array | null = null;
  for (let position = 0; position < WINDOW; position += 1) {
    const row = Math.floor(position / KERNEL);
    const column = position % KERNEL;
    const shifted = padded.ref
      .slice([], [row, row + height], [column, column + width], [])
      .reshape([count * height * width, channels]);
    const part = np.matmul(shifted, weight.ref.slice(position));
    sum = sum === null ? part : sum.add(part);
  }
  padded.dispose();
  weight.dispose();
  if (sum === null) throw new Error("unreachable");
  return sum.reshape([count, height, width, -1]);
}

/** Largest of each 2 x 2 square. */
function pool(images: np.Array): np.Array {
  const [count = 0, height = 0, width = 0, channels = 0] = images.shape;
  const rows = Math.floor(height / 2);
  const columns = Math.floor(width / 2);
  const even = images.slice([], [0, rows * 2], [0, columns * 2], []);
  return np.max(even.reshape([count, rows, 2, columns, 2, channels]), [2, 4]);
}

type Weights = np.Array[];

/** Class scores, [images, classes]. ReLU and maximum commute: pooling first leaves a quarter of the values for the ReLU. */
function forward(weights: Weights, images: np.Array): np.Array {
  const [conv1, bias1, conv2, bias2, dense, bias3] = weights;
  if (!conv1 || !bias1 || !conv2 || !bias2 || !dense || !bias3) throw new Error("unreachable");
  const [count = 0] = images.shape;
  const first = nn.relu(pool(convolve(images, conv1).add(bias1)));
  const second = nn.relu(pool(convolve(first, conv2).add(bias2)));
  return np.matmul(second.reshape([count, -1]), dense).add(bias3);
}

/** [sum of the cross-entropies, class scores]. An image whose row of `targets` is all zeros does not count. */
function lossAndLogits(weights: Weights, images: np.Array, targets: np.Array): [np.Array, np.Array] {
  const logits = forward(weights, images);
  const loss = np.sum(nn.logSoftmax(logits.ref, 1).mul(targets)).neg();
  return [loss, logits];
}

/** The values of an array, which is freed. */
async function read(array: np.Array | undefined): Promise<Float32Array> {
  const values = await array?.data();
  if (!(values instanceof Float32Array)) throw new TypeError("the network computes in float32");
  return values;
}

/** Images that are worked on at once are bounded, so that memory is: about 1 KB a pixel is in use. */
const PIXELS_AT_ONCE = 65_536;

/** A network for batches of one size; compiled at the first use. */
export class Network {
  readonly shape: NetworkShape;
  /** Images worked on at once: arrays given to `gradient` and `logits` have room for so many. */
  readonly chunk: number;
  readonly #parameters: Parameter[];
  readonly #gradient;
  readonly #forward;

  /** @param batchSize largest number of images in one batch; it is cut into equal chunks that are not too large */
  constructor(shape: NetworkShape, batchSize: number) {
    this.shape = shape;
    const most = Math.max(1, Math.floor(PIXELS_AT_ONCE / (shape.size * shape.size)));
    this.chunk = Math.ceil(batchSize / Math.ceil(batchSize / most));
    this.#parameters = parameters(shape);
    this.#gradient = jit(
      (weights: Weights, images: np.Array, targets: np.Array): [np.Array, np.Array, ...np.Array[]] => {
        const [[loss, logits], gradient] = valueAndGrad(lossAndLogits, { hasAux: true })(weights, images, targets);
        return [loss, logits, ...gradient];
      },
    );
    this.#forward = jit(forward);
  }

  /** Values of one image. */
  get imageLength(): number {
    return this.shape.size * this.shape.size * this.shape.channels;
  }

  #upload(weights: Float32Array<ArrayBuffer>): Weights {
    return this.#parameters.map(({ dims, offset, length }) =>
      np.array(weights.slice(offset, offset + length)).reshape(dims),
    );
  }

  #images(images: Float32Array<ArrayBuffer>): np.Array {
    const { size, channels } = this.shape;
    return np.array(images).reshape([this.chunk, size, size, channels]);
  }

  /**
   * Adds the gradient of the summed cross-entropy of one chunk to `sum`.
   *
   * @param images `chunk` images; what is beyond `labels` is ignored
   * @param labels classes of the first images
   * @returns the summed cross-entropy and the class scores, one row an image
   */
  async addGradient(
    weights: Float32Array<ArrayBuffer>,
    images: Float32Array<ArrayBuffer>,
    labels: number[],
    sum: Float32Array,
  ): Promise<{ loss: number; logits: Float32Array[] }> {
    const { classes } = this.shape;
    const targets = new Float32Array(this.chunk * classes);
    labels.forEach((label, image) => {
      targets[image * classes + label] = 1;
    });
    const [loss, logits, ...gradient] = this.#gradient(
      this.#upload(weights),
      this.#images(images),
      np.array(targets).reshape([this.chunk, classes]),
    );
    for (const [index, { offset, length }] of this.#parameters.entries()) {
      const part = await read(gradient[index]);
      for (let i = 0; i < length; i += 1) sum[offset + i] = (sum[offset + i] ?? 0) + (part[i] ?? Number.NaN);
    }
    const rows = this.#rows(await read(logits), labels.length);
    return { loss: (await read(loss))[0] ?? Number.NaN, logits: rows };
  }

  /** Class scores of the first `count` of a chunk of images, one row an image. */
  async logits(
    weights: Float32Array<ArrayBuffer>,
    images: Float32Array<ArrayBuffer>,
    count: number,
  ): Promise<Float32Array[]> {
    const logits = this.#forward(this.#upload(weights), this.#images(images));
    return this.#rows(await read(logits), count);
  }

  #rows(values: Float32Array, count: number): Float32Array[] {
    const { classes } = this.shape;
    return Array.from({ length: count }, (_, image) => values.slice(image * classes, (image + 1) * classes));
  }

  /** Frees the compiled programs. */
  dispose(): void {
    this.#gradient.dispose();
    this.#forward.dispose();
  }
}
