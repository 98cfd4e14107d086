import { appendFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

/**
 * Loaded into a runner before its own code (`node --import`): notes in `CHAOS_JOURNAL` what the server has acknowledged to it,
 * as it reads the answers. The runner itself is not changed and knows nothing of it.
 */

export type JournalEntry =
  | { type: "accept"; jobId: number; attempt: number; token: string; resumeEpoch: number }
  | {
      type: "events";
      jobId: number;
      attempt: number;
      desired: string;
      rejected: number[];
      events: { seq: number; event: string; data: Record<string, unknown> }[];
    }
  | { type: "log"; jobId: number; attempt: number; stream: string; seq: number; text: string };

/** The fields of calls and answers that are noted; the server has checked the one, the runner checks the other. */
type AcceptAnswer = { job_token: string; attempt: number; resume: { epoch: number; weights_only: boolean } | null };
type EventsRequest = { job_id: number; events: { seq: number; event: string; data: Record<string, unknown> }[] };

const ACCEPT = /\/internal\/jobs\/(\d+)\/accept$/;
const LOG = /\/internal\/jobs\/(\d+)\/logs\/(stdout|stderr)\/(\d+)$/;
const CALLBACK = /\/internal\/training\/callback$/;

/** The attempt that a job token is for: the payload of a JWT is readable by anybody. */
function attemptOf(headers: Headers): number {
  const payload = headers.get("authorization")?.split(".")[1] ?? "";
  return (JSON.parse(Buffer.from(payload, "base64url").toString()) as { attempt: number }).attempt;
}

function textOf(init: RequestInit): string {
  if (!(init.body instanceof Uint8Array)) return "";
  const isPacked = new Headers(init.headers).get("content-encoding") === "gzip";
  return (isPacked ? gunzipSync(init.body) : Buffer.from(init.body)).toString("utf8");
}

/** What an answered call means for the journal; null for calls that acknowledge nothing. */
function entryOf(url: string, init: RequestInit, answer: string): JournalEntry | null {
  const headers = new Headers(init.headers);
  const accept = ACCEPT.exec(url);
  if (accept) {
    const { job_token, attempt, resume } = JSON.parse(answer) as AcceptAnswer;
    const resumeEpoch = resume === null || resume.weights_only ? 0 : resume.epoch;
    return { type: "accept", jobId: Number(accept[1]), attempt, token: job_token, resumeEpoch };
  }
  const log = LOG.exec(url);
  if (log) {
    const [, jobId, stream = "", seq] = log;
    const text = textOf(init);
    return { type: "log", jobId: Number(jobId), attempt: attemptOf(headers), stream, seq: Number(seq), text };
  }
  if (CALLBACK.test(url)) {
    const { job_id, events } = JSON.parse(textOf(init)) as EventsRequest;
    const { desired, rejected } = JSON.parse(answer) as { desired: string; rejected: { seq: number }[] };
    return {
      type: "events",
      jobId: job_id,
      attempt: attemptOf(headers),
      desired,
      rejected: rejected.map(({ seq }) => seq),
      events,
    };
  }
  return null;
}

const journal = process.env.CHAOS_JOURNAL;
const original = globalThis.fetch;
if (journal !== undefined) {
  globalThis.fetch = async (input, init = {}) => {
    const url = String(input);
    const response = await original(input, init);
    if (!response.ok || !(ACCEPT.test(url) || LOG.test(url) || CALLBACK.test(url))) return response;
    // An answer that is cut is none: this throws as reading it there would.
    const answer = await response.text();
    const entry = entryOf(url, init, answer);
    if (entry !== null) appendFileSync(journal, `${JSON.stringify(entry)}\n`);
    return new Response(answer, { status: response.status, headers: response.headers });
  };
}
