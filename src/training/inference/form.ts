import { MultipartError, type MultipartPart, multipartBoundary, parseMultipart } from "../../http/multipart.ts";
import { AppError } from "../../shared/errors.ts";
import { concatenate, release } from "../../shared/memory.ts";
import { MAX_IMAGE_BYTES } from "./image-header.ts";

/** One `file` part. */
export type FormImage = {
  /** As the client named it, for telling several answers apart; nothing is decided by it. */
  name: string | null;
  /** In a buffer of their own; null for a file that was too large to keep. */
  bytes: Uint8Array<ArrayBuffer> | null;
};

/** A few short fields and at least one image, which is all that is ever held of a form. */
export type InferenceForm = { fields: Map<string, string>; images: FormImage[] };

const MAX_FIELDS = 32;
const MAX_FIELD_BYTES = 8 * 1024;
const MAX_NAME_LENGTH = 200;
export const MAX_FILES = 16;
/** Of all files together: they are held until it is their turn. */
export const MAX_FILES_BYTES = 32 * 1024 * 1024;
/** Room for the fields and the lines between them. */
const MAX_FORM_BYTES = MAX_FILES_BYTES + 512 * 1024;
/** A refused picture is read so far: a client that is cut off while sending would not hear why. */
const MAX_DRAIN_BYTES = 64 * 1024 * 1024;

const MIB = 1024 * 1024;

const invalid = (field: string, message: string) => new AppError("VALIDATION_ERROR", `${field}: ${message}`, { field });

/** What a single file above the limit is answered. */
export const fileTooLarge = () => invalid("file", `must have at most ${MAX_IMAGE_BYTES / MIB} MiB`);

const formTooLarge = () => invalid("file", `all files together must have at most ${MAX_FILES_BYTES / MIB} MiB`);

/** The bytes of a file; null above the limit, as soon as it is passed. What is left is read and dropped by the parser. */
async function readImage(part: MultipartPart): Promise<Uint8Array<ArrayBuffer> | null> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of part.body) {
    sizeBytes += chunk.byteLength;
    if (sizeBytes > MAX_IMAGE_BYTES) return null;
    chunks.push(chunk.slice());
  }
  const image = concatenate(chunks);
  for (const chunk of chunks) release(chunk);
  return image;
}

/**
 * Reads the form as a stream, so that a body that is too large is refused when it becomes so. What a part says about its
 * type is not looked at: the content decides. A file that is too large is not kept and does not refuse the others.
 * @throws UNSUPPORTED_MEDIA_TYPE · BAD_REQUEST for a body that is no form · VALIDATION_ERROR, field `file` for too many files
 *   or too much of them
 */
export async function readInferenceForm(request: Request): Promise<InferenceForm> {
  const fields = new Map<string, string>();
  const images: FormImage[] = [];
  try {
    const boundary = multipartBoundary(request.headers.get("content-type"));
    if (boundary === null || request.body === null) {
      throw new AppError("UNSUPPORTED_MEDIA_TYPE", "content-type must be multipart/form-data");
    }
    if (Number(request.headers.get("content-length") ?? 0) > MAX_FORM_BYTES) throw formTooLarge();
    const limits = {
      maxParts: MAX_FIELDS + MAX_FILES,
      maxHeaderBytes: 16 * 1024,
      maxTotalBytes: MAX_FORM_BYTES,
      maxDrainBytes: MAX_DRAIN_BYTES,
    };
    for await (const part of parseMultipart(request.body, boundary, limits)) {
      if (part.name === "file") {
        if (images.length === MAX_FILES) throw invalid("file", `at most ${MAX_FILES} files in one request`);
        images.push({ name: part.filename?.slice(0, MAX_NAME_LENGTH) ?? null, bytes: await readImage(part) });
      } else if (part.filename !== null) {
        throw invalid(part.name.slice(0, 100), "a file is not expected here");
      } else {
        if (fields.has(part.name)) throw invalid(part.name.slice(0, 100), "given twice");
        fields.set(part.name, await part.text(MAX_FIELD_BYTES));
      }
    }
    return { fields, images };
  } catch (thrown) {
    if (!(thrown instanceof MultipartError)) throw thrown;
    if (thrown.reason === "too_large") throw formTooLarge();
    if (thrown.reason === "limit") throw new AppError("VALIDATION_ERROR", thrown.message);
    throw new AppError("BAD_REQUEST", thrown.message);
  }
}
