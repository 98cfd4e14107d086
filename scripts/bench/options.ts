import { parseArgs } from "node:util";

export const USAGE = `Usage: npm run bench -- [options]
  --only NAME,…    these scenarios only (and what they are compared with); --list prints the names
  --seconds N      seconds of load for each scenario (default 4)
  --quick          half a second each, and no models beside ONNX Runtime
  --native DIR     a folder whose node_modules has onnxruntime-node; none: do without (default: installed once, in the cache)
  --markdown       print the table as Markdown, for README
  --list           print the scenarios and end`;

/** Stands among the scenarios in `--only` and is none: the table of models beside ONNX Runtime. */
export const MODELS = "models";

export type BenchOptions = {
  /** Null: all of them. */
  only: string[] | null;
  models: boolean;
  /** Where ONNX Runtime is, as it was given. */
  native: string | undefined;
  secondsEach: number;
  /** Slices into which that time is cut. */
  rounds: number;
  /** No slice is begun after this many milliseconds from the start, once there is a round of them. */
  atMostMs: number;
  markdown: boolean;
  list: boolean;
};

/** Thrown for bad arguments, with a readable message. */
export class UsageError extends Error {}

/** Reads the command line. @throws UsageError */
export function readOptions(argv: string[]): BenchOptions {
  const { only, seconds, quick, native, markdown, list } = parsed(argv);
  const secondsEach = seconds === undefined ? (quick ? 0.5 : 4) : Number(seconds);
  if (!(secondsEach >= 0.1 && secondsEach <= 60)) throw new UsageError("--seconds takes a number from 0.1 to 60");
  const sliceSeconds = quick ? 0.25 : 0.5;
  const names = only?.split(",").map((name) => name.trim());
  if (names?.some((name) => name === "")) throw new UsageError("--only takes names with commas between them");
  return {
    only: names?.filter((name) => name !== MODELS) ?? null,
    models: names?.includes(MODELS) ?? !quick,
    native,
    secondsEach,
    rounds: Math.max(2, Math.round(secondsEach / sliceSeconds)),
    atMostMs: seconds === undefined ? (quick ? 36_000 : 170_000) : Number.POSITIVE_INFINITY,
    markdown: markdown ?? false,
    list: list ?? false,
  };
}

function parsed(argv: string[]) {
  try {
    return parseArgs({
      args: argv,
      options: {
        only: { type: "string" },
        seconds: { type: "string" },
        quick: { type: "boolean" },
        native: { type: "string" },
        markdown: { type: "boolean" },
        list: { type: "boolean" },
      },
    }).values;
  } catch (thrown) {
    throw new UsageError(thrown instanceof Error ? thrown.message : String(thrown));
  }
}
