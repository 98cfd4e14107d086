import type { PlannedJob } from "./plan.ts";
import type { JournalEntry } from "./recorder.ts";

/** Whether what readers are shown is what was acknowledged, no less, no more and no twice. Pure. */

export type Point = { epoch: number; attempt: number; loss: number | null };

/** One job as the API shows it when all is over. */
export type Reading = {
  jobId: number;
  plan: PlannedJob;
  /** What the user's last wish was answered with. */
  wish: "run" | "stop";
  /** The user has stopped it at some time: epochs of a leaving attempt do not count, so its curve may have a gap. */
  wasStopped: boolean;
  job: {
    status: string;
    phase: string;
    reason: string | null;
    attempt: number;
    data_complete: boolean | null;
    log_truncated: boolean;
  };
  /** The curve. */
  visible: Point[];
  /** All points by attempt, those that a later attempt took back included. */
  history: Point[];
  logs: { attempt: number; log_type: string; message: string }[];
  checkpoints: { id: string; attempt: number; epoch: number | null }[];
};

export type Verdict = { counts: Record<string, number>; violations: string[] };

/** Lines of the trainer begin with a word that no other process has. */
const OWN_LINE = /^[0-9a-f]{12} /;

/** What a job may have come to: status and reason. When the tries for lost runners are used up, no fate is reached. */
function expectedEnds({ plan, wish }: Reading): string[] {
  if (wish === "stop") return ["stopped user_stop"];
  const given = "failed retries_exhausted";
  if (plan.fate === "dies") return ["failed exit_nonzero", given];
  if (plan.fate === "refuses") return ["failed invalid_config", given];
  return ["completed done", given];
}

const times = <T>(items: Iterable<T>): Map<T, number> => {
  const counts = new Map<T, number>();
  for (const item of items) counts.set(item, (counts.get(item) ?? 0) + 1);
  return counts;
};

/**
 * @param journal what the runners read as acknowledged, in any order
 * @param emitted `epoch:loss` of every point that a trainer has reported
 */
export function check(readings: Reading[], journal: JournalEntry[], emitted: ReadonlySet<string>): Verdict {
  const violations: string[] = [];
  const counts: Record<string, number> = {};
  const count = (what: string, by = 1) => {
    counts[what] = (counts[what] ?? 0) + by;
  };
  const byJob = new Map<number, JournalEntry[]>();
  for (const entry of journal) byJob.set(entry.jobId, [...(byJob.get(entry.jobId) ?? []), entry]);

  for (const reading of readings) {
    const entries = byJob.get(reading.jobId) ?? [];
    const wrong = (text: string) => violations.push(`job ${reading.jobId} (${reading.plan.fate}): ${text}`);
    checkEnd(reading, wrong, count);
    checkPoints(reading, entries, emitted, wrong, count);
    checkCurve(reading, entries, wrong, count);
    checkLogs(reading, entries, wrong, count);
    checkCheckpoints(reading, entries, wrong, count);
  }
  return { counts, violations };
}

type Wrong = (text: string) => void;
type Count = (what: string, by?: number) => void;

function checkEnd(reading: Reading, wrong: Wrong, count: Count): void {
  const { job } = reading;
  count(`jobs ${job.status} (${job.reason})`);
  count("attempts", job.attempt);
  if (job.phase !== job.status) wrong(`its phase is still ${job.phase}`);
  const end = `${job.status} ${job.reason}`;
  if (!expectedEnds(reading).includes(end)) wrong(`ended as ${end}, not as ${expectedEnds(reading).join(" or ")}`);
  if (job.log_truncated) wrong("its log is truncated");
  if (job.data_complete !== true) count(`jobs ${job.status} (${job.reason}) that say their data are not complete`);
}

function checkPoints(
  { history }: Reading,
  entries: JournalEntry[],
  emitted: ReadonlySet<string>,
  wrong: Wrong,
  count: Count,
): void {
  const readable = times(history.map(({ attempt, epoch }) => `${attempt}:${epoch}`));
  for (const [key, n] of readable) if (n > 1) wrong(`point ${key} is readable ${n} times`);
  for (const { epoch, loss, attempt } of history) {
    count("points readable");
    if (!emitted.has(`${epoch}:${loss}`)) wrong(`point ${attempt}:${epoch} has a loss that no trainer reported`);
  }
  const losses = new Map(history.map(({ attempt, epoch, loss }) => [`${attempt}:${epoch}`, loss]));
  const seen = new Set<string>();
  for (const entry of entries) {
    if (entry.type !== "events") continue;
    count("batches acknowledged");
    for (const seq of entry.rejected) wrong(`event ${seq} of attempt ${entry.attempt} was rejected`);
    // After a stop nothing the attempt sends changes metrics; the batch of the last event holds such points too.
    const uncounted = entry.desired === "stop" || entry.events.some(({ event }) => event === "stopped");
    for (const { seq, event, data } of entry.events) {
      const numbered = `${entry.attempt}:${seq}`;
      if (seen.has(numbered)) count("events acknowledged again");
      else count("events acknowledged");
      seen.add(numbered);
      if (event !== "epoch_complete") continue;
      const key = `${entry.attempt}:${data.epoch}`;
      if (!readable.has(key)) {
        if (uncounted) count("points after a stop, not counted");
        else wrong(`point ${key} was acknowledged and is not readable`);
      } else if (losses.get(key) !== data.loss) {
        wrong(`point ${key} reads ${losses.get(key)}, acknowledged was ${data.loss}`);
      }
    }
  }
}

/** One line without a fork: of each epoch the point that no later attempt has taken back. */
function checkCurve(
  { job, plan, visible, history, wasStopped }: Reading,
  entries: JournalEntry[],
  wrong: Wrong,
  count: Count,
): void {
  const epochs = visible.map(({ epoch }) => epoch);
  if (new Set(epochs).size !== epochs.length) wrong("an epoch counts for two attempts");
  const resumeEpochs = new Map<number, number>();
  for (const entry of entries) if (entry.type === "accept") resumeEpochs.set(entry.attempt, entry.resumeEpoch);
  const isSuperseded = ({ attempt, epoch }: Point) =>
    [...resumeEpochs].some(([later, resumeEpoch]) => later > attempt && resumeEpoch < epoch);
  for (const point of visible) {
    if (isSuperseded(point))
      wrong(`point ${point.attempt}:${point.epoch} counts though a later attempt began before it`);
  }
  // An attempt whose accept nobody has heard the answer of has no known beginning.
  if (resumeEpochs.size === job.attempt) {
    const counting = history.filter((point) => !isSuperseded(point)).length;
    if (counting !== visible.length) wrong(`${counting} points should count, ${visible.length} do`);
    count("points superseded", history.length - counting);
  }
  if (job.status !== "completed" || wasStopped) return;
  const missing = Array.from({ length: plan.epochs }, (_, at) => at + 1).filter((epoch) => !epochs.includes(epoch));
  if (missing.length > 0) wrong(`completed without epochs ${missing.join(", ")}`);
}

function checkLogs({ logs }: Reading, entries: JournalEntry[], wrong: Wrong, count: Count): void {
  const readable = times(logs.map(({ attempt, log_type, message }) => `${attempt} ${log_type} ${message}`));
  for (const [line, n] of readable) {
    if (n > 1 && OWN_LINE.test(line.split(" ").slice(2).join(" "))) wrong(`line "${line}" is readable ${n} times`);
  }
  count("log lines readable", logs.length);
  const chunks = new Set<string>();
  for (const entry of entries) {
    if (entry.type !== "log") continue;
    const key = `${entry.attempt} ${entry.stream} ${entry.seq}`;
    if (chunks.has(key)) continue;
    chunks.add(key);
    count("log chunks acknowledged");
    for (const line of entry.text.split("\n")) {
      if (line !== "" && !readable.has(`${entry.attempt} ${entry.stream} ${line}`)) {
        wrong(`line "${line}" of chunk ${key} was acknowledged and is not readable`);
      }
    }
  }
}

function checkCheckpoints({ checkpoints }: Reading, entries: JournalEntry[], wrong: Wrong, count: Count): void {
  const readable = times(checkpoints.map(({ id }) => id));
  for (const [id, n] of readable) if (n > 1) wrong(`checkpoint ${id} is listed ${n} times`);
  // Of one epoch of an attempt the newest file stays: an attempt that is stopped right after it has saved saves again.
  const places = new Set(checkpoints.map(({ attempt, epoch }) => `${attempt}:${epoch}`));
  count("checkpoints readable", checkpoints.length);
  for (const entry of entries) {
    if (entry.type !== "events") continue;
    for (const { event, data } of entry.events) {
      if (event !== "checkpoint" || readable.has(String(data.artifact_id))) continue;
      if (places.has(`${entry.attempt}:${data.epoch}`)) count("checkpoints replaced by one of the same epoch");
      else {
        wrong(`checkpoint ${data.artifact_id} was acknowledged and is not listed`);
      }
    }
  }
}
