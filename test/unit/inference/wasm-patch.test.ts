import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { describe, it } from "vitest";
import { clearSharedMemory, importMemory, replaceFunctions } from "../../../scripts/lib/wasm-patch.ts";

const require = createRequire(import.meta.url);
const header = [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
const section = (id: number, ...content: number[]) => [id, content.length, ...content];
const moduleOf = (...sections: number[][]) => Uint8Array.from([...header, ...sections.flat()]);
/** import "m" "n" memory with these limits */
const memoryImport = (...limits: number[]) => section(2, 1, 1, 0x6d, 1, 0x6e, 2, ...limits);

describe("clearSharedMemory", () => {
  it("changes one byte of the runtime's binary and nothing else", ({ expect }) => {
    const source = readFileSync(require.resolve("onnxruntime-web/ort-wasm-simd-threaded.wasm"));
    const product = clearSharedMemory(source);
    expect(product.length).toBe(source.length);
    expect([...product.filter((byte, at) => byte !== source[at])]).toEqual([1]);
  });

  it("finds the memory behind imports of every kind", ({ expect }) => {
    const wasm = moduleOf(
      section(1, 1, 0x60, 0, 0),
      section(
        2,
        5,
        ...[1, 0x6d, 1, 0x61, 0, 0], // function of type 0
        ...[1, 0x6d, 1, 0x62, 1, 0x70, 0, 1], // table, minimum
        ...[1, 0x6d, 1, 0x63, 1, 0x70, 1, 1, 2], // table, minimum and maximum
        ...[1, 0x6d, 1, 0x64, 3, 0x7f, 0], // global
        ...[1, 0x6d, 1, 0x65, 2, 3, 1, 2], // shared memory
      ),
    );
    const product = clearSharedMemory(wasm);
    expect(WebAssembly.Module.imports(new WebAssembly.Module(product)).map(({ kind }) => kind)).toEqual([
      "function",
      "table",
      "table",
      "global",
      "memory",
    ]);
    expect(product.at(-3)).toBe(1);
  });

  it.for([
    ["memory that is not shared", moduleOf(memoryImport(1, 1, 2))],
    ["no import section", moduleOf()],
    ["no memory among the imports", moduleOf(section(2, 1, 1, 0x6d, 1, 0x64, 3, 0x7f, 0))],
    ["an unknown import kind", moduleOf(section(2, 1, 1, 0x6d, 1, 0x64, 9))],
    ["a cut-off section", moduleOf(memoryImport(3, 1, 2)).slice(0, -3)],
    ["a name longer than the file", moduleOf(section(2, 1, 0x7f, 0x6d))],
    ["a number that never ends", moduleOf(section(2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))],
    ["another format", new TextEncoder().encode("not a module")],
  ] as [string, Uint8Array][])("refuses %s", ([, wasm], { expect }) => {
    expect(() => clearSharedMemory(wasm)).toThrow(/^wasm: /);
  });
});

describe("importMemory", () => {
  it.for(["@jsquash/jpeg/codec/dec/mozjpeg_dec.wasm", "@jsquash/webp/codec/dec/webp_dec.wasm"])(
    "lets %s take a memory from outside",
    (path, { expect }) => {
      const source = readFileSync(require.resolve(path));
      const { wasm, minimumPages } = importMemory(source);
      const before = new WebAssembly.Module(source);
      const after = new WebAssembly.Module(wasm);
      expect(WebAssembly.Module.exports(after)).toEqual(WebAssembly.Module.exports(before));
      expect(WebAssembly.Module.imports(after)).toEqual([
        ...WebAssembly.Module.imports(before),
        { module: "env", name: "memory", kind: "memory" },
      ]);
      expect(minimumPages).toBeGreaterThan(0);
    },
  );

  it("gives the memory that was passed in to the instance", ({ expect }) => {
    // (memory 1 4) exported as "m", a function exported as "f" that stores 42 at address 0, one imported function
    const wasm = moduleOf(
      section(1, 1, 0x60, 0, 0),
      section(2, 1, 1, 0x6d, 1, 0x61, 0, 0),
      section(3, 1, 0),
      section(5, 1, 1, 1, 4),
      section(7, 2, 1, 0x6d, 2, 0, 1, 0x66, 0, 1),
      section(10, 1, 9, 0, 0x41, 0, 0x41, 42, 0x36, 2, 0, 0x0b),
    );
    const product = importMemory(wasm);
    expect(product.minimumPages).toBe(1);
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 2 });
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(product.wasm), {
      m: { a: () => undefined },
      env: { memory },
    });
    expect(exports.m).toBe(memory);
    (exports.f as () => void)();
    expect(new Uint8Array(memory.buffer)[0]).toBe(42);
  });

  it.for([
    ["no memory", moduleOf(memoryImport(1, 1, 2))],
    ["no imports", moduleOf(section(5, 1, 1, 1, 4))],
    ["a memory without maximum", moduleOf(section(2, 0), section(5, 1, 0, 1))],
  ] as [string, Uint8Array][])("refuses a module with %s", ([, wasm], { expect }) => {
    expect(() => importMemory(wasm)).toThrow(/^wasm: /);
  });
});

describe("replaceFunctions", () => {
  const sha256Of = (...body: number[]) => createHash("sha256").update(Uint8Array.from(body)).digest("hex");
  /** A body without locals that answers a number. */
  const answer = (value: number) => [0, 0x41, value, 0x0b];
  const body = (bytes: number[]) => [bytes.length, ...bytes];
  const NUMBER = [0x60, 0, 1, 0x7f];
  const NOTHING = [0x60, 0, 0];

  // One imported function, two of its own, "f" and "g", that answer 1 and 2.
  const wasm = moduleOf(
    section(1, 2, ...NOTHING, ...NUMBER),
    section(2, 1, 1, 0x6d, 1, 0x61, 0, 0),
    section(3, 2, 1, 1),
    section(7, 2, 1, 0x66, 0, 1, 1, 0x67, 0, 2),
    section(10, 2, ...body(answer(1)), ...body(answer(2))),
  );
  // A memory exported as "mew", then "new", which answers 42, and "none", which answers nothing.
  const kernel = moduleOf(
    section(1, 2, ...NUMBER, ...NOTHING),
    section(2, 0),
    section(3, 2, 0, 1),
    section(5, 1, 0, 1),
    section(7, 3, 3, 0x6d, 0x65, 0x77, 2, 0, 3, 0x6e, 0x65, 0x77, 0, 0, 4, 0x6e, 0x6f, 0x6e, 0x65, 0, 1),
    section(10, 2, ...body(answer(42)), ...body([0, 0x0b])),
  );
  const second = { index: 2, sha256: sha256Of(...answer(2)), by: "new" };

  it("puts one body in place of another and leaves the rest", ({ expect }) => {
    const product = replaceFunctions(wasm, kernel, [second]);
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(product), { m: { a: () => undefined } });
    expect([(exports.f as () => number)(), (exports.g as () => number)()]).toEqual([1, 42]);
    expect(replaceFunctions(wasm, kernel, [])).toEqual(wasm);
  });

  it.for([
    ["a body that is not the expected one", { ...second, index: 1 }, /function 1 has the hash .*, expected/],
    ["another type", { ...second, by: "none" }, /none has another type than function 2/],
    ["an imported function", { ...second, index: 0 }, /no function 0/],
    ["a function that is not there", { ...second, index: 3 }, /no function 3/],
    ["an export that is not there", { ...second, by: "old" }, /no function old is exported/],
  ] as const)("refuses %s", ([_, replacement, message], { expect }) => {
    expect(() => replaceFunctions(wasm, kernel, [replacement])).toThrow(message);
  });
});
