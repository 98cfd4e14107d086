import { sql } from "drizzle-orm";
import { type Actor, auditIfChanged } from "../../audit/entry.ts";
import { runBatch } from "../../db/batch.ts";
import { unwrap } from "../../shared/errors.ts";
import { keys } from "../../storage/keys.ts";
import { noteRemoval } from "../../storage/removals.ts";
import type { TrainingJob } from "./object.ts";

export type JobRemoval = ReturnType<typeof createJobRemoval>;

/** A job with one of these is being worked on, or about to be. */
export const LIVE_STATUSES = ["queued", "running"] as const;

/** Tables whose rows are a job's own. Images come first: they are found through the results. */
const TABLES = [
  "validation_results",
  "training_metrics",
  "metric_segments",
  "metric_extremes",
  "log_chunks",
  "log_blocks",
  "artifacts",
  "job_attempts",
] as const;

/** Removes a job: its object forgets it, its rows go in one batch, its files are ordered to be removed. */
export function createJobRemoval(deps: {
  binding: D1Database;
  jobs: DurableObjectNamespace<TrainingJob>;
  now: () => number;
}) {
  return {
    /**
     * @param actor who wants it; null when it goes with its project
     * @throws INVALID_STATUS while it is queued, running or leaving
     */
    async remove(jobId: number, actor: Actor | null): Promise<void> {
      const at = deps.now();
      // The object first: from then on nothing writes rows of this job.
      unwrap(await deps.jobs.getByName(String(jobId)).remove());
      await runBatch(deps.binding, [
        sql`delete from training_jobs where id = ${jobId}`,
        ...(actor === null
          ? []
          : [auditIfChanged(actor, { action: "job.delete", target: { type: "job", id: jobId } }, at)]),
        sql`delete from validation_images where result_id in (select id from validation_results where job_id = ${jobId})`,
        ...TABLES.map((table) => sql`delete from ${sql.identifier(table)} where job_id = ${jobId}`),
        noteRemoval(keys.jobPrefix(jobId), at),
      ]);
    },
  };
}
