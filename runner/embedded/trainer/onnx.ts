import protobuf from "protobufjs/minimal.js";
import { type NetworkShape, type Parameter, parameters, pooledSizes } from "./network.ts";

/**
 * The network as an ONNX file. Wire format by protobufjs, which onnxruntime-web brings along anyway (the packages with
 * ONNX's message types are years behind); field numbers by onnx.proto (ONNX 1.15, IR version 9). Pure.
 */

const IR_VERSION = 9;
const OPSET = 17;

/** TensorProto.DataType.FLOAT */
const FLOAT = 1;

/** AttributeProto.AttributeType */
const INT = 2;
const INTS = 7;

const { Writer } = protobuf;
type Message = (writer: protobuf.Writer) => void;

/** A field that holds a message: tag (field number, wire type 2), length, content. */
function nested(writer: protobuf.Writer, field: number, message: Message): void {
  writer.uint32((field << 3) | 2).fork();
  message(writer);
  writer.ldelim();
}

const text = (writer: protobuf.Writer, field: number, value: string) => writer.uint32((field << 3) | 2).string(value);
const integer = (writer: protobuf.Writer, field: number, value: number) => writer.uint32(field << 3).int64(value);

/** TensorProto */
const tensor =
  (name: string, dims: number[], values: Float32Array): Message =>
  (writer) => {
    for (const dim of dims) integer(writer, 1, dim);
    integer(writer, 2, FLOAT);
    text(writer, 8, name);
    const bytes = new Uint8Array(values.length * 4);
    const view = new DataView(bytes.buffer);
    values.forEach((value, i) => {
      view.setFloat32(i * 4, value, true); // raw_data is little-endian everywhere
    });
    writer.uint32((9 << 3) | 2).bytes(bytes);
  };

/** NodeProto; integers and lists of integers are the only attributes in use. */
const node =
  (operator: string, inputs: string[], output: string, attributes: Record<string, number | number[]> = {}): Message =>
  (writer) => {
    for (const input of inputs) text(writer, 1, input);
    text(writer, 2, output);
    text(writer, 3, output);
    text(writer, 4, operator);
    for (const [name, value] of Object.entries(attributes)) {
      nested(writer, 5, (attribute) => {
        text(attribute, 1, name);
        if (typeof value === "number") integer(attribute, 3, value);
        else for (const item of value) integer(attribute, 8, item);
        integer(attribute, 20, typeof value === "number" ? INT : INTS);
      });
    }
  };

/** ValueInfoProto of a float tensor; a dimension given by name may have any size. */
const value =
  (name: string, dims: (number | string)[]): Message =>
  (writer) => {
    text(writer, 1, name);
    nested(writer, 2, (type) =>
      nested(type, 1, (tensorType) => {
        integer(tensorType, 1, FLOAT);
        nested(tensorType, 2, (shape) => {
          for (const dim of dims) {
            nested(shape, 1, (dimension) => {
              if (typeof dim === "number") integer(dimension, 1, dim);
              else text(dimension, 2, dim);
            });
          }
        });
      }),
    );
  };

/** Reorders an array of the given dimensions: dimension `i` of the result is dimension `order[i]` of the source. */
function transpose(values: Float32Array, dims: number[], order: number[]): { dims: number[]; values: Float32Array } {
  const strides = dims.map((_, i) => dims.slice(i + 1).reduce((product, dim) => product * dim, 1));
  const newDims = order.map((i) => dims[i] ?? 1);
  const newStrides = order.map((i) => strides[i] ?? 1);
  const result = new Float32Array(values.length);
  const index = new Array<number>(newDims.length).fill(0);
  let from = 0;
  for (let to = 0; to < result.length; to += 1) {
    result[to] = values[from] ?? 0;
    for (let i = newDims.length - 1; i >= 0; i -= 1) {
      const next = (index[i] ?? 0) + 1;
      from += newStrides[i] ?? 0;
      if (next < (newDims[i] ?? 1)) {
        index[i] = next;
        break;
      }
      from -= next * (newStrides[i] ?? 0);
      index[i] = 0;
    }
  }
  return { dims: newDims, values: result };
}

/** A weight in the order that ONNX wants. */
function initializer(shape: NetworkShape, parameter: Parameter, weights: Float32Array): Message {
  const { name, dims, offset, length } = parameter;
  const values = weights.subarray(offset, offset + length);
  if (name === "conv1.weight" || name === "conv2.weight") {
    const [, inputs = 0, outputs = 0] = dims;
    const conv = transpose(values, [3, 3, inputs, outputs], [3, 2, 0, 1]);
    return tensor(name, conv.dims, conv.values);
  }
  if (name === "dense.weight") {
    const [, side] = pooledSizes(shape.size);
    const [, channels] = shape.filters;
    // The trainer flattens (row, column, channel), ONNX's Flatten behind NCHW layers (channel, row, column).
    const dense = transpose(values, [side, side, channels, shape.classes], [3, 2, 0, 1]);
    return tensor(name, [shape.classes, side * side * channels], dense.values);
  }
  return tensor(name, dims, values);
}

const CONV = { kernel_shape: [3, 3], pads: [1, 1, 1, 1], strides: [1, 1] };
const POOL = { kernel_shape: [2, 2], strides: [2, 2] };

/**
 * ModelProto with input `input` [batch, channels, size, size] (float32, any batch) and output `logits` [batch, classes].
 */
export function encodeOnnx(shape: NetworkShape, weights: Float32Array): Uint8Array<ArrayBuffer> {
  const nodes = [
    node("Conv", ["input", "conv1.weight", "conv1.bias"], "conv1", CONV),
    node("Relu", ["conv1"], "relu1"),
    node("MaxPool", ["relu1"], "pool1", POOL),
    node("Conv", ["pool1", "conv2.weight", "conv2.bias"], "conv2", CONV),
    node("Relu", ["conv2"], "relu2"),
    node("MaxPool", ["relu2"], "pool2", POOL),
    node("Flatten", ["pool2"], "flat", { axis: 1 }),
    node("Gemm", ["flat", "dense.weight", "dense.bias"], "logits", { transB: 1 }),
  ];
  const writer = Writer.create();
  integer(writer, 1, IR_VERSION);
  text(writer, 2, "cultivar");
  nested(writer, 7, (graph) => {
    for (const operation of nodes) nested(graph, 1, operation);
    text(graph, 2, "cnn_small");
    for (const parameter of parameters(shape)) nested(graph, 5, initializer(shape, parameter, weights));
    nested(graph, 11, value("input", ["batch", shape.channels, shape.size, shape.size]));
    nested(graph, 12, value("logits", ["batch", shape.classes]));
  });
  nested(writer, 8, (opset) => {
    text(opset, 1, "");
    integer(opset, 2, OPSET);
  });
  // Under Node the writer makes a Buffer, which only looks like plain bytes.
  return Uint8Array.from(writer.finish());
}
