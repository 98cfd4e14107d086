import type { LiveEvent, NumberedEvent } from "./events.ts";

/** The newest events of a job are kept within these bounds; who missed more than that is told to load the job anew. */
const MAX_EVENTS = 5_000;
const MAX_CHARS = 4 * 1024 * 1024;
/** One page of a replay: at least one event, and no more of them than this. */
const PAGE_CHARS = 256 * 1024;

/** After the last watcher has gone, events are kept on for so long, so that one who comes back has missed nothing. */
const LINGER_MS = 15 * 60_000;

/** Persisted as a whole. Only grows by optional fields. */
type Meta = {
  /** Whether events are being kept. */
  recording: boolean;
  /** The newest number when no row is there. */
  base: number;
  /** While nothing is kept: something happened since, so no number that was given out is up to date any more. */
  missed: boolean;
  /** Since nobody watches: until when events are kept on. */
  untilMs: number | null;
  /** Whether the end of the job's run has been told. */
  ended: boolean;
};

type Row = { id: number; type: string; data: string };

const toEvent = ({ id, type, data }: Row): NumberedEvent => ({
  id,
  // What was stored from an event is one.
  event: { type, data: JSON.parse(data) as unknown } as LiveEvent,
});

export type Journal = ReturnType<typeof openJournal>;

/**
 * The newest events of one job in its object's own storage, numbered for good. A job that nobody watches keeps none and
 * pays nothing for it. Calls between two awaits are stored together.
 */
export function openJournal({ sql, kv }: DurableObjectStorage) {
  let meta = kv.get<Meta>("live") ?? null;
  let size: { events: number; chars: number } | null = null;

  const save = (changed: Meta) => {
    meta = changed;
    kv.put("live", changed);
  };

  const bounds = (base: number): { oldest: number; newest: number } => {
    const row = sql.exec<{ a: number | null; b: number | null }>("SELECT min(id) AS a, max(id) AS b FROM live_events");
    const { a, b } = row.one();
    return { oldest: a ?? base + 1, newest: b ?? base };
  };

  /** Removes the oldest events beyond the bounds, a quarter at a time, so that this is rare. */
  function trim(): void {
    size ??= sql
      .exec<{ events: number; chars: number }>(
        "SELECT count(*) AS events, coalesce(sum(length(data)), 0) AS chars FROM live_events",
      )
      .one();
    if (size.events <= MAX_EVENTS && size.chars <= MAX_CHARS) return;
    let { events, chars } = size;
    let upTo = 0;
    for (const row of sql.exec<{ id: number; n: number }>(
      "SELECT id, length(data) AS n FROM live_events ORDER BY id",
    )) {
      // The newest one stays, whatever its size.
      if (events === 1 || (events <= 0.75 * MAX_EVENTS && chars <= 0.75 * MAX_CHARS)) break;
      upTo = row.id;
      events -= 1;
      chars -= row.n;
    }
    sql.exec("DELETE FROM live_events WHERE id <= ?", upTo);
    size = { events, chars };
  }

  return {
    /** Whether somebody has ever watched this job. */
    isOpen: (): boolean => meta !== null,

    /** Makes the tables, once. */
    open(): void {
      if (meta !== null) return;
      sql.exec(`CREATE TABLE IF NOT EXISTS live_events (id INTEGER PRIMARY KEY, type TEXT NOT NULL, data TEXT NOT NULL, sent INTEGER NOT NULL);
        CREATE TABLE IF NOT EXISTS live_used_tickets (id TEXT PRIMARY KEY, expires_at INTEGER NOT NULL) WITHOUT ROWID;`);
      save({ recording: false, base: 0, missed: false, untilMs: null, ended: false });
    },

    /** Somebody watches: events are kept from now on. */
    record(): void {
      if (meta === null || (meta.recording && meta.untilMs === null)) return;
      save({ ...meta, recording: true, missed: false, untilMs: null });
    },

    /** Nobody watches any more; said again it changes nothing. */
    linger(now: number): void {
      if (meta?.recording && meta.untilMs === null) save({ ...meta, untilMs: now + LINGER_MS });
    },

    untilMs: (): number | null => (meta?.recording ? meta.untilMs : null),

    /** Whether what happens now is kept; `isWatched` is asked only when it matters. */
    isRecording(now: number, isWatched: () => boolean): boolean {
      if (meta === null || !meta.recording) return false;
      if (isWatched()) return true;
      // The last watcher was cut off together with the object.
      if (meta.untilMs === null) {
        this.linger(now);
        return true;
      }
      if (now < meta.untilMs) return true;
      const { newest } = bounds(meta.base);
      sql.exec("DELETE FROM live_events");
      size = null;
      save({ ...meta, recording: false, base: newest, missed: false, untilMs: null });
      return false;
    },

    /** Something happened that was not kept. */
    miss(): void {
      if (meta !== null && !meta.missed) save({ ...meta, base: meta.base + 1, missed: true });
    },

    hasEnded: (): boolean => meta?.ended ?? false,
    noteEnded(ended: boolean): void {
      if (meta !== null && meta.ended !== ended) save({ ...meta, ended });
    },

    /**
     * Keeps events and numbers them.
     * @param sent the newest number that all watchers were sent
     */
    add(events: LiveEvent[], sent: number): NumberedEvent[] {
      let id = this.newest();
      const numbered = events.map((event) => {
        id += 1;
        const data = JSON.stringify(event.data);
        sql.exec("INSERT INTO live_events (id, type, data, sent) VALUES (?, ?, ?, ?)", id, event.type, data, sent);
        if (size !== null) size = { events: size.events + 1, chars: size.chars + data.length };
        return { id, event };
      });
      trim();
      return numbered;
    },

    newest: (): number => (meta === null ? 0 : bounds(meta.base).newest),

    /** The newest number that is known to have been sent to all watchers, for an object that has just woken. */
    sent: (): number =>
      meta === null
        ? 0
        : (sql.exec<{ sent: number }>("SELECT sent FROM live_events ORDER BY id DESC LIMIT 1").toArray()[0]?.sent ??
          meta.base),

    /** Whether everything after this number is here. */
    reaches(after: number): boolean {
      if (meta === null) return false;
      const { oldest, newest } = bounds(meta.base);
      return after >= oldest - 1 && after <= newest;
    },

    /** The first events after a number, in their order. */
    page(after: number): NumberedEvent[] {
      const page: NumberedEvent[] = [];
      let chars = 0;
      for (const row of sql.exec<Row>("SELECT id, type, data FROM live_events WHERE id > ? ORDER BY id", after)) {
        chars += row.data.length;
        if (page.length > 0 && chars > PAGE_CHARS) break;
        page.push(toEvent(row));
      }
      return page;
    },

    /** Uses a ticket up; false when it was used before. Old ones are forgotten: their own time is over. */
    useTicket(id: string, expiresAtMs: number, now: number): boolean {
      sql.exec("DELETE FROM live_used_tickets WHERE expires_at < ?", now - 60_000);
      return (
        sql.exec("INSERT OR IGNORE INTO live_used_tickets (id, expires_at) VALUES (?, ?)", id, expiresAtMs)
          .rowsWritten > 0
      );
    },

    /** The storage was cleared. */
    forget(): void {
      meta = null;
      size = null;
    },
  };
}
