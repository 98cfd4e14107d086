import { createApp } from "./app.ts";
import { sweepKeys } from "./db/idempotency.ts";
import { servicesFor } from "./services.ts";
import { sweepUploads } from "./training/datasets/uploads/service.ts";

export { RateLimiter } from "./auth/rate-limiter.ts";
export { ModelSession } from "./training/inference/object.ts";
export { TrainingJob } from "./training/jobs/object.ts";
export { RunnerPool } from "./training/runners/pool.ts";

const app = createApp();

export default {
  fetch: app.fetch,

  /** Once a minute. */
  async scheduled(_event, env) {
    const { jobPatrol, projectRemoval } = servicesFor(env);
    const now = Date.now();
    await Promise.all([jobPatrol.poke(), projectRemoval.sweep(), sweepUploads(env, now), sweepKeys(env.DB, now)]);
  },
} satisfies ExportedHandler<Env>;
