import { createHash } from "node:crypto";
import { deflateRawSync } from "node:zlib";
import { describe, it } from "vitest";
import { fail, ok } from "../../../src/shared/result.ts";
import { readZipDirectory, type ZipProblem } from "../../../src/training/datasets/zip/directory.ts";
import { type VerifiedEntry, verifyZip } from "../../../src/training/datasets/zip/verify.ts";
import { type MadeEntry, makeZip } from "../../support/make-zip.ts";

const sha256 = (content: string | Uint8Array) => createHash("sha256").update(content).digest("hex");

/** A stream over bytes in chunks, which counts how much was read and whether it was let go. */
const streamOf = (bytes: Uint8Array, chunkBytes = 1 << 16) => {
  const seen = { bytes: 0, cancelled: false };
  const stream = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        const chunk = bytes.subarray(seen.bytes, seen.bytes + chunkBytes);
        if (chunk.length === 0) {
          controller.close();
          return;
        }
        seen.bytes += chunk.length;
        controller.enqueue(chunk);
      },
      cancel() {
        seen.cancelled = true;
      },
    },
    { highWaterMark: 0 },
  );
  return { stream, seen };
};

async function verify(zip: Uint8Array, options: { chunkBytes?: number; keep?: (path: string) => boolean } = {}) {
  const directory = await readZipDirectory(async (at, length) => zip.slice(at, at + length), zip.length);
  if (!directory.ok) throw new Error(`directory: ${directory.error.message}`);
  const { stream, seen } = streamOf(zip, options.chunkBytes);
  const entries: VerifiedEntry[] = [];
  const result = await verifyZip<ZipProblem>(
    stream,
    directory.value.entries,
    options.keep ?? (() => false),
    (entry) => {
      entries.push(entry);
      return ok(undefined);
    },
  );
  return { result, entries, seen };
}

const refusal = async (zip: Uint8Array) => {
  const { result } = await verify(zip);
  return result.ok ? null : result.error.message;
};

/** A byte stream: its readers lend one buffer again and again, as those of R2 objects do. */
const byteStreamOf = (bytes: Uint8Array, chunkBytes: number) => {
  let at = 0;
  return new ReadableStream({
    type: "bytes",
    pull(controller) {
      const chunk = bytes.slice(at, at + chunkBytes);
      at += chunk.length;
      if (chunk.length > 0) controller.enqueue(chunk);
      else {
        controller.close();
        controller.byobRequest?.respond(0);
      }
    },
  });
};

const noise = (length: number) => {
  const bytes = new Uint8Array(length);
  let state = 12345;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[i] = state >>> 16;
  }
  return bytes;
};

describe("verifyZip", () => {
  const entries: MadeEntry[] = [
    { name: "a/", content: "" },
    { name: "a/text.json", content: '{"x": 1}'.repeat(50) },
    { name: "a/stored.png", content: noise(3_000), method: 0 },
    { name: "b/descriptor.png", content: noise(2_000), descriptor: true },
    { name: "b/zip64.png", content: noise(500), zip64: true },
    { name: "b/empty.txt", content: "" },
    { name: "b/empty-deflated.txt", content: "", method: 8 },
    { name: "b/extra.png", content: "x", localExtra: new Uint8Array([9, 9, 4, 0, 1, 2, 3, 4]) },
    { name: "__MACOSX/litter", content: "left out" },
    { name: "사진/고양이.png", content: "meow" },
  ];

  for (const chunkBytes of [1, 7, 64, 1_000, 1 << 20]) {
    it(`hashes every entry, read in chunks of ${chunkBytes}`, async ({ expect }) => {
      const zip = makeZip(entries);
      const { result, entries: verified } = await verify(zip, { chunkBytes });
      expect(result.ok).toBe(true);
      const expected = entries.filter((e) => !/\/$|MACOSX/.test(String(e.name)));
      expect(verified.map((v) => [v.entry.path, v.sha256])).toEqual(
        expected.map((e) => [e.name, sha256(e.content ?? "")]),
      );
      for (const v of verified) {
        const data = zip.slice(v.dataOffset, v.dataOffset + v.entry.compressedSizeBytes);
        const made = expected.find((e) => e.name === v.entry.path);
        const content = made?.content ?? "";
        expect(Buffer.from(data), v.entry.path).toEqual(
          Buffer.from(v.entry.method === 8 ? deflateRawSync(content) : content),
        );
      }
    });
  }

  for (const chunkBytes of [5, 999, 1 << 16]) {
    it(`hashes every entry of a byte stream in chunks of ${chunkBytes}, large entries too`, async ({ expect }) => {
      const more = [...entries, { name: "large.bin", content: noise(chunkBytes < 100 ? 2_000 : 3_000_000) }];
      const zip = makeZip([...more, { name: "last.txt", content: "end" }]);
      const directory = await readZipDirectory(async (at, length) => zip.slice(at, at + length), zip.length);
      if (!directory.ok) throw new Error("sound zip expected");
      const hashes = new Map<string, string>();
      const stream = byteStreamOf(zip, chunkBytes);
      const result = await verifyZip<ZipProblem>(
        stream,
        directory.value.entries,
        () => false,
        (v) => {
          hashes.set(v.entry.path, v.sha256);
          return ok(undefined);
        },
      );
      expect(result).toEqual({ ok: true, value: undefined });
      for (const { name, content } of more) {
        const hash = hashes.get(String(name));
        if (hash !== undefined) expect(hash, String(name)).toBe(sha256(content ?? ""));
      }
      expect(hashes.size).toBe(10);
    });
  }

  it("hands out the content of wanted entries and the first bytes of all", async ({ expect }) => {
    const { entries: verified } = await verify(makeZip(entries), { keep: (path) => path.endsWith(".json") });
    const json = verified.find((v) => v.entry.path === "a/text.json");
    expect(new TextDecoder().decode(json?.content ?? undefined)).toBe('{"x": 1}'.repeat(50));
    expect(new TextDecoder().decode(json?.head)).toBe('{"x": 1}{"x": 1}');
    expect(verified.filter((v) => v.content !== null)).toHaveLength(1);
    expect(verified.find((v) => v.entry.path === "b/empty.txt")?.head).toHaveLength(0);
    expect(verified.find((v) => v.entry.path === "a/stored.png")?.head).toEqual(noise(3_000).subarray(0, 16));
  });

  it("unpacks large entries in a stream: packed above 1 MiB, and unpacked above 8 MiB", async ({ expect }) => {
    const incompressible = noise(3_000_000);
    const roomy = new Uint8Array(12_000_000);
    const { result, entries: verified } = await verify(
      makeZip([
        { name: "noise.bin", content: incompressible },
        { name: "zeros.bin", content: roomy },
        { name: "after.txt", content: "still aligned" },
      ]),
      { keep: (path) => path === "after.txt" },
    );
    expect(result.ok).toBe(true);
    expect(verified.map((v) => v.sha256)).toEqual([sha256(incompressible), sha256(roomy), sha256("still aligned")]);
  });

  it("stops at a failure of the visitor and lets go of the stream", async ({ expect }) => {
    const zip = makeZip(Array.from({ length: 50 }, (_, i) => ({ name: `${i}`, content: noise(5_000), method: 0 })));
    const directory = await readZipDirectory(async (at, length) => zip.slice(at, at + length), zip.length);
    if (!directory.ok) throw new Error("sound zip expected");
    const { stream, seen } = streamOf(zip, 1_000);
    let visits = 0;
    const result = await verifyZip(
      stream,
      directory.value.entries,
      () => false,
      () => {
        visits++;
        return visits === 3 ? fail("STOP", "enough") : ok(undefined);
      },
    );
    expect(result).toMatchObject({ ok: false, error: { code: "STOP" } });
    expect(visits).toBe(3);
    expect(seen).toMatchObject({ cancelled: true });
    expect(seen.bytes).toBeLessThan(20_000);
  });

  it("passes on a failure of the storage instead of blaming the zip", async ({ expect }) => {
    for (const content of [noise(100_000), noise(3_000_000)]) {
      const zip = makeZip([{ name: "a", content }]);
      const directory = await readZipDirectory(async (at, length) => zip.slice(at, at + length), zip.length);
      if (!directory.ok) throw new Error("sound zip expected");
      let sent = false;
      const broken = new ReadableStream<Uint8Array>({
        pull(controller) {
          if (sent) controller.error(new Error("store is down"));
          else controller.enqueue(zip.subarray(0, 60_000));
          sent = true;
        },
      });
      const pass = verifyZip(
        broken,
        directory.value.entries,
        () => false,
        () => ok(undefined),
      );
      await expect(pass).rejects.toThrow("store is down");
    }
  });
});

describe("a zip that lies", () => {
  const large = noise(3_000_000);

  it("about an unpacked size that is too small is stopped at that size", async ({ expect }) => {
    for (const content of [new Uint8Array(100_000), new Uint8Array(9_000_000), large]) {
      const size = content.length - 1;
      const zip = makeZip([{ name: "bomb.png", content, method: 8, directory: { size }, local: { size } }]);
      expect(await refusal(zip)).toBe('"bomb.png" unpacks to more than the zip says');
    }
  });

  it("about a size of zero is stopped", async ({ expect }) => {
    const zip = makeZip([
      { name: "b", content: new Uint8Array(1e6), method: 8, directory: { size: 0 }, local: { size: 0 } },
    ]);
    expect(await refusal(zip)).toBe('"b" unpacks to more than the zip says');
  });

  it("about an unpacked size that is too large is found out", async ({ expect }) => {
    for (const content of ["small", large]) {
      const size = content.length + 1;
      const zip = makeZip([{ name: "a", content, method: 8, directory: { size }, local: { size } }]);
      expect(await refusal(zip)).toBe('"a" unpacks to another size than the zip says');
    }
  });

  it("about a checksum is found out, stored, deflated or large", async ({ expect }) => {
    for (const entry of [{ content: "abc", method: 0 }, { content: "abc".repeat(100) }, { content: large }]) {
      const zip = makeZip([{ name: "a", ...entry, directory: { crc: 1 }, local: { crc: 1 } }]);
      expect(await refusal(zip)).toBe('"a" does not match its checksum');
    }
  });

  it("in one place of two is found out: name, method, sizes, checksum, flags, signature", async ({ expect }) => {
    const other = new TextEncoder().encode("x.png");
    for (const local of [
      { name: other },
      { name: new TextEncoder().encode("much longer.png") },
      { method: 0 },
      { size: 1 },
      { compressedSize: 1 },
      { crc: 1 },
      { flags: 1 },
      { flags: 8 },
      { signature: 0x02014b50 },
    ]) {
      const zip = makeZip([{ name: "a.png", content: "content", local }]);
      expect(await refusal(zip), JSON.stringify(local)).toBe(
        '"a.png" is described differently in the zip\'s directory and before its data',
      );
    }
  });

  it("about its data being deflated is found out, small or large", async ({ expect }) => {
    expect(await refusal(makeZip([{ name: "a", content: "abc", method: 8, packed: noise(50) }]))).toBe(
      '"a" cannot be unpacked',
    );
    const zip = makeZip([{ name: "a", content: large, method: 8, packed: noise(2_000_000) }]);
    expect(await refusal(zip)).toMatch(/"a" (cannot be unpacked|unpacks to)/);
    const cut = deflateRawSync(large).subarray(0, 2_000_000);
    expect(await refusal(makeZip([{ name: "a", content: large, method: 8, packed: cut }]))).toMatch(
      /"a" unpacks to another size/,
    );
  });

  it("about the end of its data is found out, small or large", async ({ expect }) => {
    for (const content of ["abc", large]) {
      const packed = Buffer.concat([deflateRawSync(content), noise(100)]);
      expect(await refusal(makeZip([{ name: "a", content, method: 8, packed }]))).toBe(
        '"a" has other bytes behind its packed data',
      );
    }
  });

  it("by any single changed byte is refused or reads exactly the same content", async ({ expect }) => {
    const zip = makeZip([
      { name: "a.png", content: "content of a, long enough to be deflated, deflated, deflated" },
      { name: "b.png", content: "content of b", method: 0 },
    ]);
    const sound = (await verify(zip)).entries.map((v) => v.sha256);
    for (let at = 0; at < zip.length; at++) {
      const broken = zip.slice();
      broken[at] = (broken[at] ?? 0) ^ 0x41;
      const directory = await readZipDirectory(
        async (from, length) => broken.slice(from, from + length),
        broken.length,
      );
      if (!directory.ok) continue;
      const hashes: string[] = [];
      const result = await verifyZip(
        streamOf(broken).stream,
        directory.value.entries,
        () => false,
        (v) => {
          hashes.push(v.sha256);
          return ok(undefined);
        },
      );
      if (result.ok) expect(hashes, `byte ${at}`).toEqual(sound);
    }
  });
});
