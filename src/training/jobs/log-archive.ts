import { runBatch } from "../../db/batch.ts";
import { AppError } from "../../shared/errors.ts";
import { keys } from "../../storage/keys.ts";
import { ObjectWriter } from "../../storage/object-writer.ts";
import { createBlocks, decodeChunks, encodeChunk, type LogBlock, type LogChunk, rangesOf } from "./log-blocks.ts";

/** About so much of the rows is in memory at a time. */
const PAGE_BYTES = 1_000_000;
const MAX_PAGE_ROWS = 500;
const DELETED_AT_ONCE = 1_000;
const READ_BYTES = 1024 * 1024;

const PAGE = `select first_line as firstLine, line_count as lineCount, attempt, stream, seq, created_at as createdAt, text
  from log_chunks where job_id = ?1 and first_line > ?2 order by first_line limit ?3`;
const ARCHIVED_TO = "select coalesce(max(first_line + line_count - 1), 0) as line from log_blocks where job_id = ?1";
// Stored by an earlier try already: its file has the same bytes.
const ADD_BLOCKS = `insert or ignore into log_blocks
    (job_id, first_line, line_count, stdout_lines, attempt, offset_bytes, size_bytes)
  select ?1, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 from json_each(?2)`;
const DELETE = `delete from log_chunks where job_id = ?1 and first_line in
  (select first_line from log_chunks where job_id = ?1 and first_line <= ?2 order by first_line limit ${DELETED_AT_ONCE})`;

const utf8 = new TextEncoder();

/**
 * Puts the lines of an attempt that is over, and of which D1 has everything, into one file and notes where they are. The rows
 * stay until `deleteRows`; from the note on nobody reads them. The same call again does the same.
 * @returns the last line that is put away now
 * @throws what D1 or R2 threw; nothing is noted then
 */
export async function archiveLines(
  binding: D1Database,
  bucket: R2Bucket,
  jobId: number,
  attempt: number,
): Promise<number> {
  const archived = await binding.prepare(ARCHIVED_TO).bind(jobId).first<{ line: number }>();
  let line = archived?.line ?? 0;
  const writer = new ObjectWriter(bucket, keys.jobLog(jobId, attempt));
  const { add, blocks } = createBlocks(attempt);
  try {
    let rows = 4;
    for (;;) {
      const { results } = await binding.prepare(PAGE).bind(jobId, line, rows).all<LogChunk>();
      let bytes = 0;
      for (const chunk of results) {
        if (chunk.attempt > attempt) break;
        const encoded = utf8.encode(encodeChunk(chunk));
        await writer.append(encoded);
        add(chunk, encoded.byteLength);
        bytes += encoded.byteLength;
        line = chunk.firstLine + chunk.lineCount - 1;
      }
      const last = results.at(-1);
      if (last === undefined || last.attempt > attempt || results.length < rows) break;
      rows = Math.max(1, Math.min(MAX_PAGE_ROWS, Math.floor((rows * PAGE_BYTES) / Math.max(bytes, 1))));
    }
    if (blocks.length === 0) {
      await writer.abort();
      return line;
    }
    await writer.finish();
  } catch (thrown) {
    await writer.abort();
    throw thrown;
  }
  const rows = blocks.map((b) => [b.firstLine, b.lineCount, b.stdoutLines, b.attempt, b.offsetBytes, b.sizeBytes]);
  await runBatch(binding, [{ sql: ADD_BLOCKS, params: [jobId, JSON.stringify(rows)] }]);
  return line;
}

/** Deletes some of the rows up to a line that is put away. @returns whether none is left */
export async function deleteRows(binding: D1Database, jobId: number, toLine: number): Promise<boolean> {
  const { meta } = await binding.prepare(DELETE).bind(jobId, toLine).run();
  return meta.changes < DELETED_AT_ONCE;
}

/**
 * The chunks of blocks, in the order of the blocks. Only those of the stream are kept in memory.
 * @throws STORAGE_UNAVAILABLE when a file cannot be read
 */
export async function readBlocks(
  bucket: R2Bucket,
  jobId: number,
  blocks: Pick<LogBlock, "attempt" | "offsetBytes" | "sizeBytes">[],
  stream: LogChunk["stream"] | undefined,
): Promise<LogChunk[]> {
  const chunks: LogChunk[] = [];
  for (const { attempt, offset, length } of rangesOf(blocks, READ_BYTES)) {
    const file = await bucket.get(keys.jobLog(jobId, attempt), { range: { offset, length } });
    if (file === null) throw new AppError("STORAGE_UNAVAILABLE", "The log cannot be read now; try again");
    const found = decodeChunks(await file.text());
    chunks.push(...(stream === undefined ? found : found.filter((chunk) => chunk.stream === stream)));
  }
  return chunks;
}
