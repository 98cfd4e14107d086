import { deflateSync } from "node:zlib";
import { describe, it } from "vitest";
import { concatenate } from "../../../src/shared/memory.ts";
import { decodePng } from "../../../src/training/inference/png.ts";
import { imageFixture, QUARTERS } from "../../support/images/fixtures.ts";
import { type PngSpec, pngChunk, pngHeader, pngRows, writePng } from "../../support/png-writer.ts";

const sample = (max: number) => (x: number, y: number, channel: number) =>
  (x * 37 + y * 101 + channel * 59 + x * y) % (max + 1);

const decoded = (bytes: Uint8Array) => {
  const result = decodePng(bytes);
  if (!result.ok) throw new Error(result.error.message);
  return result.value;
};

const base: PngSpec = { width: 11, height: 9, colourType: 2, depth: 8, sample: sample(255) };

describe("decodePng", () => {
  const kinds = [
    [0, 1],
    [0, 2],
    [0, 4],
    [0, 8],
    [0, 16],
    [2, 8],
    [2, 16],
    [4, 8],
    [4, 16],
    [6, 8],
    [6, 16],
  ] as const;
  const cases = kinds.flatMap(([colourType, depth]) =>
    [false, true].map((interlaced) => ({ colourType, depth, interlaced })),
  );

  it.for(cases)("decodes colour type $colourType, $depth bits, interlaced $interlaced", (kind, { expect }) => {
    const max = 2 ** kind.depth - 1;
    const stored = sample(max);
    // 1 x 1 to 9 x 9 leaves passes of an interlaced file empty in every combination.
    for (const [width, height] of [
      [1, 1],
      [2, 3],
      [5, 1],
      [4, 4],
      [9, 9],
      [17, 6],
    ] as const) {
      const { data, ...size } = decoded(writePng({ ...kind, width, height, sample: stored }));
      expect(size).toEqual({ width, height });
      const to8 = (value: number) => Math.round((value * 255) / max);
      for (let y = 0; y < height; y += 1) {
        for (let x = 0; x < width; x += 1) {
          const channel = (index: number) => to8(stored(x, y, index));
          const grey = kind.colourType === 0 || kind.colourType === 4;
          const alpha = kind.colourType === 4 ? channel(1) : kind.colourType === 6 ? channel(3) : 255;
          const wanted = [channel(0), channel(grey ? 0 : 1), channel(grey ? 0 : 2), alpha];
          expect([...data.subarray((y * width + x) * 4, (y * width + x) * 4 + 4)]).toEqual(wanted);
        }
      }
    }
  });

  it.for([1, 2, 4, 8] as const)(
    "looks up a palette of %i bits, with transparency for some of its entries",
    (depth, { expect }) => {
      const entries = Math.min(2 ** depth, 200);
      const palette = Array.from({ length: entries * 3 }, (_, i) => (i * 7) % 256);
      const index = sample(entries - 1);
      const { data } = decoded(
        writePng({ ...base, colourType: 3, depth, sample: index, palette, transparency: [0, 128] }),
      );
      for (let at = 0; at < 11 * 9; at += 1) {
        const entry = index(at % 11, Math.floor(at / 11), 0);
        const alpha = entry === 0 ? 0 : entry === 1 ? 128 : 255;
        expect([...data.subarray(at * 4, at * 4 + 4)]).toEqual([...palette.slice(entry * 3, entry * 3 + 3), alpha]);
      }
    },
  );

  it("shows an index beyond the palette as black", ({ expect }) => {
    const { data } = decoded(writePng({ ...base, colourType: 3, sample: () => 9, palette: [1, 2, 3] }));
    expect([...data.subarray(0, 4)]).toEqual([0, 0, 0, 255]);
  });

  it("makes the one colour transparent that tRNS names", ({ expect }) => {
    const grey = decoded(writePng({ ...base, colourType: 0, sample: (x) => x, transparency: [0, 3] })).data;
    expect([0, 1, 2, 3, 4].map((x) => grey[x * 4 + 3])).toEqual([255, 255, 255, 0, 255]);
    const rgb = decoded(writePng({ ...base, sample: (x) => x, transparency: [0, 2, 0, 2, 0, 2] })).data;
    expect([0, 1, 2, 3].map((x) => rgb[x * 4 + 3])).toEqual([255, 255, 0, 255]);
  });

  it.for([0, 1, 2, 3, 4])("undoes filter %i alone", (filter, { expect }) => {
    const { data } = decoded(writePng({ ...base, filter: () => filter }));
    expect([...data]).toEqual([...decoded(writePng({ ...base, filter: () => 0 })).data]);
  });

  it("joins data that is cut into many chunks, empty ones among them", ({ expect }) => {
    expect(decoded(writePng({ ...base, parts: 500 })).data).toEqual(decoded(writePng(base)).data);
  });

  it.for(["rgb.png", "palette.png", "interlaced.png"] as const)("reads %s of another encoder", (name, { expect }) => {
    const { data } = decoded(imageFixture(name));
    const at = (x: number, y: number) => [...data.subarray((y * 24 + x) * 4, (y * 24 + x) * 4 + 4)];
    expect(at(0, 0)).toEqual([...QUARTERS.topLeft, 255]);
    expect(at(23, 7)).toEqual([...QUARTERS.topRight, 255]);
    expect(at(15, 8)).toEqual([...QUARTERS.bottomLeft, 255]);
    expect(at(16, 15)).toEqual([...QUARTERS.bottomRight, 255]);
  });

  it("reads the alpha of another encoder", ({ expect }) => {
    expect([...decoded(imageFixture("rgba.png")).data.subarray(0, 4)]).toEqual([...QUARTERS.topLeft, 127]);
  });
});

describe("decodePng on damaged files", () => {
  const damaged = { ok: false, error: { code: "VALIDATION_ERROR", field: "file" } };
  const signature = writePng(base).subarray(0, 8);
  const file = (...chunks: Uint8Array[]) => concatenate([signature, ...chunks]);
  const end = pngChunk("IEND", new Uint8Array(0));
  const header = pngHeader(11, 9, 8, 2);
  const rows = pngRows(base);

  it("refuses a file cut off at any byte", ({ expect }) => {
    const whole = writePng(base);
    for (let length = 8; length < whole.length; length += 1) {
      expect(decodePng(whole.subarray(0, length)), `${length} bytes`).toMatchObject(damaged);
    }
  });

  it("refuses a change of any byte of the picture", ({ expect }) => {
    const whole = writePng(base);
    const dataEnd = whole.length - end.length;
    for (let at = 16; at < dataEnd; at += 1) {
      const changed = whole.slice();
      changed[at] = (changed[at] ?? 0) ^ 0x20;
      const result = decodePng(changed);
      // A changed chunk name hides the chunk; then the picture is missing.
      expect(result, `byte ${at}`).toMatchObject(damaged);
    }
  });

  it.for<[string, Uint8Array]>([
    ["no data", file(header, end)],
    ["no header", file(pngChunk("IDAT", deflateSync(rows)), end)],
    ["two headers", file(header, header, pngChunk("IDAT", deflateSync(rows)), end)],
    ["too little data", file(header, pngChunk("IDAT", deflateSync(rows.subarray(1))), end)],
    ["too much data", file(header, pngChunk("IDAT", deflateSync(concatenate([rows, new Uint8Array(1)]))), end)],
    ["data that is not compressed", file(header, pngChunk("IDAT", rows), end)],
    ["an unknown filter", file(header, pngChunk("IDAT", deflateSync(new Uint8Array(rows.length).fill(9))), end)],
    [
      "a palette image without palette",
      file(pngHeader(4, 4, 8, 3), pngChunk("IDAT", deflateSync(new Uint8Array(20))), end),
    ],
    [
      "a palette of 257 entries",
      file(
        pngHeader(4, 4, 8, 3),
        pngChunk("PLTE", new Uint8Array(771)),
        pngChunk("IDAT", deflateSync(new Uint8Array(20))),
        end,
      ),
    ],
    ["a chunk of 4 GiB", file(header, Uint8Array.from([255, 255, 255, 255, 0x49, 0x44, 0x41, 0x54]), end)],
    ["no end", file(header, pngChunk("IDAT", deflateSync(rows)))],
  ])("refuses a file with %s", ([_, bytes], { expect }) => {
    expect(decodePng(bytes)).toMatchObject(damaged);
  });

  it("stops inflating at the size that the header promises", ({ expect }) => {
    const bomb = deflateSync(new Uint8Array(300_000_000));
    const before = process.memoryUsage().arrayBuffers;
    const started = performance.now();
    expect(decodePng(file(header, pngChunk("IDAT", bomb), end))).toMatchObject(damaged);
    expect(performance.now() - started).toBeLessThan(200);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(10_000_000);
  });

  it("does not look into text and profiles that inflate without end", ({ expect }) => {
    const bomb = deflateSync(new Uint8Array(100_000_000));
    const text = pngChunk("zTXt", concatenate([Uint8Array.from([0x61, 0, 0]), bomb]));
    const profile = pngChunk("iCCP", concatenate([Uint8Array.from([0x61, 0, 0]), bomb]));
    const started = performance.now();
    expect(decodePng(writePng({ ...base, extra: [text, profile] })).ok).toBe(true);
    expect(performance.now() - started).toBeLessThan(200);
  });
});
