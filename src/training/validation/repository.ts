import { and, asc, eq, inArray, sql } from "drizzle-orm";
import { me, type Principal } from "../../auth/principal.ts";
import type { Db } from "../../db/client.ts";
import {
  jobAttempts,
  projectMembers,
  trainingJobs,
  validationImages,
  validationResults,
} from "../../db/schema/index.ts";

export type ValidationRepository = ReturnType<typeof createValidationRepository>;

/** A result is superseded when a later attempt went on from an epoch before it. */
const notSuperseded = sql`not exists (select 1 from ${jobAttempts} later where later.job_id = ${validationResults.jobId}
  and later.attempt > ${validationResults.attempt} and later.resume_epoch < ${validationResults.epoch})`;

export function createValidationRepository(db: Db) {
  const member = (principal: Principal) =>
    and(eq(projectMembers.projectId, trainingJobs.projectId), eq(projectMembers.userId, principal.userId));

  return {
    /** All results of a job by epoch, in one statement: no row means 401, a row without access means 404. */
    async results(principal: Principal, jobId: number) {
      const caller = me(db, principal);
      return db
        .with(caller)
        .select({ role: projectMembers.role, result: validationResults })
        .from(caller)
        .leftJoin(trainingJobs, eq(trainingJobs.id, jobId))
        .leftJoin(projectMembers, member(principal))
        .leftJoin(
          validationResults,
          and(eq(validationResults.jobId, trainingJobs.id), sql`${projectMembers.role} is not null`, notSuperseded),
        )
        .orderBy(asc(validationResults.epoch));
    },

    /** One page of images of a result, reached through its job and project. */
    async images(
      principal: Principal,
      resultId: number,
      options: { isCorrect?: boolean; skip: number; limit: number },
    ) {
      const caller = me(db, principal);
      const matching = and(
        eq(validationImages.resultId, resultId),
        options.isCorrect === undefined ? undefined : eq(validationImages.isCorrect, options.isCorrect),
      );
      const page = db
        .select({ id: validationImages.id })
        .from(validationImages)
        .where(matching)
        .orderBy(asc(validationImages.position))
        .limit(options.limit)
        .offset(options.skip);
      return db
        .with(caller)
        .select({ role: projectMembers.role, image: validationImages, total: db.$count(validationImages, matching) })
        .from(caller)
        .leftJoin(validationResults, eq(validationResults.id, resultId))
        .leftJoin(trainingJobs, eq(trainingJobs.id, validationResults.jobId))
        .leftJoin(projectMembers, member(principal))
        .leftJoin(validationImages, and(inArray(validationImages.id, page), sql`${projectMembers.role} is not null`))
        .orderBy(asc(validationImages.position));
    },
  };
}
