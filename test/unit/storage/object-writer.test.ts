import { describe, it } from "vitest";
import { ObjectWriter, PART_BYTES, type WritableStore } from "../../../src/storage/object-writer.ts";

/**
 * The part of R2 that the writer uses, with R2's rules: parts of one size, an object only after put or complete. A part is
 * copied only when the store gets round to it, so a writer that reuses a buffer too early is caught.
 */
class MemoryStore implements WritableStore {
  readonly objects = new Map<string, Uint8Array>();
  readonly aborted: string[] = [];
  puts = 0;
  openUploads = 0;
  inFlightBytes = 0;
  mostInFlightBytes = 0;
  failOn: "put" | "create" | "part 2" | "complete" | null = null;

  async put(key: string, value: Uint8Array) {
    this.puts++;
    if (this.failOn === "put") throw new Error("store is down");
    await Promise.resolve();
    this.objects.set(key, value.slice());
  }

  async createMultipartUpload(key: string) {
    if (this.failOn === "create") throw new Error("store is down");
    this.openUploads++;
    const parts = new Map<number, Uint8Array>();
    return {
      uploadPart: async (partNumber: number, value: Uint8Array) => {
        this.inFlightBytes += value.length;
        this.mostInFlightBytes = Math.max(this.mostInFlightBytes, this.inFlightBytes);
        await new Promise((resolve) => setTimeout(resolve, 1));
        this.inFlightBytes -= value.length;
        if (this.failOn === `part ${partNumber}`) throw new Error("store is down");
        parts.set(partNumber, value.slice());
        return { partNumber, etag: `etag-${partNumber}` };
      },
      complete: async (list: { partNumber: number; etag: string }[]) => {
        if (this.failOn === "complete") throw new Error("store is down");
        const sizes = new Set(list.slice(0, -1).map((part) => parts.get(part.partNumber)?.length));
        if (sizes.size > 1) throw new Error("parts of different sizes (10048)");
        if (list.some((part, i) => part.partNumber !== i + 1 || part.etag !== `etag-${i + 1}`)) {
          throw new Error("bad part list");
        }
        const bytes = Buffer.concat(list.map((part) => parts.get(part.partNumber) ?? new Uint8Array()));
        this.objects.set(key, new Uint8Array(bytes));
        this.openUploads--;
      },
      abort: async () => {
        this.aborted.push(key);
        this.openUploads--;
      },
    };
  }
}

const pattern = (length: number) => new Uint8Array(length).map((_, i) => (i * 31 + (i >> 8)) & 255);

describe("ObjectWriter", () => {
  it("puts a small object in one go, also an empty one", async ({ expect }) => {
    const store = new MemoryStore();
    const small = new ObjectWriter(store, "a");
    await small.append(pattern(100_000));
    await small.append(pattern(10));
    await small.finish();
    expect(store.objects.get("a")).toEqual(new Uint8Array([...pattern(100_000), ...pattern(10)]));
    await new ObjectWriter(store, "empty").finish();
    expect(store.objects.get("empty")).toHaveLength(0);
    expect(store.puts).toBe(2);
  });

  it("stores the same bytes whatever the chunk and part boundaries", async ({ expect }) => {
    const content = pattern(1_000);
    for (const partBytes of [100, 250, 333, 999, 1_000, 1_001]) {
      for (const chunkBytes of [1, 7, 100, 333, 1_000]) {
        const store = new MemoryStore();
        const writer = new ObjectWriter(store, "k", partBytes);
        for (let at = 0; at < content.length; at += chunkBytes) {
          // The caller's buffer is only lent: it is overwritten right after.
          const lent = content.slice(at, at + chunkBytes);
          await writer.append(lent);
          lent.fill(0);
        }
        expect(writer.sizeBytes).toBe(1_000);
        await writer.finish();
        expect(store.objects.get("k"), `parts of ${partBytes}, chunks of ${chunkBytes}`).toEqual(content);
        expect(store.openUploads).toBe(0);
      }
    }
  });

  it("holds two parts of a 95 MB object and no more", async ({ expect }) => {
    const store = new MemoryStore();
    const writer = new ObjectWriter(store, "big");
    const chunk = new Uint8Array(64 * 1024);
    let sent = 0;
    while (sent < 95_000_000) {
      await writer.append(chunk);
      sent += chunk.length;
    }
    await writer.finish();
    expect(store.objects.get("big")).toHaveLength(sent);
    expect(store.mostInFlightBytes).toBe(PART_BYTES);
    expect(store.puts).toBe(0);
  });

  for (const failOn of ["create", "part 2", "complete"] as const) {
    it(`leaves nothing behind when the store fails on ${failOn}`, async ({ expect }) => {
      const store = new MemoryStore();
      store.failOn = failOn;
      const writer = new ObjectWriter(store, "k", 100);
      const writing = async () => {
        for (let i = 0; i < 10; i++) await writer.append(pattern(50));
        await writer.finish();
      };
      await expect(writing()).rejects.toThrow("store is down");
      await writer.abort();
      await writer.abort();
      expect(store.objects.size).toBe(0);
      expect(store.openUploads).toBe(0);
    });
  }

  it("reports a failing put", async ({ expect }) => {
    const store = new MemoryStore();
    store.failOn = "put";
    const writer = new ObjectWriter(store, "k");
    await writer.append(pattern(5));
    await expect(writer.finish()).rejects.toThrow("store is down");
  });

  it("removes the parts of an aborted upload, and takes nothing afterwards", async ({ expect }) => {
    const store = new MemoryStore();
    const writer = new ObjectWriter(store, "k", 100);
    await writer.append(pattern(450));
    await writer.abort();
    expect(store.aborted).toEqual(["k"]);
    await expect(writer.append(pattern(1))).rejects.toThrow("already finished or aborted");
    await expect(writer.finish()).rejects.toThrow("already finished or aborted");
    expect(store.objects.size).toBe(0);
  });
});
