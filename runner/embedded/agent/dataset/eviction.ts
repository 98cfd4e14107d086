/** What leaves the cache when it is too large. Pure. */

export type CacheEntry = { path: string; bytes: number; lastUsedMs: number; inUse: boolean };

/** The entries to delete so that the rest fits: least recently used first; what a running job uses frees nothing and stays. */
export function toEvict(entries: readonly CacheEntry[], maxBytes: number): CacheEntry[] {
  let total = entries.reduce((sum, entry) => sum + entry.bytes, 0);
  const chosen: CacheEntry[] = [];
  for (const entry of entries.filter(({ inUse }) => !inUse).sort((a, b) => a.lastUsedMs - b.lastUsedMs)) {
    if (total <= maxBytes) break;
    chosen.push(entry);
    total -= entry.bytes;
  }
  return chosen;
}
