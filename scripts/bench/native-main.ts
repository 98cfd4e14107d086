/**
 * ONNX Runtime on one thread, for `native.ts`: reads one order a line (path of a model, side of its picture) and answers with
 * the processor time of one run. The argument is the folder whose node_modules has onnxruntime-node. Ends with its input.
 */
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { InferenceSession } from "onnxruntime-web";
import { z } from "zod";
import { generator } from "./networks.ts";

const OrderSchema = z.object({ path: z.string(), side: z.number() });

const require = createRequire(join(process.argv[2] ?? "", "package.json"));
// The same interface: both come from onnxruntime-common.
const ort: typeof import("onnxruntime-web") = require("onnxruntime-node");
console.log("ready");

type Ready = { session: InferenceSession; feeds: InferenceSession.FeedsType };
const opened = new Map<string, Ready>();

async function open(path: string, side: number): Promise<Ready> {
  const session = await ort.InferenceSession.create(path, {
    executionProviders: ["cpu"],
    executionMode: "sequential",
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    graphOptimizationLevel: "all",
    logSeverityLevel: 3,
  });
  const random = generator(1);
  const picture = Float32Array.from({ length: 3 * side * side }, () => random());
  const feeds = { input: new ort.Tensor("float32", picture, [1, 3, side, side]) };
  for (let i = 0; i < 2; i += 1) await session.run(feeds);
  return { session, feeds };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { path, side } = OrderSchema.parse(JSON.parse(line));
  const { session, feeds } = opened.get(path) ?? (await open(path, side));
  opened.set(path, { session, feeds });
  const before = process.cpuUsage();
  await session.run(feeds);
  const { user, system } = process.cpuUsage(before);
  console.log(JSON.stringify({ ms: (user + system) / 1_000 }));
}
