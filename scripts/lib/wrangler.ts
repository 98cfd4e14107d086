import { type ChildProcess, spawn } from "node:child_process";
import { dirname, join } from "node:path";

export const ROOT = dirname(dirname(import.meta.dirname));
export const DATABASE = "DB";

/** Nothing of the machine is told to anybody, and no look-up leaves it: wrangler works without network and account. */
const OFFLINE = {
  CLOUDFLARE_CF_FETCH_ENABLED: "false",
  WRANGLER_SEND_METRICS: "false",
  WRANGLER_HIDE_BANNER: "true",
  NO_UPDATE_NOTIFIER: "1",
};

/** Starts the project's own wrangler under the Node that runs this script. */
export function spawnWrangler(
  args: string[],
  options: { stdio: "inherit" | "pipe"; env?: Record<string, string>; detached?: boolean },
): ChildProcess {
  return spawn(process.execPath, [join(ROOT, "node_modules/wrangler/bin/wrangler.js"), ...args], {
    cwd: ROOT,
    stdio: options.stdio === "inherit" ? "inherit" : ["ignore", "pipe", "pipe"],
    detached: options.detached ?? false,
    env: { ...process.env, ...OFFLINE, ...options.env },
  });
}

/** Runs wrangler to its end, quietly. @throws with its output when it fails */
export async function runWrangler(args: string[], env: Record<string, string> = {}): Promise<string> {
  const child = spawnWrangler(args, { stdio: "pipe", env: { CI: "true", ...env } });
  let output = "";
  child.stdout?.on("data", (chunk) => {
    output += String(chunk);
  });
  child.stderr?.on("data", (chunk) => {
    output += String(chunk);
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  if (code !== 0) throw new Error(`wrangler ${args.slice(0, 3).join(" ")} failed (${code}):\n${output}`);
  return output;
}

/** Where wrangler keeps local state: the default, or what `--persist-to` says. */
export const persistArgs = (persistTo: string | undefined): string[] =>
  persistTo === undefined ? [] : ["--persist-to", persistTo];

/** Brings the local D1 up to date. */
export const applyMigrations = (persistTo: string | undefined): Promise<string> =>
  runWrangler(["d1", "migrations", "apply", DATABASE, "--local", ...persistArgs(persistTo)]);
