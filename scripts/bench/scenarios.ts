import { randomBytes } from "node:crypto";
import { z } from "zod";
import { sampleStrains } from "../../src/breeding/strains/sample.ts";
import { loadLocalStrains } from "../lib/local-strains.ts";
import { Connection, expectStatus, type HttpRequest, jsonOf } from "./http.ts";
import { type InferenceWorld, prepareInference } from "./inference.ts";
import { baselineName, type Ready, type Scenario } from "./scenario.ts";
import { API, bearer, JSON_TYPE, type World } from "./world.ts";

const CONCURRENCIES = [1, 20];
const MANY_POINTS = 1_000_000;
const FEW_POINTS = 1_000;
const BATCH = 500;
const BATCH_LANES = 4;
const LISTED_JOBS = 2_000;
const LOG_LINE = `[INFO] epoch 12 step 3400 loss 0.4512 accuracy 0.8512 lr 0.00100 ${"·".repeat(8)}\n`;
const LOG_CHUNK = LOG_LINE.repeat(50);

/** An operation that is one request, always the same, with one good status. */
const repeat = (request: HttpRequest, status = 200): Ready => ({
  operation: async (connection) => expectStatus(await connection.request(request), status),
});

const get = (world: World, path: string): HttpRequest => ({
  method: "GET",
  path: API + path,
  headers: bearer(world.userToken),
});

const callback = (credential: Record<string, string>, body: unknown): HttpRequest => ({
  method: "POST",
  path: `${API}/internal/training/callback`,
  headers: { ...JSON_TYPE, ...credential },
  body: JSON.stringify(body),
});

const plain = (world: World, jobId: number, event: string, data: object): HttpRequest =>
  callback({ "x-internal-auth": world.server.internalSecret }, { job_id: jobId, event, data });

const epochComplete = (n: number) => ({
  epoch: Math.ceil(n / 100),
  step: n,
  loss: 0.45,
  accuracy: 0.85,
  learning_rate: 0.0008,
  extra_metrics: { f1: 0.81, val_loss: 0.52 },
});

const once = <T>(make: (world: World) => Promise<T>): ((world: World) => Promise<T>) => {
  let made: Promise<T> | null = null;
  return (world) => {
    made ??= make(world);
    return made;
  };
};

const manyPoints = once((world) => world.createPoints(MANY_POINTS));
const fewPoints = once((world) => world.createPoints(FEW_POINTS));

/** Running jobs, each held by a runner of its own. */
const leases = (world: World, label: string, count: number) =>
  Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const runner = await world.createRunner(`${label}-${i}`);
      return { runner, jobId: await world.createJob() };
    }),
  ).then((pairs) =>
    Promise.all(
      pairs.map(({ runner, jobId }) => world.startClaimAccept(world.connect(), world.connect(), runner, jobId)),
    ),
  );

/** Callbacks of plain jobs that are running, the connections spread over them. */
async function plainCallbacks(world: World, jobs: number): Promise<Ready> {
  const ids = await world.createJobs(jobs);
  const connection = world.connect();
  for (const id of ids) {
    expectStatus(await connection.request(plain(world, id, "started", { total_epochs: 1_000 })), 200);
  }
  let n = 0;
  return {
    operation: async (own, lane) => {
      n += 1;
      const jobId = ids[lane % ids.length] ?? 0;
      expectStatus(await own.request(plain(world, jobId, "epoch_complete", epochComplete(n))), 200);
    },
  };
}

const AckSchema = z.object({ rejected: z.array(z.unknown()) });

const baselines: Scenario[] = CONCURRENCIES.flatMap((concurrency): Scenario[] => [
  {
    name: baselineName("hello", concurrency),
    title: "hello world (a Worker of its own)",
    concurrency,
    on: "baseline",
    prepare: async () => repeat({ method: "GET", path: "/" }),
  },
  {
    name: baselineName("insert", concurrency),
    title: "one D1 insert",
    concurrency,
    on: "baseline",
    prepare: async () => repeat({ method: "POST", path: "/insert" }),
  },
  {
    name: baselineName("read", concurrency),
    title: "one D1 read by primary key",
    concurrency,
    on: "baseline",
    prepare: async (world) => repeat({ method: "GET", path: `/read?id=${world.templateJobId}` }),
  },
]);

const reads: Scenario[] = [
  {
    name: "health",
    title: "GET /healthz (hello world of this Worker)",
    concurrency: 20,
    on: "app",
    prepare: async () => repeat({ method: "GET", path: "/healthz" }),
  },
  {
    name: "login",
    title: "login (scrypt)",
    concurrency: 1,
    on: "app",
    prepare: async (world) => repeat(world.loginRequest),
  },
  {
    name: "job",
    title: "GET job",
    concurrency: 20,
    on: "app",
    target: { atLeast: 0.75, of: baselineName("read", 20) },
    prepare: async (world) => repeat(get(world, `/training/jobs/${world.templateJobId}`)),
  },
  {
    name: "job-list",
    title: `list of jobs, newest 50 of more than ${LISTED_JOBS}`,
    concurrency: 20,
    on: "app",
    prepare: async (world) => {
      await world.createJobs(LISTED_JOBS);
      return repeat(get(world, `/training/jobs?project_id=${world.projectId}`));
    },
  },
  {
    name: "metrics-1k",
    title: "metrics, newest 100 of 1,000",
    concurrency: 20,
    on: "app",
    prepare: async (world) => repeat(get(world, `/training/jobs/${await fewPoints(world)}/metrics?limit=100`)),
  },
  {
    name: "metrics-1m",
    title: "metrics, newest 100 of 1,000,000",
    concurrency: 20,
    on: "app",
    target: { atLeast: 1 / 1.5, of: "metrics-1k" },
    prepare: async (world) => repeat(get(world, `/training/jobs/${await manyPoints(world)}/metrics?limit=100`)),
  },
  {
    name: "chart",
    title: "chart, 1,000,000 points down to 1,000",
    concurrency: 1,
    on: "app",
    target: { p50AtMostMs: 50 },
    prepare: async (world) => {
      if (!world.has("get", "/training/jobs/{job_id}/metrics", "max_points")) return "the route has no max_points yet";
      return repeat(get(world, `/training/jobs/${await manyPoints(world)}/metrics?max_points=1000`));
    },
  },
];

const ingest: Scenario[] = [
  {
    name: "callback-1",
    title: "plain callback, one job",
    concurrency: 1,
    on: "app",
    prepare: (world) => plainCallbacks(world, 1),
  },
  {
    name: "callback-20",
    title: "plain callback, one job",
    concurrency: 20,
    on: "app",
    target: { atLeast: 0.8, of: baselineName("insert", 20) },
    prepare: (world) => plainCallbacks(world, 1),
  },
  {
    name: "callback-20-jobs",
    title: "plain callback, 20 jobs",
    concurrency: 20,
    on: "app",
    target: { atLeast: 0.5, of: baselineName("insert", 20) },
    prepare: (world) => plainCallbacks(world, 20),
  },
  {
    name: "duplicate",
    title: "the same plain callback again",
    concurrency: 20,
    on: "app",
    prepare: async (world) => {
      const request = plain(world, await world.createJob(), "epoch_complete", epochComplete(1));
      expectStatus(await world.connect().request(request), 200);
      return repeat(request);
    },
  },
  {
    name: "batch",
    title: `batch of ${BATCH} events on a lease, ${BATCH_LANES} jobs`,
    concurrency: BATCH_LANES,
    on: "app",
    unit: { name: "events", perOperation: BATCH },
    target: { atLeastPerSecond: 20_000 },
    prepare: async (world) => {
      // A runner sends its batches one after the other, so that each connection has a job of its own.
      const held = (await leases(world, "batch", BATCH_LANES)).map((lease) => ({ ...lease, seq: 0 }));
      return {
        operation: async (connection, lane) => {
          const lease = held[lane];
          if (lease === undefined) throw new Error("no lease");
          const events = Array.from({ length: BATCH }, () => {
            lease.seq += 1;
            return { seq: lease.seq, event: "epoch_complete", data: epochComplete(lease.seq) };
          });
          const answer = await connection.request(callback(bearer(lease.token), { job_id: lease.jobId, events }));
          const { rejected } = AckSchema.parse(jsonOf(answer, 200));
          if (rejected.length > 0) throw new Error(`rejected: ${JSON.stringify(rejected[0])}`);
        },
      };
    },
  },
  {
    name: "log",
    title: `log chunk of ${(LOG_CHUNK.length / 1024).toFixed(0)} KiB, 20 jobs`,
    concurrency: 20,
    on: "app",
    prepare: async (world) => {
      const held = (await leases(world, "log", 20)).map((lease) => ({ ...lease, seq: 0 }));
      return {
        operation: async (connection, lane) => {
          const lease = held[lane];
          if (lease === undefined) throw new Error("no lease");
          lease.seq += 1;
          const answer = await connection.request({
            method: "PUT",
            path: `${API}/internal/jobs/${lease.jobId}/logs/stdout/${lease.seq}`,
            headers: { "content-type": "text/plain", ...bearer(lease.token) },
            body: LOG_CHUNK,
          });
          expectStatus(answer, 201);
        },
      };
    },
  },
  {
    name: "log-tail",
    title: "log, newest 500 lines of 50,000",
    concurrency: 1,
    on: "app",
    target: { p50AtMostMs: 20 },
    prepare: async (world) => {
      const [lease] = await leases(world, "tail", 1);
      if (lease === undefined) throw new Error("no lease");
      const connection = world.connect();
      for (let seq = 1; seq <= 100; seq += 1) {
        const answer = await connection.request({
          method: "PUT",
          path: `${API}/internal/jobs/${lease.jobId}/logs/stdout/${seq}`,
          headers: { "content-type": "text/plain", ...bearer(lease.token) },
          body: LOG_LINE.repeat(500),
        });
        expectStatus(answer, 201);
      }
      return repeat(get(world, `/training/jobs/${lease.jobId}/logs?limit=500`));
    },
  },
];

const runners: Scenario[] = [
  {
    name: "claim",
    title: "start, claim and accept (3 requests)",
    concurrency: 20,
    on: "app",
    prepare: async (world) => {
      const lanes = await Promise.all(
        Array.from({ length: 20 }, async (_, i) => ({
          runner: await world.createRunner(`claim-${i}`),
          machine: world.connect(),
        })),
      );
      const waiting: number[] = [];
      return {
        refill: async () => {
          if (waiting.length < 500) waiting.push(...(await world.createJobs(500)));
        },
        operation: async (connection, lane) => {
          const jobId = waiting.pop() ?? (await world.createJob());
          const own = lanes[lane];
          if (own === undefined) throw new Error("no runner");
          await world.startClaimAccept(connection, own.machine, own.runner, jobId);
        },
      };
    },
  },
];

/** Sample strains that may be mothers and fathers, loaded with their fitted model once. */
const breedingWorld = once(async (world: World) => {
  await loadLocalStrains(world.server.db, world.server.bucket, Date.now());
  const both = sampleStrains()
    .filter(({ type }) => type === "both")
    .map(({ id }) => id);
  return both.flatMap((mother, i) => both.slice(i + 1).map((father) => ({ mother, father })));
});

const predict = (pair: { mother: string; father: string } | undefined, generateImage: boolean): HttpRequest => {
  if (pair === undefined) throw new Error("the samples have no pair");
  const options = { predictPhenotype: true, generateImage };
  const body = JSON.stringify({ femaleStrainId: pair.mother, maleStrainId: pair.father, options });
  return { method: "POST", path: "/api/predictions", headers: JSON_TYPE, body };
};

const breeding: Scenario[] = [
  {
    name: "prediction",
    title: "prediction of a cross",
    concurrency: 20,
    on: "app",
    prepare: async (world) => repeat(predict((await breedingWorld(world))[0], false), 201),
  },
  {
    name: "ranking",
    title: "ranking of all crosses of 50 strains, page of 50",
    concurrency: 1,
    on: "app",
    prepare: async (world) => {
      await breedingWorld(world);
      return repeat({ method: "GET", path: "/api/crosses/ranking?limit=50", headers: {} });
    },
  },
  {
    name: "picture",
    title: "prediction with two new pictures",
    concurrency: 1,
    on: "app",
    prepare: async (world) => {
      // An identical picture is not drawn again: each operation takes a pair of its own.
      const pairs = await breedingWorld(world);
      let next = 0;
      return {
        operation: async (connection) =>
          expectStatus(await connection.request(predict(pairs[next++ % pairs.length], true)), 201),
      };
    },
  },
];

const inferenceWorld = once(prepareInference);
const NO_INFERENCE = "the route is not mounted yet";
const hasInference = (world: World) => world.has("post", "/test-inference");

const infer = (world: World, fixture: InferenceWorld, jobId: number): HttpRequest => {
  const boundary = `bench-${randomBytes(8).toString("hex")}`;
  return {
    method: "POST",
    path: `${API}/test-inference`,
    headers: { ...bearer(world.userToken), "content-type": `multipart/form-data; boundary=${boundary}` },
    body: fixture.form(boundary, jobId),
  };
};

const inference: Scenario[] = [
  {
    name: "infer-cold",
    title: "inference, mobilenet-size, first image of a model",
    concurrency: 1,
    on: "app",
    prepare: async (world) => {
      if (!hasInference(world)) return NO_INFERENCE;
      const fixture = await inferenceWorld(world);
      const fresh: number[] = [];
      return {
        operationsPerLane: 1,
        refill: async () => {
          fresh.push(await fixture.freshModel());
        },
        operation: async (connection) => {
          const jobId = fresh.pop() ?? 0;
          expectStatus(await connection.request(infer(world, fixture, jobId)), 200);
        },
      };
    },
  },
  {
    name: "infer-warm",
    title: "inference, mobilenet-size, 640x480 JPEG",
    concurrency: 1,
    on: "app",
    prepare: async (world) => {
      if (!hasInference(world)) return NO_INFERENCE;
      const fixture = await inferenceWorld(world);
      const jobId = await fixture.freshModel();
      return repeat(infer(world, fixture, jobId));
    },
  },
];

/** Everything that can be measured, in the order of the table. */
export const SCENARIOS: Scenario[] = [...baselines, ...reads, ...ingest, ...runners, ...breeding, ...inference];

/** Connections to the Worker a scenario is about. */
export const connectionsFor = (scenario: Scenario, world: World): Connection[] =>
  Array.from(
    { length: scenario.concurrency },
    () => new Connection(scenario.on === "app" ? world.server.app : world.server.baseline),
  );
