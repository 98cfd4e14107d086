import type { Config } from "../config.ts";
import { createRequestCounter } from "./access.ts";
import { createCrossRepository } from "./crosses/repository.ts";
import { createCrossService } from "./crosses/service.ts";
import { createPainter } from "./images/painter.ts";
import { rasterize } from "./images/rasterizer.ts";
import { createPictureRepository } from "./images/repository.ts";
import { createPictureService, type PaintBudget } from "./images/service.ts";
import { workersAi } from "./images/workers-ai.ts";
import { createModelRepository } from "./model/repository.ts";
import { createModelService } from "./model/service.ts";
import { createModelStore } from "./model/store.ts";
import { createObservationRepository } from "./observations/repository.ts";
import { createObservationService } from "./observations/service.ts";
import { createPredictionRepository } from "./predictions/repository.ts";
import { createPredictionService } from "./predictions/service.ts";
import { createStrainRepository } from "./strains/repository.ts";
import { createStrainService } from "./strains/service.ts";

const DAY_MS = 24 * 3600_000;

/** Everything behind the Breeding API's routes, from the bindings it uses. */
export function createBreedingServices(
  env: Pick<Env, "DB" | "BUCKET" | "RATE_LIMITER" | "AI">,
  config: Config,
  now: () => number,
) {
  const { DB: db, BUCKET: bucket } = env;
  const { engine, model, dailyBudget, timeoutMs } = config.painting;
  /** One counter a day (UTC) for the whole deployment: paintings cost money, drawings do not. */
  const budget: PaintBudget = async (at) => {
    const day = new Date(at).toISOString().slice(0, 10);
    const { count } = await env.RATE_LIMITER.getByName(`breeding:paintings:${day}`).hit(DAY_MS);
    return count <= dailyBudget;
  };
  const painter =
    engine === "workers-ai" && env.AI !== undefined
      ? { painter: createPainter(workersAi(env.AI), model, timeoutMs), budget }
      : undefined;

  const fits = createModelRepository(db);
  const models = createModelStore({ models: fits, bucket, now });
  const pictures = createPictureService({ pictures: createPictureRepository(db), bucket, rasterize, painter, now });
  return {
    requests: createRequestCounter({ limiters: env.RATE_LIMITER, quotas: config.breedingQuotas, now }),
    model: createModelService({ models: fits, store: models, now }),
    pictures,
    strains: createStrainService({ strains: createStrainRepository(db), models, pictures, now }),
    predictions: createPredictionService({ predictions: createPredictionRepository(db), models, pictures, now }),
    observations: createObservationService({ observations: createObservationRepository(db), models, now }),
    crosses: createCrossService({ crosses: createCrossRepository(db), models }),
  };
}
