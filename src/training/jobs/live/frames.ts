import type { NumberedEvent } from "./events.ts";

/**
 * What goes over the one WebSocket between a job's object and the Worker that serves a watcher. From the object: frames, as
 * JSON. To it: `MORE` when the watcher has room for the next page, and `PING`, which the runtime answers by itself.
 */

/** Events in their order: number, name, data as JSON text. `more`: the object waits to be asked for the next page. */
export type Frame = { events: [number, string, string][]; more: boolean };

export const MORE = "more";
export const PING = "ping";
export const PONG = "pong";

/** The path of the upgrade request; its host means nothing. */
export const LIVE_URL = "https://job/live";

export const writeFrame = (events: NumberedEvent[], more: boolean): string =>
  JSON.stringify({
    events: events.map(({ id, event }) => [id, event.type, JSON.stringify(event.data)]),
    more,
  } satisfies Frame);

export const readFrame = (text: string): Frame => JSON.parse(text) as Frame;
