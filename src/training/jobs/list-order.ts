import { type SQL, sql } from "drizzle-orm";
import { trainingJobs } from "../../db/schema/index.ts";

/** The orders in which jobs can be listed, by their names in `sort`; a minus sign is the descending one. */
export const JOB_SORTS = [
  "-created_at",
  "created_at",
  "-updated_at",
  "updated_at",
  "experiment_name",
  "-experiment_name",
] as const;

export type JobSort = (typeof JOB_SORTS)[number];

/** Where a page ended: the value of the order and the id that tells equal ones apart. */
export type JobPosition = { value: string | number; id: number };

/** Nothing of this comes from a request: `sort` only chooses among these. No value is null, so that each can be compared. */
const VALUES = {
  created_at: trainingJobs.createdAt,
  updated_at: trainingJobs.updatedAt,
  experiment_name: sql`coalesce(${trainingJobs.experimentName}, '')`,
};

const partsOf = (sort: JobSort) => {
  const isDescending = sort.startsWith("-");
  return { value: VALUES[(isDescending ? sort.slice(1) : sort) as keyof typeof VALUES], isDescending };
};

/** The order of a sort; the id comes last, so that it is total. */
export function orderOf(sort: JobSort): SQL[] {
  const { value, isDescending } = partsOf(sort);
  return isDescending
    ? [sql`${value} desc`, sql`${trainingJobs.id} desc`]
    : [sql`${value} asc`, sql`${trainingJobs.id} asc`];
}

/** What comes after a position in that order. */
export function isAfter(sort: JobSort, position: JobPosition): SQL {
  const { value, isDescending } = partsOf(sort);
  return isDescending
    ? sql`(${value}, ${trainingJobs.id}) < (${position.value}, ${position.id})`
    : sql`(${value}, ${trainingJobs.id}) > (${position.value}, ${position.id})`;
}

/** The position of a job in that order. */
export function positionOf(
  sort: JobSort,
  job: { id: number; createdAt: number; updatedAt: number; experimentName: string | null },
): JobPosition {
  const values = { created_at: job.createdAt, updated_at: job.updatedAt, experiment_name: job.experimentName ?? "" };
  return { value: values[sort.replace(/^-/, "") as keyof typeof values], id: job.id };
}
