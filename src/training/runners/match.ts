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
  /** How long the job counts as running after its runner was last heard of. */
  holdMs?: number;
};

/** By project: jobs that runners have or are being offered, and how many there may be at most. */
export type Load = { running: ReadonlyMap<number, number>; limits: ReadonlyMap<number, number> };

const IDLE: Load = { running: new Map(), limits: new Map() };

const hasLabels = (runner: RunnerFacts, { labels }: Requirements): boolean =>
  Object.entries(labels).every(([name, value]) => Object.hasOwn(runner.labels, name) && runner.labels[name] === value);

const hasMemory = (runner: RunnerFacts, { gpuMemoryMb }: Requirements): boolean =>
  gpuMemoryMb === 0 || runner.gpus.some((gpu) => gpu.vram_mb >= gpuMemoryMb);

/** Whether a runner satisfies framework, every required label and the GPU memory a job needs. */
export function fits(runner: RunnerFacts, needs: Requirements): boolean {
  return runner.frameworks.includes(needs.framework) && hasLabels(runner, needs) && hasMemory(runner, needs);
}

/** Higher priority first, then the longest wait, then the lower id, so that the order is total. */
export const byUrgency = (a: QueuedJob, b: QueuedJob): number =>
  b.priority - a.priority || a.queuedAtMs - b.queuedAtMs || a.jobId - b.jobId;

/** Whether the project of a job may not have one more running. */
const isFull = (projectId: number, { limits }: Load, running: ReadonlyMap<number, number>): boolean =>
  (running.get(projectId) ?? 0) >= (limits.get(projectId) ?? Number.POSITIVE_INFINITY);

/**
 * One round of matching: the most urgent job first, each to the runner that fits and stands first in `free`. Every job and
 * every runner is in one pair at most, and no project gets more than its limit; who is held up by that holds up nobody else.
 */
export function pairUp<R extends RunnerFacts>(
  queue: QueuedJob[],
  free: R[],
  load: Load = IDLE,
): { job: QueuedJob; runner: R }[] {
  const left = [...free];
  const running = new Map(load.running);
  const pairs: { job: QueuedJob; runner: R }[] = [];
  for (const job of [...queue].sort(byUrgency)) {
    if (left.length === 0) break;
    if (isFull(job.projectId, load, running)) continue;
    const at = left.findIndex((runner) => fits(runner, job.requirements));
    const [runner] = at === -1 ? [] : left.splice(at, 1);
    if (runner === undefined) continue;
    running.set(job.projectId, (running.get(job.projectId) ?? 0) + 1);
    pairs.push({ job, runner });
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

/**
 * Why a queued job waits, the first of these that holds: nobody has its framework; nobody of those has its labels; none of
 * them a GPU with the memory; nobody has both; its project has as many jobs running as it may; all that could take it are
 * busy, or come to others first.
 */
export const QUEUE_REASONS = [
  "no_live_runner",
  "no_runner_has_labels",
  "no_runner_has_gpu_memory",
  "no_runner_fits",
  "project_limit",
  "runners_busy",
] as const;

export type QueueReason = (typeof QUEUE_REASONS)[number];

/** Why a queued job waits, in one word for machines; `position` counts from 1 among the jobs that come before it. */
export function whyQueued(
  job: QueuedJob,
  queue: QueuedJob[],
  runners: RunnerFacts[],
  load: Load = IDLE,
): Capacity & { position: number; reason: QueueReason } {
  const needs = job.requirements;
  const capacity = capacityFor(runners, needs);
  const live = runners.filter((runner) => runner.frameworks.includes(needs.framework));
  const reason = (): QueueReason => {
    if (capacity.live === 0) return "no_live_runner";
    if (!live.some((runner) => hasLabels(runner, needs))) return "no_runner_has_labels";
    if (!live.some((runner) => hasMemory(runner, needs))) return "no_runner_has_gpu_memory";
    if (capacity.capable === 0) return "no_runner_fits";
    return isFull(job.projectId, load, load.running) ? "project_limit" : "runners_busy";
  };
  return {
    ...capacity,
    position: 1 + queue.filter((other) => byUrgency(other, job) < 0).length,
    reason: reason(),
  };
}
