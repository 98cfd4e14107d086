import type { Principal } from "../../../auth/principal.ts";
import type { Config } from "../../../config.ts";
import { AppError } from "../../../shared/errors.ts";
import type { TrainingJob } from "../object.ts";
import type { JobService } from "../service.ts";
import { specOf } from "../spec.ts";
import { LIVE_URL } from "./frames.ts";
import { RELAY_DEFAULTS, relay } from "./relay.ts";
import { readTicket, signTicket, TICKET_LIFE_S, type Ticket } from "./ticket.ts";

export type LiveService = ReturnType<typeof createLiveService>;

/** Who wants to watch: a caller with a credential, or the holder of a ticket. */
export type Watcher = { principal: Principal; ticket: Ticket | null };

/** Watching a job as it goes. Every member of its project may. */
export function createLiveService(deps: {
  jobs: Pick<JobService, "readable">;
  objects: DurableObjectNamespace<TrainingJob>;
  config: Config;
  now: () => number;
}) {
  const { jobs, objects, config, now } = deps;

  /** Whether somebody who watches may go on: the credential still stands, and so does the membership. */
  async function mayWatch(principal: Principal, jobId: number): Promise<boolean> {
    const at = now();
    if (principal.apiToken === undefined && at >= (principal.expiresAtMs ?? Number.POSITIVE_INFINITY)) return false;
    const current =
      principal.apiToken === undefined ? principal : { ...principal, apiToken: { ...principal.apiToken, atMs: at } };
    try {
      await jobs.readable(current, jobId);
      return true;
    } catch (thrown) {
      if (thrown instanceof AppError) return false;
      throw thrown;
    }
  }

  return {
    mayWatch,

    /** @throws UNAUTHORIZED · JOB_NOT_FOUND */
    async makeTicket(principal: Principal, jobId: number) {
      await jobs.readable(principal, jobId);
      return { ticket: await signTicket(config.jwtSecret, jobId, principal, now()), expires_in: TICKET_LIFE_S };
    },

    /** The holder of a ticket for this job. Whether it was used before is found out with `open`. @throws UNAUTHORIZED */
    async holder(jobId: number, text: string): Promise<Watcher> {
      const ticket = await readTicket(config.jwtSecret, jobId, text, now());
      if (ticket === null) throw badTicket();
      return { principal: ticket.principal, ticket };
    },

    /** An empty stream for somebody who may watch. @throws UNAUTHORIZED · JOB_NOT_FOUND */
    async look({ principal }: Watcher, jobId: number): Promise<ReadableStream<Uint8Array>> {
      await jobs.readable(principal, jobId);
      return new ReadableStream({ start: (out) => out.close() });
    },

    /**
     * Opens the stream of a job's events.
     * @param after the number of the last event that the watcher has had; null: from now on
     * @returns null when nothing comes any more after that event
     * @throws UNAUTHORIZED, also for a used ticket · JOB_NOT_FOUND · RATE_LIMITED
     */
    async open(
      { principal, ticket }: Watcher,
      jobId: number,
      after: number | null,
    ): Promise<ReadableStream<Uint8Array> | null> {
      const { job } = await jobs.readable(principal, jobId);
      const object = objects.getByName(String(jobId));
      const url = new URL(LIVE_URL);
      if (after !== null) url.searchParams.set("after", String(after));
      if (ticket !== null) {
        url.searchParams.set("ticket", ticket.id);
        url.searchParams.set("expires", String(ticket.expiresAtMs));
      }
      const ask = () => object.fetch(url, { headers: { upgrade: "websocket" } });
      let answer = await ask();
      if (answer.status === 404) {
        // A job that was never started is not known to its object.
        await object.introduce(specOf(job));
        answer = await ask();
      }
      if (answer.status === 204) return null;
      if (answer.status === 401) throw badTicket();
      if (answer.status === 429) {
        throw new AppError("RATE_LIMITED", "Too many watch this job; try again later", {
          headers: { "retry-after": "30" },
        });
      }
      if (answer.webSocket === null) throw new Error(`no socket to the job: ${answer.status}`);
      return relay(answer.webSocket, { ...RELAY_DEFAULTS, mayWatch: () => mayWatch(principal, jobId) });
    },
  };
}

const badTicket = () => new AppError("UNAUTHORIZED", "The ticket is unknown, expired or used");
