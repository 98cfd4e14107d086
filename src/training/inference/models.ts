import type { Failure, Result } from "../../shared/result.ts";

/**
 * The opened models of one isolate, by content hash: never one under the name of another. Opening one more than there is
 * room for releases those that were used longest ago. Generic over the model, so that the policy can be tested alone.
 */

export type Releasable = { release(): Promise<void> };

/** Wasm memory for weights, of the 73 MiB: the rest is for the runtime itself and for the values between layers. */
export const MODEL_BUDGET_BYTES = 48 * 1024 * 1024;

/** What a model takes while open, measured: 2.5 times the file, or 1.25 times both files with external weights. */
export const openBytes = (graphBytes: number, externalBytes: number): number =>
  externalBytes > 0 ? (graphBytes + externalBytes) * 1.25 : graphBytes * 2.5;

export class ModelShelf<M extends Releasable> {
  readonly #budgetBytes: number;
  readonly #restart: () => Promise<void>;
  /** In order of use, the longest unused first. */
  readonly #models = new Map<string, { model: M; bytes: number }>();

  /** @param restart makes the memory of the models as good as new; nothing is open when it is called */
  constructor(budgetBytes: number, restart: () => Promise<void>) {
    this.#budgetBytes = budgetBytes;
    this.#restart = restart;
  }

  get size(): number {
    return this.#models.size;
  }

  /** The model under this hash, if it is open. */
  get(hash: string): M | null {
    const entry = this.#models.get(hash);
    if (!entry) return null;
    this.#models.delete(hash);
    this.#models.set(hash, entry);
    return entry.model;
  }

  /**
   * Opens a model and keeps it; one that could not be opened leaves nothing behind. When it runs out of memory it is tried
   * once more, alone in a memory that is as good as new.
   */
  async open<E extends Failure>(hash: string, bytes: number, open: () => Promise<Result<M, E>>): Promise<Result<M, E>> {
    await this.#makeRoom(bytes);
    let opened = await open();
    if (!opened.ok && opened.error.code === "MODEL_TOO_LARGE") {
      await this.clear();
      opened = await open();
      if (!opened.ok) await this.clear();
    }
    if (opened.ok) this.#models.set(hash, { model: opened.value, bytes });
    return opened;
  }

  /** Releases a model; the next use opens it again. */
  async drop(hash: string): Promise<void> {
    const entry = this.#models.get(hash);
    this.#models.delete(hash);
    await entry?.model.release();
  }

  /** Releases all models and what failures have left behind. */
  async clear(): Promise<void> {
    for (const hash of [...this.#models.keys()]) await this.drop(hash);
    await this.#restart();
  }

  async #makeRoom(bytes: number): Promise<void> {
    let taken = [...this.#models.values()].reduce((sum, entry) => sum + entry.bytes, 0);
    for (const [hash, entry] of [...this.#models]) {
      if (taken + bytes <= this.#budgetBytes) return;
      taken -= entry.bytes;
      await this.drop(hash);
    }
  }
}
