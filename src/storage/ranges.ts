import { AppError } from "../shared/errors.ts";

/** Reading of parts of stored objects, and of files that are packed inside one. */

export type StoredObject = {
  sizeBytes: number;
  /** Exactly these bytes. @throws STORAGE_UNAVAILABLE when the object is gone or shorter */
  read(offset: number, length: number): Promise<Uint8Array>;
  /** Everything from an offset on. */
  stream(offset: number): Promise<ReadableStream<Uint8Array>>;
};

const gone = () => new AppError("STORAGE_UNAVAILABLE", "A stored file cannot be read at the moment");

/** @throws STORAGE_UNAVAILABLE when there is no such object */
export async function storedObject(bucket: R2Bucket, key: string): Promise<StoredObject> {
  const head = await bucket.head(key);
  if (head === null) throw gone();
  return {
    sizeBytes: head.size,
    async read(offset, length) {
      const object = await bucket.get(key, { range: { offset, length } });
      if (object === null) throw gone();
      const bytes = new Uint8Array(await object.arrayBuffer());
      if (bytes.length !== length) throw gone();
      return bytes;
    },
    async stream(offset) {
      const object = await bucket.get(key, offset === 0 ? undefined : { range: { offset } });
      if (object === null) throw gone();
      return object.body;
    },
  };
}

/** A file inside an object, as it is or deflated. */
export type PackedFile = {
  storageKey: string;
  offset: number;
  packedBytes: number;
  /** Unpacked. */
  sizeBytes: number;
  deflated: boolean;
};

/**
 * The bytes of a file or of one range of it. A deflated file has no index, so a range of it is unpacked from the start and
 * cut; nothing is held in memory.
 * @throws STORAGE_UNAVAILABLE when the object is gone
 */
export async function openRange(
  bucket: R2Bucket,
  file: PackedFile,
  range: { offset: number; length: number } | null,
): Promise<ReadableStream<Uint8Array>> {
  const { offset, length } = range ?? { offset: 0, length: file.sizeBytes };
  // R2 has no range of no bytes.
  if (length === 0) return new Blob([]).stream();
  const stored = file.deflated
    ? { offset: file.offset, length: file.packedBytes }
    : { offset: file.offset + offset, length };
  const object = await bucket.get(file.storageKey, { range: stored });
  if (object === null) throw gone();
  if (!file.deflated) return object.body;
  return object.body
    .pipeThrough(new DecompressionStream("deflate-raw"))
    .pipeThrough(cut(offset, length))
    .pipeThrough(new FixedLengthStream(length));
}

/** Passes on `length` bytes after skipping `offset` and then lets go of the source. */
function cut(offset: number, length: number): TransformStream<Uint8Array, Uint8Array> {
  let toSkip = offset;
  let toPass = length;
  return new TransformStream({
    transform(chunk, controller) {
      const wanted = chunk.subarray(Math.min(toSkip, chunk.length)).subarray(0, toPass);
      toSkip = Math.max(0, toSkip - chunk.length);
      toPass -= wanted.length;
      if (wanted.length > 0) controller.enqueue(wanted);
      if (toPass === 0) controller.terminate();
    },
  });
}
