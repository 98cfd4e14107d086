import { timingSafeEqual } from "node:crypto";

const digest = async (text: string) =>
  new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));

/** Whether a given text is one of the secrets: compared as hashes of equal length, in constant time, all of them. */
export async function isOneOf(given: string, secrets: string[]): Promise<boolean> {
  const hash = await digest(given);
  let match = false;
  for (const secret of secrets) match = timingSafeEqual(hash, await digest(secret)) || match;
  return match;
}
