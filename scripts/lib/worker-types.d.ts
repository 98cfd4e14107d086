import type * as workers from "@cloudflare/workers-types";

/** The bindings' types for code of the Worker that also runs under Node; the Worker itself has them from its configuration. */
declare global {
  type D1Database = workers.D1Database;
  type D1Result<T = unknown> = workers.D1Result<T>;
  type DurableObjectStorage = workers.DurableObjectStorage;
  type R2Bucket = workers.R2Bucket;
}
