/**
 * Makes a registration token with which machines can register as runners:
 * `npm run runner-token -- [--uses N] [--ttl SECONDS] [--persist-to DIR | --remote]`. Whoever may deploy needs no account for
 * it; an admin gets the same through `POST /api/v1/runners/tokens`. Only the token goes to standard output.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { newToken } from "../src/shared/ids.ts";
import { isoSeconds } from "../src/shared/time.ts";
import { RegistrationTokenRequestSchema } from "../src/training/runners/schemas.ts";
import { registrationTokenSql } from "./lib/registration-token.ts";
import { applyMigrations, DATABASE, persistArgs, runWrangler } from "./lib/wrangler.ts";

const USAGE = "usage: npm run runner-token -- [--uses N] [--ttl SECONDS] [--persist-to DIR | --remote]";

class UsageError extends Error {}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      uses: { type: "string", default: "1" },
      ttl: { type: "string", default: "3600" },
      "persist-to": { type: "string" },
      remote: { type: "boolean", default: false },
    },
  });
  if (values.remote && values["persist-to"]) throw new UsageError("--remote and --persist-to exclude each other");
  const request = RegistrationTokenRequestSchema.safeParse({ uses: Number(values.uses), ttl_s: Number(values.ttl) });
  if (!request.success) {
    const [issue] = request.error.issues;
    throw new UsageError(`--${issue?.path[0] === "ttl_s" ? "ttl" : issue?.path.join(".")}: ${issue?.message}`);
  }

  const token = newToken("cvreg");
  const nowMs = Date.now();
  const { pool, uses, ttl_s } = request.data;
  const expiresAtMs = nowMs + ttl_s * 1000;
  const folder = mkdtempSync(join(tmpdir(), "cultivar-token-"));
  try {
    const file = join(folder, "token.sql");
    writeFileSync(file, await registrationTokenSql({ token, pool, uses, expiresAtMs }, nowMs), { mode: 0o600 });
    if (!values.remote) await applyMigrations(values["persist-to"]);
    const target = values.remote
      ? ["--remote", "--env", "production"]
      : ["--local", ...persistArgs(values["persist-to"])];
    await runWrangler(["d1", "execute", DATABASE, "--yes", "--file", file, ...target]);
  } finally {
    rmSync(folder, { recursive: true });
  }
  console.error(`registers ${uses} machine(s) until ${isoSeconds(expiresAtMs)}:`);
  console.log(token);
}

try {
  await main();
} catch (thrown) {
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  console.error(`runner-token: ${text}`);
  const isUsage = thrown instanceof UsageError || /Unknown option|Unexpected argument|argument missing/.test(text);
  if (isUsage) console.error(USAGE);
  process.exitCode = isUsage ? 2 : 1;
}
