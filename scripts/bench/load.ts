import type { Connection } from "./http.ts";
import type { Slice } from "./statistics.ts";

/** One request, or one short exchange; throws when an answer is not the one expected. `lane`: 0 … concurrency - 1. */
export type Operation = (connection: Connection, lane: number) => Promise<void>;

/**
 * A closed loop: each connection starts its next operation when the last has been answered, until the time is over; those
 * under way are waited for. A connection whose operation failed goes on with the next one.
 * @param serverCpuMs clock of the server's processor time
 */
export async function runSlice(
  connections: Connection[],
  limits: { forMs: number; operationsPerLane?: number },
  operation: Operation,
  serverCpuMs: () => number | null = () => null,
): Promise<Slice> {
  const slice: Slice = { durationsMs: [], errors: [], wallMs: 0, cpuMs: null };
  const cpuBefore = serverCpuMs();
  const startedAt = performance.now();
  const endsAt = startedAt + limits.forMs;
  const most = limits.operationsPerLane ?? Number.POSITIVE_INFINITY;
  await Promise.all(
    connections.map(async (connection, lane) => {
      for (let done = 0; done < most && performance.now() < endsAt; done += 1) {
        const at = performance.now();
        try {
          await operation(connection, lane);
          slice.durationsMs.push(performance.now() - at);
        } catch (thrown) {
          slice.errors.push(thrown instanceof Error ? thrown.message : String(thrown));
        }
      }
    }),
  );
  slice.wallMs = performance.now() - startedAt;
  const cpuAfter = serverCpuMs();
  if (cpuBefore !== null && cpuAfter !== null) slice.cpuMs = cpuAfter - cpuBefore;
  return slice;
}
