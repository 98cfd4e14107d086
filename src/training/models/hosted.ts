import { z } from "zod";
import type { CatalogueEntry } from "./catalogue.ts";
import type { TaskType } from "./schemas.ts";

/**
 * Pretrained models of the catalogue and where Workers AI hosts them. A name of the catalogue is ours and stays; the
 * platform's ids live a year or two, so a deployment can point a name elsewhere, add one or take one away. Pure.
 */

/**
 * What a hosted model takes and gives, by the platform's published schemas:
 * - `classification`: `{image: number[]}` gives `[{label, score}]`
 * - `detection`: `{image: number[]}` gives `[{label, score, box: {xmin, ymin, xmax, ymax}}]`, pixels
 * - `grounding`: `{task: "detect", image: data URI, target, max_objects}` gives `{objects: [{x_min, y_min, x_max, y_max}]}`
 */
export const HOSTED_KINDS = ["classification", "detection", "grounding"] as const;

export type HostedKind = (typeof HOSTED_KINDS)[number];

export type HostedModel = {
  /** The platform's id, with its prefix. */
  id: string;
  kind: HostedKind;
  /** For the list of models. */
  description?: string | undefined;
};

const DEFAULTS: Readonly<Record<string, HostedModel>> = {
  "microsoft/resnet-50": { id: "@cf/microsoft/resnet-50", kind: "classification" },
  "moondream/moondream3.1-9B-A2B": { id: "@cf/moondream/moondream3.1-9B-A2B", kind: "grounding" },
};

/** Names to models, as the configuration gives them; null takes a name away. */
export const HostedModelsSchema = z.record(
  z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$/, "must be a model name without the prefix"),
  z
    .strictObject({
      id: z.string().regex(/^@[a-z]{2,4}\/[A-Za-z0-9][A-Za-z0-9._/-]{0,150}$/, "must be an id such as @cf/…"),
      kind: z.enum(HOSTED_KINDS),
      description: z.string().min(1).max(140).optional(),
    })
    .nullable(),
);

export type HostedModels = ReadonlyMap<string, HostedModel>;

/** The hosted models of a deployment, by their names in the catalogue. */
export function hostedModels(changes: z.infer<typeof HostedModelsSchema> = {}): HostedModels {
  const models = new Map(Object.entries(DEFAULTS));
  for (const [name, model] of Object.entries(changes)) {
    if (model === null) models.delete(name);
    else models.set(name, model);
  }
  return models;
}

/** A name as a client may write it, also with the platform's prefix in front. */
export const hostedName = (text: string): string => text.replace(/^@[a-z]{2,4}\//, "");

export const taskOf = (kind: HostedKind): TaskType =>
  kind === "classification" ? "image_classification" : "object_detection";

/** The line of a model that only this deployment's configuration knows. Its input is resized by its host. */
export const hostedEntry = (name: string, model: HostedModel): CatalogueEntry => ({
  model_name: name,
  framework: "workers-ai",
  task_types: [taskOf(model.kind)],
  default_image_size: model.kind === "classification" ? 224 : 800,
  parameters: "unknown",
  pretrained: true,
  description: model.description ?? `Hosted on Workers AI as ${model.id}; inference only`,
  trainable: false,
  recommended_batch_size: null,
  recommended_learning_rate: null,
});
