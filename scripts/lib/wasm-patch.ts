/**
 * Small, exact edits of published WebAssembly binaries. Pure: bytes in, new bytes out.
 *
 * Both edits exist because of one rule of the platform: the linear memory of a module never shrinks and is not given
 * back when its instance is dropped. So the Worker wants to own the memory, with a maximum, and to use it again.
 * Layout of the format: WebAssembly Core Specification, chapter 5 "Binary Format".
 */

const MAGIC = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
const SECTION = { import: 2, memory: 5 } as const;
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

/** Offset of the limits flag of the first imported memory. */
function importedMemoryFlagAt(bytes: Uint8Array): number {
  const section = sections(bytes).find((candidate) => candidate.id === SECTION.import);
  if (!section) throw new Error("wasm: no import section");
  const reader = new Reader(bytes, section.content);
  for (let left = reader.u32(); left > 0; left -= 1) {
    reader.skip(reader.u32()); // module name
    reader.skip(reader.u32()); // field name
    const kind = reader.byte();
    if (kind === EXTERNAL.memory) return reader.at;
    if (kind === EXTERNAL.function) reader.u32();
    else if (kind === EXTERNAL.global) reader.skip(2);
    else if (kind === EXTERNAL.table) {
      reader.skip(1);
      const flags = reader.u32();
      reader.u32();
      if (flags & 1) reader.u32();
    } else throw new Error(`wasm: unknown import kind ${kind} at byte ${reader.at - 1}`);
  }
  throw new Error("wasm: no memory is imported");
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

function makeSection(id: number, content: number[]): Uint8Array {
  return Uint8Array.from([id, ...leb(content.length), ...content]);
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
  const all = sections(wasm);
  const memory = all.find((section) => section.id === SECTION.memory);
  const imports = all.find((section) => section.id === SECTION.import);
  if (!memory || !imports) throw new Error("wasm: memory or import section missing");

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

  const parts = [wasm.subarray(0, MAGIC.length)];
  for (const section of all) {
    if (section.id === SECTION.memory) continue;
    parts.push(
      section.id === SECTION.import ? makeSection(section.id, content) : wasm.subarray(section.start, section.end),
    );
  }
  const edited = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    edited.set(part, at);
    at += part.length;
  }
  return { wasm: checked(edited), minimumPages };
}
