import entries from "./catalogue.json" with { type: "json" };
import { type HostedModels, hostedEntry, hostedModels } from "./hosted.ts";
import type { Framework, TaskType } from "./schemas.ts";

/** What the platform knows about a model. Sizes are pixels, recommendations are starting points; null where none apply. */
export interface CatalogueEntry {
  model_name: string;
  framework: Framework;
  task_types: TaskType[];
  default_image_size: number;
  parameters: string;
  pretrained: boolean;
  description: string;
  trainable: boolean;
  recommended_batch_size: number | null;
  recommended_learning_rate: number | null;
}

// A JSON import types its texts as `string`; a unit test checks the file against `ModelSchema`.
const CATALOGUE = entries as readonly CatalogueEntry[];

/** The entry of one model; names are unique within a framework only. */
export function findModel(framework: string, modelName: string): CatalogueEntry | undefined {
  return CATALOGUE.find((entry) => entry.framework === framework && entry.model_name === modelName);
}

/** Whether a runner can train a model of this name, in whatever framework. */
export const isTrainable = (modelName: string): boolean =>
  CATALOGUE.some((entry) => entry.model_name === modelName && entry.trainable);

/**
 * The catalogue in its own order, narrowed by framework and by task.
 * @param hosted what the deployment has on Workers AI: other hosted models are not listed, added ones come last
 */
export function listModels(
  filter: { framework?: Framework; task_type?: TaskType } = {},
  hosted: HostedModels = hostedModels(),
): CatalogueEntry[] {
  const known = CATALOGUE.filter((entry) => entry.framework !== "workers-ai" || hosted.has(entry.model_name));
  const added = [...hosted]
    .filter(([name]) => findModel("workers-ai", name) === undefined)
    .map(([name, model]) => hostedEntry(name, model));
  return [...known, ...added].filter(
    (entry) =>
      (filter.framework === undefined || entry.framework === filter.framework) &&
      (filter.task_type === undefined || entry.task_types.includes(filter.task_type)),
  );
}
