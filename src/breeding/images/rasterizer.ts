import { initWasm, Resvg } from "@resvg/resvg-wasm";
import resvgModule from "@resvg/resvg-wasm/index_bg.wasm";

/** SVG to PNG in WebAssembly (resvg): no fonts, no network, the same input gives the same bytes. */

let ready: Promise<void> | null = null;

/** The library may be started once per isolate; a start that failed is tried again. */
function start(): Promise<void> {
  ready ??= initWasm(resvgModule).catch((thrown: unknown) => {
    ready = null;
    throw thrown;
  });
  return ready;
}

/**
 * Draws a document at its own size.
 * @param options.orNothing answer null instead of a picture on which nothing was drawn: an embedded file that cannot be
 *   decoded draws nothing
 */
export async function rasterize(
  svg: string,
  options: { orNothing?: boolean } = {},
): Promise<Uint8Array<ArrayBuffer> | null> {
  await start();
  const document = new Resvg(svg, { font: { loadSystemFonts: false } });
  try {
    const image = document.render();
    try {
      if (options.orNothing === true && isBlank(image.pixels)) return null;
      return Uint8Array.from(image.asPng());
    } finally {
      image.free();
    }
  } finally {
    document.free();
  }
}

function isBlank(rgba: Uint8Array): boolean {
  for (let at = 3; at < rgba.length; at += 4) if (rgba[at] !== 0) return false;
  return true;
}
