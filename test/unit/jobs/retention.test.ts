import { describe, it } from "vitest";
import { initialState, type JobState } from "../../../src/training/jobs/machine.ts";
import { surplus } from "../../../src/training/jobs/retention.ts";
import type { Upload } from "../../../src/training/jobs/store.ts";

let made = 0;
const upload = (attempt: number, epoch: number | null, part: Partial<Upload["row"]> = {}): Upload => {
  made += 1;
  const id = `${part.kind ?? "checkpoint"}-${attempt}-${epoch}-${part.role === undefined ? "last" : part.role}-${made}`;
  return {
    id,
    attempt,
    state: "complete",
    row: {
      id,
      attempt,
      kind: "checkpoint",
      name: "last.state",
      role: "last",
      epoch,
      sizeBytes: 1,
      sha256: "",
      storageKey: `jobs/1/${attempt}/${id}`,
      manifest: null,
      usable: true,
      createdAt: made,
      ...part,
    },
    uploadId: null,
    partSize: 1,
    parts: 1,
  };
};
const running = (part: Partial<JobState> = {}): JobState => ({
  ...initialState(),
  phase: "running",
  attempt: 1,
  owner: "lease",
  ...part,
});
/** As the store lists them. */
const inOrder = (uploads: Upload[]) =>
  [...uploads].sort(
    (a, b) => b.attempt - a.attempt || (b.row.epoch ?? 0) - (a.row.epoch ?? 0) || b.row.createdAt - a.row.createdAt,
  );
const kept = (state: JobState, bestEpoch: number | null, uploads: Upload[], keep = 3) => {
  const gone = new Set(surplus(state, bestEpoch, inOrder(uploads), keep).map(({ id }) => id));
  return uploads.filter(({ id }) => !gone.has(id));
};
const epochs = (uploads: Upload[]) => uploads.map(({ attempt, row }) => [attempt, row.epoch]);

describe("the checkpoints that stay", () => {
  const ten = () => Array.from({ length: 10 }, (_, i) => upload(1, i + 1));

  it("are the newest ones, the best one and the last one", ({ expect }) => {
    const best = upload(1, 4, { role: "best" });
    expect(epochs(kept(running(), null, [...ten(), best]))).toEqual([
      [1, 4],
      [1, 8],
      [1, 9],
      [1, 10],
      [1, 4],
    ]);
    expect(epochs(kept(running(), 2, ten()))).toEqual([
      [1, 2],
      [1, 8],
      [1, 9],
      [1, 10],
    ]);
    expect(epochs(kept(running(), null, ten(), 1))).toEqual([[1, 10]]);
  });

  it("are kept or given up together with the models of their epochs and their outside weights", ({ expect }) => {
    const weights = [1, 5].map((epoch) => upload(1, epoch, { kind: "file", role: null }));
    const models = [1, 2, 3, 4, 5].map((epoch) => {
      const file = weights.find(({ row }) => row.epoch === epoch);
      const manifest = file === undefined ? null : { external_data: [{ artifact_id: file.id }] };
      return upload(1, epoch, { kind: "model", manifest });
    });
    const states = [1, 2, 3, 4, 5].map((epoch) => upload(1, epoch));
    const stay = kept(running(), null, [...weights, ...models, ...states], 2);
    expect(stay.map(({ row }) => [row.kind, row.epoch])).toEqual([
      ["file", 5],
      ["model", 4],
      ["model", 5],
      ["checkpoint", 4],
      ["checkpoint", 5],
    ]);
  });

  it("never lack what an attempt goes on from, or what a start has named", ({ expect }) => {
    const old = ten();
    const newer = Array.from({ length: 5 }, (_, i) => upload(2, i + 11));
    expect(epochs(kept(running({ attempt: 2 }), null, [...old, ...newer], 2))).toEqual([
      [1, 10],
      [2, 14],
      [2, 15],
    ]);
    const [first] = old;
    const resume = { from: "artifact" as const, artifactId: first?.id ?? "", weightsOnly: false };
    expect(kept(running({ resume }), null, old, 1).map(({ id }) => id)).toEqual([first?.id, old[9]?.id]);
  });

  it("are all those of older lineages", ({ expect }) => {
    const all = [...ten(), ...Array.from({ length: 4 }, (_, i) => upload(2, i + 1))];
    const stay = kept(running({ attempt: 2, lineageFrom: 2 }), null, all, 1);
    expect(epochs(stay)).toEqual([...epochs(ten()), [2, 4]]);
  });

  it("do not count one that cannot be resumed from, nor one without an epoch", ({ expect }) => {
    const corrupt = upload(1, 11, { usable: false, role: null });
    const loose = upload(1, null);
    const stay = kept(running({ attempt: 2 }), null, [...ten(), corrupt, loose], 2);
    expect(epochs(stay)).toEqual([
      [1, 9],
      [1, 10],
      [1, null],
    ]);
  });

  it("include one whose role may still be on its way, until its attempt is over", ({ expect }) => {
    const unknown = upload(1, 1, { role: null });
    expect(kept(running(), null, [unknown, ...ten()], 1)).toContain(unknown);
    expect(kept(running({ attempt: 2 }), null, [unknown, ...ten()], 1)).not.toContain(unknown);
  });

  it("are one of each kind and role for an epoch that was saved again and again", ({ expect }) => {
    const again = Array.from({ length: 5 }, () => upload(1, 3));
    const best = upload(1, 3, { role: "best" });
    expect(kept(running(), null, [...again, best])).toEqual([again[4], best]);
  });
});
