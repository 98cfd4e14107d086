import type { Limits } from "../runners/protocol.ts";
import type { Report } from "./events.ts";
import { maskSecrets } from "./mask.ts";
import { observe } from "./progress.ts";
import type { StoredMetric } from "./projection.ts";
import { createSegmenter, type SegmentWork, withoutSums } from "./segments.ts";
import type { JobSpec } from "./spec.ts";
import { type Head, type JobStore, MAX_ITEM_BYTES } from "./store.ts";

/** Lines are stored in pieces of at most this many characters: a row of D1 holds 2 MB, escapes included. */
const LOG_PIECE_CHARS = 256 * 1024;

/** One unit of work of a job's object: what it reads and changes before it is stored as a whole. */
export type Unit = {
  head: Head;
  readonly now: number;
  /** Whether the head has to be written back. */
  changed: boolean;
  /** Whether readers have to hear of it. */
  news: boolean;
  /** Points taken, which are stored together at the end. */
  readonly points: StoredMetric[];
};

export type Problem = { code: "VALIDATION_ERROR" | "FORBIDDEN"; field: string; message: string };

const invalid = (field: string, message: string): Problem => ({
  code: "VALIDATION_ERROR",
  field,
  message: `${field}: ${message}`,
});

const primaryOf = (spec: JobSpec) => ({ name: spec.primaryMetric, mode: spec.primaryMetricMode });

/** So many names of any length fit into a row. */
const HARMLESS_NAMES = 100;

/** Whether a point is more than a row may hold. */
const isLarge = (row: StoredMetric): boolean =>
  Object.keys(row.extraMetrics).length > HARMLESS_NAMES &&
  new TextEncoder().encode(JSON.stringify(row)).byteLength > MAX_ITEM_BYTES / 2;

/** Cuts lines into texts of whole lines; a line that is too long by itself is cut. */
function piecesOf(lines: string[]): string[] {
  const pieces: string[] = [];
  let piece = "";
  for (const line of lines) {
    const text = `${line
      .slice(0, LOG_PIECE_CHARS - 1)
      .replaceAll("\n", " ")
      .replaceAll("\0", " ")}\n`;
    if (piece.length + text.length > LOG_PIECE_CHARS) {
      pieces.push(piece);
      piece = "";
    }
    piece += text;
  }
  return piece === "" ? pieces : [...pieces, piece];
}

/** What one report stores, inside the caller's unit of work. */
export function createIntake(store: JobStore, limits: Limits) {
  const segmenter = createSegmenter();

  /** Stores points with the work for their summaries, in as many items as their size asks for. */
  function pushPoints(rows: StoredMetric[], segments: SegmentWork | null): void {
    if (store.outbox.push({ kind: "metrics", rows, segments })) return;
    if (rows.length > 1) {
      const half = rows.length >> 1;
      pushPoints(rows.slice(0, half), null);
      pushPoints(rows.slice(half), segments);
    } else if (segments !== null) {
      pushPoints(rows, null);
      pushPoints([], withoutSums(segments));
    }
  }

  /** Stores the points of a unit of work, at its end. */
  function flushPoints({ head, points }: Unit): void {
    const [first] = points;
    if (first === undefined) return;
    const { track, work } = segmenter.take(head.points, first.attempt, points);
    head.points = track;
    pushPoints(points, work);
  }

  /** Stores lines as they came; over the job's quota they are acknowledged, not stored, and the job says so. */
  function takeLog(
    unit: Unit,
    log: { stream: "stdout" | "stderr"; seq: number; text: string; bytes: number; atMs: number | null },
  ): void {
    if (log.text === "") return;
    const { head } = unit;
    unit.changed = true;
    if (head.counters.logBytes + log.bytes > limits.job_log_bytes) {
      unit.news ||= !head.logTruncated;
      head.logTruncated = true;
      return;
    }
    const text = maskSecrets(log.text);
    const lineCount = text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
    store.outbox.push({
      kind: "log",
      row: {
        firstLine: head.counters.lines + 1,
        lineCount,
        attempt: head.state.attempt,
        stream: log.stream,
        seq: log.seq,
        text,
        createdAt: log.atMs ?? unit.now,
      },
    });
    head.counters.lines += lineCount;
    head.counters.logBytes += log.bytes;
  }

  /** @returns what is wrong with the report, if anything; nothing of it is stored then */
  function takeReport(unit: Unit, report: Report, seq: number): Problem | null {
    const { head } = unit;
    const { state } = head;
    const spec = store.spec();
    // After a stop or an end nothing an attempt sends changes its metrics.
    const counts = state.phase === "running" || state.phase === "suspect" || state.phase === "finalizing";
    if (spec === undefined) return null;
    const tooLarge = invalid("data", "too large for one event; send images in pages");
    switch (report.type) {
      case "log":
        for (const text of piecesOf(report.lines)) {
          takeLog(unit, { stream: report.stream, seq, text, bytes: text.length, atMs: report.atMs });
        }
        return null;
      case "checkpoint": {
        // A runner that leaves after a stop still hands in its last checkpoint.
        if (!counts && state.phase !== "leaving") return null;
        const upload = store.uploads.get(report.artifactId);
        if (upload?.attempt !== state.attempt) {
          const field = "data.artifact_id";
          return { code: "FORBIDDEN", field, message: `${field}: is no artifact of this attempt` };
        }
        const isOne = upload.row.kind === "checkpoint" || upload.row.kind === "model";
        if (upload.state !== "complete" || !isOne) return invalid("data.artifact_id", "is no complete checkpoint");
        const row = { ...upload.row, epoch: report.epoch, role: report.role ?? upload.row.role };
        // Most was said already when the upload was opened.
        if (row.epoch === upload.row.epoch && row.role === upload.row.role) return null;
        store.uploads.put({ ...upload, row });
        store.outbox.push({ kind: "artifact", row });
        return null;
      }
      case "metric": {
        if (!counts) return null;
        if (!store.addMetricNames(Object.keys(report.extraMetrics), limits.metric_names)) {
          return invalid("data.extra_metrics", `a job has at most ${limits.metric_names} metric names`);
        }
        const { type: _, ...point } = report;
        const row = { ...point, id: head.counters.metricId + 1, attempt: state.attempt, createdAt: unit.now };
        if (isLarge(row)) return tooLarge;
        unit.points.push(row);
        head.counters.metricId += 1;
        break;
      }
      case "validation": {
        if (!counts) return null;
        const { images, type: _, ...result } = report;
        const taskType = result.taskType ?? String(spec.wire.task_type);
        const { attempt } = state;
        const stored = store.outbox.push(
          { kind: "validation", attempt, createdAt: unit.now, result: { ...result, taskType } },
          { kind: "images", attempt, epoch: report.epoch, offset: 0, images, replaceAll: true },
        );
        if (!stored) return tooLarge;
        break;
      }
      case "validationImages": {
        if (!counts) return null;
        const { epoch, offset, images } = report;
        const page = { attempt: state.attempt, epoch, offset, images, replaceAll: false };
        return store.outbox.push({ kind: "images", ...page }) ? null : tooLarge;
      }
      case "started":
        if (!counts) return null;
        break;
      case "end":
        return null;
    }
    head.progress = observe(head.progress, report, primaryOf(spec));
    unit.changed = true;
    unit.news = true;
    return null;
  }

  return { takeLog, takeReport, flushPoints };
}
