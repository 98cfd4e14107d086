/**
 * Writes small ONNX files for tests, byte for byte, so that also broken and hostile ones can be made.
 * Field numbers: onnx.proto. Pure.
 */

import { concatenate } from "../../src/shared/memory.ts";

const encoder = new TextEncoder();

const varint = (value: number): Uint8Array => {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  return Uint8Array.from([...bytes, rest]);
};

export const int = (field: number, value: number): Uint8Array => concatenate([varint(field * 8), varint(value)]);
export const bytesField = (field: number, content: Uint8Array): Uint8Array =>
  concatenate([varint(field * 8 + 2), varint(content.length), content]);
const text = (field: number, value: string) => bytesField(field, encoder.encode(value));
const message = (field: number, ...parts: Uint8Array[]) => bytesField(field, concatenate(parts));
const floatField = (field: number, value: number) =>
  concatenate([varint(field * 8 + 5), new Uint8Array(Float32Array.of(value).buffer)]);

const FLOAT = 1;
const INT8 = 3;
const INT64 = 7;

export type TensorSpec =
  | { name: string; dims: number[]; floats: ArrayLike<number> }
  | { name: string; dims: number[]; int64s: readonly number[] }
  | { name: string; dims: number[]; int8s: Int8Array }
  | {
      name: string;
      dims: number[];
      external: { location: string; offset: number; length: number };
      of?: "float" | "int8";
    };

const tensorParts = (tensor: TensorSpec): Uint8Array[] => {
  const dims = tensor.dims.map((dim) => int(1, dim));
  if ("floats" in tensor) {
    const raw = new Uint8Array(Float32Array.from(tensor.floats).buffer);
    return [...dims, int(2, FLOAT), text(8, tensor.name), bytesField(9, raw)];
  }
  if ("int64s" in tensor) {
    const raw = new Uint8Array(BigInt64Array.from(tensor.int64s, BigInt).buffer);
    return [...dims, int(2, INT64), text(8, tensor.name), bytesField(9, raw)];
  }
  if ("int8s" in tensor) {
    return [...dims, int(2, INT8), text(8, tensor.name), bytesField(9, new Uint8Array(tensor.int8s))];
  }
  const entry = (key: string, value: string) => message(13, text(1, key), text(2, value));
  const { location, offset, length } = tensor.external;
  return [
    ...dims,
    int(2, tensor.of === "int8" ? INT8 : FLOAT),
    text(8, tensor.name),
    entry("location", location),
    entry("offset", String(offset)),
    entry("length", String(length)),
    int(14, 1),
  ];
};

export type AttributeSpec =
  | { name: string; int: number }
  | { name: string; float: number }
  | { name: string; ints: number[] }
  | { name: string; graph: GraphSpec };

const attribute = (spec: AttributeSpec): Uint8Array => {
  if ("int" in spec) return message(5, text(1, spec.name), int(3, spec.int), int(20, 2));
  if ("float" in spec) return message(5, text(1, spec.name), floatField(2, spec.float), int(20, 1));
  if ("ints" in spec) return message(5, text(1, spec.name), ...spec.ints.map((value) => int(8, value)), int(20, 7));
  return message(5, text(1, spec.name), message(6, ...graphParts(spec.graph)), int(20, 5));
};

export type NodeSpec = { op: string; inputs: string[]; outputs: string[]; attributes?: AttributeSpec[] };

const node = (spec: NodeSpec): Uint8Array =>
  message(
    1,
    ...spec.inputs.map((name) => text(1, name)),
    ...spec.outputs.map((name) => text(2, name)),
    text(4, spec.op),
    ...(spec.attributes ?? []).map(attribute),
  );

export type PortSpec = { name: string; shape: (number | string)[]; type?: number };

const port = (field: number, spec: PortSpec): Uint8Array => {
  const dims = spec.shape.map((dim) => message(1, typeof dim === "number" ? int(1, dim) : text(2, dim)));
  return message(field, text(1, spec.name), message(2, message(1, int(1, spec.type ?? FLOAT), message(2, ...dims))));
};

export type GraphSpec = {
  nodes: NodeSpec[];
  initializers?: TensorSpec[];
  inputs: PortSpec[];
  outputs: PortSpec[];
};

const graphParts = (graph: GraphSpec): Uint8Array[] => [
  ...graph.nodes.map(node),
  text(2, "test"),
  ...(graph.initializers ?? []).map((tensor) => message(5, ...tensorParts(tensor))),
  ...graph.inputs.map((spec) => port(11, spec)),
  ...graph.outputs.map((spec) => port(12, spec)),
];

/** An ONNX file of opset 17. */
export const onnxModel = (graph: GraphSpec): Uint8Array<ArrayBuffer> =>
  concatenate([int(1, 8), message(8, int(2, 17)), message(7, ...graphParts(graph))]);

/** A classifier of one layer: logits = pixels · weights + bias. `weights[label][position]`, positions in NCHW order. */
export function linearModel(options: {
  shape: [number | string, number, number, number];
  weights: number[][];
  bias: number[];
  input?: string;
  output?: string;
  external?: string;
}): { graph: Uint8Array<ArrayBuffer>; weights: Uint8Array<ArrayBuffer> } {
  const { shape, weights, bias, input = "input", output = "logits" } = options;
  const [, channels, height, width] = shape;
  const positions = channels * height * width;
  const raw = new Uint8Array(Float32Array.from(weights.flat()).buffer);
  const weight: TensorSpec = options.external
    ? {
        name: "w",
        dims: [bias.length, positions],
        external: { location: options.external, offset: 0, length: raw.length },
      }
    : { name: "w", dims: [bias.length, positions], floats: weights.flat() };
  const graph = onnxModel({
    nodes: [
      { op: "Flatten", inputs: [input], outputs: ["flat"], attributes: [{ name: "axis", int: 1 }] },
      { op: "Gemm", inputs: ["flat", "w", "b"], outputs: [output], attributes: [{ name: "transB", int: 1 }] },
    ],
    initializers: [weight, { name: "b", dims: [bias.length], floats: bias }],
    inputs: [{ name: input, shape }],
    outputs: [{ name: output, shape: [shape[0], bias.length] }],
  });
  return { graph, weights: raw };
}
