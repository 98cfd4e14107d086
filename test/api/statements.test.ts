import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { createApp } from "../../src/app.ts";
import { call, dataset, type Json, job, type Person, person, plainEvent } from "../support/api.ts";

/**
 * How often a request asks the database, and how. A call of the binding is a round trip: one for a read, and for a write one
 * to see whether it may and one batch. Local latency hides the difference, so it is counted.
 */

type Trip = { kind: "read" | "batch"; statements: string[] };

/** The binding, with a note of every round trip. */
function watched(db: D1Database, trips: Trip[]): D1Database {
  const texts = new WeakMap<object, string>();
  const wrap = (statement: D1PreparedStatement, text: string): D1PreparedStatement => {
    const proxy = new Proxy(statement, {
      get(target, name) {
        const value = Reflect.get(target, name) as unknown;
        if (typeof value !== "function") return value;
        return (...args: unknown[]) => {
          if (["all", "raw", "run", "first"].includes(String(name))) trips.push({ kind: "read", statements: [text] });
          const result: unknown = Reflect.apply(value, target, args);
          return name === "bind" ? wrap(result as D1PreparedStatement, text) : result;
        };
      },
    });
    texts.set(proxy, text);
    originals.set(proxy, statement);
    return proxy;
  };
  const originals = new WeakMap<object, D1PreparedStatement>();
  return new Proxy(db, {
    get(target, name) {
      if (name === "prepare") return (text: string) => wrap(target.prepare(text), text);
      if (name === "batch") {
        return (statements: D1PreparedStatement[]) => {
          trips.push({ kind: "batch", statements: statements.map((one) => texts.get(one) ?? "?") });
          return target.batch(statements.map((one) => originals.get(one) ?? one));
        };
      }
      return Reflect.get(target, name) as unknown;
    },
  });
}

/** The parameters of a statement: numbered ones may be used several times. */
const parametersOf = (text: string) => [...new Set([...text.matchAll(/\?(\d*)/g)].map(([, n], i) => n || `#${i}`))];

let owner: Person;
let jobId = 0;
let datasetId = "";
let resultId = 0;
beforeAll(async () => {
  owner = await person();
  jobId = await job(owner);
  datasetId = await dataset(owner);
  await plainEvent(jobId, "epoch_complete", { epoch: 1, loss: 1 });
  await plainEvent(jobId, "log", { lines: ["one"] });
  await plainEvent(jobId, "validation", { epoch: 1, metrics: {}, images: [{ image_name: "a" }] });
  const results = await call<{ results: { id: number }[] }>("GET", `/api/v1/validation/results/${jobId}`, {
    token: owner.token,
  });
  resultId = results.body.results[0]?.id ?? 0;
});

async function tripsOf(method: string, path: string, body?: unknown) {
  const trips: Trip[] = [];
  const context = createExecutionContext();
  const response = await createApp().fetch(
    new Request(`http://localhost:8000/api/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${owner.token}`, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    }),
    { ...env, DB: watched(env.DB, trips) },
    context,
  );
  const status = response.status;
  await response.arrayBuffer();
  const during = [...trips];
  await waitOnExecutionContext(context);
  return { status, trips: during };
}

const reads = (): [string, string][] => [
  ["a job", `/training/jobs/${jobId}`],
  ["jobs", "/training/jobs?status=pending&tag=a&q=b&sort=updated_at"],
  ["metrics", `/training/jobs/${jobId}/metrics`],
  ["a curve", `/training/jobs/${jobId}/metrics?max_points=100`],
  ["logs", `/training/jobs/${jobId}/logs?log_type=stdout`],
  ["checkpoints", `/training/jobs/${jobId}/checkpoints`],
  ["results", `/validation/results/${jobId}`],
  ["a summary", `/validation/summary/${jobId}`],
  ["images", `/validation/images/${resultId}?is_correct=true`],
  ["projects", "/projects"],
  ["a project", `/projects/${owner.projectId}`],
  ["members", `/projects/${owner.projectId}/members`],
  ["datasets", `/datasets?project_id=${owner.projectId}`],
  ["a dataset", `/datasets/${datasetId}`],
  ["the caller", "/auth/me"],
  ["tokens", "/auth/tokens"],
  ["models", "/models/list"],
];

describe("round trips to the database", () => {
  it("are one for a read", async ({ expect }) => {
    for (const [name, path] of reads()) {
      const { status, trips } = await tripsOf("GET", path);
      expect([name, status, trips.length, trips[0]?.kind]).toEqual([name, 200, 1, "read"]);
    }
  });

  it("are none for what is refused by its form or its signature", async ({ expect }) => {
    for (const path of ["/training/jobs/x", "/training/jobs?limit=0", "/nothing"]) {
      expect([path, (await tripsOf("GET", path)).trips]).toEqual([path, []]);
    }
  });

  it("are a check and one write for a write", async ({ expect }) => {
    const made = await tripsOf("POST", "/training/jobs", {
      project_id: owner.projectId,
      config: {
        framework: "embedded",
        model_name: "cnn_small",
        task_type: "image_classification",
        dataset_id: datasetId,
      },
    });
    expect([made.status, made.trips.map(({ kind }) => kind)]).toEqual([201, ["read", "batch"]]);
    const project = await tripsOf("POST", "/projects", { name: "x" });
    expect([project.status, project.trips.map(({ kind }) => kind)]).toEqual([201, ["read", "batch"]]);
    const patched = await tripsOf("PATCH", `/training/jobs/${jobId}`, { notes: "x" });
    expect([patched.status, patched.trips.length]).toEqual([200, 2]);
    const token = await tripsOf("POST", "/auth/tokens", { name: "x" });
    expect([token.status, token.trips.map(({ kind }) => kind)]).toEqual([201, ["read", "batch"]]);
  });
});

describe("query plans", () => {
  /** Tables that grow with what everybody does. */
  const GROWING =
    /^SCAN (users|projects|project_members|datasets|dataset_files|training_jobs|training_metrics|metric_segments|metric_extremes|log_chunks|artifacts|validation_results|validation_images|job_attempts|api_tokens|runners|idempotency_keys|later|own)\b/;

  it("use an index for every list and chart: no table is read as a whole", async ({ expect }) => {
    const plain: string[] = [];
    for (const [name, path] of reads()) {
      const { trips } = await tripsOf("GET", path);
      for (const text of trips.flatMap((trip) => trip.statements)) {
        const values = parametersOf(text).map(() => 1);
        const plan = await env.DB.prepare(`explain query plan ${text}`)
          .bind(...values)
          .all<{ detail: string }>();
        expect(plan.results.length, name).toBeGreaterThan(0);
        for (const { detail } of plan.results) if (GROWING.test(detail)) plain.push(`${name}: ${detail}`);
      }
    }
    expect(plain).toEqual([]);
  });

  it("reach the jobs of a list through the caller's own projects, never through everybody's jobs of a status", async ({
    expect,
  }) => {
    for (const path of [
      "/training/jobs?status=completed",
      `/training/jobs?status=queued&project_id=${owner.projectId}`,
    ]) {
      const { trips } = await tripsOf("GET", path);
      for (const text of trips.flatMap((trip) => trip.statements)) {
        const values = parametersOf(text).map(() => 1);
        const plan = await env.DB.prepare(`explain query plan ${text}`)
          .bind(...values)
          .all<{ detail: string }>();
        const lines = plan.results.map(({ detail }) => detail);
        expect(lines.filter((line) => line.includes("training_jobs_moving"))).toEqual([]);
        expect(lines.some((line) => /training_jobs_project(_status)? \(project_id=/.test(line))).toBe(true);
      }
    }
  });

  it("would show a scan if there were one", async ({ expect }) => {
    const plan = await env.DB.prepare("explain query plan select * from training_jobs where notes = ?")
      .bind("x")
      .all<{ detail: string } & Json>();
    expect(plan.results.some(({ detail }) => GROWING.test(detail))).toBe(true);
  });
});
