import type { ReadableStream } from "node:stream/web";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import type { z } from "zod";
import { type Backoff, parseRetryAfter, retryDelayMs } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import { Problem } from "./wire.ts";

/** HTTP calls to the server, and the one rule of which are made again. */

const compress = promisify(gzip);
const DEFAULT_TIMEOUT_MS = 30_000;
/** Below this a body is not worth compressing. */
const GZIP_FROM_BYTES = 16 * 1024;

/** The server said no, in its own words. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly code: string;
  readonly field: string | null;
  readonly retryAfterMs: number | null;

  constructor(
    problem: { status: number; code: string; detail: string; field?: string | null },
    retryAfterMs: number | null,
  ) {
    super(`${problem.detail} (${problem.status} ${problem.code})`);
    this.status = problem.status;
    this.code = problem.code;
    this.field = problem.field ?? null;
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * No answer of the server: the network, a timeout, or something in between that answered in its place (a proxy's error
 * page). It never says anything about the job, whatever its status was.
 */
export class TransportError extends Error {
  override readonly name = "TransportError";
  readonly retryAfterMs: number | null;

  constructor(message: string, options: { cause?: unknown; retryAfterMs?: number | null } = {}) {
    super(message, { cause: options.cause });
    this.retryAfterMs = options.retryAfterMs ?? null;
  }
}

/** Retried: 5xx, 408, 429 and transport errors. Any other answer is final. */
export function isRetryable(error: unknown): error is ApiError | TransportError {
  if (error instanceof TransportError) return true;
  return error instanceof ApiError && (error.status >= 500 || error.status === 408 || error.status === 429);
}

export type CallOptions = {
  token?: string;
  json?: unknown;
  /** Sent as it is; the length is known, so it goes out with `Content-Length`. */
  body?: Uint8Array<ArrayBuffer>;
  contentType?: string;
  headers?: Record<string, string>;
  /** For the whole call; of a streamed one for its head. */
  timeoutMs?: number;
  /** The body is read by the caller, who watches it. */
  streamed?: boolean;
  signal?: AbortSignal;
};

export class Client {
  readonly baseUrl: string;
  readonly #userAgent: string;

  /** @param baseUrl without a slash at its end */
  constructor(baseUrl: string, userAgent: string) {
    this.baseUrl = baseUrl;
    this.#userAgent = userAgent;
  }

  /** A call with a JSON answer of the given shape. @throws ApiError · TransportError · the signal's reason */
  async call<T>(method: string, path: string, schema: z.ZodType<T>, options: CallOptions = {}): Promise<T> {
    const response = await this.send(method, path, options);
    const parsed = schema.safeParse(await jsonOf(response, options.signal));
    if (!parsed.success) {
      const issue = parsed.error.issues[0];
      throw new TransportError(
        `${method} ${path}: not the expected answer: ${issue?.path.join(".")} ${issue?.message}`,
      );
    }
    return parsed.data;
  }

  /** A call whose answer is read by the caller. @throws ApiError · TransportError · the signal's reason */
  async send(method: string, path: string, options: CallOptions = {}): Promise<Response> {
    const headers = new Headers({ "user-agent": this.#userAgent, accept: "application/json", ...options.headers });
    if (options.token !== undefined) headers.set("authorization", `Bearer ${options.token}`);
    let body = options.body;
    if (options.json !== undefined) {
      body = Buffer.from(JSON.stringify(options.json));
      headers.set("content-type", "application/json");
    } else if (options.contentType !== undefined) headers.set("content-type", options.contentType);
    if (body && body.byteLength >= GZIP_FROM_BYTES && options.contentType !== "application/octet-stream") {
      const packed = await compress(body);
      // Noise grows by compressing, and limits count the bytes on the wire.
      if (packed.byteLength < body.byteLength) {
        body = packed;
        headers.set("content-encoding", "gzip");
      }
    }
    const timeout = new AbortController();
    const timer = setTimeout(
      () => timeout.abort(new DOMException("no answer in time", "TimeoutError")),
      options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
    );
    timer.unref();
    const response = await fetch(this.baseUrl + path, {
      method,
      headers,
      body,
      redirect: "manual",
      signal: options.signal ? AbortSignal.any([options.signal, timeout.signal]) : timeout.signal,
    }).catch((error: unknown) => {
      clearTimeout(timer);
      options.signal?.throwIfAborted();
      throw new TransportError(`${method} ${path}: ${reasonOf(error)}`, { cause: error });
    });
    if (options.streamed || response.body === null) clearTimeout(timer);
    if (response.status < 300) return response;
    throw await this.#failure(method, path, response, options.signal);
  }

  async #failure(method: string, path: string, response: Response, signal: AbortSignal | undefined): Promise<Error> {
    const serverMs = Date.parse(response.headers.get("date") ?? "");
    const retryAfterMs = parseRetryAfter(
      response.headers.get("retry-after"),
      Number.isFinite(serverMs) ? serverMs : Date.now(),
    );
    const problem = Problem.safeParse(await jsonOf(response, signal).catch(() => null));
    signal?.throwIfAborted();
    if (problem.success) return new ApiError({ status: response.status, ...problem.data }, retryAfterMs);
    const target = response.headers.get("location");
    return new TransportError(
      `${method} ${path}: status ${response.status}${target === null ? "" : `, redirected to ${target}`}, not from the server's API`,
      { retryAfterMs },
    );
  }
}

async function jsonOf(response: Response, signal: AbortSignal | undefined): Promise<unknown> {
  try {
    return await response.json();
  } catch (error) {
    signal?.throwIfAborted();
    throw new TransportError(`the answer was cut or is not JSON: ${reasonOf(error)}`, { cause: error });
  }
}

/** What undici hides in the cause. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.name === "TimeoutError") return "no answer in time";
  const { cause } = error;
  if (cause instanceof AggregateError && cause.errors[0] instanceof Error) return cause.errors[0].message;
  return cause instanceof Error && cause.message !== "" ? cause.message : error.message;
}

/**
 * Reads a body in pieces; ends with a TransportError when none comes for `idleMs`.
 */
export async function* bodyOf(response: Response, idleMs: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const reader = (response.body as ReadableStream<Uint8Array> | null)?.getReader();
  if (reader === undefined) return;
  try {
    for (;;) {
      let timer: NodeJS.Timeout | undefined;
      const idle = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new TransportError(`no data for ${idleMs / 1000} s`)), idleMs);
      });
      const { done, value } = await Promise.race([reader.read(), idle])
        .catch((error: unknown) => {
          signal.throwIfAborted();
          throw error instanceof TransportError ? error : new TransportError(`the body was cut: ${reasonOf(error)}`);
        })
        .finally(() => clearTimeout(timer));
      if (done) return;
      yield value;
    }
  } finally {
    // Lets go of the connection when the reader leaves early; after the end it does nothing.
    await reader.cancel().catch(() => undefined);
  }
}

/** The network is taken to be away when a call fails so long after the last one that got through. */
const AWAY_AFTER_MS = 3_000;

/**
 * Wakes those who wait to try again. When one call gets through after the network was away, nobody has to sleep out a long
 * delay that was drawn while it was. One kind of call that fails while others get through wakes nobody.
 */
export class Reachability {
  readonly #clock: Clock;
  #away = false;
  #workedMs: number;
  #wake = new AbortController();

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#workedMs = clock.now();
  }

  failed(error: unknown): void {
    const cut = error instanceof TransportError && error.retryAfterMs === null;
    if (cut && this.#clock.now() - this.#workedMs >= AWAY_AFTER_MS) this.#away = true;
  }

  worked(): void {
    this.#workedMs = this.#clock.now();
    if (!this.#away) return;
    this.#away = false;
    const wake = this.#wake;
    this.#wake = new AbortController();
    wake.abort();
  }

  /** Sleeps, shorter when the server is heard of again. A time that the server itself asked for is kept. */
  async sleep(ms: number, error: unknown, signal: AbortSignal): Promise<void> {
    const asked = (error instanceof ApiError || error instanceof TransportError) && error.retryAfterMs !== null;
    await this.#clock.sleep(ms, asked ? signal : AbortSignal.any([signal, this.#wake.signal]));
  }
}

export type RetryOptions = {
  clock: Clock;
  backoff: Backoff;
  signal: AbortSignal;
  reachability: Reachability;
  /** No further try begins after this time has passed; default: never gives up. */
  giveUpAfterMs?: number;
  onRetry?: (error: ApiError | TransportError, delayMs: number, failures: number) => void;
};

/**
 * Makes a call until it succeeds or fails for good.
 * @throws the final error, the last retryable one after `giveUpAfterMs`, or the signal's reason
 */
export async function retrying<T>(call: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { clock, signal, reachability } = options;
  const startedMs = clock.now();
  for (let failures = 0; ; failures += 1) {
    signal.throwIfAborted();
    try {
      const value = await call();
      reachability.worked();
      return value;
    } catch (error) {
      signal.throwIfAborted();
      if (!isRetryable(error)) {
        if (error instanceof ApiError) reachability.worked();
        throw error;
      }
      reachability.failed(error);
      if (clock.now() - startedMs >= (options.giveUpAfterMs ?? Number.POSITIVE_INFINITY)) throw error;
      const delayMs = retryDelayMs(options.backoff, failures, clock.random(), error.retryAfterMs);
      options.onRetry?.(error, delayMs, failures + 1);
      await reachability.sleep(delayMs, error, signal);
    }
  }
}
