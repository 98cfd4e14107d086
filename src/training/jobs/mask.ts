/** Masks what looks like one of our credentials in a log; a runner masks first, this is the second net. */
export const maskSecrets = (text: string): string =>
  text
    .replace(/\bcv[a-z]{1,4}_[0-9a-f]{16,}\b/g, "[masked]")
    .replace(/\b(bearer\s+)[\w.~+/=-]{16,}/gi, "$1[masked]")
    .replace(/\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}/g, "[masked]");
