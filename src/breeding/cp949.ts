/**
 * Korean text as Windows writes it (cp949, also called UHC): EUC-KR plus the 8,822 syllables that EUC-KR lacks.
 *
 * workerd's "euc-kr" decoder is cp949. Node's is not: it reads a byte of the extension as a control character, silently.
 * The extension holds the missing syllables in Unicode order, so it is computed here instead of shipped as a table.
 */

const FIRST_SYLLABLE = 0xac00;
const LAST_SYLLABLE = 0xd7a3;

/** Whether the platform's decoder knows 똠, which only the extension has. */
const platformKnowsExtension = (): boolean => new TextDecoder("euc-kr").decode(Uint8Array.of(0x8c, 0x63)) === "똠";

let extension: string[] | undefined;

/** The syllables of the extension in the order of their codes. */
function extensionSyllables(): string[] {
  if (extension) return extension;
  const decoder = new TextDecoder("euc-kr");
  const standard = new Set<string>();
  for (let lead = 0xb0; lead <= 0xc8; lead++) {
    for (let trail = 0xa1; trail <= 0xfe; trail++) standard.add(decoder.decode(Uint8Array.of(lead, trail)));
  }
  extension = [];
  for (let code = FIRST_SYLLABLE; code <= LAST_SYLLABLE; code++) {
    const syllable = String.fromCodePoint(code);
    if (!standard.has(syllable)) extension.push(syllable);
  }
  return extension;
}

/** Trail bytes of the extension in order: letters, then 0x81 up; above lead 0xA0 the plane of EUC-KR cuts them short. */
function trailPosition(trail: number): number {
  if (trail >= 0x41 && trail <= 0x5a) return trail - 0x41;
  if (trail >= 0x61 && trail <= 0x7a) return trail - 0x61 + 26;
  return trail >= 0x81 && trail <= 0xfe ? trail - 0x81 + 52 : -1;
}

const TRAILS_BELOW_A1 = 178;
const TRAILS_FROM_A1 = 84;

function extensionSyllable(lead: number, trail: number): string | undefined {
  const position = trailPosition(trail);
  if (position < 0) return undefined;
  const before =
    lead <= 0xa0 ? (lead - 0x81) * TRAILS_BELOW_A1 : 0x20 * TRAILS_BELOW_A1 + (lead - 0xa1) * TRAILS_FROM_A1;
  return extensionSyllables()[before + position];
}

/** Decodes cp949. Throws TypeError, like a fatal TextDecoder, on bytes that are not. */
export function decodeCp949(bytes: Uint8Array): string {
  const decoder = new TextDecoder("euc-kr", { fatal: true, ignoreBOM: false });
  if (platformKnowsExtension()) return decoder.decode(bytes);
  let text = "";
  let from = 0;
  for (let at = 0; at < bytes.length; at++) {
    const lead = bytes[at] ?? 0;
    if (lead < 0x80) continue;
    const trail = bytes[at + 1] ?? 0;
    if (lead < 0xa1 || trail < 0xa1) {
      const syllable = lead === 0x80 || lead > 0xc6 ? undefined : extensionSyllable(lead, trail);
      if (syllable === undefined) throw new TypeError("not cp949");
      text += decoder.decode(bytes.subarray(from, at)) + syllable;
      from = at + 2;
    }
    at++;
  }
  return text + decoder.decode(bytes.subarray(from));
}
