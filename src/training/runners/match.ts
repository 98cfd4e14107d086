/** Which job goes to which runner, and why a job waits. Pure (runner protocol, section 3). */

export type Requirements = { framework: string; labels: Record<string, string>; gpuMemoryMb: number };

export type RunnerFacts = {
  runnerId: string;
  frameworks: string[];
  labels: Record<string, string>;
  gpus: { model: string; vram_mb: number }[];
};

export type QueuedJob = {
  jobId: number;
  projectId: number;
  priority: number;
  queuedAtMs: number;
  requirements: Requirements;
};

/** Whether a runner satisfies framework, every required label and the GPU memory a job needs. */
export function fits(runner: RunnerFacts, needs: Requirements): boolean {
  return (
    runner.frameworks.includes(needs.framework) &&
    Object.entries(needs.labels).every(
      ([name, value]) => Object.hasOwn(runner.labels, name) && runner.labels[name] === value,
    ) &&
    (needs.gpuMemoryMb === 0 || runner.gpus.some((gpu) => gpu.vram_mb >= needs.gpuMemoryMb))
  );
}

/** Higher priority first, then the longest wait, then the lower id, so that the order is total. */
export const byUrgency = (a: QueuedJob, b: QueuedJob): number =>
  b.priority - a.priority || a.queuedAtMs - b.queuedAtMs || a.jobId - b.jobId;

/**
 * One round of matching: the most urgent job first, each to the runner that fits and stands first in `free`.
 * Every job and every runner is in one pair at most.
 */
export function pairUp<R extends RunnerFacts>(queue: QueuedJob[], free: R[]): { job: QueuedJob; runner: R }[] {
  const left = [...free];
  const pairs: { job: QueuedJob; runner: R }[] = [];
  for (const job of [...queue].sort(byUrgency)) {
    if (left.length === 0) break;
    const at = left.findIndex((runner) => fits(runner, job.requirements));
    const [runner] = at === -1 ? [] : left.splice(at, 1);
    if (runner !== undefined) pairs.push({ job, runner });
  }
  return pairs;
}

export type Capacity = {
  /** Live runners that have the framework. */
  live: number;
  /** Those that satisfy all the job needs. */
  capable: number;
};

/** How many live runners could take a job, busy or not. */
export function capacityFor(runners: RunnerFacts[], needs: Requirements): Capacity {
  const live = runners.filter((runner) => runner.frameworks.includes(needs.framework));
  return { live: live.length, capable: live.filter((runner) => fits(runner, needs)).length };
}

/** Why a queued job waits, in one word for machines; `position` counts from 1 among the jobs that come before it. */
export function whyQueued(
  job: QueuedJob,
  queue: QueuedJob[],
  runners: RunnerFacts[],
): Capacity & { position: number; reason: "no_live_runner" | "no_runner_fits" | "runners_busy" } {
  const capacity = capacityFor(runners, job.requirements);
  const reason = capacity.live === 0 ? "no_live_runner" : capacity.capable === 0 ? "no_runner_fits" : "runners_busy";
  return { ...capacity, position: 1 + queue.filter((other) => byUrgency(other, job) < 0).length, reason };
}
