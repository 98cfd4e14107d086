import type { Failure, Result } from "../../shared/result.ts";

/**
 * Which object of a model is asked. One object computes on one thread, so a model that many ask for is held by several
 * (replicas); one that few ask for by one, where it stays loaded.
 */

/**
 * Objects that hold the same model at most. Each costs a load of the model and up to 128 MB, and all begin in one data
 * centre; four answer about four times what one does, and what is too much for four is told to come back.
 */
export const MAX_REPLICAS = 4;

/**
 * Requests of this isolate that a replica has before the next replica is asked: one that computes and one whose image is
 * there when the first is done, so that the object never stands idle in between.
 */
const FULL = 2;

/**
 * After this long a request counts as lost: the platform ends requests whose client has gone, and then not even `finally`
 * runs. No turn of an object takes as long (`Gate`, `maxTurnMs`).
 */
const LOST_AFTER_MS = 120_000;

export type ReplicaLimits = { replicas: number; full: number; lostAfterMs: number };

/** One request under way, from `take` to `give`. */
export type ReplicaTurn = Readonly<{ model: string; replica: number; sinceMs: number }>;

/**
 * Counts the requests of one isolate that are under way at each replica of each model. Other isolates count their own: what
 * an object has from all of them is bounded by its gate. Holds the requests under way and nothing else.
 */
export class ReplicaPicker {
  readonly #limits: ReplicaLimits;
  /** The oldest first. */
  readonly #turns = new Set<ReplicaTurn>();

  constructor({ replicas = MAX_REPLICAS, full = FULL, lostAfterMs = LOST_AFTER_MS }: Partial<ReplicaLimits> = {}) {
    this.#limits = { replicas, full, lostAfterMs };
  }

  /** Requests under way, those that were lost among them until the next `take`. */
  get size(): number {
    return this.#turns.size;
  }

  /**
   * The replica for one more request, counted there until `give`: the lowest that is not full, else the one that has the
   * fewest. Lowest first keeps a quiet model on one object and lets surplus ones fall asleep.
   * @param passedOver replicas that are not to be asked; null when that is all of them
   */
  take(model: string, nowMs: number, passedOver: ReadonlySet<number> = new Set()): ReplicaTurn | null {
    for (const turn of this.#turns) {
      if (nowMs - turn.sinceMs < this.#limits.lostAfterMs) break;
      this.#turns.delete(turn);
    }
    const counts = new Array<number>(this.#limits.replicas).fill(0);
    for (const turn of this.#turns) if (turn.model === model) counts[turn.replica] = (counts[turn.replica] ?? 0) + 1;
    let best: { replica: number; count: number } | null = null;
    for (const [replica, count] of counts.entries()) {
      if (passedOver.has(replica)) continue;
      if (best === null || count < best.count) best = { replica, count };
      if (count < this.#limits.full) {
        best = { replica, count };
        break;
      }
    }
    if (best === null) return null;
    const turn: ReplicaTurn = { model, replica: best.replica, sinceMs: nowMs };
    this.#turns.add(turn);
    return turn;
  }

  /** The request has been answered, or never will be. A second call changes nothing. */
  give(turn: ReplicaTurn): void {
    this.#turns.delete(turn);
  }
}

/** The name of a replica's object. */
export const replicaName = (sha256: string, replica: number): string =>
  replica === 0 ? sha256 : `${sha256}:${replica}`;

/**
 * Asks one replica of a model. One that is busy passes the request on to the others. One that throws was reset, is
 * overloaded or gone, and another is asked once; not more of them, because the request itself may be what ends them.
 * @param call asks the object of this name
 * @returns the answer, or the failure of whoever was asked last
 * @throws what `call` threw, when nobody else answered
 */
export async function askReplica<T, E extends Failure>(
  picker: ReplicaPicker,
  sha256: string,
  now: () => number,
  call: (name: string) => Promise<Result<T, E>>,
): Promise<Result<T, E>> {
  const passedOver = new Set<number>();
  let broken: { thrown: unknown } | null = null;
  let busy: Result<T, E> | null = null;
  for (;;) {
    const turn = picker.take(sha256, now(), passedOver);
    if (turn === null) {
      if (busy) return busy;
      throw broken ? broken.thrown : new Error("a model has no replicas");
    }
    passedOver.add(turn.replica);
    try {
      const result = await call(replicaName(sha256, turn.replica));
      if (result.ok || result.error.code !== "BUSY") return result;
      busy = result;
    } catch (thrown) {
      if (broken) throw thrown;
      broken = { thrown };
    } finally {
      picker.give(turn);
    }
  }
}
