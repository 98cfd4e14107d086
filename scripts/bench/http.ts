import { connect, type Socket } from "node:net";

/**
 * The client side of a load test: one keep-alive connection with one request at a time. node:http takes four times the
 * processor time for the same request, on a machine whose other half the server needs.
 */

export type HttpRequest = {
  method: string;
  path: string;
  headers?: Record<string, string>;
  body?: string | Uint8Array;
};

export type HttpAnswer = { status: number; headers: string; body: Buffer };

const HEAD_END = Buffer.from("\r\n\r\n");
const LINE_END = Buffer.from("\r\n");

/** Answers without a body, whatever their headers say (RFC 9110, 6.4.1). */
const isBodiless = (status: number) => status === 204 || status === 304;

/**
 * Puts one HTTP/1.1 answer together from the pieces in which it arrives. Takes Content-Length and chunked bodies; one that
 * ends with the connection is an error, because keep-alive is what is measured. Pure.
 */
export class AnswerReader {
  #pieces: Buffer[] = [];
  #sizeBytes = 0;
  #wantedBytes = 0;

  /** The whole answer, or null as long as something is missing. @throws on an answer that this client cannot read */
  push(piece: Buffer): HttpAnswer | null {
    this.#pieces.push(piece);
    this.#sizeBytes += piece.byteLength;
    if (this.#sizeBytes < this.#wantedBytes) return null;
    const bytes = this.#pieces.length === 1 ? piece : Buffer.concat(this.#pieces);
    this.#pieces = [bytes];
    const headEnd = bytes.indexOf(HEAD_END);
    if (headEnd < 0) return null;
    const head = bytes.toString("latin1", 0, headEnd);
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1]);
    if (!Number.isInteger(status)) throw new Error(`not an HTTP answer: ${head.slice(0, 40)}`);
    const from = headEnd + HEAD_END.byteLength;
    const body = isBodiless(status) ? { bytes: Buffer.alloc(0), end: from } : this.#body(bytes, head, from);
    if (body === null) return null;
    if (body.end !== bytes.byteLength) throw new Error("more bytes than one answer");
    this.#pieces = [];
    this.#sizeBytes = 0;
    this.#wantedBytes = 0;
    return { status, headers: head, body: body.bytes };
  }

  #body(bytes: Buffer, head: string, from: number): { bytes: Buffer; end: number } | null {
    const length = /^content-length: *(\d+)/im.exec(head)?.[1];
    if (length !== undefined) {
      const end = from + Number(length);
      this.#wantedBytes = end;
      return bytes.byteLength < end ? null : { bytes: bytes.subarray(from, end), end };
    }
    if (!/^transfer-encoding: *chunked/im.test(head)) throw new Error("an answer without a length");
    const parts: Buffer[] = [];
    for (let at = from; ; ) {
      const lineEnd = bytes.indexOf(LINE_END, at);
      if (lineEnd < 0) return null;
      const size = Number.parseInt(bytes.toString("latin1", at, lineEnd), 16);
      const start = lineEnd + LINE_END.byteLength;
      const end = start + size + LINE_END.byteLength;
      if (bytes.byteLength < end) {
        this.#wantedBytes = end;
        return null;
      }
      if (size === 0) return { bytes: Buffer.concat(parts), end };
      parts.push(bytes.subarray(start, start + size));
      at = end;
    }
  }
}

/** How long one request may take before it counts as an error. */
const PATIENCE_MS = 30_000;

/** The server closes a connection that was idle for some seconds, and may do so just when the next request is sent. */
const IDLE_MS = 1_000;

type Waiting = { resolve: (answer: HttpAnswer) => void; reject: (error: Error) => void };

export class Connection {
  readonly #origin: URL;
  #socket: Socket | null = null;
  #waiting: Waiting | null = null;
  #usedAtMs = 0;

  constructor(origin: URL) {
    this.#origin = origin;
  }

  /** Sends one request and waits for its answer. @throws when the connection breaks or nothing comes */
  request(request: HttpRequest): Promise<HttpAnswer> {
    if (this.#waiting !== null) throw new Error("one request at a time");
    if (performance.now() - this.#usedAtMs > IDLE_MS) this.close();
    const socket = this.#socket ?? this.#open();
    const body = typeof request.body === "string" ? Buffer.from(request.body) : request.body;
    let head = `${request.method} ${request.path} HTTP/1.1\r\nhost: ${this.#origin.host}\r\n`;
    for (const [name, value] of Object.entries(request.headers ?? {})) head += `${name}: ${value}\r\n`;
    if (body !== undefined) head += `content-length: ${body.byteLength}\r\n`;
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      if (body === undefined) socket.write(`${head}\r\n`);
      else {
        socket.cork();
        socket.write(`${head}\r\n`);
        socket.write(body);
        socket.uncork();
      }
    });
  }

  /** Ends the connection and fails a request under way; the next request opens another. */
  close(): void {
    this.#socket?.destroy();
    this.#socket = null;
    this.#settle((waiting) => waiting.reject(new Error("the connection was closed")));
  }

  #open(): Socket {
    const socket = connect({ host: this.#origin.hostname, port: Number(this.#origin.port), noDelay: true });
    const reader = new AnswerReader();
    socket.setTimeout(PATIENCE_MS, () => {
      if (this.#socket === socket && this.#waiting !== null) {
        socket.destroy(new Error(`no answer within ${PATIENCE_MS / 1000} s`));
      }
    });
    socket.on("data", (piece) => {
      try {
        const answer = reader.push(piece);
        if (answer !== null) this.#settle((waiting) => waiting.resolve(answer));
      } catch (thrown) {
        socket.destroy(thrown instanceof Error ? thrown : new Error(String(thrown)));
      }
    });
    const lose = (error: Error) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      this.#settle((waiting) => waiting.reject(error));
    };
    socket.on("error", lose);
    socket.on("close", () => lose(new Error("the server closed the connection")));
    this.#socket = socket;
    return socket;
  }

  #settle(settle: (waiting: Waiting) => void): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    this.#usedAtMs = performance.now();
    if (waiting !== null) settle(waiting);
  }
}

/** The answer's JSON. @throws when its status is not one of those expected */
export function jsonOf(answer: HttpAnswer, ...expected: number[]): unknown {
  expectStatus(answer, ...expected);
  return JSON.parse(answer.body.toString("utf8"));
}

/** @throws when the status is not one of those expected, with the beginning of the body */
export function expectStatus(answer: HttpAnswer, ...expected: number[]): void {
  if (expected.includes(answer.status)) return;
  throw new Error(`answered ${answer.status}: ${answer.body.toString("utf8").slice(0, 200)}`);
}
