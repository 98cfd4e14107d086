import { crc32, deflateSync } from "node:zlib";
import { describe, it } from "vitest";
import { decodePng } from "../../../src/training/inference/png.ts";

/** A grey picture of `width` x `height`, each row without a filter; `extraBytes` more data than it needs. */
function png(width: number, height: number, extraBytes = 0): Uint8Array {
  const rows = new Uint8Array((width + 1) * height + extraBytes);
  for (let row = 0; row < height; row += 1) rows.fill(row % 251, row * (width + 1) + 1, (row + 1) * (width + 1));
  const uint32 = (value: number): Uint8Array => {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value);
    return bytes;
  };
  const chunk = (name: string, content: Uint8Array): number[] => {
    const named = new Uint8Array([...new TextEncoder().encode(name), ...content]);
    return [...uint32(content.length), ...named, ...uint32(crc32(named))];
  };
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header[8] = 8;
  const signature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
  return new Uint8Array([
    ...signature,
    ...chunk("IHDR", header),
    ...chunk("IDAT", deflateSync(rows)),
    ...chunk("IEND", new Uint8Array(0)),
  ]);
}

describe("PNG in the Worker's own runtime", () => {
  it("decodes pictures of every size", ({ expect }) => {
    // Rows of 100 bytes: from 1 kB to 1.5 MB of unpacked data, closer than the runtime's buffer grows.
    for (let height = 10; height < 15_000; height = Math.ceil(height * 1.1)) {
      const decoded = decodePng(png(99, height));
      if (!decoded.ok) throw new Error(`${height} rows: ${decoded.error.message}`);
      expect(decoded.value.data.length).toBe(99 * height * 4);
      expect(decoded.value.data[(height - 1) * 99 * 4]).toBe((height - 1) % 251);
    }
  });

  it("refuses data that unpack to more than the picture", ({ expect }) => {
    for (const extraBytes of [1, 1_000, 10_000_000]) {
      const decoded = decodePng(png(99, 900, extraBytes));
      expect(decoded).toMatchObject({ ok: false, error: { message: expect.stringContaining("its data") } });
    }
  });
});
