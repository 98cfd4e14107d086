import { createExecutionContext } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { createApp } from "../../src/app.ts";
import { call, type Json, job, type Person, person } from "../support/api.ts";

const JOBS = "/api/v1/training/jobs";
let owner: Person;
let jobId = 0;
beforeAll(async () => {
  owner = await person();
  jobId = await job(owner);
});

const problem = (answer: { status: number; body: unknown }) => {
  const { detail, ...rest } = answer.body as Json;
  return { status: answer.status, ...rest, hasDetail: typeof detail === "string" && detail.length > 0 };
};
const expected = (status: number, code: string, field: string | null = null) => ({
  status,
  code,
  field,
  hasDetail: true,
});

const validJob = () => ({
  config: { framework: "embedded", model_name: "cnn_small", task_type: "image_classification", dataset_id: "none" },
});

describe("bodies", () => {
  it.for([
    ["malformed JSON", '{"config":', "application/json", 400, "BAD_REQUEST"],
    ["no JSON at all", "hello", "application/json", 400, "BAD_REQUEST"],
    ["an empty body", "", "application/json", 400, "BAD_REQUEST"],
    ["JSON as text", JSON.stringify(validJob()), "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"],
    ["a form where JSON is due", "a=1", "application/x-www-form-urlencoded", 415, "UNSUPPORTED_MEDIA_TYPE"],
    ["no content type", JSON.stringify(validJob()), undefined, 415, "UNSUPPORTED_MEDIA_TYPE"],
    [
      "10,000 levels",
      `{"config":${"[".repeat(10_000)}${"]".repeat(10_000)}}`,
      "application/json",
      422,
      "VALIDATION_ERROR",
    ],
    ["JSON of 1 MiB and a byte", " ".repeat(1024 * 1024 + 1), "application/json", 413, "PAYLOAD_TOO_LARGE"],
    ["another JSON type that is too large", " ".repeat(2 ** 20 + 1), "application/x+json", 413, "PAYLOAD_TOO_LARGE"],
  ] as const)("refuses %s", async ([, body, type, status, code], { expect }) => {
    const bytes = new TextEncoder().encode(body);
    const answer = await call("POST", JOBS, {
      token: owner.token,
      body: bytes,
      headers: type === undefined ? {} : { "content-type": type },
    });
    expect(problem(answer)).toEqual(expected(status, code));
    expect(answer.headers.get("cache-control")).toBe("private, no-store");
  });

  it("refuses too much JSON that comes in chunks, without a length", async ({ expect }) => {
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += 1;
        controller.enqueue(new TextEncoder().encode(" ".repeat(64 * 1024)));
        if (sent > 200) controller.close();
      },
    });
    const response = await exports.default.fetch(`http://localhost:8000${JOBS}`, {
      method: "POST",
      headers: { authorization: `Bearer ${owner.token}`, "content-type": "application/json" },
      body,
    });
    expect(problem({ status: response.status, body: await response.json() })).toEqual(
      expected(413, "PAYLOAD_TOO_LARGE"),
    );
    expect(sent).toBeLessThan(50);
  });

  it.for([
    [{}, "config", "config: is required"],
    [{ config: 1 }, "config", "config: must be an object"],
    [[], null, "The body must be an object"],
    [null, null, "The body must be an object"],
    [1, null, "The body must be an object"],
    [{ config: { ...validJob().config, epochs: "3" } }, "config.epochs", "config.epochs: must be a number"],
    [{ config: { ...validJob().config, epochs: 1.5 } }, "config.epochs", "config.epochs: must be an integer"],
    [{ config: { ...validJob().config, epochs: 1001 } }, "config.epochs", "config.epochs: must be at most 1000"],
    [
      { config: { ...validJob().config, learning_rate: 1 } },
      "config.learning_rate",
      "config.learning_rate: must be below 1",
    ],
    [
      { config: { ...validJob().config, model_name: "" } },
      "config.model_name",
      "config.model_name: must have at least 1 character",
    ],
    [
      { config: { ...validJob().config, dataset_id: undefined } },
      "config.dataset_id",
      "config.dataset_id: is required",
    ],
    [{ config: { ...validJob().config, epoch: 3 } }, "config.epoch", "config.epoch: is not known"],
    [{ ...validJob(), tags: ["a", ""] }, "tags.1", "tags.1: must have at least 1 character"],
    [{ ...validJob(), tags: Array(51).fill("a") }, "tags", "tags: must have at most 50 items"],
    [{ ...validJob(), project_id: "2" }, "project_id", "project_id: must be a number"],
    [{ ...validJob(), project_id: 2 ** 53 }, "project_id", null],
    [{ ...validJob(), session_id: 1e300 }, "session_id", null],
    [
      { ...validJob(), experiment_name: "a\u0000b" },
      "experiment_name",
      "experiment_name: must not have a NUL character",
    ],
    [
      { ...validJob(), experiment_name: "x".repeat(201) },
      "experiment_name",
      "experiment_name: must have at most 200 characters",
    ],
  ] as const)("names what is wrong with %j", async ([body, field, detail], { expect }) => {
    const answer = await call("POST", JOBS, { token: owner.token, body });
    expect(problem(answer)).toEqual(expected(422, "VALIDATION_ERROR", field));
    if (detail !== null) expect(answer.body.detail).toBe(detail);
  });

  it("keeps odd keys out of objects and prototypes", async ({ expect }) => {
    const body = `{"__proto__":{"admin":true},"constructor":{"prototype":{"admin":true}},"status":"completed","id":99,"config":${JSON.stringify(validJob().config)}}`;
    const answer = await call("POST", JOBS, {
      token: owner.token,
      body,
      headers: { "content-type": "application/json" },
    });
    expect(problem(answer)).toEqual(expected(404, "DATASET_NOT_FOUND", "config.dataset_id"));
    expect(Object.hasOwn(Object.prototype, "admin")).toBe(false);
    const nested = await call("POST", JOBS, {
      token: owner.token,
      body: `{"config":{"model_name":"cnn_small","framework":"embedded","task_type":"image_classification","dataset_id":"x","__proto__":{}}}`,
      headers: { "content-type": "application/json" },
    });
    expect(nested.status).toBe(422);
  });
});

describe("paths and methods", () => {
  it("answers 404 for what does not exist, 401 without a token", async ({ expect }) => {
    for (const path of ["/api/v1/nothing", "/api/v1", "/api/v1/training/jobs/", `${JOBS}/${jobId}/nothing`]) {
      expect(problem(await call("GET", path, { token: owner.token })), path).toEqual(expected(404, "NOT_FOUND"));
      expect(problem(await call("GET", path)), path).toEqual(expected(401, "UNAUTHORIZED"));
    }
    expect(problem(await call("GET", "/nothing"))).toEqual(expected(404, "NOT_FOUND"));
  });

  it.for([
    ["DELETE", JOBS, "GET, HEAD, POST"],
    ["PUT", "/api/v1/auth/login", "POST"],
    ["GET", "/api/v1/auth/login", "POST"],
    ["OPTIONS", "/api/v1/models/list", "GET, HEAD"],
    ["GET", "/api/v1/internal/training/callback", "POST"],
    ["POST", "/healthz", "GET, HEAD"],
    ["PATCH", "/api/v1/models/list", "GET, HEAD"],
  ] as const)("answers 405 with Allow to %s %s", async ([method, path, allow], { expect }) => {
    for (const token of [owner.token, undefined]) {
      const answer = await call(method, path, { token });
      expect(problem(answer)).toEqual(expected(405, "METHOD_NOT_ALLOWED"));
      expect(answer.headers.get("allow")).toBe(allow);
    }
  });

  it("guards HEAD like GET, and answers it without a body", async ({ expect }) => {
    const open = await call("HEAD", `${JOBS}/${jobId}`);
    expect([open.status, open.body]).toEqual([401, ""]);
    expect(open.headers.get("www-authenticate")).toBe("Bearer");
    const known = await exports.default.fetch(`http://localhost:8000${JOBS}/${jobId}`, {
      method: "HEAD",
      headers: { authorization: `Bearer ${owner.token}` },
    });
    expect([known.status, await known.text()]).toEqual([200, ""]);
  });

  it("ignores method overrides", async ({ expect }) => {
    const answer = await call("GET", `${JOBS}/${jobId}`, {
      token: owner.token,
      headers: { "x-http-method-override": "DELETE", "x-method-override": "DELETE" },
    });
    expect(answer.status).toBe(200);
    expect((await call("GET", `${JOBS}/${jobId}`, { token: owner.token })).status).toBe(200);
  });

  it.for([
    "1.0",
    "1e3",
    "01",
    "-1",
    "0",
    "9007199254740993",
    "%201",
    "1%20",
    "١",
    "1".repeat(400),
    "null",
    "%00",
    "1%2F2",
    "%E0%A4%A",
    "' or 1=1 --",
    "../1",
  ])("finds nothing under the id %s", async (id, { expect }) => {
    const paths = [
      `${JOBS}/${id}`,
      `${JOBS}/${id}/metrics`,
      `/api/v1/validation/results/${id}`,
      `/api/v1/validation/images/${id}`,
      `/api/v1/datasets/${id}`,
    ];
    for (const path of paths) {
      const answer = await call("GET", path, { token: owner.token });
      expect([404, 422], path).toContain(answer.status);
      expect(problem(answer)).toMatchObject({
        hasDetail: true,
        code: expect.stringMatching(/VALIDATION_ERROR|NOT_FOUND/),
      });
    }
    expect([404, 422]).toContain((await call("POST", `/api/v1/training/stop/${id}`, { token: owner.token })).status);
  });
});

describe("query parameters", () => {
  const lists = () => [
    JOBS,
    "/api/v1/projects",
    "/api/v1/datasets",
    `${JOBS}/${jobId}/metrics`,
    `${JOBS}/${jobId}/logs`,
  ];

  it.for(["1e9", "-1", "abc", "0", "", "1.0", "01", "99999999999999999999", "1&limit=2", "%00", "Infinity"])(
    "refuses limit=%s on every list",
    async (limit, { expect }) => {
      for (const path of lists()) {
        const answer = await call("GET", `${path}?limit=${limit}`, { token: owner.token });
        expect(problem(answer), path).toEqual(expected(422, "VALIDATION_ERROR", "limit"));
      }
    },
  );

  it.for(["1e12", "-1", "1000001", "x"])("refuses skip=%s", async (skip, { expect }) => {
    for (const path of lists().slice(0, 3)) {
      const answer = await call("GET", `${path}?skip=${skip}`, { token: owner.token });
      expect(problem(answer), path).toEqual(expected(422, "VALIDATION_ERROR", "skip"));
    }
  });

  it("says that a repeated parameter has to be one", async ({ expect }) => {
    const answer = await call("GET", `${JOBS}/${jobId}/logs?log_type=stdout&log_type=stderr`, { token: owner.token });
    expect(problem(answer)).toEqual(expected(422, "VALIDATION_ERROR", "log_type"));
    const text = await call("GET", `${JOBS}/${jobId}/logs?before=a&before=b`, { token: owner.token });
    expect(text.body.detail).toBe("before: must be one string");
  });
});

describe("what fails inside", () => {
  const broken = (changes: Partial<Env>) =>
    createApp().fetch(
      new Request(`http://localhost:8000${JOBS}/${jobId}`, { headers: { authorization: `Bearer ${owner.token}` } }),
      { ...env, ...changes },
      createExecutionContext(),
    );

  it("answers 500 with a request id and without details when the database fails", async ({ expect }) => {
    const prepare = () => {
      throw new Error("SECRET of the database: select * from users");
    };
    const response = await broken({ DB: { prepare, batch: prepare } as unknown as D1Database });
    const text = await response.text();
    expect(response.status).toBe(500);
    expect(JSON.parse(text)).toEqual({ detail: "Internal server error", code: "INTERNAL_ERROR", field: null });
    expect(response.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
  });

  it.for([
    ["JWT_SECRET", undefined],
    ["JWT_SECRET", "short"],
    ["JWT_SECRET", "change-me-change-me-change-me-change-me"],
    ["RUNNER_TIMERS", "no json"],
  ] as const)("serves nothing while %s is %s, and says so", async ([name, value], { expect }) => {
    const response = await broken({ [name]: value } as Partial<Env>);
    const body = (await response.json()) as Json;
    expect(response.status).toBe(500);
    expect(body).toMatchObject({ code: "CONFIGURATION_ERROR", field: null });
    expect(body.detail).toContain(name);
    if (value !== undefined) expect(body.detail).not.toContain(value);
  });
});
