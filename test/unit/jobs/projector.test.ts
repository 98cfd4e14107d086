import { describe, it } from "vitest";
import type { ProjectionItem } from "../../../src/training/jobs/projection.ts";
import { createProjector, type Outbox } from "../../../src/training/jobs/projector.ts";

/** An outbox in memory: the port of the projector. */
function memoryOutbox() {
  let items: { id: number; item: ProjectionItem }[] = [];
  let lastId = 0;
  const aside: [number, string][] = [];
  const outbox: Outbox = {
    peek: (maxBytes, maxItems) => {
      const taken = items.filter((_, i) => i === 0 || (i < maxBytes / 10_000 && i < maxItems));
      const last = taken.at(-1);
      return last === undefined ? null : { lastId: last.id, items: taken.map(({ item }) => item) };
    },
    removeUpTo: (id) => {
      items = items.filter((entry) => entry.id > id);
    },
    setAside: (id, error) => {
      for (const { item } of items.filter((entry) => entry.id === id)) {
        if (item.kind === "attemptEnd") aside.push([item.attempt, error]);
      }
      items = items.filter((entry) => entry.id !== id);
    },
    oldestId: () => items[0]?.id ?? null,
    newestId: () => items.at(-1)?.id ?? null,
  };
  const push = (rev: number) => {
    lastId += 1;
    items.push({
      id: lastId,
      item: { kind: "attemptEnd", attempt: rev, row: { endedAt: 0, outcome: "lost", reason: "" } },
    });
  };
  return { outbox, push, aside, size: () => items.length };
}

/** A database that notes its batches and answers when it is told to. */
function slowDatabase() {
  const batches: unknown[][] = [];
  const waiting: { succeed: () => void; fail: () => void; refuse: () => void }[] = [];
  const binding = {
    prepare: (query: string) => ({ bind: (...params: unknown[]) => ({ query, params }) }),
    batch: (statements: { params: unknown[] }[]) => {
      // The attempt is the last parameter of the update.
      batches.push(statements.map((statement) => statement.params.at(-1)));
      return new Promise((resolve, reject) => {
        waiting.push({
          succeed: () => resolve([]),
          fail: () => reject(new Error("D1 is down")),
          refuse: () => reject(new Error("D1_ERROR: NOT NULL constraint failed: t.c: SQLITE_CONSTRAINT")),
        });
      });
    },
  };
  return {
    // The projector prepares statements and sends batches, nothing else; the rest of the type is not needed.
    binding: binding as unknown as D1Database,
    batches,
    next: async (what: "succeed" | "fail" | "refuse") => {
      waiting.shift()?.[what]();
      await new Promise((resolve) => setTimeout(resolve, 0));
    },
  };
}

const setUp = (patienceMs = 60_000) => {
  const memory = memoryOutbox();
  const database = slowDatabase();
  const projector = createProjector(database.binding, memory.outbox, () => 7, patienceMs);
  return { ...memory, database, projector };
};

const isDone = async (promise: Promise<void>) =>
  Promise.race([promise.then(() => true), new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 5))]);

describe("the projector", () => {
  it("has nothing to do without items", async ({ expect }) => {
    const { database, projector } = setUp();
    await projector.settle();
    expect(database.batches).toEqual([]);
  });

  it("commits together what arrives while a commit is under way", async ({ expect }) => {
    const { database, projector, push, size } = setUp();
    push(1);
    const first = projector.settle();
    const later = [2, 3, 4].map((n) => {
      push(n);
      return projector.settle();
    });
    expect(database.batches).toEqual([[1]]);
    await database.next("succeed");
    expect(await isDone(first)).toBe(true);
    expect(database.batches).toEqual([[1], [2, 3, 4]]);
    expect(await Promise.all(later.map(isDone))).toEqual([false, false, false]);
    await database.next("succeed");
    expect(await Promise.all(later.map(isDone))).toEqual([true, true, true]);
    expect(size()).toBe(0);
  });

  it("answers its callers when D1 fails, keeps the items, and sends them again in their order", async ({ expect }) => {
    const { database, projector, push, size } = setUp();
    push(1);
    push(2);
    const first = projector.settle();
    await database.next("fail");
    expect([await isDone(first), size(), projector.failures()]).toEqual([true, 2, 1]);
    push(3);
    const second = projector.settle();
    await database.next("succeed");
    expect([await isDone(second), size(), projector.failures()]).toEqual([true, 0, 0]);
    expect(database.batches).toEqual([
      [1, 2],
      [1, 2, 3],
    ]);
  });

  it("lets nobody wait longer than its patience, and still commits", async ({ expect }) => {
    const { database, projector, push, size } = setUp(1);
    push(1);
    await projector.settle();
    expect(size()).toBe(1);
    await database.next("succeed");
    expect(size()).toBe(0);
  });

  it("splits a long outbox into commits of a bounded size", async ({ expect }) => {
    const { database, projector, push, size } = setUp();
    for (let n = 1; n <= 200; n++) push(n);
    const settled = projector.settle();
    for (let i = 0; i < 3; i++) await database.next("succeed");
    expect(await isDone(settled)).toBe(true);
    expect(database.batches.map((batch) => batch.length)).toEqual([90, 90, 20]);
    expect(size()).toBe(0);
  });

  it("sets aside the one item that D1 refuses for good; the others arrive, in their order", async ({ expect }) => {
    const { aside, database, projector, push, size } = setUp();
    for (const n of [1, 2, 3]) push(n);
    const settled = projector.settle();
    await database.next("refuse");
    await database.next("succeed");
    push(4);
    await database.next("refuse");
    await database.next("succeed");
    expect(await isDone(settled)).toBe(true);
    await database.next("succeed");
    expect(database.batches).toEqual([[1, 2, 3], [1], [2], [3], [4]]);
    expect(aside).toEqual([[2, expect.stringContaining("constraint")]]);
    expect([size(), projector.failures()]).toEqual([0, 0]);
  });

  it("sets nothing aside for trouble of D1 itself, also while items go one by one", async ({ expect }) => {
    const { aside, database, projector, push, size } = setUp();
    push(1);
    push(2);
    const first = projector.settle();
    await database.next("refuse");
    await database.next("fail");
    expect([await isDone(first), size(), aside, projector.failures()]).toEqual([true, 2, [], 1]);
    const second = projector.settle();
    await database.next("succeed");
    await database.next("refuse");
    expect([await isDone(second), size()]).toEqual([true, 0]);
    expect(aside.map(([n]) => n)).toEqual([2]);
  });

  it("lets each caller go after its own patience, whoever else waits", async ({ expect }) => {
    const { database, projector, push } = setUp(40);
    push(1);
    const early = projector.settle();
    await new Promise((resolve) => setTimeout(resolve, 30));
    push(2);
    const late = projector.settle();
    await early;
    expect(await isDone(late)).toBe(false);
    await late;
    await database.next("succeed");
    await database.next("succeed");
    expect(database.batches).toEqual([[1], [2]]);
  });
});
