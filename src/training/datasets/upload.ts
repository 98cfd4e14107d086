import { createHash } from "node:crypto";
import { MultipartError, type MultipartPart, multipartBoundary, parseMultipart } from "../../http/multipart.ts";
import { AppError } from "../../shared/errors.ts";
import { drain, openChunkReader } from "../../shared/streams.ts";
import { keys } from "../../storage/keys.ts";
import { ObjectWriter } from "../../storage/object-writer.ts";
import type { IndexedFile } from "./content.ts";
import { looksLikeImage } from "./formats/images.ts";
import { canonicalPath, fileUsedAsFolder, isLitter } from "./paths.ts";
import { quoted, STORED } from "./zip/directory.ts";
import { HEAD_BYTES } from "./zip/verify.ts";

/**
 * Receives the form of a new dataset and streams its files into one object: a zip as it is, loose files one behind the
 * other, each found again by its offset. Thousands of small files are then a few writes instead of thousands.
 */

/** One request holds no more; Cloudflare itself ends a body at 100 MB on the smaller plans. */
export const MAX_UPLOAD_BYTES = 100 * 1024 * 1024;
/** More files than this come as a zip. */
export const MAX_LOOSE_FILES = 5_000;
const MAX_FIELDS = 32;
const MAX_FIELD_BYTES = 64 * 1024;

export const ZIP_OBJECT = "upload.zip";
const FILES_OBJECT = "files.bin";

/** Every object that an upload can leave under a dataset's prefix. */
export const uploadKeys = (datasetId: string): string[] =>
  [ZIP_OBJECT, FILES_OBJECT].map((name) => keys.datasetObject(datasetId, name));

export type UploadedContent =
  | { kind: "zip"; storageKey: string; sizeBytes: number }
  | { kind: "files"; storageKey: string; files: IndexedFile[]; litterCount: number };

export type Upload = { fields: Map<string, string>; content: UploadedContent | null };

/** Names under which clients send files: the contract's, the singular, and PHP's and axios's way to write a list. */
const FILE_FIELD = /^files?(?:\[\d*\])?$/;

const invalidFiles = (message: string) => new AppError("VALIDATION_ERROR", message, { field: "files" });

/**
 * Reads the whole form.
 *
 * @param beforeFiles called once, with the fields that came before the first file, so that a caller who may not create
 *   anything is told before the files are stored
 * @throws AppError for a form that is refused; what was stored by then is removed, except when the caller is refused later
 */
export async function receiveUpload(
  request: Request,
  bucket: R2Bucket,
  datasetId: string,
  beforeFiles: (fields: ReadonlyMap<string, string>) => Promise<void>,
): Promise<Upload> {
  const intake = new FileIntake(bucket, datasetId);
  const fields = new Map<string, string>();
  try {
    const boundary = multipartBoundary(request.headers.get("content-type"));
    if (boundary === null || request.body === null) {
      throw new AppError("UNSUPPORTED_MEDIA_TYPE", "content-type must be multipart/form-data");
    }
    if (Number(request.headers.get("content-length") ?? 0) > MAX_UPLOAD_BYTES) throw tooLarge();
    const limits = {
      maxParts: MAX_LOOSE_FILES + MAX_FIELDS,
      maxHeaderBytes: 16 * 1024,
      maxTotalBytes: MAX_UPLOAD_BYTES,
      maxDrainBytes: MAX_UPLOAD_BYTES,
    };
    for await (const part of parseMultipart(request.body, boundary, limits)) {
      if (part.filename === null) {
        await readField(part, fields);
        continue;
      }
      if (!FILE_FIELD.test(part.name)) {
        throw new AppError("VALIDATION_ERROR", `${quoted(part.name)}: a file is not expected here`, {
          field: part.name,
        });
      }
      if (!intake.started) await beforeFiles(fields);
      await intake.take(part, part.filename);
    }
    return { fields, content: await intake.finish() };
  } catch (thrown) {
    await intake.abort();
    // Refused by its headers: the client is about to send, or sending, all the same.
    if (request.body !== null && !request.bodyUsed) await drain(openChunkReader(request.body), MAX_UPLOAD_BYTES);
    throw thrown instanceof MultipartError ? refusalOf(thrown) : thrown;
  }
}

async function readField(part: MultipartPart, fields: Map<string, string>): Promise<void> {
  const { name } = part;
  if (FILE_FIELD.test(name)) throw invalidFiles("files: a file with a name is expected");
  if (fields.has(name)) throw new AppError("VALIDATION_ERROR", `${name}: given twice`, { field: name });
  if (fields.size >= MAX_FIELDS) throw new AppError("VALIDATION_ERROR", `The form has more than ${MAX_FIELDS} fields`);
  fields.set(name, await part.text(MAX_FIELD_BYTES));
}

const tooLarge = () =>
  new AppError("PAYLOAD_TOO_LARGE", `An upload may have at most ${MAX_UPLOAD_BYTES} bytes`, { field: "files" });

function refusalOf(error: MultipartError): AppError {
  switch (error.reason) {
    case "too_large":
      return tooLarge();
    case "limit":
      return new AppError("VALIDATION_ERROR", `${error.message}; send many files as one zip`, { field: "files" });
    case "malformed":
    case "cut_off":
      return new AppError("BAD_REQUEST", error.message);
  }
}

/** Puts the files of one form into storage. */
class FileIntake {
  readonly #bucket: R2Bucket;
  readonly #datasetId: string;
  readonly #paths = new Set<string>();
  readonly #files: IndexedFile[] = [];
  #litterCount = 0;
  #writer: ObjectWriter | null = null;
  #kind: "zip" | "files" | null = null;

  constructor(bucket: R2Bucket, datasetId: string) {
    this.#bucket = bucket;
    this.#datasetId = datasetId;
  }

  get started(): boolean {
    return this.#kind !== null;
  }

  async take(part: MultipartPart, filename: string): Promise<void> {
    // A browser sends an empty file input as a part without a name and without content.
    if (filename === "") {
      for await (const chunk of part.body) if (chunk.length > 0) throw invalidFiles("files: a file without a name");
      return;
    }
    const isZip = /\.zip$/i.test(filename);
    if (this.#kind === "zip" || (this.#kind === "files" && isZip)) {
      throw invalidFiles("files: send either one zip or loose files, not both and not several zips");
    }
    if (isZip) await this.#takeZip(part);
    else await this.#takeFile(part, filename);
  }

  async #takeZip(part: MultipartPart): Promise<void> {
    const writer = this.#start("zip");
    for await (const chunk of part.body) await writer.append(chunk);
  }

  async #takeFile(part: MultipartPart, filename: string): Promise<void> {
    const canonical = canonicalPath(filename);
    if (!canonical.ok) throw invalidFiles(`files: the name ${quoted(filename)} ${canonical.error}`);
    const path = canonical.value;
    const writer = this.#start("files");
    if (isLitter(path)) {
      this.#litterCount++;
      return;
    }
    if (this.#paths.has(path)) throw invalidFiles(`files: ${quoted(path)} is sent twice`);
    if (this.#files.length >= MAX_LOOSE_FILES) {
      throw invalidFiles(`files: more than ${MAX_LOOSE_FILES} files; send them as one zip`);
    }
    this.#paths.add(path);
    const dataOffset = writer.sizeBytes;
    const hash = createHash("sha256");
    let head = new Uint8Array(0);
    for await (const chunk of part.body) {
      if (head.length < HEAD_BYTES) head = Uint8Array.from([...head, ...chunk.subarray(0, HEAD_BYTES - head.length)]);
      hash.update(chunk);
      await writer.append(chunk);
    }
    const sizeBytes = writer.sizeBytes - dataOffset;
    this.#files.push({
      path,
      sizeBytes,
      sha256: hash.digest("hex"),
      looksLikeImage: looksLikeImage(head),
      dataOffset,
      compressedSizeBytes: sizeBytes,
      method: STORED,
      split: null,
      label: null,
    });
  }

  #start(kind: "zip" | "files"): ObjectWriter {
    this.#kind = kind;
    this.#writer ??= new ObjectWriter(this.#bucket, this.#storageKey(kind));
    return this.#writer;
  }

  #storageKey(kind: "zip" | "files"): string {
    return keys.datasetObject(this.#datasetId, kind === "zip" ? ZIP_OBJECT : FILES_OBJECT);
  }

  /** Makes the object visible; null when no file was sent. */
  async finish(): Promise<UploadedContent | null> {
    const [writer, kind] = [this.#writer, this.#kind];
    if (writer === null || kind === null) return null;
    const clash = fileUsedAsFolder(this.#paths);
    if (clash !== null) throw invalidFiles(`files: ${quoted(clash)} is both a file and a folder`);
    await writer.finish();
    const storageKey = this.#storageKey(kind);
    return kind === "zip"
      ? { kind, storageKey, sizeBytes: writer.sizeBytes }
      : { kind, storageKey, files: this.#files, litterCount: this.#litterCount };
  }

  async abort(): Promise<void> {
    await this.#writer?.abort();
  }
}
