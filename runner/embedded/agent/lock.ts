import { open, readFile, rm, stat, utimes } from "node:fs/promises";
import type { Clock } from "./clock.ts";
import { isErrno } from "./files.ts";

/** A file that only one process holds at a time. Its owner touches it; one that died, or was frozen for long, loses it. */

const TOUCH_MS = 5_000;
const STALE_MS = 60_000;

export type Lock = { release(): Promise<void> };

/** Takes the lock, or null when a living process has it. */
export async function tryLock(path: string): Promise<Lock | null> {
  for (let tries = 0; tries < 3; tries += 1) {
    try {
      const handle = await open(path, "wx", 0o600);
      await handle.writeFile(String(process.pid));
      await handle.close();
      const timer = setInterval(() => {
        const now = new Date();
        utimes(path, now, now).catch(() => undefined);
      }, TOUCH_MS);
      timer.unref();
      return {
        release: async () => {
          clearInterval(timer);
          await rm(path, { force: true });
        },
      };
    } catch (error) {
      if (!isErrno(error, "EEXIST")) throw error;
    }
    if (!(await isAbandoned(path))) return null;
    await rm(path, { force: true });
  }
  return null;
}

/** Takes the lock as soon as it is free, or gives null when `done` says that there is nothing left to do. */
export async function lockOr(
  path: string,
  done: () => Promise<boolean>,
  clock: Clock,
  signal: AbortSignal,
): Promise<Lock | null> {
  for (;;) {
    signal.throwIfAborted();
    if (await done()) return null;
    const lock = await tryLock(path);
    if (lock !== null) return lock;
    await clock.sleep(100, signal);
  }
}

async function isAbandoned(path: string): Promise<boolean> {
  try {
    const [text, { mtimeMs }] = [await readFile(path, "utf8"), await stat(path)];
    if (Date.now() - mtimeMs > STALE_MS) return true;
    const pid = Number(text);
    // Just made, its number not yet written.
    if (!Number.isInteger(pid) || pid <= 0) return false;
    return !isAlive(pid);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return false;
    throw error;
  }
}

/** Whether a process of this number exists. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return isErrno(error, "EPERM");
  }
}
