import { runBatch } from "../../db/batch.ts";
import { errorText, logger } from "../../shared/logger.ts";
import { type ProjectionItem, statementsFor } from "./projection.ts";

/** One parameter and one row hold 2 MB at most in D1; a commit stays below it with room for a second round of escapes. */
const COMMIT_BYTES = 900_000;

/** How long a caller waits for D1 before it is answered: what it sent is already durable in the object. */
const PATIENCE_MS = 4_000;

/** The outbox as the projector needs it. */
export type Outbox = {
  /** The oldest items, up to a number of bytes and of items, and at least one. */
  peek(maxBytes: number, maxItems: number): { lastId: number; items: ProjectionItem[] } | null;
  removeUpTo(id: number): void;
  /** Takes the oldest item out of the way of the others, for somebody to look at. */
  setAside(id: number, error: string): void;
  oldestId(): number | null;
  newestId(): number | null;
};

/** A commit takes at most as many items. */
const COMMIT_ITEMS = 500;

/** What D1 says of rows that it will refuse however often they are sent. Anything else may be its own trouble. */
const REFUSED = /SQLITE_(CONSTRAINT|TOOBIG|MISMATCH|RANGE)|constraint failed|too big|D1_TYPE_ERROR|malformed JSON/i;

type Waiter = { upTo: number; ticks: number; done: () => void };

/** One timer looks after all who wait, so many times in the patience of each. */
const TICKS = 4;

/**
 * Carries the outbox of one job's object to D1 as group commits: while one batch is under way, whatever arrives gathers for
 * the next. A failed batch leaves the outbox as it is; the object's alarm calls `settle` again. When D1 refuses a batch for
 * what is in it, its items are sent one by one, and the one that is to blame is set aside: it holds up no other.
 */
export function createProjector(
  binding: D1Database,
  outbox: Outbox,
  jobIdOf: () => number | undefined,
  patienceMs = PATIENCE_MS,
) {
  let isRunning = false;
  let failures = 0;
  /** How many of the next items go one by one. */
  let alone = 0;
  let waiters: Waiter[] = [];
  let timer: ReturnType<typeof setTimeout> | null = null;

  /** One batch. @returns whether the outbox has become shorter */
  async function commitOnce(): Promise<boolean> {
    const jobId = jobIdOf();
    if (jobId === undefined) return false;
    const next = outbox.peek(COMMIT_BYTES, alone > 0 ? 1 : COMMIT_ITEMS);
    if (next === null) return true;
    try {
      await runBatch(binding, statementsFor(jobId, next.items));
    } catch (thrown) {
      const error = errorText(thrown);
      if (REFUSED.test(error) && next.items.length > 1) {
        alone = next.items.length;
        return true;
      }
      if (REFUSED.test(error)) {
        logger.error("D1 refuses an item for good; it is set aside", { jobId, kind: next.items[0]?.kind, error });
        outbox.setAside(next.lastId, error);
        alone = Math.max(0, alone - 1);
        return true;
      }
      failures += 1;
      logger.warn("projection to D1 failed; it stays in the outbox", { jobId, failures, error });
      return false;
    }
    failures = 0;
    alone = Math.max(0, alone - next.items.length);
    outbox.removeUpTo(next.lastId);
    return true;
  }

  /** Lets those go for whom it holds. */
  function release(holds: (waiter: Waiter) => boolean): void {
    const going = waiters.filter(holds);
    if (going.length > 0) waiters = waiters.filter((waiter) => !holds(waiter));
    for (const { done } of going) done();
    if (waiters.length === 0 && timer !== null) {
      clearTimeout(timer);
      timer = null;
    }
  }

  /** Counts ticks instead of asking a clock, which may be set. */
  function watchPatience(): void {
    if (timer !== null || waiters.length === 0) return;
    timer = setTimeout(() => {
      timer = null;
      for (const waiter of waiters) waiter.ticks += 1;
      release(({ ticks }) => ticks > TICKS);
      watchPatience();
    }, patienceMs / TICKS);
  }

  /** Commits as long as D1 takes something and there is something. */
  async function run(): Promise<void> {
    if (isRunning) return;
    isRunning = true;
    try {
      for (let oldest = outbox.oldestId(); oldest !== null; oldest = outbox.oldestId()) {
        if (!(await commitOnce())) break;
        const left = outbox.oldestId();
        release(({ upTo }) => left === null || upTo < left);
      }
    } catch (thrown) {
      logger.error("the outbox cannot be read", { jobId: jobIdOf(), error: errorText(thrown) });
    } finally {
      isRunning = false;
      // Nobody waits for what will not come now.
      release(() => true);
    }
  }

  return {
    /** Waits until D1 has what the outbox holds now, or has failed, or for as long as a caller should wait. */
    async settle(): Promise<void> {
      const upTo = outbox.newestId();
      if (upTo === null) return;
      const settled = new Promise<void>((done) => {
        waiters.push({ upTo, ticks: 0, done });
      });
      void run();
      watchPatience();
      await settled;
    },

    /** Batches that have failed since the last one that succeeded. */
    failures: () => failures,
  };
}
