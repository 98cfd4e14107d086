/**
 * Adds a user: `npm run user -- add --email … --name … [--admin] --password-stdin [--persist-to DIR | --remote]`.
 * There is no open sign-up: whoever may deploy may add people.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { EmailSchema } from "../src/auth/email.ts";
import { MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH } from "../src/auth/password.ts";
import { addUserSql } from "./lib/people.ts";
import { applyMigrations, DATABASE, persistArgs, runWrangler } from "./lib/wrangler.ts";

const USAGE = `usage: npm run user -- add --email E --name N [--admin] --password-stdin [--persist-to DIR | --remote]
The password is read from standard input (${MIN_PASSWORD_LENGTH} to ${MAX_PASSWORD_LENGTH} characters).`;

class UsageError extends Error {}

async function readPassword(): Promise<string> {
  let text = "";
  for await (const chunk of process.stdin) text += String(chunk);
  const password = text.replace(/\r?\n$/, "");
  if (password.length < MIN_PASSWORD_LENGTH || password.length > MAX_PASSWORD_LENGTH) {
    throw new UsageError(`the password must have ${MIN_PASSWORD_LENGTH} to ${MAX_PASSWORD_LENGTH} characters`);
  }
  return password;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      email: { type: "string" },
      name: { type: "string" },
      admin: { type: "boolean", default: false },
      "password-stdin": { type: "boolean", default: false },
      "persist-to": { type: "string" },
      remote: { type: "boolean", default: false },
    },
  });
  if (positionals[0] !== "add" || positionals.length > 1) throw new UsageError("the only command is `add`");
  if (!values.email || !values.name || !values["password-stdin"]) {
    throw new UsageError("--email, --name and --password-stdin are needed");
  }
  if (values.remote && values["persist-to"]) throw new UsageError("--remote and --persist-to exclude each other");
  const email = EmailSchema.safeParse(values.email);
  if (!email.success) throw new UsageError(`--email ${email.error.issues[0]?.message ?? "is not valid"}`);
  const password = await readPassword();
  if (password.toLowerCase() === email.data) throw new UsageError("the password must not be the e-mail address");

  const sql = await addUserSql({ email: email.data, fullName: values.name, password, admin: values.admin }, Date.now());
  const folder = mkdtempSync(join(tmpdir(), "cultivar-user-"));
  try {
    const file = join(folder, "user.sql");
    writeFileSync(file, sql, { mode: 0o600 });
    if (!values.remote) await applyMigrations(values["persist-to"]);
    const target = values.remote
      ? ["--remote", "--env", "production"]
      : ["--local", ...persistArgs(values["persist-to"])];
    await runWrangler(["d1", "execute", DATABASE, "--yes", "--file", file, ...target]);
  } finally {
    rmSync(folder, { recursive: true });
  }
  console.log(`user ${email.data} added${values.admin ? " (admin)" : ""}`);
}

try {
  await main();
} catch (thrown) {
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  if (/UNIQUE constraint failed: users\.email/.test(text))
    console.error("user: this e-mail address has an account already");
  else console.error(`user: ${text}`);
  if (thrown instanceof UsageError || text.includes("Unknown option")) console.error(USAGE);
  process.exitCode = thrown instanceof UsageError ? 2 : 1;
}
