import { env } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { sign } from "hono/jwt";
import { beforeAll, describe, it } from "vitest";
import { createApp } from "../../src/app.ts";
import { signAccessToken, signJobToken } from "../../src/auth/tokens.ts";
import { datasetUploads, users } from "../../src/db/schema/index.ts";
import { newUuid } from "../../src/shared/ids.ts";
import { call, dataset, db, type Json, job, join, type Person, person, plainEvent, runner } from "../support/api.ts";

/**
 * Every route of the router, asked by everybody. The routes are read from the composed app, so a new one without a row here
 * fails the first test.
 */

const CALLERS = ["nobody", "stranger", "viewer", "editor", "owner"] as const;
type Caller = (typeof CALLERS)[number];
type World = { people: Record<Exclude<Caller, "nobody">, Person>; projectId: number };
type Sent = { path?: Record<string, string | number>; query?: string; body?: unknown };
/** What is sent, made anew for each caller, and the five statuses in the order of `CALLERS`. */
type Row = { send?: (world: World) => Promise<Sent> | Sent; statuses: readonly number[] };

const open = (status: number, send?: Row["send"]): Row => ({
  send,
  statuses: [status, status, status, status, status],
});
/** Routes with credentials of machines: no user gets in, whatever the role. */
const machines: Row = open(401, () => ({
  path: { job_id: 1, stream: "stdout", seq: 1, file_id: 1, artifact_id: ID, n: 1 },
}));
const ID = "8ab5c6e4-0f92-4fff-8f4e-441c08d94cef";
/** Any user, whatever the project. */
const anyone = (status: number, send?: Row["send"]): Row => ({ send, statuses: [401, status, status, status, status] });

const someJob = async (world: World): Promise<Sent> => ({
  path: { job_id: await job(world.people.owner, { projectId: world.projectId }) },
});
/** A job whose stream of events ends by itself. */
const endedJob = async (world: World): Promise<Sent> => {
  const sent = await someJob(world);
  await call("POST", `/api/v1/training/stop/${sent.path?.job_id}`, { token: world.people.owner.token });
  return sent;
};
const unstartableJob = async (world: World): Promise<Sent> => {
  const config = { framework: "ultralytics", model_name: "yolo11n-cls" };
  return { path: { job_id: await job(world.people.owner, { projectId: world.projectId, config }) } };
};
const theProject = (world: World): Sent => ({ path: { project_id: world.projectId } });
/** A project of its own with the same people in it. */
const someProject = async (world: World): Promise<Sent> => {
  const { owner, viewer, editor } = world.people;
  const made = await call<{ id: number }>("POST", "/api/v1/projects", { token: owner.token, body: { name: "Other" } });
  await join(made.body.id, viewer.id, "viewer");
  await join(made.body.id, editor.id, "editor");
  return { path: { project_id: made.body.id } };
};
const someMember = async (world: World): Promise<Sent> => {
  const member = await person();
  await join(world.projectId, member.id, "viewer");
  return { path: { project_id: world.projectId, user_id: member.id } };
};
const someDataset = async (world: World): Promise<Sent> => ({
  path: { dataset_id: await dataset(world.people.owner, { projectId: world.projectId }) },
});
/** An open upload of the owner's. */
const someUpload = async (world: World): Promise<Sent> => {
  const at = Date.now();
  const id = newUuid();
  await db.insert(datasetUploads).values({
    id,
    projectId: world.projectId,
    ownerId: world.people.owner.id,
    name: "Pets",
    format: "dice",
    visibility: "private",
    sizeBytes: 1_000,
    partBytes: 1_000,
    storageUploadId: "none",
    state: "open",
    createdAt: at,
    updatedAt: at,
  });
  return { path: { upload_id: id, n: 1 } };
};
const validated = async (world: World) => {
  const id = await job(world.people.owner, { projectId: world.projectId });
  await plainEvent(id, "validation", { epoch: 1, metrics: { accuracy: 1 } });
  const token = world.people.owner.token;
  const results = await call<{ results: { id: number }[] }>("GET", `/api/v1/validation/results/${id}`, { token });
  return { id, resultId: results.body.results[0]?.id ?? 0 };
};
const form = (fields: Record<string, string | Blob | File[]>) => {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) for (const one of [value].flat()) data.append(name, one);
  return data;
};

const ROUTES: Record<string, Row> = {
  "GET /healthz": open(200),
  "GET /docs": open(200),
  "GET /docs/start.js": open(200),
  "GET /api/v1/openapi.json": open(200),
  // Reaches the handler's own check: an empty body is refused, not the caller.
  "POST /api/v1/auth/login": open(422, () => ({ body: {} })),

  "GET /api/v1/auth/me": anyone(200),
  "POST /api/v1/auth/password": anyone(422, () => ({
    body: { current_password: "not this one", new_password: "correct horse battery" },
  })),
  "POST /api/v1/auth/tokens": anyone(201, () => ({ body: { name: "script" } })),
  "GET /api/v1/auth/tokens": anyone(200),
  // Another user's token is not there for anybody.
  "DELETE /api/v1/auth/tokens/:token_id": anyone(404, async () => {
    const other = await person();
    const made = await call<{ id: number }>("POST", "/api/v1/auth/tokens", { token: other.token, body: { name: "x" } });
    return { path: { token_id: made.body.id } };
  }),

  "POST /api/v1/projects": anyone(201, () => ({ body: { name: "Fruit" } })),
  "GET /api/v1/projects": anyone(200),
  "GET /api/v1/projects/:project_id": { send: theProject, statuses: [401, 404, 200, 200, 200] },
  "PATCH /api/v1/projects/:project_id": {
    send: (world) => ({ ...theProject(world), body: { description: "changed" } }),
    statuses: [401, 404, 403, 403, 200],
  },
  "DELETE /api/v1/projects/:project_id": { send: someProject, statuses: [401, 404, 403, 403, 204] },
  "GET /api/v1/projects/:project_id/members": { send: theProject, statuses: [401, 404, 200, 200, 200] },
  "POST /api/v1/projects/:project_id/members": {
    send: async (world) => ({ ...theProject(world), body: { email: (await person()).email, role: "viewer" } }),
    statuses: [401, 404, 403, 403, 201],
  },
  "PATCH /api/v1/projects/:project_id/members/:user_id": {
    send: async (world) => ({ ...(await someMember(world)), body: { role: "editor" } }),
    statuses: [401, 404, 403, 403, 200],
  },
  "DELETE /api/v1/projects/:project_id/members/:user_id": { send: someMember, statuses: [401, 404, 403, 403, 204] },

  "GET /api/v1/models/list": anyone(200),
  "GET /api/v1/training/config-schema": anyone(200, () => ({ query: "framework=timm" })),
  "POST /api/v1/training/config/validate": anyone(200, () => ({ body: { framework: "timm", config: {} } })),

  "POST /api/v1/datasets": {
    send: (world) => ({
      body: form({
        name: "Pets",
        format: "imagefolder",
        project_id: String(world.projectId),
        files: ["cat", "dog"].map((name) => new File([PNG_MAGIC, name], `train/${name}/1.png`)),
      }),
    }),
    statuses: [401, 404, 403, 201, 201],
  },
  "GET /api/v1/datasets": anyone(200),
  "GET /api/v1/datasets/:dataset_id": { send: someDataset, statuses: [401, 404, 200, 200, 200] },
  "PATCH /api/v1/datasets/:dataset_id": {
    send: async (world) => ({ ...(await someDataset(world)), body: { description: "changed" } }),
    statuses: [401, 404, 403, 200, 200],
  },
  "DELETE /api/v1/datasets/:dataset_id": { send: someDataset, statuses: [401, 404, 403, 204, 204] },
  "POST /api/v1/datasets/uploads": {
    send: (world) => ({ body: { name: "Pets", format: "dice", project_id: world.projectId, size_bytes: 1_000 } }),
    statuses: [401, 404, 403, 201, 201],
  },
  "GET /api/v1/datasets/uploads": anyone(200),
  "GET /api/v1/datasets/uploads/:upload_id": { send: someUpload, statuses: [401, 404, 200, 200, 200] },
  // 422: allowed, and no body was sent; an upload is gone on with by the one who began it.
  "PUT /api/v1/datasets/uploads/:upload_id/parts/:n": { send: someUpload, statuses: [401, 404, 403, 403, 422] },
  "POST /api/v1/datasets/uploads/:upload_id/complete": { send: someUpload, statuses: [401, 404, 403, 403, 422] },
  "DELETE /api/v1/datasets/uploads/:upload_id": { send: someUpload, statuses: [401, 404, 403, 403, 204] },
  "GET /api/v1/datasets/:dataset_id/files": { send: someDataset, statuses: [401, 404, 200, 200, 200] },
  "GET /api/v1/datasets/:dataset_id/files/:file_id": {
    send: async (world) => ({ path: { ...(await someDataset(world)).path, file_id: 1 } }),
    statuses: [401, 404, 200, 200, 200],
  },

  "POST /api/v1/training/jobs": {
    send: async (world) => ({
      body: {
        project_id: world.projectId,
        config: {
          framework: "embedded",
          model_name: "cnn_small",
          task_type: "image_classification",
          dataset_id: await dataset(world.people.owner, { projectId: world.projectId }),
        },
      },
    }),
    statuses: [401, 404, 403, 201, 201],
  },
  "GET /api/v1/training/jobs": anyone(200),
  "GET /api/v1/training/jobs/:job_id": { send: someJob, statuses: [401, 404, 200, 200, 200] },
  // 409: allowed, and no runner has the job.
  "POST /api/v1/training/jobs/:job_id/checkpoint": { send: someJob, statuses: [401, 404, 403, 409, 409] },
  "GET /api/v1/training/jobs/:job_id/events": { send: endedJob, statuses: [401, 404, 200, 200, 200] },
  "POST /api/v1/training/jobs/:job_id/events/ticket": { send: someJob, statuses: [401, 404, 201, 201, 201] },
  "GET /api/v1/training/jobs/:job_id/metrics": { send: someJob, statuses: [401, 404, 200, 200, 200] },
  "GET /api/v1/training/jobs/:job_id/logs": { send: someJob, statuses: [401, 404, 200, 200, 200] },
  "PATCH /api/v1/training/jobs/:job_id": {
    send: async (world) => ({ ...(await someJob(world)), body: { notes: "x" } }),
    statuses: [401, 404, 403, 200, 200],
  },
  // An editor deletes what he made himself; this one is the owner's.
  "DELETE /api/v1/training/jobs/:job_id": { send: someJob, statuses: [401, 404, 403, 403, 204] },
  "POST /api/v1/training/jobs/:job_id/clone": {
    send: async (world) => ({ ...(await someJob(world)), body: {} }),
    statuses: [401, 404, 403, 201, 201],
  },
  "GET /api/v1/training/jobs/:job_id/checkpoints": { send: someJob, statuses: [401, 404, 200, 200, 200] },
  // 404 for members too: the job has none. The bodies tell the two apart, see the jobs' own tests.
  "GET /api/v1/training/jobs/:job_id/checkpoints/:artifact_id/content": {
    send: async (world) => ({ path: { ...(await someJob(world)).path, artifact_id: ID } }),
    statuses: [401, 404, 404, 404, 404],
  },
  // 503: allowed, and no runner of this framework lives.
  "POST /api/v1/training/jobs/:job_id/start": { send: unstartableJob, statuses: [401, 404, 403, 503, 503] },
  "POST /api/v1/training/stop/:job_id": { send: someJob, statuses: [401, 404, 403, 200, 200] },
  "GET /api/v1/validation/results/:job_id": { send: someJob, statuses: [401, 404, 200, 200, 200] },
  "GET /api/v1/validation/summary/:job_id": { send: someJob, statuses: [401, 404, 200, 200, 200] },
  "GET /api/v1/validation/images/:validation_result_id": {
    send: async (world) => ({ path: { validation_result_id: (await validated(world)).resultId } }),
    statuses: [401, 404, 200, 200, 200],
  },
  // 404 with CHECKPOINT_NOT_FOUND for members; the bodies are told apart below.
  "POST /api/v1/test-inference": {
    send: async (world) => ({
      body: form({
        training_job_id: String((await someJob(world)).path?.job_id),
        file: new Blob([PNG]),
      }),
    }),
    statuses: [401, 404, 404, 404, 404],
  },

  "POST /api/v1/runners/tokens": { send: () => ({ body: {} }), statuses: [401, 403, 403, 403, 403] },
  "GET /api/v1/runners": { send: () => ({}), statuses: [401, 403, 403, 403, 403] },
  "POST /api/v1/runners/:runner_id/drain": {
    send: () => ({ path: { runner_id: ID } }),
    statuses: [401, 403, 403, 403, 403],
  },
  "DELETE /api/v1/runners/:runner_id": {
    send: () => ({ path: { runner_id: ID } }),
    statuses: [401, 403, 403, 403, 403],
  },
  "POST /api/v1/internal/runners/register": open(401, () => ({
    body: { machine_id: "m", name: "m", frameworks: ["timm"], protocol: 1 },
  })),
  "POST /api/v1/internal/runners/claim": open(401, () => ({ body: { instance_id: "i" } })),
  "POST /api/v1/internal/runners/offline": open(401, () => ({ body: { instance_id: "i" } })),
  "POST /api/v1/internal/jobs/:job_id/accept": open(401, () => ({ path: { job_id: 1 }, body: { fence: 1 } })),
  "POST /api/v1/internal/training/callback": open(401, () => ({ body: { job_id: 1, event: "started", data: {} } })),
  "POST /api/v1/internal/jobs/:job_id/heartbeat": machines,
  "PUT /api/v1/internal/jobs/:job_id/logs/:stream/:seq": machines,
  "GET /api/v1/internal/jobs/:job_id/dataset": machines,
  "GET /api/v1/internal/jobs/:job_id/dataset/:file_id": machines,
  "POST /api/v1/internal/jobs/:job_id/artifacts": machines,
  "PUT /api/v1/internal/jobs/:job_id/artifacts/:artifact_id/parts/:n": machines,
  "GET /api/v1/internal/jobs/:job_id/artifacts/:artifact_id": machines,
  "GET /api/v1/internal/jobs/:job_id/artifacts/:artifact_id/content": machines,
  "POST /api/v1/internal/jobs/:job_id/artifacts/:artifact_id/complete": machines,
  "DELETE /api/v1/internal/jobs/:job_id/artifacts/:artifact_id": machines,
};

const PNG_MAGIC = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);

/** A PNG of one grey pixel, header only. */
const PNG = Uint8Array.from(
  [..."\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU"].map((char) => char.charCodeAt(0)),
);

/** The Breeding API has a table of its own: breeding/access.test.ts. */
const isOurs = (path: string) => !/^\/(api(?!\/v1(\/|$))|images)(\/|$)/.test(path);
const routes = [
  ...new Set(
    createApp()
      .routes.filter(({ method, path }) => method !== "ALL" && isOurs(path))
      .map(({ method, path }) => `${method} ${path}`),
  ),
];

let world: World;
beforeAll(async () => {
  const [stranger, viewer, editor, owner] = await Promise.all([person(), person(), person(), person()]);
  const project = await call<{ id: number }>("POST", "/api/v1/projects", {
    token: owner.token,
    body: { name: "Walk" },
  });
  await join(project.body.id, viewer.id, "viewer");
  await join(project.body.id, editor.id, "editor");
  world = { people: { stranger, viewer, editor, owner }, projectId: project.body.id };
});

async function ask(route: string, sent: Sent, token: string | undefined) {
  const [method = "", pattern = ""] = route.split(" ");
  const path = pattern.replace(/:(\w+)/g, (_, name: string) => String(sent.path?.[name] ?? `no-${name}`));
  return call(method, sent.query === undefined ? path : `${path}?${sent.query}`, { token, body: sent.body });
}

describe("every route", () => {
  it("has a row in the table, and the table has no row for a route that is gone", ({ expect }) => {
    expect([...routes].sort()).toEqual(Object.keys(ROUTES).sort());
    expect(routes.length).toBeGreaterThan(30);
  });

  it.for(routes)("%s", async (route, { expect }) => {
    const row = ROUTES[route];
    if (row === undefined) throw new Error("no row in the table");
    const statuses: number[] = [];
    for (const caller of CALLERS) {
      const sent = (await row.send?.(world)) ?? {};
      const answer = await ask(route, sent, caller === "nobody" ? undefined : world.people[caller].token);
      statuses.push(answer.status);
      if (answer.status === 401) expect(answer.headers.get("www-authenticate")).toBe("Bearer");
      // What is behind a token is never kept by a cache on the way.
      if (route.includes(" /api/v1/") && !route.endsWith("openapi.json")) {
        expect(answer.headers.get("cache-control")).toMatch(/^private, no-/);
      }
      expect(JSON.stringify(answer.body)).not.toMatch(/passwordHash|password_hash|scrypt\$|token_hash|storage_?key/i);
    }
    expect(Object.fromEntries(CALLERS.map((caller, i) => [caller, statuses[i]]))).toEqual(
      Object.fromEntries(CALLERS.map((caller, i) => [caller, row.statuses[i]])),
    );
  });

  it("answers a stranger exactly as if the thing did not exist", async ({ expect }) => {
    const { stranger } = world.people;
    for (const route of routes) {
      const row = ROUTES[route];
      if (row?.statuses[1] !== 404 || !route.includes(":")) continue;
      const sent = (await row.send?.(world)) ?? {};
      const unknown = Object.fromEntries(
        // A part number is no id: it stays.
        Object.entries(sent.path ?? {}).map(([name, id]) => {
          if (name === "n") return [name, id];
          return [name, typeof id === "number" ? 2 ** 40 : ID];
        }),
      );
      const [foreign, missing] = [
        await ask(route, sent, stranger.token),
        await ask(route, { ...sent, path: unknown }, stranger.token),
      ];
      expect([foreign.status, foreign.body], route).toEqual([missing.status, missing.body]);
    }
  });

  it("shows nobody another's things in lists, nor counts them", async ({ expect }) => {
    const stranger = await person();
    const { owner } = world.people;
    await job(owner, { projectId: world.projectId });
    for (const [path, key] of [
      ["/api/v1/training/jobs", "jobs"],
      [`/api/v1/training/jobs?project_id=${world.projectId}`, "jobs"],
      ["/api/v1/datasets", "datasets"],
      [`/api/v1/datasets?project_id=${world.projectId}`, "datasets"],
    ] as const) {
      const answer = await call(`GET`, path, { token: stranger.token });
      expect([answer.status, answer.body[key], answer.body.total], path).toEqual([200, [], 0]);
    }
    const projects = await call("GET", "/api/v1/projects", { token: stranger.token });
    expect([projects.body.total, (projects.body.projects as Json[]).map(({ id }) => id)]).toEqual([
      1,
      [stranger.projectId],
    ]);
  });
});

describe("credentials", () => {
  const guarded = () => `/api/v1/training/jobs`;
  const status = async (token: string) => (await call("GET", guarded(), { token })).status;
  const withHeader = async (authorization: string) =>
    (await call("GET", guarded(), { headers: { authorization } })).status;
  const claims = (who: Person, changes: Json = {}): Json => {
    const now = Math.floor(Date.now() / 1000);
    return {
      iss: "cultivar",
      aud: "api",
      type: "access",
      sub: String(who.id),
      ver: 1,
      iat: now,
      exp: now + 60,
      ...changes,
    };
  };
  const signed = (payload: Json, secret = env.JWT_SECRET, alg: "HS256" | "HS384" | "HS512" = "HS256") =>
    sign(payload, secret, alg);
  const base64url = (value: unknown) =>
    btoa(typeof value === "string" ? value : JSON.stringify(value))
      .replaceAll("+", "-")
      .replaceAll("/", "_")
      .replaceAll("=", "");

  it("accepts a good token", async ({ expect }) => {
    expect(await status(await signed(claims(world.people.owner)))).toBe(200);
  });

  it("refuses unsigned tokens and other algorithms", async ({ expect }) => {
    const payload = base64url(claims(world.people.owner));
    for (const alg of ["none", "None", "NONE", "", "HS256"]) {
      expect(await status(`${base64url({ alg, typ: "JWT" })}.${payload}.`)).toBe(401);
    }
    for (const alg of ["HS384", "HS512"] as const) {
      expect(await status(await signed(claims(world.people.owner), env.JWT_SECRET, alg))).toBe(401);
    }
  });

  it("refuses the wrong audience, issuer, type, subject, times, version and key", async ({ expect }) => {
    const now = Math.floor(Date.now() / 1000);
    const wrong: Json[] = [
      { aud: "runner" },
      { aud: undefined },
      { aud: ["api", "runner"] },
      { iss: "elsewhere" },
      { iss: undefined },
      { type: "refresh" },
      { type: undefined },
      { sub: `${world.people.owner.id} or 1=1` },
      { sub: "0" },
      { sub: world.people.owner.id },
      { exp: now - 1 },
      { exp: undefined },
      { exp: String(now + 60) },
      { exp: "never" },
      { nbf: now + 600 },
      { iat: now + 600 },
      { ver: 2 },
      { ver: "1" },
      { ver: undefined },
    ];
    for (const changes of wrong) {
      expect([changes, await status(await signed(claims(world.people.owner, changes)))]).toEqual([changes, 401]);
    }
    expect(await status(await signed(claims(world.people.owner), "another-secret-another-secret-another"))).toBe(401);
  });

  it("looks up no key by what a token's header says", async ({ expect }) => {
    const [, payload] = (await signed(claims(world.people.owner))).split(".");
    for (const kid of ["../../dev/null", "' union select 'x", "http://127.0.0.1/key"]) {
      expect(
        await status(`${base64url({ alg: "HS256", typ: "JWT", kid })}.${payload}.${base64url("x".repeat(32))}`),
      ).toBe(401);
    }
  });

  it("refuses edited, cut and garbage tokens", async ({ expect }) => {
    const { token } = world.people.owner;
    const [header, payload, signature] = token.split(".");
    for (const bad of [
      `${header}.${base64url(claims(world.people.viewer))}.${signature}`,
      `${header}.${payload}`,
      `${header}.${payload}.${signature}x`,
      `${token}.${signature}`,
      token.slice(0, -2),
      "x",
      "a.b.c",
      "..",
      "cvp_",
      `cvp_${"0".repeat(52)}`,
    ]) {
      expect([bad, await status(bad)]).toEqual([bad, 401]);
    }
  });

  it("takes the token only from the header, once, with the scheme Bearer in any case", async ({ expect }) => {
    const { token } = world.people.owner;
    expect(await withHeader(`Basic ${token}`)).toBe(401);
    expect(await withHeader(token)).toBe(401);
    expect(await withHeader(`Bearer ${token}, Bearer ${token}`)).toBe(401);
    expect(await withHeader(`Token ${token}`)).toBe(401);
    expect(await withHeader(`bearer ${token}`)).toBe(200);
    expect(await withHeader(`BEARER ${token}`)).toBe(200);
    for (const name of ["token", "access_token", "authorization"]) {
      expect((await call("GET", `${guarded()}?${name}=${token}`)).status).toBe(401);
    }
    expect((await call("GET", guarded(), { headers: { cookie: `token=${token}` } })).status).toBe(401);
    const body = { name: "x", token, access_token: token };
    expect((await call("POST", "/api/v1/projects", { body })).status).toBe(401);
  });

  it("refuses tokens of users that are gone, disabled, or have ended them, on every user route", async ({ expect }) => {
    const [disabled, ended] = [await person(), await person()];
    await db.update(users).set({ disabledAt: Date.now() }).where(eq(users.id, disabled.id));
    await db.update(users).set({ tokenVersion: 2 }).where(eq(users.id, ended.id));
    const gone = await signAccessToken(env.JWT_SECRET, { userId: 2 ** 40, tokenVersion: 1 }, Date.now());
    for (const route of routes) {
      if (ROUTES[route]?.statuses[0] !== 401 || ROUTES[route]?.statuses[1] === 401) continue;
      const sent = (await ROUTES[route]?.send?.(world)) ?? {};
      for (const token of [disabled.token, ended.token, gone]) {
        const made = sent.body instanceof FormData ? ((await ROUTES[route]?.send?.(world)) ?? {}) : sent;
        expect((await ask(route, made, token)).status, route).toBe(401);
      }
    }
  });

  it("keeps runner and job tokens off user routes", async ({ expect }) => {
    const gpu = await runner();
    const lease = { jobId: 1, attempt: 1, fence: 1, datasetId: ID };
    const jobToken = await signJobToken(env.JWT_SECRET, lease, Date.now(), 60);
    for (const token of [gpu.token, jobToken, env.INTERNAL_SECRET]) expect(await status(token)).toBe(401);
  });

  it("lets a member who was removed do nothing more with the same token", async ({ expect }) => {
    const member = await person();
    await join(world.projectId, member.id, "editor");
    const { path } = await someJob(world);
    const read = async () =>
      (await call("GET", `/api/v1/training/jobs/${path?.job_id}`, { token: member.token })).status;
    expect(await read()).toBe(200);
    await env.DB.prepare("delete from project_members where user_id = ? and project_id = ?")
      .bind(member.id, world.projectId)
      .run();
    expect(await read()).toBe(404);
  });
});
