import { and, desc, eq, isNotNull, sql } from "drizzle-orm";
import { alias } from "drizzle-orm/sqlite-core";
import { me, type Principal } from "../../auth/principal.ts";
import type { Db } from "../../db/client.ts";
import { artifacts, jobAttempts, projectMembers, trainingJobs } from "../../db/schema/index.ts";
import type { CheckpointChoice } from "./schemas.ts";

export type InferenceRepository = ReturnType<typeof createInferenceRepository>;

/** 1 for a model of an epoch that a later attempt has not gone on from: not the job's line any more. */
const superseded = sql`exists (select 1 from ${jobAttempts} later where later.job_id = ${artifacts.jobId}
  and later.attempt > ${artifacts.attempt} and later.resume_epoch < ${artifacts.epoch})`;

/** A model by its own id, or the one that was exported along with the checkpoint of this id. */
const named = (artifactId: string) => sql`(${artifacts.id} = ${artifactId} or exists (select 1 from ${artifacts} other
  where other.id = ${artifactId} and other.job_id = ${artifacts.jobId} and other.kind = 'checkpoint'
  and other.attempt = ${artifacts.attempt} and other.epoch = ${artifacts.epoch}))`;

export function createInferenceRepository(db: Db) {
  return {
    /** Whether the credential still stands: asked where nothing else of the database is. */
    async isCaller(principal: Principal): Promise<boolean> {
      const caller = me(db, principal);
      const rows = await db.with(caller).select({ id: caller.id }).from(caller);
      return rows.length > 0;
    },

    /**
     * The job, the caller's role in its project and the model to run with its external weights, in one statement: no row
     * means 401, a row without a role 404. Without a choice it is the best model, else the last; models on the job's
     * present line come before those that a later attempt has superseded, newer ones before older ones.
     */
    async model(principal: Principal, jobId: number, choice: CheckpointChoice | null) {
      const caller = me(db, principal);
      const external = alias(artifacts, "external");
      const wanted =
        choice === null ? undefined : "role" in choice ? eq(artifacts.role, choice.role) : named(choice.artifactId);
      const [row] = await db
        .with(caller)
        .select({
          role: projectMembers.role,
          taskType: trainingJobs.taskType,
          modelName: trainingJobs.modelName,
          model: artifacts,
          external,
        })
        .from(caller)
        .leftJoin(trainingJobs, eq(trainingJobs.id, jobId))
        .leftJoin(
          projectMembers,
          and(eq(projectMembers.projectId, trainingJobs.projectId), eq(projectMembers.userId, caller.id)),
        )
        .leftJoin(
          artifacts,
          and(
            eq(artifacts.jobId, trainingJobs.id),
            isNotNull(projectMembers.role),
            eq(artifacts.kind, "model"),
            eq(artifacts.usable, true),
            isNotNull(artifacts.manifest),
            wanted,
          ),
        )
        .leftJoin(
          external,
          and(
            eq(external.jobId, artifacts.jobId),
            eq(external.usable, true),
            eq(external.id, sql`${artifacts.manifest} ->> '$.external_data[0].artifact_id'`),
          ),
        )
        .orderBy(
          superseded,
          sql`case ${artifacts.role} when 'best' then 0 when 'last' then 1 else 2 end`,
          desc(artifacts.attempt),
          desc(artifacts.epoch),
          desc(artifacts.createdAt),
        )
        .limit(1);
      return row;
    },
  };
}
