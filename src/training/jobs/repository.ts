import { and, asc, desc, eq, inArray, lt, sql } from "drizzle-orm";
import { me, type Principal } from "../../auth/principal.ts";
import type { Db } from "../../db/client.ts";
import {
  datasets,
  jobAttempts,
  logChunks,
  projectMembers,
  projects,
  trainingJobs,
  trainingMetrics,
} from "../../db/schema/index.ts";

export type JobRepository = ReturnType<typeof createJobRepository>;

/** A point is superseded when a later attempt went on from an epoch before it. */
const notSuperseded = sql`not exists (select 1 from ${jobAttempts} later where later.job_id = ${trainingMetrics.jobId}
  and later.attempt > ${trainingMetrics.attempt} and later.resume_epoch < ${trainingMetrics.epoch})`;

const membership = (principal: Principal) =>
  and(eq(projectMembers.projectId, trainingJobs.projectId), eq(projectMembers.userId, principal.userId));

/**
 * Every read is one statement that also asks whether the caller is still valid: no row means 401; a row without the job
 * means 404.
 */
export function createJobRepository(db: Db) {
  return {
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

    async create(values: typeof trainingJobs.$inferInsert) {
      const [job] = await db.insert(trainingJobs).values(values).returning();
      return job;
    },

    /** The row itself, for calls that carry their own proof. */
    async byId(jobId: number) {
      return db.query.trainingJobs.findFirst({ where: eq(trainingJobs.id, jobId) });
    },

    async find(principal: Principal, jobId: number) {
      const caller = me(db, principal);
      const [row] = await db
        .with(caller)
        .select({
          userId: caller.id,
          isAdmin: caller.isAdmin,
          job: trainingJobs,
          projectName: projects.name,
          role: projectMembers.role,
        })
        .from(caller)
        .leftJoin(trainingJobs, eq(trainingJobs.id, jobId))
        .leftJoin(projects, eq(projects.id, trainingJobs.projectId))
        .leftJoin(
          projectMembers,
          and(eq(projectMembers.projectId, trainingJobs.projectId), eq(projectMembers.userId, caller.id)),
        )
        .limit(1);
      return row;
    },

    /** One page of the jobs of the caller's projects, newest first, and their number. */
    async list(
      principal: Principal,
      filter: {
        projectId?: number;
        status?: (typeof trainingJobs.$inferSelect)["status"];
        skip: number;
        limit: number;
      },
    ) {
      const caller = me(db, principal);
      const matching = and(
        eq(projectMembers.userId, principal.userId),
        filter.projectId === undefined ? undefined : eq(projectMembers.projectId, filter.projectId),
        filter.status === undefined ? undefined : eq(trainingJobs.status, filter.status),
      );
      const page = db
        .select({ id: trainingJobs.id })
        .from(projectMembers)
        .innerJoin(trainingJobs, eq(trainingJobs.projectId, projectMembers.projectId))
        .where(matching)
        .orderBy(desc(trainingJobs.createdAt), desc(trainingJobs.id))
        .limit(filter.limit)
        .offset(filter.skip);
      return db
        .with(caller)
        .select({
          job: trainingJobs,
          projectName: projects.name,
          total: sql<number>`(select count(*) from ${projectMembers} inner join ${trainingJobs}
            on ${trainingJobs.projectId} = ${projectMembers.projectId} where ${matching})`,
        })
        .from(caller)
        .leftJoin(trainingJobs, inArray(trainingJobs.id, page))
        .leftJoin(projects, eq(projects.id, trainingJobs.projectId))
        .orderBy(desc(trainingJobs.createdAt), desc(trainingJobs.id));
    },

    /** The newest `limit` points before a position, newest first. */
    async metrics(principal: Principal, jobId: number, options: { limit: number; before: MetricPosition | null }) {
      const caller = me(db, principal);
      const { before } = options;
      return db
        .with(caller)
        .select({ role: projectMembers.role, point: trainingMetrics })
        .from(caller)
        .leftJoin(trainingJobs, eq(trainingJobs.id, jobId))
        .leftJoin(projectMembers, membership(principal))
        .leftJoin(
          trainingMetrics,
          and(
            eq(trainingMetrics.jobId, trainingJobs.id),
            sql`${projectMembers.role} is not null`,
            notSuperseded,
            before === null
              ? undefined
              : sql`(${trainingMetrics.epoch}, ${trainingMetrics.step}) < (${before.epoch}, ${before.step})`,
          ),
        )
        .orderBy(desc(trainingMetrics.epoch), desc(trainingMetrics.step))
        .limit(options.limit);
    },

    /** The newest chunks, oldest first, that hold the newest `limit` lines before a line number. */
    async logChunks(
      principal: Principal,
      jobId: number,
      options: { limit: number; stream?: "stdout" | "stderr"; beforeLine: number | null },
    ) {
      const caller = me(db, principal);
      const matching = and(
        eq(logChunks.jobId, jobId),
        options.stream === undefined ? undefined : eq(logChunks.stream, options.stream),
        options.beforeLine === null ? undefined : lt(logChunks.firstLine, options.beforeLine),
      );
      // Each chunk has a line at least, so as many chunks as lines are enough; their texts are not read here.
      const newest = db
        .select({ firstLine: logChunks.firstLine, lineCount: logChunks.lineCount })
        .from(logChunks)
        .where(matching)
        .orderBy(desc(logChunks.firstLine))
        .limit(options.limit)
        .as("newest");
      const counted = db
        .select({
          firstLine: newest.firstLine,
          linesAfter:
            sql<number>`sum(${newest.lineCount}) over (order by ${newest.firstLine} desc) - ${newest.lineCount}`.as(
              "lines_after",
            ),
        })
        .from(newest)
        .as("counted");
      const oldest = db
        .select({ firstLine: sql<number>`min(${counted.firstLine})` })
        .from(counted)
        .where(lt(counted.linesAfter, options.limit));
      return db
        .with(caller)
        .select({ role: projectMembers.role, chunk: logChunks })
        .from(caller)
        .leftJoin(trainingJobs, eq(trainingJobs.id, jobId))
        .leftJoin(projectMembers, membership(principal))
        .leftJoin(
          logChunks,
          and(matching, sql`${projectMembers.role} is not null`, sql`${logChunks.firstLine} >= (${oldest})`),
        )
        .orderBy(asc(logChunks.firstLine));
    },
  };
}

export type MetricPosition = { epoch: number; step: number };
