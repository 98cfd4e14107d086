import { readdirSync, readFileSync } from "node:fs";

/** Linux counts processor time in hundredths of a second for every program, whatever the kernel's own clock is. */
const TICK_MS = 10;

/** The fields of `/proc/PID/stat` that are of use (proc(5)); the name may contain blanks and parentheses. Pure. */
export function readStat(line: string): { name: string; parent: number; cpuMs: number } | null {
  const [, name, rest] = /^\d+ \((.*)\) (.*)$/s.exec(line) ?? [];
  const fields = rest?.split(" ") ?? [];
  // Fields 4, 14 and 15 of the line, counted from 1.
  const [parent, user, system] = [fields[1], fields[11], fields[12]].map(Number);
  if (name === undefined || parent === undefined || user === undefined || system === undefined) return null;
  return Number.isNaN(parent + user + system) ? null : { name, parent, cpuMs: (user + system) * TICK_MS };
}

const statOf = (pid: string) => {
  try {
    return readStat(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return null;
  }
};

/** The ids of our child processes of this name, the smallest first; none where there is no `/proc`. @param name its beginning */
export function childrenNamed(name: string): number[] {
  let pids: string[] = [];
  try {
    pids = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry));
  } catch {
    return [];
  }
  const ours = pids.filter((pid) => {
    const stat = statOf(pid);
    return stat?.parent === process.pid && stat.name.startsWith(name);
  });
  return ours.map(Number).sort((a, b) => a - b);
}

/** Processor time that a process has used so far, in milliseconds; null when it is gone. */
export const processorTimeOf = (pid: number): number | null => statOf(String(pid))?.cpuMs ?? null;

/**
 * A clock of the processor time that a child process of ours has used, in milliseconds: what a request costs, whoever else
 * is using the machine. It says null where there is no `/proc` and once the process is gone.
 * @param name the beginning of the program's name
 */
export function childProcessorTime(name: string): () => number | null {
  const [pid] = childrenNamed(name);
  return () => (pid === undefined ? null : processorTimeOf(pid));
}
