import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { describe, it } from "vitest";
import { patchDecoderGlue } from "../../../scripts/lib/glue-patch.ts";

const require = createRequire(import.meta.url);
const COPY = "for(var i=0;i<length;++i){HEAPU8[ptr+i]=value[i]}";
const GLOBAL = "emval_get_global()[name]";

describe("patchDecoderGlue", () => {
  it.for(["@jsquash/jpeg/codec/dec/mozjpeg_dec.js", "@jsquash/webp/codec/dec/webp_dec.js"])(
    "changes two places of %s and nothing else",
    (name, { expect }) => {
      const published = readFileSync(require.resolve(name), "utf8");
      const patched = patchDecoderGlue(published);
      expect(patched.replace("HEAPU8.set(value,ptr)", COPY).replace('Module["globals"][name]', GLOBAL)).toBe(published);
      expect(patched).not.toContain(COPY);
      expect(patched).not.toContain(GLOBAL);
    },
  );

  it.for([
    ["lacks the copy", GLOBAL, COPY],
    ["lacks the search", COPY, GLOBAL],
    ["has the copy twice", COPY + GLOBAL + COPY, COPY],
    ["has the search twice", COPY + GLOBAL + GLOBAL, GLOBAL],
  ] as const)("refuses glue that %s", ([_, text, missed], { expect }) => {
    expect(() => patchDecoderGlue(text)).toThrow(missed);
  });
});
