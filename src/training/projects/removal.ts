import { and, asc, eq, inArray, sql } from "drizzle-orm";
import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { datasetFiles, datasets, trainingJobs } from "../../db/schema/index.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { keys } from "../../storage/keys.ts";
import { noteRemoval, type RemovalService } from "../../storage/removals.ts";
import { removeProjectUploads } from "../datasets/uploads/service.ts";
import type { TrainingJob } from "../jobs/object.ts";
import { type JobRemoval, LIVE_STATUSES } from "../jobs/removal.ts";
import { specOf } from "../jobs/spec.ts";
import type { ProjectRepository } from "./repository.ts";

export type ProjectRemoval = ReturnType<typeof createProjectRemoval>;

const JOBS_AT_ONCE = 20;
const THINGS_A_SWEEP = 200;

/**
 * Removes what closed projects hold: first nobody works for them any more, then jobs, datasets and the rows themselves go.
 * Each step can be repeated; whatever a run does not reach is done by the next one.
 */
export function createProjectRemoval(deps: {
  binding: D1Database;
  bucket: R2Bucket;
  projects: ProjectRepository;
  jobs: DurableObjectNamespace<TrainingJob>;
  jobRemoval: JobRemoval;
  removals: RemovalService;
  now: () => number;
}) {
  const { binding, bucket, projects, jobs, jobRemoval, removals, now } = deps;
  const db = createDb(binding);

  /** Fences off every job of a project that is worked on. */
  async function fence(projectId: number): Promise<void> {
    for (;;) {
      const live = await db
        .select()
        .from(trainingJobs)
        .where(and(eq(trainingJobs.projectId, projectId), inArray(trainingJobs.status, [...LIVE_STATUSES])))
        .limit(JOBS_AT_ONCE);
      if (live.length === 0) return;
      const outcomes = await Promise.allSettled(
        live.map((job) => jobs.getByName(String(job.id)).stop(specOf(job), "project_deleted")),
      );
      const failed = outcomes.filter((outcome) => outcome.status === "rejected" || !outcome.value.ok);
      // Those that did not stop are asked again by the next sweep; going on here could go on for ever.
      if (failed.length > 0) {
        logger.warn("jobs of a deleted project not stopped", { projectId, count: failed.length });
        return;
      }
    }
  }

  async function removeContent(projectId: number): Promise<void> {
    await fence(projectId);
    const jobRows = await db
      .select({ id: trainingJobs.id })
      .from(trainingJobs)
      .where(eq(trainingJobs.projectId, projectId))
      .orderBy(asc(trainingJobs.id))
      .limit(THINGS_A_SWEEP);
    for (const { id } of jobRows) await jobRemoval.remove(id, null);
    // Before the datasets: what is not removed as an upload by then has become one.
    await removeProjectUploads({ DB: binding, BUCKET: bucket }, projectId, now(), THINGS_A_SWEEP);
    const datasetRows = await db
      .select({ id: datasets.id })
      .from(datasets)
      .where(eq(datasets.projectId, projectId))
      .limit(THINGS_A_SWEEP);
    for (const { id } of datasetRows) {
      await runBatch(binding, [
        sql`delete from ${datasetFiles} where dataset_id = ${id}`,
        sql`delete from ${datasets} where id = ${id}`,
        noteRemoval(keys.datasetPrefix(id), now()),
      ]);
    }
    await projects.forget(projectId);
  }

  return {
    fence,

    /** Goes on with the removal of closed projects, oldest first, and of objects without rows. Never throws. */
    async sweep(): Promise<void> {
      try {
        for (const projectId of await projects.closed(10)) {
          await removeContent(projectId).catch((thrown: unknown) => {
            logger.warn("content of a deleted project not removed", { projectId, error: errorText(thrown) });
          });
        }
      } catch (thrown) {
        logger.warn("sweep not finished", { error: errorText(thrown) });
      }
      await removals.run();
    },
  };
}
