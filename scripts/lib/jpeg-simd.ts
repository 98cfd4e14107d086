import { readFileSync } from "node:fs";
import { assemble } from "./assemble.ts";
import { type Replacement, replaceFunctions } from "./wasm-patch.ts";

/** What `jpeg-simd.wat` replaces in `mozjpeg_dec.wasm` of @jsquash/jpeg 1.6.0. */
const REPLACED: readonly Replacement[] = [
  { by: "idct", index: 191, sha256: "94261f06a71c2a6eb23967f37f47872ea6d188b5b6e87abd49db965ebfa09889" },
  { by: "toRgba", index: 118, sha256: "a2ab52c105e03e26a79c876eb0cf17ee48a16fd837e409c9db40aff77aec918a" },
];

/** The published JPEG decoder with its two functions that are worth it done by SIMD. @throws for any other binary */
export const withSimd = async (decoder: Uint8Array): Promise<Uint8Array<ArrayBuffer>> =>
  replaceFunctions(decoder, await assemble(readFileSync(new URL("jpeg-simd.wat", import.meta.url), "utf8")), REPLACED);
