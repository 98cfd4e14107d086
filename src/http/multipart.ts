/**
 * Streaming `multipart/form-data` (RFC 7578 over RFC 2046) on the body of a request.
 *
 * A part is handed out as soon as its headers are known, and its bytes flow through while the caller reads them: at no time
 * does more than one network chunk and one delimiter's worth of carry live here. Pure apart from pulling the stream it is
 * given; knows nothing of storage, projects or HTTP answers.
 *
 * Written here because the published parsers fail one of two needs: they hold a whole file before handing it out, or they
 * refuse file names outside Latin-1, which clients send as raw UTF-8 (WHATWG form encoding).
 */

import { type ChunkReader, drain, openChunkReader } from "../shared/streams.ts";

export type MultipartLimits = {
  /** Parts of any kind in one body. */
  maxParts: number;
  /** Header bytes of one part. */
  maxHeaderBytes: number;
  /** All bytes of the body, delimiters included. */
  maxTotalBytes: number;
  /**
   * How much of a body is still read, and dropped, when the caller stops or the body is refused. Clients that are busy
   * sending see a reset connection, not the answer, when the rest is never read.
   */
  maxDrainBytes: number;
};

export const DEFAULT_MULTIPART_LIMITS: MultipartLimits = {
  maxParts: 1_000,
  maxHeaderBytes: 16 * 1024,
  maxTotalBytes: 100_000_000,
  maxDrainBytes: 0,
};

/** What can be wrong with a body: `malformed` (not multipart), `cut_off` (ended early), `too_large`, `limit` (too many, too long). */
export type MultipartReason = "malformed" | "cut_off" | "too_large" | "limit";

/** Thrown while a body is read; `message` is fit for the client and holds nothing of the body. */
export class MultipartError extends Error {
  override readonly name = "MultipartError";
  readonly reason: MultipartReason;

  constructor(reason: MultipartReason, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** One part. Its body is read once, in order; what the caller leaves unread is discarded when it asks for the next part. */
export type MultipartPart = {
  name: string;
  /** The name a client gave to a file, slashes kept; null for a plain field. */
  filename: string | null;
  contentType: string | null;
  /** Chunks as they arrive. A chunk is only valid until the next one is asked for: copy what must stay. */
  body: AsyncIterable<Uint8Array>;
  /** The whole body as UTF-8 text. @throws MultipartError `limit` above `maxBytes`, `malformed` if it is not UTF-8 */
  text(maxBytes: number): Promise<string>;
};

const CR = 13;
const LF = 10;
const DASH = 45;
const SPACE = 32;
const TAB = 9;

/** RFC 2046 section 5.1.1: 1 to 70 characters of this set, not ending in a space. */
const BOUNDARY = /^[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]$/;
/** The same section lets text stand before the first delimiter; nobody sends it, so little is tolerated. */
const MAX_PREAMBLE_BYTES = 1024;
/** The same for text after the last one: it is read, so that the connection is left clean, and ignored. */
const MAX_EPILOGUE_BYTES = 1024;
/** Spaces and tabs that may follow a delimiter on its line. */
const MAX_PADDING_BYTES = 64;

/**
 * The boundary of a `Content-Type` header.
 * @returns null when the header is absent or is of another media type
 * @throws MultipartError `malformed` when the boundary is missing or not one RFC 2046 allows
 */
export function multipartBoundary(contentType: string | null | undefined): string | null {
  if (!contentType) return null;
  if (contentType.length > 1024) throw new MultipartError("malformed", "Content-Type header is too long");
  const header = parseHeaderValue(contentType);
  if (header?.value !== "multipart/form-data") return null;
  const boundary = header.parameters.get("boundary");
  if (boundary === undefined) throw new MultipartError("malformed", "multipart body without a boundary");
  if (!BOUNDARY.test(boundary)) throw new MultipartError("malformed", "multipart boundary is not valid");
  return boundary;
}

/**
 * The parts of a multipart body, one after the other.
 *
 * @param stream the request body; it is cancelled when the caller stops early or the body is refused
 * @param boundary from {@link multipartBoundary}
 * @throws MultipartError from the iteration, from a part's `body` and from `text`
 */
export async function* parseMultipart(
  stream: ReadableStream<Uint8Array>,
  boundary: string,
  limits: MultipartLimits = DEFAULT_MULTIPART_LIMITS,
): AsyncGenerator<MultipartPart, void, undefined> {
  const input = new Input(stream, limits.maxTotalBytes);
  const delimiter = new TextEncoder().encode(`\r\n--${boundary}`);
  try {
    await skipPreamble(input, delimiter);
    for (let parts = 0; !(await endsAfterDelimiter(input)); parts++) {
      if (parts >= limits.maxParts) {
        throw new MultipartError("limit", `The form has more than ${limits.maxParts} parts`);
      }
      const headers = await readHeaders(input, limits.maxHeaderBytes);
      const body = partBody(input, delimiter);
      yield { ...describePart(headers), body, text: (maxBytes) => readText(body, maxBytes) };
      // Read to the end whatever the caller left, so that the next delimiter is where it must be.
      for await (const _ of body);
    }
    await input.drain(MAX_EPILOGUE_BYTES);
  } finally {
    await input.close(limits.maxDrainBytes);
  }
}

/** The stream with a window of unread bytes over it. */
class Input {
  /** Unread bytes. */
  window: Uint8Array = new Uint8Array(0);
  readonly #chunks: ChunkReader;
  readonly #maxTotalBytes: number;
  #totalBytes = 0;
  #ended = false;

  constructor(stream: ReadableStream<Uint8Array>, maxTotalBytes: number) {
    this.#maxTotalBytes = maxTotalBytes;
    this.#chunks = openChunkReader(stream);
  }

  /** Adds the next chunk to the window. @throws MultipartError `cut_off` at the end of the stream */
  async more(): Promise<void> {
    let chunk: Uint8Array | undefined;
    // The next read takes the window's memory back; what is left in it is little, so it is copied.
    this.window = this.window.slice();
    do {
      try {
        chunk = await this.#chunks.read();
      } catch {
        // The client went away, or its body ended before the announced length.
        this.#ended = true;
        throw new MultipartError("cut_off", "The upload was cut off");
      }
    } while (chunk?.length === 0);
    if (chunk === undefined) {
      this.#ended = true;
      throw new MultipartError("cut_off", "The form ended before its closing boundary");
    }
    this.#totalBytes += chunk.length;
    if (this.#totalBytes > this.#maxTotalBytes) {
      throw new MultipartError("too_large", `The body is larger than ${this.#maxTotalBytes} bytes`);
    }
    if (this.window.length === 0) {
      this.window = chunk;
    } else {
      const joined = new Uint8Array(this.window.length + chunk.length);
      joined.set(this.window);
      joined.set(chunk, this.window.length);
      this.window = joined;
    }
  }

  /** Removes and returns the first `count` bytes of the window. */
  take(count: number): Uint8Array {
    const taken = this.window.subarray(0, count);
    this.window = this.window.subarray(count);
    return taken;
  }

  /** Reads what is left of the stream and drops it, as long as it is short. */
  async drain(maxBytes: number): Promise<void> {
    try {
      while (this.window.length <= maxBytes) await this.more();
    } catch {
      // The end of the stream, however it came: the form itself is complete.
    }
  }

  /** Lets go of the stream, after reading up to `maxDrainBytes` of what is left. */
  async close(maxDrainBytes: number): Promise<void> {
    this.window = NOTHING;
    if (!this.#ended) await drain(this.#chunks, maxDrainBytes);
  }
}

const NOTHING = new Uint8Array(0);

/** Moves past the first delimiter, which may stand at the very start without its line break. */
async function skipPreamble(input: Input, delimiter: Uint8Array): Promise<void> {
  const first = delimiter.subarray(2);
  while (input.window.length < first.length) await input.more();
  if (startsWith(input.window, first, 0)) {
    input.take(first.length);
    return;
  }
  // A body that begins with some other boundary has no preamble.
  while (!(input.window[0] === DASH && input.window[1] === DASH)) {
    const found = findDelimiter(input.window, delimiter);
    if (found.index > MAX_PREAMBLE_BYTES) break;
    if (found.whole) {
      input.take(found.index + delimiter.length);
      return;
    }
    await input.more();
  }
  throw new MultipartError("malformed", "The body does not start with its boundary");
}

/** Reads what follows a delimiter: `--` (true, the form is over) or the end of the line (false, a part begins). */
async function endsAfterDelimiter(input: Input): Promise<boolean> {
  while (input.window.length < 2) await input.more();
  if (input.window[0] === DASH && input.window[1] === DASH) return true;
  for (let padding = 0; padding <= MAX_PADDING_BYTES; padding++) {
    while (input.window.length < 2) await input.more();
    const [first, second] = input.window;
    if (first === CR && second === LF) {
      input.take(2);
      return false;
    }
    if (first !== SPACE && first !== TAB) break;
    input.take(1);
  }
  throw new MultipartError("malformed", "The boundary is followed by other text");
}

/** The header lines of a part, up to and with the empty line. */
async function readHeaders(input: Input, maxBytes: number): Promise<Map<string, string>> {
  const end = await headerEnd(input, maxBytes);
  const bytes = input.take(end);
  const headers = new Map<string, string>();
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new MultipartError("malformed", "The headers of a part are not UTF-8");
  }
  for (const line of text.split("\r\n")) {
    if (line === "") continue;
    const colon = line.indexOf(":");
    // A line that starts with a blank continues the one before (obsolete folding); no form sends it.
    if (colon <= 0 || /^[ \t]/.test(line)) throw new MultipartError("malformed", "A part has an unreadable header");
    const name = line.slice(0, colon).trim().toLowerCase();
    if (headers.has(name)) throw new MultipartError("malformed", "A part has the same header twice");
    headers.set(name, line.slice(colon + 1).trim());
  }
  return headers;
}

/** Where the headers end, counted with their empty line. */
async function headerEnd(input: Input, maxBytes: number): Promise<number> {
  let from = 0;
  while (true) {
    const { window } = input;
    // A part without any header starts with the empty line itself.
    if (window[0] === CR && window[1] === LF) return 2;
    let at = window.indexOf(CR, from);
    for (; at !== -1 && at + 3 < window.length; at = window.indexOf(CR, at + 1)) {
      if (window[at + 1] === LF && window[at + 2] === CR && window[at + 3] === LF) {
        if (at + 4 > maxBytes) throw headersTooLong(maxBytes);
        return at + 4;
      }
    }
    from = Math.max(0, window.length - 3);
    if (window.length > maxBytes) throw headersTooLong(maxBytes);
    await input.more();
  }
}

const headersTooLong = (maxBytes: number) =>
  new MultipartError("limit", `The headers of a part are longer than ${maxBytes} bytes`);

/**
 * The bytes up to the next delimiter. One shared iterator: leaving a `for await` early does not end it, so the parser can
 * go on from where the caller stopped.
 */
function partBody(input: Input, delimiter: Uint8Array): AsyncIterable<Uint8Array> & AsyncIterator<Uint8Array> {
  let finished = false;
  const iterator: AsyncIterable<Uint8Array> & AsyncIterator<Uint8Array> = {
    [Symbol.asyncIterator]: () => iterator,
    async next(): Promise<IteratorResult<Uint8Array>> {
      while (!finished) {
        const found = findDelimiter(input.window, delimiter);
        const chunk = input.take(found.index);
        if (found.whole) {
          input.take(delimiter.length);
          finished = true;
        }
        if (chunk.length > 0) return { value: chunk, done: false };
        if (!finished) await input.more();
      }
      return { value: undefined, done: true };
    },
  };
  return iterator;
}

/**
 * Where the delimiter stands in `bytes`. When it is not there as a whole, `index` is the place from which on it could still
 * begin (the length of `bytes` if nowhere): everything before is certainly content.
 */
function findDelimiter(bytes: Uint8Array, delimiter: Uint8Array): { index: number; whole: boolean } {
  // `indexOf` of one byte is a machine-speed scan, and a CR is rare enough for it to carry the search.
  for (let at = bytes.indexOf(CR); at !== -1; at = bytes.indexOf(CR, at + 1)) {
    if (startsWith(bytes, delimiter, at)) return { index: at, whole: bytes.length - at >= delimiter.length };
  }
  return { index: bytes.length, whole: false };
}

/** Whether `bytes` from `at` on agrees with `expected`, as far as both reach. */
function startsWith(bytes: Uint8Array, expected: Uint8Array, at: number): boolean {
  const end = Math.min(expected.length, bytes.length - at);
  for (let i = 0; i < end; i++) if (bytes[at + i] !== expected[i]) return false;
  return true;
}

async function readText(body: AsyncIterable<Uint8Array>, maxBytes: number): Promise<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });
  let length = 0;
  let text = "";
  try {
    for await (const chunk of body) {
      length += chunk.length;
      if (length > maxBytes) throw new MultipartError("limit", `A form field is longer than ${maxBytes} bytes`);
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  } catch (error) {
    if (error instanceof MultipartError) throw error;
    throw new MultipartError("malformed", "A form field is not UTF-8 text");
  }
}

function describePart(headers: Map<string, string>): {
  name: string;
  filename: string | null;
  contentType: string | null;
} {
  const disposition = parseHeaderValue(headers.get("content-disposition") ?? "");
  if (disposition?.value !== "form-data") throw new MultipartError("malformed", "A part has no form-data disposition");
  const { parameters } = disposition;
  const name = parameters.get("name");
  if (name === undefined) throw new MultipartError("malformed", "A part has no name");
  const contentType = headers.get("content-type") ?? null;
  const plain = parameters.get("filename");
  const extended = parameters.get("filename*");
  const filename =
    extended === undefined ? (plain === undefined ? null : unescapeName(plain)) : decodeExtended(extended);
  return { name: unescapeName(name), filename, contentType };
}

/** WHATWG form encoding writes these three characters of a name as `%XX` and nothing else. */
const unescapeName = (name: string): string =>
  name.replace(/%(?:22|0D|0A)/gi, (escaped) => decodeURIComponent(escaped));

/** RFC 8187 `charset'language'percent-encoded`, which some clients still send for names outside ASCII. */
function decodeExtended(value: string): string {
  const match = /^(?:utf-8)'[^']*'([^']*)$/i.exec(value);
  try {
    if (match?.[1] !== undefined) return decodeURIComponent(match[1]);
  } catch {
    // Not percent-encoded UTF-8.
  }
  throw new MultipartError("malformed", "A part has an unreadable file name");
}

/**
 * `value; key=token; key="quoted"`. Inside quotes a backslash escapes a quote or a backslash only: browsers never escape
 * with it, and some clients send Windows paths.
 * @returns null when the text is not of that form or a parameter is given twice
 */
function parseHeaderValue(text: string): { value: string; parameters: Map<string, string> } | null {
  const head = /^\s*([^\s;="]+)\s*/.exec(text);
  if (!head?.[1]) return null;
  const parameters = new Map<string, string>();
  const pattern = /;\s*([^\s;="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))\s*/y;
  let at = head[0].length;
  while (at < text.length) {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (!match?.[1]) {
      if (/^\s*;?\s*$/.test(text.slice(at))) break;
      return null;
    }
    const key = match[1].toLowerCase();
    if (parameters.has(key)) return null;
    parameters.set(key, match[2] === undefined ? (match[3] ?? "") : match[2].replace(/\\(["\\])/g, "$1"));
    at = pattern.lastIndex;
  }
  return { value: head[1].toLowerCase(), parameters };
}
