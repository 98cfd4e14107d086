import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { z } from "zod";
import { ROOT } from "../lib/wrangler.ts";

/**
 * ONNX Runtime as machine code, for comparison: the package onnxruntime-node in the version of onnxruntime-web that the Worker
 * runs. It is no dependency of the project, because it is 290 MB for all platforms: it lies in a folder of the user's cache.
 */

const PACKAGE = "onnxruntime-node";
/** For 290 MB over a slow line. */
const INSTALL_MS = 300_000;

export type NativeRuntime = {
  /** Processor time of one run of a model on one thread, in milliseconds; the first of a model loads it and warms it up. */
  run(path: string, side: number): Promise<number>;
  stop(): void;
};

const versionWanted = (): string => {
  const file = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  return z.object({ dependencies: z.object({ "onnxruntime-web": z.string() }) }).parse(file).dependencies[
    "onnxruntime-web"
  ];
};

/** The version of the package in this folder's node_modules, null when it is not there. */
export function versionIn(folder: string): string | null {
  try {
    const file = JSON.parse(readFileSync(join(folder, "node_modules", PACKAGE, "package.json"), "utf8"));
    return z.object({ version: z.string() }).parse(file).version;
  } catch {
    return null;
  }
}

/**
 * Starts it from a folder whose node_modules has the package; installs that the first time, without its install script, which
 * would download libraries for GPUs.
 * @param chosen a folder that has it; `none`: do without; undefined: the one in the cache
 * @returns null when it is to be done without, or has to be and nobody chose the folder
 */
export async function openNative(
  chosen: string | undefined,
  say: (text: string) => void,
): Promise<NativeRuntime | null> {
  if (chosen === "none") return null;
  const version = versionWanted();
  if (chosen !== undefined) {
    const found = versionIn(chosen);
    if (found === null) throw new Error(`${join(chosen, "node_modules")} has no ${PACKAGE}`);
    if (found !== version) say(`${PACKAGE} is ${found}, the Worker's runtime ${version}`);
    return start(chosen);
  }
  const folder = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "cultivar", `${PACKAGE}-${version}`);
  try {
    if (versionIn(folder) !== version) {
      say(`installing ${PACKAGE}@${version} (290 MB) into ${folder}, once`);
      await install(folder, version);
    }
    return await start(folder);
  } catch (thrown) {
    say(`the columns of ONNX Runtime are left out: ${thrown instanceof Error ? thrown.message : thrown}`);
    return null;
  }
}

/** Beside the folder first: one that is there is whole. */
async function install(folder: string, version: string): Promise<void> {
  mkdirSync(dirname(folder), { recursive: true });
  const half = mkdtempSync(`${folder}-`);
  try {
    const args = ["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    const child = spawn("npm", [...args, "--fetch-retries=1", "--prefix", half, `${PACKAGE}@${version}`], {
      cwd: half,
      stdio: ["ignore", "ignore", "pipe"],
      timeout: INSTALL_MS,
      shell: process.platform === "win32",
    });
    let said = "";
    child.stderr.on("data", (chunk) => {
      said = (said + String(chunk)).slice(-2_000);
    });
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    });
    const [reason] = /^npm error (?!code |errno |syscall ).+/m.exec(said) ?? [];
    if (code !== 0) throw new Error(reason ?? `npm ended with ${code}`);
    if (existsSync(folder)) rmSync(folder, { recursive: true, force: true });
    renameSync(half, folder);
  } finally {
    rmSync(half, { recursive: true, force: true });
  }
}

/** In a process of its own. @throws when the package does not run on this machine */
async function start(folder: string): Promise<NativeRuntime> {
  const child = spawn(process.execPath, [join(import.meta.dirname, "native-main.ts"), folder], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  // One that has ended is told by its output.
  child.stdin.on("error", () => undefined);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${PACKAGE} of ${folder} ended`);
    return value;
  };
  await next();
  return {
    async run(path, side) {
      child.stdin.write(`${JSON.stringify({ path, side })}\n`);
      return z.object({ ms: z.number() }).parse(JSON.parse(await next())).ms;
    },
    stop: () => child.stdin.end(),
  };
}
