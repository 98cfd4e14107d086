import { errorText, logger } from "../../../shared/logger.ts";
import { MORE, PING, readFrame } from "./frames.ts";

export type RelayOptions = {
  /** A comment goes out this often, so that proxies keep the connection and a dead client is found out. */
  beatMs: number;
  /** Every so many beats it is asked whether the watcher still may watch. */
  beatsPerCheck: number;
  /** A watcher for whom more than this waits unread is dropped. */
  maxQueuedBytes: number;
  /** So is one who has read nothing of what waits for so many beats. */
  maxStuckBeats: number;
  /** @throws when it cannot be found out now */
  mayWatch: () => Promise<boolean>;
};

/** How the Worker treats watchers: cut off within a minute of losing the right, and 256 KiB behind at most. */
export const RELAY_DEFAULTS = { beatMs: 15_000, beatsPerCheck: 4, maxQueuedBytes: 256 * 1024, maxStuckBeats: 4 };

/** Checks that may fail in a row, with D1 out of reach, before a watcher is cut off. */
const MAX_FAILED_CHECKS = 3;
/** Below this much waiting, the next page of a replay is asked for. */
const LOW_WATER_BYTES = 32 * 1024;
/** What a client waits before it connects again. */
const RETRY_MS = 3_000;

const utf8 = new TextEncoder();

/**
 * One watcher's server-sent events (WHATWG HTML, section 9.2), out of the socket to the job's object. It holds no more than
 * `maxQueuedBytes` and one message for a client that does not read, and then ends that client's stream and no other.
 */
export function relay(socket: WebSocket, options: RelayOptions): ReadableStream<Uint8Array> {
  let newest = -1;
  let hasMore = false;
  let isOver = false;
  let beats = 0;
  let stuckBeats = 0;
  let silentBeats = 0;
  let failedChecks = 0;
  let timer: ReturnType<typeof setInterval> | undefined;

  const end = (reason: string) => {
    if (isOver) return false;
    isOver = true;
    clearInterval(timer);
    try {
      socket.close(1000, reason);
    } catch {
      // It is closed already.
    }
    return true;
  };

  return new ReadableStream<Uint8Array>(
    {
      start(out) {
        const queued = () => LOW_WATER_BYTES - (out.desiredSize ?? LOW_WATER_BYTES);
        const finish = (reason: string) => {
          if (end(reason)) out.close();
        };
        const drop = (reason: string) => {
          // Not closed: what waits would be held until the client reads it, or for ever.
          if (end(reason)) out.error(new Error(`watcher dropped: ${reason}`));
        };

        const take = (text: string) => {
          silentBeats = 0;
          const frame = readFrame(text);
          // What was sent again because the object's memory was lost is known by its number.
          const events = frame.events.filter(([id]) => id > newest);
          if (queued() > options.maxQueuedBytes) return drop("slow");
          if (events.length > 0) {
            newest = events.at(-1)?.[0] ?? newest;
            out.enqueue(
              utf8.encode(events.map(([id, type, data]) => `id: ${id}\nevent: ${type}\ndata: ${data}\n\n`).join("")),
            );
          }
          hasMore = frame.more;
          if (hasMore && queued() < LOW_WATER_BYTES) askForMore();
        };

        const check = async () => {
          let allowed: boolean;
          try {
            allowed = await options.mayWatch();
            failedChecks = 0;
          } catch (thrown) {
            failedChecks += 1;
            allowed = failedChecks < MAX_FAILED_CHECKS;
            logger.warn("watcher not checked", { failedChecks, error: errorText(thrown) });
          }
          if (!allowed) finish("not allowed");
        };

        const beat = () => {
          beats += 1;
          silentBeats += 1;
          stuckBeats = queued() >= LOW_WATER_BYTES ? stuckBeats + 1 : 0;
          if (stuckBeats >= options.maxStuckBeats) return drop("stuck");
          // The object's side answers each ping: without any word the client had better connect again.
          if (silentBeats > 3) return finish("silence");
          try {
            socket.send(PING);
          } catch {
            return finish("closed");
          }
          out.enqueue(utf8.encode(": beat\n\n"));
          if (beats % options.beatsPerCheck === 0) void check();
        };

        out.enqueue(utf8.encode(`retry: ${RETRY_MS}\n\n`));
        socket.addEventListener("message", ({ data }) => {
          if (typeof data !== "string" || isOver) return;
          if (data.startsWith("{")) take(data);
          else silentBeats = 0;
        });
        socket.addEventListener("close", () => finish("closed"));
        socket.addEventListener("error", () => finish("error"));
        timer = setInterval(beat, options.beatMs);
        socket.accept();
      },
      pull() {
        if (hasMore && !isOver) askForMore();
      },
      cancel() {
        end("client gone");
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: LOW_WATER_BYTES }),
  );

  function askForMore(): void {
    hasMore = false;
    try {
      socket.send(MORE);
    } catch {
      // The close event ends the stream.
    }
  }
}
