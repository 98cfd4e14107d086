/**
 * Writes a stream of unknown length as one object: a single put when it is small, else a multipart upload. At most two parts
 * are in memory, the one being filled and the one on its way, and nothing is left in the store unless `finish` returned.
 */

/** R2: every part but the last has at least 5 MiB and all of them have one size; a multipart upload has at most 10,000. */
export const PART_BYTES = 5 * 1024 * 1024;
const MAX_PARTS = 10_000;

type UploadedPart = { partNumber: number; etag: string };

interface MultipartUpload {
  uploadPart(partNumber: number, value: Uint8Array): Promise<UploadedPart>;
  complete(parts: UploadedPart[]): Promise<unknown>;
  abort(): Promise<void>;
}

/** What the writer needs of an R2 bucket. */
export interface WritableStore {
  put(key: string, value: Uint8Array): Promise<unknown>;
  createMultipartUpload(key: string): Promise<MultipartUpload>;
}

export class ObjectWriter {
  readonly #store: WritableStore;
  readonly #key: string;
  readonly #partBytes: number;
  #filling: Uint8Array;
  #filled = 0;
  #spare: Uint8Array | null = null;
  #upload: MultipartUpload | null = null;
  #parts: UploadedPart[] = [];
  /** The part on its way. Its failure is kept here and thrown by the next call. */
  #sending: Promise<void> = Promise.resolve();
  #failure: { error: unknown } | null = null;
  #sizeBytes = 0;
  #closed = false;

  /** @param partBytes only tests of the writer itself set it; R2 refuses parts below 5 MiB */
  constructor(store: WritableStore, key: string, partBytes: number = PART_BYTES) {
    this.#store = store;
    this.#key = key;
    this.#partBytes = partBytes;
    // Grows to a whole part; most objects are small.
    this.#filling = new Uint8Array(Math.min(partBytes, 64 * 1024));
  }

  /** Bytes appended so far: the offset at which the next ones will stand. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Appends a copy of `chunk`; waits while two parts are in memory. @throws what the store threw, from now on */
  async append(chunk: Uint8Array): Promise<void> {
    if (this.#closed) throw new Error("the object is already finished or aborted");
    this.#throwFailure();
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#filled === this.#partBytes) await this.#sendFilled();
      const count = Math.min(rest.length, this.#partBytes - this.#filled);
      this.#reserve(this.#filled + count);
      this.#filling.set(rest.subarray(0, count), this.#filled);
      this.#filled += count;
      this.#sizeBytes += count;
      rest = rest.subarray(count);
    }
  }

  /** Makes the object visible under its key. After a failure nothing is. */
  async finish(): Promise<void> {
    if (this.#closed) throw new Error("the object is already finished or aborted");
    this.#closed = true;
    try {
      this.#throwFailure();
      if (this.#upload === null) {
        await this.#store.put(this.#key, this.#filling.subarray(0, this.#filled));
        return;
      }
      if (this.#filled > 0) await this.#sendFilled();
      await this.#sending;
      this.#throwFailure();
      await this.#upload.complete(this.#parts);
    } catch (error) {
      await this.#discard();
      throw error;
    }
  }

  /** Gives up: parts already sent are removed. Safe to call at any time and more than once; never throws. */
  async abort(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#discard();
  }

  async #discard(): Promise<void> {
    await this.#sending;
    // Storage that cannot be reached keeps the parts; R2 drops unfinished uploads by itself after seven days.
    await this.#upload?.abort().catch(() => undefined);
    this.#filling = new Uint8Array(0);
    this.#spare = null;
  }

  /** Hands the full part to the store and goes on filling the other buffer once the part before has arrived. */
  async #sendFilled(): Promise<void> {
    await this.#sending;
    this.#throwFailure();
    const upload = this.#upload ?? (await this.#store.createMultipartUpload(this.#key));
    this.#upload = upload;
    const partNumber = this.#parts.length + 1;
    if (partNumber > MAX_PARTS) throw new Error(`the object has more than ${MAX_PARTS} parts`);
    const buffer = this.#filling;
    const part = buffer.subarray(0, this.#filled);
    this.#filling = this.#spare ?? new Uint8Array(this.#partBytes);
    this.#filled = 0;
    this.#spare = null;
    this.#sending = upload.uploadPart(partNumber, part).then(
      (uploaded) => {
        // R2 knows the part by these two; what else the platform's object carries is dropped.
        this.#parts.push({ partNumber: uploaded.partNumber, etag: uploaded.etag });
        this.#spare = buffer;
      },
      (error: unknown) => {
        this.#failure = { error };
      },
    );
  }

  #reserve(bytes: number): void {
    if (bytes <= this.#filling.length) return;
    const grown = new Uint8Array(Math.min(this.#partBytes, Math.max(bytes, this.#filling.length * 4)));
    grown.set(this.#filling.subarray(0, this.#filled));
    this.#filling = grown;
  }

  #throwFailure(): void {
    if (this.#failure) throw this.#failure.error;
  }
}
