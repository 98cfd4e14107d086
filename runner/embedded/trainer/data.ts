import { readdir, readFile } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import { type Failure, fail, ok, type Result } from "../../../src/shared/result.ts";
import { FORMATS, openFormat } from "../../../src/training/datasets/formats/index.ts";
import type { DatasetFile } from "../../../src/training/datasets/formats/types.ts";
import { compareCodePoints, isLitter } from "../../../src/training/datasets/paths.ts";
import type { ModelInput } from "../../../src/training/inference/manifest.ts";
import { imageToTensor, type Pixels } from "../../../src/training/inference/preprocess.ts";
import type { RowKernel } from "../../../src/training/inference/row-kernel.ts";
import type { InputConfig, TrainerConfig } from "./config.ts";
import type { DecodeImage } from "./images.ts";
import { checkClasses, type Sample, samplesOf, splitSamples } from "./samples.ts";

/** Reads a dataset folder into memory as the network wants it. */

/** `CONFIG`: the job contradicts the dataset; `DATASET`: there is nothing to train on. */
export type DataFailure = Failure<"CONFIG" | "DATASET">;

export type FoundSamples = {
  classNames: string[];
  samples: Sample[];
  /** Sentences about what is odd in the dataset. */
  warnings: string[];
};

export type ImageSet = {
  /** Per image size * size * channels normalized values in the order row, column, channel. */
  images: Float32Array[];
  labels: number[];
  /** Paths inside the dataset. */
  paths: string[];
};

export type TrainingData = { classNames: string[]; input: ModelInput; train: ImageSet; validation: ImageSet };

/** All images are held in memory. */
const MAX_BYTES = 1024 * 1024 * 1024;

/** Standard deviation below which training images count as uniform and are not scaled. */
const UNIFORM = 1e-4;

/** Reads which images there are, with the readers that checked the dataset at its upload. Opens no path but those listed. */
export async function findSamples(
  dataDir: string,
  config: Pick<TrainerConfig, "format" | "classNames" | "numClasses">,
): Promise<Result<FoundSamples, DataFailure>> {
  const format = FORMATS[config.format];
  const files = await listFiles(dataDir);
  if (files.length === 0 || !format) return fail("DATASET", "the dataset has no files");
  const contradiction = (problem: { message: string }) => fail("CONFIG", problem.message, "dataset_format");
  const opened = openFormat(format, files);
  if (!opened.ok) return contradiction(opened.error);
  const { reading, strippedPrefix } = opened.value;
  for (const path of reading.wanted) {
    const taken = reading.take(path, await readFile(join(dataDir, strippedPrefix + path), "utf8"));
    if (!taken.ok) return contradiction(taken.error);
  }
  const finished = reading.finish();
  if (!finished.ok) return contradiction(finished.error);
  const { taskType, classNames, warnings } = finished.value;
  if (taskType !== null && taskType !== "image_classification") {
    return fail("CONFIG", `the dataset is for ${taskType}`, "task_type");
  }
  const classes = checkClasses(classNames, config);
  if (!classes.ok) return fail("CONFIG", classes.error.message, classes.error.field);
  if (classNames.length < 2) return fail("CONFIG", "the dataset has fewer than 2 classes", "num_classes");
  const samples = samplesOf(finished.value).map((sample) => ({ ...sample, path: strippedPrefix + sample.path }));
  if (samples.length === 0) return fail("DATASET", "the dataset has no labelled images");
  return ok({ classNames, samples, warnings: warnings.map(({ message }) => message) });
}

/** None for a folder that cannot be read. Sizes are left at 0: only the server's own warnings are about them. */
async function listFiles(dataDir: string): Promise<DatasetFile[]> {
  const entries = await readdir(dataDir, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(dataDir, join(entry.parentPath, entry.name)).split(sep).join("/"))
    .filter((path) => !isLitter(path))
    .sort(compareCodePoints)
    .map((path) => ({ path, sizeBytes: 0 }));
}

export type LoadOptions = {
  dataDir: string;
  samples: FoundSamples;
  input: InputConfig;
  /** Input of a model that is trained further: its channels and normalization are kept. */
  resumed: ModelInput | null;
  decode: DecodeImage;
  kernel: RowKernel;
  /** true ends the loading. */
  cancelled: () => boolean;
  warn: (line: string) => void;
};

/** Null when cancelled. Images that cannot be decoded are left out with a warning each. */
export async function loadData(options: LoadOptions): Promise<Result<TrainingData | null, DataFailure>> {
  const { input, resumed, samples } = options;
  const { train, validation } = splitSamples(samples.samples);
  const bytes = samples.samples.length * input.size * input.size * (resumed?.channels ?? input.channels ?? 3) * 4;
  if (bytes > MAX_BYTES) {
    const size = `${samples.samples.length} images of ${input.size} x ${input.size}`;
    return fail(
      "CONFIG",
      `${size} need ${Math.ceil(bytes / 2 ** 20)} MiB of memory, at most 1024 are used`,
      "image_size",
    );
  }
  const reader = new ImageReader(options.kernel, input, resumed?.channels ?? input.channels);
  const trainSet = await readSet(options, reader, train);
  const validationSet = trainSet && (await readSet(options, reader, validation));
  if (trainSet === null || validationSet === null) return ok(null);
  if (trainSet.images.length === 0) return fail("DATASET", "none of the training images can be decoded");

  const channels = reader.channels;
  for (const set of [trainSet, validationSet]) {
    set.images = set.images.map((image) => toInterleaved(image, input.size, channels));
  }
  const { mean, std } = normalizationOf(input, resumed, trainSet, channels);
  for (const set of [trainSet, validationSet]) {
    for (const image of set.images) normalize(image, mean, std);
  }
  return ok({
    classNames: samples.classNames,
    input: { ...reader.tensorInput(channels), mean, std },
    train: trainSet,
    validation: validationSet,
  });
}

/**
 * Reads images as planes of values 0..1. As long as all are grey one plane is enough; the images before the first
 * coloured one get their two others at the end, which are equal.
 */
class ImageReader {
  readonly #kernel: RowKernel;
  readonly #input: InputConfig;
  readonly #fixed: boolean;
  #channels: 1 | 3;

  constructor(kernel: RowKernel, input: InputConfig, channels: 1 | 3 | null) {
    this.#kernel = kernel;
    this.#input = input;
    this.#channels = channels ?? 1;
    this.#fixed = channels !== null;
  }

  get channels(): 1 | 3 {
    return this.#channels;
  }

  tensorInput(channels: 1 | 3): ModelInput {
    const { size, resize, padValue } = this.#input;
    return {
      name: "input",
      layout: "NCHW",
      width: size,
      height: size,
      channels,
      dtype: "float32",
      scale: 1 / 255,
      mean: new Array<number>(channels).fill(0),
      std: new Array<number>(channels).fill(1),
      resize,
      pad_value: padValue,
    };
  }

  read(pixels: Pixels, orientation: number): Float32Array {
    if (!this.#fixed && this.#channels === 1 && !isGrey(pixels)) this.#channels = 3;
    return imageToTensor(this.#kernel, pixels, this.tensorInput(this.#channels), orientation);
  }
}

function isGrey({ data }: Pixels): boolean {
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] === 0) continue; // white, whatever its colour
    if (data[at] !== data[at + 1] || data[at] !== data[at + 2]) return false;
  }
  return true;
}

async function readSet(options: LoadOptions, reader: ImageReader, samples: Sample[]): Promise<ImageSet | null> {
  const set: ImageSet = { images: [], labels: [], paths: [] };
  for (const { path, label } of samples) {
    if (options.cancelled()) return null;
    const decoded = await options.decode(await readFile(join(options.dataDir, path)));
    if (!decoded.ok) {
      options.warn(`${path}: ${decoded.error}; the image is left out`);
      continue;
    }
    set.images.push(reader.read(decoded.value.pixels, decoded.value.orientation));
    set.labels.push(label);
    set.paths.push(path);
  }
  return set;
}

/** Planes to interleaved channels; one plane becomes three equal channels where three are wanted. */
function toInterleaved(image: Float32Array, size: number, channels: 1 | 3): Float32Array {
  const plane = size * size;
  if (channels === 1) return image;
  const stride = image.length === plane ? 0 : plane;
  const interleaved = new Float32Array(plane * 3);
  for (let at = 0; at < plane; at += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      interleaved[at * 3 + channel] = image[channel * stride + at] ?? 0;
    }
  }
  return interleaved;
}

function normalizationOf(
  input: InputConfig,
  resumed: ModelInput | null,
  train: ImageSet,
  channels: 1 | 3,
): { mean: number[]; std: number[] } {
  if (resumed !== null) return { mean: resumed.mean, std: resumed.std };
  const given = input.normalization;
  if (given !== null) {
    const spread = (values: number[]) => Array.from({ length: channels }, (_, i) => values[i] ?? values[0] ?? 0);
    return { mean: spread(given.mean), std: spread(given.std) };
  }
  return statistics(train, channels);
}

/** Mean and standard deviation of each channel, rounded: the manifest is read by people too. */
function statistics({ images }: ImageSet, channels: number): { mean: number[]; std: number[] } {
  const sums = new Float64Array(channels);
  const squares = new Float64Array(channels);
  let values = 0;
  for (const image of images) {
    values += image.length / channels;
    for (let at = 0; at < image.length; at += 1) {
      const value = image[at] ?? 0;
      const channel = at % channels;
      sums[channel] = (sums[channel] ?? 0) + value;
      squares[channel] = (squares[channel] ?? 0) + value * value;
    }
  }
  const rounded = (value: number) => Math.round(value * 1e6) / 1e6;
  const mean = Array.from(sums, (sum) => sum / values);
  const std = mean.map((value, channel) => {
    const deviation = Math.sqrt(Math.max((squares[channel] ?? 0) / values - value * value, 0));
    return deviation < UNIFORM ? 1 : rounded(deviation);
  });
  return { mean: mean.map(rounded), std };
}

function normalize(image: Float32Array, mean: number[], std: number[]): void {
  const channels = mean.length;
  for (let at = 0; at < image.length; at += 1) {
    image[at] = ((image[at] ?? 0) - (mean[at % channels] ?? 0)) / (std[at % channels] ?? 1);
  }
}
