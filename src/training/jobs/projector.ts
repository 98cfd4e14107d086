import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { type ProjectionItem, statementsFor } from "./projection.ts";

/** One parameter and one row hold 2 MB at most in D1; a commit stays below it with room for a second round of escapes. */
const COMMIT_BYTES = 900_000;

/** How long a caller waits for D1 before it is answered: what it sent is already durable in the object. */
const PATIENCE_MS = 4_000;

/** The outbox as the projector needs it. */
export type Outbox = {
  /** The oldest items, up to a number of bytes, and at least one. */
  peek(maxBytes: number): { lastId: number; items: ProjectionItem[] } | null;
  removeUpTo(id: number): void;
  oldestId(): number | null;
  newestId(): number | null;
};

/**
 * Carries the outbox of one job's object to D1 as group commits: while one batch is under way, whatever arrives gathers for
 * the next. A failed batch leaves the outbox as it is; the object's alarm calls `settle` again.
 */
export function createProjector(
  binding: D1Database,
  outbox: Outbox,
  jobIdOf: () => number | undefined,
  patienceMs = PATIENCE_MS,
) {
  const db = createDb(binding);
  let running: Promise<boolean> | null = null;
  let failures = 0;

  /** One batch. @returns whether D1 has it */
  async function commitOnce(): Promise<boolean> {
    const next = outbox.peek(COMMIT_BYTES);
    const jobId = jobIdOf();
    if (next === null) return true;
    if (jobId === undefined) return false;
    try {
      await runBatch(binding, statementsFor(db, jobId, next.items));
    } catch (thrown) {
      failures += 1;
      logger.warn("projection to D1 failed; it stays in the outbox", { jobId, failures, error: errorText(thrown) });
      return false;
    }
    failures = 0;
    outbox.removeUpTo(next.lastId);
    return true;
  }

  /** Joins the batch that is under way, or starts the next one. */
  function commit(): Promise<boolean> {
    running ??= commitOnce().finally(() => {
      running = null;
    });
    return running;
  }

  /** Commits until D1 has everything up to `id`, or fails. */
  async function commitUpTo(id: number): Promise<void> {
    for (let oldest = outbox.oldestId(); oldest !== null && oldest <= id; oldest = outbox.oldestId()) {
      if (!(await commit())) return;
    }
  }

  return {
    /** Waits until D1 has what the outbox holds now, or has failed, or for as long as a caller should wait. */
    async settle(): Promise<void> {
      const newest = outbox.newestId();
      if (newest === null) return;
      let timer: ReturnType<typeof setTimeout> | undefined;
      const patience = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, patienceMs);
      });
      await Promise.race([commitUpTo(newest), patience]);
      clearTimeout(timer);
    },

    /** Batches that have failed since the last one that succeeded. */
    failures: () => failures,
  };
}
