import { env } from "cloudflare:workers";
import { sign } from "hono/jwt";
import { afterEach, beforeEach, describe, it } from "vitest";
import { principalOf } from "../../src/auth/bearer.ts";
import { servicesFor } from "../../src/services.ts";
import { call, claim, events, job, join, person, runner, runningJob } from "../support/api.ts";
import { checkpoint, clock, endEvent, epochEvent, logChunk, quietWorld, start, stop } from "../support/jobs.ts";
import { buyTicket, eventsPath, request, watch } from "../support/live.ts";
import { SseReader } from "../support/sse.ts";

beforeEach(quietWorld);
afterEach(() => clock.start());

const points = (reader: SseReader) =>
  reader.of("metrics").flatMap(({ data }) => (data.points as { epoch: number }[]).map(({ epoch }) => epoch));

describe("a job's live events", () => {
  it("show its whole course in order, then end", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const reader = await watch(jobId, owner);
    await reader.until((seen) => seen.length === 1);
    expect(reader.events[0]).toMatchObject({ event: "status", data: { job_id: jobId, status: "running", attempt: 1 } });
    await events(lease, [epochEvent(1, 1, { accuracy: 0.5 }), epochEvent(2)]);
    await logChunk(lease, 1, "first\nsecond\n");
    await events(lease, [{ seq: 3, event: "validation", data: { epoch: 2, metrics: { accuracy: 0.9 } } }]);
    const artifactId = await checkpoint(lease, 2);
    await events(lease, [endEvent(4, "completed", { log_chunks: { stdout: 1, stderr: 0 } })]);
    await reader.closed();
    expect(points(reader)).toEqual([1, 2]);
    expect(reader.of("metrics")[0]?.data.points).toMatchObject([{ id: 1, job_id: jobId, accuracy: 0.5 }, { id: 2 }]);
    expect(reader.of("log")[0]?.data).toMatchObject({ log_type: "stdout", first_id: 1, lines: ["first", "second"] });
    expect(reader.of("validation")[0]?.data).toMatchObject({ epoch: 2, metrics: { accuracy: 0.9 } });
    expect(reader.of("checkpoint")[0]?.data).toMatchObject({ artifact_id: artifactId, epoch: 2, role: "last" });
    expect(reader.of("status").at(-1)?.data).toMatchObject({ status: "completed", current_epoch: 2 });
    expect(reader.events.at(-1)).toMatchObject({ event: "end", data: { status: "completed", reason: "done" } });
    const ids = reader.events.map(({ id }) => Number(id));
    expect(ids).toEqual([...ids].sort((a, b) => a - b));
    expect(new Set(ids).size).toBe(ids.length);
  });

  it("are replayed after any of them, each once", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const first = await watch(jobId, owner);
    await first.until((seen) => seen.length === 1);
    for (let epoch = 1; epoch <= 3; epoch++) {
      await events(lease, [epochEvent(epoch)]);
      await first.until(() => points(first).includes(epoch));
    }
    await first.cancel();
    // Nobody watches now.
    await events(lease, [epochEvent(4)]);
    await logChunk(lease, 1, "meanwhile\n");
    const all = first.events;
    for (const [i, { id }] of all.entries()) {
      const again = await watch(jobId, owner, id);
      await again.until(() => points(again).includes(4) && again.of("log").length === 1);
      expect([...new Set(points(again))]).toEqual(points(again));
      const missed = all.slice(i + 1).flatMap(({ data }) => (data.points as { epoch: number }[] | undefined) ?? []);
      expect(points(again)).toEqual([...missed.map(({ epoch }) => epoch), 4]);
      expect(again.of("reset")).toEqual([]);
      await again.cancel();
    }
    // As a browser says it.
    const path = `${eventsPath(jobId)}?last_event_id=${first.lastId}`;
    const answer = await request(path, { authorization: `Bearer ${owner.token}`, "last-event-id": "0" });
    const browser = new SseReader(answer.body as ReadableStream<Uint8Array>);
    await browser.until(() => points(browser).includes(4));
    expect(points(browser)).toEqual([4]);
  });

  it("tell a client to load anew when what it missed was not kept, or was never sent", async ({ expect }) => {
    const owner = await person();
    clock.stop();
    const { jobId, lease } = await runningJob(owner);
    const first = await watch(jobId, owner);
    await first.until((seen) => seen.length === 1);
    await first.cancel();
    clock.advanceS(10);
    await events(lease, [epochEvent(1)]);
    for (let i = 0; i < 20; i++) {
      clock.advanceS(50);
      await events(lease, [epochEvent(2 + i)]);
    }
    for (const after of [first.lastId, "999999"]) {
      const again = await watch(jobId, owner, after);
      await again.until((seen) => seen.length >= 2);
      expect(again.events.map(({ event }) => event)).toEqual(["reset", "status"]);
      expect(again.events[1]?.data).toMatchObject({ current_epoch: 21 });
      await again.cancel();
    }
  });

  it("of a job that has ended are its status and the end; after those there is nothing", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await stop(owner, jobId);
    const reader = await watch(jobId, owner);
    await reader.closed();
    expect(reader.events.map(({ event }) => event)).toEqual(["status", "end"]);
    const headers = { authorization: `Bearer ${owner.token}`, "last-event-id": reader.lastId };
    const again = await request(eventsPath(jobId), headers);
    expect([again.status, await again.text()]).toEqual([204, ""]);
    // It goes on without a watcher: the number is not up to date any more.
    await claim(await runner());
    expect((await start(owner, jobId)).body.status).toBe("queued");
    const later = await watch(jobId, owner, reader.lastId);
    await later.until((seen) => seen.length >= 2);
    expect(later.events.map(({ event, data }) => [event, data.status])).toEqual([
      ["reset", undefined],
      ["status", "queued"],
    ]);
    await stop(owner, jobId);
    await later.closed();
    expect(later.events.at(-1)).toMatchObject({ event: "end", data: { status: "stopped", reason: "user_stop" } });
  });

  it("can be waited for before the job is started, and of a deleted job they close", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const reader = await watch(jobId, owner);
    await reader.until((seen) => seen.length === 1);
    expect(reader.events[0]).toMatchObject({ id: "0", data: { status: "pending" } });
    await call("DELETE", `/api/v1/training/jobs/${jobId}`, { token: owner.token });
    await reader.closed();
    expect((await request(eventsPath(jobId), { authorization: `Bearer ${owner.token}` })).status).toBe(404);
  });

  it("wait for the log tail of a job that has ended", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const reader = await watch(jobId, owner);
    await events(lease, [endEvent(1, "completed", { log_chunks: { stdout: 1, stderr: 0 } })]);
    await reader.until(() => reader.of("status").some(({ data }) => data.phase === "finalizing"));
    expect(reader.of("end")).toEqual([]);
    await logChunk(lease, 1, "the tail\n");
    await reader.closed();
    expect(reader.events.map(({ event }) => event).slice(-3)).toEqual(["log", "status", "end"]);
  });

  it("are refused with a readable problem for a bad id, and HEAD opens none", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const headers = { authorization: `Bearer ${owner.token}` };
    for (const bad of ["-1", "1.5", "x", "01", ""]) {
      const answer = await call("GET", `${eventsPath(jobId)}?last_event_id=${bad}`, { headers });
      expect([bad, answer.status, answer.body.field]).toEqual([bad, 422, "last_event_id"]);
    }
    const head = await call("HEAD", eventsPath(jobId), { headers });
    expect([head.status, head.headers.get("content-type")]).toEqual([200, "text/event-stream; charset=utf-8"]);
    expect(head.headers.get("cache-control")).toMatch(/^private, no-store/);
  });
});

describe("tickets", () => {
  it("open one stream without any header, for every member of the project", async ({ expect }) => {
    const [owner, viewer] = [await person(), await person()];
    await join(owner.projectId, viewer.id, "viewer");
    const jobId = await job(owner);
    const { status, body } = await buyTicket(jobId, viewer);
    expect([status, body.expires_in, body.url]).toEqual([201, 60, `${eventsPath(jobId)}?ticket=${body.ticket}`]);
    const opened = await request(body.url);
    expect([opened.status, opened.headers.get("content-type")]).toEqual([200, "text/event-stream; charset=utf-8"]);
    const reader = new SseReader(opened.body as ReadableStream<Uint8Array>);
    await reader.until((seen) => seen.length === 1);
    expect((await call("GET", body.url)).body).toMatchObject({ code: "UNAUTHORIZED" });
    await reader.cancel();
  });

  it("are good once, also when two come at the same time", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await stop(owner, jobId);
    const { body } = await buyTicket(jobId, owner);
    const answers = await Promise.all(Array.from({ length: 8 }, () => request(body.url)));
    for (const answer of answers) await answer.text();
    expect(answers.map(({ status }) => status).sort()).toEqual([200, ...Array.from({ length: 7 }, () => 401)]);
  });

  it("are no good after a minute, for another job, forged, as a token, or beside one", async ({ expect }) => {
    const owner = await person();
    const [jobId, other] = [await job(owner), await job(owner)];
    await stop(owner, other);
    const { ticket } = (await buyTicket(jobId, owner)).body;
    const status = async (id: number, text: string, token?: string) =>
      (await call("GET", `${eventsPath(id)}?ticket=${text}`, { token })).status;
    expect(await status(other, ticket)).toBe(401);
    expect(await status(jobId, `${ticket}x`)).toBe(401);
    expect(await status(jobId, owner.token)).toBe(401);
    expect(await status(jobId, "")).toBe(422);
    expect(await status(jobId, ticket, owner.token)).toBe(422);
    const claims = { iss: "cultivar", aud: "events", jti: crypto.randomUUID(), job: jobId, sub: owner.id, ver: 1 };
    const exp = Math.floor(Date.now() / 1000) + 60;
    const forged = await sign({ ...claims, tok: null, until: null, exp }, "another secret of at least 32 characters");
    expect(await status(jobId, forged)).toBe(401);
    expect((await call("GET", "/api/v1/training/jobs", { token: ticket })).status).toBe(401);
    clock.stop();
    clock.advanceS(61);
    expect(await status(jobId, ticket)).toBe(401);
  });

  it("do not outlive the right of their holder", async ({ expect }) => {
    const [owner, member] = [await person(), await person()];
    await join(owner.projectId, member.id, "editor");
    const jobId = await job(owner);
    const { url } = (await buyTicket(jobId, member)).body;
    await env.DB.prepare("delete from project_members where user_id = ?1 and project_id = ?2")
      .bind(member.id, owner.projectId)
      .run();
    expect((await call("GET", url)).status).toBe(404);
  });

  it("are sold to API tokens too, and end with them", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await stop(owner, jobId);
    const made = await call<{ id: number; token: string }>("POST", "/api/v1/auth/tokens", {
      token: owner.token,
      body: { name: "page" },
    });
    const script = { ...owner, token: made.body.token };
    const [first, second] = [await buyTicket(jobId, script), await buyTicket(jobId, script)];
    expect((await call("GET", first.body.url)).status).toBe(200);
    await call("DELETE", `/api/v1/auth/tokens/${made.body.id}`, { token: owner.token });
    expect((await call("GET", second.body.url)).status).toBe(401);
  });
});

describe("the right to watch", () => {
  it("ends with the membership, the token, the user and the job", async ({ expect }) => {
    const [owner, member, stranger] = [await person(), await person(), await person()];
    await join(owner.projectId, member.id, "viewer");
    const jobId = await job(owner);
    const { live } = servicesFor(env);
    const read = async (token: string) => {
      const principal = await principalOf(`Bearer ${token}`, env.JWT_SECRET, Date.now());
      if (principal === null) throw new Error("no principal");
      return principal;
    };
    const made = await call<{ id: number; token: string }>("POST", "/api/v1/auth/tokens", {
      token: member.token,
      body: { name: "page", expires_in_days: 1 },
    });
    const [byToken, byScript] = [await read(member.token), await read(made.body.token)];
    const may = async () => [await live.mayWatch(byToken, jobId), await live.mayWatch(byScript, jobId)];
    expect(await live.mayWatch(await read(stranger.token), jobId)).toBe(false);
    expect(await may()).toEqual([true, true]);
    clock.stop();
    clock.advanceS(12 * 3600 + 1);
    expect(await may()).toEqual([false, true]);
    clock.advanceS(12 * 3600);
    expect(await may()).toEqual([false, false]);
    clock.start();
    expect(await may()).toEqual([true, true]);
    await env.DB.prepare("update users set token_version = 2 where id = ?").bind(member.id).run();
    expect(await may()).toEqual([false, true]);
    await env.DB.prepare("delete from project_members where user_id = ?1 and project_id = ?2")
      .bind(member.id, owner.projectId)
      .run();
    expect(await may()).toEqual([false, false]);
    const byOwner = await read(owner.token);
    expect(await live.mayWatch(byOwner, jobId)).toBe(true);
    await call("DELETE", `/api/v1/training/jobs/${jobId}`, { token: owner.token });
    expect(await live.mayWatch(byOwner, jobId)).toBe(false);
  });
});
