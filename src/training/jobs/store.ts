import { initialState, type JobState } from "./machine.ts";
import { initialProgress, type Progress } from "./progress.ts";
import type { ProjectionItem, StoredArtifact } from "./projection.ts";
import type { Outbox } from "./projector.ts";
import type { PointTrack } from "./segments.ts";
import { advance, gaps } from "./seq-window.ts";
import type { JobSpec } from "./spec.ts";

/**
 * The own storage of one job's object: synchronous SQLite, written before anything is answered.
 * Each migration runs once and is never edited; the key-value entries hold the small state that every call reads.
 */
const MIGRATIONS: string[] = [
  `CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT NOT NULL, bytes INTEGER NOT NULL);
   CREATE TABLE seen_events (attempt INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (attempt, seq)) WITHOUT ROWID;
   CREATE TABLE plain_events (attempt INTEGER NOT NULL, identity TEXT NOT NULL, PRIMARY KEY (attempt, identity)) WITHOUT ROWID;
   CREATE TABLE log_chunks (attempt INTEGER NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL, sha256 TEXT NOT NULL,
     PRIMARY KEY (attempt, stream, seq)) WITHOUT ROWID;
   CREATE TABLE metric_names (name TEXT PRIMARY KEY) WITHOUT ROWID;
   CREATE TABLE artifacts (id TEXT PRIMARY KEY, attempt INTEGER NOT NULL, state TEXT NOT NULL, row TEXT NOT NULL,
     upload_id TEXT, part_size INTEGER NOT NULL, parts INTEGER NOT NULL, created_at INTEGER NOT NULL) WITHOUT ROWID;
   CREATE TABLE artifact_parts (artifact_id TEXT NOT NULL, n INTEGER NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
     PRIMARY KEY (artifact_id, n)) WITHOUT ROWID;`,
  `CREATE TABLE dead_letters (id INTEGER PRIMARY KEY, item TEXT NOT NULL, error TEXT NOT NULL);`,
  // Every call asks for the open and the given up ones, which stay few while the others become many.
  `CREATE INDEX artifacts_by_state ON artifacts (state, created_at);`,
];

/** Items that D1 refuses for good are kept for somebody to look at, the newest of them. */
const MAX_DEAD_LETTERS = 1_000;

/** D1 and this storage hold 2 MB in a row or a parameter; an item is escaped once more on its way. */
export const MAX_ITEM_BYTES = 1_000_000;

const utf8 = new TextEncoder();

/** Running numbers and sums of the whole job. */
export type Counters = { metricId: number; lines: number; logBytes: number; rev: number };

/** What the last event of an attempt announced. */
export type Announced = { seq: number; logChunks: { stdout: number; stderr: number } | null; intact: boolean };

/** Everything a call reads first, in one value; written back as a whole. */
export type Head = {
  state: JobState;
  progress: Progress;
  counters: Counters;
  /** Contiguous mark of the event numbers of the newest attempt. */
  mark: number;
  /** Contiguous marks of the log chunk numbers of the newest attempt. */
  logMarks: { stdout: number; stderr: number };
  announced: Announced | null;
  logTruncated: boolean;
  /** Of the points of the newest attempt; absent before the first one. */
  points?: PointTrack;
};

/** Which logs are put away in files. Persisted: only grows by optional fields. */
export type Archive = {
  /** Of all attempts up to this one. */
  attempt: number;
  /** Rows up to this line are still to be deleted from D1. */
  deleteTo: number | null;
};

export type Upload = {
  id: string;
  attempt: number;
  /** `aborting`: given up, or not needed any more, but R2 may still have something of it. */
  state: "open" | "complete" | "aborting" | "aborted";
  row: StoredArtifact;
  uploadId: string | null;
  partSize: number;
  parts: number;
};

type UploadRow = {
  id: string;
  attempt: number;
  state: Upload["state"];
  row: string;
  upload_id: string | null;
  part_size: number;
  parts: number;
};

const toUpload = (row: UploadRow): Upload => ({
  id: row.id,
  attempt: row.attempt,
  state: row.state,
  row: JSON.parse(row.row) as StoredArtifact,
  uploadId: row.upload_id,
  partSize: row.part_size,
  parts: row.parts,
});

export type JobStore = ReturnType<typeof openJobStore>;

/**
 * Opens the storage and brings its schema up to date. One that knows no job yet gets no tables: a call with an id that no
 * job has leaves nothing behind.
 */
export function openJobStore(storage: DurableObjectStorage) {
  const { sql, kv } = storage;
  let spec = kv.get<JobSpec>("spec");
  const migrate = () => {
    const version = kv.get<number>("schema") ?? 0;
    if (version === MIGRATIONS.length) return;
    storage.transactionSync(() => {
      for (const migration of MIGRATIONS.slice(version)) sql.exec(migration);
      kv.put("schema", MIGRATIONS.length);
    });
  };
  if (spec !== undefined) migrate();

  let archive: Archive | null = null;

  // What the tables hold, and what the transaction under way adds to it.
  let metricNames: Set<string> | null = null;
  const newNames = new Set<string>();
  const knownNames = (): Set<string> => {
    metricNames ??= new Set(
      sql
        .exec<{ name: string }>("SELECT name FROM metric_names")
        .toArray()
        .map((row) => row.name),
    );
    return metricNames;
  };

  /**
   * Items up to this id are in D1. They are deleted with the next write: a commit for them alone would be one more for each
   * report, and its answer would wait for it. An object that ends before sends them once more, which changes nothing.
   */
  let deliveredTo = 0;
  const dropDelivered = (): void => {
    if (deliveredTo > 0) sql.exec("DELETE FROM outbox WHERE id <= ?", deliveredTo);
    deliveredTo = 0;
  };

  /** What waits in the outbox; null: to be asked. Nobody else writes these tables. */
  let waiting: { oldest: number | null; newest: number | null } | null = null;
  const ask = (): { oldest: number | null; newest: number | null } => {
    // An object that knows no job has no tables, and nothing to tell.
    if (spec === undefined) return { oldest: null, newest: null };
    waiting ??= sql
      .exec<{ oldest: number | null; newest: number | null }>(
        "SELECT min(id) AS oldest, max(id) AS newest FROM outbox WHERE id > ?",
        deliveredTo,
      )
      .one();
    return waiting;
  };

  /** Whether an upload is open or being removed; null: to be asked. */
  let isUploading: boolean | null = null;
  const hasUploads = (): boolean => {
    isUploading ??=
      sql.exec("SELECT 1 FROM artifacts WHERE state IN ('open', 'aborting') LIMIT 1").toArray().length > 0;
    return isUploading;
  };

  const above = (attempt: number, mark: number): number[] =>
    sql
      .exec<{ seq: number }>("SELECT seq FROM seen_events WHERE attempt = ? AND seq > ? ORDER BY seq", attempt, mark)
      .toArray()
      .map((row) => row.seq);

  return {
    /** One transaction: all of `write` is stored, or nothing. */
    transaction<T>(write: () => T): T {
      newNames.clear();
      try {
        const result = storage.transactionSync(write);
        for (const name of newNames) metricNames?.add(name);
        return result;
      } catch (thrown) {
        waiting = null;
        isUploading = null;
        throw thrown;
      } finally {
        newNames.clear();
      }
    },

    head: (): Head =>
      kv.get<Head>("head") ?? {
        state: initialState(),
        progress: initialProgress(),
        counters: { metricId: 0, lines: 0, logBytes: 0, rev: 0 },
        mark: 0,
        logMarks: { stdout: 0, stderr: 0 },
        announced: null,
        logTruncated: false,
      },
    putHead: (head: Head) => kv.put("head", head),

    spec: (): JobSpec | undefined => spec,
    /** Tells the object its job; what it knows already stays. */
    putSpec(given: JobSpec): void {
      if (spec !== undefined) return;
      migrate();
      kv.put("spec", given);
      spec = given;
    },

    /** What the job's row says now, in place of what is known. */
    replaceSpec(given: JobSpec): void {
      if (spec === undefined) migrate();
      kv.put("spec", given);
      spec = given;
    },

    /** Back to an object that knows no job. */
    async forget(): Promise<void> {
      spec = undefined;
      metricNames = null;
      archive = null;
      waiting = null;
      deliveredTo = 0;
      isUploading = null;
      await storage.deleteAlarm();
      await storage.deleteAll();
    },

    archive(): Archive {
      archive ??= kv.get<Archive>("archive") ?? { attempt: 0, deleteTo: null };
      return archive;
    },
    putArchive(changed: Archive): void {
      kv.put("archive", changed);
      archive = changed;
    },

    outbox: {
      /** False when one of the items is too large for a row of D1; none is stored then. */
      push(...items: ProjectionItem[]): boolean {
        const rows = items.map((item) => {
          const json = JSON.stringify(item);
          return { json, bytes: utf8.encode(json).byteLength };
        });
        if (rows.some(({ bytes }) => bytes > MAX_ITEM_BYTES)) return false;
        dropDelivered();
        for (const { json, bytes } of rows) {
          const { id } = sql
            .exec<{ id: number }>("INSERT INTO outbox (item, bytes) VALUES (?, ?) RETURNING id", json, bytes)
            .one();
          if (waiting !== null) waiting = { oldest: waiting.oldest ?? id, newest: id };
        }
        return true;
      },
      peek(maxBytes: number, maxItems: number) {
        const rows = sql.exec<{ id: number; item: string; bytes: number }>(
          "SELECT id, item, bytes FROM outbox WHERE id > ? ORDER BY id LIMIT ?",
          deliveredTo,
          maxItems,
        );
        const items: ProjectionItem[] = [];
        let lastId = 0;
        let bytes = 0;
        for (const row of rows) {
          bytes += row.bytes;
          if (items.length > 0 && bytes > maxBytes) break;
          items.push(JSON.parse(row.item) as ProjectionItem);
          lastId = row.id;
        }
        return items.length === 0 ? null : { lastId, items };
      },
      removeUpTo(id: number): void {
        deliveredTo = id;
        const isEmpty = waiting?.newest != null && waiting.newest <= id;
        waiting = isEmpty ? { oldest: null, newest: null } : null;
      },
      /** Deletes what was delivered and not deleted yet. */
      sweep: dropDelivered,
      setAside(id: number, error: string): void {
        waiting = null;
        storage.transactionSync(() => {
          sql.exec("INSERT OR REPLACE INTO dead_letters SELECT id, item, ? FROM outbox WHERE id = ?", error, id);
          sql.exec("DELETE FROM outbox WHERE id = ?", id);
          sql.exec(
            "DELETE FROM dead_letters WHERE id NOT IN (SELECT id FROM dead_letters ORDER BY id DESC LIMIT ?)",
            MAX_DEAD_LETTERS,
          );
        });
      },
      oldestId: () => ask().oldest,
      newestId: () => ask().newest,
    } satisfies Outbox & { push(...items: ProjectionItem[]): boolean; sweep(): void },

    events: {
      /** Those of the numbers that have not arrived before. */
      fresh(attempt: number, mark: number, numbers: number[]): Set<number> {
        const fresh = new Set(numbers.filter((seq) => seq > mark));
        if (fresh.size === 0) return fresh;
        const seen = sql.exec<{ seq: number }>(
          "SELECT seq FROM seen_events WHERE attempt = ? AND seq BETWEEN ? AND ?",
          attempt,
          Math.min(...fresh),
          Math.max(...fresh),
        );
        for (const { seq } of seen) fresh.delete(seq);
        return fresh;
      },
      /** Takes new numbers and returns the mark: what follows it directly only moves it and needs no row. */
      add(attempt: number, mark: number, fresh: number[]): number {
        let next = mark;
        const ahead: number[] = [];
        for (const seq of [...fresh].sort((a, b) => a - b)) {
          if (seq === next + 1) next = seq;
          else ahead.push(seq);
        }
        if (ahead.length > 0) {
          sql.exec(
            "INSERT OR IGNORE INTO seen_events (attempt, seq) SELECT ?, value FROM json_each(?)",
            attempt,
            JSON.stringify(ahead),
          );
        }
        const joined = advance(next, above(attempt, next));
        if (joined > next) sql.exec("DELETE FROM seen_events WHERE attempt = ? AND seq <= ?", attempt, joined);
        return joined;
      },
      missing: (attempt: number, mark: number) => gaps(mark, above(attempt, mark)),
      /** The highest number that has arrived. */
      newest: (attempt: number, mark: number): number => above(attempt, mark).at(-1) ?? mark,
    },

    /** A new attempt numbers its events and chunks from 1; of older ones nothing is accepted any more. */
    forgetAttempts(before: number): void {
      for (const table of ["seen_events", "plain_events", "log_chunks"]) {
        sql.exec(`DELETE FROM ${table} WHERE attempt < ?`, before);
      }
    },

    /** Notes a plain event; false when the attempt had it already. */
    addPlain: (attempt: number, identity: string): boolean =>
      sql.exec("INSERT OR IGNORE INTO plain_events (attempt, identity) VALUES (?, ?)", attempt, identity).rowsWritten >
      0,

    /** Notes names that the job has not used before; false, and none is noted, when it would have more than `max`. */
    addMetricNames(names: string[], max: number): boolean {
      const known = knownNames();
      const fresh = names.filter((name) => !known.has(name) && !newNames.has(name));
      if (fresh.length === 0) return true;
      if (known.size + newNames.size + fresh.length > max) return false;
      sql.exec("INSERT OR IGNORE INTO metric_names (name) SELECT value FROM json_each(?)", JSON.stringify(fresh));
      for (const name of fresh) newNames.add(name);
      return true;
    },

    logs: {
      hashOf: (attempt: number, stream: string, seq: number): string | undefined =>
        sql
          .exec<{ sha256: string }>(
            "SELECT sha256 FROM log_chunks WHERE attempt = ? AND stream = ? AND seq = ?",
            attempt,
            stream,
            seq,
          )
          .toArray()[0]?.sha256,
      add: (attempt: number, stream: string, seq: number, sha256: string) =>
        void sql.exec(
          "INSERT INTO log_chunks (attempt, stream, seq, sha256) VALUES (?, ?, ?, ?)",
          attempt,
          stream,
          seq,
          sha256,
        ),
      /** Moves the mark of a stream over the chunks that have arrived. */
      advance: (attempt: number, stream: string, mark: number): number =>
        advance(
          mark,
          sql
            .exec<{ seq: number }>(
              "SELECT seq FROM log_chunks WHERE attempt = ? AND stream = ? AND seq > ? ORDER BY seq",
              attempt,
              stream,
              mark,
            )
            .toArray()
            .map((row) => row.seq),
        ),
    },

    uploads: {
      add(upload: Upload, now: number): void {
        isUploading = null;
        sql.exec(
          "INSERT INTO artifacts (id, attempt, state, row, upload_id, part_size, parts, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
          upload.id,
          upload.attempt,
          upload.state,
          JSON.stringify(upload.row),
          upload.uploadId,
          upload.partSize,
          upload.parts,
          now,
        );
      },
      get(id: string): Upload | undefined {
        const row = sql.exec<UploadRow>("SELECT * FROM artifacts WHERE id = ?", id).toArray()[0];
        return row === undefined ? undefined : toUpload(row);
      },
      put(upload: Upload): void {
        isUploading = null;
        sql.exec(
          "UPDATE artifacts SET state = ?, row = ? WHERE id = ?",
          upload.state,
          JSON.stringify(upload.row),
          upload.id,
        );
      },
      addPart: (id: string, n: number, etag: string, size: number) =>
        void sql.exec(
          "INSERT OR REPLACE INTO artifact_parts (artifact_id, n, etag, size) VALUES (?, ?, ?, ?)",
          id,
          n,
          etag,
          size,
        ),
      parts: (id: string) =>
        sql
          .exec<{ n: number; etag: string; size: number }>(
            "SELECT n, etag, size FROM artifact_parts WHERE artifact_id = ? ORDER BY n",
            id,
          )
          .toArray(),
      removePart: (id: string, n: number) =>
        void sql.exec("DELETE FROM artifact_parts WHERE artifact_id = ? AND n = ?", id, n),
      forgetParts: (id: string) => void sql.exec("DELETE FROM artifact_parts WHERE artifact_id = ?", id),
      /** Complete uploads, newest attempt and epoch first. */
      complete: (): Upload[] =>
        sql
          .exec<UploadRow>("SELECT * FROM artifacts WHERE state = 'complete'")
          .toArray()
          .map(toUpload)
          .sort(
            (a, b) =>
              b.attempt - a.attempt || (b.row.epoch ?? 0) - (a.row.epoch ?? 0) || b.row.createdAt - a.row.createdAt,
          ),
      openBefore: (createdBeforeMs: number): Upload[] =>
        sql
          .exec<UploadRow>("SELECT * FROM artifacts WHERE state = 'open' AND created_at <= ?", createdBeforeMs)
          .toArray()
          .map(toUpload),
      aborting: (): Upload[] =>
        hasUploads()
          ? sql.exec<UploadRow>("SELECT * FROM artifacts WHERE state = 'aborting'").toArray().map(toUpload)
          : [],
      oldestOpenAt: (): number | null =>
        hasUploads()
          ? sql.exec<{ at: number | null }>("SELECT min(created_at) AS at FROM artifacts WHERE state = 'open'").one().at
          : null,
    },
  };
}
