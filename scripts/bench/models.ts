import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { classifier, inferenceForm, LABELS, manifestFor, photograph, storeModel } from "./inference.ts";
import type { NativeRuntime } from "./native.ts";
import { detector, mobilenet, type NetworkFiles, nothing, resnet, WEIGHTS_FILE } from "./networks.ts";
import { renderTable, type Verdict } from "./report.ts";
import { median } from "./statistics.ts";
import { API, type World } from "./world.ts";

/**
 * Models in the Worker beside ONNX Runtime with one thread on the same file, in turns: what other work the machine has hits
 * both alike. Times are processor time of the two processes but for the first answer and the warm one, which are wall-clock.
 */

type Contestant = {
  name: string;
  files: () => NetworkFiles;
  /**
   * The same network with float weights. ONNX Runtime does not fold the conversion of int8 weights but repeats it in each run:
   * only this file shows what it can do.
   */
  asFloat: (() => NetworkFiles) | null;
  manifest: ReturnType<typeof manifestFor>;
  target: Target | null;
};

/** The most that an answer may take: in runs of ONNX Runtime, or in milliseconds. */
type Target = { timesNative: number } | { warmMs: number };

export type ModelRow = Pick<Contestant, "name" | "target"> & {
  /** Wall-clock milliseconds of the first answer, and the part in which the model was loaded. */
  firstMs: number;
  loadMs: number;
  /** Median of the wall-clock time of a warm model's answer. */
  warmMs: number;
  /** Processor time of one answer; null where that cannot be told. */
  processorMs: number | null;
  /** Median of one run of the same file; null without ONNX Runtime. */
  nativeMs: number | null;
  /** The same for the file with float weights. */
  nativeFloatMs: number | null;
};

const CONTESTANTS: Contestant[] = [
  {
    name: "no layers (all but the model)",
    files: () => nothing(LABELS),
    asFloat: null,
    manifest: classifier("cnn_small"),
    target: { warmMs: 15 },
  },
  {
    name: "mobilenet_v2, fp32",
    files: () => mobilenet("inside", LABELS),
    asFloat: null,
    manifest: classifier("mobilenetv2_100"),
    target: { timesNative: 12 },
  },
  {
    name: "resnet18, int8 weights",
    files: () => resnet(18, "int8", LABELS),
    asFloat: () => resnet(18, "external", LABELS),
    manifest: classifier("resnet18"),
    target: { timesNative: 7 },
  },
  {
    name: "resnet50, int8 weights",
    files: () => resnet(50, "int8", LABELS),
    asFloat: () => resnet(50, "external", LABELS),
    manifest: classifier("resnet50"),
    target: null,
  },
  {
    name: "yolov8n size, fp32, 640",
    files: () => detector("inside", 80),
    asFloat: null,
    manifest: manifestFor("yolov8n", "object_detection", 640, 80),
    target: null,
  },
];

/** The engine compiles in tiers, by what was run how often: the first answers are slow. */
const WARM_UP_MS = 2_000;

const AnswerSchema = z.object({ inference_time_ms: z.number(), timings: z.object({ load_ms: z.number() }) });

function writeFiles(folder: string, { graph, weights }: NetworkFiles): string {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, "model.onnx");
  writeFileSync(path, graph);
  if (weights) writeFileSync(join(folder, WEIGHTS_FILE), weights);
  return path;
}

/**
 * Measures each model on a 640 x 480 JPEG.
 * @param folder for the files that ONNX Runtime reads
 * @param runs answers of the warm model
 */
export async function measureModels(
  world: World,
  native: NativeRuntime | null,
  { folder, runs, say }: { folder: string; runs: number; say: (text: string) => void },
): Promise<ModelRow[]> {
  const image = await photograph(640, 480);
  const ask = async (jobId: number) => {
    const response = await fetch(new URL(`${API}/test-inference`, world.server.app), {
      method: "POST",
      headers: { authorization: `Bearer ${world.userToken}`, "content-type": "multipart/form-data; boundary=models" },
      body: new Uint8Array(inferenceForm("models", jobId, image)),
    });
    const text = await response.text();
    if (response.status !== 200) throw new Error(`${response.status} ${text}`);
    return AnswerSchema.parse(JSON.parse(text));
  };
  const rows: ModelRow[] = [];
  for (const [place, { name, files, asFloat, manifest, target }] of CONTESTANTS.entries()) {
    say(name);
    const jobId = await world.createJob();
    const made = files();
    await storeModel(world.server, jobId, made, manifest);
    const path = native && writeFiles(join(folder, `${place}`), made);
    const floatPath = native && asFloat && writeFiles(join(folder, `${place}-float`), asFloat());
    const side = manifest.input.width;
    if (native && path) await native.run(path, side);
    if (native && floatPath) await native.run(floatPath, side);

    const first = await ask(jobId);
    const warmAtMs = performance.now() + WARM_UP_MS;
    do await ask(jobId);
    while (performance.now() < warmAtMs);
    const [warm, alone, aloneFloat]: [number[], number[], number[]] = [[], [], []];
    let processorMs: number | null = 0;
    for (let i = 0; i < runs; i += 1) {
      const before = world.server.cpuMs();
      const answer = await ask(jobId);
      const after = world.server.cpuMs();
      warm.push(answer.inference_time_ms);
      processorMs = processorMs === null || before === null || after === null ? null : processorMs + after - before;
      if (native && path) alone.push(await native.run(path, side));
      if (native && floatPath) aloneFloat.push(await native.run(floatPath, side));
    }
    rows.push({
      name,
      target,
      firstMs: first.inference_time_ms,
      loadMs: first.timings.load_ms,
      warmMs: median(warm),
      processorMs: processorMs === null ? null : processorMs / runs,
      nativeMs: alone.length === 0 ? null : median(alone),
      nativeFloatMs: aloneFloat.length === 0 ? null : median(aloneFloat),
    });
  }
  return rows;
}

/** None of next to nothing: it would say how long the request itself takes. */
const quotient = (of: number | null, by: number | null) => (of === null || by === null || by < 1 ? null : of / by);
const show = (value: number | null, digits = 1) => (value === null ? "–" : value.toFixed(digits));

/** Whether the row's target is met, by the file on which ONNX Runtime is fastest; null when that cannot be said. */
export function modelVerdict({ target, warmMs, processorMs, nativeMs, nativeFloatMs }: ModelRow): Verdict | null {
  if (target === null) return null;
  if ("warmMs" in target) return { met: warmMs <= target.warmMs, text: `at most ${target.warmMs} ms` };
  const ratios = [quotient(processorMs, nativeMs), quotient(processorMs, nativeFloatMs)].filter((one) => one !== null);
  if (ratios.length === 0) return null;
  return { met: Math.max(...ratios) <= target.timesNative, text: `at most ${target.timesNative}` };
}

const verdictOf = (row: ModelRow): string => {
  const verdict = modelVerdict(row);
  return verdict === null ? "" : `${verdict.met ? "✓" : "✗"} ${verdict.text}`;
};

const HEAD = [
  "model",
  "first answer ms (loading)",
  "warm ms, median",
  "processor ms",
  "native ms",
  "ratio",
  "native fp32 ms",
  "ratio to it",
  "target",
];

/** The table, for a terminal or as Markdown. A target counts against the native file that is fastest. */
export function renderModels(rows: ModelRow[], markdown: boolean): string {
  const cells = rows.map((row) => [
    row.name,
    `${show(row.firstMs, 0)} (${show(row.loadMs, 0)})`,
    show(row.warmMs),
    show(row.processorMs),
    show(row.nativeMs),
    show(quotient(row.processorMs, row.nativeMs)),
    show(row.nativeFloatMs),
    show(quotient(row.processorMs, row.nativeFloatMs)),
    verdictOf(row),
  ]);
  return renderTable(HEAD, cells, markdown);
}

export const MODELS_NOTE =
  "Processor time of one answer (a 640 x 480 JPEG; decoding and the request itself included) beside one run of onnxruntime-node, " +
  "one thread, same file, in turns. It repeats the conversion of int8 weights in each run, so those stand beside the float " +
  "file too, and targets count against the faster one.";
