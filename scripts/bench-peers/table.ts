/** The table of `npm run bench:peers`. Pure. */

export type Figure = { value: number; text: string };

export type Row = {
  title: string;
  ours: Figure;
  theirs: Figure;
  /** Which of two figures is the better one. */
  better: "higher" | "lower";
};

/** How far apart two figures have to be before one of them is called ahead: on a shared machine less than this is noise. */
const NOISE = 1.1;

export type Standing = "ahead" | "level" | "behind";

/** Where we stand in a row. Two figures of zero are level. */
export function standingOf({ ours, theirs, better }: Row): Standing {
  const [good, bad] = better === "higher" ? [ours.value, theirs.value] : [theirs.value, ours.value];
  if (good === bad) return "level";
  if (good > bad * NOISE) return "ahead";
  return bad > good * NOISE ? "behind" : "level";
}

/** How many times better the better one is; null where one of them is zero or has no end. */
function timesOf({ ours, theirs, better }: Row): number | null {
  const times = better === "higher" ? ours.value / theirs.value : theirs.value / ours.value;
  return Number.isFinite(times) && times > 0 ? times : null;
}

export function renderMarkdown(rows: readonly Row[], theirName: string): string {
  const lines = rows.map((row) => {
    const times = timesOf(row);
    const factor = times === null ? "" : ` (${times >= 10 ? times.toFixed(0) : times.toFixed(2)}x)`;
    return `| ${row.title} | ${row.ours.text} | ${row.theirs.text} | ${standingOf(row)}${factor} |`;
  });
  return [`| | cultivar | ${theirName} | |`, "| --- | --: | --: | --- |", ...lines].join("\n");
}

const rounded = (value: number) =>
  value >= 100 ? Math.round(value).toLocaleString("en-US") : value >= 10 ? value.toFixed(1) : value.toFixed(2);

/** A rate with the median time of one request. */
export const rate = (perSecond: number, p50Ms: number, unit: string): Figure => ({
  value: perSecond,
  text: `${rounded(perSecond)} ${unit}/s, p50 ${rounded(p50Ms)} ms`,
});
/** Milliseconds of one request; NaN when none was answered, which is worse than any time. */
export const millis = (value: number): Figure =>
  Number.isNaN(value)
    ? { value: Number.POSITIVE_INFINITY, text: "no answer" }
    : { value, text: `${rounded(value)} ms` };
