import type { StateRow } from "./state.ts";

/** How long a write may take to fit its model before a reader does it instead. */
export const FIT_GRACE_MS = 30_000;

/**
 * Whether predictions may rest on the stored model: it was fitted to the newest data, or somebody changed them a moment ago
 * and is fitting right now. Otherwise that write was cut off, and the reader fits. Pure.
 */
export function isUsable(state: StateRow, now: number): state is StateRow & { model_version: string } {
  if (state.model_version === null) return false;
  return state.model_revision === state.revision || now - (state.changed_at ?? 0) < FIT_GRACE_MS;
}
