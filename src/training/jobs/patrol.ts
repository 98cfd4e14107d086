import { and, asc, inArray, lte } from "drizzle-orm";
import type { Db } from "../../db/client.ts";
import { trainingJobs } from "../../db/schema/index.ts";
import { errorText, logger } from "../../shared/logger.ts";
import type { TrainingJob } from "./object.ts";

/** A job that has not moved for so long is asked to look at itself. */
const STILL_MS = 10 * 60_000;
/** At most so many in one round; a poked row moves, so the others get their turn. */
const JOBS_A_ROUND = 50;

export type JobPatrol = ReturnType<typeof createJobPatrol>;

/**
 * The second net under the jobs' alarms (runner protocol, section 4): a job whose alarm was lost, or whose rows never
 * reached D1, is found by its row that does not move.
 */
export function createJobPatrol(deps: { db: Db; jobs: DurableObjectNamespace<TrainingJob>; now: () => number }) {
  const { db, jobs, now } = deps;
  return {
    /** @returns how many jobs were poked */
    async poke(): Promise<number> {
      const still = await db
        .select({ id: trainingJobs.id })
        .from(trainingJobs)
        .where(and(inArray(trainingJobs.status, ["queued", "running"]), lte(trainingJobs.updatedAt, now() - STILL_MS)))
        .orderBy(asc(trainingJobs.updatedAt))
        .limit(JOBS_A_ROUND);
      await Promise.all(
        still.map(({ id }) =>
          jobs
            .getByName(String(id))
            .poke()
            .catch((thrown: unknown) => logger.warn("job not poked", { jobId: id, error: errorText(thrown) })),
        ),
      );
      return still.length;
    },
  };
}
