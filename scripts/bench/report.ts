import { BASELINES, type Baseline, baselineName, type Scenario, type Target } from "./scenario.ts";
import { ratioOf, type Slice, type Summary, summarize } from "./statistics.ts";

/** One line of the table. */
export type Row = {
  scenario: Pick<Scenario, "name" | "title" | "concurrency" | "unit">;
  summary: Summary;
  /** Its speed in terms of the baselines at the same concurrency; null where there is none. */
  ratios: Record<Baseline, number | null>;
  verdict: Verdict | null;
};

export type Verdict = { met: boolean; text: string };

export type Machine = { cores: number; memoryGiB: number; processor: string; storage: string; loadBefore: number };

const NOTE = "Local workerd on one machine with the client beside it: not Cloudflare production. Compare the ratios.";

const number = (value: number, digits: number) =>
  Number.isFinite(value)
    ? value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    : "–";
const milliseconds = (value: number) => number(value, value < 10 ? 2 : value < 100 ? 1 : 0);
const rate = (value: number) => number(value, value < 10 ? 2 : value < 100 ? 1 : 0);
const ratio = (value: number | null) => (value === null ? "–" : number(value, 2));

function judge(target: Target, own: Slice[], summary: Summary, unit: number, slicesOf: SlicesOf): Verdict | null {
  if (summary.operations === 0) return { met: false, text: "nothing was measured" };
  if ("p50AtMostMs" in target) {
    return {
      met: summary.p50Ms <= target.p50AtMostMs,
      text: `p50 ${milliseconds(summary.p50Ms)} ms, at most ${target.p50AtMostMs} ms`,
    };
  }
  if ("atLeastPerSecond" in target) {
    const perSecond = summary.perSecond * unit;
    return {
      met: perSecond >= target.atLeastPerSecond,
      text: `${rate(perSecond)}/s, at least ${rate(target.atLeastPerSecond)}/s`,
    };
  }
  const reference = slicesOf(target.of);
  const value = reference === undefined ? null : ratioOf(own, reference);
  if (value === null) return null;
  return {
    met: value >= target.atLeast,
    text: `${number(value, 2)} of ${target.of}, at least ${number(target.atLeast, 2)}`,
  };
}

type SlicesOf = (name: string) => Slice[] | undefined;

/** The line of one scenario. `slicesOf`: the slices of any scenario of the run, by name. */
export function rowOf(scenario: Row["scenario"] & Pick<Scenario, "target">, slices: Slice[], slicesOf: SlicesOf): Row {
  const summary = summarize(slices);
  const ratios: Row["ratios"] = { hello: null, insert: null, read: null };
  for (const baseline of BASELINES) {
    const reference = slicesOf(baselineName(baseline, scenario.concurrency));
    if (reference !== undefined) ratios[baseline] = ratioOf(slices, reference);
  }
  const { target, unit } = scenario;
  const verdict = target ? judge(target, slices, summary, unit?.perOperation ?? 1, slicesOf) : null;
  return { scenario, summary, ratios, verdict };
}

const HEAD = [
  "scenario",
  "connections",
  "requests/s",
  "p50 ms",
  "p99 ms",
  "server CPU ms",
  "errors",
  "of hello",
  "of D1 insert",
  "of D1 read",
  "target",
];

const cellsOf = ({ scenario, summary, ratios, verdict }: Row): string[] => [
  scenario.title,
  String(scenario.concurrency),
  rate(summary.perSecond) +
    (scenario.unit ? ` (${rate(summary.perSecond * scenario.unit.perOperation)} ${scenario.unit.name})` : ""),
  milliseconds(summary.p50Ms),
  milliseconds(summary.p99Ms),
  summary.cpuMs === null ? "–" : milliseconds(summary.cpuMs),
  String(summary.errors),
  ratio(ratios.hello),
  ratio(ratios.insert),
  ratio(ratios.read),
  verdict === null ? "" : `${verdict.met ? "✓" : "✗"} ${verdict.text}`,
];

/** What the figures were measured on, in one line. */
export const machineLine = (machine: Machine): string =>
  `${machine.cores} cores (${machine.processor}), ${number(machine.memoryGiB, 0)} GiB memory, storage ${machine.storage}, ` +
  `load average before the run ${number(machine.loadBefore, 1)}. ${NOTE}`;

/** Cells in columns, numbers to the right: all columns but the first and the last. For a terminal, or as Markdown. */
export function renderTable(head: string[], rows: string[][], markdown: boolean): string {
  const isText = (i: number) => i === 0 || i === head.length - 1;
  if (markdown) {
    const line = (cells: string[]) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
    const rule = head.map((_, i) => (isText(i) ? "---" : "--:"));
    return [line(head), line(rule), ...rows.map(line)].join("\n");
  }
  const lines = [head, ...rows];
  const widths = head.map((_, i) => Math.max(...lines.map((line) => line[i]?.length ?? 0)));
  return lines
    .map((line) =>
      line
        .map((cell, i) => (isText(i) ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** The table of all scenarios, for a terminal. */
export const renderText = (rows: Row[]): string => renderTable(HEAD, rows.map(cellsOf), false);

/** The same table for README. */
export const renderMarkdown = (rows: Row[]): string => renderTable(HEAD, rows.map(cellsOf), true);
