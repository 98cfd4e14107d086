/**
 * The form in which logs of attempts that are over lie in a file: one line of JSON for each chunk, in the order of their
 * lines; some neighbours make a block, which is read as a whole. Pure.
 */
export type LogChunk = {
  firstLine: number;
  lineCount: number;
  attempt: number;
  stream: "stdout" | "stderr";
  seq: number;
  createdAt: number;
  text: string;
};

/** Where the lines of some chunks are in the file of their attempt. */
export type LogBlock = {
  firstLine: number;
  lineCount: number;
  stdoutLines: number;
  attempt: number;
  offsetBytes: number;
  sizeBytes: number;
};

/** A block is closed by the chunk with which it reaches this size. */
const BLOCK_BYTES = 256 * 1024;

export const encodeChunk = (c: LogChunk): string =>
  `${JSON.stringify([c.firstLine, c.lineCount, c.attempt, c.stream, c.seq, c.createdAt, c.text])}\n`;

type Row = [number, number, number, "stdout" | "stderr", number, number, string];

/** The chunks of one block or of several that follow each other. */
export function decodeChunks(text: string): LogChunk[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [firstLine, lineCount, attempt, stream, seq, createdAt, content] = JSON.parse(line) as Row;
      return { firstLine, lineCount, attempt, stream, seq, createdAt, text: content };
    });
}

/** Adds up the blocks of a file while it is being written, chunk by chunk. */
export function createBlocks(attempt: number, blockBytes = BLOCK_BYTES) {
  const blocks: LogBlock[] = [];
  let open: LogBlock | null = null;
  let offsetBytes = 0;
  return {
    /** @param sizeBytes of the encoded chunk */
    add(chunk: LogChunk, sizeBytes: number): void {
      const block: LogBlock = open ?? {
        firstLine: chunk.firstLine,
        lineCount: 0,
        stdoutLines: 0,
        attempt,
        offsetBytes,
        sizeBytes: 0,
      };
      if (open === null) blocks.push(block);
      // Lines are numbered without a hole, but a chunk that was never delivered would leave one.
      block.lineCount = chunk.firstLine + chunk.lineCount - block.firstLine;
      if (chunk.stream === "stdout") block.stdoutLines += chunk.lineCount;
      block.sizeBytes += sizeBytes;
      offsetBytes += sizeBytes;
      open = block.sizeBytes >= blockBytes ? null : block;
    },
    blocks,
  };
}

/** Joins blocks that follow each other in one file into ranges of at most `maxBytes`, or of one block. */
export function rangesOf(
  blocks: Pick<LogBlock, "attempt" | "offsetBytes" | "sizeBytes">[],
  maxBytes: number,
): { attempt: number; offset: number; length: number }[] {
  const ranges: { attempt: number; offset: number; length: number }[] = [];
  for (const { attempt, offsetBytes, sizeBytes } of blocks) {
    const last = ranges.at(-1);
    if (last?.attempt === attempt && last.offset + last.length === offsetBytes && last.length + sizeBytes <= maxBytes) {
      last.length += sizeBytes;
    } else {
      ranges.push({ attempt, offset: offsetBytes, length: sizeBytes });
    }
  }
  return ranges;
}
