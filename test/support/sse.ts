/** A reader of server-sent events (WHATWG HTML, section 9.2) for tests in workerd and in Node. */

export type SseEvent = { id: string; event: string; data: Record<string, unknown> };

export class SseReader {
  /** Everything that has come, in its order. */
  readonly events: SseEvent[] = [];
  comments = 0;
  isClosed = false;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #waiting: (() => void)[] = [];

  constructor(body: ReadableStream<Uint8Array>) {
    this.#reader = body.getReader();
    void this.#read();
  }

  async #read(): Promise<void> {
    const utf8 = new TextDecoder();
    let text = "";
    try {
      for (;;) {
        const { done, value } = await this.#reader.read();
        if (done) break;
        text += utf8.decode(value, { stream: true });
        const blocks = text.split("\n\n");
        text = blocks.pop() ?? "";
        for (const block of blocks) this.#take(block);
        this.#wake();
      }
    } catch {
      // The server dropped this watcher.
    }
    this.isClosed = true;
    this.#wake();
  }

  #take(block: string): void {
    const fields: Record<string, string> = {};
    for (const line of block.split("\n")) {
      if (line.startsWith(":")) this.comments += 1;
      const match = /^(\w+): (.*)$/.exec(line);
      if (match?.[1] !== undefined) fields[match[1]] = match[2] ?? "";
    }
    if (fields.data === undefined) return;
    const data = JSON.parse(fields.data) as Record<string, unknown>;
    this.events.push({ id: fields.id ?? "", event: fields.event ?? "message", data });
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Waits until what has come is as wanted. @throws with what has come after `patienceMs`, or when the stream closes */
  async until(wanted: (events: SseEvent[], reader: SseReader) => boolean, patienceMs = 5_000): Promise<SseEvent[]> {
    const giveUpAt = Date.now() + patienceMs;
    let timer: ReturnType<typeof setTimeout> | undefined;
    while (!wanted(this.events, this)) {
      if (this.isClosed || Date.now() > giveUpAt) {
        throw new Error(
          `not seen (${this.isClosed ? "closed" : "open"}): ${JSON.stringify(this.events).slice(0, 2_000)}`,
        );
      }
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
        timer = setTimeout(resolve, 50);
      });
      clearTimeout(timer);
    }
    return this.events;
  }

  /** Waits for the end of the stream. */
  async closed(patienceMs = 5_000): Promise<SseEvent[]> {
    for (let waited = 0; !this.isClosed && waited < patienceMs; waited += 20) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    if (!this.isClosed) throw new Error(`still open: ${JSON.stringify(this.events).slice(0, 2_000)}`);
    return this.events;
  }

  of(event: string): SseEvent[] {
    return this.events.filter((one) => one.event === event);
  }

  get lastId(): string {
    return this.events.at(-1)?.id ?? "";
  }

  async cancel(): Promise<void> {
    await this.#reader.cancel();
  }
}
