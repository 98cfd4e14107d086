import { describe, it } from "vitest";
import { release } from "../../../src/shared/memory.ts";

describe("release", () => {
  it("takes the memory away from the array and its buffer", ({ expect }) => {
    const pixels = new Uint8ClampedArray(1_000).fill(7);
    const { buffer } = pixels;
    release(pixels);
    expect([pixels.length, buffer.byteLength, buffer.detached]).toEqual([0, 0, true]);
  });

  it("leaves a part of a buffer alone: the rest may be somebody else's", ({ expect }) => {
    const whole = new Uint8Array([1, 2, 3, 4]);
    release(whole.subarray(1, 3));
    release(whole.subarray(1));
    expect([...whole]).toEqual([1, 2, 3, 4]);
  });

  it("does nothing to one that is empty or was released before", ({ expect }) => {
    const floats = new Float32Array(8);
    release(floats);
    expect(() => release(floats)).not.toThrow();
    expect(() => release(new Uint8Array(0))).not.toThrow();
  });
});
