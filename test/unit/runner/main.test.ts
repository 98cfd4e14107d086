import { spawn } from "node:child_process";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { describe, it, onTestFinished } from "vitest";
import { tryLock } from "../../../runner/embedded/agent/lock.ts";
import { type Call, problem, type Reply, scriptedServer, tempFolder } from "./support.ts";

const ENTRY = join(import.meta.dirname, "../../../runner/embedded/main.ts");

/** Runs the command to its end. `until`: it is told to leave when it has printed that. */
function command(args: string[], options: { stdin?: string; until?: RegExp } = {}) {
  const child = spawn(process.execPath, [ENTRY, ...args], { stdio: ["pipe", "pipe", "pipe"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  child.stdin.end(options.stdin ?? "");
  let output = "";
  let told = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk) => {
      output += String(chunk);
      if (told || !options.until?.test(output)) return;
      told = true;
      child.kill("SIGTERM");
    });
  }
  return new Promise<{ code: number | null; output: string }>((resolve) =>
    child.once("close", (code) => resolve({ code, output })),
  );
}

/** Login, registration token, registration, and claims without work. */
const registering = (call: Call): Reply => {
  const { path, headers } = call;
  if (path.endsWith("/auth/login")) return { status: 200, json: { access_token: "access" } };
  if (path.endsWith("/runners/tokens")) return { status: 201, json: { registration_token: "cvreg_1" } };
  if (path.endsWith("/register")) {
    return { status: 201, json: { runner_id: "r1", runner_token: "cvr_1", timers: {}, limits: {} } };
  }
  return headers.authorization === "Bearer cvr_1" ? { status: 204 } : problem(401, "UNAUTHORIZED");
};

describe("npm run runner", () => {
  it("registers once with the local user, remembers it, and leaves on SIGTERM", async ({ expect }) => {
    const { url, calls } = await scriptedServer(registering);
    const stateDir = join(await tempFolder(), "state");
    const args = ["--url", url, "--state-dir", stateDir, "--name", "n1"];
    const first = await command(args, { until: /ready: n1 \(r1\)/ });
    expect(first.code).toBe(0);
    expect(first.output).toContain("using the local user user@example.com");
    const names = () => calls.map(({ path }) => path.split("/").at(-1));
    expect(names().slice(0, 4)).toEqual(["login", "tokens", "register", "claim"]);
    expect(JSON.parse(String(calls[2]?.body))).toMatchObject({
      name: "n1",
      frameworks: ["embedded"],
      slots: 1,
      protocol: 1,
    });
    expect(calls[2]?.headers.authorization).toBe("Bearer cvreg_1");
    expect((await stat(join(stateDir, "credentials.json"))).mode & 0o777).toBe(0o600);
    expect(names().at(-1)).toBe("offline");

    calls.length = 0;
    const { machineId } = JSON.parse(await readFile(join(stateDir, "machine.json"), "utf8")) as { machineId: string };
    expect((await command(args, { until: /ready/ })).code).toBe(0);
    expect(names()[0]).toBe("claim");
    expect(JSON.parse(await readFile(join(stateDir, "machine.json"), "utf8"))).toEqual({ machineId });
  });

  it("registers with a token from its standard input", async ({ expect }) => {
    const { url, calls } = await scriptedServer(registering);
    const stateDir = await tempFolder();
    const args = ["--url", url, "--state-dir", stateDir, "--token-stdin"];
    expect((await command(args, { stdin: "cvreg_given\n", until: /ready/ })).code).toBe(0);
    expect(calls[0]).toMatchObject({ path: expect.stringMatching(/register$/) });
    expect(calls[0]?.headers.authorization).toBe("Bearer cvreg_given");
  });

  it("says why it may not register, and never prints a token", async ({ expect }) => {
    const refused = await scriptedServer((call) =>
      call.path.endsWith("/runners/tokens") ? problem(403, "FORBIDDEN") : registering(call),
    );
    const stateDir = await tempFolder();
    const login = ["--url", refused.url, "--state-dir", stateDir, "--email", "a@b.example", "--password-stdin"];
    const result = await command(login, { stdin: "secret password\n" });
    expect(result.code).toBe(1);
    expect(result.output).toMatch(/a@b\.example may not add runners/);
    expect(result.output).not.toContain("secret password");

    const token = `cvreg_${"ab".repeat(24)}`;
    const expired = await scriptedServer(() => problem(401, "UNAUTHORIZED"));
    const again = await command(["--url", expired.url, "--state-dir", stateDir, "--token", token]);
    expect(again.code).toBe(1);
    expect(again.output).toMatch(/registration token is not valid/);
    expect(again.output).not.toContain(token);
  });

  it("needs credentials for a server elsewhere", async ({ expect }) => {
    const result = await command(["--url", "https://cultivar.invalid", "--state-dir", await tempFolder()]);
    expect([result.code, result.output]).toEqual([1, expect.stringMatching(/not registered there: give --token/)]);
  });

  it("has exit codes for wrong arguments and for a state folder in use", async ({ expect }) => {
    expect((await command(["--slots", "none"])).code).toBe(2);
    expect((await command(["--help"])).code).toBe(0);
    const stateDir = await tempFolder();
    const lock = await tryLock(join(stateDir, "agent.lock"));
    expect((await command(["--state-dir", stateDir])).code).toBe(3);
    await lock?.release();
  });
});
