import type { TextStatement } from "../../db/batch.ts";

/**
 * Summaries of curves: which neighbouring points of an attempt are counted together, so that a chart reads about as many
 * rows as it shows. Points that come in their order are summed up by the job's object on their way; where they came late,
 * shuffled or repeated, the segments concerned are made anew of what the table of points holds. Every statement may run twice.
 *
 * A key is `epoch << 40 | step` (a step is at most 10^12), so that SQL compares, encodes and decodes positions as integers.
 */

/** Points that make a segment of level 1, and segments that make one of the next level: 64, 512 and 4096 points. */
export const FIRST_FAN_OUT = 64;
export const FAN_OUT = 8;
export const LEVELS = 3;

const STEP_MASK = "1099511627775";

/** Where the points of a series that have a column of their own are. */
export const SERIES_COLUMNS: Record<string, string> = {
  loss: "loss",
  accuracy: "accuracy",
  learning_rate: "learning_rate",
};

export type PointPosition = { epoch: number; step: number };

/** What an object remembers of the points of its newest attempt. Persisted: only grows by optional fields. */
export type PointTrack = {
  attempt: number;
  firstEpoch: number;
  /** The highest position so far. */
  last: PointPosition;
  /** Points taken. */
  taken: number;
  /** Points, or segments of the level below, since a segment of each level was closed. */
  open: number[];
  /** Where the newest segment of level 1 ends. */
  closedTo?: PointPosition;
};

/** [epoch, step] */
type At = [number, number];

/** Lowest and highest value of each series and where they are: low, epoch, step, high, epoch, step. */
type Extremes = Map<string, [number, number, number, number, number, number]>;

/** A segment that is still open. `extremes` null: not all of its points were seen in their order. */
type OpenSegment = { first: At | null; points: number; extremes: Extremes | null };

/** What is to be done for the summaries once some points are stored. */
export type SegmentWork = {
  attempt: number;
  firstEpoch: number;
  /** The first epoch is news. */
  begins: boolean;
  /** level, last epoch and step, first epoch and step, points */
  segments: [number, number, number, number, number, number][];
  /** level, last epoch and step, series, low, epoch, step, high, epoch, step */
  extremes: [number, number, number, string, number, number, number, number, number, number][];
  /** Where segments have to be made anew of the points in the tables: points that came out of order. */
  repair: At[];
};

export type MeasuredPoint = PointPosition & {
  loss: number | null;
  accuracy: number | null;
  learningRate: number | null;
  extraMetrics: Record<string, number | null>;
};

function* valuesOf(point: MeasuredPoint): Generator<[string, number]> {
  if (point.loss !== null) yield ["loss", point.loss];
  if (point.accuracy !== null) yield ["accuracy", point.accuracy];
  if (point.learningRate !== null) yield ["learning_rate", point.learningRate];
  for (const name of Object.keys(point.extraMetrics)) {
    const value = point.extraMetrics[name];
    if (value !== null && value !== undefined && !Object.hasOwn(SERIES_COLUMNS, name)) yield [name, value];
  }
}

const isAfter = (a: PointPosition, b: PointPosition) => a.epoch > b.epoch || (a.epoch === b.epoch && a.step > b.step);

function observe(extremes: Extremes, series: string, value: number, epoch: number, step: number): void {
  const known = extremes.get(series);
  if (known === undefined) extremes.set(series, [value, epoch, step, value, epoch, step]);
  else {
    if (value < known[0]) [known[0], known[1], known[2]] = [value, epoch, step];
    if (value > known[3]) [known[3], known[4], known[5]] = [value, epoch, step];
  }
}

/** Takes the extremes of a part into those of the whole. */
function merge(whole: Extremes, part: Extremes): void {
  for (const [series, theirs] of part) {
    const ours = whole.get(series);
    if (ours === undefined) {
      whole.set(series, [...theirs]);
      continue;
    }
    if (theirs[0] < ours[0]) [ours[0], ours[1], ours[2]] = [theirs[0], theirs[1], theirs[2]];
    if (theirs[3] > ours[3]) [ours[3], ours[4], ours[5]] = [theirs[3], theirs[4], theirs[5]];
  }
}

const fresh = (): OpenSegment => ({ first: null, points: 0, extremes: new Map() });
const unknown = (): OpenSegment => ({ first: null, points: 0, extremes: null });

/**
 * Summarises the points of one job as they are stored. What came in its order is summed up in memory; whatever else happens
 * (late and repeated positions, an object that has just been woken) leads to a segment that is made of the tables.
 */
export function createSegmenter() {
  let memory: { attempt: number; taken: number; open: OpenSegment[] } | null = null;

  return {
    /** Takes stored points of an attempt, in the order in which they were stored. @returns the new track and the work due */
    take(
      known: PointTrack | undefined,
      attempt: number,
      points: MeasuredPoint[],
    ): { track: PointTrack | undefined; work: SegmentWork | null } {
      const [first] = points;
      if (first === undefined) return { track: known, work: null };
      const before = known?.attempt === attempt ? known : null;
      const taken = before?.taken ?? 0;
      const levels = Array.from({ length: LEVELS });
      // What was undone, or summed up by an object that has ended since, is not in memory.
      const open =
        memory?.attempt === attempt && memory.taken === taken
          ? memory.open
          : levels.map(before === null ? fresh : unknown);
      const counts = [...(before?.open ?? levels.map(() => 0))];
      const work: SegmentWork = { attempt, firstEpoch: 0, begins: false, segments: [], extremes: [], repair: [] };
      let firstEpoch = before?.firstEpoch ?? first.epoch;
      let last = before?.last ?? { epoch: -1, step: 0 };

      let closedTo = before?.closedTo ?? { epoch: -1, step: 0 };

      /** Counts a point or a segment; a segment that is full then ends at the last position. */
      const count = (level: number): void => {
        const n = (counts[level - 1] ?? 0) + 1;
        const full = open[level - 1];
        counts[level - 1] = n;
        if (full === undefined || n < (level === 1 ? FIRST_FAN_OUT : FAN_OUT)) return;
        counts[level - 1] = 0;
        open[level - 1] = fresh();
        const { epoch, step } = last;
        const { extremes } = full;
        const [startEpoch, startStep] = full.first ?? [epoch, step];
        work.segments.push([level, epoch, step, startEpoch, startStep, extremes === null ? 0 : full.points]);
        if (extremes === null) work.repair.push([epoch, step]);
        else for (const [series, found] of extremes) work.extremes.push([level, epoch, step, series, ...found]);
        if (level === 1) closedTo = last;
        const parent = open[level];
        if (parent === undefined) return;
        if (extremes === null || parent.extremes === null) parent.extremes = null;
        else {
          parent.first ??= full.first;
          parent.points += full.points;
          merge(parent.extremes, extremes);
        }
        count(level + 1);
      };

      for (const point of points) {
        const { epoch, step } = point;
        // The position that was stored just now, once more: it stays as it is.
        if (epoch === last.epoch && step === last.step) continue;
        firstEpoch = Math.min(firstEpoch, epoch);
        if (!isAfter(point, last)) {
          work.repair.push([epoch, step]);
          for (const segment of open) segment.extremes = null;
          if (isAfter(point, closedTo)) count(1);
          continue;
        }
        last = { epoch, step };
        const [own] = open;
        if (own?.extremes) {
          own.first ??= [epoch, step];
          own.points += 1;
          for (const [series, value] of valuesOf(point)) observe(own.extremes, series, value, epoch, step);
        }
        count(1);
      }
      work.firstEpoch = firstEpoch;
      work.begins = firstEpoch !== before?.firstEpoch;
      memory = { attempt, taken: taken + points.length, open };
      return {
        track: { attempt, firstEpoch, last, taken: taken + points.length, open: counts, closedTo },
        work: work.begins || work.segments.length > 0 || work.repair.length > 0 ? work : null,
      };
    },
  };
}

/**
 * Each text of level 1 begins with the rows `chunked(seg, chunk, key, loss, accuracy, learning_rate, extra_metrics)`, each of
 * a higher level with `chunked(seg, chunk, last_key, first_key, points)`: what belongs together has one `seg` and `chunk`.
 */
const POINT_COLUMNS = "m.loss, m.accuracy, m.learning_rate, m.extra_metrics";

/** The closed segments of a level that late points lie in. `keys` is the parameter with `[[epoch, step], …]`. */
const hits = (level: number, keys: string) => `hit(seg, low) as materialized (select seg,
    coalesce((select max(last_key) from metric_segments where job_id = ?1 and attempt = ?2 and level = ${level}
      and last_key < seg), -1)
    from (select distinct (select min(last_key) from metric_segments where job_id = ?1 and attempt = ?2
      and level = ${level} and last_key >= ((value->>0) << 40 | (value->>1))) as seg from json_each(${keys}))
    where seg is not null)`;

/** Parameters: job, attempt, first epoch, late points. A segment that has grown to the size of two is split. */
const hitPoints = `${hits(1, "?4")},
  inside as (select hit.seg, (m.epoch << 40) | m.step as key, ${POINT_COLUMNS},
      row_number() over (partition by hit.seg order by m.epoch, m.step) - 1 as n, count(*) over (partition by hit.seg) as size
    from hit cross join training_metrics m on m.job_id = ?1 and m.attempt = ?2
      and (m.epoch, m.step) > (max(hit.low, (?3 << 40) - 1) >> 40, max(hit.low, (?3 << 40) - 1) & ${STEP_MASK})
      and (m.epoch, m.step) <= (hit.seg >> 40, hit.seg & ${STEP_MASK})),
  chunked as materialized (select *, n * max(1, size / ${FIRST_FAN_OUT}) / size as chunk from inside)`;

/** Parameters: job, attempt, late points. */
const hitSegments = (level: number) => `${hits(level, "?3")},
  inside as (select hit.seg, s.last_key, s.first_key, s.points,
      row_number() over (partition by hit.seg order by s.last_key) - 1 as n, count(*) over (partition by hit.seg) as size
    from hit cross join metric_segments s on s.job_id = ?1 and s.attempt = ?2 and s.level = ${level - 1}
      and s.last_key > hit.low and s.last_key <= hit.seg),
  chunked as materialized (select *, n * max(1, size / ${FAN_OUT}) / size as chunk from inside)`;

const segmentsOf = (level: number) =>
  level === 1
    ? "select ?1, ?2, 1, max(key), min(key), count(*) from chunked group by seg, chunk"
    : `select ?1, ?2, ${level}, max(last_key), min(first_key), sum(points) from chunked group by seg, chunk`;

const NAMED = Object.entries(SERIES_COLUMNS);

/** With one `min` or `max` in a query SQLite takes the other columns from the row that has it. */
const EXTREMES = `lows as (select seg, chunk, series, min(low) as low, low_key from vals group by seg, chunk, series),
  highs as (select seg, chunk, series, max(high) as high, high_key from vals group by seg, chunk, series)`;

const extremesOf = (level: number) => `${
  level === 1
    ? `vals as materialized (${NAMED.map(
        ([name, column]) =>
          `select seg, chunk, '${name}' as series, ${column} as low, key as low_key, ${column} as high, key as high_key
           from chunked where ${column} is not null`,
      ).join(" union all ")}
       union all select c.seg, c.chunk, x.key, x.value, c.key, x.value, c.key from chunked c, json_each(c.extra_metrics) x
         where x.type in ('integer', 'real') and x.key not in (${NAMED.map(([name]) => `'${name}'`).join(", ")})),
     ends as materialized (select seg, chunk, max(key) as last_key from chunked group by seg, chunk)`
    : `vals as materialized (select c.seg, c.chunk, x.series, x.low, x.low_key, x.high, x.high_key
       from chunked c cross join metric_extremes x on x.job_id = ?1 and x.attempt = ?2 and x.level = ${level - 1}
         and x.last_key = c.last_key),
     ends as materialized (select seg, chunk, max(last_key) as last_key from chunked group by seg, chunk)`
},
  ${EXTREMES}
  select ?1, ?2, ${level}, ends.last_key, series, low, low_key, high, high_key
  from lows join highs using (seg, chunk, series) join ends using (seg, chunk)`;

const REPAIR = Array.from({ length: LEVELS }, (_, i) => {
  const level = i + 1;
  const rows = level === 1 ? hitPoints : hitSegments(level);
  return [
    `with ${hits(level, "?3")} delete from metric_extremes
     where job_id = ?1 and attempt = ?2 and level = ${level} and last_key in (select seg from hit)`,
    `insert or replace into metric_extremes with ${rows}, ${extremesOf(level)}`,
    `insert or replace into metric_segments with ${rows} ${segmentsOf(level)}`,
  ];
});

/** Joins the work for one attempt of several items, the older one first. */
export const joinWork = (a: SegmentWork | undefined, b: SegmentWork): SegmentWork =>
  a === undefined
    ? b
    : {
        attempt: a.attempt,
        firstEpoch: Math.min(a.firstEpoch, b.firstEpoch),
        begins: a.begins || b.begins,
        segments: [...a.segments, ...b.segments],
        extremes: [...a.extremes, ...b.extremes],
        repair: [...a.repair, ...b.repair],
      };

/** The same work with less to carry: the tables say what the segments hold. */
export const withoutSums = (work: SegmentWork): SegmentWork => ({
  ...work,
  segments: work.segments.map(([level, epoch, step, ...first]) => [level, epoch, step, first[0], first[1], 0]),
  extremes: [],
  repair: [...work.repair, ...work.segments.map(([, epoch, step]): At => [epoch, step])],
});

const BEGIN =
  "update job_attempts set first_epoch = min(coalesce(first_epoch, ?3), ?3) where job_id = ?1 and attempt = ?2";

/** A key made of two columns of a JSON array. */
const keyAt = (epoch: number) => `(value->>${epoch}) << 40 | (value->>${epoch + 1})`;

// Rows that are there already stay: they may have been made anew since.
const ADD_EXTREMES = `insert or ignore into metric_extremes
  select ?1, ?2, value->>0, ${keyAt(1)}, value->>3, value->>4, ${keyAt(5)}, value->>7, ${keyAt(8)} from json_each(?3)
  where not exists (select 1 from metric_segments where job_id = ?1 and attempt = ?2 and level = value->>0
    and last_key = (${keyAt(1)}))`;
const ADD_SEGMENTS = `insert or ignore into metric_segments
  select ?1, ?2, value->>0, ${keyAt(1)}, ${keyAt(3)}, value->>5 from json_each(?3)`;

/** The statements for some work, to run behind those that insert its points. */
export function segmentStatements(jobId: number, work: SegmentWork): TextStatement[] {
  const { attempt, firstEpoch, begins, segments, extremes, repair } = work;
  const statements: TextStatement[] = [];
  if (begins) statements.push({ sql: BEGIN, params: [jobId, attempt, firstEpoch] });
  if (extremes.length > 0) statements.push({ sql: ADD_EXTREMES, params: [jobId, attempt, JSON.stringify(extremes)] });
  if (segments.length > 0) statements.push({ sql: ADD_SEGMENTS, params: [jobId, attempt, JSON.stringify(segments)] });
  if (repair.length > 0) {
    const keys = JSON.stringify(repair);
    for (const [i, [remove = "", again = "", rows = ""]] of REPAIR.entries()) {
      const params = i === 0 ? [jobId, attempt, firstEpoch, keys] : [jobId, attempt, keys];
      statements.push({ sql: remove, params: [jobId, attempt, keys] }, { sql: again, params }, { sql: rows, params });
    }
  }
  return statements;
}

/** What a new attempt that goes on from an epoch supersedes is summarised no more; segments across that epoch open again. */
export function trimStatements(jobId: number, attempt: number, resumeEpoch: number): TextStatement[] {
  return ["metric_segments", "metric_extremes"].map((table) => ({
    sql: `delete from ${table} where job_id = ?1 and attempt < ?2 and last_key >= (?3 + 1) << 40`,
    params: [jobId, attempt, resumeEpoch],
  }));
}

/**
 * The rest of a statement that begins with `me` and `job(id, current_epoch, role)`: the keys of a curve, as
 * `kept(attempt, key)`. Parameters: ?4 job, ?5 number of points, ?6 series.
 *
 * Cross joins keep their order: the planner knows no table's size and would begin with all points of the job.
 *
 * The coarsest level that still has a segment for each bucket stands for the curve; behind its end come the segments of the
 * lower ones, and behind theirs the open points. Neighbours share a bucket so that buckets count about equally many points.
 */
export function keptKeys(series: string): string {
  const segment = (level: number, low: string, high: string) => `
    select ends.attempt, s.first_key, s.last_key, s.points, x.low, coalesce(x.low_key, s.first_key) as low_key, x.high,
      coalesce(x.high_key, s.first_key) as high_key
    from ends cross join metric_segments s on s.job_id = ?4 and s.attempt = ends.attempt and s.level = ${level}
      and s.last_key > ${low} and s.last_key <= ${high}
    left join metric_extremes x on x.job_id = s.job_id and x.attempt = s.attempt and x.level = s.level
      and x.last_key = s.last_key and x.series = ?6`;
  const closed = (level: number) => `(select count(*) from spans cross join metric_segments s
    on s.job_id = ?4 and s.attempt = spans.attempt and s.level = ${level})`;
  const end = (level: number) => `case when chosen.level >= ${level} then coalesce((select max(last_key)
    from metric_segments where job_id = ?4 and attempt = spans.attempt and level = ${level}), -1) else -1 end as end${level}`;
  return `spans as materialized (select a.attempt, coalesce(a.first_epoch, 0) as first_epoch, min(job.current_epoch,
      coalesce((select min(later.resume_epoch) from job_attempts later
        where later.job_id = a.job_id and later.attempt > a.attempt), 9000000)) as last_epoch
    from job cross join job_attempts a on a.job_id = job.id),
  wanted(buckets) as (select max(1, (cast(?5 as integer) - 2) / 2)),
  chosen as materialized (select buckets, case when ${closed(3)} >= buckets then 3 when ${closed(2)} >= buckets then 2
    when ${closed(1)} >= max(1, min(buckets / 4, 250)) and (select sum(points) from spans cross join metric_segments s
      on s.job_id = ?4 and s.attempt = spans.attempt and s.level = 1) > ?5 then 1 else 0 end as level from wanted),
  ends as materialized (select spans.*, ${end(1)}, ${end(2)}, ${end(3)} from spans, chosen),
  items as materialized (${segment(3, "-1", "ends.end3")} union all ${segment(2, "ends.end3", "ends.end2")}
    union all ${segment(1, "max(ends.end3, ends.end2)", "ends.end1")}
    union all select attempt, key, key, 1, v, key, v, key from (
      select ends.attempt, (m.epoch << 40) | m.step as key, ${series} as v
      from ends cross join training_metrics m on m.job_id = ?4 and m.attempt = ends.attempt and m.epoch <= ends.last_epoch
        and (m.epoch, m.step) > (max(ends.end1, (ends.first_epoch << 40) - 1) >> 40,
          max(ends.end1, (ends.first_epoch << 40) - 1) & ${STEP_MASK}))),
  totals as materialized (select sum(points) as total, min(first_key) as first_key, max(last_key) as last_key from items),
  placed as materialized (select attempt, low, low_key, high, high_key,
    (sum(points) over (order by first_key, attempt rows unbounded preceding) - points)
      * (select buckets from wanted) / (select total from totals) as bucket from items),
  kept as (select attempt, first_key as key from items where first_key = (select first_key from totals)
      or (select total from totals) <= ?5
    union select attempt, last_key from items where last_key = (select last_key from totals)
    union select attempt, low_key from (select attempt, low_key, min(low) from placed group by bucket)
    union select attempt, high_key from (select attempt, high_key, max(high) from placed group by bucket))`;
}

/** SQL expression of the series of a point: one of the columns, or a further metric by its name in parameter ?6. */
export const seriesValue = (name: string): string =>
  (Object.hasOwn(SERIES_COLUMNS, name) ? `m.${SERIES_COLUMNS[name]}` : undefined) ??
  "(select value from json_each(m.extra_metrics) where key = ?6 limit 1)";

export const epochOfKey = (key: string): string => `(${key} >> 40)`;
export const stepOfKey = (key: string): string => `(${key} & ${STEP_MASK})`;
