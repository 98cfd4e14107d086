import { AppError } from "../shared/errors.ts";
import { concatenate } from "../shared/memory.ts";

const tooLarge = (maxBytes: number) => new AppError("PAYLOAD_TOO_LARGE", `The body may have at most ${maxBytes} bytes`);

/**
 * Collects a stream and stops as soon as there are more than `maxBytes`. A plain loop: a transform and a `Response` around the
 * stream cost several times the processor time of the rest of a small request.
 */
async function collect(stream: ReadableStream<Uint8Array>, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const reader = stream.getReader();
  const chunks: Uint8Array[] = [];
  let total = 0;
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    total += next.value.byteLength;
    if (total > maxBytes) {
      await reader.cancel();
      throw tooLarge(maxBytes);
    }
    chunks.push(next.value);
  }
  return concatenate(chunks);
}

/**
 * Reads a small body, plain or gzip, within two limits: bytes on the wire and bytes after inflating.
 * @throws PAYLOAD_TOO_LARGE · BAD_REQUEST when it is said to be gzip and is not · UNSUPPORTED_MEDIA_TYPE for other encodings
 */
export async function readBytes(
  request: Request,
  limits: { bodyBytes: number; inflatedBytes: number },
): Promise<Uint8Array<ArrayBuffer>> {
  if (Number(request.headers.get("content-length") ?? 0) > limits.bodyBytes) throw tooLarge(limits.bodyBytes);
  if (request.body === null) return new Uint8Array();
  const encoding = request.headers.get("content-encoding") ?? "identity";
  if (encoding !== "gzip" && encoding !== "identity") {
    throw new AppError("UNSUPPORTED_MEDIA_TYPE", "content-encoding may be gzip or absent");
  }
  try {
    const sent = await collect(request.body, limits.bodyBytes);
    if (encoding === "identity") return sent;
    return await collect(new Blob([sent]).stream().pipeThrough(new DecompressionStream("gzip")), limits.inflatedBytes);
  } catch (thrown) {
    if (thrown instanceof AppError) throw thrown;
    throw new AppError(
      "BAD_REQUEST",
      encoding === "gzip" ? "The body is not valid gzip" : "The body could not be read",
    );
  }
}

/** A JSON content type, with or without parameters; a body of another type is refused before it is read. */
export function requireJsonType(request: Request): void {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/(?:[\w.+-]+\+)?json\b/i.test(type)) {
    throw new AppError("UNSUPPORTED_MEDIA_TYPE", "content-type must be application/json");
  }
}
