import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";

/** A user of the API who knows that the server may be gone at any moment: every call is made until it is answered. */

const TIMEOUT_MS = 20_000;
const PAUSE_MS = 250;

const JobSchema = z.looseObject({
  id: z.int(),
  status: z.string(),
  phase: z.string(),
  reason: z.string().nullable(),
  message: z.string().nullable(),
  attempt: z.int(),
  current_epoch: z.int(),
  data_complete: z.boolean().nullable(),
  log_truncated: z.boolean(),
});
export type ShownJob = z.infer<typeof JobSchema>;

export type Answer = { status: number; body: unknown };

export class User {
  readonly #url: string;
  #token = "";

  constructor(url: string) {
    this.#url = url;
  }

  async logIn(email: string, password: string): Promise<void> {
    const body = await this.expect("POST", "/auth/login", { email, password });
    this.#token = z.object({ access_token: z.string() }).parse(body).access_token;
  }

  /** Answered with whatever status but 5xx; 503 of `start` is an answer too. */
  async call(method: string, path: string, body?: object | FormData, token = this.#token): Promise<Answer> {
    for (;;) {
      try {
        const isForm = body instanceof FormData;
        const response = await fetch(`${this.#url}/api/v1${path}`, {
          method,
          headers: {
            ...(token !== "" && { authorization: `Bearer ${token}` }),
            ...(body !== undefined && !isForm && { "content-type": "application/json" }),
          },
          body: body === undefined || isForm ? body : JSON.stringify(body),
          signal: AbortSignal.timeout(TIMEOUT_MS),
        });
        const text = await response.text();
        const answer: unknown = text === "" ? null : JSON.parse(text);
        if (response.status < 500 || response.status === 503) return { status: response.status, body: answer };
      } catch {
        // Not answered, or cut: the server is being killed or started.
      }
      await sleep(PAUSE_MS);
    }
  }

  /** @throws unless the answer is 2xx */
  async expect(method: string, path: string, body?: object | FormData): Promise<unknown> {
    const answer = await this.call(method, path, body);
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  async job(jobId: number): Promise<ShownJob> {
    return JobSchema.parse(await this.expect("GET", `/training/jobs/${jobId}`));
  }

  /** Starts a job; when an earlier try of this call got through without an answer, that counts. */
  async start(jobId: number, resume = false): Promise<void> {
    for (;;) {
      const { status, body } = await this.call("POST", `/training/jobs/${jobId}/start${resume ? "?resume=true" : ""}`);
      if (status === 200 || status === 409) return;
      // No checkpoint had been stored when it was stopped.
      if (status === 404 && resume) return this.start(jobId);
      if (status !== 503) throw new Error(`start of job ${jobId}: ${status} ${JSON.stringify(body)}`);
      await sleep(PAUSE_MS);
    }
  }

  /** @returns whether the job is stopped now; false: it had come to its end before */
  async stop(jobId: number): Promise<boolean> {
    const { status, body } = await this.call("POST", `/training/stop/${jobId}`);
    if (status !== 200 && status !== 409) throw new Error(`stop of job ${jobId}: ${status} ${JSON.stringify(body)}`);
    return status === 200;
  }

  /** Waits until the job is as wanted, or gives null after the time. */
  async until(jobId: number, wanted: (job: ShownJob) => boolean, endsAtMs: number): Promise<ShownJob | null> {
    for (;;) {
      const job = await this.job(jobId);
      if (wanted(job)) return job;
      if (Date.now() > endsAtMs) return null;
      await sleep(400);
    }
  }
}
