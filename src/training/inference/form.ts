import { MultipartError, type MultipartPart, multipartBoundary, parseMultipart } from "../../http/multipart.ts";
import { AppError } from "../../shared/errors.ts";
import { MAX_IMAGE_BYTES } from "./image-header.ts";

/** The form of one inference: a few short fields and one image, which is all that is ever held of it. */
export type InferenceForm = {
  fields: Map<string, string>;
  /** The bytes of `file`, in a buffer of their own; null when there is no such field. */
  image: Uint8Array<ArrayBuffer> | null;
};

const MAX_FIELDS = 32;
const MAX_FIELD_BYTES = 8 * 1024;
/** Room for the fields and the lines between them. */
const MAX_FORM_BYTES = MAX_IMAGE_BYTES + 512 * 1024;
/** A refused picture is read so far: a client that is cut off while sending would not hear why. */
const MAX_DRAIN_BYTES = 64 * 1024 * 1024;

const invalid = (field: string, message: string) => new AppError("VALIDATION_ERROR", `${field}: ${message}`, { field });

const tooLarge = () => invalid("file", `must have at most ${MAX_IMAGE_BYTES / 1024 / 1024} MiB`);

async function readImage(part: MultipartPart): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of part.body) {
    sizeBytes += chunk.byteLength;
    if (sizeBytes > MAX_IMAGE_BYTES) throw tooLarge();
    chunks.push(chunk.slice());
  }
  const image = new Uint8Array(sizeBytes);
  let at = 0;
  for (const chunk of chunks) {
    image.set(chunk, at);
    at += chunk.byteLength;
  }
  return image;
}

/**
 * Reads the form as a stream, so that a body that is too large is refused when it becomes so. What a part says about its
 * file name and type is not looked at: the content decides.
 * @throws UNSUPPORTED_MEDIA_TYPE · BAD_REQUEST for a body that is no form · VALIDATION_ERROR, field `file` when too large
 */
export async function readInferenceForm(request: Request): Promise<InferenceForm> {
  const fields = new Map<string, string>();
  let image: Uint8Array<ArrayBuffer> | null = null;
  try {
    const boundary = multipartBoundary(request.headers.get("content-type"));
    if (boundary === null || request.body === null) {
      throw new AppError("UNSUPPORTED_MEDIA_TYPE", "content-type must be multipart/form-data");
    }
    if (Number(request.headers.get("content-length") ?? 0) > MAX_FORM_BYTES) throw tooLarge();
    const limits = {
      maxParts: MAX_FIELDS,
      maxHeaderBytes: 16 * 1024,
      maxTotalBytes: MAX_FORM_BYTES,
      maxDrainBytes: MAX_DRAIN_BYTES,
    };
    for await (const part of parseMultipart(request.body, boundary, limits)) {
      if (part.name === "file") {
        if (image !== null) throw invalid("file", "given twice");
        image = await readImage(part);
      } else if (part.filename !== null) {
        throw invalid(part.name.slice(0, 100), "a file is not expected here");
      } else {
        if (fields.has(part.name)) throw invalid(part.name.slice(0, 100), "given twice");
        fields.set(part.name, await part.text(MAX_FIELD_BYTES));
      }
    }
    return { fields, image };
  } catch (thrown) {
    if (!(thrown instanceof MultipartError)) throw thrown;
    if (thrown.reason === "too_large") throw tooLarge();
    if (thrown.reason === "limit") throw new AppError("VALIDATION_ERROR", thrown.message);
    throw new AppError("BAD_REQUEST", thrown.message);
  }
}
