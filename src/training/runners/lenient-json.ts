/**
 * JSON as trainers send it: some HTTP libraries write bare `NaN`, `Infinity` and `-Infinity`. Outside of strings these
 * become the texts of the same name, which the event schemas read as "not a finite number".
 */
const BARE = /-?\b(?:NaN|Infinity)\b/y;

/** Rewrites bare non-finite tokens outside of strings as quoted ones; one pass, linear. */
export function quoteNonFinite(text: string): string {
  if (!/NaN|Infinity/.test(text)) return text;
  let out = "";
  let from = 0;
  let inString = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (inString) {
      if (char === "\\") at++;
      else if (char === '"') inString = false;
    } else if (char === '"') {
      inString = true;
    } else if (char === "N" || char === "I" || char === "-") {
      BARE.lastIndex = at;
      const match = BARE.exec(text);
      if (match) {
        out += `${text.slice(from, at)}"${match[0]}"`;
        from = at + match[0].length;
        at = from - 1;
      }
    }
  }
  return out + text.slice(from);
}

/** @returns the parsed value, or undefined when the text is not JSON even so */
export function parseLenientJson(text: string): unknown {
  try {
    return JSON.parse(quoteNonFinite(text)) as unknown;
  } catch {
    return undefined;
  }
}

/** Nothing that a trainer reports is nested deeper; serialising recurses, so a deeper value must not get that far. */
export const MAX_DEPTH = 64;

/** Whether a parsed value is nested deeper than `max` levels; looks no further down than that. */
export function isTooDeep(value: unknown, max = MAX_DEPTH): boolean {
  if (typeof value !== "object" || value === null) return false;
  return max === 0 || Object.values(value).some((nested) => isTooDeep(nested, max - 1));
}
