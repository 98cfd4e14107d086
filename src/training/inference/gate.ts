import { type Failure, fail, ok, type Result } from "../../shared/result.ts";

/**
 * Lets one piece of work in at a time. All objects of one isolate share its 128 MB, so they share one gate: one model is
 * loaded, one image decoded, one network run at any time.
 *
 * Between turns that follow each other the event loop comes round once: answers get out one by one and not all at the end.
 *
 * What waits holds memory too (its image), so the queue is bounded by bytes. The platform may end a request in the middle
 * of its turn and then nothing of it runs any more, not even `finally`: a turn that was begun too long ago is passed over.
 */

export type GateLimits = {
  /** Bytes that waiting work may hold, all together. The first to wait is always taken. */
  maxWaitingBytes: number;
  /** Longest time a turn is waited for. */
  maxTurnMs: number;
};

type Turn = { done: Promise<void>; weightBytes: number; since: number };

const eventLoopTurn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

export class Gate {
  readonly #limits: GateLimits;
  readonly #turns = new Set<Turn>();
  #last: Turn | null = null;
  /** A turn has ended and the event loop has not come round since: its answer is still inside. */
  #isLeaving = false;

  constructor(limits: GateLimits) {
    this.#limits = limits;
  }

  /** Runs `work` when everything that came before is finished. `BUSY` at once when too much is waiting already. */
  async run<T>(weightBytes: number, work: () => Promise<T>): Promise<Result<T, Failure<"BUSY">>> {
    const now = Date.now();
    for (const turn of this.#turns) if (now - turn.since > this.#limits.maxTurnMs) this.#turns.delete(turn);
    const [, ...waiting] = this.#turns;
    const waitingBytes = waiting.reduce((sum, turn) => sum + turn.weightBytes, 0);
    if (waiting.length > 0 && waitingBytes + weightBytes > this.#limits.maxWaitingBytes) {
      return fail("BUSY", "Too many images are waiting for this model, try again");
    }

    const { promise, resolve } = Promise.withResolvers<void>();
    const turn: Turn = { done: promise, weightBytes, since: now };
    const before = this.#last;
    this.#last = turn;
    this.#turns.add(turn);
    try {
      const isFollowing = before !== null || this.#isLeaving;
      if (before) await this.#settled(before);
      // Turns compute without a pause: without this one the first answer would leave after the last turn.
      if (isFollowing) await eventLoopTurn();
      turn.since = Date.now();
      return ok(await work());
    } finally {
      this.#turns.delete(turn);
      if (this.#last === turn) this.#last = null;
      this.#isLeaving = true;
      void eventLoopTurn().then(() => {
        this.#isLeaving = false;
      });
      resolve();
    }
  }

  async #settled(turn: Turn): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const tooLong = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, this.#limits.maxTurnMs);
    });
    await Promise.race([turn.done, tooLong]);
    clearTimeout(timer);
  }
}
