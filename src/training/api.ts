import { requireLiveUser, requireUser } from "../auth/bearer.ts";
import { accountRoutes, loginRoutes } from "../auth/routes.ts";
import { createApi, createRouter } from "../http/create-api.ts";
import { limitJsonBody } from "../http/json-body.ts";
import { declareCommonErrors, serveDocument } from "../http/openapi.ts";
import { trainingEnvelope } from "../http/problem.ts";
import { configRoutes } from "./config/routes.ts";
import { datasetRoutes } from "./datasets/routes.ts";
import { inferenceRoutes } from "./inference/routes.ts";
import { liveRoutes } from "./jobs/live/routes.ts";
import { jobRoutes } from "./jobs/routes.ts";
import { modelRoutes } from "./models/routes.ts";
import { projectRoutes } from "./projects/routes.ts";
import { runnerAdminRoutes } from "./runners/admin-routes.ts";
import { attemptRoutes, runnerRoutes } from "./runners/routes.ts";
import { validationRoutes } from "./validation/routes.ts";

export const PREFIX = "/api/v1";

const INFO = {
  title: "cultivar Training API",
  version: "1.0.0",
  description:
    "A vision-model training platform: datasets, training jobs on external runners, metrics, logs, validation, inference.",
};

const TAGS = [
  { name: "Auth", description: "Logging in, the caller's own account, personal API tokens" },
  { name: "Projects", description: "Who works together: owner, editors, viewers" },
  { name: "Datasets", description: "Labelled images, uploaded as files or as one zip" },
  { name: "Models", description: "What can be trained, and what can be asked without training" },
  { name: "Training", description: "Jobs, their settings, metrics, logs and checkpoints" },
  { name: "Validation", description: "Results on held-out images, for a job and for each image" },
  { name: "Inference", description: "Trained checkpoints, asked about one image" },
  { name: "Runners", description: "The protocol between the platform and the machines that train" },
  { name: "Internal", description: "The callback of a trainer" },
];

/** The Training API below `/api/v1`: open routes, the runners' routes with their own credentials, and the users' routes. */
export function createTrainingApi() {
  const users = createRouter();
  users.use(requireUser);
  // What these answer is no one's own, so no statement of theirs would ask whether the caller is still valid.
  for (const path of ["/models/*", "/training/config-schema", "/training/config/*"]) users.use(path, requireLiveUser);
  users.route("/", accountRoutes);
  users.route("/", projectRoutes);
  users.route("/", datasetRoutes);
  users.route("/", modelRoutes);
  users.route("/", configRoutes);
  users.route("/", jobRoutes);
  users.route("/", validationRoutes);
  users.route("/", inferenceRoutes);
  users.route("/", runnerAdminRoutes);

  const api = createApi(trainingEnvelope);
  // The callback reads lenient JSON, plain or gzip, within limits of its own.
  api.use(limitJsonBody([`${PREFIX}/internal/training/callback`]));
  serveDocument(
    api,
    PREFIX,
    INFO,
    ["bearer", "eventTicket", "registrationToken", "runnerToken", "jobToken", "internalSecret"],
    TAGS,
  );
  api.route("/", loginRoutes);
  api.route("/", runnerRoutes);
  api.route("/", attemptRoutes);
  // Before the users' routes: a ticket may stand in the place of a token.
  api.route("/", liveRoutes);
  api.route("/", users);
  declareCommonErrors(api);
  return api;
}
