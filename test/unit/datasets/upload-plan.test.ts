import { describe, it } from "vitest";
import {
  MAX_UPLOAD_BYTES,
  missingParts,
  PART_BYTES,
  partCount,
  partSize,
} from "../../../src/training/datasets/uploads/plan.ts";

describe("the plan of an upload in parts", () => {
  it("cuts every size into whole parts and one rest, with nothing over and nothing left", ({ expect }) => {
    for (const size of [1, 9, 10, 11, 19, 20, 21, 95, 100]) {
      const count = partCount(size, 10);
      const sizes = Array.from({ length: count }, (_, i) => partSize(size, 10, i + 1) ?? 0);
      expect(sizes.reduce((sum, part) => sum + part, 0)).toBe(size);
      expect(sizes.slice(0, -1).every((part) => part === 10)).toBe(true);
      expect(sizes.every((part) => part > 0)).toBe(true);
    }
  });

  it("has no part 0, no part beyond the last and no half part", ({ expect }) => {
    for (const n of [0, -1, 4, 1.5, Number.NaN, Number.POSITIVE_INFINITY])
      expect(partSize(25, 10, n), `${n}`).toBeNull();
    expect(partSize(25, 10, 3)).toBe(5);
  });

  it("stays within what storage takes: 10,000 parts of at least 5 MiB", ({ expect }) => {
    expect(PART_BYTES).toBeGreaterThanOrEqual(5 * 1024 * 1024);
    expect(partCount(MAX_UPLOAD_BYTES, PART_BYTES)).toBeLessThanOrEqual(10_000);
  });

  it("names the missing parts as ranges", ({ expect }) => {
    expect(missingParts(3, [3, 1, 2])).toBe("");
    expect(missingParts(1, [])).toBe("1");
    expect(missingParts(9, [1, 4, 6, 6, 12])).toBe("2-3, 5, 7-9");
    expect(missingParts(10_000, [])).toBe("1-10000");
  });
});
