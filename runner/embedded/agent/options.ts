import { hostname } from "node:os";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { err, ok, type Result } from "../../../src/shared/result.ts";

export const DEFAULT_URL = "http://localhost:8000";
const DEFAULT_CACHE_MB = 20_480;

export const HELP = `Runs training jobs of a cultivar server on this machine's processor (framework "embedded").

usage: npm run runner -- [options]

  --url URL            the server (default ${DEFAULT_URL})
  --token TOKEN        a registration token, from POST /api/v1/runners/tokens; needed once
  --token-stdin        read the registration token from standard input
  --email E --password-stdin
                       instead: log in as an admin and ask for a registration token
  --state-dir DIR      credentials, outbox and dataset cache (default .cultivar/runner)
  --insecure-http      allow http:// for a server on another machine (a trusted network only)
  --name NAME          how this runner is called (default: the host's name)
  --slots N            jobs at a time (default 1)
  --labels K=V,K=V     labels that jobs can ask for, told to the server when the runner registers; may be repeated
  --once               do one job, then end
  --cache-mb N         largest size of the dataset cache (default ${DEFAULT_CACHE_MB})
  --trainer NAME=FILE  a trainer for another framework: a script that Node runs; may be repeated
  --help

Once registered, the credentials are in the state folder and --url alone is enough. Against a server on this machine the
local user of \`npm run dev\` is used when nothing else is given.

Signals: the first SIGTERM or SIGINT lets the running job finish and takes no other; the second saves a checkpoint and gives
the job back; SIGQUIT, or a third, ends at once.
Exit codes: 0 ended as asked · 1 cannot go on · 2 wrong arguments · 3 the state folder is in use by another process`;

export type Credentials =
  | { type: "token"; token: string }
  | { type: "token-stdin" }
  | { type: "login"; email: string }
  /** Nothing was given. */
  | { type: "none" };

export type Options = {
  url: string;
  credentials: Credentials;
  stateDir: string;
  name: string;
  slots: number;
  labels: Record<string, string>;
  once: boolean;
  cacheBytes: number;
  /** Framework and absolute path of its entry file. */
  trainers: [string, string][];
};

/** Whether a URL is this machine's own. */
export const isLocal = (url: string): boolean => /^(localhost|127(\.\d+){3}|\[::1\])$/.test(new URL(url).hostname);

/** Reads the command line; `help` when that is what is asked for. */
export function parseOptions(args: string[]): Result<Options | "help", string> {
  let values: ReturnType<typeof parse>["values"];
  try {
    ({ values } = parse(args));
  } catch (error) {
    return err(error instanceof Error ? error.message : String(error));
  }
  if (values.help) return ok("help");

  if (!URL.canParse(values.url)) return err(`--url ${values.url} is not a URL`);
  const url = new URL(values.url);
  if (url.protocol !== "https:" && url.protocol !== "http:") return err("--url must begin with https:// or http://");
  if (url.username !== "" || url.password !== "") return err("--url must not hold a password");
  if (url.protocol === "http:" && !isLocal(values.url) && !values["insecure-http"]) {
    return err(
      "--url must be https:// for a server on another machine (or add --insecure-http): tokens travel with it",
    );
  }

  const given = [values.token !== undefined, values["token-stdin"], values.email !== undefined].filter(Boolean).length;
  if (given > 1) return err("--token, --token-stdin and --email exclude each other");
  if ((values.email !== undefined) !== values["password-stdin"])
    return err("--email and --password-stdin come together");
  const credentials: Credentials =
    values.token !== undefined
      ? { type: "token", token: values.token }
      : values["token-stdin"]
        ? { type: "token-stdin" }
        : values.email !== undefined
          ? { type: "login", email: values.email }
          : { type: "none" };

  const slots = wholeNumber(values.slots, 1, 64);
  if (slots === null) return err("--slots must be a number from 1 to 64");
  const cacheMb = wholeNumber(values["cache-mb"], 1, 1_000_000_000);
  if (cacheMb === null) return err("--cache-mb must be a number from 1");
  const name = values.name.trim();
  if (name === "" || name.length > 200) return err("--name must have 1 to 200 characters");

  const labels = readLabels(values.labels);
  if (!labels.ok) return labels;

  const trainers: [string, string][] = [];
  for (const pair of values.trainer) {
    const [, framework, file] = /^([\w.-]{1,50})=(.+)$/.exec(pair) ?? [];
    if (framework === undefined || file === undefined) return err(`--trainer ${pair} is not NAME=FILE`);
    trainers.push([framework, resolve(file)]);
  }
  return ok({
    url: url.href.replace(/\/+$/, ""),
    credentials,
    stateDir: resolve(values["state-dir"]),
    name,
    slots,
    labels: labels.value,
    once: values.once,
    cacheBytes: cacheMb * 1024 * 1024,
    trainers,
  });
}

const parse = (args: string[]) =>
  parseArgs({
    args,
    options: {
      url: { type: "string", default: DEFAULT_URL },
      token: { type: "string" },
      "token-stdin": { type: "boolean", default: false },
      email: { type: "string" },
      "password-stdin": { type: "boolean", default: false },
      "state-dir": { type: "string", default: ".cultivar/runner" },
      "insecure-http": { type: "boolean", default: false },
      name: { type: "string", default: hostname() },
      slots: { type: "string", default: "1" },
      labels: { type: "string", multiple: true, default: [] },
      once: { type: "boolean", default: false },
      "cache-mb": { type: "string", default: String(DEFAULT_CACHE_MB) },
      trainer: { type: "string", multiple: true, default: [] },
      help: { type: "boolean", short: "h", default: false },
    },
  });

/** The server takes 50; two are the runner's own. */
const MAX_LABELS = 48;

/** `K=V` pairs, by commas or one by one; a value may be empty, a name not. */
function readLabels(lists: string[]): Result<Record<string, string>, string> {
  const labels = new Map<string, string>();
  for (const pair of lists.flatMap((list) => list.split(",")).map((text) => text.trim())) {
    const [, name, value] = /^([^=]{1,100})=(.{0,200})$/.exec(pair) ?? [];
    if (name === undefined || value === undefined) return err(`--labels ${pair} is not NAME=VALUE`);
    if (labels.has(name)) return err(`--labels names ${name} twice`);
    labels.set(name, value);
  }
  return labels.size > MAX_LABELS ? err(`--labels takes at most ${MAX_LABELS}`) : ok(Object.fromEntries(labels));
}

function wholeNumber(text: string, min: number, max: number): number | null {
  const value = /^\d{1,12}$/.test(text) ? Number(text) : Number.NaN;
  return value >= min && value <= max ? value : null;
}
