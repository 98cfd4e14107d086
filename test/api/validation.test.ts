import { describe, it } from "vitest";
import { call, type Json, job, type Person, person, plainEvent } from "../support/api.ts";

const get = <T = Json>(who: Person, path: string) => call<T>("GET", `/api/v1/validation/${path}`, { token: who.token });
const image = (name: string, truth: [number, string], guess: [number, string]) => ({
  image_name: name,
  true_label_id: truth[0],
  true_label: truth[1],
  predicted_label_id: guess[0],
  predicted_label: guess[1],
  is_correct: truth[0] === guess[0],
});

describe("images of a validation", () => {
  it("are filtered by the cell of the confusion matrix that was clicked on", async ({ expect }) => {
    const owner = await person();
    const id = await job(owner);
    const [cat, dog]: [number, string][] = [
      [0, "cat"],
      [1, "dog's"],
    ];
    if (!cat || !dog) throw new Error("no labels");
    await plainEvent(id, "validation", {
      epoch: 1,
      metrics: {},
      images: [image("a", cat, cat), image("b", cat, dog), image("c", dog, dog), image("d", cat, dog)],
    });
    const results = await get<{ results: { id: number }[] }>(owner, `results/${id}`);
    const resultId = results.body.results[0]?.id;
    for (const [query, expected] of [
      ["", ["a", "b", "c", "d"]],
      ["?true_label_id=0&predicted_label_id=1", ["b", "d"]],
      ["?true_label=cat", ["a", "b", "d"]],
      [`?predicted_label=${encodeURIComponent("dog's")}`, ["b", "c", "d"]],
      ["?is_correct=true", ["a", "c"]],
      ["?is_correct=false&true_label_id=0&limit=1&skip=1", ["d"]],
      ["?true_label=%25", []],
      ["?true_label_id=7", []],
    ] as const) {
      const page = await get<{ images: { image_name: string }[]; total: number }>(owner, `images/${resultId}${query}`);
      expect([query, page.body.images.map((one) => one.image_name)]).toEqual([query, expected]);
      if (!query.includes("limit")) expect(page.body.total).toBe(expected.length);
    }
    for (const query of [
      "true_label_id=-1",
      "true_label_id=x",
      "predicted_label_id=1&predicted_label_id=2",
      "is_correct=yes",
    ]) {
      const refused = await get(owner, `images/${resultId}?${query}`);
      expect([refused.status, refused.body.field]).toEqual([422, query.split("=")[0]]);
    }
  });
});

describe("the summary of a job's validations", () => {
  const reported = async (owner: Person, config: Json, values: (number | null)[]) => {
    const id = await job(owner, { config });
    for (const [i, value] of values.entries()) {
      await plainEvent(id, "validation", {
        epoch: i + 1,
        metrics: {},
        primary_metric_value: value,
        overall_loss: 1 / (i + 1),
      });
    }
    return get<{ best: Json | null; last: Json | null; count: number; points: Json[] }>(owner, `summary/${id}`);
  };

  it("knows the best value in the direction of the metric", async ({ expect }) => {
    const owner = await person();
    const most = await reported(owner, {}, [0.5, 0.9, null, 0.9, 0.7]);
    expect(most.body).toMatchObject({
      primary_metric: "accuracy",
      primary_metric_mode: "max",
      count: 5,
      best: { epoch: 2, value: 0.9 },
      last: { epoch: 5, value: 0.7 },
    });
    expect(most.body.points.map((point) => point.epoch)).toEqual([1, 2, 3, 4, 5]);
    const least = await reported(owner, { primary_metric: "loss", primary_metric_mode: "min" }, [0.5, 0.2, 0.4]);
    expect(least.body).toMatchObject({ primary_metric: "loss", best: { epoch: 2, value: 0.2 } });
  });

  it("is empty before the first one, and has no best without values", async ({ expect }) => {
    const owner = await person();
    expect((await reported(owner, {}, [])).body).toMatchObject({ count: 0, best: null, last: null, points: [] });
    expect((await reported(owner, {}, [null])).body).toMatchObject({ count: 1, best: null, last: { epoch: 1 } });
  });
});
