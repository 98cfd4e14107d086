/** Assembles WebAssembly text. The assembler is loaded only where there is something to do. */
export async function assemble(text: string): Promise<Uint8Array<ArrayBuffer>> {
  const { default: loadWabt } = await import("wabt");
  const wabt = await loadWabt();
  try {
    const module = wabt.parseWat("text", text, { simd: true });
    module.resolveNames();
    module.validate();
    return Uint8Array.from(module.toBinary({}).buffer);
  } catch (thrown) {
    // As thrown it would be shown with the line that threw, which is all 700 KB of the assembler.
    throw new Error(`not assembled: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
  }
}
