import { unauthorized } from "../../../auth/bearer.ts";
import type { Principal } from "../../../auth/principal.ts";
import type { RateLimiter } from "../../../auth/rate-limiter.ts";
import { AppError } from "../../../shared/errors.ts";
import { errorText, logger } from "../../../shared/logger.ts";
import type { Failure, Result } from "../../../shared/result.ts";
import { isTrainable } from "../../models/catalogue.ts";
import { type HostedModel, type HostedModels, hostedName } from "../../models/hosted.ts";
import { fittedSize } from "../normalise.ts";
import type { ModelSession } from "../object.ts";
import type { InferenceRepository } from "../repository.ts";
import type { InferenceOptions, InferenceResult } from "../results.ts";
import { type Frames, readBoxes, readLabels, readObjects } from "./hosted-answers.ts";
import { hostedError, secondsLeftToday, timedOut } from "./hosted-errors.ts";
import { toError } from "./onnx.ts";
import type { AcceptedImage, PreparedModel } from "./port.ts";

const DAY_MS = 86_400_000;

/** What is sent as it came: small enough to travel as a list of numbers, and nothing to turn. */
const AS_IS_BYTES = 512 * 1024;
const AS_IS_PIXELS = 4_000_000;

/** Longest side of what is sent, pixels: the hosts shrink to 224 or about 800 themselves. */
const MAX_EDGE: Record<HostedModel["kind"], number> = { classification: 512, detection: 800, grounding: 1024 };

/** The most that the published schema of the grounding model takes. */
const MAX_OBJECTS = 500;

/** What is used of the platform's binding. Ids are configuration, so no type ties an id to its input. */
export interface HostedRunner {
  run(id: string, inputs: Record<string, unknown>, options: { signal: AbortSignal }): Promise<unknown>;
}

type Sent = { bytes: Uint8Array<ArrayBuffer>; mediaType: string; frames: Frames };

/** Pretrained models that the platform hosts. Only the name of the model and the image leave this Worker. */
export function createHostedEngine(deps: {
  /** Undefined where the deployment has no binding: locally, and without an account. */
  ai: HostedRunner | undefined;
  models: HostedModels;
  dailyBudget: number;
  dailyBudgetPerUser: number;
  timeoutMs: number;
  inference: InferenceRepository;
  sessions: DurableObjectNamespace<ModelSession>;
  limiters: DurableObjectNamespace<RateLimiter>;
  now: () => number;
}) {
  const { ai, models, inference, sessions, limiters, now } = deps;

  const counters = (userId: number) => {
    const day = new Date(now()).toISOString().slice(0, 10);
    return [
      { counter: limiters.getByName(`hosted:${day}:${userId}`), most: deps.dailyBudgetPerUser, whose: "your" },
      { counter: limiters.getByName(`hosted:${day}`), most: deps.dailyBudget, whose: "this deployment's" },
    ];
  };

  /**
   * Takes one run out of the caller's and the deployment's budget of the day; a caller's own is asked first, so that nobody
   * can use up what belongs to all by being refused.
   * @returns what gives it back, for a run that nobody bills
   */
  async function spend(userId: number): Promise<() => Promise<void>> {
    const spent: DurableObjectStub<RateLimiter>[] = [];
    const giveBack = async () => {
      await Promise.all(spent.map((counter) => counter.forgive(DAY_MS)));
    };
    for (const { counter, most, whose } of counters(userId)) {
      const { count } = await counter.hit(DAY_MS);
      spent.push(counter);
      if (count <= most) continue;
      await giveBack();
      throw new AppError("RATE_LIMITED", `Hosted models: ${whose} budget of ${most} runs a day is used up`, {
        headers: { "retry-after": String(secondsLeftToday(now())) },
      });
    }
    return giveBack;
  }

  async function prepareImage({ bytes, header }: AcceptedImage, kind: HostedModel["kind"], userId: number) {
    const shown = fittedSize(header, header.orientation, Number.POSITIVE_INFINITY);
    const isSmall = bytes.byteLength <= AS_IS_BYTES && header.width * header.height <= AS_IS_PIXELS;
    const asIs = isSmall && header.type !== "webp" && header.orientation === 1;
    if (asIs) return { bytes, mediaType: `image/${header.type}`, frames: { sent: shown, shown } } satisfies Sent;
    let made: Awaited<ReturnType<ModelSession["normalise"]>>;
    try {
      made = await sessions.getByName(`normalise:${userId}`).normalise(bytes, MAX_EDGE[kind]);
    } catch (thrown) {
      logger.error("image not normalised", { error: errorText(thrown) });
      throw new AppError("INFERENCE_UNAVAILABLE", "The image could not be prepared at the moment, try again", {
        headers: { "retry-after": "2" },
      });
    }
    if (!made.ok) throw toError(made.error);
    const { png, width, height } = made.value;
    return {
      bytes: Uint8Array.from(png),
      mediaType: "image/png",
      frames: { sent: { width, height }, shown },
    } satisfies Sent;
  }

  /** One run, paid for and bounded in time. */
  async function call(runner: HostedRunner, name: string, id: string, inputs: Record<string, unknown>, userId: number) {
    const giveBack = await spend(userId);
    const startedAt = performance.now();
    const signal = AbortSignal.timeout(deps.timeoutMs);
    const tooLate = new Promise<typeof signal>((resolve) => signal.addEventListener("abort", () => resolve(signal)));
    const report = (outcome: string, error?: string) =>
      logger.info("hosted model", {
        userId,
        model: name,
        id,
        outcome,
        error,
        ms: Math.round(performance.now() - startedAt),
      });
    try {
      // Raced, because a binding may not heed the signal.
      const answer = await Promise.race([runner.run(id, inputs, { signal }), tooLate]);
      if (answer === signal) throw timedOut();
      report("answered");
      return answer;
    } catch (thrown) {
      const error = thrown instanceof AppError || signal.aborted ? timedOut() : hostedError(thrown, now());
      report(error.code, errorText(thrown));
      // A run that was only waited for too long may still be billed.
      if (error.code !== "INFERENCE_TIMEOUT") await giveBack();
      throw error;
    }
  }

  return {
    /**
     * A pretrained model by its name in the catalogue.
     * @throws UNAUTHORIZED · MODEL_NOT_FOUND · VALIDATION_ERROR (`model_name`, `target`) · INFERENCE_UNAVAILABLE
     */
    async prepare(principal: Principal, wanted: { name: string; targets: string[] }): Promise<PreparedModel> {
      if (!(await inference.isCaller(principal))) throw unauthorized();
      const name = hostedName(wanted.name);
      const model = models.get(name);
      if (model === undefined) {
        throw isTrainable(name)
          ? new AppError("VALIDATION_ERROR", "model_name: is trained first; name the job by training_job_id", {
              field: "model_name",
            })
          : new AppError("MODEL_NOT_FOUND", "Model not found", { field: "model_name" });
      }
      if (model.kind === "grounding" && wanted.targets.length === 0) {
        throw new AppError("VALIDATION_ERROR", "target: is required, this model finds what is named in words", {
          field: "target",
        });
      }
      if (ai === undefined) {
        throw new AppError("INFERENCE_UNAVAILABLE", "Hosted models are not available in this deployment");
      }
      const { userId } = principal;
      const readable = <T extends InferenceResult>(result: Result<T, Failure>): T => {
        if (result.ok) return result.value;
        logger.error("hosted model not understood", { model: name, id: model.id, error: result.error.message });
        throw new AppError("INFERENCE_UNAVAILABLE", "The hosted model answered something that is not understood");
      };

      async function look(runner: HostedRunner, hosted: HostedModel, sent: Sent, options: InferenceOptions) {
        const ask = (inputs: Record<string, unknown>) => call(runner, name, hosted.id, inputs, userId);
        if (hosted.kind === "grounding") {
          const image = `data:${sent.mediaType};base64,${Buffer.from(sent.bytes).toString("base64")}`;
          const answers: { target: string; answer: unknown }[] = [];
          for (const target of wanted.targets) {
            const inputs: AiModels["@cf/moondream/moondream3.1-9B-A2B"]["inputs"] = {
              task: "detect",
              image,
              target,
              max_objects: Math.min(options.maxDetections, MAX_OBJECTS),
            };
            answers.push({ target, answer: await ask({ ...inputs }) });
          }
          return readable(readObjects(answers, sent.frames, options));
        }
        const inputs: AiImageClassificationInput = { image: Array.from(sent.bytes) };
        const answer = await ask(inputs);
        return hosted.kind === "classification"
          ? readable(readLabels(answer, options))
          : readable(readBoxes(answer, sent.frames, options));
      }

      return {
        engine: "workers-ai",
        modelName: name,
        checkpoint: null,
        async run(image, options) {
          const sent = await prepareImage(image, model.kind, userId);
          return { result: await look(ai, model, sent, options), timings: { queueMs: 0, loadMs: 0 } };
        },
      };
    },
  };
}

export type HostedEngine = ReturnType<typeof createHostedEngine>;
