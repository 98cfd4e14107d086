import { createAuthRepository } from "./auth/repository.ts";
import { createAuthService } from "./auth/service.ts";
import { createBreedingServices } from "./breeding/services.ts";
import { parseConfig } from "./config.ts";
import { createDb } from "./db/client.ts";
import { createRemovalService } from "./storage/removals.ts";
import { createDatasetRepository } from "./training/datasets/repository.ts";
import { createDatasetService } from "./training/datasets/service.ts";
import { createOnnxEngine } from "./training/inference/engines/onnx.ts";
import { createHostedEngine } from "./training/inference/engines/workers-ai.ts";
import { createInferenceRepository } from "./training/inference/repository.ts";
import { createInferenceService } from "./training/inference/service.ts";
import { createLiveService } from "./training/jobs/live/service.ts";
import { POOL_NAME } from "./training/jobs/object.ts";
import { createJobPatrol } from "./training/jobs/patrol.ts";
import { createJobRemoval } from "./training/jobs/removal.ts";
import { createJobRepository } from "./training/jobs/repository.ts";
import { createJobService } from "./training/jobs/service.ts";
import { createProjectRemoval } from "./training/projects/removal.ts";
import { createProjectRepository } from "./training/projects/repository.ts";
import { createProjectService } from "./training/projects/service.ts";
import { createAttemptService } from "./training/runners/attempt-service.ts";
import { createRunnerRepository } from "./training/runners/repository.ts";
import { createRunnerService } from "./training/runners/service.ts";
import { createValidationRepository } from "./training/validation/repository.ts";
import { createValidationService } from "./training/validation/service.ts";

export type Services = ReturnType<typeof build>;

function build(env: Env) {
  const config = parseConfig(env);
  const db = createDb(env.DB);
  const now = () => Date.now();
  const jobRows = createJobRepository(env.DB);
  const projectRows = createProjectRepository(env.DB);
  const projects = createProjectService({
    projects: projectRows,
    limitRunning: (projectId, maxRunning) => env.RUNNER_POOL.getByName(POOL_NAME).limit(projectId, maxRunning),
    now,
  });
  const removals = createRemovalService({ binding: env.DB, bucket: env.BUCKET });
  const inferenceRows = createInferenceRepository(db);
  const jobRemoval = createJobRemoval({ binding: env.DB, jobs: env.TRAINING_JOB, now });
  const jobs = createJobService({
    jobs: jobRows,
    objects: env.TRAINING_JOB,
    pools: env.RUNNER_POOL,
    removal: jobRemoval,
    bucket: env.BUCKET,
    config,
    now,
  });
  return {
    config,
    now,
    auth: createAuthService({ people: createAuthRepository(env.DB), config, limiters: env.RATE_LIMITER, now }),
    projects,
    projectRemoval: createProjectRemoval({
      binding: env.DB,
      bucket: env.BUCKET,
      projects: projectRows,
      jobs: env.TRAINING_JOB,
      jobRemoval,
      removals,
      now,
    }),
    datasets: createDatasetService({
      datasets: createDatasetRepository(env.DB),
      projects,
      bucket: env.BUCKET,
      now,
    }),
    removals,
    jobs,
    live: createLiveService({ jobs, objects: env.TRAINING_JOB, config, now }),
    runners: createRunnerService({
      runners: createRunnerRepository(env.DB),
      jobs: env.TRAINING_JOB,
      pools: env.RUNNER_POOL,
      config,
      now,
    }),
    jobPatrol: createJobPatrol({ db, jobs: env.TRAINING_JOB, now }),
    attempts: createAttemptService({ jobs: env.TRAINING_JOB, jobRows, bucket: env.BUCKET, config, now }),
    inference: createInferenceService({
      onnx: createOnnxEngine({ inference: inferenceRows, sessions: env.MODEL_SESSION, now }),
      hosted: createHostedEngine({
        ...config.hosted,
        ai: env.AI,
        inference: inferenceRows,
        sessions: env.MODEL_SESSION,
        limiters: env.RATE_LIMITER,
        now,
      }),
    }),
    breeding: createBreedingServices(env, config, now),
    validations: createValidationService({ validations: createValidationRepository(db) }),
  };
}

const built = new WeakMap<Env, Services>();

/**
 * Everything the handlers use, made once per isolate from the bindings: the one place, beside the object classes, that
 * reads them.
 * @throws ConfigError when a variable or secret is bad; nothing is served then
 */
export function servicesFor(env: Env): Services {
  const known = built.get(env);
  if (known) return known;
  const services = build(env);
  built.set(env, services);
  return services;
}
