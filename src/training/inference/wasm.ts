import rowKernelModule from "../../../vendor/row-kernel.wasm";
import { createRowKernel } from "./row-kernel.ts";

/** The WebAssembly half of inference, in one module so that it is loaded at once, with the first image. */

export { codecMemoryBytes, decodeImage } from "./codecs.ts";
export { OnnxModel, onnxMemoryBytes, restartRuntime } from "./onnx-runtime.ts";

/** One for the isolate: it holds nothing from one image to the next. */
export const rowKernel = createRowKernel(rowKernelModule);
