import { type Failure, fail, ok, type Result } from "../../shared/result.ts";
import { extraValues } from "./decode/boxes.ts";
import type { CheckpointManifest, YoloOutput } from "./manifest.ts";

/**
 * Looks into an ONNX file before it is given to the runtime: how many nodes, which operators, which files beside it, which
 * opsets. Weights are skipped, so reading costs next to nothing. Pure.
 *
 * Field numbers: onnx.proto of ONNX 1.22. Wire format: Protocol Buffers encoding guide.
 */

type Failed = Failure<"MODEL_NOT_USABLE">;

export type ModelFacts = {
  /** Nodes of the graph, of every graph inside it, and of the model's own functions. */
  nodeCount: number;
  operators: Set<string>;
  /** Names of the files in which the graph says that weights lie. */
  externalFiles: Set<string>;
};

/** Far above any image model that fits here (a 152-layer network has about 500); opening takes time and memory a node. */
export const MAX_NODES = 20_000;

/** Operators that repeat a graph as often as a number in the file says: a run of them cannot be bounded. */
export const REFUSED_OPERATORS: readonly string[] = ["Loop", "Scan", "SequenceMap"];

/** Graphs inside of attributes inside of graphs … */
const MAX_DEPTH = 8;

const notUsable = (message: string) => fail("MODEL_NOT_USABLE", message);

class Malformed extends Error {}
/** Thrown when enough is known to refuse the file. */
class Enough extends Error {}

const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

/** Calls `visit` for every field between `start` and `end`; for a length-delimited one with the range of its content. */
function eachField(
  bytes: Uint8Array,
  start: number,
  end: number,
  visit: (field: number, from: number, to: number, value: number) => void,
): void {
  let at = start;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[at];
      if (byte === undefined || at >= end) throw new Malformed();
      at += 1;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new Malformed();
  };
  while (at < end) {
    const tag = varint();
    const field = Math.floor(tag / 8);
    const wire = tag % 8;
    if (field === 0) throw new Malformed();
    if (wire === WIRE.varint) {
      const value = varint();
      visit(field, at, at, value);
      continue;
    }
    const size = wire === WIRE.bytes ? varint() : wire === WIRE.fixed64 ? 8 : wire === WIRE.fixed32 ? 4 : -1;
    if (size < 0 || at + size > end) throw new Malformed();
    if (wire === WIRE.bytes) visit(field, at, at + size, 0);
    at += size;
  }
}

/** Reads the facts of an ONNX file, stopping above `MAX_NODES`. `MODEL_NOT_USABLE` when it is not one, or is nested too deeply. */
export function readModelFacts(bytes: Uint8Array): Result<ModelFacts, Failed> {
  const facts: ModelFacts = { nodeCount: 0, operators: new Set(), externalFiles: new Set() };
  const decoder = new TextDecoder();
  const textOf = (from: number, to: number) => decoder.decode(bytes.subarray(from, Math.min(to, from + 1000)));
  let hasGraph = false;

  const readExternal = (from: number, to: number) => {
    let key = "";
    let value = "";
    eachField(bytes, from, to, (field, start, end) => {
      if (field === 1) key = textOf(start, end);
      if (field === 2) value = textOf(start, end);
    });
    if (key === "location") facts.externalFiles.add(value);
  };
  const readTensor = (from: number, to: number) =>
    eachField(bytes, from, to, (field, start, end) => {
      if (field === 13) readExternal(start, end);
    });
  const readSparseTensor = (from: number, to: number) =>
    eachField(bytes, from, to, (field, start, end) => {
      if (field === 1 || field === 2) readTensor(start, end);
    });
  const readAttribute = (from: number, to: number, depth: number) =>
    eachField(bytes, from, to, (field, start, end) => {
      if (field === 5 || field === 10) readTensor(start, end);
      if (field === 22 || field === 23) readSparseTensor(start, end);
      if (field === 6 || field === 11) readGraph(start, end, depth + 1);
    });
  const readNode = (from: number, to: number, depth: number) => {
    facts.nodeCount += 1;
    if (facts.nodeCount > MAX_NODES) throw new Enough();
    eachField(bytes, from, to, (field, start, end) => {
      if (field === 4) facts.operators.add(textOf(start, end));
      if (field === 5) readAttribute(start, end, depth);
    });
  };
  const readGraph = (from: number, to: number, depth: number) => {
    if (depth > MAX_DEPTH) throw new Malformed();
    eachField(bytes, from, to, (field, start, end) => {
      if (field === 1) readNode(start, end, depth);
      if (field === 5) readTensor(start, end);
      if (field === 15) readSparseTensor(start, end);
    });
  };
  const readFunction = (from: number, to: number) =>
    eachField(bytes, from, to, (field, start, end) => {
      if (field === 7) readNode(start, end, 1);
    });

  try {
    eachField(bytes, 0, bytes.length, (field, start, end) => {
      if (field === 7 && end > start) {
        hasGraph = true;
        readGraph(start, end, 0);
      }
      if (field === 25) readFunction(start, end);
    });
  } catch (thrown) {
    if (thrown instanceof Enough) return ok(facts);
    if (!(thrown instanceof Malformed)) throw thrown;
    return notUsable("The model is not a readable ONNX file");
  }
  return hasGraph ? ok(facts) : notUsable("The model is not an ONNX file");
}

/**
 * Whether a model may be opened at all.
 * @param externalFiles names of the files that the manifest gives to the runtime
 */
export function checkModelFacts(facts: ModelFacts, externalFiles: readonly string[]): Result<null, Failed> {
  if (facts.nodeCount === 0) return notUsable("The model has no nodes");
  if (facts.nodeCount > MAX_NODES) return notUsable(`The model has more than ${MAX_NODES} nodes`);
  const refused = REFUSED_OPERATORS.find((operator) => facts.operators.has(operator));
  if (refused) return notUsable(`The model contains the operator ${refused}, which is not allowed`);
  for (const file of facts.externalFiles) {
    if (externalFiles.includes(file)) continue;
    return notUsable("The model refers to a weights file that its manifest does not name");
  }
  return ok(null);
}

/** An input or output of an opened model; a dimension that is not fixed is a name or negative. */
export type Port = { name: string; type: string | null; shape: readonly (number | string)[] };

const describe = (shape: Port["shape"]) => `[${shape.slice(0, 8).join(", ")}]`;

/** Stands for any size of an axis. */
const ANY = -1;

const fits = (shape: Port["shape"], wanted: readonly number[]): boolean =>
  shape.length === wanted.length &&
  shape.every((size, axis) => typeof size === "string" || size < 0 || wanted[axis] === ANY || size === wanted[axis]);

/** Compares what an opened model takes and gives with its manifest, before the first run. */
export function checkSignature(
  inputs: readonly Port[],
  outputs: readonly Port[],
  manifest: Pick<CheckpointManifest, "input" | "output" | "labels">,
): Result<null, Failed> {
  const { channels, height, width } = manifest.input;
  const input = inputs[0];
  if (!input || inputs.length !== 1 || input.name !== manifest.input.name) {
    return notUsable(`The model does not take one input named ${manifest.input.name}, as its manifest says`);
  }
  const wanted = [1, channels, height, width];
  if (input.type !== "float32" || !fits(input.shape, wanted)) {
    return notUsable(
      `The model takes ${input.type ?? "no tensor"} ${describe(input.shape)}, its manifest says float32 ${describe(wanted)}`,
    );
  }
  return manifest.output.decode === "yolo"
    ? checkYoloOutputs(outputs, manifest.output, manifest.labels.length)
    : checkClassOutput(outputs, manifest.output.name, manifest.labels.length);
}

const findOutput = (outputs: readonly Port[], name: string): Result<Port, Failed> => {
  const output = outputs.find((port) => port.name === name);
  return output?.type === "float32"
    ? ok(output)
    : notUsable(`The model gives no float32 output named ${name}, as its manifest says`);
};

function checkClassOutput(outputs: readonly Port[], name: string, count: number): Result<null, Failed> {
  const output = findOutput(outputs, name);
  if (!output.ok) return output;
  return fits(output.value.shape, [1, count]) || fits(output.value.shape, [count])
    ? ok(null)
    : notUsable(`The model gives ${describe(output.value.shape)} for ${count} labels`);
}

function checkYoloOutputs(outputs: readonly Port[], head: YoloOutput, labelCount: number): Result<null, Failed> {
  const extra = extraValues(head);
  const wanted = head.nms === "none" ? [1, 4 + labelCount + extra, ANY] : [1, ANY, 6 + extra];
  const places = findOutput(outputs, head.name);
  if (!places.ok) return places;
  if (!fits(places.value.shape, wanted)) {
    const says = wanted.map((size) => (size === ANY ? "any" : size));
    return notUsable(`The model gives ${describe(places.value.shape)}, its manifest says ${describe(says)}`);
  }
  if (!head.masks) return ok(null);
  const masks = findOutput(outputs, head.masks.name);
  if (!masks.ok) return masks;
  return fits(masks.value.shape, [1, head.masks.channels, ANY, ANY])
    ? ok(null)
    : notUsable(`The model gives ${describe(masks.value.shape)} for ${head.masks.channels} mask channels`);
}
