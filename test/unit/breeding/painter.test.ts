import { describe, it } from "vitest";
import { z } from "zod";
import type { FruitAppearance } from "../../../src/breeding/images/fruit-svg.ts";
import {
  createPainter,
  type ImageModels,
  PAINT_MODELS,
  type PaintModel,
  type PaintRequest,
  paintedBytes,
} from "../../../src/breeding/images/painter.ts";
import { fruitPrompt, MAX_PROMPT_LENGTH } from "../../../src/breeding/images/prompt.ts";
import schnell from "../../data/workers-ai/flux-1-schnell.json" with { type: "json" };
import klein4 from "../../data/workers-ai/flux-2-klein-4b.json" with { type: "json" };
import klein9 from "../../data/workers-ai/flux-2-klein-9b.json" with { type: "json" };
import { imageFixture } from "../../support/images/fixtures.ts";

/** The schemas that the models publish, as recorded. */
const PUBLISHED: Record<PaintModel, { input: object; output: object }> = {
  "@cf/black-forest-labs/flux-1-schnell": schnell,
  "@cf/black-forest-labs/flux-2-klein-4b": klein4,
  "@cf/black-forest-labs/flux-2-klein-9b": klein9,
};

const schemaOf = (schema: object) => z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]);

const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64");

const FRUIT: FruitAppearance = {
  length: 44.4,
  width: 38.6,
  weight: 47.2,
  sugarContent: 5.2,
  firmness: 0.51,
  skinThickness: 6.8,
  shape: "round",
};

/** Answers like a model whose recorded schemas it enforces on both sides. */
function recorded(model: PaintModel, output: object): { models: ImageModels; requests: PaintRequest[] } {
  const requests: PaintRequest[] = [];
  return {
    requests,
    models: {
      async run(request) {
        requests.push(request);
        schemaOf(PUBLISHED[model].input).parse(request.inputs);
        return schemaOf(PUBLISHED[model].output).parse(output);
      },
    },
  };
}

describe("painting with a text-to-image model", () => {
  it.for(PAINT_MODELS)("%s: what is sent and read fits the schemas it publishes", async (model, { expect }) => {
    const jpeg = imageFixture("baseline.jpg");
    const { models, requests } = recorded(model, { image: base64(jpeg) });
    const painted = await createPainter(models, model, 1_000).paint(fruitPrompt(FRUIT));
    expect(painted).toEqual({ ok: true, value: jpeg });
    expect(requests.map((request) => request.model)).toEqual([model]);
  });

  it("sends a form with prompt and size where a model wants one", async ({ expect }) => {
    const model = "@cf/black-forest-labs/flux-2-klein-9b";
    const { models, requests } = recorded(model, { image: "AAAA" });
    await createPainter(models, model, 1_000).paint("a tomato");
    const inputs = requests[0]?.inputs;
    if (inputs === undefined || !("multipart" in inputs)) throw new Error("no form");
    const { body, contentType } = inputs.multipart;
    const form = await new Response(body, { headers: { "content-type": contentType } }).formData();
    expect(Object.fromEntries(form)).toEqual({ prompt: "a tomato", width: "768", height: "768" });
  });

  it("gives up after its time, also when the model never answers", async ({ expect }) => {
    const never: ImageModels = { run: () => new Promise(() => undefined) };
    expect(await createPainter(never, PAINT_MODELS[0], 20).paint("x")).toMatchObject({
      ok: false,
      error: { code: "timeout" },
    });
    const heeds: ImageModels = {
      run: (_, signal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
    };
    expect(await createPainter(heeds, PAINT_MODELS[0], 20).paint("x")).toMatchObject({ error: { code: "timeout" } });
  });

  it("reports an error of the model and an answer without a picture", async ({ expect }) => {
    const failing: ImageModels = { run: () => Promise.reject(new Error("3040: no capacity")) };
    expect(await createPainter(failing, PAINT_MODELS[0], 1_000).paint("x")).toMatchObject({
      ok: false,
      error: { code: "error", message: "3040: no capacity" },
    });
    for (const output of [null, "text", {}, { image: 5 }, { image: "" }, { image: "not base64 !" }]) {
      const odd: ImageModels = { run: () => Promise.resolve(output) };
      expect(await createPainter(odd, PAINT_MODELS[0], 1_000).paint("x")).toMatchObject({ error: { code: "error" } });
    }
  });

  it("reads the picture with and without a data address before it", ({ expect }) => {
    expect(paintedBytes({ image: "AQID" })).toEqual(Uint8Array.of(1, 2, 3));
    expect(paintedBytes({ image: "data:image/jpeg;base64,AQID" })).toEqual(Uint8Array.of(1, 2, 3));
  });
});

describe("the prompt", () => {
  it("is made of numbers and fixed words, and short enough for every model", ({ expect }) => {
    for (const shape of ["round", "oval", "rectangular", "pear"] as const) {
      for (const weight of [8, 60, 400]) {
        const text = fruitPrompt({ ...FRUIT, shape, weight });
        expect(text.length).toBeLessThan(MAX_PROMPT_LENGTH);
        expect(text).toMatch(/^[a-zA-Z0-9 ,.-]+$/);
      }
    }
  });

  it("follows the traits", ({ expect }) => {
    expect(fruitPrompt({ ...FRUIT, weight: 9 })).toContain("cherry tomato");
    expect(fruitPrompt({ ...FRUIT, weight: 320, length: 60, width: 95 })).toMatch(/beefsteak.*flattened/);
    expect(fruitPrompt({ ...FRUIT, shape: "pear" })).toContain("pear-shaped");
    expect(fruitPrompt({ ...FRUIT, sugarContent: 2.5 })).toContain("orange red");
    expect(fruitPrompt({ ...FRUIT, sugarContent: 7 })).toContain("deep red");
  });
});
