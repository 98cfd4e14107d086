import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "vitest";
import { Agent, AgentStopped } from "../../../runner/embedded/agent/agent.ts";
import { Attempt } from "../../../runner/embedded/agent/attempt.ts";
import { systemClock } from "../../../runner/embedded/agent/clock.ts";
import { ContentCache } from "../../../runner/embedded/agent/dataset/cache.ts";
import { settleLeftovers } from "../../../runner/embedded/agent/leftovers.ts";
import { isAlive } from "../../../runner/embedded/agent/lock.ts";
import { identityOf, TrainerProcess } from "../../../runner/embedded/agent/trainer-process.ts";
import { AcceptAnswer, DEFAULT_TIMERS } from "../../../runner/embedded/agent/wire.ts";
import type { TrainerMessage } from "../../../runner/embedded/trainer-messages.ts";
import { type Call, hastyClock, problem, type Reply, scriptedServer, tempFolder } from "./support.ts";

/** A trainer of a few lines; `send` and `job` are there for it. */
async function trainerOf(body: string): Promise<string> {
  const path = join(await tempFolder(), "trainer.mjs");
  await writeFile(
    path,
    `import { readFileSync } from "node:fs";
     const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
     const send = (message) => new Promise((resolve) => process.send(message, undefined, undefined, resolve));
     const finish = async (reason, message) => { await send({ type: "finished", reason, message }); process.disconnect(); };
     ${body}`,
  );
  return path;
}

type Sent = { seq: number; event: string; data: Record<string, unknown> };

/** The calls of one attempt, as the server does them; `fault` comes first. */
async function jobServer(fault: (call: Call, state: { events: Sent[] }) => Reply | null | undefined = () => undefined) {
  const state = { events: [] as Sent[], logs: { stdout: "", stderr: "" }, desired: "run", graceS: 1 };
  const server = await scriptedServer((call) => {
    const wrong = fault(call, state);
    if (wrong !== undefined) return wrong;
    const { path } = call;
    if (path.endsWith("/heartbeat")) {
      const ack_seq = state.events.length;
      const answer = {
        lease_s: 60,
        desired: state.desired,
        grace_s: state.graceS,
        ack_seq,
        server_time: "2026-01-01T00:00:00Z",
      };
      return { status: 200, json: answer };
    }
    if (path.endsWith("/callback")) {
      for (const event of (JSON.parse(String(call.body)) as { events: Sent[] }).events) {
        if (event.seq === state.events.length + 1) state.events.push(event);
      }
      return { status: 200, json: { ack_seq: state.events.length, missing: [], rejected: [], desired: state.desired } };
    }
    const log = /logs\/(stdout|stderr)\/\d+$/.exec(path)?.[1];
    if (log === "stdout" || log === "stderr") {
      state.logs[log] += String(call.body);
      return { status: 201, json: { next_seq: 1 } };
    }
    if (path.endsWith("/dataset")) {
      return { status: 200, json: { dataset_id: "d", content_hash: "h", files: [], next_cursor: null } };
    }
    return problem(404, "NOT_FOUND");
  });
  return { ...server, state };
}

const accepted = (over: Record<string, unknown> = {}) =>
  AcceptAnswer.parse({
    job_token: "eyJhbGciOiJIUzI1NiJ9.aaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbb",
    attempt: 2,
    lease_s: 60,
    spec: { framework: "test" },
    resume: null,
    timers: { heartbeat_s: 0.05, retry_base_s: 0.01, retry_cap_s: 0.05, finalize_s: 5 },
    limits: {},
    ...over,
  });

async function attemptAt(
  server: Awaited<ReturnType<typeof jobServer>>,
  trainer: string,
  over: Record<string, unknown> = {},
) {
  const folder = await tempFolder();
  const attempt = new Attempt(
    {
      client: server.client,
      clock: systemClock,
      cache: new ContentCache(join(folder, "cache"), 1e9, systemClock),
      trainers: new Map([["test", trainer]]),
      folder: join(folder, "attempts"),
      secrets: ["the-runner-token"],
      log: () => {},
    },
    5,
    accepted(over),
  );
  return { attempt, folder: join(folder, "attempts") };
}

async function until(happened: () => boolean | Promise<boolean>, patienceMs = 10_000): Promise<void> {
  const giveUpAt = Date.now() + patienceMs;
  while (!(await happened())) {
    if (Date.now() > giveUpAt) throw new Error("it did not happen");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

describe("TrainerProcess", () => {
  const run = async (body: string) => {
    const messages: TrainerMessage[] = [];
    const output = { stdout: "", stderr: "" };
    const noise: string[] = [];
    const jobFile = join(await tempFolder(), "job.json");
    await writeFile(jobFile, "{}");
    const trainer = new TrainerProcess(await trainerOf(body), jobFile, await tempFolder(), {
      onMessage: (message) => messages.push(message),
      onOutput: async (stream, bytes) => {
        output[stream] += Buffer.from(bytes).toString();
      },
      onNoise: (line) => noise.push(line),
    });
    return { trainer, messages, output, noise };
  };

  it("hears every message and reads all output before it is over", async ({ expect }) => {
    const { trainer, messages, output } = await run(`
      for (let epoch = 1; epoch <= 500; epoch += 1) send({ type: "epoch", epoch });
      process.stdout.write("x".repeat(1_000_000)); process.stderr.write("last words");
      await finish("done");`);
    expect(await trainer.ended).toEqual({ exitCode: 0, signal: null });
    expect(messages).toHaveLength(501);
    expect(messages.at(-1)).toMatchObject({ type: "finished", reason: "done" });
    expect([output.stdout.length, output.stderr]).toEqual([1_000_000, "last words"]);
  });

  it("takes what the trainer has started with it", async ({ expect }) => {
    const { trainer, output } = await run(`
      const { spawn } = await import("node:child_process");
      const helper = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "inherit" });
      console.log(helper.pid); process.disconnect(); process.exitCode = 7; helper.unref();`);
    expect(await trainer.ended).toEqual({ exitCode: 7, signal: null });
    const helper = Number(output.stdout);
    expect(helper).toBeGreaterThan(1);
    await until(() => !isAlive(helper));
  });

  it("reports messages that are none, and an entry that is not there", async ({ expect }) => {
    const { trainer, messages, noise } = await run(
      `await send({ type: "nonsense" }); await send(5); await finish("done");`,
    );
    await trainer.ended;
    expect(messages).toHaveLength(1);
    expect(noise).toHaveLength(2);

    const missing = new TrainerProcess("/nowhere/trainer.mjs", "/nowhere", await tempFolder(), {
      onMessage: () => {},
      onOutput: async () => {},
      onNoise: () => {},
    });
    expect(await missing.ended).toEqual({ exitCode: 1, signal: null });
    const nowhere = new TrainerProcess("x", "y", "/no/such/folder", {
      onMessage: () => {},
      onOutput: async () => {},
      onNoise: () => {},
    });
    expect(await nowhere.ended).toEqual({ exitCode: null, signal: null });
  });
});

describe("Attempt", () => {
  it("sends events and log before the last event, which announces them", async ({ expect }) => {
    const server = await jobServer();
    const { attempt, folder } = await attemptAt(
      server,
      await trainerOf(`
        await send({ type: "started", totalEpochs: 1 });
        console.log("token the-runner-token"); process.stderr.write("no end of line");
        await send({ type: "epoch", epoch: 1, loss: 1, accuracy: 1, learningRate: 1, extraMetrics: {} });
        await finish("done");`),
    );
    expect(await attempt.run()).toEqual({ event: "completed", reason: "done" });
    const { events, logs } = server.state;
    expect(events.map(({ seq, event }) => [seq, event])).toEqual([
      [1, "started"],
      [2, "epoch_complete"],
      [3, "completed"],
    ]);
    expect(events[2]?.data).toMatchObject({ exit_code: 0, chunks_failed: 0, log_chunks: { stdout: 1, stderr: 1 } });
    expect(logs.stdout).toMatch(/^\[runner\] dataset: 0 files.*\ntoken \[masked\]\n$/);
    expect(logs.stderr).toBe("no end of line");
    const last = server.calls.findLastIndex(({ body }) => String(body).includes('"completed"'));
    expect(server.calls.slice(last + 1).every(({ path }) => path.endsWith("/heartbeat"))).toBe(true);
    expect(await readdir(folder)).toEqual([]);
  });

  it("kills the trainer and is silent once the lease is somebody else's", async ({ expect }) => {
    let stale = false;
    const server = await jobServer(() => (stale ? problem(409, "STALE_LEASE") : undefined));
    const { attempt, folder } = await attemptAt(
      server,
      await trainerOf(`
        console.log(process.pid);
        await send({ type: "started", totalEpochs: 1 });
        process.on("SIGTERM", () => {}); setInterval(() => {}, 1000);`),
    );
    const running = attempt.run();
    await until(() => server.state.events.length === 1);
    const [name = ""] = await readdir(folder);
    const { pid } = JSON.parse(await readFile(join(folder, name, "trainer.json"), "utf8")) as { pid: number };
    expect(isAlive(pid)).toBe(true);
    stale = true;
    expect(await running).toEqual({ event: "abandoned", reason: null });
    expect(isAlive(pid)).toBe(false);
    expect(await readdir(folder)).toEqual([]);
    expect(server.state.events).toHaveLength(1);
  });

  it("asks, then insists, when the server wants it stopped", async ({ expect }) => {
    const server = await jobServer();
    server.state.graceS = 0.2;
    const { attempt } = await attemptAt(
      server,
      await trainerOf(`
        process.on("message", (command) => console.log("heard", command.type));
        process.on("SIGTERM", () => { console.log("SIGTERM"); process.exit(4); });
        await send({ type: "started", totalEpochs: 1 });`),
    );
    const running = attempt.run();
    await until(() => server.state.events.length === 1);
    server.state.desired = "stop";
    expect(await running).toEqual({ event: "stopped", reason: "user_stop" });
    expect(server.state.logs.stdout).toMatch(/heard stop\nSIGTERM\n$/);
    expect(server.state.events.at(-1)).toMatchObject({ event: "stopped", data: { exit_code: 4 } });
  });

  it("does not begin to train when it is stopped while the dataset comes", async ({ expect }) => {
    const server = await jobServer((call) => (call.path.endsWith("/dataset") ? problem(503, "NO") : undefined));
    server.state.desired = "stop";
    const { attempt } = await attemptAt(server, await trainerOf(`console.log("ran"); await finish("done");`));
    expect(await attempt.run()).toMatchObject({ event: "stopped" });
    expect(server.state.logs.stdout).toBe("");
  });

  it("fails without a trainer for the framework", async ({ expect }) => {
    const server = await jobServer();
    const { attempt } = await attemptAt(server, "unused", { spec: { framework: "other" } });
    expect(await attempt.run()).toEqual({ event: "failed", reason: "invalid_config" });
    expect(server.state.events[0]?.data.message).toContain("other");
  });

  it("tells a damaged checkpoint from one that is fine", async ({ expect }) => {
    const state = Buffer.from("state");
    const sha256 = createHash("sha256").update(state).digest("hex");
    const resume = { artifact_id: "a", epoch: 3, size: state.length, sha256, weights_only: true };
    const trainer = await trainerOf(
      `const { path, ...rest } = job.resume; console.log(readFileSync(path, "utf8"), JSON.stringify(rest)); await finish("done");`,
    );
    const run = async (body: string) => {
      const server = await jobServer(({ path }) =>
        path.endsWith("/artifacts/a/content") ? { status: 200, body: Buffer.from(body) } : undefined,
      );
      const { attempt } = await attemptAt(server, trainer, { resume });
      return { result: await attempt.run(), logs: server.state.logs };
    };
    const fine = await run("state");
    expect(fine.result).toMatchObject({ event: "completed" });
    expect(fine.logs.stdout).toContain('state {"epoch":3,"weightsOnly":true}');
    expect((await run("STATE")).result).toEqual({ event: "failed", reason: "checkpoint_corrupt" });
  });

  it("repeats the last event until the server has it, and takes a refusal then for yes", async ({ expect }) => {
    let lost = 0;
    const server = await jobServer((call) => {
      if (!String(call.body).includes('"completed"')) return undefined;
      lost += 1;
      if (lost === 1) return null;
      return lost === 2 ? problem(503, "NO") : problem(409, "STALE_LEASE");
    });
    const { attempt, folder } = await attemptAt(server, await trainerOf(`await finish("done");`));
    expect(await attempt.run()).toMatchObject({ event: "completed" });
    expect(lost).toBe(3);
    expect(await readdir(folder)).toEqual([]);
  });

  it("trains on through an outage and delivers everything afterwards", async ({ expect }) => {
    let away = false;
    const server = await jobServer(() => (away ? null : undefined));
    const { attempt } = await attemptAt(
      server,
      await trainerOf(`
        for (let epoch = 1; epoch <= 30; epoch += 1) {
          console.log("epoch", epoch);
          await send({ type: "epoch", epoch, loss: 1, accuracy: 1, learningRate: 1, extraMetrics: {} });
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        await finish("done");`),
    );
    const running = attempt.run();
    await until(() => server.state.events.length > 2);
    away = true;
    setTimeout(() => {
      away = false;
    }, 1_000);
    expect(await running).toMatchObject({ event: "completed" });
    expect(server.state.events.map(({ data }) => data.epoch).slice(0, 30)).toEqual(
      Array.from({ length: 30 }, (_, i) => i + 1),
    );
    expect(server.state.logs.stdout.match(/^epoch \d+$/gm)).toHaveLength(30);
  });
});

describe("settleLeftovers", () => {
  const leftover = async (url: string, files: Record<string, unknown> = {}) => {
    const folder = await tempFolder();
    const own = join(folder, "5-2-abcdef01");
    await mkdir(join(own, "events"), { recursive: true });
    const { job_token: jobToken, attempt, timers, limits } = accepted();
    const lease = { url, jobId: 5, attempt, jobToken, timers, limits };
    for (const [name, content] of Object.entries({ "lease.json": lease, ...files })) {
      await writeFile(join(own, name), JSON.stringify(content));
    }
    return folder;
  };
  const settle = async (folder: string) => {
    const log: string[] = [];
    const deps = { folder, userAgent: "test", clock: systemClock, secrets: [], log: (line: string) => log.push(line) };
    await (await settleLeftovers(deps)).settled;
    return log;
  };

  it("reports an attempt as lost and clears it away", async ({ expect }) => {
    const server = await jobServer();
    const folder = await leftover(server.url);
    await settle(folder);
    expect(server.state.events).toMatchObject([{ seq: 1, event: "failed", data: { reason: "runner_lost" } }]);
    expect(await readdir(folder)).toEqual([]);
  });

  it("reports how it ended when that was known, above the numbers that the server has", async ({ expect }) => {
    const server = await jobServer();
    server.state.events.push({ seq: 1, event: "started", data: {} });
    const ending = { event: "completed", reason: "done", message: null, exitCode: 0, signal: null };
    await settle(await leftover(server.url, { "ending.json": ending }));
    expect(server.state.events[1]).toMatchObject({ seq: 2, event: "completed" });
  });

  it("asks once and drops it when the job is somebody else's by now", async ({ expect }) => {
    const server = await jobServer(() => problem(409, "STALE_LEASE"));
    const folder = await leftover(server.url);
    await settle(folder);
    expect(server.calls).toHaveLength(1);
    expect(await readdir(folder)).toEqual([]);
  });

  it("ends a trainer that outlived its agent, and no other process with its number", async ({ expect }) => {
    const server = await jobServer();
    const jobFile = join(await tempFolder(), "job.json");
    await writeFile(jobFile, "{}");
    const start = async () =>
      new TrainerProcess(await trainerOf("setInterval(() => {}, 1000);"), jobFile, await tempFolder(), {
        onMessage: () => {},
        onOutput: async () => {},
        onNoise: () => {},
      });
    const orphan = await start();
    // Start times are counted in hundredths of a second.
    await new Promise((resolve) => setTimeout(resolve, 50));
    const other = await start();
    const identity = await identityOf(orphan.pid);
    await settle(await leftover(server.url, { "trainer.json": { pid: other.pid, identity } }));
    expect(isAlive(other.pid)).toBe(true);
    await settle(await leftover(server.url, { "trainer.json": { pid: orphan.pid, identity } }));
    expect((await orphan.ended).signal).toBe("SIGTERM");
    other.kill("SIGKILL");
    await other.ended;
  });

  it("clears away what it cannot read", async ({ expect }) => {
    const folder = await leftover("http://127.0.0.1:1", { "lease.json": { url: 5 } });
    await settle(folder);
    expect(await readdir(folder)).toEqual([]);
  });
});

describe("Agent", () => {
  const agentAt = async (answer: (call: Call, count: number) => Reply | null, over: { renewed?: string } = {}) => {
    const server = await scriptedServer(answer);
    const clock = hastyClock();
    const log: string[] = [];
    let ready = 0;
    const agent = new Agent({
      client: server.client,
      clock,
      cache: new ContentCache(await tempFolder(), 1e9, clock),
      trainers: new Map(),
      attemptsFolder: join(await tempFolder(), "attempts"),
      slots: 1,
      once: false,
      runner: { runnerId: "r", runnerToken: "first", timers: { ...DEFAULT_TIMERS, lease_s: 1 } },
      renew: async () => ({ runnerId: "r", runnerToken: over.renewed ?? "", timers: DEFAULT_TIMERS }),
      log: (line) => log.push(line),
      onReady: () => {
        ready += 1;
      },
    });
    return { agent, clock, log, ready: () => ready, ...server };
  };
  const isClaim = ({ path }: Call) => path.endsWith("/claim");

  it("is ready after a first claim without waiting, then polls long", async ({ expect }) => {
    const { agent, calls, ready } = await agentAt((_, count) =>
      count < 3 ? { status: 204 } : { status: 200, json: { drain: true } },
    );
    await agent.run();
    const bodies = calls
      .filter(isClaim)
      .map(({ body }) => JSON.parse(String(body)) as { wait_s: number; instance_id: string });
    expect(bodies.map(({ wait_s }) => wait_s)).toEqual([0, 25, 25]);
    expect(new Set(bodies.map(({ instance_id }) => instance_id)).size).toBe(1);
    expect(ready()).toBe(1);
    expect(calls.at(-1)?.path).toBe("/api/v1/internal/runners/offline");
  });

  it("waits for another process of the same runner to be gone, but not for ever", async ({ expect }) => {
    const { agent, calls, clock } = await agentAt((call) =>
      isClaim(call) ? problem(409, "INSTANCE_CONFLICT") : { status: 204 },
    );
    await expect(agent.run()).rejects.toThrow(AgentStopped);
    expect(calls.filter(isClaim)).toHaveLength(9);
    expect(clock.slept.filter((ms) => ms === 500)).toHaveLength(8);
  });

  it("registers again when its token is not known any more", async ({ expect }) => {
    const answer = ({ headers }: Call) =>
      headers.authorization === "Bearer second" ? { status: 200, json: { drain: true } } : problem(401, "UNAUTHORIZED");
    const { agent, calls } = await agentAt(answer, { renewed: "second" });
    await agent.run();
    expect(calls.filter(isClaim)).toHaveLength(2);
  });

  it("claims again when its offer is gone, and does not ask for that one twice", async ({ expect }) => {
    const { agent, calls } = await agentAt((call, count) => {
      if (call.path.endsWith("/accept")) return problem(409, "OFFER_GONE");
      return count === 1
        ? { status: 200, json: { job_id: 5, fence: 3, offer_s: 30 } }
        : { status: 200, json: { drain: true } };
    });
    await agent.run();
    expect(calls.map(({ path }) => path.split("/").at(-1))).toEqual(["claim", "accept", "claim", "offline", "offline"]);
  });

  it("leaves while it waits for work, and says so", async ({ expect }) => {
    const { agent, calls, ready } = await agentAt((call) => (isClaim(call) ? { status: 204 } : { status: 204 }));
    const running = agent.run();
    await until(() => ready() === 1);
    agent.drain();
    await running;
    expect(calls.some(({ path }) => path.endsWith("/offline"))).toBe(true);
  });
});
