import { createApp } from "./app.ts";

export { RateLimiter } from "./auth/rate-limiter.ts";
export { ModelSession } from "./training/inference/object.ts";
export { TrainingJob } from "./training/jobs/object.ts";
export { RunnerPool } from "./training/runners/pool.ts";

export default createApp();
