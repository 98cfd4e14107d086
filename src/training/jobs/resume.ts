import { fail, ok, type Result } from "../../shared/result.ts";
import type { JobState, ResumeChoice } from "./machine.ts";
import type { Upload } from "./store.ts";

/** From which checkpoint an attempt goes on (runner protocol, section 4). Pure: `complete` are a job's complete uploads, newest first. */

const isUsable = (upload: Upload) =>
  upload.state === "complete" && upload.row.kind === "checkpoint" && upload.row.usable;

/** A checkpoint that a later attempt of the lineage can go on from: its epoch is known. */
const isPoint = (upload: Upload, state: JobState) =>
  isUsable(upload) && upload.row.epoch !== null && upload.attempt >= state.lineageFrom;

export type ResumePoint = { upload: Upload; weightsOnly: boolean };

/** What the attempt of `state` goes on from: the newest checkpoint of its lineage, else the one that `start` named, else nothing. */
export function resumePoint(state: JobState, complete: Upload[]): ResumePoint | null {
  const newest = complete.find((upload) => isPoint(upload, state) && upload.attempt < state.attempt);
  if (newest) return { upload: newest, weightsOnly: false };
  const { resume } = state;
  if (resume.from !== "artifact") return null;
  const named = complete.find((upload) => upload.id === resume.artifactId);
  return named && isUsable(named) ? { upload: named, weightsOnly: resume.weightsOnly } : null;
}

/** Epoch after which an attempt goes on; 0 when it begins anew, also with given weights. */
export const resumeEpochOf = (point: ResumePoint | null): number =>
  point === null || point.weightsOnly ? 0 : (point.upload.row.epoch ?? 0);

/** Turns the wish of `start` into a checkpoint that exists, or refuses. */
export function checkedChoice(state: JobState, complete: Upload[], resume: ResumeChoice): Result<ResumeChoice> {
  switch (resume.from) {
    case "nothing":
      return ok(resume);
    case "newest":
      return complete.some((upload) => isPoint(upload, state))
        ? ok(resume)
        : fail("CHECKPOINT_NOT_FOUND", "The job has no checkpoint to resume from", "resume");
    case "artifact":
      return complete.some((upload) => upload.id === resume.artifactId && isUsable(upload))
        ? ok(resume)
        : fail("CHECKPOINT_NOT_FOUND", "Checkpoint not found", "checkpoint_path");
  }
}
