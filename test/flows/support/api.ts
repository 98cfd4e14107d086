import { setTimeout as sleep } from "node:timers/promises";

/** Calls of a user over real HTTP. */

export type Json = Record<string, unknown>;

export type Job = {
  id: number;
  status: string;
  phase: string;
  reason: string | null;
  message: string | null;
  attempt: number;
  current_epoch: number;
  data_complete: boolean | null;
  runner_id: string | null;
  best: { value: number; epoch: number } | null;
};
export type Metric = { epoch: number; attempt: number; loss: number | null; accuracy: number | null };
export type LogLine = { log_type: "stdout" | "stderr"; message: string; attempt: number };

export class User {
  readonly #url: string;
  #token = "";

  private constructor(url: string) {
    this.#url = url;
  }

  static async logIn(url: string): Promise<User> {
    const user = new User(url);
    const body = { email: "user@example.com", password: "password123" };
    user.#token = (await user.call<{ access_token: string }>("POST", "/auth/login", body)).access_token;
    return user;
  }

  /** Any call of the Training API; an object as body is sent as JSON. @throws with status and body unless it worked */
  async call<T = Json>(method: string, path: string, body?: Json | FormData): Promise<T> {
    const headers = new Headers();
    if (this.#token !== "") headers.set("authorization", `Bearer ${this.#token}`);
    const isForm = body instanceof FormData;
    if (body !== undefined && !isForm) headers.set("content-type", "application/json");
    const response = await fetch(`${this.#url}/api/v1${path}`, {
      method,
      headers,
      body: isForm || body === undefined ? body : JSON.stringify(body),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return JSON.parse(text) as T;
  }

  async createJob(config: Json): Promise<number> {
    const body = {
      config: { framework: "embedded", model_name: "cnn_small", task_type: "image_classification", ...config },
    };
    return (await this.call<{ id: number }>("POST", "/training/jobs", body)).id;
  }

  /** Starts a job; a runner that has just begun to live gets a few seconds. */
  async start(jobId: number, query = ""): Promise<Json> {
    for (let tries = 0; ; tries += 1) {
      try {
        return await this.call("POST", `/training/jobs/${jobId}/start${query}`);
      } catch (error) {
        if (tries === 50 || !String(error).includes("TRAINING_SERVICE_UNAVAILABLE")) throw error;
        await sleep(200);
      }
    }
  }

  stop(jobId: number): Promise<Json> {
    return this.call("POST", `/training/stop/${jobId}`);
  }

  job(jobId: number): Promise<Job> {
    return this.call("GET", `/training/jobs/${jobId}`);
  }

  metrics(jobId: number): Promise<Metric[]> {
    return this.call("GET", `/training/jobs/${jobId}/metrics?limit=10000`);
  }

  logs(jobId: number): Promise<LogLine[]> {
    return this.call("GET", `/training/jobs/${jobId}/logs?limit=5000`);
  }

  /** Waits until the job is as wanted. @throws with the job as it is after `patienceMs` */
  async until(jobId: number, wanted: (job: Job) => boolean, patienceMs = 40_000): Promise<Job> {
    const giveUpAt = Date.now() + patienceMs;
    for (;;) {
      // A server that is being restarted has no answer.
      const job = await this.job(jobId).catch((error: unknown) => {
        if (error instanceof TypeError) return null;
        throw error;
      });
      if (job !== null && wanted(job)) return job;
      if (Date.now() > giveUpAt) throw new Error(`the job is still ${JSON.stringify(job)}`);
      await sleep(100);
    }
  }
}
