/** How much is asked of a byte stream at once; its own default is 4 KiB in the Worker. */
const READ_BYTES = 64 * 1024;

export type ChunkReader = {
  /** The next chunk, undefined at the end. It is valid until the next call: copy what must stay. */
  read(): Promise<Uint8Array | undefined>;
  cancel(): Promise<void>;
};

/**
 * Reads in large chunks where the stream is a byte stream (request bodies and R2 objects are), in its own chunks elsewhere.
 * One buffer goes back and forth, so that a body of 100 MB leaves no 100 MB of garbage.
 */
export function openChunkReader(stream: ReadableStream<Uint8Array>): ChunkReader {
  const byob = tryByob(stream);
  if (byob) {
    let buffer = new ArrayBuffer(READ_BYTES);
    return {
      read: async () => {
        const { value, done } = await byob.read(new Uint8Array(buffer));
        if (done) return undefined;
        buffer = value.buffer;
        return value;
      },
      cancel: () => byob.cancel(),
    };
  }
  const reader = stream.getReader();
  return {
    read: async () => {
      const { value, done } = await reader.read();
      return done ? undefined : value;
    },
    cancel: () => reader.cancel(),
  };
}

function tryByob(stream: ReadableStream<Uint8Array>): ReadableStreamBYOBReader | undefined {
  try {
    return stream.getReader({ mode: "byob" });
  } catch {
    // Not a byte stream.
    return undefined;
  }
}

/** Reads and drops up to `maxBytes`, then lets go of the stream. Never throws: there is nobody left to tell. */
export async function drain(chunks: ChunkReader, maxBytes: number): Promise<void> {
  try {
    for (let left = maxBytes; left > 0; ) {
      const chunk = await chunks.read();
      if (chunk === undefined) return;
      left -= chunk.length;
    }
    await chunks.cancel();
  } catch {
    // A stream that failed, or was given up by its sender.
  }
}

/**
 * Takes a stream apart by position: exact reads, skips, and stretches handed on chunk by chunk. What it hands out is valid
 * until the next call.
 */
export class SequentialReader {
  readonly #chunks: ChunkReader;
  #window: Uint8Array = new Uint8Array(0);
  #position = 0;

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#chunks = openChunkReader(stream);
  }

  /** How many bytes of the stream lie behind. */
  get position(): number {
    return this.#position;
  }

  /** Exactly the next `count` bytes, or null when the stream has fewer left. */
  async take(count: number): Promise<Uint8Array | null> {
    if (this.#window.length >= count) return this.#advance(count);
    const taken = new Uint8Array(count);
    let filled = 0;
    for await (const chunk of this.upTo(this.#position + count)) {
      taken.set(chunk, filled);
      filled += chunk.length;
    }
    return filled === count ? taken : null;
  }

  /** The bytes up to the absolute `position`, as they come; fewer if the stream ends before. */
  async *upTo(position: number): AsyncGenerator<Uint8Array, void, undefined> {
    while (this.#position < position) {
      if (this.#window.length === 0) {
        const chunk = await this.#chunks.read();
        if (chunk === undefined) return;
        this.#window = chunk;
        continue;
      }
      yield this.#advance(Math.min(this.#window.length, position - this.#position));
    }
  }

  /** Moves on to the absolute `position`; false when the stream ends before. */
  async skipTo(position: number): Promise<boolean> {
    for await (const _ of this.upTo(position));
    return this.#position >= position;
  }

  /** Lets go of the stream. */
  async cancel(): Promise<void> {
    this.#window = new Uint8Array(0);
    await this.#chunks.cancel();
  }

  #advance(count: number): Uint8Array {
    const bytes = this.#window.subarray(0, count);
    this.#window = this.#window.subarray(count);
    this.#position += count;
    return bytes;
  }
}
