import { createHash } from "node:crypto";
import { concatenate } from "../../src/shared/memory.ts";

/**
 * Small, exact edits of published WebAssembly binaries. Pure: bytes in, new bytes out.
 *
 * Those of memories exist because of one rule of the platform: the linear memory of a module never shrinks and is not given
 * back when its instance is dropped. So the Worker wants to own the memory, with a maximum, and to use it again.
 * Layout of the format: WebAssembly Core Specification, chapter 5 "Binary Format".
 */

const MAGIC = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
const SECTION = { type: 1, import: 2, function: 3, memory: 5, export: 7, code: 10 } as const;
/** What a type begins with that is one of a function. */
const FUNCTION_TYPE = 0x60;
const EXTERNAL = { function: 0, table: 1, memory: 2, global: 3 } as const;
/** Limits flags: bit 0 = a maximum is given, bit 1 = shared between threads. */
const LIMITS_MAX = 1;
const LIMITS_MAX_SHARED = 3;

/** Reads bytes forward; every read past the end is an error, so a cut-off file cannot pass. */
class Reader {
  readonly bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, at = 0) {
    this.bytes = bytes;
    this.at = at;
  }

  byte(): number {
    const value = this.bytes[this.at];
    if (value === undefined) throw new Error(`wasm: unexpected end at byte ${this.at}`);
    this.at += 1;
    return value;
  }

  /** Unsigned LEB128, at most 32 bits. */
  u32(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new Error(`wasm: number longer than 32 bits at byte ${this.at}`);
  }

  skip(count: number): void {
    if (this.at + count > this.bytes.length) throw new Error(`wasm: unexpected end at byte ${this.bytes.length}`);
    this.at += count;
  }
}

interface Section {
  id: number;
  /** First byte of the section, its id. */
  start: number;
  /** First byte of the content. */
  content: number;
  end: number;
}

function sections(bytes: Uint8Array): Section[] {
  if (!MAGIC.every((byte, at) => bytes[at] === byte)) throw new Error("wasm: not a version 1 module");
  const reader = new Reader(bytes, MAGIC.length);
  const found: Section[] = [];
  while (reader.at < bytes.length) {
    const start = reader.at;
    const id = reader.byte();
    const size = reader.u32();
    const content = reader.at;
    reader.skip(size);
    found.push({ id, start, content, end: reader.at });
  }
  return found;
}

function sectionOf(bytes: Uint8Array, name: keyof typeof SECTION): Section {
  const section = sections(bytes).find(({ id }) => id === SECTION[name]);
  if (!section) throw new Error(`wasm: no ${name} section`);
  return section;
}

function skipLimits(reader: Reader): void {
  const flags = reader.u32();
  reader.u32();
  if (flags & 1) reader.u32();
}

/** What a module imports: the kind of each, and the offset of what follows the kind. */
function importsOf(bytes: Uint8Array): { kind: number; at: number }[] {
  const reader = new Reader(bytes, sectionOf(bytes, "import").content);
  return Array.from({ length: reader.u32() }, () => {
    reader.skip(reader.u32()); // module name
    reader.skip(reader.u32()); // field name
    const kind = reader.byte();
    const { at } = reader;
    if (kind === EXTERNAL.function) reader.u32();
    else if (kind === EXTERNAL.global) reader.skip(2);
    else if (kind === EXTERNAL.memory) skipLimits(reader);
    else if (kind === EXTERNAL.table) {
      reader.skip(1);
      skipLimits(reader);
    } else throw new Error(`wasm: unknown import kind ${kind} at byte ${at - 1}`);
    return { kind, at };
  });
}

/** Offset of the limits flag of the first imported memory. */
function importedMemoryFlagAt(bytes: Uint8Array): number {
  const memory = importsOf(bytes).find(({ kind }) => kind === EXTERNAL.memory);
  if (!memory) throw new Error("wasm: no memory is imported");
  return memory.at;
}

function checked(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (!WebAssembly.validate(bytes)) throw new Error("wasm: the edited module does not validate");
  return bytes;
}

/**
 * Turns the shared memory that a module imports into a plain one: the same bytes but for one flag. Atomic
 * instructions are valid on plain memory; only waiting would trap, and a single thread never waits.
 * Fails when the module imports no memory, or one that is not shared.
 */
export function clearSharedMemory(wasm: Uint8Array): Uint8Array<ArrayBuffer> {
  const at = importedMemoryFlagAt(wasm);
  if (wasm[at] !== LIMITS_MAX_SHARED) throw new Error(`wasm: memory flag is ${wasm[at]}, expected 3 (shared)`);
  const edited = Uint8Array.from(wasm);
  edited[at] = LIMITS_MAX;
  return checked(edited);
}

function leb(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return [...bytes, rest];
    bytes.push((rest & 0x7f) | 0x80);
  }
}

function name(text: string): number[] {
  const bytes = [...new TextEncoder().encode(text)];
  return [...leb(bytes.length), ...bytes];
}

function makeSection(id: number, parts: readonly Uint8Array[]): Uint8Array {
  const content = concatenate(parts);
  return concatenate([Uint8Array.from([id, ...leb(content.length)]), content]);
}

/** The module with other sections in place of those of some ids. */
function withSections(wasm: Uint8Array, others: Record<number, readonly Uint8Array[]>): Uint8Array<ArrayBuffer> {
  const kept = sections(wasm).flatMap(({ id, start, end }) => others[id] ?? [wasm.subarray(start, end)]);
  return checked(concatenate([wasm.subarray(0, MAGIC.length), ...kept]));
}

/**
 * Makes a module that defines its memory import it instead, as `env.memory`. One memory then outlives many instances: an
 * instance left in an unknown state by a failed call is replaced and the memory is zeroed and used again. Exports of the
 * memory keep working. Fails when the module does not define exactly one memory or when it has no import section.
 * @param pages least pages of 64 KiB that the memory must have, where the published minimum is a reserve that the module's
 *   own allocator would also ask for when it needs it; static data and the stack have to fit. Absent: the published minimum
 */
export function importMemory(
  wasm: Uint8Array,
  pages?: number,
): { wasm: Uint8Array<ArrayBuffer>; minimumPages: number } {
  const memory = sectionOf(wasm, "memory");
  const imports = sectionOf(wasm, "import");

  const limits = new Reader(wasm, memory.content);
  const count = limits.u32();
  const flags = limits.u32();
  const published = limits.u32();
  const minimumPages = Math.min(pages ?? published, published);
  if (count !== 1 || flags !== LIMITS_MAX) throw new Error(`wasm: unexpected memory (${count} with flags ${flags})`);
  const maximumPages = limits.u32();

  const old = new Reader(wasm, imports.content);
  const importCount = old.u32();
  const entry = [...name("env"), ...name("memory"), EXTERNAL.memory, flags, ...leb(minimumPages), ...leb(maximumPages)];
  const content = [...leb(importCount + 1), ...wasm.subarray(old.at, imports.end), ...entry];

  const edited = withSections(wasm, {
    [SECTION.memory]: [],
    [SECTION.import]: [makeSection(SECTION.import, [Uint8Array.from(content)])],
  });
  return { wasm: edited, minimumPages };
}

/** The functions that a module defines itself: their types, and their bodies without the length before each. */
function functionsOf(bytes: Uint8Array): { firstIndex: number; types: Uint8Array[]; bodies: Uint8Array[] } {
  const types = new Reader(bytes, sectionOf(bytes, "type").content);
  const known = Array.from({ length: types.u32() }, () => {
    const { at } = types;
    if (types.byte() !== FUNCTION_TYPE) throw new Error(`wasm: unknown type at byte ${at}`);
    types.skip(types.u32()); // parameters
    types.skip(types.u32()); // results
    return bytes.subarray(at, types.at);
  });
  const used = new Reader(bytes, sectionOf(bytes, "function").content);
  const code = new Reader(bytes, sectionOf(bytes, "code").content);
  const count = used.u32();
  if (code.u32() !== count) throw new Error("wasm: not a body for each function");
  return {
    firstIndex: importsOf(bytes).filter(({ kind }) => kind === EXTERNAL.function).length,
    types: Array.from({ length: count }, () => known[used.u32()] ?? new Uint8Array(0)),
    bodies: Array.from({ length: count }, () => {
      const length = code.u32();
      const { at } = code;
      code.skip(length);
      return bytes.subarray(at, code.at);
    }),
  };
}

/** Index of an exported function. */
function exportedFunction(bytes: Uint8Array, name: string): number {
  const reader = new Reader(bytes, sectionOf(bytes, "export").content);
  for (let left = reader.u32(); left > 0; left -= 1) {
    const length = reader.u32();
    const found = new TextDecoder().decode(bytes.subarray(reader.at, reader.at + length));
    reader.skip(length);
    const kind = reader.byte();
    const index = reader.u32();
    if (kind === EXTERNAL.function && found === name) return index;
  }
  throw new Error(`wasm: no function ${name} is exported`);
}

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean =>
  a.length === b.length && a.every((byte, at) => byte === b[at]);

export interface Replacement {
  /** Index of the function whose body is replaced. */
  index: number;
  /** Hash of the body that is expected there, in hexadecimal: another binary has other things at its index. */
  sha256: string;
  /** Export of `kernel` whose body takes its place. */
  by: string;
}

/**
 * Puts bodies of functions of another module in place of some of this one's. A body is taken over as it is, so all that it may
 * refer to by number is what has the same number in both: the memory, and the globals that the kernel imports. Fails when a
 * replaced body is not the one that was expected, or when the types differ.
 */
export function replaceFunctions(
  wasm: Uint8Array,
  kernel: Uint8Array,
  replacements: readonly Replacement[],
): Uint8Array<ArrayBuffer> {
  const { firstIndex, types, bodies } = functionsOf(wasm);
  const own = functionsOf(kernel);
  for (const { index, sha256, by } of replacements) {
    const at = index - firstIndex;
    const [type, body] = [types[at], bodies[at]];
    const from = exportedFunction(kernel, by) - own.firstIndex;
    const [newType, newBody] = [own.types[from], own.bodies[from]];
    if (!type || !body || !newType || !newBody) throw new Error(`wasm: no function ${index}, or none for ${by}`);
    const found = createHash("sha256").update(body).digest("hex");
    if (found !== sha256) throw new Error(`wasm: function ${index} has the hash ${found}, expected ${sha256}`);
    if (!sameBytes(type, newType)) throw new Error(`wasm: ${by} has another type than function ${index}`);
    bodies[at] = newBody;
  }
  const parts = bodies.flatMap((body) => [Uint8Array.from(leb(body.length)), body]);
  return withSections(wasm, {
    [SECTION.code]: [makeSection(SECTION.code, [Uint8Array.from(leb(bodies.length)), ...parts])],
  });
}
