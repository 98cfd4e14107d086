import type { ProjectionItem } from "../projection.ts";
import type { JobStore } from "../store.ts";

/** The same store, of which `hear` gets everything that was put into its outbox. */
export const overheard = (store: JobStore, hear: (items: ProjectionItem[]) => void): JobStore => ({
  ...store,
  outbox: {
    ...store.outbox,
    push(...items) {
      const stored = store.outbox.push(...items);
      if (stored) hear(items);
      return stored;
    },
  },
});
