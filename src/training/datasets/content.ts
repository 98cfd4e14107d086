import { createHash } from "node:crypto";
import { err, ok, type Result } from "../../shared/result.ts";
import { SequentialReader } from "../../shared/streams.ts";
import { isImagePath, looksLikeImage } from "./formats/images.ts";
import { fileWarnings, openFormat } from "./formats/index.ts";
import { listed } from "./formats/summary.ts";
import type {
  DatasetFormat,
  DatasetSummary,
  DatasetWarning,
  FormatProblem,
  FormatReading,
  SplitName,
} from "./formats/types.ts";
import { compareCodePoints } from "./paths.ts";
import {
  DEFAULT_ZIP_LIMITS,
  readZipDirectory,
  type ZipDirectory,
  type ZipLimits,
  type ZipProblem,
} from "./zip/directory.ts";
import { verifyZip } from "./zip/verify.ts";

/**
 * From stored bytes to what a dataset is: its files with hashes and places, its classes and splits. Reads the object it is
 * given and writes nothing.
 */

/**
 * One file inside the stored object. Made once per file and completed in place: there may be tens of thousands of them in
 * an isolate of 128 MB.
 */
export type IndexedFile = {
  path: string;
  sizeBytes: number;
  sha256: string;
  /** Whether the content begins like a picture, whatever its name says. */
  looksLikeImage: boolean;
  /** Where its data begin in the object, and how they are packed (zip methods 0 and 8). */
  dataOffset: number;
  compressedSizeBytes: number;
  method: 0 | 8;
  /** Known once the dataset was read. */
  split: SplitName | null;
  label: string | null;
};

export type DatasetContent = {
  summary: DatasetSummary;
  /** Sorted by path: the position is the file id, from 1. */
  files: IndexedFile[];
  totalSizeBytes: number;
  contentHash: string;
  warnings: DatasetWarning[];
};

/** Ranges of the stored object, whole or in one go. */
export type StoredObject = {
  sizeBytes: number;
  read(offset: number, length: number): Promise<Uint8Array>;
  stream(offset: number): Promise<ReadableStream<Uint8Array>>;
};

export type ContentFailure = { code: "VALIDATION_ERROR"; message: string; field: string };

/** The text of one annotation file; what its parser builds of it has to fit beside it in 128 MB. */
export const MAX_ANNOTATION_BYTES = 16 * 1024 * 1024;
/** Up to so many annotation files are fetched one by one, more in one pass over the object. */
const MAX_SINGLE_READS = 16;

const invalid = (problem: { field: string; message: string }) =>
  err<ContentFailure>({
    code: "VALIDATION_ERROR",
    message: `${problem.field}: ${problem.message}`,
    field: problem.field,
  });

const invalidFiles = (message: string) => invalid({ field: "files", message });

/** Reads a stored zip: directory first, then one pass that verifies everything and picks up the annotation files. */
export async function readZipContent(
  object: StoredObject,
  format: DatasetFormat,
  limits: ZipLimits = DEFAULT_ZIP_LIMITS,
): Promise<Result<DatasetContent, ContentFailure>> {
  const directory = await readZipDirectory(object.read, object.sizeBytes, limits);
  if (!directory.ok) return invalidFiles(directory.error.message);
  const { entries } = directory.value;
  const opened = openFormat(format, entries);
  if (!opened.ok) return invalid(opened.error);
  const { reading, strippedPrefix } = opened.value;
  const annotations = new AnnotationTexts(reading, strippedPrefix);
  const files: IndexedFile[] = [];

  for (const entry of entries) {
    const tooLong = annotations.wants(entry.path) && annotations.sizeProblem(entry.path, entry.sizeBytes);
    if (tooLong) return invalid(tooLong);
  }
  const verified = await verifyZip<ZipProblem | FormatProblem>(
    await object.stream(0),
    entries,
    (path) => annotations.wants(path),
    ({ entry, content, head, sha256, dataOffset }) => {
      const { path, sizeBytes, compressedSizeBytes, method } = entry;
      const isImage = looksLikeImage(head);
      files.push({
        path,
        sizeBytes,
        sha256,
        looksLikeImage: isImage,
        dataOffset,
        compressedSizeBytes,
        method,
        split: null,
        label: null,
      });
      return content === null ? ok(undefined) : annotations.take(path, content);
    },
  );
  if (!verified.ok) {
    return "field" in verified.error ? invalid(verified.error) : invalidFiles(verified.error.message);
  }
  return finish(reading, files, strippedPrefix, encodingWarning(directory.value));
}

/** Reads the annotation files of loose files that stand one behind the other in the stored object. */
export async function readLooseContent(
  object: StoredObject,
  files: IndexedFile[],
  format: DatasetFormat,
): Promise<Result<DatasetContent, ContentFailure>> {
  const opened = openFormat(format, files);
  if (!opened.ok) return invalid(opened.error);
  const { reading, strippedPrefix } = opened.value;
  const annotations = new AnnotationTexts(reading, strippedPrefix);
  const wanted = files.filter((file) => annotations.wants(file.path));
  for (const file of wanted) {
    const tooLong = annotations.sizeProblem(file.path, file.sizeBytes);
    if (tooLong) return invalid(tooLong);
  }
  const read = await openReads(object, wanted);
  try {
    for (const file of wanted) {
      const taken = annotations.take(file.path, await read.next(file));
      if (!taken.ok) return invalid(taken.error);
    }
  } finally {
    await read.close();
  }
  return finish(reading, files, strippedPrefix, []);
}

/** Reads files in the order of their offsets: few by their ranges, many in one pass. */
async function openReads(object: StoredObject, wanted: readonly IndexedFile[]) {
  const [first] = wanted;
  if (first === undefined || wanted.length <= MAX_SINGLE_READS) {
    return {
      next: async ({ dataOffset, sizeBytes }: IndexedFile) =>
        sizeBytes === 0 ? new Uint8Array(0) : object.read(dataOffset, sizeBytes),
      close: async () => undefined,
    };
  }
  const start = first.dataOffset;
  const reader = new SequentialReader(await object.stream(start));
  return {
    next: async ({ dataOffset, sizeBytes }: IndexedFile) => {
      await reader.skipTo(dataOffset - start);
      const bytes = await reader.take(sizeBytes);
      if (bytes === null) throw new Error("the stored object is shorter than its index");
      return bytes;
    },
    close: () => reader.cancel(),
  };
}

/** Hands the wanted files to a format, decoded. */
class AnnotationTexts {
  readonly #reading: FormatReading;
  readonly #strippedPrefix: string;

  constructor(reading: FormatReading, strippedPrefix: string) {
    this.#reading = reading;
    this.#strippedPrefix = strippedPrefix;
  }

  wants(path: string): boolean {
    return this.#reading.wanted.has(path.slice(this.#strippedPrefix.length));
  }

  sizeProblem(path: string, sizeBytes: number): FormatProblem | null {
    if (sizeBytes <= MAX_ANNOTATION_BYTES) return null;
    return { field: "files", message: `${path} has ${sizeBytes} bytes; at most ${MAX_ANNOTATION_BYTES} are read` };
  }

  take(path: string, bytes: Uint8Array): Result<void, FormatProblem> {
    let text: string;
    try {
      text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes);
    } catch {
      return { ok: false, error: { field: "files", message: `${path} is not UTF-8 text` } };
    }
    return this.#reading.take(path.slice(this.#strippedPrefix.length), text);
  }
}

/** Completes the files and sorts them. */
function finish(
  reading: FormatReading,
  files: IndexedFile[],
  strippedPrefix: string,
  found: DatasetWarning[],
): Result<DatasetContent, ContentFailure> {
  const finished = reading.finish();
  if (!finished.ok) return invalid(finished.error);
  const summary = finished.value;
  const notImages: string[] = [];
  let totalSizeBytes = 0;
  for (const file of files) {
    file.path = file.path.slice(strippedPrefix.length);
    const placement = summary.placements.get(file.path);
    file.split = placement?.split ?? null;
    file.label = placement?.label ?? null;
    totalSizeBytes += file.sizeBytes;
    if (isImagePath(file.path) && file.sizeBytes > 0 && !file.looksLikeImage) notImages.push(file.path);
  }
  files.sort((left, right) => compareCodePoints(left.path, right.path));
  const contentWarnings =
    notImages.length > 0
      ? [
          {
            code: "not_an_image",
            message: `${notImages.length} images are not what their name says: ${listed(notImages, 3)}`,
          },
        ]
      : [];
  return ok({
    summary,
    files,
    totalSizeBytes,
    contentHash: contentHash(files),
    warnings: [...summary.warnings, ...fileWarnings(files), ...contentWarnings, ...found],
  });
}

/**
 * Names the content: SHA-256 over `path NUL sha256 LF` of every file in the order of paths. The same files give the same
 * hash, whether they came zipped or loose, in one folder or another.
 */
export function contentHash(sortedFiles: Iterable<{ path: string; sha256: string }>): string {
  const hash = createHash("sha256");
  for (const { path, sha256 } of sortedFiles) hash.update(`${path}\0${sha256}\n`);
  return hash.digest("hex");
}

function encodingWarning({ nameEncoding, entries }: ZipDirectory): DatasetWarning[] {
  if (nameEncoding === "utf-8") return [];
  const example = entries.find((entry) => /[^ -~]/.test(entry.path))?.path ?? "";
  return [
    {
      code: "name_encoding",
      message: `The zip does not say how its names are encoded; they were read as ${nameEncoding}, for example ${listed([example])}`,
    },
  ];
}
