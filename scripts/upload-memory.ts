/**
 * How much memory an upload costs the Worker: `npm run check:upload-memory [-- --size-mb 95 --limit-mb 32 --warm-ups 2 --times 3 --in-parts]`.
 * Sends zips to the production bundle in workerd and asks the application's isolate through its inspector what it holds: the
 * JavaScript heap and the buffers behind it, garbage included, which is what counts towards a Worker's 128 MB. Uploads of the same size
 * come first, so that code and buffers are there; what one more adds at its highest must stay below the limit, else the exit
 * code is 1. The process as a whole is no measure: the local stand-ins of R2 and D1 live in it too.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { crc32 } from "node:zlib";
import { z } from "zod";
import type { IsolateMemory } from "./bench/isolate-memory.ts";
import { startBenchServer } from "./bench/server.ts";
import { addUserSql } from "./lib/people.ts";
import "./gen.ts";

const MB = 1_000_000;
const ENTRY_BYTES = 500_000;
const WARM_UPS = 2;
const SAMPLE_MS = 20;
const PERSON = { id: 1, email: "memory@example.com", password: "only for this run", fullName: "Memory", admin: false };

const { values } = parseArgs({
  options: {
    "size-mb": { type: "string", default: "95" },
    "limit-mb": { type: "string", default: "32" },
    "warm-ups": { type: "string", default: String(WARM_UPS) },
    times: { type: "string", default: "3" },
    "in-parts": { type: "boolean", default: false },
  },
});
const [sizeMb, limitMb, times] = [values["size-mb"], values["limit-mb"], values.times].map(Number);
const warmUps = Number(values["warm-ups"]);
if (!sizeMb || !limitMb || !times || sizeMb < 1)
  throw new Error("--size-mb, --limit-mb and --times are positive numbers");

/** A zip of stored pictures in two classes. They share their bytes, so that this process stays small at any size. */
function zipOf(sizeBytes: number): Blob {
  const content = new Uint8Array(ENTRY_BYTES);
  crypto.getRandomValues(content.subarray(0, 65_536));
  content.set([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const shared = new Blob([content]);
  const checksum = crc32(content);
  const [body, directory]: [BlobPart[], BlobPart[]] = [[], []];
  const count = Math.ceil(sizeBytes / ENTRY_BYTES);
  let offset = 0;
  let directoryBytes = 0;
  for (let i = 0; i < count; i++) {
    const name = new TextEncoder().encode(`train/${i % 2 ? "cat" : "dog"}/${i}.png`);
    // The fields that both headers have, from the version on (APPNOTE 4.3.7, 4.3.12).
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt32LE(checksum, 10);
    common.writeUInt32LE(ENTRY_BYTES, 14);
    common.writeUInt32LE(ENTRY_BYTES, 18);
    common.writeUInt16LE(name.length, 22);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(offset, 10);
    body.push(Buffer.from("PK\x03\x04"), common, name, shared);
    directory.push(Buffer.from("PK\x01\x02\x14\x00"), common, tail, name);
    directoryBytes += 46 + name.length;
    offset += 30 + name.length + ENTRY_BYTES;
  }
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", "latin1");
  end.writeUInt16LE(count, 8);
  end.writeUInt16LE(count, 10);
  end.writeUInt32LE(directoryBytes, 12);
  end.writeUInt32LE(offset, 16);
  return new Blob([...body, ...directory, end]);
}

/** Samples the isolate until it is stopped. */
function watch(memory: IsolateMemory) {
  let [highest, samples, stopped] = [0, 0, false];
  const sampling = (async () => {
    while (!stopped) {
      highest = Math.max(highest, await memory.usedBytes());
      samples += 1;
      await delay(SAMPLE_MS);
    }
  })();
  return {
    async stop() {
      stopped = true;
      await sampling;
      return { highest, samples };
    },
  };
}

async function answer<T extends z.ZodType>(response: Response, schema: T): Promise<z.infer<T>> {
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status} ${text}`);
  return schema.parse(JSON.parse(text));
}

const DatasetSchema = z.object({ id: z.string(), file_count: z.number() });
const UploadSchema = z.object({ upload_id: z.string(), part_size: z.number(), parts: z.number() });

const folder = mkdtempSync(join(tmpdir(), "cultivar-memory-"));
const server = await startBenchServer(folder, {}, { inspect: true });
try {
  const sql = await addUserSql(PERSON, Date.now());
  await server.db.batch(
    sql
      .split(";\n")
      .filter((statement) => statement.trim() !== "")
      .map((statement) => server.db.prepare(statement)),
  );
  const api = new URL("/api/v1/", server.app);
  const login = await fetch(new URL("auth/login", api), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ email: PERSON.email, password: PERSON.password }),
  });
  const { access_token } = await answer(login, z.object({ access_token: z.string() }));
  const headers = { authorization: `Bearer ${access_token}` };
  const json = { ...headers, "content-type": "application/json" };

  const inOneRequest = async (zip: Blob) => {
    const form = new FormData();
    form.append("name", "memory");
    form.append("format", "imagefolder");
    form.append("files", zip, "memory.zip");
    return answer(await fetch(new URL("datasets", api), { method: "POST", headers, body: form }), DatasetSchema);
  };
  const inParts = async (zip: Blob) => {
    const body = JSON.stringify({ name: "memory", format: "imagefolder", size_bytes: zip.size });
    const begun = await fetch(new URL("datasets/uploads", api), { method: "POST", headers: json, body });
    const { upload_id: id, part_size: partBytes, parts } = await answer(begun, UploadSchema);
    for (let n = 1; n <= parts; n++) {
      const part = await zip.slice((n - 1) * partBytes, n * partBytes).arrayBuffer();
      const url = new URL(`datasets/uploads/${id}/parts/${n}`, api);
      await answer(await fetch(url, { method: "PUT", headers, body: part }), z.object({ n: z.literal(n) }));
    }
    const sentAt = performance.now();
    const cpuMs = server.cpuMs();
    const completed = await fetch(new URL(`datasets/uploads/${id}/complete`, api), { method: "POST", headers });
    const dataset = await answer(completed, DatasetSchema);
    const used = cpuMs === null ? "" : `, ${(((server.cpuMs() ?? 0) - cpuMs) / 1000).toFixed(1)} s of processor time`;
    console.log(`  completion: ${((performance.now() - sentAt) / 1000).toFixed(1)} s${used}`);
    return dataset;
  };
  const send = values["in-parts"] ? inParts : inOneRequest;
  const { memory } = server;
  if (memory === null) throw new Error("the isolate is not inspected");

  const zip = zipOf(sizeMb * MB);
  const atStart = await memory.usedBytes();
  for (let i = 0; i < warmUps; i++) await send(zip);
  let mostGrowth = 0;
  for (let i = 0; i < times; i++) {
    const startedAt = performance.now();
    const before = await memory.usedBytes();
    const gauge = watch(memory);
    const { file_count } = await send(zip);
    const { highest, samples } = await gauge.stop();
    mostGrowth = Math.max(mostGrowth, highest - before);
    console.log(
      `${(zip.size / MB).toFixed(1)} MB, ${file_count} files: ${((performance.now() - startedAt) / 1000).toFixed(1)} s, ` +
        `${(before / MB).toFixed(1)} MB before it, ${(highest / MB).toFixed(1)} MB at most in ${samples} samples`,
    );
  }
  const growthMb = mostGrowth / MB;
  console.log(
    `the isolate: ${(atStart / MB).toFixed(1)} MB at its start; one upload adds at most ${growthMb.toFixed(1)} MB; limit ${limitMb} MB`,
  );
  process.exitCode = growthMb <= limitMb ? 0 : 1;
} finally {
  await server.dispose();
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
}
