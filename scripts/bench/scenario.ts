import type { Operation } from "./load.ts";
import { UsageError } from "./options.ts";
import type { World } from "./world.ts";

/** What a figure has to be. `of` is the name of another scenario of the run. */
export type Target = { atLeast: number; of: string } | { atLeastPerSecond: number } | { p50AtMostMs: number };

/** A scenario made ready: its data are there. */
export type Ready = {
  operation: Operation;
  /** Before each slice, outside the measured time. */
  refill?: () => Promise<void>;
  /** Each connection stops after as many, before the time is over. */
  operationsPerLane?: number;
};

export type Scenario = {
  /** For `--only`. */
  name: string;
  title: string;
  concurrency: number;
  on: "app" | "baseline";
  /** What one operation counts for, when it is more than one request of one thing. */
  unit?: { name: string; perOperation: number };
  target?: Target;
  /** @returns why it cannot be run with this build, else what to run */
  prepare(world: World): Promise<Ready | string>;
};

export const BASELINES = ["hello", "insert", "read"] as const;
export type Baseline = (typeof BASELINES)[number];
export const baselineName = (baseline: Baseline, concurrency: number) => `${baseline}-${concurrency}`;

/**
 * The scenarios asked for and what they are compared with, in the order of `all`.
 * @param only names; null: all of them
 * @throws UsageError for an unknown name
 */
export function choose<T extends Pick<Scenario, "name" | "concurrency" | "target">>(
  all: T[],
  only: string[] | null,
): T[] {
  if (only === null) return all;
  const wanted = new Set<string>();
  for (const name of only) {
    const scenario = all.find((known) => known.name === name);
    if (scenario === undefined) throw new UsageError(`no scenario is named ${name}; see --list`);
    wanted.add(name);
    for (const baseline of BASELINES) wanted.add(baselineName(baseline, scenario.concurrency));
    if (scenario.target && "of" in scenario.target) wanted.add(scenario.target.of);
  }
  return all.filter(({ name }) => wanted.has(name));
}
