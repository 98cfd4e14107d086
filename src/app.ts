import { OpenAPIHono } from "@hono/zod-openapi";
import { PREFIX as BREEDING_PREFIX, createBreedingApi } from "./breeding/api.ts";
import { createImageRoutes } from "./breeding/images/routes.ts";
import { breedingEnvelope } from "./breeding/messages.ts";
import type { AppEnv } from "./http/create-api.ts";
import { refuseOtherMethods } from "./http/methods.ts";
import { renderProblem, toProblem, trainingEnvelope } from "./http/problem.ts";
import { pageRoutes } from "./pages/routes.ts";
import { servicesFor } from "./services.ts";
import { AppError } from "./shared/errors.ts";
import { createTrainingApi, PREFIX } from "./training/api.ts";

const envelopeOf = (path: string) =>
  /^\/(api(?!\/v1(\/|$))|images)(\/|$)/.test(path) ? breedingEnvelope : trainingEnvelope;

/** Composes the Worker: request id, services, the APIs (the longer prefix first), and the errors of the root. */
export function createApp() {
  const app = new OpenAPIHono<AppEnv>();

  app.use(async (c, next) => {
    c.set("requestId", crypto.randomUUID());
    c.header("x-request-id", c.get("requestId"));
    c.header("x-content-type-options", "nosniff");
    c.header("cache-control", "private, no-store");
    c.set("services", servicesFor(c.env));
    await next();
  });

  app.use(refuseOtherMethods(app));

  app.get("/healthz", (c) => c.json({ status: "ok" }, 200));
  app.route(PREFIX, createTrainingApi());
  app.route(BREEDING_PREFIX, createBreedingApi());
  app.route("/images", createImageRoutes());
  app.route("/", pageRoutes);

  app.notFound((c) => renderProblem(c, envelopeOf(c.req.path), new AppError("NOT_FOUND", "Not found")));
  app.onError((thrown, c) => renderProblem(c, envelopeOf(c.req.path), toProblem(thrown, c.get("requestId"))));
  return app;
}
