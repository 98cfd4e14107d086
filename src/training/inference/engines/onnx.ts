import { unauthorized } from "../../../auth/bearer.ts";
import type { Principal } from "../../../auth/principal.ts";
import { AppError, toAppError } from "../../../shared/errors.ts";
import { errorText, logger } from "../../../shared/logger.ts";
import { checkModelSize } from "../limits.ts";
import { parseManifest, SUPPORTED_TASKS } from "../manifest.ts";
import type { InferAnswer, InferFailure, InferRequest, ModelSession } from "../object.ts";
import { askReplica, ReplicaPicker } from "../replicas.ts";
import type { InferenceRepository } from "../repository.ts";
import type { CheckpointChoice } from "../schemas.ts";
import type { PreparedModel } from "./port.ts";

const RETRY_AFTER_S = "2";

/** Of the isolate: what it asks of each object is counted in one place. */
const replicas = new ReplicaPicker();

const unavailable = (message: string, headers?: Record<string, string>) =>
  new AppError("INFERENCE_UNAVAILABLE", message, { headers });
const noCheckpoint = (message: string) => new AppError("CHECKPOINT_NOT_FOUND", message, { field: "checkpoint" });
/** The stored model itself is at fault: asking again does not help. */
const notUsable = (message: string) =>
  new AppError("VALIDATION_ERROR", `checkpoint: ${message}`, { field: "checkpoint" });

/** What an object of the model could not do, as the error that the caller gets. */
export function toError(failure: InferFailure): AppError {
  switch (failure.code) {
    case "VALIDATION_ERROR":
      return toAppError(failure);
    case "MODEL_MISSING":
      return noCheckpoint(failure.message);
    case "MODEL_NOT_USABLE":
      return notUsable(failure.message);
    case "MODEL_TOO_LARGE":
      return unavailable(failure.message);
    case "BUSY":
      return unavailable(failure.message, { "retry-after": RETRY_AFTER_S });
  }
}

/** Trained checkpoints, run in the Worker by the objects that keep them loaded. */
export function createOnnxEngine(deps: {
  inference: InferenceRepository;
  sessions: Pick<DurableObjectNamespace<ModelSession>, "getByName">;
  now: () => number;
}) {
  const { inference, sessions, now } = deps;

  /** @throws AppError for whatever kept the model from answering */
  async function ask(request: InferRequest): Promise<InferAnswer> {
    const { sha256 } = request.model;
    const call = async (name: string) => {
      try {
        return await sessions.getByName(name).infer(request);
      } catch (thrown) {
        logger.error("inference failed", { object: name, error: errorText(thrown) });
        throw thrown;
      }
    };
    const result = await askReplica(replicas, sha256, now, call).catch(() => {
      // The object was reset, is overloaded, or the store did not answer: nothing about the request is wrong.
      throw unavailable("The model could not be run at the moment, try again", { "retry-after": RETRY_AFTER_S });
    });
    if (!result.ok) throw toError(result.error);
    return result.value;
  }

  return {
    /**
     * Finds the model that a request means and everything its object has to know.
     * @throws UNAUTHORIZED · JOB_NOT_FOUND · CHECKPOINT_NOT_FOUND · VALIDATION_ERROR (`checkpoint`) · INFERENCE_UNAVAILABLE
     */
    async prepare(
      principal: Principal,
      wanted: { jobId: number; checkpoint: CheckpointChoice | null },
    ): Promise<PreparedModel> {
      const { jobId, checkpoint } = wanted;
      const row = await inference.model(principal, jobId, checkpoint);
      if (!row) throw unauthorized();
      if (row.role === null || row.taskType === null) throw new AppError("JOB_NOT_FOUND", "Job not found");
      if (!SUPPORTED_TASKS.includes(row.taskType)) {
        throw unavailable(`Inference is not available for the task ${row.taskType}`);
      }
      const { model, external } = row;
      const ofOtherJob = checkpoint !== null && "jobId" in checkpoint && (checkpoint.jobId ?? jobId) !== jobId;
      if (model === null || ofOtherJob) {
        throw noCheckpoint(checkpoint ? "Checkpoint not found" : "The job has no trained model that can be run yet");
      }
      const manifest = parseManifest(model.manifest);
      if (!manifest.ok) {
        throw manifest.error.code === "VALIDATION_ERROR"
          ? notUsable(manifest.error.message)
          : toAppError(manifest.error);
      }
      const [weights] = manifest.value.external_data;
      if (weights && !external) throw noCheckpoint("The weights file of this checkpoint is missing");
      const size = checkModelSize(manifest.value, model.sizeBytes, external?.sizeBytes ?? 0);
      if (!size.ok) throw unavailable(size.error.message);
      const request = {
        model: { key: model.storageKey, sha256: model.sha256, sizeBytes: model.sizeBytes },
        external:
          weights && external
            ? { key: external.storageKey, sha256: external.sha256, sizeBytes: external.sizeBytes, path: weights.path }
            : null,
        manifest: manifest.value,
      } satisfies Omit<InferRequest, "image" | "options">;
      return {
        engine: "onnx",
        modelName: row.modelName ?? manifest.value.model_name,
        checkpoint: { artifact_id: model.id, epoch: model.epoch, role: model.role, sha256: model.sha256 },
        run: (image, options) => ask({ ...request, image: image.bytes, options }),
      };
    },
  };
}

export type OnnxEngine = ReturnType<typeof createOnnxEngine>;
