import { describe, it } from "vitest";
import {
  createBlocks,
  decodeChunks,
  encodeChunk,
  type LogChunk,
  rangesOf,
} from "../../../src/training/jobs/log-blocks.ts";

const chunk = (firstLine: number, text: string, stream: LogChunk["stream"] = "stdout"): LogChunk => ({
  firstLine,
  lineCount: text.split("\n").length - (text.endsWith("\n") ? 1 : 0),
  attempt: 1,
  stream,
  seq: firstLine,
  createdAt: 5,
  text,
});

describe("chunks in a file", () => {
  it("come back as they were, whatever is in them", ({ expect }) => {
    const chunks = ["a\nb\n", "no end", '"quoted" \\ \u0000 \ud800 \u2028 한글 😀\n', "\n\n\n", "\r\n"].map((text, i) =>
      chunk(i * 10 + 1, text, i % 2 ? "stderr" : "stdout"),
    );
    expect(decodeChunks(chunks.map(encodeChunk).join(""))).toEqual(chunks);
    expect(decodeChunks("")).toEqual([]);
  });
});

describe("blocks of a file", () => {
  it("cover it without a hole, each closed by the chunk that fills it", ({ expect }) => {
    const { add, blocks } = createBlocks(3, 100);
    add(chunk(1, "a\nb\n"), 60);
    add(chunk(3, "c\n", "stderr"), 60);
    add(chunk(4, "d\n"), 500);
    add(chunk(5, "e\n", "stderr"), 10);
    expect(blocks).toEqual([
      { firstLine: 1, lineCount: 3, stdoutLines: 2, attempt: 3, offsetBytes: 0, sizeBytes: 120 },
      { firstLine: 4, lineCount: 1, stdoutLines: 1, attempt: 3, offsetBytes: 120, sizeBytes: 500 },
      { firstLine: 5, lineCount: 1, stdoutLines: 0, attempt: 3, offsetBytes: 620, sizeBytes: 10 },
    ]);
  });

  it("are none when nothing was written", ({ expect }) => {
    expect(createBlocks(1).blocks).toEqual([]);
  });

  it("are read together where they follow each other in one file, up to a size", ({ expect }) => {
    const at = (attempt: number, offsetBytes: number, sizeBytes: number) => ({ attempt, offsetBytes, sizeBytes });
    expect(rangesOf([at(1, 0, 40), at(1, 40, 40), at(1, 80, 40), at(1, 200, 10), at(2, 210, 10)], 100)).toEqual([
      { attempt: 1, offset: 0, length: 80 },
      { attempt: 1, offset: 80, length: 40 },
      { attempt: 1, offset: 200, length: 10 },
      { attempt: 2, offset: 210, length: 10 },
    ]);
    expect(rangesOf([at(1, 0, 500), at(1, 500, 500)], 100)).toHaveLength(2);
  });
});
