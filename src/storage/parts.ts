import { toHex } from "../shared/ids.ts";
import { openChunkReader } from "../shared/streams.ts";

/**
 * Streams one part of a multipart upload into storage, holding one chunk at a time.
 * @param part `sizeBytes` is what the stream has to bring, no more and no less
 * @param sha256 what the part's hash has to be, hex; null: whatever it is
 * @returns the part's etag; null when the hash is another one, and then storage has the wrong bytes for this part
 * @throws what the stream or the store threw; storage then has what it had before, or the new part, which nobody knows of
 */
export async function storePart(
  bucket: R2Bucket,
  part: { key: string; uploadId: string; n: number; sizeBytes: number },
  body: ReadableStream<Uint8Array>,
  sha256: string | null,
): Promise<string | null> {
  const fixed = new FixedLengthStream(part.sizeBytes);
  const [stored, found] = await Promise.all([
    bucket.resumeMultipartUpload(part.key, part.uploadId).uploadPart(part.n, fixed.readable),
    sha256 === null ? body.pipeTo(fixed.writable).then(() => null) : copyHashed(body, fixed.writable),
  ]);
  return found === sha256 ? stored.etag : null;
}

/** Copies a stream and returns the SHA-256 of what passed. */
async function copyHashed(from: ReadableStream<Uint8Array>, to: WritableStream<Uint8Array>): Promise<string> {
  const chunks = openChunkReader(from);
  const digest = new crypto.DigestStream("SHA-256");
  const hashing = digest.getWriter();
  const out = to.getWriter();
  try {
    for (let chunk = await chunks.read(); chunk !== undefined; chunk = await chunks.read()) {
      await hashing.write(chunk);
      await out.write(chunk);
    }
    await Promise.all([hashing.close(), out.close()]);
  } catch (thrown) {
    // The failure at hand is the one to report.
    digest.digest.catch(() => undefined);
    await Promise.allSettled([hashing.abort(thrown), out.abort(thrown)]);
    throw thrown;
  }
  return toHex(new Uint8Array(await digest.digest));
}

/** SHA-256 of a whole object, hex, without a copy of it in memory; null when there is none. */
export async function objectSha256(bucket: R2Bucket, key: string): Promise<string | null> {
  const object = await bucket.get(key);
  if (object === null) return null;
  const digest = new crypto.DigestStream("SHA-256");
  await object.body.pipeTo(digest);
  return toHex(new Uint8Array(await digest.digest));
}
