/**
 * What inference costs the Worker in memory: `npm run check:inference-memory [-- --requests 200 --limit-mb 128]`.
 * Sends mixed requests to the production bundle in one workerd process: six models that do not fit into memory together, pictures
 * of all sizes, damaged files, models that must not run. Every answer is compared with the first one of the same model and
 * picture, and the isolate is asked through its inspector what it holds: JavaScript heap, the buffers behind it, Wasm memories.
 * Two figures: the highest while requests run, garbage included, which local workerd collects late because it has no limit of
 * its own; and what was held after twenty requests when garbage had been collected. Exit code 1 when one of them is more than the
 * limit, or an answer is wrong.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { crc32, deflateSync } from "node:zlib";
import { z } from "zod";
import { classifier, inferenceForm, LABELS, manifestFor, photograph, storeModel } from "./bench/inference.ts";
import type { IsolateMemory } from "./bench/isolate-memory.ts";
import { detector, generator, mobilenet, type NetworkFiles, nothing, resnet } from "./bench/networks.ts";
import { startBenchServer } from "./bench/server.ts";
import { API, createWorld } from "./bench/world.ts";
import "./gen.ts";

const MB = 1_000_000;
const SAMPLE_MS = 50;
/** Requests between two collections of garbage: as few as possible, for production does not collect more often either. */
const EVERY = 20;

const { values } = parseArgs({
  options: { requests: { type: "string", default: "200" }, "limit-mb": { type: "string", default: "128" } },
});
const [requests, limitMb] = [values.requests, values["limit-mb"]].map(Number);
if (!requests || !limitMb) throw new Error("--requests and --limit-mb are positive numbers");

const chunk = (type: string, data: Uint8Array) => {
  const body = Buffer.concat([Buffer.from(type), data]);
  const [head, tail] = [Buffer.alloc(4), Buffer.alloc(4)];
  head.writeUInt32BE(data.length);
  tail.writeUInt32BE(crc32(body));
  return Buffer.concat([head, body, tail]);
};
/** An 8-bit RGB PNG; without pixels when there are no rows. */
function png(width: number, height: number, rows: Uint8Array | null): Uint8Array {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const data = rows ? [chunk("IDAT", deflateSync(rows, { level: 1 }))] : [];
  return Buffer.concat([signature, chunk("IHDR", header), ...data, chunk("IEND", Buffer.alloc(0))]);
}

type Picture = { name: string; bytes: Uint8Array; status: number; code?: string };

async function pictures(): Promise<Picture[]> {
  const small = await photograph(640, 480);
  const random = generator(3);
  const rows = new Uint8Array((1 + 1_500 * 3) * 1_000);
  for (let at = 0; at < rows.length; at += 1) rows[at] = at % 4_501 === 0 ? 0 : (at / 97 + 20 * random()) & 255;
  const refused = { status: 422, code: "VALIDATION_ERROR" };
  return [
    { name: "0.3 MP JPEG", bytes: small, status: 200 },
    { name: "0.3 MP JPEG", bytes: small, status: 200 },
    { name: "1.5 MP PNG", bytes: png(1_500, 1_000, rows), status: 200 },
    { name: "5 MP JPEG", bytes: await photograph(2_576, 1_932), status: 200 },
    { name: "12 MP JPEG", bytes: await photograph(4_032, 3_024), status: 200 },
    { name: "cut JPEG", bytes: small.subarray(0, small.length / 2), ...refused },
    { name: "scrambled JPEG", bytes: small.map((byte, at) => (at > 700 && at % 50 === 0 ? 0xff : byte)), status: 0 },
    { name: "no picture", bytes: Buffer.from("this is no picture"), ...refused },
    { name: "36 MP PNG without pixels", bytes: png(6_000, 6_000, null), ...refused },
    { name: "PNG above 50 MP", bytes: png(8_000, 6_251, null), ...refused },
    { name: "4 MP PNG without pixels", bytes: png(2_000, 2_000, null), ...refused },
  ];
}

/** Six models, of which no more than two or three fit into memory together. */
const models = (): { name: string; files: NetworkFiles; manifest: ReturnType<typeof manifestFor> }[] => [
  { name: "mobilenet fp32", files: mobilenet("inside", LABELS), manifest: classifier("mobilenetv2_100") },
  { name: "mobilenet int8", files: mobilenet("int8", LABELS, 2), manifest: classifier("mobilenetv2_100") },
  { name: "resnet18 int8", files: resnet(18, "int8", LABELS), manifest: classifier("resnet18") },
  { name: "resnet50 int8", files: resnet(50, "int8", LABELS), manifest: classifier("resnet50") },
  {
    name: "yolov8n fp32, 640",
    files: detector("inside", 80),
    manifest: manifestFor("yolov8n", "object_detection", 640, 80),
  },
  { name: "one layer", files: nothing(LABELS), manifest: classifier("cnn_small") },
];

const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);

/** Samples the isolate until it is stopped. */
function watch(memory: IsolateMemory) {
  let [highest, stopped] = [0, false];
  const sampling = (async () => {
    while (!stopped) {
      highest = Math.max(highest, await memory.usedBytes());
      await delay(SAMPLE_MS);
    }
  })();
  return async () => {
    stopped = true;
    await sampling;
    return highest;
  };
}

const mb = (bytes: number): string => (bytes / MB).toFixed(1);

const AnswerSchema = z.object({ predictions: z.array(z.unknown()), predicted_boxes: z.array(z.unknown()).optional() });
const ProblemSchema = z.object({ code: z.string() });

const folder = mkdtempSync(join(tmpdir(), "cultivar-memory-"));
const server = await startBenchServer(folder, {}, { inspect: true });
try {
  const { memory } = server;
  if (memory === null) throw new Error("the isolate is not inspected");
  const world = await createWorld(server);
  const atStart = await memory.usedBytes();
  const shots = await pictures();
  const jobs: { name: string; jobId: number; status: number }[] = [];
  for (const { name, files, manifest } of models()) {
    const jobId = await world.createJob();
    await storeModel(server, jobId, files, manifest);
    jobs.push({ name, jobId, status: 200 });
  }
  const tooLarge = await world.createJob();
  await storeModel(server, tooLarge, resnet(18, "external", LABELS), classifier("resnet18"));
  jobs.push({ name: "resnet18 fp32, 47 MB", jobId: tooLarge, status: 503 });
  const broken = await world.createJob();
  const { graph } = mobilenet("inside", LABELS, 3);
  await storeModel(
    server,
    broken,
    { graph: graph.slice(0, graph.length / 2), weights: null },
    classifier("mobilenetv2_100"),
  );
  jobs.push({ name: "half a model", jobId: broken, status: 422 });

  const random = generator(11);
  const pick = <T>(list: readonly T[]): T => {
    const chosen = list[Math.floor(((random() + 1) / 2) * list.length)];
    if (chosen === undefined) throw new Error("nothing to choose from");
    return chosen;
  };
  const firstAnswers = new Map<string, string>();
  const tally = new Map<string, number>();
  const wrong: string[] = [];
  const highest: number[] = [];
  const held: number[] = [];
  let wasm: number[] = [];
  let compared = 0;
  const startedAt = performance.now();
  for (let n = 0; n < requests; n += 1) {
    // Most go to a model that runs, and most of those with a picture that can be read.
    const isBadModel = n % 10 === 7;
    const job = pick(isBadModel ? jobs.slice(6) : jobs.slice(0, 6));
    const shot = pick(isBadModel || n % 3 > 0 ? shots.slice(0, 5) : shots);
    const boundary = `memory-${n}`;
    const stop = watch(memory);
    const response = await fetch(new URL(`${API}/test-inference`, server.app), {
      method: "POST",
      headers: {
        authorization: `Bearer ${world.userToken}`,
        "content-type": `multipart/form-data; boundary=${boundary}`,
      },
      body: new Blob([new Uint8Array(inferenceForm(boundary, job.jobId, shot.bytes))]),
    });
    const text = await response.text();
    highest.push(await stop());
    if (n % EVERY === EVERY - 1) {
      wasm = await memory.wasmBytes();
      held.push(sum(wasm) + (await memory.usedBytes()));
      const heap = `${mb(held.at(-1) ?? 0)} MB, of which Wasm ${wasm.map(mb).join(" + ")}`;
      console.log(`${n + 1} requests: ${heap}; at most ${mb(Math.max(...highest) + sum(wasm))} MB with garbage`);
    }
    // Of a bad picture and a bad model either may be said first.
    const expected = [shot.status, job.status].filter((status) => status !== 200);
    const fine = expected.length === 0 ? [200] : shot.status === 0 ? [200, 422, job.status] : expected;
    const label = `${job.name} x ${shot.name}`;
    if (!fine.includes(response.status)) wrong.push(`${label}: ${response.status} ${text.slice(0, 200)}`);
    const outcome =
      response.status === 200 ? "200" : `${response.status} ${ProblemSchema.safeParse(JSON.parse(text)).data?.code}`;
    tally.set(outcome, (tally.get(outcome) ?? 0) + 1);
    if (response.status !== 200) continue;
    const { predictions, predicted_boxes } = AnswerSchema.parse(JSON.parse(text));
    const said = JSON.stringify([predictions, predicted_boxes]);
    const first = firstAnswers.get(label);
    if (first === undefined) firstAnswers.set(label, said);
    else {
      compared += 1;
      if (first !== said) wrong.push(`${label}: another answer than the first time`);
    }
  }
  const seconds = (performance.now() - startedAt) / 1000;
  console.log(
    `${requests} requests in ${seconds.toFixed(0)} s: ${[...tally].map(([k, v]) => `${v} x ${k}`).join(", ")}`,
  );
  console.log(`${compared} answers compared with the first of their kind, ${wrong.length} wrong`);
  for (const line of wrong.slice(0, 10)) console.log(`  ${line}`);
  const [peak, kept] = [Math.max(...highest) + sum(wasm), Math.max(...held)];
  console.log(
    `the isolate: ${mb(atStart)} MB at its start; at most ${mb(peak)} MB while requests ran, garbage included; ` +
      `at most ${mb(kept)} MB after ${EVERY} of them, ${mb(held[0] ?? 0)} the first time and ${mb(held.at(-1) ?? 0)} the last; limit ${limitMb} MB`,
  );
  process.exitCode = wrong.length === 0 && Math.max(peak, kept) / MB <= limitMb ? 0 : 1;
  world.close();
} finally {
  await server.dispose();
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
}
