import type { Connection } from "../bench/http.ts";

/** What both servers are asked to do, in each one's own words. A run is a training job here and a run there. */
export type Peer = {
  name: string;
  origin: URL;
  /** Makes a run that takes points one at a time, with whatever a client has to do once for it. */
  createRun(connection: Connection): Promise<string>;
  /** Makes a run that takes points in batches. */
  createBatchRun(): Promise<string>;
  /** One point of one metric. `step` counts from 0. */
  logPoint(connection: Connection, run: string, step: number): Promise<void>;
  /** `size` points of one metric in one request, the first one at `step`. The same call again is the same batch. */
  logBatch(connection: Connection, run: string, step: number, size: number): Promise<void>;
  /** The curve of a run in about a thousand points. @returns how many came */
  readChart(connection: Connection, run: string): Promise<number>;
  /** A run with as many points, by whatever way is quick. */
  seedPoints(count: number): Promise<string>;
  /** As many runs of two kinds, by whatever way is quick. */
  seedRuns(count: number): Promise<void>;
  /** Fifty of those runs: of one kind, newest first or by name. @returns how many came */
  listRuns(connection: Connection, order: "newest" | "name"): Promise<number>;
  /** Points of a run that can be read. */
  countPoints(connection: Connection, run: string): Promise<number>;
};

/** The server of a peer as a process that can be killed. */
export type KillablePeer = Peer & {
  kill(): Promise<void>;
  /** Serves the same storage again; resolves when it answers. */
  restart(): Promise<void>;
  /** A client with a run that is shown as running. */
  startClient(): Promise<{ run: string; kill(): Promise<void> }>;
  isShownRunning(run: string): Promise<boolean>;
};

/** A loss that falls. */
export const lossAt = (step: number) => 2.3 / (1 + step / 5_000);
