import { describe, it } from "vitest";
import {
  checkModelFacts,
  checkSignature,
  MAX_NODES,
  type Port,
  readModelFacts,
} from "../../../src/training/inference/model-file.ts";
import { bytesField, type GraphSpec, int, linearModel, onnxModel } from "../../support/onnx-builder.ts";

const facts = (bytes: Uint8Array) => {
  const result = readModelFacts(bytes);
  if (!result.ok) throw new Error(result.error.message);
  return result.value;
};
const notUsable = { ok: false, error: { code: "MODEL_NOT_USABLE" } };
const small = linearModel({
  shape: ["batch", 1, 2, 2],
  weights: [
    [1, 2, 3, 4],
    [5, 6, 7, 8],
  ],
  bias: [0, 1],
}).graph;

const graphOf = (op: string, inner?: GraphSpec): GraphSpec => ({
  nodes: [{ op, inputs: ["x"], outputs: ["y"], ...(inner && { attributes: [{ name: "body", graph: inner }] }) }],
  inputs: [{ name: "x", shape: [1] }],
  outputs: [{ name: "y", shape: [1] }],
});

describe("readModelFacts", () => {
  it("counts nodes and names operators, and skips the weights", ({ expect }) => {
    expect(facts(small)).toEqual({ nodeCount: 2, operators: new Set(["Flatten", "Gemm"]), externalFiles: new Set() });
  });

  it("finds the files that weights refer to", ({ expect }) => {
    const { graph } = linearModel({ shape: [1, 1, 1, 1], weights: [[1]], bias: [0], external: "../../secret.bin" });
    expect(facts(graph).externalFiles).toEqual(new Set(["../../secret.bin"]));
  });

  it("looks into graphs inside of attributes", ({ expect }) => {
    expect(facts(onnxModel(graphOf("If", graphOf("If", graphOf("Loop")))))).toMatchObject({
      nodeCount: 3,
      operators: new Set(["If", "Loop"]),
    });
  });

  it("looks into the model's own functions", ({ expect }) => {
    const node = bytesField(7, bytesField(4, new TextEncoder().encode("Scan")));
    expect(facts(Uint8Array.from([...small, ...bytesField(25, node)])).operators).toContain("Scan");
  });

  it("stops counting at a file of millions of nodes", ({ expect }) => {
    const node = bytesField(1, new Uint8Array(0));
    const nodes = new Uint8Array(5_000_000 * node.length);
    for (let at = 0; at < nodes.length; at += node.length) nodes.set(node, at);
    const started = performance.now();
    const result = facts(bytesField(7, nodes));
    expect(performance.now() - started).toBeLessThan(500);
    expect(checkModelFacts(result, [])).toMatchObject(notUsable);
  });

  it.for([
    ["nothing", new Uint8Array(0)],
    ["text", new TextEncoder().encode("this is not a model")],
    ["a pickle", Uint8Array.from([0x80, 0x04, 0x95, 0x0a, 0, 0, 0, 0, 0, 0, 0])],
    ["a zip, as .pt files are", new TextEncoder().encode("PK\u0003\u0004\u0014\u0000archive/data.pkl")],
    ["a message without a graph", int(1, 8)],
    ["a number that never ends", new Uint8Array(50).fill(0xff)],
    ["a field longer than the file", Uint8Array.from([0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f])],
    ["field zero", Uint8Array.from([0x02, 0x00])],
  ] as [string, Uint8Array][])("refuses %s", ([, bytes], { expect }) => {
    expect(readModelFacts(bytes)).toMatchObject(notUsable);
  });

  it("refuses a model cut off at any byte of its graph", ({ expect }) => {
    for (let length = 8; length < small.length; length += 1) {
      expect(readModelFacts(small.subarray(0, length)), `${length} bytes`).toMatchObject(notUsable);
    }
  });

  it("refuses graphs nested without end", ({ expect }) => {
    let graph = graphOf("If");
    for (let depth = 0; depth < 50; depth += 1) graph = graphOf("If", graph);
    expect(readModelFacts(onnxModel(graph))).toMatchObject(notUsable);
  });
});

describe("checkModelFacts", () => {
  const usual = { nodeCount: 10, operators: new Set(["Conv"]), externalFiles: new Set<string>() };

  it("lets an ordinary model through", ({ expect }) => {
    expect(checkModelFacts(usual, []).ok).toBe(true);
    expect(checkModelFacts({ ...usual, externalFiles: new Set(["model.bin"]) }, ["model.bin"]).ok).toBe(true);
  });

  it.for([
    ["no nodes", { nodeCount: 0 }],
    ["too many nodes", { nodeCount: MAX_NODES + 1 }],
    ["a loop", { operators: new Set(["Conv", "Loop"]) }],
    ["a scan", { operators: new Set(["Scan"]) }],
    ["another weights file than the manifest's", { externalFiles: new Set(["other.bin"]) }],
    ["weights outside of its folder", { externalFiles: new Set(["model.bin", "../model.bin"]) }],
    ["weights at an absolute path", { externalFiles: new Set(["/etc/passwd"]) }],
  ] as [string, Partial<typeof usual>][])("refuses a model with %s", ([, change], { expect }) => {
    expect(checkModelFacts({ ...usual, ...change }, ["model.bin"])).toMatchObject(notUsable);
  });
});

describe("checkSignature", () => {
  const manifest = {
    input: {
      name: "input",
      layout: "NCHW" as const,
      width: 28,
      height: 20,
      channels: 3 as const,
      dtype: "float32" as const,
      scale: 1,
      mean: [0, 0, 0],
      std: [1, 1, 1],
      resize: "stretch" as const,
      pad_value: 0,
    },
    output: { name: "logits", decode: "softmax" as const },
    labels: ["a", "b"],
  };
  const input: Port = { name: "input", type: "float32", shape: [1, 3, 20, 28] };
  const output: Port = { name: "logits", type: "float32", shape: [1, 2] };

  it.for([
    ["as the manifest says", [input], [output]],
    ["a named batch", [{ ...input, shape: ["batch", 3, 20, 28] }], [{ ...output, shape: ["batch", 2] }]],
    ["an open batch", [{ ...input, shape: [-1, 3, 20, 28] }], [{ ...output, shape: [-1, 2] }]],
    ["open sizes", [{ ...input, shape: ["n", 3, "h", "w"] }], [output]],
    ["more outputs", [input], [{ ...output, name: "features", shape: [1, 512] }, output]],
    ["outputs without batch", [input], [{ ...output, shape: [2] }]],
  ] as [string, Port[], Port[]][])("accepts a model with %s", ([, inputs, outputs], { expect }) => {
    expect(checkSignature(inputs, outputs, manifest).ok).toBe(true);
  });

  it.for([
    ["no input", [], [output]],
    ["two inputs", [input, { ...input, name: "mask" }], [output]],
    ["an input of another name", [{ ...input, name: "images" }], [output]],
    ["bytes for input", [{ ...input, type: "uint8" }], [output]],
    ["no tensor for input", [{ ...input, type: null }], [output]],
    ["height and width exchanged", [{ ...input, shape: [1, 3, 28, 20] }], [output]],
    ["channels last", [{ ...input, shape: [1, 20, 28, 3] }], [output]],
    ["a batch of eight", [{ ...input, shape: [8, 3, 20, 28] }], [output]],
    ["a flat input", [{ ...input, shape: [1, 1680] }], [output]],
    ["no output of that name", [input], [{ ...output, name: "probabilities" }]],
    ["an output of another type", [input], [{ ...output, type: "int64" }]],
    ["three values for two labels", [input], [{ ...output, shape: [1, 3] }]],
    ["a map for output", [input], [{ ...output, shape: [1, 2, 7, 7] }]],
    ["a dimension of 2^31", [{ ...input, shape: [1, 3, 2 ** 31, 28] }], [output]],
  ] as [string, Port[], Port[]][])("refuses a model with %s", ([, inputs, outputs], { expect }) => {
    expect(checkSignature(inputs, outputs, manifest)).toMatchObject(notUsable);
  });
});
