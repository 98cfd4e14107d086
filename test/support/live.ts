import { runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import type { Json, Person } from "./api.ts";
import { call } from "./api.ts";
import { SseReader } from "./sse.ts";

/** Helpers of the tests that watch jobs. */

export const eventsPath = (jobId: number) => `/api/v1/training/jobs/${jobId}/events`;

export const request = (path: string, headers: Record<string, string> = {}) =>
  exports.default.fetch(`http://localhost:8000${path}`, { headers });

/** Opens a stream. @throws unless it is one */
export async function watch(jobId: number, who: Person, after?: string): Promise<SseReader> {
  const headers: Record<string, string> = { authorization: `Bearer ${who.token}` };
  if (after !== undefined) headers["last-event-id"] = after;
  const answer = await request(eventsPath(jobId), headers);
  if (answer.status !== 200 || answer.body === null) throw new Error(`${answer.status} ${await answer.text()}`);
  return new SseReader(answer.body);
}

export const buyTicket = (jobId: number, who: Person) =>
  call<Json & { ticket: string; url: string; expires_in: number }>("POST", `${eventsPath(jobId)}/ticket`, {
    token: who.token,
  });

export const socketsOf = (jobId: number) =>
  runInDurableObject(env.TRAINING_JOB.getByName(String(jobId)), (_, state) => state.getWebSockets().length);
