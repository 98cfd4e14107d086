const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** A random (version 4) UUID. */
export const newUuid = (): string => crypto.randomUUID();

/** `bytes` random bytes in lower-case hex. */
export const randomHex = (bytes: number): string => hex(crypto.getRandomValues(new Uint8Array(bytes)));

/** A random secret with a readable kind in front (`cvr_…`), so that a leaked one can be recognised and masked. */
export const newToken = (prefix: string): string => `${prefix}_${randomHex(24)}`;

/** SHA-256 of a text or of bytes, in lower-case hex. */
export async function sha256Hex(data: string | Uint8Array): Promise<string> {
  // Bytes of ours never lie in shared memory, which is all that the narrower type excludes.
  const bytes = typeof data === "string" ? new TextEncoder().encode(data) : (data as Uint8Array<ArrayBuffer>);
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
}

export { hex as toHex };
