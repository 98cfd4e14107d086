import { describe, it } from "vitest";
import { decodeImage } from "../../../src/training/inference/codecs.ts";
import { readImageHeader } from "../../../src/training/inference/image-header.ts";
import type { Pixels } from "../../../src/training/inference/preprocess.ts";
import { type FixtureName, imageFixture, QUARTERS } from "../../support/images/fixtures.ts";

/** Decodes a fixture; what its header says may be changed. */
function decode<T>(name: FixtureName, use: (pixels: Pixels) => T, changes: { width?: number } = {}) {
  const bytes = imageFixture(name);
  const header = readImageHeader(bytes);
  if (!header.ok) throw new Error(header.error.message);
  return decodeImage(bytes, { ...header.value, ...changes }, use);
}

/** The pixel in the middle of the upper left quarter. */
const corner = ({ data, width }: Pixels) => [...data.slice((4 * width + 8) * 4, (4 * width + 8) * 4 + 3)];

const near = (actual: number[], wanted: number[]) =>
  actual.every((value, i) => Math.abs(value - (wanted[i] ?? 0)) < 12);

describe("decodeImage", () => {
  it.for(["baseline.jpg", "progressive.jpg", "lossy.webp", "lossless.webp", "rgb.png"] as FixtureName[])(
    "hands over the pixels of %s and answers what was made of them",
    async (name, { expect }) => {
      const decoded = await decode(name, (pixels) => ({ size: [pixels.width, pixels.height], corner: corner(pixels) }));
      if (!decoded.ok) throw new Error(decoded.error.message);
      expect(decoded.value.size).toEqual([24, 16]);
      expect(near(decoded.value.corner, QUARTERS.topLeft)).toBe(true);
    },
  );

  it.for(["baseline.jpg", "lossy.webp"] as const)(
    "lets through what goes wrong with the pixels of %s, and decodes the next image",
    async (name, { expect }) => {
      const wrong = decode(name, () => {
        throw new RangeError("no room for a tensor");
      });
      await expect(wrong).rejects.toThrow(new RangeError("no room for a tensor"));
      const next = await decode(name, corner);
      expect(next.ok && near(next.value, QUARTERS.topLeft)).toBe(true);
    },
  );

  it.for(["baseline.jpg", "lossy.webp"] as const)(
    "does not hand over pixels of %s that its header did not promise",
    async (name, { expect }) => {
      let isUsed = false;
      const decoded = await decode(
        name,
        () => {
          isUsed = true;
        },
        { width: 23 },
      );
      expect(decoded).toMatchObject({ ok: false, error: { code: "VALIDATION_ERROR", field: "file" } });
      expect(isUsed).toBe(false);
    },
  );
});
