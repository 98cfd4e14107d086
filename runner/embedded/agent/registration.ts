import { randomUUID } from "node:crypto";
import { arch, cpus, platform, release } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { ApiError, type Client, type RetryOptions, retrying } from "./client.ts";
import { readJson, writeAtomically } from "./files.ts";
import { type Credentials, isLocal } from "./options.ts";
import { LoginAnswer, RegisterAnswer, RegistrationAnswer, type Timers, TimersIn } from "./wire.ts";

/** How this machine becomes a runner of a server, and remembers it. */

/** Exists only in a local database (`npm run dev`); a deployment has no such user. */
const LOCAL_USER = { email: "user@example.com", password: "password123" };

const RunnerSchema = z.object({ runnerId: z.string(), runnerToken: z.string(), timers: TimersIn });
/** Persisted; one entry for each server, by its URL. */
const CredentialsSchema = z.object({ servers: z.record(z.string(), RunnerSchema) });
const MachineSchema = z.object({ machineId: z.string().min(1).max(200) });

export type Runner = { runnerId: string; runnerToken: string; timers: Timers };

/** The runner cannot register; the message says what to do. */
export class RegistrationFailed extends Error {
  override readonly name = "RegistrationFailed";
}

export type RegistrationDeps = {
  client: Client;
  retry: RetryOptions;
  stateDir: string;
  name: string;
  slots: number;
  frameworks: string[];
  /** Beside those that say what machine this is. */
  labels: Record<string, string>;
  version: string;
  credentials: Credentials;
  readStdin: () => Promise<string>;
  log: (line: string) => void;
};

const credentialsFile = (stateDir: string) => join(stateDir, "credentials.json");

async function savedServers(stateDir: string): Promise<z.infer<typeof CredentialsSchema>["servers"]> {
  const parsed = CredentialsSchema.safeParse(await readJson(credentialsFile(stateDir)));
  return parsed.success ? parsed.data.servers : {};
}

/** This machine's runner at the server: as saved, else newly registered. @throws RegistrationFailed */
export async function signIn(deps: RegistrationDeps): Promise<Runner> {
  const saved = (await savedServers(deps.stateDir))[deps.client.baseUrl];
  return saved ?? register(deps);
}

/** Registers anew, e.g. after the saved token was refused. @throws RegistrationFailed */
export async function register(deps: RegistrationDeps): Promise<Runner> {
  const { client, retry, stateDir, name, slots, frameworks, labels, version } = deps;
  const registrationToken = await tokenFor(deps);
  const json = {
    machine_id: await machineId(stateDir),
    name,
    os: `${platform()} ${release()} ${arch()}, ${cpus().length} cores`.slice(0, 200),
    gpus: [],
    frameworks,
    labels: { platform: platform(), arch: arch(), ...labels },
    slots,
    version,
    protocol: 1,
  };
  const answer = await retrying(
    () => client.call("POST", "/api/v1/internal/runners/register", RegisterAnswer, { token: registrationToken, json }),
    retry,
  ).catch(explain("the registration token is not valid any more; ask for a new one"));
  const runner: Runner = { runnerId: answer.runner_id, runnerToken: answer.runner_token, timers: answer.timers };
  const servers = { ...(await savedServers(stateDir)), [client.baseUrl]: runner };
  await writeAtomically(credentialsFile(stateDir), JSON.stringify({ servers }));
  deps.log(`registered at ${client.baseUrl} as ${name} (${runner.runnerId})`);
  return runner;
}

async function tokenFor({ client, retry, credentials, readStdin, log }: RegistrationDeps): Promise<string> {
  switch (credentials.type) {
    case "token":
      return credentials.token;
    case "token-stdin":
      return (await readStdin()).trim();
    case "login":
      return tokenByLogin(client, retry, credentials.email, (await readStdin()).replace(/\r?\n$/, ""));
    case "none":
      if (!isLocal(client.baseUrl)) {
        throw new RegistrationFailed(
          "this machine is not registered there: give --token, or --email and --password-stdin of an admin",
        );
      }
      log(`no credentials given: using the local user ${LOCAL_USER.email} of npm run dev`);
      return tokenByLogin(client, retry, LOCAL_USER.email, LOCAL_USER.password);
  }
}

async function tokenByLogin(client: Client, retry: RetryOptions, email: string, password: string): Promise<string> {
  const login = await retrying(
    () => client.call("POST", "/api/v1/auth/login", LoginAnswer, { json: { email, password } }),
    retry,
  ).catch(explain(`${email} could not log in`));
  const granted = await retrying(
    () =>
      client.call("POST", "/api/v1/runners/tokens", RegistrationAnswer, {
        token: login.access_token,
        json: { uses: 1, ttl_s: 600 },
      }),
    retry,
  ).catch(explain(`${email} may not add runners`));
  return granted.registration_token;
}

const explain =
  (what: string) =>
  (error: unknown): never => {
    if (error instanceof ApiError) throw new RegistrationFailed(`${what}: ${error.message}`);
    throw error;
  };

/** Stays the same for this state folder: the server keeps the runner's id by it. */
async function machineId(stateDir: string): Promise<string> {
  const path = join(stateDir, "machine.json");
  const known = MachineSchema.safeParse(await readJson(path));
  if (known.success) return known.data.machineId;
  const made = { machineId: randomUUID() };
  await writeAtomically(path, JSON.stringify(made));
  return made.machineId;
}
