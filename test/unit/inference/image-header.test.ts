import { describe, it } from "vitest";
import {
  MAX_IMAGE_BYTES,
  MAX_JPEG_SCANS,
  readImageHeader,
  SHRINKABLE,
} from "../../../src/training/inference/image-header.ts";
import { type FixtureName, fixtureNames, imageFixture } from "../../support/images/fixtures.ts";
import { pngHeader, pngHeaderOnly, writePng } from "../../support/png-writer.ts";

const refused = (message: RegExp | string) => ({
  ok: false,
  error: { code: "VALIDATION_ERROR", field: "file", message: message },
});

const joined = (...parts: (number[] | Uint8Array)[]) => Uint8Array.from(parts.flatMap((part) => [...part]));
const segment = (marker: number, ...content: number[]) => [
  0xff,
  marker,
  (content.length + 2) >> 8,
  (content.length + 2) & 255,
  ...content,
];
const SOI = [0xff, 0xd8];
const EOI = [0xff, 0xd9];
const sof = (width: number, height: number, channels = 3, marker = 0xc0, precision = 8) =>
  segment(
    marker,
    precision,
    height >> 8,
    height & 255,
    width >> 8,
    width & 255,
    channels,
    1,
    0x11,
    0,
    2,
    0x11,
    1,
    3,
    0x11,
    1,
  );
const SOS = segment(0xda, 1, 1, 0, 0, 63, 0);

const riff = (...chunks: (number[] | Uint8Array)[]) => {
  const body = joined(...chunks);
  const head = new Uint8Array(12);
  head.set(new TextEncoder().encode("RIFF"), 0);
  new DataView(head.buffer).setUint32(4, body.length + 4, true);
  head.set(new TextEncoder().encode("WEBP"), 8);
  return joined(head, body);
};
const chunk = (name: string, content: number[]) => [
  ...new TextEncoder().encode(name),
  ...new Uint8Array(Uint32Array.of(content.length).buffer),
  ...content,
  ...(content.length % 2 ? [0] : []),
];
const vp8x = (width: number, height: number, flags = 0) =>
  chunk("VP8X", [flags, 0, 0, 0, ...[width - 1, height - 1].flatMap((n) => [n & 255, (n >> 8) & 255, n >> 16])]);
const vp8 = (width: number, height: number) =>
  chunk("VP8 ", [0x10, 0, 0, 0x9d, 0x01, 0x2a, width & 255, width >> 8, height & 255, height >> 8]);
const vp8l = (width: number, height: number) =>
  chunk("VP8L", [0x2f, ...new Uint8Array(Uint32Array.of((width - 1) | ((height - 1) << 14)).buffer)]);

describe("readImageHeader on real files", () => {
  const good = fixtureNames.filter((name) => !["cmyk.jpg", "animated.webp", "small.gif"].includes(name));

  it.for(good)("reads type and size of %s", (name, { expect }) => {
    const type = name.endsWith(".jpg") ? "jpeg" : name.split(".")[1];
    expect(readImageHeader(imageFixture(name))).toMatchObject({ ok: true, value: { type, width: 24, height: 16 } });
  });

  it.for<[FixtureName, number]>([
    ["grey.jpg", 1],
    ["baseline.jpg", 3],
    ["rgba.png", 4],
    ["palette.png", 1],
    ["lossless.webp", 3],
    ["alpha.webp", 4],
    ["alpha-lossy.webp", 4],
  ])("reads the channels of %s: %i", ([name, channels], { expect }) => {
    expect(readImageHeader(imageFixture(name))).toMatchObject({ ok: true, value: { channels } });
  });

  it.for([1, 2, 3, 4, 5, 6, 7, 8])("reads Exif orientation %i", (orientation, { expect }) => {
    const bytes = imageFixture(`exif-${orientation}.jpg` as FixtureName);
    expect(readImageHeader(bytes)).toMatchObject({ ok: true, value: { orientation } });
  });

  it.for<[FixtureName, RegExp]>([
    ["cmyk.jpg", /CMYK/],
    ["animated.webp", /animated/],
    ["small.gif", /not a JPEG, PNG or WebP/],
  ])("refuses %s with a reason", ([name, message], { expect }) => {
    expect(readImageHeader(imageFixture(name))).toMatchObject(refused(expect.stringMatching(message)));
  });

  it("accepts printing inks where the Images binding reads them", ({ expect }) => {
    expect(readImageHeader(imageFixture("cmyk.jpg"), SHRINKABLE)).toMatchObject({
      ok: true,
      value: { type: "jpeg", channels: 4, width: 24, height: 16 },
    });
  });

  it.for(["baseline.jpg", "progressive.jpg", "lossy.webp", "lossless.webp", "alpha-lossy.webp"] as const)(
    "refuses %s cut off at any byte",
    (name, { expect }) => {
      const bytes = imageFixture(name);
      for (let length = 0; length < bytes.length; length += 1) {
        expect(readImageHeader(bytes.subarray(0, length)).ok, `${length} bytes`).toBe(false);
      }
    },
  );

  it("works on a view into a larger buffer", ({ expect }) => {
    const file = imageFixture("exif-6.jpg");
    const buffer = new Uint8Array(file.length + 20).fill(0xff);
    buffer.set(file, 7);
    expect(readImageHeader(buffer.subarray(7, 7 + file.length))).toEqual(readImageHeader(file));
  });
});

describe("readImageHeader on hostile files", () => {
  it("refuses an empty file and one that is too large without reading it", ({ expect }) => {
    expect(readImageHeader(new Uint8Array(0))).toMatchObject(refused("The image is empty"));
    expect(readImageHeader(new Uint8Array(MAX_IMAGE_BYTES + 1))).toMatchObject(
      refused(expect.stringMatching(/16 MiB/)),
    );
  });

  it.for<[string, string]>([
    ["text", "hello, world, this is not a picture at all"],
    ["SVG", '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'],
    ["HTML", "<!doctype html><script>alert(1)</script>"],
    ["a program", "#!/bin/sh\nexit 0\n"],
    ["a zip", "PK\u0003\u0004aaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
  ])("refuses %s whatever it is called", ([_, text], { expect }) => {
    expect(readImageHeader(new TextEncoder().encode(text))).toMatchObject(refused(expect.stringMatching(/not a JPEG/)));
  });

  it("refuses a PNG that is too long for its pixels to be many", ({ expect }) => {
    expect(readImageHeader(pngHeaderOnly(65_535, 1))).toMatchObject({ ok: true });
    for (const [width, height] of [
      [65_536, 1],
      [1, 65_536],
      [4_000_000, 1],
    ] as const) {
      expect(readImageHeader(pngHeaderOnly(width, height))).toMatchObject(
        refused(expect.stringMatching(/65535 allowed for one side/)),
      );
    }
  });

  it.for<[string, number, number]>([
    ["100,000 x 100,000", 100_000, 100_000],
    ["2^31 - 1 squared", 2 ** 31 - 1, 2 ** 31 - 1],
    ["one pixel high and endless", 4_000_001, 1],
    ["just above the limit", 2001, 2000],
  ])("refuses a PNG of %s from its header", ([_, width, height], { expect }) => {
    expect(readImageHeader(pngHeaderOnly(width, height))).toMatchObject(refused(expect.stringMatching(/megapixels/)));
  });

  it("accepts a PNG of exactly the limit", ({ expect }) => {
    expect(readImageHeader(pngHeaderOnly(2000, 2000))).toMatchObject({
      ok: true,
      value: { width: 2000, height: 2000 },
    });
  });

  it.for<[string, number, number]>([
    ["no width", 0, 5],
    ["no height", 5, 0],
  ])("refuses a PNG with %s", ([_, width, height], { expect }) => {
    expect(readImageHeader(pngHeaderOnly(width, height))).toMatchObject(refused("The image has no pixels"));
  });

  it.for<[number, number]>([
    [3, 2],
    [16, 3],
    [4, 2],
    [8, 1],
    [8, 5],
    [0, 0],
  ])("refuses a PNG of depth %i and colour type %i", ([depth, colourType], { expect }) => {
    const signature = pngHeaderOnly(1, 1).subarray(0, 8);
    const bytes = joined(signature, pngHeader(4, 4, depth, colourType));
    expect(readImageHeader(bytes)).toMatchObject(refused("The PNG header is not valid"));
  });

  it("refuses a PNG whose first chunk is another", ({ expect }) => {
    const bytes = pngHeaderOnly(4, 4);
    bytes.set(new TextEncoder().encode("tEXt"), 12);
    expect(readImageHeader(bytes)).toMatchObject(refused(expect.stringMatching(/IHDR/)));
  });

  it("takes the size from the file, not from what an extended WebP header claims", ({ expect }) => {
    expect(readImageHeader(riff(vp8x(24, 16), vp8(24, 16)))).toMatchObject({
      ok: true,
      value: { width: 24, height: 16 },
    });
    expect(readImageHeader(riff(vp8x(24, 16), vp8(16_383, 16_383)))).toMatchObject(
      refused("The WebP header is not valid"),
    );
    expect(readImageHeader(riff(vp8x(16_777_216, 16_777_216), vp8l(10, 10)))).toMatchObject(
      refused("The WebP header is not valid"),
    );
  });

  it.for<[string, Uint8Array]>([
    ["VP8", riff(vp8(16_383, 16_383))],
    ["VP8L", riff(vp8l(16_384, 16_384))],
    ["VP8X", riff(vp8x(16_383, 16_383), vp8(16_383, 16_383))],
  ])("refuses a huge WebP (%s) from its header", ([_, bytes], { expect }) => {
    expect(readImageHeader(bytes)).toMatchObject(refused(expect.stringMatching(/megapixels/)));
  });

  it.for<[string, Uint8Array, RegExp]>([
    ["of no chunks", riff(), /no picture/],
    ["of a still header without a picture", riff(vp8x(24, 16)), /no picture/],
    ["with a wrong start code", riff(chunk("VP8 ", [0, 0, 0, 1, 2, 3, 4, 5, 6, 7])), /not valid/],
    ["with an inter frame", riff(chunk("VP8 ", [1, 0, 0, 0x9d, 1, 0x2a, 8, 0, 8, 0])), /not valid/],
    ["with a chunk longer than the file", riff([...new TextEncoder().encode("EXIF"), 255, 255, 255, 255]), /truncated/],
    ["of zero width", riff(vp8(0, 16)), /no pixels/],
  ])("refuses a WebP %s", ([_, bytes, message], { expect }) => {
    expect(readImageHeader(bytes)).toMatchObject(refused(expect.stringMatching(message)));
  });

  it.for<[string, Uint8Array, RegExp]>([
    ["65,535 x 65,535", joined(SOI, sof(65_535, 65_535), SOS, EOI), /megapixels/],
    ["no height (DNL)", joined(SOI, sof(10, 0), SOS, EOI), /without a height/],
    ["no width", joined(SOI, sof(0, 10), SOS, EOI), /no pixels/],
    ["two channels", joined(SOI, sof(10, 10, 2), SOS, EOI), /2 channels/],
    ["four channels", joined(SOI, sof(10, 10, 4), SOS, EOI), /CMYK/],
    ["12 bits", joined(SOI, sof(10, 10, 3, 0xc1, 12), SOS, EOI), /12 bits/],
    ["lossless coding", joined(SOI, sof(10, 10, 3, 0xc3), SOS, EOI), /lossless/],
    ["arithmetic coding", joined(SOI, sof(10, 10, 3, 0xc9), SOS, EOI), /arithmetic/],
    ["two headers", joined(SOI, sof(10, 10), sof(60_000, 60_000), SOS, EOI), /two headers/],
    ["data before the header", joined(SOI, SOS, sof(10, 10), EOI), /before its header/],
    ["no data", joined(SOI, sof(10, 10), EOI), /no picture/],
    ["no end", joined(SOI, sof(10, 10), SOS, [1, 2, 3]), /truncated/],
    ["a segment longer than the file", joined(SOI, [0xff, 0xe0, 0xff, 0xff, 1]), /truncated/],
    ["a segment of impossible size", joined(SOI, [0xff, 0xe0, 0, 1], sof(10, 10), SOS, EOI), /truncated/],
    ["nothing but fill bytes", joined(SOI, new Uint8Array(1000).fill(0xff)), /truncated/],
  ])("refuses a JPEG of %s", ([_, bytes, message], { expect }) => {
    expect(readImageHeader(bytes)).toMatchObject(refused(expect.stringMatching(message)));
  });

  it("finds the header of a JPEG behind fill bytes, garbage and a thumbnail that ends", ({ expect }) => {
    const thumbnail = segment(0xe1, ...new TextEncoder().encode("Exif\0\0"), ...SOI, ...sof(5, 5), ...EOI);
    const bytes = joined(
      SOI,
      [0xff, 0xff, 0xff],
      thumbnail.slice(1),
      [1, 2, 3],
      sof(10, 20),
      SOS,
      [7, 0xff, 0, 7],
      EOI,
    );
    expect(readImageHeader(bytes)).toMatchObject({ ok: true, value: { width: 10, height: 20, orientation: 1 } });
  });

  it("refuses a JPEG that repaints itself more often than allowed", ({ expect }) => {
    const scans = (count: number) =>
      joined(SOI, sof(10, 10, 3, 0xc2), ...new Array<number[]>(count).fill([...SOS, 1]), EOI);
    expect(readImageHeader(scans(MAX_JPEG_SCANS)).ok).toBe(true);
    expect(readImageHeader(scans(MAX_JPEG_SCANS + 1))).toMatchObject(refused(expect.stringMatching(/scans/)));
  });

  it.for<[string, number[]]>([
    ["points beyond its end", [0x49, 0x49, 42, 0, 255, 255, 255, 255]],
    ["has no byte order", [1, 2, 42, 0, 8, 0, 0, 0, 1, 0]],
    ["promises more entries than it has", [0x49, 0x49, 42, 0, 8, 0, 0, 0, 255, 255, 1, 1]],
    ["is empty", []],
    ["holds an orientation of 9", [0x4d, 0x4d, 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, 9, 0, 0]],
  ])("takes an Exif block that %s for none", ([_, tiff], { expect }) => {
    const app1 = segment(0xe1, ...new TextEncoder().encode("Exif\0\0"), ...tiff);
    expect(readImageHeader(joined(SOI, app1, sof(10, 20), SOS, EOI))).toMatchObject({
      ok: true,
      value: { orientation: 1 },
    });
  });

  it("never throws, whatever bytes are changed", ({ expect }) => {
    let seed = 1;
    const random = () => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed;
    };
    const files = [
      ...fixtureNames.map(imageFixture),
      writePng({ width: 3, height: 3, colourType: 2, depth: 8, sample: () => 1 }),
    ];
    for (const file of files) {
      for (let round = 0; round < 300; round += 1) {
        const bytes = file.slice();
        for (let change = 0; change < 4; change += 1) bytes[random() % bytes.length] = random() & 255;
        const result = readImageHeader(bytes.subarray(0, random() % (bytes.length + 1)));
        if (result.ok) expect(result.value.width * result.value.height).toBeLessThanOrEqual(5_000_000);
        else expect(result.error.field).toBe("file");
      }
    }
  });
});
