import { readFileSync } from "node:fs";
import { createRowKernel, type RowKernel } from "../../../src/training/inference/row-kernel.ts";

/** The Worker's way of resizing rows, under Node. The module is made by `npm run gen`; throws where that was not run. */
export const loadRowKernel = (): RowKernel =>
  createRowKernel(new WebAssembly.Module(readFileSync(new URL("../../../vendor/row-kernel.wasm", import.meta.url))));
