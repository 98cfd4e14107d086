import { evictDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, it } from "vitest";
import {
  call,
  claim,
  events,
  type Json,
  job,
  type Lease,
  type Person,
  person,
  plainEvent,
  runner,
  runningJob,
} from "../support/api.ts";
import { checkpoint, clock, endEvent, jobObject, quietWorld, ring, start, take } from "../support/jobs.ts";

beforeEach(quietWorld);
afterEach(clock.start);

/** A repeatable source of numbers from 0 to 1 (mulberry32). */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function shuffled<T>(list: T[], next: () => number): T[] {
  return list
    .map((value) => ({ value, at: next() }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}

type Point = { epoch: number; step: number; attempt: number; loss: number | null; odd: number | null };

const STEP = 2 ** 20;
/** A position as one number: the tests use small steps. */
const keyOf = ({ epoch, step }: { epoch: number; step: number }) => epoch * STEP + step;

/** What the table of points holds, less what a later attempt has superseded, in order: read as plainly as it can be. */
async function validPoints(jobId: number): Promise<Point[]> {
  const points = await env.DB.prepare(
    `select epoch, step, attempt, loss, extra_metrics ->> 'odd' as odd from training_metrics where job_id = ?`,
  )
    .bind(jobId)
    .all<Point>();
  const attempts = await env.DB.prepare("select attempt, resume_epoch from job_attempts where job_id = ?")
    .bind(jobId)
    .all<{ attempt: number; resume_epoch: number }>();
  return points.results
    .filter((p) => !attempts.results.some((a) => a.attempt > p.attempt && a.resume_epoch < p.epoch))
    .sort((a, b) => keyOf(a) - keyOf(b) || a.attempt - b.attempt);
}

type Segment = { attempt: number; level: number; first: number; last: number; points: number };

async function segmentsOf(jobId: number): Promise<Segment[]> {
  const { results } = await env.DB.prepare(
    `select attempt, level, points, (first_key >> 40) * ${STEP} + (first_key & 1048575) as first,
       (last_key >> 40) * ${STEP} + (last_key & 1048575) as last
     from metric_segments where job_id = ? order by attempt, level, last_key`,
  )
    .bind(jobId)
    .all<Segment>();
  return results;
}

type Extreme = {
  attempt: number;
  level: number;
  last: number;
  series: string;
  low: number;
  lowAt: number;
  high: number;
  highAt: number;
};

async function extremesOf(jobId: number): Promise<Extreme[]> {
  const at = (key: string) => `(${key} >> 40) * ${STEP} + (${key} & 1048575)`;
  const { results } = await env.DB.prepare(
    `select attempt, level, series, low, high, ${at("last_key")} as last, ${at("low_key")} as lowAt, ${at("high_key")} as highAt
     from metric_extremes where job_id = ?`,
  )
    .bind(jobId)
    .all<Extreme>();
  return results;
}

const lowest = (values: number[]) => values.reduce((a, b) => Math.min(a, b));
const highest = (values: number[]) => values.reduce((a, b) => Math.max(a, b));

/** What is wrong with the summaries of a job, compared with its points. */
async function faults(jobId: number): Promise<string[]> {
  const [points, segments, extremes] = [await validPoints(jobId), await segmentsOf(jobId), await extremesOf(jobId)];
  const wrong: string[] = [];
  let explained = 0;
  for (const attempt of new Set(points.map((p) => p.attempt))) {
    const own = points.filter((p) => p.attempt === attempt);
    for (const level of [1, 2, 3]) {
      let before = -1;
      let below = -1;
      for (const segment of segments.filter((s) => s.attempt === attempt && s.level === level)) {
        const inside = own.filter((p) => keyOf(p) > before && keyOf(p) <= segment.last);
        const name = `attempt ${attempt} level ${level} to ${segment.last}`;
        const [first, last] = [inside[0], inside.at(-1)];
        if (!first || !last || keyOf(first) !== segment.first || keyOf(last) !== segment.last)
          wrong.push(`${name}: ends`);
        if (segment.points !== inside.length) wrong.push(`${name}: ${segment.points} of ${inside.length} points`);
        if (level === 1 && inside.length >= 128) wrong.push(`${name}: size ${inside.length}`);
        for (const series of ["loss", "odd"] as const) {
          const values = inside.flatMap((p) => (p[series] === null ? [] : [p[series]]));
          const row = extremes.find(
            (x) => x.attempt === attempt && x.level === level && x.last === segment.last && x.series === series,
          );
          if (row !== undefined) explained += 1;
          const right =
            values.length === 0
              ? row === undefined
              : row?.low === lowest(values) &&
                row.high === highest(values) &&
                inside.some((p) => keyOf(p) === row.lowAt && p[series] === row.low) &&
                inside.some((p) => keyOf(p) === row.highAt && p[series] === row.high);
          if (!right) wrong.push(`${name}: ${series} ${JSON.stringify(row)}`);
        }
        before = segment.last;
        below += 1;
      }
      const left = level === 1 ? own.filter((p) => keyOf(p) > before).length : 0;
      if (level === 1 && left >= 128) wrong.push(`attempt ${attempt}: ${left} open points`);
      if (below >= 0 && level > 1) {
        const lower = segments.filter((s) => s.attempt === attempt && s.level === level - 1);
        if (!lower.some((s) => s.last === before))
          wrong.push(`attempt ${attempt} level ${level}: no segment below its end`);
      }
    }
  }
  const used = extremes.filter((x) => x.series === "loss" || x.series === "odd").length;
  if (explained !== used) wrong.push(`${used - explained} rows of extremes without a segment`);
  if (segments.some((s) => !points.some((p) => p.attempt === s.attempt))) wrong.push("segments of superseded points");
  return wrong;
}

type Wire = {
  epoch: number;
  step: number;
  attempt: number;
  loss: number | null;
  extra_metrics: { odd?: number | null };
};

async function curve(owner: Person, jobId: number, maxPoints: number, series: string): Promise<Point[]> {
  const path = `/api/v1/training/jobs/${jobId}/metrics?max_points=${maxPoints}&series=${series}`;
  const answer = await call<Wire[]>("GET", path, { token: owner.token });
  if (answer.status !== 200) throw new Error(JSON.stringify(answer.body));
  return answer.body.map((p) => ({ ...p, odd: p.extra_metrics.odd ?? null }));
}

/** A curve worked out from the points alone, and the segments' ends, which say where buckets may end. */
async function bruteForce(jobId: number, maxPoints: number, series: "loss" | "odd"): Promise<Set<string>[]> {
  const [points, segments] = [await validPoints(jobId), await segmentsOf(jobId)];
  const buckets = Math.floor((maxPoints - 2) / 2);
  const closed = (level: number) => segments.filter((s) => s.level === level).length;
  const chosen =
    closed(3) >= buckets
      ? 3
      : closed(2) >= buckets
        ? 2
        : closed(1) >= Math.max(1, Math.min(Math.floor(buckets / 4), 250)) &&
            segments.filter((s) => s.level === 1).reduce((sum, s) => sum + s.points, 0) > maxPoints
          ? 1
          : 0;
  const items: Point[][] = [];
  for (const attempt of new Set(points.map((p) => p.attempt))) {
    let from = -1;
    for (let level = chosen; level >= 1; level -= 1) {
      for (const { last } of segments.filter((s) => s.attempt === attempt && s.level === level && s.last > from)) {
        items.push(points.filter((p) => p.attempt === attempt && keyOf(p) > from && keyOf(p) <= last));
        from = last;
      }
    }
    items.push(...points.filter((p) => p.attempt === attempt && keyOf(p) > from).map((p) => [p]));
  }
  const startOf = (item: Point[]) => (item[0] ? keyOf(item[0]) : 0);
  items.sort((a, b) => startOf(a) - startOf(b) || (a[0]?.attempt ?? 0) - (b[0]?.attempt ?? 0));
  const grouped = new Map<number, Point[]>();
  let before = 0;
  for (const item of items) {
    const bucket = Math.floor((before * buckets) / points.length);
    grouped.set(bucket, [...(grouped.get(bucket) ?? []), ...item]);
    before += item.length;
  }
  const name = (p: Point) => `${p.attempt}:${p.epoch}:${p.step}`;
  const [first, last] = [points[0], points.at(-1)];
  if (points.length <= maxPoints) return points.map((p) => new Set([name(p)]));
  // Of equals any will do.
  return [
    ...[first, last].flatMap((p) => (p ? [new Set([name(p)])] : [])),
    ...[...grouped.values()].flatMap((group) => {
      const values = group.flatMap((p) => (p[series] === null ? [] : [p[series]]));
      if (values.length === 0) return [new Set(group.map(name))];
      return [lowest(values), highest(values)].map(
        (value) => new Set(group.filter((p) => p[series] === value).map(name)),
      );
    }),
  ];
}

/** What a curve lacks or has too much, compared with the one worked out from the points alone. */
async function curveFaults(owner: Person, jobId: number): Promise<string[]> {
  const wrong: string[] = [];
  const valid = new Set((await validPoints(jobId)).map((p) => `${p.attempt}:${p.epoch}:${p.step}`));
  for (const maxPoints of [4, 9, 30, 100, 1_000]) {
    for (const series of ["loss", "odd"] as const) {
      const shown = await curve(owner, jobId, maxPoints, series);
      const names = shown.map((p) => `${p.attempt}:${p.epoch}:${p.step}`);
      const wanted = await bruteForce(jobId, maxPoints, series);
      const at = `${maxPoints} ${series}`;
      if (names.length > maxPoints) wrong.push(`${at}: ${names.length} points`);
      if (names.some((name, i) => names.indexOf(name) !== i)) wrong.push(`${at}: a point twice`);
      if (shown.some((p, i) => i > 0 && keyOf(p) < keyOf(shown[i - 1] ?? p))) wrong.push(`${at}: order`);
      for (const any of wanted) if (!names.some((name) => any.has(name))) wrong.push(`${at}: lacks ${[...any][0]}`);
      for (const name of names) {
        if (!valid.has(name)) wrong.push(`${at}: shows ${name}`);
        if (!wanted.some((any) => any.has(name))) wrong.push(`${at}: needs no ${name}`);
      }
    }
  }
  return wrong;
}

type Numbered = Json & { seq: number };

/** Points of an attempt, in order. Every ninth has no loss, most have no value of the odd series. */
function course(next: () => number, from: number, to: number, steps: number, firstSeq = 1): Numbered[] {
  const list: Numbered[] = [];
  for (let epoch = from; epoch <= to; epoch += 1) {
    for (let step = 0; step < steps; step += 1) {
      const loss = next() < 0.1 ? "NaN" : Math.round(next() * 1e6) / 1e3;
      const odd = next() < 0.02 ? { odd: Math.round(next() * 100) } : { other: 1 };
      const data = { epoch, step, loss, accuracy: next(), extra_metrics: odd };
      list.push({ seq: firstSeq + list.length, event: "epoch_complete", data });
    }
  }
  return list;
}

async function send(lease: Lease, list: Json[], size: number) {
  for (let i = 0; i < list.length; i += size) {
    const answer = await events(lease, list.slice(i, i + size));
    if (answer.status !== 200 || (answer.body.rejected as unknown[]).length > 0)
      throw new Error(JSON.stringify(answer));
  }
}

describe("the summaries of a curve", () => {
  it("are right for points that come in order, in batches of any size", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    const list = course(random(1), 1, 23, 200);
    await send(lease, list.slice(0, 70), 1);
    await send(lease, list.slice(70, 1_000), 30);
    await send(lease, list.slice(1_000), 500);
    const segments = await segmentsOf(jobId);
    expect([1, 2, 3].map((level) => segments.filter((s) => s.level === level).length)).toEqual([71, 8, 1]);
    expect(await faults(jobId)).toEqual([]);
    expect(await curveFaults(owner, jobId)).toEqual([]);
  });

  it.for([11, 12, 13, 14])(
    "are right when points are shuffled, late, repeated and sent by several (%i)",
    async (seed, { expect }) => {
      const next = random(seed);
      const owner = await person();
      const { jobId, lease } = await runningJob(owner);
      const list = course(next, 1, 12, 100);
      // The same position again under another number, with another value: the first one that was stored stays.
      const again = Array.from({ length: 60 }, (_, i) => {
        const old = list[Math.floor(next() * list.length)]?.data as Json;
        return { seq: list.length + i + 1, event: "epoch_complete", data: { ...old, loss: 5_000 + i } };
      });
      // Further out of place with each seed, up to any order at all.
      const far = [0, 40, 400, 5_000][seed - 11] ?? 0;
      const mixed = [...list, ...again]
        .map((event, i) => ({ event, at: i + next() * far }))
        .sort((a, b) => a.at - b.at)
        .map(({ event }) => event);
      for (let i = 0; i < mixed.length; ) {
        const size = 1 + Math.floor(next() * 120);
        const batch = mixed.slice(i, i + size);
        await Promise.all([events(lease, batch), next() < 0.3 ? events(lease, batch) : null]);
        if (next() < 0.1) await evictDurableObject(jobObject(jobId));
        i += size;
      }
      expect((await validPoints(jobId)).length).toBe(list.length);
      expect(await faults(jobId)).toEqual([]);
      expect(await curveFaults(owner, jobId)).toEqual([]);
    },
  );

  it.for([21, 22, 23])(
    "are right after resumes, also with points of an earlier epoch than the resumed one (%i)",
    async (seed, { expect }) => {
      const next = random(seed);
      const owner = await person();
      const gpu = await runner();
      const { jobId, lease } = await runningJob(owner, gpu);
      clock.stop();
      let current = lease;
      let resumed = 0;
      for (let attempt = 1; attempt <= 3; attempt += 1) {
        const end = resumed + 2 + Math.floor(next() * 4);
        const list = course(next, Math.max(1, resumed + (seed === 22 ? 0 : 1)), end, 90 + Math.floor(next() * 100));
        await send(
          current,
          seed === 23 ? shuffled(list, next).map((event, i) => ({ ...event, seq: i + 1 })) : list,
          100,
        );
        expect(await faults(jobId)).toEqual([]);
        if (attempt === 3) break;
        resumed = Math.max(1, end - 1 - Math.floor(next() * 2));
        await checkpoint(current, resumed);
        // Points that are still on their way when the attempt ends: one commit with its end and the next one's beginning.
        await send(current, [{ seq: list.length + 1, event: "released", data: { reason: "runner_shutdown" } }], 1);
        current = await take(gpu);
        expect(current.attempt).toBe(attempt + 1);
      }
      const valid = await validPoints(jobId);
      expect(new Set(valid.map((p) => p.attempt)).size).toBeGreaterThan(1);
      expect(await faults(jobId)).toEqual([]);
      expect(await curveFaults(owner, jobId)).toEqual([]);
    },
  );

  it("are right when D1 was away while an attempt ended and the next one began", async ({ expect }) => {
    const owner = await person();
    const gpu = await runner();
    const { jobId, lease } = await runningJob(owner, gpu);
    const list = course(random(5), 1, 6, 100);
    await send(lease, list.slice(0, 150), 75);
    await checkpoint(lease, 3);
    const batch = env.DB.batch.bind(env.DB);
    env.DB.batch = () => Promise.reject(new Error("D1_ERROR: away"));
    try {
      await send(lease, list.slice(150), 75);
      await events(lease, [{ seq: list.length + 1, event: "released", data: { reason: "runner_shutdown" } }]);
      const second = await take(gpu);
      await send(second, course(random(6), 4, 5, 100), 75);
    } finally {
      env.DB.batch = batch;
    }
    await ring(jobId);
    const valid = await validPoints(jobId);
    expect([valid.filter((p) => p.attempt === 1).length, valid.filter((p) => p.attempt === 2).length]).toEqual([
      300, 200,
    ]);
    expect(await faults(jobId)).toEqual([]);
    expect(await curveFaults(owner, jobId)).toEqual([]);
  });

  it("are kept for plain callbacks and for a job that begins anew", async ({ expect }) => {
    const owner = await person();
    const jobId = await job(owner);
    await plainEvent(jobId, "started", {});
    for (let epoch = 1; epoch <= 140; epoch += 1) {
      await plainEvent(jobId, "epoch_complete", { epoch, loss: Math.sin(epoch), extra_metrics: { odd: epoch % 7 } });
    }
    expect((await segmentsOf(jobId)).filter((s) => s.level === 1)).toHaveLength(2);
    expect(await faults(jobId)).toEqual([]);
    expect(await curveFaults(owner, jobId)).toEqual([]);
    await plainEvent(jobId, "failed", {});
    const gpu = await runner();
    await claim(gpu);
    const started = start(owner, jobId);
    const lease = await take(gpu);
    await started;
    await send(lease, course(random(3), 1, 2, 50), 100);
    expect((await validPoints(jobId)).map((p) => p.attempt)).toEqual(Array.from({ length: 100 }, () => 2));
    expect(await faults(jobId)).toEqual([]);
    expect(await curveFaults(owner, jobId)).toEqual([]);
    expect((await events(lease, [endEvent(101)])).status).toBe(200);
  });

  it("do not count for a stranger", async ({ expect }) => {
    const owner = await person();
    const { jobId, lease } = await runningJob(owner);
    await send(lease, course(random(4), 1, 2, 100), 100);
    const stranger = await person();
    const answer = await call("GET", `/api/v1/training/jobs/${jobId}/metrics?max_points=10`, { token: stranger.token });
    expect(answer.status).toBe(404);
  });
});
