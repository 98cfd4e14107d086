import { and, desc, eq, inArray, isNotNull, sql } from "drizzle-orm";
import { type Actor, audit } from "../../audit/entry.ts";
import { CALLER, type CredentialKind, credentialOf, me, type Principal } from "../../auth/principal.ts";
import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { columnsOf } from "../../db/columns.ts";
import { type IdempotencyKey, rememberKey } from "../../db/idempotency.ts";
import {
  artifacts,
  datasets,
  jobAttempts,
  logBlocks,
  logChunks,
  projectMembers,
  projects,
  runners,
  trainingJobs,
  trainingMetrics,
} from "../../db/schema/index.ts";
import { isAfter, type JobPosition, type JobSort, orderOf } from "./list-order.ts";
import type { LogChunk } from "./log-blocks.ts";
import { epochOfKey, keptKeys, seriesValue, stepOfKey } from "./segments.ts";

export type JobRepository = ReturnType<typeof createJobRepository>;
export type JobRow = typeof trainingJobs.$inferSelect;
export type JobScheduling = Pick<
  JobRow,
  "priority" | "requiredLabels" | "minGpuMemoryMb" | "lostAfterS" | "maxDurationS"
>;
/** What a user may change of a job; undefined stays as it is. */
export type JobChanges = Partial<JobScheduling & Pick<JobRow, "experimentName" | "tags" | "notes">>;
export type MetricPosition = { epoch: number; step: number };

export type JobFilter = {
  projectId?: number;
  status?: JobRow["status"];
  framework?: string;
  tag?: string;
  text?: string;
  sort: JobSort;
  after: JobPosition | null;
  skip: number;
  limit: number;
};

/** The newest points before a position, or the first ones after one. */
export type MetricPage = {
  limit: number;
  before: MetricPosition | null;
  after: MetricPosition | null;
  /** All points of this attempt, also those that a later one has taken back; null: the points that count. */
  attempt: number | null;
};

const membership = (principal: Principal) =>
  and(eq(projectMembers.projectId, trainingJobs.projectId), eq(projectMembers.userId, principal.userId));

const isMember = isNotNull(projectMembers.role);

/** What readers see beside a job's own row. */
const besides = {
  projectName: projects.name,
  runnerName: runners.name,
  attemptStartedAt: jobAttempts.startedAt,
  resumeEpoch: jobAttempts.resumeEpoch,
};

const jobColumns = columnsOf(trainingJobs);
const pointColumns = columnsOf(trainingMetrics);
const selected = (alias: string, { names }: { names: string[] }) => names.map((name) => `${alias}.${name}`).join(", ");

type Role = typeof projectMembers.$inferSelect.role;
// The column takes these values only.
const roleOf = (value: unknown): Role | null => (value === null ? null : (value as Role));
const textOrNull = (value: unknown): string | null => (value === null ? null : String(value));
const numberOrNull = (value: unknown): number | null => (value === null ? null : Number(value));
const pointOrNull = (values: unknown[]) => (values[0] === null ? null : pointColumns.read(values));

/** The same text for each kind of credential. Parameters ?1 to ?3 are the caller's, ?4 is the job. */
const forEachCredential = <T>(make: (caller: string) => T): Record<CredentialKind, T> => ({
  accessToken: make(CALLER.accessToken),
  apiToken: make(CALLER.apiToken),
});

// What is read most often is asked with a text that is made once: building one took half of such a request.
const FIND = forEachCredential(
  (caller) => `with me as (${caller})
  select me.id, me.is_admin, pm.role, p.name, r.name, a.started_at, a.resume_epoch, ${selected("j", jobColumns)}
  from me left join training_jobs j on j.id = ?4 left join projects p on p.id = j.project_id
    left join project_members pm on pm.project_id = j.project_id and pm.user_id = me.id
    left join runners r on r.id = j.runner_id
    left join job_attempts a on a.job_id = j.id and a.attempt = j.attempt
  limit 1`,
);

/**
 * A point is superseded when a later attempt went on from an epoch before it. None of those that count is behind the epoch
 * that the job has reached: those of an attempt that was taken back are not even looked at.
 */
const COUNTS = `m.epoch <= j.current_epoch and not exists (select 1 from job_attempts later
  where later.job_id = m.job_id and later.attempt > m.attempt and later.resume_epoch < m.epoch)`;

/** Parameters: ?5 limit, then the position, if there is one, and the attempt, if one is wanted. */
const metricsText = (
  caller: string,
  which: string,
  position: string,
  direction: "asc" | "desc",
) => `with me as (${caller})
  select pm.role, ${selected("m", pointColumns)}
  from me left join training_jobs j on j.id = ?4
    left join project_members pm on pm.project_id = j.project_id and pm.user_id = me.id
    left join training_metrics m on m.job_id = j.id and pm.role is not null and ${which} ${position}
  order by m.epoch ${direction}, m.step ${direction} limit ?5`;

const METRICS = forEachCredential((caller) => {
  const pages = (which: (parameter: string) => string) => ({
    newest: metricsText(caller, which("?6"), "", "desc"),
    before: metricsText(caller, which("?8"), "and (m.epoch, m.step) < (?6, ?7)", "desc"),
    after: metricsText(caller, which("?8"), "and (m.epoch, m.step) > (?6, ?7)", "asc"),
  });
  return { valid: pages(() => COUNTS), ofAttempt: pages((parameter) => `m.attempt = ${parameter}`) };
});

const chunkColumns = columnsOf(logChunks);
const blockColumns = columnsOf(logBlocks);

type LogPage = `${LogChunk["stream"] | "both"}:${"newest" | "before" | "after"}`;

/**
 * Lines are looked for in chunks and in blocks of chunks that are put away; every line up to the end of the last block is in
 * a block. A piece counts for as many lines as it has at least on the far side of the position: as many pieces as are wanted
 * lines are enough, and their texts are not read for that. Parameters: ?5 lines, ?6 position.
 */
function logsText(
  caller: string,
  stream: LogChunk["stream"] | "both",
  position: "newest" | "before" | "after",
): string {
  const ofStream = stream === "both" ? "" : `and stream = '${stream}'`;
  const lines = { both: "line_count", stdout: "stdout_lines", stderr: "line_count - stdout_lines" }[stream];
  const direction = position === "after" ? "asc" : "desc";
  const end = "first_line + line_count";
  const archived = "(select line from archived)";
  const chunks = {
    newest: { where: "", visible: "line_count" },
    before: { where: "and first_line < ?6", visible: `min(${end}, ?6) - first_line` },
    after: {
      // The chunk that the line itself is in may go on behind it.
      where: `and first_line >= coalesce((select max(first_line) from log_chunks
        where job_id = ?4 ${ofStream} and first_line <= ?6), 0)`,
      visible: `max(0, ${end} - max(first_line, ?6 + 1))`,
    },
  }[position];
  const blocks = {
    newest: { where: "", visible: lines },
    before: { where: "and first_line < ?6", visible: `case when ${end} > ?6 then 0 else ${lines} end` },
    after: { where: `and ${end} > ?6 + 1`, visible: `case when first_line <= ?6 then 0 else ${lines} end` },
  }[position];
  return `with me as (${caller}),
    archived as materialized (select coalesce(max(${end} - 1), 0) as line from log_blocks where job_id = ?4),
    nearest as (
      select * from (select 0 as is_block, first_line, ${chunks.visible} as visible from log_chunks
        where job_id = ?4 ${ofStream} and first_line > ${archived} ${chunks.where}
        order by first_line ${direction} limit ?5 + 1)
      union all
      select * from (select 1 as is_block, first_line, ${blocks.visible} as visible from log_blocks
        where job_id = ?4 and ${lines} > 0 ${blocks.where} order by first_line ${direction} limit ?5 + 1)),
    counted as (select is_block, first_line,
      sum(visible) over (order by first_line ${direction} rows unbounded preceding) - visible as lines_between from nearest),
    wanted as materialized (select is_block, first_line from counted where lines_between < ?5)
    select pm.role, wanted.is_block, ${selected("c", chunkColumns)}, ${selected("b", blockColumns)}
    from me left join training_jobs j on j.id = ?4
      left join project_members pm on pm.project_id = j.project_id and pm.user_id = me.id
      left join wanted on pm.role is not null
      left join log_chunks c on wanted.is_block = 0 and c.job_id = ?4 and c.first_line = wanted.first_line
      left join log_blocks b on wanted.is_block = 1 and b.job_id = ?4 and b.first_line = wanted.first_line
    order by wanted.first_line`;
}

const LOGS = forEachCredential(
  (caller): Record<LogPage, string> => ({
    "both:newest": logsText(caller, "both", "newest"),
    "both:before": logsText(caller, "both", "before"),
    "both:after": logsText(caller, "both", "after"),
    "stdout:newest": logsText(caller, "stdout", "newest"),
    "stdout:before": logsText(caller, "stdout", "before"),
    "stdout:after": logsText(caller, "stdout", "after"),
    "stderr:newest": logsText(caller, "stderr", "newest"),
    "stderr:before": logsText(caller, "stderr", "before"),
    "stderr:after": logsText(caller, "stderr", "after"),
  }),
);

const curveTexts = new Map<string, string>();

/** The statement of a curve: one for each way to prove who one is and each kind of series. */
function curveText(credential: CredentialKind, series: string): string {
  const value = seriesValue(series);
  const known = curveTexts.get(credential + value);
  if (known !== undefined) return known;
  const text = `with me as (${CALLER[credential]}),
    job as materialized (select j.id, j.current_epoch, pm.role from me join training_jobs j on j.id = ?4
      join project_members pm on pm.project_id = j.project_id and pm.user_id = me.id),
    ${keptKeys(value)}
    select job.role, ${selected("m", pointColumns)}
    from me left join job on true left join kept on job.id = ?4
      left join training_metrics m on m.job_id = ?4 and m.epoch = ${epochOfKey("kept.key")}
        and m.step = ${stepOfKey("kept.key")} and m.attempt = kept.attempt
    order by m.epoch, m.step, m.attempt`;
  curveTexts.set(credential + value, text);
  return text;
}

/**
 * Every read is one statement that also asks whether the caller is still valid: no row means 401; a row without the job
 * means 404.
 */
export function createJobRepository(binding: D1Database) {
  const db = createDb(binding);
  return {
    binding,

    /** What a creation needs to know: the project, the dataset and the caller's roles in both. */
    async creationFacts(principal: Principal, projectId: number | null, datasetId: string) {
      const caller = me(db, principal);
      const own = db
        .select({ projectId: projects.id, role: projectMembers.role })
        .from(projects)
        .innerJoin(
          projectMembers,
          and(eq(projectMembers.projectId, projects.id), eq(projectMembers.userId, principal.userId)),
        )
        .where(
          projectId === null
            ? and(eq(projects.ownerId, principal.userId), eq(projects.isDefault, true))
            : eq(projects.id, projectId),
        )
        .limit(1)
        .as("own");
      const [row] = await db
        .with(caller)
        .select({
          userId: caller.id,
          isAdmin: caller.isAdmin,
          projectId: own.projectId,
          role: own.role,
          dataset: datasets,
          datasetRole: sql<
            string | null
          >`(select role from ${projectMembers} where ${projectMembers.projectId} = ${datasets.projectId} and ${projectMembers.userId} = ${caller.id})`,
        })
        .from(caller)
        .leftJoin(own, sql`true`)
        .leftJoin(datasets, eq(datasets.id, datasetId))
        .limit(1);
      return row;
    },

    /** Stores a job, and with it the key that it was made with. @throws when the key is there already */
    async create(values: typeof trainingJobs.$inferInsert, key: IdempotencyKey | null): Promise<number> {
      const [inserted] = await runBatch(binding, [
        db.insert(trainingJobs).values(values).returning({ id: trainingJobs.id }),
        ...(key === null ? [] : rememberKey(values.createdBy, key, sql`last_insert_rowid()`, values.createdAt)),
      ]);
      return Number(inserted?.results[0]?.id);
    },

    /** What a start depends on that may have changed since the job was made. */
    async startFacts(job: Pick<JobRow, "datasetId" | "projectId">) {
      const [row] = await db
        .select({ maxRunningJobs: projects.maxRunningJobs, datasetId: datasets.id })
        .from(projects)
        .leftJoin(datasets, eq(datasets.id, job.datasetId))
        .where(eq(projects.id, job.projectId))
        .limit(1);
      return { hasDataset: row !== undefined && row.datasetId !== null, maxRunningJobs: row?.maxRunningJobs ?? null };
    },

    /** The row itself, for calls that carry their own proof. */
    async byId(jobId: number) {
      return db.query.trainingJobs.findFirst({ where: eq(trainingJobs.id, jobId) });
    },

    /** The job, the caller's role in its project, and what is shown beside. No row: no valid caller. */
    async find(principal: Principal, jobId: number) {
      const { credential, params } = credentialOf(principal);
      const [row] = await binding
        .prepare(FIND[credential])
        .bind(...params, jobId)
        .raw<unknown[]>();
      if (row === undefined) return undefined;
      const [userId, isAdmin, role, projectName, runnerName, attemptStartedAt, resumeEpoch, ...job] = row;
      return {
        userId: Number(userId),
        isAdmin: isAdmin === 1,
        role: roleOf(role),
        projectName: textOrNull(projectName),
        runnerName: textOrNull(runnerName),
        attemptStartedAt: numberOrNull(attemptStartedAt),
        resumeEpoch: numberOrNull(resumeEpoch),
        job: job[0] === null ? null : jobColumns.read(job),
      };
    },

    /** One page of the jobs of the caller's projects and the number of all that fit the filter. */
    async list(principal: Principal, filter: JobFilter) {
      const caller = me(db, principal);
      const { projectId, status, framework, tag, text } = filter;
      const matching = and(
        eq(projectMembers.userId, principal.userId),
        eq(trainingJobs.projectId, projectMembers.projectId),
        projectId === undefined ? undefined : eq(projectMembers.projectId, projectId),
        status === undefined ? undefined : eq(trainingJobs.status, status),
        framework === undefined ? undefined : eq(trainingJobs.framework, framework),
        tag === undefined
          ? undefined
          : sql`exists (select 1 from json_each(${trainingJobs.tags}) where json_each.value = ${tag})`,
        // No pattern is made of what was sent: D1 refuses long ones, and `%` would mean something.
        text === undefined
          ? undefined
          : sql`instr(lower(coalesce(${trainingJobs.experimentName}, '') || char(10) || ${trainingJobs.modelName}
              || char(10) || coalesce(${trainingJobs.notes}, '')), lower(${text})) > 0`,
      );
      // A cross join keeps this order: with a status the planner would else begin with everybody's jobs of that status.
      const page = db
        .select({ id: trainingJobs.id })
        .from(projectMembers)
        .crossJoin(trainingJobs)
        .where(and(matching, filter.after === null ? undefined : isAfter(filter.sort, filter.after)))
        .orderBy(...orderOf(filter.sort))
        .limit(filter.limit)
        .offset(filter.skip);
      return db
        .with(caller)
        .select({
          job: trainingJobs,
          ...besides,
          total: sql<number>`(select count(*) from ${projectMembers} cross join ${trainingJobs} where ${matching})`,
        })
        .from(caller)
        .leftJoin(trainingJobs, inArray(trainingJobs.id, page))
        .leftJoin(projects, eq(projects.id, trainingJobs.projectId))
        .leftJoin(runners, eq(runners.id, trainingJobs.runnerId))
        .leftJoin(
          jobAttempts,
          and(eq(jobAttempts.jobId, trainingJobs.id), eq(jobAttempts.attempt, trainingJobs.attempt)),
        )
        .orderBy(...orderOf(filter.sort));
    },

    /** Changes the labels or the scheduling of a job; whatever its object decides stands in other columns. */
    async update(jobId: number, changes: JobChanges): Promise<void> {
      if (Object.values(changes).every((value) => value === undefined)) return;
      await db.update(trainingJobs).set(changes).where(eq(trainingJobs.id, jobId));
    },

    /** Notes that an admin has stopped somebody's job. */
    async noteStop(actor: Actor, jobId: number, atMs: number): Promise<void> {
      await runBatch(binding, [audit(actor, { action: "job.stop", target: { type: "job", id: jobId } }, atMs)]);
    },

    /** One page of points: newest first before a position, oldest first after one. */
    async metrics(principal: Principal, jobId: number, { limit, before, after, attempt }: MetricPage) {
      const { credential, params } = credentialOf(principal);
      const from = before ?? after;
      const page = after === null ? (before === null ? "newest" : "before") : "after";
      const rows = await binding
        .prepare(METRICS[credential][attempt === null ? "valid" : "ofAttempt"][page])
        .bind(
          ...params,
          jobId,
          limit,
          ...(from === null ? [] : [from.epoch, from.step]),
          ...(attempt === null ? [] : [attempt]),
        )
        .raw<unknown[]>();
      return rows.map(([role, ...values]) => ({ role: roleOf(role), point: pointOrNull(values) }));
    },

    /**
     * A curve in at most `maxPoints` points, oldest first: the first and the last one, and of neighbours that share a bucket
     * the one with the lowest and the one with the highest value of the series. See segments.ts.
     */
    async curve(principal: Principal, jobId: number, maxPoints: number, series: string) {
      const { credential, params } = credentialOf(principal);
      const rows = await binding
        .prepare(curveText(credential, series))
        .bind(...params, jobId, maxPoints, series)
        .raw<unknown[]>();
      return rows.map(([role, ...values]) => ({ role: roleOf(role), point: pointOrNull(values) }));
    },

    /**
     * The chunks and the blocks of chunks, oldest first, that hold the newest `limit` lines before a line number, or the first
     * ones after one.
     */
    async logPieces(
      principal: Principal,
      jobId: number,
      options: {
        limit: number;
        stream?: LogChunk["stream"];
        beforeLine: number | null;
        afterLine: number | null;
      },
    ) {
      const { credential, params } = credentialOf(principal);
      const { limit, stream, beforeLine, afterLine } = options;
      const position = afterLine !== null ? "after" : beforeLine === null ? "newest" : "before";
      const rows = await binding
        .prepare(LOGS[credential][`${stream ?? "both"}:${position}`])
        .bind(...params, jobId, limit, ...(position === "newest" ? [] : [afterLine ?? beforeLine]))
        .raw<unknown[]>();
      return rows.map(([role, isBlock, ...values]) => ({
        role: roleOf(role),
        chunk: isBlock === 0 ? chunkColumns.read(values) : null,
        block: isBlock === 1 ? blockColumns.read(values.slice(chunkColumns.names.length)) : null,
      }));
    },

    /** One page of the checkpoints and exported models of a job, newest first, and their number. */
    async checkpoints(principal: Principal, jobId: number, window: { skip: number; limit: number }) {
      const caller = me(db, principal);
      const ofJob = and(eq(artifacts.jobId, jobId), inArray(artifacts.kind, ["checkpoint", "model"]));
      const page = db
        .select({ id: artifacts.id })
        .from(artifacts)
        .where(ofJob)
        .orderBy(desc(artifacts.createdAt), desc(artifacts.id))
        .limit(window.limit)
        .offset(window.skip);
      return db
        .with(caller)
        .select({ role: projectMembers.role, artifact: artifacts, total: db.$count(artifacts, ofJob) })
        .from(caller)
        .leftJoin(trainingJobs, eq(trainingJobs.id, jobId))
        .leftJoin(projectMembers, membership(principal))
        .leftJoin(artifacts, and(inArray(artifacts.id, page), isMember))
        .orderBy(desc(artifacts.createdAt), desc(artifacts.id));
    },

    /** A checkpoint of this job: an artifact of another job is none. */
    async checkpoint(principal: Principal, jobId: number, artifactId: string) {
      const caller = me(db, principal);
      const [row] = await db
        .with(caller)
        .select({ role: projectMembers.role, artifact: artifacts })
        .from(caller)
        .leftJoin(trainingJobs, eq(trainingJobs.id, jobId))
        .leftJoin(projectMembers, membership(principal))
        .leftJoin(
          artifacts,
          and(
            eq(artifacts.id, artifactId),
            eq(artifacts.jobId, trainingJobs.id),
            inArray(artifacts.kind, ["checkpoint", "model"]),
            isMember,
          ),
        )
        .limit(1);
      return row;
    },
  };
}
