import { mkdir, open, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { CheckpointManifest } from "../../../src/training/inference/manifest.ts";
import type { CheckpointFile, CheckpointMessage } from "../trainer-messages.ts";

/** Checkpoints on disk: complete or not there, also after a loss of power, and never written to again. */

async function sync(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Writes a file beside its place, flushes it and renames it into place. */
export async function writeDurably(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.tmp`;
  const handle = await open(temporary, "w");
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
  await sync(dirname(path));
}

export type Checkpoint = {
  role: "best" | "last";
  /** Complete epochs. */
  epoch: number;
  /** Batches done in the epoch after them. */
  batch: number;
  model: { bytes: Uint8Array; manifest: CheckpointManifest };
  /** Resumable state. */
  state: Uint8Array | null;
};

/** Writes checkpoints into one folder under names of their own and deletes old ones. */
export class CheckpointStore {
  readonly #folder: string;
  readonly #keep: number;
  readonly #saved: Record<Checkpoint["role"], string[][]> = { best: [], last: [] };

  /** @param keep newest checkpoints of each role that stay on disk, at least 1 */
  constructor(folder: string, keep: number) {
    this.#folder = folder;
    this.#keep = keep;
  }

  /** The message is to be sent as it is. Deletes older checkpoints of the role only after the new one is in place. */
  async save(checkpoint: Checkpoint): Promise<CheckpointMessage> {
    const { role, epoch, batch, model, state } = checkpoint;
    await mkdir(this.#folder, { recursive: true });
    const digits = (value: number) => String(value).padStart(4, "0");
    const stem = join(this.#folder, `${role}-${digits(epoch)}${batch > 0 ? `-${digits(batch)}` : ""}`);
    const files: CheckpointFile[] = [];
    await writeDurably(`${stem}.onnx`, model.bytes);
    files.push({ kind: "model", path: `${stem}.onnx`, name: `${role}.onnx`, manifest: model.manifest });
    if (state !== null) {
      await writeDurably(`${stem}.state`, state);
      files.push({ kind: "checkpoint", path: `${stem}.state`, name: `${role}.state` });
    }
    await this.#retire(
      role,
      files.map((file) => file.path),
    );
    return { type: "checkpoint", epoch, role, files };
  }

  async #retire(role: Checkpoint["role"], paths: string[]): Promise<void> {
    const newest = paths[0];
    // A checkpoint asked for twice at the same place has the same name and content: it stays one entry.
    const saved = [...this.#saved[role].filter((older) => older[0] !== newest), paths];
    const old = saved.splice(0, Math.max(saved.length - this.#keep, 0));
    this.#saved[role] = saved;
    for (const path of old.flat()) await rm(path, { force: true });
  }
}
