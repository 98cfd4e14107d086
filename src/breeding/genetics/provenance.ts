/** What a model rests on, as one canonical text; its hash is the model version. Hashing belongs to the caller. */
import type { ModelInput } from "./breeding-model.ts";
import { GRID, TOMATO_PRIORS } from "./priors.ts";

/** Raised when formulas change so that the same data give other numbers. */
export const METHOD_VERSION = 1;

/** JSON with sorted keys and no spaces: equal values give equal text, whatever the order of their properties. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value)
      .filter(([, v]) => v !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, v]) => `${JSON.stringify(key)}:${canonicalJson(v)}`);
    return `{${entries.join(",")}}`;
  }
  return JSON.stringify(value) ?? "null";
}

/** Method, priors, grid, panel and records in a fixed order. Names, pictures and sources of strains do not count. */
export function modelManifest({
  strains,
  observations,
  priors = TOMATO_PRIORS,
  grid = GRID.production,
}: ModelInput): string {
  const sorted = <T>(items: readonly T[]) =>
    items
      .map(canonicalJson)
      .sort()
      .map((text): unknown => JSON.parse(text));
  return canonicalJson({
    method: METHOD_VERSION,
    priors,
    grid,
    panel: sorted(strains.map(({ id, phenotype }) => ({ id, phenotype }))),
    records: sorted(observations.map(({ motherId, fatherId, n, phenotype }) => ({ motherId, fatherId, n, phenotype }))),
  });
}
