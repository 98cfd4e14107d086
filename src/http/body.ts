import { AppError } from "../shared/errors.ts";

const tooLarge = (maxBytes: number) => new AppError("PAYLOAD_TOO_LARGE", `The body may have at most ${maxBytes} bytes`);

/** Passes chunks on and fails as soon as there are more than `maxBytes`. */
const capped = (maxBytes: number) => {
  let total = 0;
  return new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      total += chunk.byteLength;
      if (total > maxBytes) controller.error(tooLarge(maxBytes));
      else controller.enqueue(chunk);
    },
  });
};

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
  let stream = request.body.pipeThrough(capped(limits.bodyBytes));
  if (encoding === "gzip") {
    stream = stream.pipeThrough(new DecompressionStream("gzip")).pipeThrough(capped(limits.inflatedBytes));
  } else if (encoding !== "identity") {
    throw new AppError("UNSUPPORTED_MEDIA_TYPE", "content-encoding may be gzip or absent");
  }
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
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
