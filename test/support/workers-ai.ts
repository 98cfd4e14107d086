import { z } from "zod";
import detr from "../data/workers-ai/detr-resnet-50.json" with { type: "json" };
import moondream from "../data/workers-ai/moondream3.1-9B-A2B.json" with { type: "json" };
import resnet from "../data/workers-ai/resnet-50.json" with { type: "json" };

/** The platform's binding at the rim of a test: what goes in and out is held to the schemas that the models publish. */

const PUBLISHED = new Map([detr, moondream, resnet].map(({ model, input, output }) => [model, { input, output }]));

const schemaOf = (schema: object) => z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]);

export type Run = { id: string; inputs: Record<string, unknown> };

/** @param answer what the model says; may throw or never settle */
export function publishedModels(answer: (run: Run, signal: AbortSignal) => unknown) {
  const runs: Run[] = [];
  return {
    runs,
    async run(id: string, inputs: Record<string, unknown>, options: { signal: AbortSignal }): Promise<unknown> {
      const published = PUBLISHED.get(id);
      if (published === undefined) throw new Error(`5007: No such model ${id} or task`);
      schemaOf(published.input).parse(inputs);
      runs.push({ id, inputs });
      return schemaOf(published.output).parse(await answer({ id, inputs }, options.signal));
    },
  };
}

const METRICS = { input_tokens: 900, output_tokens: 30, prefill_time_ms: 20, decode_time_ms: 60.5, ttft_ms: 25 };

/** What the grounding model answers for the `detect` task. */
export const detected = (...boxes: [number, number, number, number][]) => ({
  finish_reason: "stop",
  metrics: METRICS,
  objects: boxes.map(([x_min, y_min, x_max, y_max]) => ({ x_min, y_min, x_max, y_max })),
});
