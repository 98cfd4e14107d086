import { randomBytes } from "node:crypto";
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./wrangler.ts";

const SECRETS = ["JWT_SECRET", "INTERNAL_SECRET"];

/** Makes sure that `.dev.vars` has every secret; what is missing gets a random value, what is there stays. Returns all. */
export function ensureDevVars(file = join(ROOT, ".dev.vars")): Record<string, string> {
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  const found = Object.fromEntries(
    [...text.matchAll(/^\s*(?:export\s+)?(\w+)\s*=\s*(.*?)\s*$/gm)].map(([, name = "", value = ""]) => [
      name,
      value.replace(/^(["'])(.*)\1$/, "$2"),
    ]),
  );
  const missing = SECRETS.filter((name) => !(name in found)).map((name) => [name, randomBytes(32).toString("hex")]);
  if (missing.length > 0) {
    const separator = text === "" || text.endsWith("\n") ? "" : "\n";
    appendFileSync(file, `${separator}${missing.map(([name, value]) => `${name}="${value}"\n`).join("")}`, {
      mode: 0o600,
    });
  }
  return { ...found, ...Object.fromEntries(missing) };
}
