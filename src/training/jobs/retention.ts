import type { JobState } from "./machine.ts";
import { resumePoint } from "./resume.ts";
import type { Upload } from "./store.ts";

/**
 * Which checkpoints of a job are not needed any more. Pure: `complete` are its complete uploads, newest first.
 *
 * What belongs to one epoch of one attempt stays or goes together: the resumable state and the model that was exported with
 * it. Of the lineage under way the newest epochs that can be resumed from stay, and those of the best and of the last
 * checkpoint; of one epoch the newest file of each kind and role. What `start` has named stays, and what the attempt goes on
 * from. Older lineages are left as they were when they ended.
 */

const placeOf = ({ attempt, row }: Upload) => `${attempt}:${row.epoch}`;

/** Files that hold a model's weights outside of it. */
function externalOf({ row }: Upload): string[] {
  const listed = row.manifest?.external_data;
  if (!Array.isArray(listed)) return [];
  return listed.flatMap((entry: unknown) =>
    typeof entry === "object" && entry !== null && "artifact_id" in entry && typeof entry.artifact_id === "string"
      ? [entry.artifact_id]
      : [],
  );
}

/**
 * @param bestEpoch epoch of the best value of the primary metric
 * @param keep how many epochs that can be resumed from stay, at least 1
 */
export function surplus(state: JobState, bestEpoch: number | null, complete: Upload[], keep: number): Upload[] {
  // The role of one that has none may still be on its way, in its event.
  const isSettled = ({ attempt, row }: Upload) => row.role !== null || attempt < state.attempt;
  const files = complete.filter(
    (upload) =>
      (upload.row.kind === "checkpoint" || upload.row.kind === "model") &&
      upload.row.epoch !== null &&
      upload.attempt >= state.lineageFrom,
  );
  const resumable = files.filter(({ row }) => row.kind === "checkpoint" && row.usable);
  const point = resumePoint(state, complete)?.upload;
  const needed = [
    files.find(({ row }) => row.role === "best"),
    files.find(({ row }) => row.role === "last"),
    point,
    files.find((upload) => state.resume.from === "artifact" && upload.id === state.resume.artifactId),
    ...files.filter(({ row }) => row.epoch === bestEpoch),
  ].filter((upload) => upload !== undefined);
  const places = new Set([...[...new Set(resumable.map(placeOf))].slice(0, keep), ...needed.map(placeOf)]);

  const newestOf = new Map<string, string>();
  for (const upload of files) {
    const role = `${placeOf(upload)}:${upload.row.kind}:${upload.row.role}`;
    if (!newestOf.has(role)) newestOf.set(role, upload.id);
  }
  const newest = new Set(newestOf.values());
  const named = new Set([point?.id, state.resume.from === "artifact" ? state.resume.artifactId : undefined]);
  const isKept = (upload: Upload) =>
    named.has(upload.id) || !isSettled(upload) || (places.has(placeOf(upload)) && newest.has(upload.id));

  const [kept, old] = [files.filter(isKept), files.filter((upload) => !isKept(upload))];
  const stillUsed = new Set(kept.flatMap(externalOf));
  const external = new Set(old.flatMap(externalOf).filter((id) => !stillUsed.has(id)));
  return [...old, ...complete.filter(({ id, row }) => row.kind === "file" && external.has(id))];
}
