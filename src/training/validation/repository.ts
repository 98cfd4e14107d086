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

/** A job has 1,000 epochs at most; plain callbacks may number further. */
const MAX_SUMMARY = 5_000;

export type ValidationRepository = ReturnType<typeof createValidationRepository>;

/** A result is superseded when a later attempt went on from an epoch before it. */
const notSuperseded = sql`not exists (select 1 from ${jobAttempts} later where later.job_id = ${validationResults.jobId}
  and later.attempt > ${validationResults.attempt} and later.resume_epoch < ${validationResults.epoch})`;

/** A cell of the confusion matrix is one true and one predicted label, by name or by number. */
export type ImageFilter = {
  isCorrect?: boolean;
  trueLabel?: string;
  trueLabelId?: number;
  predictedLabel?: string;
  predictedLabelId?: number;
};

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

    /** The primary metric of each result, oldest first, without the large fields. */
    async summary(principal: Principal, jobId: number) {
      const caller = me(db, principal);
      return db
        .with(caller)
        .select({
          role: projectMembers.role,
          metric: trainingJobs.primaryMetric,
          mode: trainingJobs.primaryMetricMode,
          id: validationResults.id,
          epoch: validationResults.epoch,
          attempt: validationResults.attempt,
          value: validationResults.primaryMetricValue,
          loss: validationResults.overallLoss,
          checkpointPath: validationResults.checkpointPath,
        })
        .from(caller)
        .leftJoin(trainingJobs, eq(trainingJobs.id, jobId))
        .leftJoin(projectMembers, member(principal))
        .leftJoin(
          validationResults,
          and(eq(validationResults.jobId, trainingJobs.id), sql`${projectMembers.role} is not null`, notSuperseded),
        )
        .orderBy(asc(validationResults.epoch))
        .limit(MAX_SUMMARY);
    },

    /** One page of images of a result, reached through its job and project. */
    async images(principal: Principal, resultId: number, options: ImageFilter & { skip: number; limit: number }) {
      const caller = me(db, principal);
      const { isCorrect, trueLabel, trueLabelId, predictedLabel, predictedLabelId } = options;
      const matching = and(
        eq(validationImages.resultId, resultId),
        isCorrect === undefined ? undefined : eq(validationImages.isCorrect, isCorrect),
        trueLabel === undefined ? undefined : eq(validationImages.trueLabel, trueLabel),
        trueLabelId === undefined ? undefined : eq(validationImages.trueLabelId, trueLabelId),
        predictedLabel === undefined ? undefined : eq(validationImages.predictedLabel, predictedLabel),
        predictedLabelId === undefined ? undefined : eq(validationImages.predictedLabelId, predictedLabelId),
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
