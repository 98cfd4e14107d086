import { env } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { describe, it } from "vitest";
import {
  artifacts,
  auditLog,
  datasets,
  idempotencyKeys,
  jobAttempts,
  trainingJobs,
  trainingMetrics,
} from "../../src/db/schema/index.ts";
import { newUuid, randomHex, sha256Hex } from "../../src/shared/ids.ts";
import {
  call,
  dataset,
  db,
  events,
  type Json,
  job,
  join,
  type Person,
  person,
  plainEvent,
  runner,
  runningJob,
} from "../support/api.ts";

const JOBS = "/api/v1/training/jobs";
const as = <T = Json>(who: Person, method: string, path: string, body?: unknown, headers?: Record<string, string>) =>
  call<T>(method, path, { token: who.token, body, headers });
type List = { jobs: (Json & { id: number })[]; total: number; next_cursor: string | null };
const list = (who: Person, query = "") => as<List>(who, "GET", `${JOBS}${query}`);
const idsOf = async (who: Person, query = "") => (await list(who, query)).body.jobs.map(({ id }) => id);
const problem = ({ status, body }: { status: number; body: Json }) => [status, body.code, body.field];
const set = (id: number, values: Partial<typeof trainingJobs.$inferInsert>) =>
  db.update(trainingJobs).set(values).where(eq(trainingJobs.id, id));

describe("the list of jobs", () => {
  it("filters by project, status, framework, tag and text, and counts what fits", async ({ expect }) => {
    const owner = await person();
    const other = (await as<{ id: number }>(owner, "POST", "/api/v1/projects", { name: "Other" })).body.id;
    const first = await job(owner);
    const second = await job(owner, { projectId: other });
    await set(first, { tags: ["base line", "고양이"], experimentName: "ResNet-50 100% _a_", notes: "With 'quotes'" });
    await set(second, { tags: ["base"], status: "completed", framework: "timm", modelName: "resnet18" });
    for (const [query, expected] of [
      ["", [second, first]],
      [`?project_id=${other}`, [second]],
      ["?status=completed", [second]],
      ["?status=pending", [first]],
      ["?framework=timm", [second]],
      ["?tag=base", [second]],
      ["?tag=base%20line", [first]],
      [`?tag=${encodeURIComponent("고양이")}`, [first]],
      ["?q=resnet", [second, first]],
      ["?q=RESNET-50", [first]],
      ["?q=100%25%20_", [first]],
      ["?q=quotes", [first]],
      ["?q=%25", [first]],
      ["?q=_", [first]],
      [`?q=${encodeURIComponent("' or 1=1 --")}`, []],
      [`?q=${"x".repeat(200)}`, []],
      ["?status=completed&framework=embedded", []],
      [`?project_id=${2 ** 40}`, []],
    ] as const) {
      const answer = await list(owner, query);
      expect([query, answer.body.jobs.map(({ id }) => id), answer.body.total]).toEqual([
        query,
        expected,
        expected.length,
      ]);
    }
  });

  it("sorts by what it offers, page by page, whatever is added meanwhile", async ({ expect }) => {
    const owner = await person();
    const ids: number[] = [];
    for (let i = 0; i < 5; i += 1) ids.push(await job(owner));
    for (const [i, id] of ids.entries()) {
      // Two are equal in every order; the id tells them apart.
      await set(id, {
        experimentName: ["b", "a", null, "a", "c"][i] ?? null,
        createdAt: 1_000 + Math.floor(i / 2),
        updatedAt: 9_000 - i,
      });
    }
    const [a, b, c, d, e] = ids;
    for (const [sort, expected] of [
      ["-created_at", [e, d, c, b, a]],
      ["created_at", [a, b, c, d, e]],
      ["updated_at", [e, d, c, b, a]],
      ["-updated_at", [a, b, c, d, e]],
      ["experiment_name", [c, b, d, a, e]],
      ["-experiment_name", [e, a, d, b, c]],
    ] as const) {
      expect([sort, await idsOf(owner, `?sort=${sort}`)]).toEqual([sort, expected]);
      const seen: number[] = [];
      let cursor: string | null = "";
      while (cursor !== null) {
        const next: Awaited<ReturnType<typeof list>> = await list(
          owner,
          `?sort=${sort}&limit=2${cursor && `&cursor=${encodeURIComponent(cursor)}`}`,
        );
        expect(next.body.total).toBeGreaterThanOrEqual(5);
        seen.push(...next.body.jobs.map(({ id }) => id));
        cursor = next.body.next_cursor;
      }
      expect([sort, seen]).toEqual([sort, expected]);
    }
    const { next_cursor } = (await list(owner, "?limit=2")).body;
    const added = await job(owner);
    const rest = await idsOf(owner, `?limit=10&cursor=${next_cursor}`);
    expect(rest).toEqual([c, b, a]);
    expect(rest).not.toContain(added);
    expect(await idsOf(owner, "?skip=1&limit=2")).toEqual([e, d]);
  });

  it.for([
    ["sort=owner.password_hash", "sort"],
    ["sort=created_at;drop", "sort"],
    ["sort=", "sort"],
    ["status=cancelled", "status"],
    ["project_id=1e3", "project_id"],
    ["order_by=created_at", "order_by"],
    ["filter=x", "filter"],
    ["tag=a&tag=b", "tag"],
    ["tag[]=a", "tag[]"],
    ["cursor=garbage", "cursor"],
    ["cursor=%F0%9F%98%80", "cursor"],
    [`cursor=${btoa(JSON.stringify(["metrics", 1, 1]))}`, "cursor"],
    [`cursor=${btoa(JSON.stringify(["jobs", "-created_at", "' or 1", -1]))}`, "cursor"],
    [`cursor=${btoa(JSON.stringify(["jobs", "created_at", 1, 1]))}`, "cursor"],
    [`cursor=${btoa(JSON.stringify(["jobs", "-created_at", 1, 1]))}&skip=1`, "skip"],
    [`cursor=${"A".repeat(2_000)}`, "cursor"],
    [`q=${"x".repeat(201)}`, "q"],
    ["q=", "q"],
  ] as const)("refuses %s", async ([query, field], { expect }) => {
    expect(problem(await list(await person(), `?${query}`))).toEqual([422, "VALIDATION_ERROR", field]);
  });

  it("shows another's jobs to nobody, not even by an edited cursor or a foreign project", async ({ expect }) => {
    const [owner, stranger] = [await person(), await person()];
    await job(owner);
    const cursor = btoa(JSON.stringify(["jobs", "-created_at", 9e15, 9e9]));
    for (const query of ["", `?project_id=${owner.projectId}`, `?cursor=${cursor}`]) {
      expect((await list(stranger, query)).body).toMatchObject({ jobs: [], total: 0 });
    }
  });
});

describe("a job's labels", () => {
  it("change, and nothing else does", async ({ expect }) => {
    const owner = await person();
    const id = await job(owner);
    const script = "<script>alert(1)</script>";
    const answer = await as(owner, "PATCH", `${JOBS}/${id}`, {
      experiment_name: script,
      tags: ["a", "b"],
      notes: null,
    });
    expect(answer.body).toMatchObject({
      id,
      experiment_name: script,
      tags: ["a", "b"],
      notes: null,
      status: "pending",
    });
    expect(answer.headers.get("content-type")).toMatch(/^application\/json/);
    expect((await as(owner, "GET", `${JOBS}/${id}`)).body).toMatchObject({ experiment_name: script, tags: ["a", "b"] });
    expect((await as(owner, "PATCH", `${JOBS}/${id}`, {})).body).toMatchObject({ experiment_name: script });
    for (const [body, field] of [
      [{ status: "completed" }, "status"],
      [{ project_id: 1 }, "project_id"],
      [{ created_at: "2020-01-01" }, "created_at"],
      [{ best: 1 }, "best"],
      [{ tags: "a" }, "tags"],
      [{ tags: Array(51).fill("t") }, "tags"],
      [{ tags: ["x".repeat(101)] }, "tags.0"],
    ] as const) {
      expect(problem(await as(owner, "PATCH", `${JOBS}/${id}`, body))).toEqual([422, "VALIDATION_ERROR", field]);
    }
  });
});

describe("cloning a job", () => {
  it("takes over its settings and changes what the body says", async ({ expect }) => {
    const owner = await person();
    const id = await job(owner, {
      config: { epochs: 7, learning_rate: 0.01, advanced_config: { optimizer: { type: "sgd", learning_rate: 0.02 } } },
    });
    await as(owner, "PATCH", `${JOBS}/${id}`, { experiment_name: "first", tags: ["t"], notes: "n" });
    const original = (await as(owner, "GET", `${JOBS}/${id}`)).body;
    expect(original).toMatchObject({ learning_rate: 0.02 });
    const same = await as<{ id: number }>(owner, "POST", `${JOBS}/${id}/clone`, {});
    expect(same.status).toBe(201);
    for (const key of [
      "experiment_name",
      "tags",
      "notes",
      "dataset_id",
      "epochs",
      "learning_rate",
      "advanced_config",
    ]) {
      expect([key, (same.body as Json)[key]]).toEqual([key, original[key]]);
    }
    expect(same.body).toMatchObject({ status: "pending", started_at: null, output_dir: `jobs/${same.body.id}` });
    expect(same.body.id).not.toBe(id);

    const other = await as(owner, "POST", `${JOBS}/${id}/clone`, {
      experiment_name: "second",
      notes: null,
      config: { epochs: 9, learning_rate: 0.5 },
    });
    expect(other.body).toMatchObject({
      experiment_name: "second",
      notes: null,
      tags: ["t"],
      epochs: 9,
      learning_rate: 0.5,
    });
    expect(other.body.advanced_config).toEqual({ optimizer: { type: "sgd" } });
  });

  it("checks the settings and the rights anew", async ({ expect }) => {
    const [owner, viewer, stranger] = [await person(), await person(), await person()];
    await join(owner.projectId, viewer.id, "viewer");
    const id = await job(owner);
    const foreign = await dataset(stranger);
    const clone = (who: Person, body: Json) => as(who, "POST", `${JOBS}/${id}/clone`, body);
    expect(problem(await clone(owner, { config: { epochs: 0 } }))).toEqual([422, "VALIDATION_ERROR", "config.epochs"]);
    expect(problem(await clone(owner, { status: "completed" }))).toEqual([422, "VALIDATION_ERROR", "status"]);
    expect(problem(await clone(owner, { config: { dataset_id: foreign } }))).toEqual([
      404,
      "DATASET_NOT_FOUND",
      "config.dataset_id",
    ]);
    expect(problem(await clone(owner, { project_id: stranger.projectId }))).toEqual([
      404,
      "PROJECT_NOT_FOUND",
      "project_id",
    ]);
    expect(problem(await clone(viewer, {}))).toEqual([403, "FORBIDDEN", null]);
    // A viewer may take it into a project of his own, but not the private dataset with it.
    expect(problem(await clone(viewer, { project_id: viewer.projectId }))[0]).toBe(201);
    expect(problem(await clone(stranger, {}))).toEqual([404, "JOB_NOT_FOUND", null]);
  });
});

describe("Idempotency-Key", () => {
  const create = (who: Person, key: string, body: Json) =>
    as<{ id: number }>(who, "POST", JOBS, body, { "idempotency-key": key });
  const bodyFor = async (who: Person): Promise<Json> => ({
    project_id: who.projectId,
    config: {
      framework: "embedded",
      model_name: "cnn_small",
      task_type: "image_classification",
      dataset_id: await dataset(who),
    },
  });

  it("makes one job, however often and however close together it comes", async ({ expect }) => {
    const owner = await person();
    const [key, body] = [randomHex(8), await bodyFor(owner)];
    const answers = await Promise.all(Array.from({ length: 5 }, () => create(owner, key, body)));
    const later = await create(owner, key, body);
    expect(new Set([...answers, later].map((answer) => answer.status))).toEqual(new Set([201]));
    expect(new Set([...answers, later].map((answer) => answer.body.id)).size).toBe(1);
    expect(later.body).toEqual(answers[0]?.body);
    expect((await list(owner)).body.total).toBe(1);
  });

  it("belongs to one user and one request", async ({ expect }) => {
    const [owner, other] = [await person(), await person()];
    const [key, body] = [randomHex(8), await bodyFor(owner)];
    const { id } = (await create(owner, key, body)).body;
    const theirs = await create(other, key, await bodyFor(other));
    expect([theirs.status, theirs.body.id === id]).toEqual([201, false]);
    const changed = await create(owner, key, { ...body, notes: "changed" });
    expect(problem(changed as { status: number; body: Json })).toEqual([422, "VALIDATION_ERROR", "Idempotency-Key"]);
    const clone = await as(owner, "POST", `${JOBS}/${id}/clone`, {}, { "idempotency-key": key });
    expect(problem(clone)).toEqual([422, "VALIDATION_ERROR", "Idempotency-Key"]);
    const cloneKey = randomHex(8);
    const clones = [1, 2].map(() =>
      as<{ id: number }>(owner, "POST", `${JOBS}/${id}/clone`, {}, { "idempotency-key": cloneKey }),
    );
    const [one, two] = await Promise.all(clones);
    expect(one?.body.id).toBe(two?.body.id);
  });

  it("is forgotten after a day, and has to be printable", async ({ expect }) => {
    const owner = await person();
    const [key, body] = [randomHex(8), await bodyFor(owner)];
    const { id } = (await create(owner, key, body)).body;
    await db
      .update(idempotencyKeys)
      .set({ createdAt: Date.now() - 25 * 3_600_000 })
      .where(eq(idempotencyKeys.key, key));
    expect((await create(owner, key, body)).body.id).not.toBe(id);
    for (const bad of ["", "x".repeat(201), "two words"]) {
      const answer = await create(owner, bad, body);
      expect([answer.status, (answer.body as Json).field]).toEqual([422, "idempotency-key"]);
    }
  });
});

describe("what a job's trainer would refuse", () => {
  it("is refused when the job is made, by its field", async ({ expect }) => {
    const owner = await person();
    const create = (config: Json) => as(owner, "POST", JOBS, { project_id: owner.projectId, config });
    const base = { framework: "embedded", model_name: "cnn_small", task_type: "image_classification" };
    const yolo = await dataset(owner);
    await db.update(datasets).set({ format: "yolo" }).where(eq(datasets.id, yolo));
    expect(problem(await create({ ...base, dataset_id: yolo }))).toEqual([
      422,
      "VALIDATION_ERROR",
      "config.dataset_id",
    ]);
    const dataset_id = await dataset(owner);
    expect(problem(await create({ ...base, dataset_id, primary_metric: "mAP50" }))).toEqual([
      422,
      "VALIDATION_ERROR",
      "config.primary_metric",
    ]);
    expect((await create({ ...base, dataset_id, primary_metric: "val_loss", primary_metric_mode: "min" })).status).toBe(
      201,
    );
  });
});

describe("starting a job whose dataset was deleted", () => {
  it("answers that the dataset is not there, and leaves the job pending", async ({ expect }) => {
    const owner = await person();
    const id = await job(owner);
    const { body } = await as(owner, "GET", `${JOBS}/${id}`);
    expect((await as(owner, "DELETE", `/api/v1/datasets/${body.dataset_id}`)).status).toBe(204);
    expect(problem(await as(owner, "POST", `${JOBS}/${id}/start`))).toEqual([404, "DATASET_NOT_FOUND", null]);
    expect((await as(owner, "GET", `${JOBS}/${id}`)).body.status).toBe("pending");
  });
});

describe("deleting a job", () => {
  it("leaves no row, no file and no way back", async ({ expect }) => {
    const owner = await person();
    const id = await job(owner);
    await plainEvent(id, "epoch_complete", { epoch: 1, loss: 1 });
    await plainEvent(id, "log", { lines: ["one"] });
    await plainEvent(id, "validation", { epoch: 1, metrics: { accuracy: 1 }, images: [{ image_name: "a" }] });
    await env.BUCKET.put(`jobs/${id}/1/${newUuid()}`, "weights");
    expect(problem(await as(owner, "DELETE", `${JOBS}/${id}`))).toEqual([409, "INVALID_STATUS", null]);
    await plainEvent(id, "completed", {});
    expect((await as(owner, "DELETE", `${JOBS}/${id}`)).status).toBe(204);
    for (const path of [
      `${JOBS}/${id}`,
      `${JOBS}/${id}/metrics`,
      `${JOBS}/${id}/logs`,
      `/api/v1/validation/results/${id}`,
    ]) {
      expect(problem(await as(owner, "GET", path)), path).toEqual([404, "JOB_NOT_FOUND", null]);
    }
    expect((await as(owner, "DELETE", `${JOBS}/${id}`)).status).toBe(404);
    for (const table of [
      "training_metrics",
      "metric_segments",
      "metric_extremes",
      "log_chunks",
      "validation_results",
      "job_attempts",
    ]) {
      const rows = await env.DB.prepare(`select count(*) as n from ${table} where job_id = ?`).bind(id).first<Json>();
      expect([table, rows?.n]).toEqual([table, 0]);
    }
    const late = await plainEvent(id, "epoch_complete", { epoch: 2, loss: 1 });
    expect(problem(late)).toEqual([404, "JOB_NOT_FOUND", null]);
    for (let i = 0; i < 50 && (await env.BUCKET.list({ prefix: `jobs/${id}/` })).objects.length > 0; i += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect((await env.BUCKET.list({ prefix: `jobs/${id}/` })).objects).toEqual([]);
    const [audit] = await db.select().from(auditLog).where(eq(auditLog.actorId, owner.id));
    expect(audit).toMatchObject({ action: "job.delete", targetType: "job", targetId: String(id) });
  });

  it("is for its maker and the owner of its project", async ({ expect }) => {
    const [owner, editor, other] = [await person(), await person(), await person()];
    await join(owner.projectId, editor.id, "editor");
    await join(owner.projectId, other.id, "editor");
    const made = (
      await as<{ id: number }>(editor, "POST", `${JOBS}/${await job(owner)}/clone`, { project_id: owner.projectId })
    ).body.id;
    expect(problem(await as(other, "DELETE", `${JOBS}/${made}`))).toEqual([403, "FORBIDDEN", null]);
    expect((await as(editor, "DELETE", `${JOBS}/${made}`)).status).toBe(204);
    const owners = await job(owner);
    expect(problem(await as(editor, "DELETE", `${JOBS}/${owners}`))).toEqual([403, "FORBIDDEN", null]);
  });
});

describe("the detail of a job", () => {
  it("says who trains it and how long it will take", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const { jobId, lease } = await runningJob(owner, gpu);
    const before = await as(owner, "GET", `${JOBS}/${jobId}`);
    expect(before.body).toMatchObject({
      status: "running",
      attempt: 1,
      runner: { id: gpu.id, name: expect.any(String) },
      estimated_seconds_left: null,
      progress_percent: 0,
      queue: null,
      data_complete: null,
      reason: null,
    });
    await events(lease, [{ seq: 1, event: "epoch_complete", data: { epoch: 1, loss: 1, accuracy: 0.5 } }]);
    await env.DB.prepare("update job_attempts set started_at = ? where job_id = ?")
      .bind(Date.now() - 60_000, jobId)
      .run();
    const after = await as<{ estimated_seconds_left: number }>(owner, "GET", `${JOBS}/${jobId}`);
    expect(after.body).toMatchObject({ progress_percent: 33.3, best: { value: 0.5, epoch: 1 } });
    expect(after.body.estimated_seconds_left).toBeGreaterThan(110);
    expect(after.body.estimated_seconds_left).toBeLessThan(125);
    const [listed] = (await list(owner)).body.jobs;
    expect(listed).toMatchObject({ runner: { id: gpu.id }, progress_percent: 33.3 });
  });
});

/** Points as a job's object would have stored them. */
async function points(
  jobId: number,
  losses: (number | null)[],
  extra: (i: number) => Record<string, number> = () => ({}),
) {
  const rows = losses.map((loss, i) => [i + 1, 0, 1, i + 1, loss, JSON.stringify(extra(i)), Date.now()]);
  await env.DB.prepare(
    `insert into training_metrics (job_id, epoch, step, attempt, id, loss, extra_metrics, created_at)
     select ?1, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6 from json_each(?2)`,
  )
    .bind(jobId, JSON.stringify(rows))
    .run();
  await db
    .insert(jobAttempts)
    .values({ jobId, attempt: 1, owner: "plain", resumeEpoch: 0, firstEpoch: 1, startedAt: Date.now() });
  await db.update(trainingJobs).set({ currentEpoch: losses.length }).where(eq(trainingJobs.id, jobId));
}

const linksOf = (headers: Headers): Record<string, string> =>
  Object.fromEntries(
    [...(headers.get("link") ?? "").matchAll(/<([^>]+)>; rel="(\w+)"/g)].map(([, url = "", rel = ""]) => [rel, url]),
  );

describe("metrics", () => {
  const epochs = (answer: { body: { epoch: number }[] }) => answer.body.map(({ epoch }) => epoch);
  type Points = { epoch: number; loss: number | null }[];

  it("are paged backwards and forwards by the links of each answer", async ({ expect }) => {
    const owner = await person();
    const id = await job(owner);
    await points(
      id,
      Array.from({ length: 10 }, (_, i) => i),
    );
    const newest = await as<Points>(owner, "GET", `${JOBS}/${id}/metrics?limit=4`);
    expect(epochs(newest)).toEqual([7, 8, 9, 10]);
    const older = await as<Points>(owner, "GET", linksOf(newest.headers).prev ?? "");
    expect(epochs(older)).toEqual([3, 4, 5, 6]);
    expect(epochs(await as<Points>(owner, "GET", linksOf(older.headers).prev ?? ""))).toEqual([1, 2]);
    expect(epochs(await as<Points>(owner, "GET", linksOf(older.headers).next ?? ""))).toEqual([7, 8, 9, 10]);

    // Polling: nothing new, and then something.
    const none = await as<Points>(owner, "GET", linksOf(newest.headers).next ?? "");
    expect(epochs(none)).toEqual([]);
    await db
      .insert(trainingMetrics)
      .values({ jobId: id, epoch: 11, step: 0, attempt: 1, id: 11, extraMetrics: {}, createdAt: 1 });
    await db.update(trainingJobs).set({ currentEpoch: 11 }).where(eq(trainingJobs.id, id));
    expect(epochs(await as<Points>(owner, "GET", linksOf(none.headers).next ?? ""))).toEqual([11]);
    expect(linksOf(none.headers).next).toContain("limit=4");
  });

  it("are thinned out to the first, the last and the extremes", async ({ expect }) => {
    const owner = await person();
    const id = await job(owner);
    const losses = Array.from({ length: 1_000 }, (_, i) => Math.cos(i / 50));
    losses[500] = 99;
    losses[777] = -99;
    await points(id, losses, (i) => ({ "mAP@0.5": i === 321 ? 50 : 0 }));
    const thin = await as<Points>(owner, "GET", `${JOBS}/${id}/metrics?max_points=50`);
    expect(thin.body.length).toBeLessThanOrEqual(50);
    expect(thin.body.length).toBeGreaterThan(40);
    const seen = epochs(thin);
    expect([seen[0], seen.at(-1)]).toEqual([1, 1_000]);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen).toEqual(expect.arrayContaining([501, 778]));
    // Another series has other extremes.
    const other = await as<Points>(
      owner,
      "GET",
      `${JOBS}/${id}/metrics?max_points=50&series=${encodeURIComponent("mAP@0.5")}`,
    );
    expect(epochs(other)).toContain(322);
    expect(seen).not.toContain(322);
    const unknown = await as<Points>(owner, "GET", `${JOBS}/${id}/metrics?max_points=10&series=constructor`);
    expect(epochs(unknown)[0]).toBe(1);
    expect(unknown.body.length).toBeLessThanOrEqual(10);
    const all = await as<Points>(owner, "GET", `${JOBS}/${id}/metrics?max_points=1000`);
    expect(all.body).toHaveLength(1_000);
  });

  it("are thinned out where values are missing, and where there are few or none", async ({ expect }) => {
    const owner = await person();
    const [empty, few, holes] = [await job(owner), await job(owner), await job(owner)];
    await points(few, [1, 2, 3]);
    await points(
      holes,
      Array.from({ length: 100 }, (_, i) => (i === 42 ? 5 : null)),
    );
    const get = (id: number) => as<Points>(owner, "GET", `${JOBS}/${id}/metrics?max_points=4`);
    expect(epochs(await get(empty))).toEqual([]);
    expect(epochs(await get(few))).toEqual([1, 2, 3]);
    expect(epochs(await get(holes))).toEqual(expect.arrayContaining([1, 43, 100]));
  });

  it.for([
    ["before=x", "before"],
    ["after=x", "after"],
    [`before=${btoa(JSON.stringify(["logs", 1]))}`, "before"],
    [`before=${btoa(JSON.stringify(["metrics", 1.5, "x"]))}`, "before"],
    [`before=a&after=b`, "after"],
    ["max_points=3", "max_points"],
    ["max_points=10001", "max_points"],
    ["max_points=1e3", "max_points"],
    ["max_points=10&before=x", "max_points"],
    ["series=", "series"],
  ] as const)("refuse %s", async ([query, field], { expect }) => {
    const owner = await person();
    const answer = await as(owner, "GET", `${JOBS}/${await job(owner)}/metrics?${query}`);
    expect(problem(answer)).toEqual([422, "VALIDATION_ERROR", field]);
  });
});

describe("logs", () => {
  type Lines = { id: number; message: string }[];
  const lines = (answer: { body: Lines }) => answer.body.map(({ id }) => id);

  it("are paged by line over chunks of any size, for one stream or both", async ({ expect }) => {
    const owner = await person();
    const id = await job(owner);
    // Ten lines in chunks of 1, 2, 3 and 4, every second chunk from stderr.
    for (const [i, count] of [1, 2, 3, 4].entries()) {
      const text = Array.from({ length: count }, (_, k) => `chunk ${i} line ${k}`);
      await plainEvent(id, "log", { stream: i % 2 === 0 ? "stdout" : "stderr", lines: text });
    }
    const newest = await as<Lines>(owner, "GET", `${JOBS}/${id}/logs?limit=4`);
    expect(lines(newest)).toEqual([7, 8, 9, 10]);
    const older = await as<Lines>(owner, "GET", linksOf(newest.headers).prev ?? "");
    expect(lines(older)).toEqual([3, 4, 5, 6]);
    const oldest = await as<Lines>(owner, "GET", linksOf(older.headers).prev ?? "");
    expect([lines(oldest), linksOf(oldest.headers).prev]).toEqual([[1, 2], undefined]);
    const forward = await as<Lines>(owner, "GET", linksOf(oldest.headers).next ?? "");
    expect(lines(forward)).toEqual([3, 4, 5, 6]);
    expect(lines(await as<Lines>(owner, "GET", linksOf(forward.headers).next ?? ""))).toEqual([7, 8, 9, 10]);

    const stdout = await as<Lines>(owner, "GET", `${JOBS}/${id}/logs?log_type=stdout&limit=2`);
    expect(lines(stdout)).toEqual([5, 6]);
    const before = await as<Lines>(owner, "GET", linksOf(stdout.headers).prev ?? "");
    expect(lines(before)).toEqual([1, 4]);
    expect(lines(await as<Lines>(owner, "GET", linksOf(before.headers).next ?? ""))).toEqual([5, 6]);

    const none = await as<Lines>(owner, "GET", linksOf(newest.headers).next ?? "");
    expect(lines(none)).toEqual([]);
    await plainEvent(id, "log", { stream: "stdout", lines: ["more"] });
    expect((await as<Lines>(owner, "GET", linksOf(none.headers).next ?? "")).body).toMatchObject([
      { id: 11, message: "more" },
    ]);
  });
});

describe("checkpoints", () => {
  const save = async (jobId: number, values: Partial<typeof artifacts.$inferInsert> = {}) => {
    const id = newUuid();
    const bytes = new TextEncoder().encode(`weights of ${id}`);
    const storageKey = `jobs/${jobId}/1/${id}`;
    await env.BUCKET.put(storageKey, bytes);
    await db.insert(artifacts).values({
      id,
      jobId,
      attempt: 1,
      kind: "checkpoint",
      name: 'best "1".pt\r\nx: y',
      role: "best",
      epoch: 3,
      sizeBytes: bytes.byteLength,
      sha256: await sha256Hex(Uint8Array.from(bytes)),
      storageKey,
      createdAt: Date.now(),
      ...values,
    });
    return { id, text: `weights of ${id}` };
  };

  it("are listed newest first and downloaded whole, by range and by tag", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    const first = await save(jobId, { createdAt: 1 });
    const second = await save(jobId, { kind: "model", role: "last", usable: false, createdAt: 2 });
    await save(jobId, { kind: "plot" });
    const answer = await as(owner, "GET", `${JOBS}/${jobId}/checkpoints?limit=1`);
    expect(answer.body).toMatchObject({
      job_id: jobId,
      checkpoints: [{ artifact_id: second.id, kind: "model", role: "last", usable: false }],
      total: 2,
    });
    const all = await as<{ checkpoints: Json[] }>(owner, "GET", `${JOBS}/${jobId}/checkpoints`);
    expect(all.body.checkpoints.map((one) => one.checkpoint_path)).toEqual([
      `jobs/${jobId}/1/${second.id}`,
      `jobs/${jobId}/1/${first.id}`,
    ]);

    const path = `${JOBS}/${jobId}/checkpoints/${first.id}/content`;
    const whole = await as<string>(owner, "GET", path);
    expect([whole.status, whole.body]).toEqual([200, first.text]);
    expect(whole.headers.get("content-disposition")).toMatch(/^attachment; filename="best__1_.pt__x__y"/);
    expect(whole.headers.get("x-content-type-options")).toBe("nosniff");
    expect(whole.headers.get("x")).toBeNull();
    const part = await as<string>(owner, "GET", path, undefined, { range: "bytes=0-6" });
    expect([part.status, part.body]).toEqual([206, "weights"]);
    const known = await as(owner, "GET", path, undefined, { "if-none-match": whole.headers.get("etag") ?? "" });
    expect(known.status).toBe(304);
    const beyond = await as(owner, "GET", path, undefined, { range: "bytes=9999-" });
    expect(problem(beyond)).toEqual([416, "RANGE_NOT_SATISFIABLE", null]);
  });

  it("of another job are not found, nor are plots and unknown ones", async ({ expect }) => {
    const [owner, stranger] = [await person(), await person()];
    const [mine, foreign] = [await job(owner), await job(stranger)];
    const theirs = await save(foreign);
    const plot = await save(mine, { kind: "plot" });
    for (const id of [theirs.id, plot.id, newUuid()]) {
      const answer = await as(owner, "GET", `${JOBS}/${mine}/checkpoints/${id}/content`);
      expect(problem(answer)).toEqual([404, "CHECKPOINT_NOT_FOUND", null]);
    }
    expect(problem(await as(owner, "GET", `${JOBS}/${foreign}/checkpoints/${theirs.id}/content`))).toEqual([
      404,
      "JOB_NOT_FOUND",
      null,
    ]);
    expect((await as(owner, "GET", `${JOBS}/${mine}/checkpoints/..%2f..%2fsecret/content`)).status).toBe(422);
  });
});

describe("labels and tasks", () => {
  it("let boxes that came with masks or keypoints train a detector, and nothing else cross", async ({ expect }) => {
    const owner = await person();
    const make = async (labelled: "instance_segmentation" | "pose_estimation", model: string, task: string) => {
      const datasetId = await dataset(owner);
      await db.update(datasets).set({ taskType: labelled }).where(eq(datasets.id, datasetId));
      const config = { framework: "ultralytics", model_name: model, task_type: task, dataset_id: datasetId };
      return as(owner, "POST", JOBS, { config });
    };
    expect((await make("instance_segmentation", "yolo11n", "object_detection")).status).toBe(201);
    expect((await make("pose_estimation", "yolo11n", "object_detection")).status).toBe(201);
    const crossed = await make("instance_segmentation", "yolo11n-pose", "pose_estimation");
    expect(problem(crossed)).toEqual([422, "VALIDATION_ERROR", "config.dataset_id"]);
  });
});
