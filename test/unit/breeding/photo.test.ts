import { describe, it } from "vitest";
import { MAX_PHOTO_PIXELS, photoSvg, readPhotoHeader } from "../../../src/breeding/images/photo.ts";
import { type FixtureName, imageFixture } from "../../support/images/fixtures.ts";

/** A PNG that is only a header of this size. */
function pngHeader(width: number, height: number): Uint8Array {
  const bytes = Uint8Array.from(imageFixture("rgb.png"));
  const view = new DataView(bytes.buffer);
  view.setUint32(16, width);
  view.setUint32(20, height);
  return bytes;
}

describe("the header of an uploaded picture", () => {
  it.for([
    ["rgb.png", { type: "png", width: 24, height: 16, orientation: 1 }],
    ["interlaced.png", { type: "png", width: 24, height: 16, orientation: 1 }],
    ["baseline.jpg", { type: "jpeg", width: 24, height: 16, orientation: 1 }],
    ["progressive.jpg", { type: "jpeg", width: 24, height: 16, orientation: 1 }],
  ] as const)("%s", ([name, header], { expect }) => {
    expect(readPhotoHeader(imageFixture(name))).toEqual({ ok: true, value: header });
  });

  it("has the orientation that a camera wrote", ({ expect }) => {
    const orientations = [1, 2, 3, 4, 5, 6, 7, 8].map((n) => {
      const header = readPhotoHeader(imageFixture(`exif-${n}.jpg` as FixtureName));
      return header.ok ? header.value.orientation : null;
    });
    expect(orientations).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it("refuses what is no PNG or JPEG, whatever it is called", ({ expect }) => {
    for (const bytes of [
      new Uint8Array(),
      new TextEncoder().encode("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
      imageFixture("small.gif"),
      imageFixture("lossy.webp"),
    ]) {
      expect(readPhotoHeader(bytes)).toMatchObject({ ok: false, error: { code: "VALIDATION_ERROR" } });
    }
  });

  it("refuses huge and empty pictures from the header, before anything is decoded", ({ expect }) => {
    expect(readPhotoHeader(pngHeader(100_000, 100_000)).ok).toBe(false);
    expect(readPhotoHeader(pngHeader(0, 10)).ok).toBe(false);
    expect(readPhotoHeader(pngHeader(MAX_PHOTO_PIXELS / 1_000, 1_000)).ok).toBe(true);
    expect(readPhotoHeader(pngHeader(MAX_PHOTO_PIXELS / 1_000 + 1, 1_000)).ok).toBe(false);
  });

  it("never throws and never accepts, wherever a file is cut off or damaged", ({ expect }) => {
    for (const name of ["exif-6.jpg", "progressive.jpg", "rgb.png"] as const) {
      const whole = imageFixture(name);
      for (let length = 0; length < Math.min(whole.length, 400); length++) {
        const header = readPhotoHeader(whole.subarray(0, length));
        if (header.ok) expect(header.value.width * header.value.height).toBe(384);
      }
    }
  });

  it("refuses a JPEG that repaints itself without end", ({ expect }) => {
    const jpeg = imageFixture("progressive.jpg");
    const scans = new Uint8Array(2 * 200).map((_, i) => (i % 2 === 0 ? 0xff : 0xda));
    const bomb = new Uint8Array([...jpeg, ...scans]);
    expect(readPhotoHeader(jpeg).ok).toBe(true);
    expect(readPhotoHeader(bomb).ok).toBe(false);
  });
});

describe("a picture drawn upright", () => {
  it("swaps the sides of a picture that lies on its side, and bounds its size", ({ expect }) => {
    const bytes = Uint8Array.of(1, 2, 3);
    const svg = photoSvg(bytes, { type: "jpeg", width: 3000, height: 1000, orientation: 6 });
    expect(svg).toContain('width="341" height="1024" viewBox="0 0 1000 3000"');
    expect(svg).toContain("matrix(0 1 -1 0 1000 0)");
    expect(svg).toContain('href="data:image/jpeg;base64,AQID"');
    expect(photoSvg(bytes, { type: "png", width: 20, height: 10, orientation: 1 })).toContain('width="20" height="10"');
  });

  it("fills a square where one is asked for", ({ expect }) => {
    const svg = photoSvg(Uint8Array.of(1), { type: "jpeg", width: 768, height: 512, orientation: 1 }, 640);
    expect(svg).toContain('width="640" height="640" viewBox="0 0 768 512" preserveAspectRatio="xMidYMid slice"');
  });
});
