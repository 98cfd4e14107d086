import { describe, it } from "vitest";
import { millis, type Row, rate, renderMarkdown, standingOf } from "../../../scripts/bench-peers/table.ts";

const row = (ours: number, theirs: number, better: Row["better"]): Row => ({
  title: "something",
  ours: millis(ours),
  theirs: millis(theirs),
  better,
});

describe("the table of two servers", () => {
  it("calls ahead and behind what is more than noise, in the direction that counts", ({ expect }) => {
    expect(standingOf(row(200, 100, "higher"))).toBe("ahead");
    expect(standingOf(row(200, 100, "lower"))).toBe("behind");
    expect(standingOf(row(105, 100, "higher"))).toBe("level");
    expect(standingOf(row(100, 108, "lower"))).toBe("level");
  });

  it("knows that nothing lost on both sides is level, and that never is worse than any time", ({ expect }) => {
    expect(standingOf(row(0, 0, "lower"))).toBe("level");
    expect(standingOf(row(0, 3, "lower"))).toBe("ahead");
    expect(standingOf(row(360, Number.POSITIVE_INFINITY, "lower"))).toBe("ahead");
    expect(standingOf(row(Number.NaN, 30_000, "lower"))).toBe("behind");
    expect(standingOf(row(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, "lower"))).toBe("level");
  });

  it("prints both figures and how far apart they are", ({ expect }) => {
    const text = renderMarkdown(
      [
        { title: "points", ours: rate(3_000, 1.5, "points"), theirs: rate(200, 20, "points"), better: "higher" },
        row(0, 3, "lower"),
      ],
      "Other 1.0",
    );
    expect(text.split("\n")).toEqual([
      "| | cultivar | Other 1.0 | |",
      "| --- | --: | --: | --- |",
      "| points | 3,000 points/s, p50 1.50 ms | 200 points/s, p50 20.0 ms | ahead (15x) |",
      "| something | 0.00 ms | 3.00 ms | ahead |",
    ]);
  });
});
