/**
 * Small, exact edits of the JavaScript that Emscripten's embind puts beside a published image decoder. Pure: text in, new
 * text out. Every edit fails when its place is not there exactly once, so that another version of the package is noticed.
 */

/** As published: the file goes into the decoder's memory byte by byte, at a sixteenth of the speed. */
const COPY_BYTES = "for(var i=0;i<length;++i){HEAPU8[ptr+i]=value[i]}";

/** As published: what the decoder constructs, the array of pixels and `ImageData`, is found in the global scope. */
const FIND_GLOBAL = "emval_get_global()[name]";

function replaceOnce(text: string, from: string, to: string): string {
  const count = text.split(from).length - 1;
  if (count !== 1) throw new Error(`glue: expected once, found ${count} times: ${from}`);
  return text.replace(from, () => to);
}

/**
 * The glue with bytes copied at once, and with its globals taken from the option `globals` of the module: the caller's own
 * `Uint8ClampedArray` and `ImageData` can then read the pixels where they lie.
 */
export const patchDecoderGlue = (text: string): string =>
  replaceOnce(replaceOnce(text, COPY_BYTES, "HEAPU8.set(value,ptr)"), FIND_GLOBAL, 'Module["globals"][name]');
