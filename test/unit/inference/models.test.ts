import { describe, it } from "vitest";
import { fail, ok } from "../../../src/shared/result.ts";
import { ModelShelf } from "../../../src/training/inference/models.ts";

const model = (name: string, log: string[]) => ({
  name,
  release: async () => {
    log.push(`released ${name}`);
  },
});

const shelfWith = async (budget: number, sizes: Record<string, number>) => {
  const log: string[] = [];
  const shelf = new ModelShelf<ReturnType<typeof model>>(budget, async () => {
    log.push(`restarted with ${shelf.size}`);
  });
  for (const [name, bytes] of Object.entries(sizes)) await shelf.open(name, bytes, async () => ok(model(name, log)));
  return { log, shelf };
};

describe("ModelShelf", () => {
  it("answers a model under its own hash only", async ({ expect }) => {
    const { shelf } = await shelfWith(100, { a: 10, b: 10 });
    expect(shelf.get("a")?.name).toBe("a");
    expect(shelf.get("b")?.name).toBe("b");
    expect(shelf.get("c")).toBeNull();
  });

  it("releases what was used longest ago when room is needed, and no more than that", async ({ expect }) => {
    const { shelf, log } = await shelfWith(100, { a: 40, b: 40, c: 10 });
    shelf.get("a");
    await shelf.open("d", 40, async () => ok(model("d", log)));
    expect(log).toEqual(["released b"]);
    expect(["a", "b", "c", "d"].map((name) => shelf.get(name) !== null)).toEqual([true, false, true, true]);
  });

  it("makes room before it opens", async ({ expect }) => {
    const { shelf, log } = await shelfWith(50, { a: 40 });
    await shelf.open("b", 40, async () => {
      expect(log).toEqual(["released a"]);
      return ok(model("b", log));
    });
  });

  it("opens a model above the whole budget alone", async ({ expect }) => {
    const { shelf, log } = await shelfWith(50, { a: 10, b: 10 });
    await shelf.open("c", 500, async () => ok(model("c", log)));
    expect(log).toEqual(["released a", "released b"]);
    expect(shelf.get("c")?.name).toBe("c");
  });

  it("keeps nothing of a failed open, and opens again on the next call", async ({ expect }) => {
    const { shelf, log } = await shelfWith(50, {});
    expect((await shelf.open("a", 10, async () => fail("MODEL_NOT_USABLE", "bad"))).ok).toBe(false);
    expect(shelf.get("a")).toBeNull();
    expect((await shelf.open("a", 10, async () => ok(model("a", log)))).ok).toBe(true);
  });

  it("does not keep a model whose opening throws", async ({ expect }) => {
    const { shelf } = await shelfWith(50, {});
    const opening = shelf.open("a", 10, async () => {
      throw new Error("store gone");
    });
    await expect(opening).rejects.toThrow("store gone");
    expect(shelf.size).toBe(0);
  });

  it("tries once more alone, in a memory as good as new, when memory was short", async ({ expect }) => {
    const { shelf, log } = await shelfWith(100, { a: 10, b: 10 });
    let calls = 0;
    const opened = await shelf.open("c", 10, async () => {
      calls += 1;
      return calls === 1 ? fail("MODEL_TOO_LARGE", "no memory") : ok(model("c", log));
    });
    expect(opened.ok).toBe(true);
    expect(log).toEqual(["released a", "released b", "restarted with 0"]);
    expect(shelf.get("c")?.name).toBe("c");
  });

  it("does that when nothing else is open too: earlier failures may have kept memory", async ({ expect }) => {
    const { shelf, log } = await shelfWith(100, {});
    let calls = 0;
    const opened = await shelf.open("c", 10, async () => {
      calls += 1;
      return calls === 1 ? fail("MODEL_TOO_LARGE", "no memory") : ok(model("c", log));
    });
    expect([opened.ok, log]).toEqual([true, ["restarted with 0"]]);
  });

  it("gives up after the second time and leaves the memory as good as new", async ({ expect }) => {
    const { shelf, log } = await shelfWith(100, { a: 10 });
    let calls = 0;
    const opened = await shelf.open("c", 10, async () => {
      calls += 1;
      return fail("MODEL_TOO_LARGE", "no memory");
    });
    expect([opened.ok, calls, shelf.size]).toEqual([false, 2, 0]);
    expect(log).toEqual(["released a", "restarted with 0", "restarted with 0"]);
  });

  it("does not try again what fails for another reason", async ({ expect }) => {
    const { shelf, log } = await shelfWith(100, { a: 10 });
    let calls = 0;
    await shelf.open("c", 10, async () => {
      calls += 1;
      return fail("MODEL_NOT_USABLE", "no");
    });
    expect([calls, log]).toEqual([1, []]);
  });

  it("releases on drop, once", async ({ expect }) => {
    const { shelf, log } = await shelfWith(100, { a: 10 });
    await shelf.drop("a");
    await shelf.drop("a");
    expect(log).toEqual(["released a"]);
  });
});
