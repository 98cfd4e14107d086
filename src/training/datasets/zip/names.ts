import { crc32 } from "node:zlib";

/**
 * Names in a zip are bytes. Flag 11 or an Info-ZIP Unicode field says UTF-8; without either they are in the encoding of the
 * machine that wrote them. Windows in Korea writes CP949, older tools CP437 (the format's own default), and many tools
 * write UTF-8 without saying so.
 */

export type NameEncoding = "utf-8" | "cp949" | "cp437";

const CP437_HIGH =
  "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const cp949 = new TextDecoder("euc-kr", { fatal: true, ignoreBOM: true });

/** Null when there is anything outside of ASCII. */
export const decodeAscii = (bytes: Uint8Array): string | null =>
  bytes.every((byte) => byte < 0x80) ? utf8.decode(bytes) : null;

const tryDecode = (decoder: TextDecoder, bytes: Uint8Array): string | null => {
  try {
    return decoder.decode(bytes);
  } catch {
    return null;
  }
};

const decodeCp437 = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => (byte < 0x80 ? String.fromCharCode(byte) : CP437_HIGH.charAt(byte - 0x80))).join("");

/** Null when the bytes are not UTF-8 (overlong forms included). */
export const decodeUtf8 = (bytes: Uint8Array): string | null => tryDecode(utf8, bytes);

/**
 * Decodes the names that carry no mark. An archive has one encoding, so all of them are looked at together.
 *
 * CP437 text hardly ever decodes as CP949, but it can ("ü" before a letter is a rare Hangul syllable), so CP949 needs a
 * common syllable as proof: lead byte B0..C8, trail A1..FE, which CP437 uses for box drawing.
 */
export function unmarkedEncoding(names: Iterable<Uint8Array>): NameEncoding {
  let isUtf8 = true;
  let isCp949 = true;
  let hasHangul = false;
  for (const bytes of names) {
    isUtf8 &&= decodeUtf8(bytes) !== null;
    isCp949 &&= tryDecode(cp949, bytes) !== null;
    hasHangul ||= bytes.some((byte, i) => byte >= 0xb0 && byte <= 0xc8 && (bytes[i + 1] ?? 0) >= 0xa1);
  }
  if (isUtf8) return "utf-8";
  return isCp949 && hasHangul ? "cp949" : "cp437";
}

export function decodeName(bytes: Uint8Array, encoding: NameEncoding): string {
  const decoded = encoding === "utf-8" ? decodeUtf8(bytes) : encoding === "cp949" ? tryDecode(cp949, bytes) : null;
  return decoded ?? decodeCp437(bytes);
}

/**
 * The name in an Info-ZIP Unicode Path field (extra field 0x7075): version 1, CRC-32 of the plain name, UTF-8 text.
 * @returns null when the field does not belong to this name or is not UTF-8
 */
export function unicodePathField(field: Uint8Array, plainName: Uint8Array): string | null {
  if (field.length < 6 || field[0] !== 1) return null;
  const view = new DataView(field.buffer, field.byteOffset, field.length);
  if (view.getUint32(1, true) !== crc32(plainName)) return null;
  return decodeUtf8(field.subarray(5));
}
