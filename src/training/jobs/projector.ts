import { runBatch } from "../../db/batch.ts";
import { createDb } from "../../db/client.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { statementsFor } from "./projection.ts";
import type { JobStore } from "./store.ts";

/** One parameter and one row hold 2 MB at most in D1; a commit stays below it with room for escapes. */
const COMMIT_CHARS = 1_200_000;

/** How long a caller waits for D1 before it is answered: what it sent is already durable in the object. */
const PATIENCE_MS = 4_000;

/**
 * Carries the outbox of one job's object to D1 as group commits: while one batch is under way, whatever arrives gathers for
 * the next. A failed batch leaves the outbox as it is; the object's alarm calls `flush` again.
 */
export function createProjector(binding: D1Database, store: JobStore, onFailure: () => Promise<void>) {
  const db = createDb(binding);
  let running: Promise<boolean> | null = null;
  let waiters: { upToId: number; release: () => void }[] = [];

  const releaseUpTo = (id: number) => {
    for (const waiter of waiters) if (waiter.upToId <= id) waiter.release();
    waiters = waiters.filter((waiter) => waiter.upToId > id);
  };

  async function drain(): Promise<boolean> {
    for (;;) {
      const next = store.outbox.peek(COMMIT_CHARS);
      const jobId = store.spec()?.jobId;
      if (next === null || jobId === undefined) return true;
      try {
        await runBatch(binding, statementsFor(db, jobId, next.items));
      } catch (thrown) {
        logger.warn("projection to D1 failed; it stays in the outbox", { jobId, error: errorText(thrown) });
        await onFailure();
        releaseUpTo(Number.POSITIVE_INFINITY);
        return false;
      }
      store.outbox.removeUpTo(next.lastId);
      releaseUpTo(next.lastId);
    }
  }

  /** Starts a commit of everything in the outbox unless one is running, in which case that one takes it along. */
  function flush(): Promise<boolean> {
    running ??= drain().finally(() => {
      running = null;
    });
    return running;
  }

  return {
    flush,
    /** Waits until D1 has what the outbox holds now, or has failed, or for as long as a caller should wait. */
    async settle(): Promise<void> {
      const upToId = store.outbox.newestId();
      if (upToId === null) return;
      const committed = new Promise<void>((release) => waiters.push({ upToId, release }));
      let timer: ReturnType<typeof setTimeout> | undefined;
      const patience = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, PATIENCE_MS);
      });
      await Promise.race([committed, patience, flush().then(() => undefined)]);
      clearTimeout(timer);
    },
  };
}
