import { appendFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "vitest";
import { advanceCursor, type Cursor, nextBatch } from "../../../runner/embedded/agent/outbox/batch.ts";
import { encodeRecord, scanRecords } from "../../../runner/embedded/agent/outbox/frame.ts";
import { Journal } from "../../../runner/embedded/agent/outbox/journal.ts";
import { tempFolder } from "./support.ts";

describe("the outbox's file format", () => {
  const line = (seq: number) => encodeRecord({ seq, text: `한 ${seq}` } as { seq: number });

  it("finds every record where it stands", ({ expect }) => {
    const file = Buffer.from(line(1) + line(2));
    const { places, wholeBytes, damaged } = scanRecords(file);
    expect(damaged).toBe(0);
    expect(wholeBytes).toBe(file.length);
    expect(places.map(({ offset, length }) => JSON.parse(file.toString("utf8", offset, offset + length)))).toEqual([
      { seq: 1, text: "한 1" },
      { seq: 2, text: "한 2" },
    ]);
  });

  it("leaves a last line out at whatever byte it was torn", ({ expect }) => {
    const whole = Buffer.from(line(1));
    const torn = Buffer.from(line(2));
    for (let cut = 0; cut < torn.length; cut += 1) {
      const scan = scanRecords(Buffer.concat([whole, torn.subarray(0, cut)]));
      expect(scan.places.map(({ seq }) => seq)).toEqual([1]);
      expect(scan.wholeBytes).toBe(whole.length);
    }
  });

  it("leaves out a record with any changed byte and keeps those around it", ({ expect }) => {
    const lines = [line(1), line(2), line(3)].map((text) => Buffer.from(text));
    const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = lines;
    for (let at = 0; at < second.length - 1; at += 1) {
      const file = Buffer.concat(lines);
      file[first.length + at] = (file[first.length + at] ?? 0) ^ 1;
      const { places, damaged } = scanRecords(file);
      expect(places.map(({ seq }) => seq)).toEqual([1, 3]);
      expect(damaged).toBeGreaterThan(0);
    }
  });

  it("takes no number that is not one", ({ expect }) => {
    for (const seq of [0, -1, 1.5, Number.MAX_VALUE, "1", null]) {
      expect(scanRecords(Buffer.from(encodeRecord({ seq } as { seq: number }))).places).toEqual([]);
    }
  });
});

type Item = { text: string };
const open = (folder: string, options: { segmentBytes?: number; onTrouble?: (error: unknown) => void } = {}) =>
  Journal.open<Item>(folder, { onTrouble: () => {}, ...options });
const texts = async (journal: Journal<Item>, from: number, to: number) =>
  (await journal.read(Array.from({ length: to - from + 1 }, (_, i) => from + i))).map(({ text }) => text);

describe("Journal", () => {
  it("numbers from 1, reads back by number, and has everything after a restart", async ({ expect }) => {
    const folder = await tempFolder();
    const first = await open(folder);
    for (let i = 1; i <= 5; i += 1) expect(first.append({ text: `t${i}` })).toBe(i);
    expect(first.durableSeq).toBe(0);
    await first.flushed();
    expect(first.durableSeq).toBe(5);
    expect(await texts(first, 2, 4)).toEqual(["t2", "t3", "t4"]);
    await first.close();

    const second = await open(folder);
    expect([second.lastSeq, second.durableSeq, second.releasedSeq]).toEqual([5, 5, 0]);
    expect(second.append({ text: "t6" })).toBe(6);
    await second.flushed();
    expect(await texts(second, 1, 6)).toEqual(["t1", "t2", "t3", "t4", "t5", "t6"]);
    await second.close();
  });

  it("is as a killed process leaves it: without close", async ({ expect }) => {
    const folder = await tempFolder();
    const killed = await open(folder);
    killed.append({ text: "a" });
    await killed.flushed();
    const next = await open(folder);
    expect(await texts(next, 1, 1)).toEqual(["a"]);
    await Promise.all([killed.close(), next.close()]);
  });

  it("drops a torn last record and gives its number to the next one", async ({ expect }) => {
    const folder = await tempFolder();
    const first = await open(folder);
    first.append({ text: "kept" });
    await first.close();
    await appendFile(join(folder, "000000000001.log"), encodeRecord({ seq: 2 }).slice(0, -4));
    const second = await open(folder);
    expect(second.append({ text: "again" })).toBe(2);
    await second.close();
    const third = await open(folder);
    expect(await texts(third, 1, 2)).toEqual(["kept", "again"]);
    await third.close();
  });

  it("does not give the number of a damaged record away, and says that one is damaged", async ({ expect }) => {
    const folder = await tempFolder();
    const first = await open(folder);
    for (const text of ["one", "two", "three"]) first.append({ text });
    await first.close();
    const path = join(folder, "000000000001.log");
    await writeFile(path, (await readFile(path, "utf8")).replace("two", "tWo"));
    const troubles: unknown[] = [];
    const second = await open(folder, { onTrouble: (error) => troubles.push(error) });
    expect(troubles).toHaveLength(1);
    expect(second.append({ text: "four" })).toBe(4);
    await second.flushed();
    expect((await second.read([1, 2, 3, 4])).map(({ seq }) => seq)).toEqual([1, 3, 4]);
    await second.close();
  });

  it("deletes whole files below what is acknowledged, and remembers its number when nothing is left", async ({
    expect,
  }) => {
    const folder = await tempFolder();
    const first = await open(folder, { segmentBytes: 200 });
    for (let i = 1; i <= 20; i += 1) {
      first.append({ text: "x".repeat(90) });
      await first.flushed();
    }
    const files = (await readdir(folder)).length;
    expect(files).toBeGreaterThan(5);
    await first.release(10);
    expect((await readdir(folder)).length).toBeLessThan(files);
    expect(await first.read([10, 11])).toHaveLength(1);
    await first.release(20);
    expect(await readdir(folder)).toHaveLength(1);
    await first.close();
    const second = await open(folder, { segmentBytes: 200 });
    expect(second.append({ text: "next" })).toBe(21);
    await second.close();
  });

  it("puts what comes together into one write", async ({ expect }) => {
    const journal = await open(await tempFolder());
    let flushes = 0;
    journal.watch(() => {
      flushes += 1;
    });
    for (let i = 0; i < 1000; i += 1) journal.append({ text: "x" });
    await journal.flushed();
    expect(flushes).toBe(1);
    expect(journal.durableSeq).toBe(1000);
    await journal.close();
  });

  it("keeps records in memory when the disk refuses them, and writes again when it can", async ({ expect }) => {
    const folder = await tempFolder();
    const troubles: unknown[] = [];
    const journal = await open(folder, { onTrouble: (error) => troubles.push(error) });
    // A folder in the place of the file: no write there can succeed, whoever runs the test.
    await rm(folder, { recursive: true });
    await writeFile(folder, "");
    journal.append({ text: "held" });
    await journal.flushed();
    expect(troubles).toHaveLength(1);
    expect(await texts(journal, 1, 1)).toEqual(["held"]);
    await rm(folder);
    await mkdir(folder);
    journal.append({ text: "written" });
    await journal.flushed();
    expect(await texts(journal, 1, 2)).toEqual(["held", "written"]);
    await journal.close();
  });

  it("goes on behind half a line that a failed write has left", async ({ expect }) => {
    const folder = await tempFolder();
    const journal = await open(folder);
    journal.append({ text: "one" });
    await journal.flushed();
    const path = join(folder, "000000000001.log");
    // As a full disk does it: part of the next line is there, and the write has failed.
    await appendFile(path, encodeRecord({ seq: 2 }).slice(0, 7));
    await journal.close();
    const again = await open(folder);
    again.append({ text: "two" });
    await again.close();
    const last = await open(folder);
    expect(await texts(last, 1, 2)).toEqual(["one", "two"]);
    await last.close();
  });

  it("raises its number above one that the server has seen", async ({ expect }) => {
    const journal = await open(await tempFolder());
    journal.skipTo(7);
    expect(journal.append({ text: "x" })).toBe(8);
    await journal.close();
  });
});

describe("nextBatch", () => {
  const fresh: Cursor = { acked: 0, sent: 0, missing: [] };
  const limits = { maxEvents: 500, maxBytes: 1000 };

  it("takes what fits, in order", ({ expect }) => {
    expect(nextBatch(fresh, 20, limits, () => 99)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(nextBatch(fresh, 9000, limits, () => 0)).toHaveLength(500);
    expect(nextBatch({ ...fresh, acked: 20, sent: 20 }, 20, limits, () => 1)).toEqual([]);
  });

  it("sends one that is larger than a batch alone", ({ expect }) => {
    expect(nextBatch(fresh, 3, limits, (seq) => (seq === 1 ? 5000 : 10))).toEqual([1]);
    expect(nextBatch(fresh, 3, limits, (seq) => (seq === 2 ? 5000 : 10))).toEqual([1]);
  });

  it("sends again what is missing before anything new", ({ expect }) => {
    const cursor: Cursor = {
      acked: 2,
      sent: 8,
      missing: [
        [3, 3],
        [6, 7],
      ],
    };
    expect(nextBatch(cursor, 10, limits, () => 1)).toEqual([3, 6, 7, 9, 10]);
  });

  it("does not run away with a range that the server made up", ({ expect }) => {
    const cursor: Cursor = { acked: 2, sent: 4, missing: [[-5, 1_000_000_000]] };
    expect(nextBatch(cursor, 5, limits, () => 1)).toEqual([3, 4, 5]);
  });
});

describe("advanceCursor", () => {
  it("follows the server's mark, also back to what it has lost", ({ expect }) => {
    const cursor = advanceCursor({ acked: 0, sent: 0, missing: [] }, [1, 2, 3], { ackSeq: 3, missing: [] });
    expect(cursor).toEqual({ acked: 3, sent: 3, missing: [] });
    expect(advanceCursor(cursor, [4], { ackSeq: 1, missing: [] })).toEqual({ acked: 1, sent: 4, missing: [[2, 4]] });
  });

  it("asks for everything above the mark when the server has lost what it had seen", ({ expect }) => {
    const cursor = advanceCursor({ acked: 0, sent: 10, missing: [] }, [11], { ackSeq: 4, missing: [] });
    expect(nextBatch(cursor, 11, { maxEvents: 500, maxBytes: 1000 }, () => 1)).toEqual([5, 6, 7, 8, 9, 10, 11]);
  });

  it("takes an acknowledgement of more than was sent as it is", ({ expect }) => {
    const cursor = advanceCursor({ acked: 0, sent: 0, missing: [] }, [1], { ackSeq: 9, missing: [[3, 4]] });
    expect(cursor).toEqual({ acked: 9, sent: 9, missing: [] });
  });
});
