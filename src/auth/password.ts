import { randomBytes, scrypt, timingSafeEqual } from "node:crypto";

/**
 * Passwords as `scrypt$N$r$p$salt$hash` (salt and hash base64url). N=16384, r=8, p=5 is one of OWASP's settings; it takes
 * about 165 ms and 16 MiB. PBKDF2 at a comparable strength is refused by the deployed runtime.
 */
const PARAMETERS = { N: 16_384, r: 8, p: 5 };
const KEY_BYTES = 32;

export const MIN_PASSWORD_LENGTH = 8;
export const MAX_PASSWORD_LENGTH = 100;

const derive = (password: string, salt: Buffer, parameters: typeof PARAMETERS): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    scrypt(password.normalize("NFKC"), salt, KEY_BYTES, parameters, (error, key) =>
      error ? reject(error) : resolve(key),
    );
  });

/** Hashes a password with a fresh random salt. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(16);
  const key = await derive(password, salt, PARAMETERS);
  const { N, r, p } = PARAMETERS;
  return ["scrypt", N, r, p, salt.toString("base64url"), key.toString("base64url")].join("$");
}

/**
 * A stored hash that no password fits, with the current parameters: comparing against it costs the same as a real
 * comparison, so an unknown e-mail cannot be told from a wrong password by the time taken.
 */
export const NO_PASSWORD = `scrypt$${PARAMETERS.N}$${PARAMETERS.r}$${PARAMETERS.p}$${"A".repeat(22)}$${"A".repeat(43)}`;

/** Whether a password fits a stored hash; constant time in the hash. A malformed stored hash fits nothing. */
export async function verifyPassword(password: string, stored: string): Promise<boolean> {
  const [scheme, n, r, p, salt, hash] = stored.split("$");
  if (scheme !== "scrypt" || !n || !r || !p || !salt || !hash) return false;
  const expected = Buffer.from(hash, "base64url");
  const key = await derive(password, Buffer.from(salt, "base64url"), { N: Number(n), r: Number(r), p: Number(p) });
  return expected.length === key.length && timingSafeEqual(key, expected) && stored !== NO_PASSWORD;
}
