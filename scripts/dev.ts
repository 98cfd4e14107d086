/**
 * The local server: `npm run dev [-- --port N --persist-to DIR …]`. Applies migrations, makes secrets and local data where
 * they are missing, serves, and says how to call it. Everything else on the command line goes to `wrangler dev`.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ensureDevVars } from "./lib/dev-vars.ts";
import { LOCAL_USER, loadLocalData } from "./lib/local-data.ts";
import { spawnDevServer, untilHealthy } from "./lib/server.ts";
import { applyMigrations, ROOT } from "./lib/wrangler.ts";
import "./gen.ts";

const DEFAULT_PORT = 8000;

/** Our two options, in both spellings, and the rest as it came. */
function readArguments(args: string[]): { port: number; persistTo: string | undefined; rest: string[] } {
  const { tokens, values } = parseArgs({
    args,
    strict: false,
    tokens: true,
    allowPositionals: true,
    options: { port: { type: "string" }, "persist-to": { type: "string" } },
  });
  const ours = new Set<number>();
  for (const token of tokens) {
    if (token.kind !== "option" || (token.name !== "port" && token.name !== "persist-to")) continue;
    ours.add(token.index);
    if (token.inlineValue === false) ours.add(token.index + 1);
  }
  const port = Number(values.port ?? DEFAULT_PORT);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) throw new Error("--port must be a number from 1 to 65535");
  return {
    port,
    persistTo: typeof values["persist-to"] === "string" ? values["persist-to"] : undefined,
    rest: args.filter((_, index) => !ours.has(index)),
  };
}

const { port, persistTo, rest } = readArguments(process.argv.slice(2));
const { INTERNAL_SECRET } = ensureDevVars();
await applyMigrations(persistTo);
await loadLocalData(persistTo ?? join(ROOT, ".wrangler/state"), Date.now());

const server = spawnDevServer({ port, persistTo, args: rest }, "inherit");
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => server.kill(signal));
server.once("close", (code) => process.exit(code ?? 0));

// npm passes no signal on when it is killed itself: without its parent the server would keep the port.
const parent = process.ppid;
if (process.env.npm_lifecycle_event !== undefined) {
  setInterval(() => {
    if (process.ppid !== parent) server.kill("SIGTERM");
  }, 1_000).unref();
}

const url = `http://localhost:${port}`;
await untilHealthy(url, server);
console.log(`
cultivar is ready on ${url}
  Training API  ${url}/api/v1        Breeding API  ${url}/api
  documents     ${url}/docs
  local user    ${LOCAL_USER.email} / ${LOCAL_USER.password} (only in this local database)
  a runner      npm run runner -- --url ${url}

Try:
  curl -s ${url}/api/v1/auth/login -H 'content-type: application/json' \\
    -d '{"email":"${LOCAL_USER.email}","password":"${LOCAL_USER.password}"}'
  curl -s ${url}/api/v1/internal/training/callback -H 'content-type: application/json' \\
    -H 'x-internal-auth: ${INTERNAL_SECRET}' -d '{"job_id":1,"event":"epoch_complete","data":{"epoch":1,"loss":0.45}}'
`);
