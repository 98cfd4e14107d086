/**
 * How well the F1 model predicts crosses it has not seen: `npm run evaluate -- --parents P.csv --crosses C.csv --scheme LOCO`.
 * Prints one JSON object. Exit code 0, 1 for data that cannot be evaluated, 2 for bad arguments.
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  accuracyOf,
  crossValidate,
  meanAccuracy,
  SCHEMES,
  type Scheme,
} from "../src/breeding/genetics/cross-validation.ts";
import { GENERIC_PRIOR, GRID, parsePrior, type TraitPrior } from "../src/breeding/genetics/priors.ts";
import { readTrial } from "./lib/trial-data.ts";

const USAGE = `Usage: npm run evaluate -- --parents P.csv --crosses C.csv --scheme ${SCHEMES.join("|")}
  [--log trait,…]        traits analysed as natural logarithms
  [--priors FILE.json]   one prior, or one per trait by name (default: the generic prior)
  [--max-crosses N]      use at most N crosses, drawn by a fixed seed
  [--grid reference|production]

P.csv: parent,trait,value[,n]   C.csv: female,male,trait,value[,n]`;

/** Ends the program with a readable message. */
class Stop extends Error {
  readonly exitCode: 1 | 2;
  constructor(exitCode: 1 | 2, message: string) {
    super(message);
    this.exitCode = exitCode;
  }
}

function parseArguments() {
  try {
    return parseArgs({
      options: {
        parents: { type: "string" },
        crosses: { type: "string" },
        scheme: { type: "string" },
        log: { type: "string" },
        priors: { type: "string" },
        "max-crosses": { type: "string" },
        grid: { type: "string", default: "reference" },
        help: { type: "boolean", short: "h" },
      },
    }).values;
  } catch (cause) {
    throw new Stop(2, cause instanceof Error ? cause.message : String(cause));
  }
}

function read(path: string | undefined, option: string): Uint8Array {
  if (path === undefined) throw new Stop(2, `--${option} is required`);
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new Stop(2, `--${option}: cannot read ${path} (${cause instanceof Error ? cause.message : String(cause)})`);
  }
}

/** The prior of each trait: from the file by name, else the file itself, else the generic one. */
function readPriors(path: string | undefined): (trait: string) => TraitPrior {
  if (path === undefined) return () => GENERIC_PRIOR;
  let file: unknown;
  try {
    file = JSON.parse(new TextDecoder().decode(read(path, "priors")));
  } catch (cause) {
    if (cause instanceof Stop) throw cause;
    throw new Stop(2, `--priors: ${path} is not JSON`);
  }
  if (typeof file !== "object" || file === null) throw new Stop(2, `--priors: ${path} is not a JSON object`);
  const source = file;
  return (trait) => {
    const named: unknown = Object.hasOwn(source, trait) ? Reflect.get(source, trait) : source;
    const prior = parsePrior(named);
    if (!prior.ok) throw new Stop(2, `--priors: trait ${trait}: ${prior.error.message}`);
    return prior.value;
  };
}

function main() {
  const args = parseArguments();
  if (args.help) return console.log(USAGE);
  const scheme = SCHEMES.find((s): s is Scheme => s === args.scheme);
  if (!scheme) throw new Stop(2, `--scheme must be one of ${SCHEMES.join(", ")}`);
  if (args.grid !== "reference" && args.grid !== "production")
    throw new Stop(2, "--grid must be reference or production");
  const maxCrosses = args["max-crosses"] === undefined ? undefined : Number(args["max-crosses"]);
  if (maxCrosses !== undefined && !(Number.isInteger(maxCrosses) && maxCrosses > 0)) {
    throw new Stop(2, "--max-crosses must be a whole number above 0");
  }
  const priorOf = readPriors(args.priors);
  const trial = readTrial(
    { parents: read(args.parents, "parents"), crosses: read(args.crosses, "crosses") },
    {
      log: args.log
        ?.split(",")
        .map((trait) => trait.trim())
        .filter(Boolean),
      maxCrosses,
    },
  );
  if (!trial.ok) throw new Stop(trial.error.field === "log" ? 2 : 1, trial.error.message);

  const grid = GRID[args.grid];
  const traits = Object.fromEntries(
    trial.value.map((t) => [t.trait, accuracyOf(crossValidate({ ...t, scheme, grid, prior: priorOf(t.trait) }))]),
  );
  for (const [trait, { n }] of Object.entries(traits)) {
    if (n === 0) console.error(`${trait}: too few crosses for ${scheme}, nothing was predicted`);
  }
  console.log(JSON.stringify({ traits, pooled: meanAccuracy(Object.values(traits)) }, null, 2));
}

try {
  main();
} catch (cause) {
  if (!(cause instanceof Stop)) throw cause;
  console.error(cause.exitCode === 2 ? `${cause.message}\n\n${USAGE}` : cause.message);
  process.exitCode = cause.exitCode;
}
