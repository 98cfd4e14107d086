import { describe, it } from "vitest";
import { LogChunker } from "../../../runner/embedded/agent/log-chunker.ts";
import { createMask } from "../../../runner/embedded/agent/mask.ts";

const MAX = 4096;
const plain = (text: string) => text;
const bytes = (text: string) => new TextEncoder().encode(text);

describe("LogChunker", () => {
  it("gives out whole lines only, and the open one at the end", ({ expect }) => {
    const chunker = new LogChunker(MAX, plain);
    expect(chunker.push(bytes("one\ntw"))).toEqual([]);
    expect(chunker.flush()).toBe("one\n");
    expect(chunker.flush()).toBe(null);
    chunker.push(bytes("o\nthree"));
    expect(chunker.flush()).toBe("two\n");
    expect(chunker.end()).toEqual(["three"]);
    expect(chunker.end()).toEqual([]);
  });

  it("starts a new chunk before a line that does not fit", ({ expect }) => {
    const chunker = new LogChunker(MAX, plain);
    const line = `${"x".repeat(2999)}\n`;
    expect(chunker.push(bytes(line + line))).toEqual([line]);
    expect(chunker.flush()).toBe(line);
  });

  it("loses no byte of a line that is larger than a chunk, and cuts no character", ({ expect }) => {
    const chunker = new LogChunker(MAX, plain);
    const text = `${"ñ한🌱".repeat(5000)}\nend`;
    const sent = bytes(text);
    const chunks: string[] = [];
    for (let at = 0; at < sent.length; at += 777) chunks.push(...chunker.push(sent.subarray(at, at + 777)));
    chunks.push(...chunker.end());
    expect(chunks.join("")).toBe(text);
    expect(Math.max(...chunks.map((chunk) => Buffer.byteLength(chunk)))).toBeLessThanOrEqual(MAX);
    expect(chunks.every((chunk) => chunk.isWellFormed())).toBe(true);
  });

  it("puts a character together that two reads have cut, and replaces bytes that are none", ({ expect }) => {
    const chunker = new LogChunker(MAX, plain);
    const [first = 0, ...rest] = bytes("한\n");
    chunker.push(Uint8Array.of(first));
    chunker.push(Uint8Array.from(rest));
    chunker.push(Uint8Array.of(0xff, 0x0a));
    expect(chunker.flush()).toBe("한\n\ufffd\n");
  });

  it("keeps control bytes and empty lines as they are", ({ expect }) => {
    const chunker = new LogChunker(MAX, plain);
    chunker.push(bytes("\u001b[31mred\u0007\r\n\n\u0000\n"));
    expect(chunker.flush()).toBe("\u001b[31mred\u0007\r\n\n\u0000\n");
  });

  it("puts a line of the agent between lines, never into one", ({ expect }) => {
    const chunker = new LogChunker(MAX, plain);
    chunker.push(bytes("whole\nhal"));
    chunker.insert("from the\nagent");
    chunker.push(bytes("f\n"));
    expect(chunker.flush()).toBe("whole\nfrom the agent\nhalf\n");
  });

  it("masks a token that arrives in pieces, also in a line without end", ({ expect }) => {
    const token = `cvr_${"0123456789abcdef".repeat(3)}`;
    const chunker = new LogChunker(MAX, createMask([token]));
    chunker.push(bytes(`key=${token.slice(0, 20)}`));
    expect(chunker.flush()).toBe(null);
    chunker.push(bytes(`${token.slice(20)}\n`));
    expect(chunker.flush()).toBe("key=[masked]\n");

    const chunks: string[] = [];
    const endless = `${"y".repeat(MAX - 10)}${token}`.repeat(4);
    for (const char of endless.match(/.{1,100}/gs) ?? []) chunks.push(...chunker.push(bytes(char)));
    chunks.push(...chunker.end());
    expect(chunks.join("")).not.toContain("0123456789abcdef");
    expect(chunks.join("").match(/\[masked\]/g)).toHaveLength(4);
  });
});

describe("createMask", () => {
  it("masks what looks like a credential and leaves the rest alone", ({ expect }) => {
    const mask = createMask(["s3cret-by-value"]);
    const jwt = `eyJhbGciOiJIUzI1NiJ9.${"a".repeat(40)}.${"b".repeat(40)}`;
    expect(mask(`authorization: Bearer ${jwt}`)).toBe("authorization: Bearer [masked]");
    expect(mask(`cvreg_${"a1".repeat(24)} and s3cret-by-value`)).toBe("[masked] and [masked]");
    expect(mask("epoch 3 loss 0.5 cv_score 0.9 bearer of news")).toBe("epoch 3 loss 0.5 cv_score 0.9 bearer of news");
  });
});
