/** The watch of `throttle.ts`: the share, then the processes. `release` ends it; an end of the input ends the processes too. */
import { createInterface } from "node:readline";
import { processorTimeOf } from "./processor-time.ts";
import { Allowance, TICK_MS } from "./throttle.ts";

const share = Number(process.argv[2]);
const pids = process.argv.slice(3).map(Number);

const watched = pids.map((pid) => ({
  pid,
  stopped: false,
  allowance: new Allowance(share, performance.now(), processorTimeOf(pid) ?? 0),
}));

/** One that has ended needs no signal. */
const signal = (pid: number, name: NodeJS.Signals) => {
  try {
    process.kill(pid, name);
  } catch {}
};

// Ctrl-C reaches the whole group; who started this one says when it is over.
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(name, () => undefined);

const timer = setInterval(() => {
  for (const one of watched) {
    const usedMs = processorTimeOf(one.pid);
    if (usedMs === null) continue;
    const isOver = !one.allowance.mayRun(performance.now(), usedMs);
    if (isOver !== one.stopped) signal(one.pid, isOver ? "SIGSTOP" : "SIGCONT");
    one.stopped = isOver;
  }
}, TICK_MS);
console.log("ready");

let released = false;
for await (const line of createInterface({ input: process.stdin })) if (line === "release") released = true;
clearInterval(timer);
for (const { pid } of watched) {
  if (!released) signal(pid, "SIGKILL");
  signal(pid, "SIGCONT");
}
process.exit();
