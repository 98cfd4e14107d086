/**
 * How fast models answer in the Worker, beside ONNX Runtime on the same machine: `npm run bench:inference [-- --python PATH --runs 12]`.
 * Runs the production bundle in workerd and sends a 640 x 480 JPEG to one model after the other. `--python` names a Python that
 * has the package onnxruntime: it runs the same files on one thread, in turns with the Worker. Times are processor time of
 * workerd and of Python, which other work on the machine disturbs least; the first answer of a model is wall-clock.
 */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { z } from "zod";
import { inferenceForm, LABELS, manifestFor, photograph, storeModel } from "./bench/inference.ts";
import { detector, mobilenet, type NetworkFiles, nothing, resnet, WEIGHTS_FILE } from "./bench/networks.ts";
import { startBenchServer } from "./bench/server.ts";
import { API, createWorld } from "./bench/world.ts";
import "./gen.ts";

const { values } = parseArgs({ options: { python: { type: "string" }, runs: { type: "string", default: "12" } } });
const runs = Number(values.runs);
if (!Number.isInteger(runs) || runs < 3) throw new Error("--runs is a whole number from 3 on");
const REPLICA_REQUESTS = 8;

/** Answers each line (path of a model, side of its picture) with the milliseconds of one run after one run to warm up. */
const NATIVE = `
import sys, time
import numpy as np
import onnxruntime as ort
sessions = {}
for line in sys.stdin:
    path, side = line.split()
    if path not in sessions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        picture = np.random.default_rng(1).random((1, 3, int(side), int(side)), dtype=np.float32)
        session.run(None, {"input": picture})
        sessions[path] = (session, picture)
    session, picture = sessions[path]
    start = time.process_time()
    session.run(None, {"input": picture})
    print((time.process_time() - start) * 1000, flush=True)
`;

function startNative(python: string) {
  const child = spawn(python, ["-c", NATIVE], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async run(path: string, side: number): Promise<number> {
      child.stdin.write(`${path} ${side}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error(`${python} ended: does it have the package onnxruntime?`);
      return Number(value);
    },
    stop: () => child.stdin.end(),
  };
}

const median = (list: number[]): number => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)] ?? Number.NaN;

type Contestant = { name: string; files: NetworkFiles; manifest: ReturnType<typeof manifestFor>; most: number | null };

const classifier = (name: string) => manifestFor(name, "image_classification", 224, LABELS);
/** `most`: times as long as native, at most. */
const contestants = (): Contestant[] => [
  { name: "no layers (all but the model)", files: nothing(LABELS), manifest: classifier("cnn_small"), most: null },
  { name: "mobilenet_v2, fp32", files: mobilenet("inside", LABELS), manifest: classifier("mobilenetv2_100"), most: 12 },
  { name: "resnet18, int8 weights", files: resnet(18, "int8", LABELS), manifest: classifier("resnet18"), most: 7 },
  { name: "resnet50, int8 weights", files: resnet(50, "int8", LABELS), manifest: classifier("resnet50"), most: null },
  {
    name: "yolov8n size, fp32, 640",
    files: detector("inside", 80),
    manifest: manifestFor("yolov8n", "object_detection", 640, 80),
    most: null,
  },
];

const AnswerSchema = z.object({ inference_time_ms: z.number(), timings: z.object({ load_ms: z.number() }) });

const folder = mkdtempSync(join(tmpdir(), "cultivar-speed-"));
const server = await startBenchServer(folder, {});
const native = values.python === undefined ? null : startNative(values.python);
try {
  const world = await createWorld(server);
  const image = await photograph(640, 480);
  const ask = async (jobId: number) => {
    const response = await fetch(new URL(`${API}/test-inference`, server.app), {
      method: "POST",
      headers: { authorization: `Bearer ${world.userToken}`, "content-type": "multipart/form-data; boundary=speed" },
      body: new Uint8Array(inferenceForm("speed", jobId, image)),
    });
    const text = await response.text();
    if (response.status !== 200) throw new Error(`${response.status} ${text}`);
    return AnswerSchema.parse(JSON.parse(text));
  };
  console.log("| model | first answer ms (loading) | warm ms, median | processor ms | native ms | ratio | target |");
  console.log("| --- | --: | --: | --: | --: | --: | --- |");
  for (const { name, files, manifest, most } of contestants()) {
    const jobId = await world.createJob();
    await storeModel(server, jobId, files, manifest);
    const path = join(folder, name.replaceAll(/[^a-z0-9]/g, ""));
    mkdirSync(path);
    writeFileSync(join(path, "model.onnx"), files.graph);
    if (files.weights) writeFileSync(join(path, WEIGHTS_FILE), files.weights);

    const first = await ask(jobId);
    // The engine compiles in two tiers: the first answers are slow.
    for (let i = 0; i < 3; i += 1) await ask(jobId);
    const [wall, spent, alone]: [number[], number[], number[]] = [[], [], []];
    for (let i = 0; i < runs; i += 1) {
      const before = server.cpuMs();
      const answer = await ask(jobId);
      wall.push(answer.inference_time_ms);
      spent.push((server.cpuMs() ?? Number.NaN) - (before ?? Number.NaN));
      if (native) alone.push(await native.run(join(path, "model.onnx"), manifest.input.width));
    }
    const [processor, single] = [spent.reduce((a, b) => a + b, 0) / spent.length, median(alone)];
    const ratio = processor / single;
    const target = most === null || !native ? "" : `${ratio <= most ? "✓" : "✗"} at most ${most}`;
    console.log(
      `| ${name} | ${first.inference_time_ms.toFixed(0)} (${first.timings.load_ms.toFixed(0)}) | ${median(wall).toFixed(1)} | ` +
        `${processor.toFixed(1)} | ${native ? single.toFixed(1) : "–"} | ${native ? ratio.toFixed(1) : "–"} | ${target} |`,
    );
  }

  // As many objects as there are requests at once: networks of one size, each under a hash of its own.
  const many: number[] = [];
  for (let lane = 0; lane < 4; lane += 1) {
    const jobId = await world.createJob();
    await storeModel(server, jobId, mobilenet("int8", LABELS, 10 + lane), classifier("mobilenetv2_100"));
    for (let i = 0; i < 3; i += 1) await ask(jobId);
    many.push(jobId);
  }
  for (const replicas of [1, 2, 4]) {
    const startedAt = performance.now();
    await Promise.all(
      Array.from({ length: replicas }, async (_, lane) => {
        for (let i = 0; i < REPLICA_REQUESTS / replicas; i += 1) await ask(many[lane] ?? 0);
      }),
    );
    const seconds = (performance.now() - startedAt) / 1000;
    console.log(`${replicas} objects at once: ${(REPLICA_REQUESTS / seconds).toFixed(1)} answers/s`);
  }
  world.close();
} finally {
  native?.stop();
  await server.dispose();
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
}
