import { LONGEST_SECRET } from "./mask.ts";

/**
 * Cuts one output stream of a trainer into chunks of whole lines (runner protocol, section 6). Pure: when to flush is
 * decided by the caller's clock.
 */
export class LogChunker {
  readonly #maxBytes: number;
  readonly #mask: (text: string) => string;
  // `stream` keeps a character that is split over two reads; a byte order mark is content here.
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  /** Complete lines, masked. */
  #lines = "";
  #lineBytes = 0;
  /** The line that has not ended yet, not masked: half a token does not look like one. */
  #open = "";
  #ready: string[] = [];

  /** @param maxBytes of a chunk in UTF-8, more than `LONGEST_SECRET` */
  constructor(maxBytes: number, mask: (text: string) => string) {
    if (maxBytes <= LONGEST_SECRET) throw new RangeError(`a chunk needs more than ${LONGEST_SECRET} bytes`);
    this.#maxBytes = maxBytes;
    this.#mask = mask;
  }

  /** Takes raw output; returns the chunks that are full. */
  push(bytes: Uint8Array): string[] {
    this.#take(this.#decoder.decode(bytes, { stream: true }));
    return this.#ready.splice(0);
  }

  /** Puts a line of the agent's own between two lines of the trainer; returns the chunks that are full. */
  insert(line: string): string[] {
    this.#addLine(`${line.replace(/[\r\n]+/g, " ")}\n`);
    return this.#ready.splice(0);
  }

  /** All complete lines so far as one chunk, or null. A line that has not ended stays. */
  flush(): string | null {
    if (this.#lines === "") return null;
    const chunk = this.#lines;
    this.#lines = "";
    this.#lineBytes = 0;
    return chunk;
  }

  /** What is left, a last line without an end included. */
  end(): string[] {
    this.#take(this.#decoder.decode());
    if (this.#open !== "") {
      this.#addLine(this.#open);
      this.#open = "";
    }
    const rest = this.flush();
    return [...this.#ready.splice(0), ...(rest === null ? [] : [rest])];
  }

  #take(text: string): void {
    const end = text.lastIndexOf("\n");
    if (end === -1) this.#open += text;
    else {
      const complete = this.#open + text.slice(0, end + 1);
      this.#open = text.slice(end + 1);
      for (let from = 0; from < complete.length; ) {
        const to = complete.indexOf("\n", from) + 1;
        this.#addLine(complete.slice(from, to));
        from = to;
      }
    }
    // A line without end is cut; its last part stays, in case a secret is only half there.
    while (this.#open.length > this.#maxBytes + LONGEST_SECRET) {
      this.#open = this.#mask(this.#open);
      if (this.#open.length <= LONGEST_SECRET) break;
      const cut = wholeCharacters(this.#open, Math.min(this.#maxBytes, this.#open.length - LONGEST_SECRET));
      this.#addLine(this.#open.slice(0, cut));
      this.#open = this.#open.slice(cut);
    }
  }

  #addLine(line: string): void {
    let rest = this.#mask(line);
    while (rest !== "") {
      const piece = rest.slice(0, cutAtBytes(rest, this.#maxBytes));
      rest = rest.slice(piece.length);
      const bytes = Buffer.byteLength(piece);
      if (this.#lineBytes + bytes > this.#maxBytes) this.#close();
      this.#lines += piece;
      this.#lineBytes += bytes;
      if (this.#lineBytes === this.#maxBytes) this.#close();
    }
  }

  #close(): void {
    const chunk = this.flush();
    if (chunk !== null) this.#ready.push(chunk);
  }
}

/** `length`, or one less where it would part a surrogate pair. */
const wholeCharacters = (text: string, length: number): number => {
  const code = text.charCodeAt(length - 1);
  return length > 1 && code >= 0xd800 && code <= 0xdbff ? length - 1 : length;
};

/** How many UTF-16 units of a text fit into `maxBytes` of UTF-8. */
function cutAtBytes(text: string, maxBytes: number): number {
  if (text.length * 3 <= maxBytes || Buffer.byteLength(text) <= maxBytes) return text.length;
  return new TextEncoder().encodeInto(text, new Uint8Array(maxBytes)).read;
}
