/**
 * How much memory an upload costs the Worker: `npm run check:upload-memory [-- --size-mb 95 --limit-mb 32 --warm-ups 2 --times 3 --in-parts]`.
 * Sends zips to the production bundle in workerd and samples the process. Uploads of the same size
 * come first, so that code and buffers are there; what the next ones add must stay below the limit, else the exit code is 1.
 * workerd runs the local stand-ins of R2 and D1 too: what is counted is more than what a deployed Worker holds. Linux only: it reads `/proc`.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { crc32 } from "node:zlib";
import { z } from "zod";
import { readStat } from "./bench/processor-time.ts";
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

/** Resident memory of our workerd, in bytes. */
function memoryGauge(): () => number {
  const pid = readdirSync("/proc").find((entry) => {
    if (!/^\d+$/.test(entry)) return false;
    try {
      const stat = readStat(readFileSync(`/proc/${entry}/stat`, "utf8"));
      return stat?.parent === process.pid && stat.name.startsWith("workerd");
    } catch {
      return false;
    }
  });
  if (pid === undefined) throw new Error("workerd was not found among the processes");
  return () => 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}

async function answer<T extends z.ZodType>(response: Response, schema: T): Promise<z.infer<T>> {
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status} ${text}`);
  return schema.parse(JSON.parse(text));
}

const DatasetSchema = z.object({ id: z.string(), file_count: z.number() });
const UploadSchema = z.object({ upload_id: z.string(), part_size: z.number(), parts: z.number() });

const folder = mkdtempSync(join(tmpdir(), "cultivar-memory-"));
const server = await startBenchServer(folder, {});
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
  const resident = memoryGauge();

  const zip = zipOf(sizeMb * MB);
  const atStart = resident();
  for (let i = 0; i < warmUps; i++) await send(zip);
  const before = resident();
  let highest = before;
  const sampling = setInterval(() => {
    highest = Math.max(highest, resident());
  }, SAMPLE_MS);
  for (let i = 0; i < times; i++) {
    const startedAt = performance.now();
    const { file_count } = await send(zip);
    console.log(
      `${(zip.size / MB).toFixed(1)} MB, ${file_count} files: ${((performance.now() - startedAt) / 1000).toFixed(1)} s, ` +
        `${(resident() / MB).toFixed(0)} MB after it`,
    );
  }
  clearInterval(sampling);
  const growthMb = (highest - before) / MB;
  console.log(
    `workerd: ${(atStart / MB).toFixed(0)} MB at its start, ${(before / MB).toFixed(0)} MB after the warm-up, ${(highest / MB).toFixed(0)} MB at most: ${growthMb.toFixed(1)} MB more; ` +
      `limit ${limitMb} MB`,
  );
  process.exitCode = growthMb <= limitMb ? 0 : 1;
} finally {
  await server.dispose();
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
}
