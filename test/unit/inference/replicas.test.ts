import { describe, it } from "vitest";
import { fail, ok } from "../../../src/shared/result.ts";
import {
  askReplica,
  MAX_REPLICAS,
  ReplicaPicker,
  type ReplicaTurn,
  replicaName,
} from "../../../src/training/inference/replicas.ts";

const takeAll = (picker: ReplicaPicker, model: string, count: number, nowMs = 0) =>
  Array.from({ length: count }, () => picker.take(model, nowMs)).filter((turn): turn is ReplicaTurn => turn !== null);
const replicasOf = (turns: ReplicaTurn[]) => turns.map(({ replica }) => replica);

describe("ReplicaPicker", () => {
  it("fills the lowest replica, then the next, then shares out what is more", ({ expect }) => {
    const picker = new ReplicaPicker({ replicas: 3, full: 2 });
    expect(replicasOf(takeAll(picker, "m", 12))).toEqual([0, 0, 1, 1, 2, 2, 0, 1, 2, 0, 1, 2]);
  });

  it("asks the lowest replica alone as long as requests come one after the other", ({ expect }) => {
    const picker = new ReplicaPicker();
    for (let i = 0; i < 20; i += 1) {
      const [turn] = takeAll(picker, "m", 1, i);
      expect(turn?.replica).toBe(0);
      if (turn) picker.give(turn);
    }
  });

  it("comes back to the lowest replica with room, and to the one with the fewest when none has any", ({ expect }) => {
    const picker = new ReplicaPicker({ replicas: 2, full: 2 });
    const turns = takeAll(picker, "m", 6);
    expect(replicasOf(turns)).toEqual([0, 0, 1, 1, 0, 1]);
    for (const turn of turns.filter(({ replica }) => replica === 1).slice(0, 2)) picker.give(turn);
    // 3 at the first, 1 at the second.
    expect(replicasOf(takeAll(picker, "m", 3))).toEqual([1, 1, 0]);
    for (const turn of turns.filter(({ replica }) => replica === 0)) picker.give(turn);
    // 1 at the first, 3 at the second.
    expect(replicasOf(takeAll(picker, "m", 3))).toEqual([0, 0, 0]);
  });

  it("counts each model on its own", ({ expect }) => {
    const picker = new ReplicaPicker();
    expect(replicasOf(takeAll(picker, "a", 3))).toEqual([0, 0, 1]);
    expect(replicasOf(takeAll(picker, "b", 3))).toEqual([0, 0, 1]);
  });

  it("passes over those that it is told to, and has none left when that is all", ({ expect }) => {
    const picker = new ReplicaPicker({ replicas: 3, full: 2 });
    expect(picker.take("m", 0, new Set([0]))?.replica).toBe(1);
    expect(picker.take("m", 0, new Set([0, 1]))?.replica).toBe(2);
    expect(picker.take("m", 0, new Set([0, 1, 2]))).toBeNull();
    expect(picker.size).toBe(2);
  });

  it("keeps nothing of a model that has nothing under way, and takes a second give for none", ({ expect }) => {
    const picker = new ReplicaPicker();
    for (let i = 0; i < 1_000; i += 1) for (const turn of takeAll(picker, `model ${i}`, 3)) picker.give(turn);
    expect(picker.size).toBe(0);
    const [first] = takeAll(picker, "m", 2);
    if (first) for (let i = 0; i < 3; i += 1) picker.give(first);
    expect([picker.size, ...replicasOf(takeAll(picker, "m", 2))]).toEqual([1, 0, 1]);
  });

  it("forgets requests that never came back, of any model, but none that is younger", ({ expect }) => {
    const picker = new ReplicaPicker({ lostAfterMs: 1_000 });
    takeAll(picker, "a", 3, 0);
    takeAll(picker, "m", 2, 0);
    takeAll(picker, "m", 1, 500);
    expect(picker.take("m", 999)?.replica).toBe(1);
    expect([picker.take("m", 1_000)?.replica, picker.size]).toEqual([0, 3]);
    expect([picker.take("m", 1_500)?.replica, picker.size]).toEqual([0, 3]);
  });
});

describe("askReplica", () => {
  const names = (count: number) => Array.from({ length: count }, (_, replica) => replicaName("m", replica));
  const busy = () => fail("BUSY", "busy");
  /** What the objects answer, by name; asks once and tells who was asked, the outcome and what is still counted. */
  const asked = async (
    answer: (name: string, nth: number) => ReturnType<typeof ok<number>> | ReturnType<typeof fail>,
  ) => {
    const picker = new ReplicaPicker();
    const seen: string[] = [];
    const outcome = await askReplica(
      picker,
      "m",
      () => 0,
      async (name) => {
        seen.push(name);
        return answer(name, seen.length);
      },
    ).then(
      (result) => (result.ok ? result.value : result.error.code),
      (thrown: unknown) => `thrown ${thrown instanceof Error ? thrown.message : ""}`,
    );
    return { seen, outcome, left: picker.size };
  };
  const breaks = (text: string): never => {
    throw new Error(text);
  };

  it("asks the object of the model's own name first", async ({ expect }) => {
    expect(await asked(() => ok(7))).toEqual({ seen: ["m"], outcome: 7, left: 0 });
  });

  it("passes a request on when the object is busy, until one takes it", async ({ expect }) => {
    const answer = await asked((_, nth) => (nth < 3 ? busy() : ok(7)));
    expect(answer).toEqual({ seen: ["m", "m:1", "m:2"], outcome: 7, left: 0 });
  });

  it("is busy when all are, each asked once", async ({ expect }) => {
    expect(await asked(busy)).toEqual({ seen: names(MAX_REPLICAS), outcome: "BUSY", left: 0 });
  });

  it("asks nobody else when the image or the model is at fault", async ({ expect }) => {
    for (const code of ["VALIDATION_ERROR", "MODEL_MISSING", "MODEL_NOT_USABLE", "MODEL_TOO_LARGE"]) {
      expect(await asked(() => fail(code, "no"))).toEqual({ seen: ["m"], outcome: code, left: 0 });
    }
  });

  it("asks one other object when one throws, and no third: the request may be what ends them", async ({ expect }) => {
    expect(await asked((name) => (name === "m" ? breaks("reset") : ok(7)))).toEqual({
      seen: ["m", "m:1"],
      outcome: 7,
      left: 0,
    });
    expect(await asked((name) => breaks(`reset ${name}`))).toEqual({
      seen: ["m", "m:1"],
      outcome: "thrown reset m:1",
      left: 0,
    });
  });

  it("goes on past busy objects after one threw, and is busy when the rest is", async ({ expect }) => {
    expect(await asked((name, nth) => (nth === 1 ? breaks("reset") : name === "m:3" ? ok(7) : busy()))).toEqual({
      seen: names(4),
      outcome: 7,
      left: 0,
    });
    expect(await asked((_, nth) => (nth === 2 ? breaks("reset") : busy()))).toEqual({
      seen: names(MAX_REPLICAS),
      outcome: "BUSY",
      left: 0,
    });
  });

  it("spreads requests that come at once, and the last ones wait where fewest do", async ({ expect }) => {
    const picker = new ReplicaPicker();
    const { promise: opened, resolve: open } = Promise.withResolvers<void>();
    const tally = new Map<string, number>();
    const running = Array.from({ length: 9 }, () =>
      askReplica(
        picker,
        "m",
        () => 0,
        async (name) => {
          tally.set(name, (tally.get(name) ?? 0) + 1);
          await opened;
          return ok(name);
        },
      ),
    );
    expect([...tally]).toEqual([
      ["m", 3],
      ["m:1", 2],
      ["m:2", 2],
      ["m:3", 2],
    ]);
    open();
    await Promise.all(running);
    expect(picker.size).toBe(0);
  });
});
