import type { Random } from "./random.ts";

/** Which jobs a run has and what becomes of them when nothing but the faults of the run disturbs them. Pure. */

/** What the trainer does, and what the user does with the job. */
export const FATES = ["completes", "dies", "refuses", "stopped", "deaf", "resumed"] as const;
export type Fate = (typeof FATES)[number];

export type PlannedJob = {
  fate: Fate;
  epochs: number;
  /** When `start` is called, in milliseconds after the beginning. */
  startAtMs: number;
  /** For those that the user stops: so many milliseconds after they were first seen running. */
  stopAfterMs: number;
};

/** How the trainer of a fate behaves (`seed` of the job; see `trainer.ts`). */
export const BEHAVIOUR: Record<Fate, number> = { completes: 0, stopped: 0, resumed: 0, dies: 1, refuses: 2, deaf: 3 };

/**
 * @param count of jobs; of ten, six complete, one dies, one is refused by its trainer (or stopped while the trainer does not
 *   listen), one is stopped, one is stopped and started again
 * @param startsMs jobs are started evenly within this time, the first ones at once
 */
export function planJobs(
  random: Random,
  count: number,
  { startsMs, epochs }: { startsMs: number; epochs: readonly [number, number] },
): PlannedJob[] {
  return Array.from({ length: count }, (_, index): PlannedJob => {
    const turn = index % 10;
    const fate: Fate =
      turn === 3
        ? "dies"
        : turn === 5
          ? index % 20 === 5
            ? "refuses"
            : "deaf"
          : turn === 7
            ? "stopped"
            : turn === 8
              ? "resumed"
              : "completes";
    return {
      fate,
      epochs: Math.round(random.between(...epochs)),
      startAtMs: (index / count) * startsMs,
      stopAfterMs: random.between(500, 6_000),
    };
  });
}
