import { errorText, logger } from "../../../shared/logger.ts";
import { isTerminal, type JobState, STATUS_OF } from "../machine.ts";
import type { JobRow, ProjectionItem } from "../projection.ts";
import { coalesce, eventsOf, type LiveEvent, type NumberedEvent, statusEvent } from "./events.ts";
import { MORE, PING, PONG, writeFrame } from "./frames.ts";
import { openJournal } from "./journal.ts";

/** What happens within this time goes to the watchers as one message. */
const TICK_MS = 100;
/** Sockets of one job; each is one watcher. */
const MAX_WATCHERS = 1_000;

/** Survives hibernation with its socket. `at`: the number up to which it was sent; null before the first page. */
type Seat = { live: boolean; at: number | null };

export type LiveHub = ReturnType<typeof createLiveHub>;

/** Whether the newest run of a job is over for watchers: it has ended and nothing of it can come any more. */
export const isOver = ({ phase, dataComplete, tailUntilMs }: JobState): boolean =>
  isTerminal(phase) && (dataComplete === true || tailUntilMs === null);

/**
 * The watchers of one job, each a hibernating WebSocket, and what they are sent. The object may sleep between events: what
 * a socket has had stands in its attachment, what happened in the journal.
 * @param jobIdOf the object's job, undefined while it knows none
 * @param present what the object would tell D1 of its job at this moment
 */
export function createLiveHub(
  ctx: DurableObjectState,
  jobIdOf: () => number | undefined,
  present: () => { state: JobState; row: JobRow },
) {
  const journal = openJournal(ctx.storage);
  let noted: ProjectionItem[] = [];
  let pending: NumberedEvent[] = [];
  let timer: ReturnType<typeof setTimeout> | null = null;
  /** The newest number that every live socket was sent. */
  let sent = journal.isOpen() ? journal.sent() : 0;

  const seats = new WeakMap<WebSocket, Seat>();
  const seatOf = (socket: WebSocket): Seat => {
    // What was attached here is a seat.
    const seat = seats.get(socket) ?? (socket.deserializeAttachment() as Seat);
    seats.set(socket, seat);
    return seat;
  };
  const sit = (socket: WebSocket, seat: Seat) => {
    seats.set(socket, seat);
    socket.serializeAttachment(seat);
  };

  const say = (socket: WebSocket, frame: string): boolean => {
    try {
      socket.send(frame);
      return true;
    } catch (thrown) {
      logger.info("watcher gone", { error: errorText(thrown) });
      return false;
    }
  };
  const hangUp = (socket: WebSocket, reason: string) => {
    try {
      socket.close(1000, reason);
    } catch (thrown) {
      logger.info("watcher gone", { error: errorText(thrown) });
    }
  };
  const dismiss = (socket: WebSocket) => {
    sit(socket, { live: false, at: null });
    hangUp(socket, "end");
  };
  const watchers = () => ctx.getWebSockets();

  /** Sends what has gathered to everybody who is up to date. */
  function tick(): void {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    if (pending.length === 0) return;
    const events = coalesce(pending);
    pending = [];
    sent = events.at(-1)?.id ?? sent;
    const frame = writeFrame(events, false);
    const isLast = events.at(-1)?.event.type === "end";
    for (const socket of watchers()) {
      if (!seatOf(socket).live) continue;
      say(socket, frame);
      if (isLast) dismiss(socket);
    }
  }

  /** Sends one socket its next page, and counts it as live once it has everything. */
  function serve(socket: WebSocket): void {
    const jobId = jobIdOf();
    if (jobId === undefined) {
      hangUp(socket, "gone");
      return;
    }
    // What gathers stands in the journal too: nobody gets it twice.
    tick();
    const { state, row } = present();
    const newest = journal.newest();
    const { at } = seatOf(socket);
    const anew = (...before: LiveEvent[]) =>
      [...before, statusEvent(jobId, row)].map((event) => ({ id: newest, event }));
    const gap: LiveEvent = { type: "reset", data: { job_id: jobId, reason: "events_missing" } };
    const stored = at !== null && journal.reaches(at) ? journal.page(at) : null;
    const upTo = stored === null ? newest : (stored.at(-1)?.id ?? newest);
    const events = stored === null ? anew(...(at === null ? [] : [gap])) : coalesce(stored);
    const hasAll = upTo === newest;
    const isEnd = hasAll && isOver(state);
    if (isEnd && events.at(-1)?.event.type !== "end") events.push({ id: newest, event: endEvent(jobId, state) });
    sit(socket, { live: hasAll, at: upTo });
    if (events.length > 0) say(socket, writeFrame(events, !hasAll));
    if (isEnd) dismiss(socket);
  }

  // Sockets that outlived the object: what was stored last and perhaps not sent goes out again; by its numbers a Worker
  // knows what it has had.
  if (journal.isOpen() && watchers().length > 0) {
    for (pending = journal.page(sent); pending.length > 0; pending = journal.page(sent)) tick();
  }
  ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair(PING, PONG));

  return {
    /** Before a unit of work: what one that failed has noted is forgotten. */
    begin(): void {
      noted = [];
    },

    /** Something is being stored for D1. */
    note(items: ProjectionItem[]): void {
      if (journal.isOpen()) noted.push(...items);
    },

    /** After a unit of work, before anything is awaited: keeps what watchers are to hear and sends it with the next tick. */
    flush(state: JobState, now: number): void {
      const items = noted;
      noted = [];
      const jobId = journal.isOpen() ? jobIdOf() : undefined;
      if (jobId === undefined) return;
      const events = items.flatMap((item) => eventsOf(jobId, item));
      const over = isOver(state);
      if (over !== journal.hasEnded()) {
        journal.noteEnded(over);
        if (over) {
          events.push(endEvent(jobId, state));
          // All watchers go with it; of sockets that are closed from here nothing more is heard.
          journal.linger(now);
        }
      }
      if (events.length === 0) return;
      if (!journal.isRecording(now, () => watchers().length > 0)) {
        journal.miss();
        return;
      }
      pending.push(...journal.add(events, sent));
      timer ??= setTimeout(tick, TICK_MS);
    },

    /**
     * A Worker asks for a watcher's socket: an upgrade with `after`, the last number it has had, and `ticket` with `expires`
     * where it came with one.
     * @returns 101 · 204 when it has everything of a job that has ended · 401 ticket used · 404 job unknown here · 429
     */
    connect(request: Request, now: number): Response {
      if (jobIdOf() === undefined) return new Response(null, { status: 404 });
      journal.open();
      const { searchParams } = new URL(request.url);
      const ticket = searchParams.get("ticket");
      if (ticket !== null && !journal.useTicket(ticket, Number(searchParams.get("expires")), now)) {
        return new Response(null, { status: 401 });
      }
      if (watchers().length >= MAX_WATCHERS) return new Response(null, { status: 429 });
      const after = searchParams.get("after");
      const at = after === null ? null : Number(after);
      const over = isOver(present().state);
      journal.noteEnded(over);
      if (over && at !== null && at === journal.newest()) return new Response(null, { status: 204 });
      if (!over) journal.record();
      const [client, server] = Object.values(new WebSocketPair());
      if (client === undefined || server === undefined) throw new Error("a pair has two sockets");
      ctx.acceptWebSocket(server);
      sit(server, { live: false, at });
      serve(server);
      return new Response(null, { status: 101, webSocket: client });
    },

    /** A watcher's Worker has room for the next page. */
    message(socket: WebSocket, message: string | ArrayBuffer): void {
      if (message === MORE && !seatOf(socket).live) serve(socket);
    },

    /** A watcher has gone. */
    closed(socket: WebSocket, now: number): void {
      if (watchers().every((other) => other === socket)) journal.linger(now);
    },

    /** When events that nobody may come back for are forgotten; null while somebody watches, or none are kept. */
    expiresAtMs: (): number | null => journal.untilMs(),

    /** The alarm rings: forgets them if it is time. */
    expire(now: number): void {
      journal.isRecording(now, () => watchers().length > 0);
    },

    /** The job goes away with the object's storage. */
    forget(): void {
      if (timer !== null) clearTimeout(timer);
      timer = null;
      pending = [];
      noted = [];
      sent = 0;
      journal.forget();
      for (const socket of watchers()) hangUp(socket, "gone");
    },
  };
}

const endEvent = (jobId: number, { phase, reason }: JobState): LiveEvent => ({
  type: "end",
  data: { job_id: jobId, status: STATUS_OF[phase], reason },
});
