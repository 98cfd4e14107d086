/** Takes credentials out of text before it is stored or sent (runner protocol, section 1). Pure. */

const PATTERNS: [RegExp, string][] = [
  // Registration and runner tokens.
  [/\bcv[a-z]{1,4}_[0-9a-f]{16,}\b/g, "[masked]"],
  // Access and job tokens.
  [/\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}/g, "[masked]"],
  [/\b(bearer\s+)[\w.~+/=-]{16,}/gi, "$1[masked]"],
];

/** No secret that the agent handles is longer; a text that is cut keeps this much together. */
export const LONGEST_SECRET = 2_048;

/** A function that masks the given secrets by value and whatever looks like one of our tokens by form. */
export function createMask(secrets: readonly string[]): (text: string) => string {
  const known = secrets.filter((secret) => secret.length >= 8);
  return (text) => {
    let masked = text;
    for (const secret of known) masked = masked.replaceAll(secret, "[masked]");
    for (const [pattern, replacement] of PATTERNS) masked = masked.replace(pattern, replacement);
    return masked;
  };
}
