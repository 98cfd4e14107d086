import type { Principal } from "../../auth/principal.ts";
import { validationError } from "../../http/create-api.ts";
import { AppError, unwrap } from "../../shared/errors.ts";
import { release } from "../../shared/memory.ts";
import type { OnnxEngine } from "./engines/onnx.ts";
import type { AcceptedImage, PreparedModel } from "./engines/port.ts";
import type { HostedEngine } from "./engines/workers-ai.ts";
import { type FormImage, fileTooLarge, readInferenceForm } from "./form.ts";
import { readImageHeader, SHRINKABLE } from "./image-header.ts";
import type { InferenceOptions } from "./results.ts";
import { type Inference, type InferenceBatch, InferenceFieldsSchema } from "./schemas.ts";

export type InferenceService = ReturnType<typeof createInferenceService>;

/** Milliseconds to a tenth. */
const tenth = (ms: number): number => Math.round(Math.max(ms, 0) * 10) / 10;

/** Our errors say it in seconds, never as a date. */
const retryAfterS = ({ headers }: AppError): number | null =>
  headers["retry-after"] === undefined ? null : Number(headers["retry-after"]);

/** @throws VALIDATION_ERROR, field `file` */
function accept({ bytes }: FormImage): AcceptedImage {
  if (bytes === null) throw fileTooLarge();
  return { bytes, header: unwrap(readImageHeader(bytes, SHRINKABLE)) };
}

async function look(model: PreparedModel, image: AcceptedImage, options: InferenceOptions): Promise<Inference> {
  // Measured on this side of the call: the clock of whoever computes stands still meanwhile.
  const startedAt = performance.now();
  const { result, timings } = await model.run(image, options).finally(() => release(image.bytes));
  const totalMs = performance.now() - startedAt;
  const { queueMs, loadMs } = timings;
  return {
    ...result,
    model_name: model.modelName,
    inference_time_ms: tenth(totalMs),
    engine: model.engine,
    checkpoint: model.checkpoint,
    image: { type: image.header.type, width: image.header.width, height: image.header.height },
    timings: { queue_ms: tenth(queueMs), load_ms: tenth(loadMs), compute_ms: tenth(totalMs - queueMs - loadMs) },
  };
}

export function createInferenceService(deps: { onnx: OnnxEngine; hosted: HostedEngine }) {
  /** Each file on its own, one after the other; what is answered is given up at once, for its memory. */
  async function lookAtAll(
    model: PreparedModel,
    images: FormImage[],
    options: InferenceOptions,
    signal: AbortSignal,
  ): Promise<InferenceBatch> {
    const startedAt = performance.now();
    const results: InferenceBatch["results"] = [];
    for (const [index, image] of images.entries()) {
      // Nobody listens any more; hosted models cost money.
      if (signal.aborted) break;
      const entry = { index, image_name: image.name };
      try {
        results.push({ ...entry, result: await look(model, accept(image), options), error: null });
      } catch (thrown) {
        if (!(thrown instanceof AppError)) throw thrown;
        const { message: detail, code, field } = thrown;
        results.push({ ...entry, result: null, error: { detail, code, field, retry_after_s: retryAfterS(thrown) } });
      }
      image.bytes = null;
    }
    const succeeded = results.filter(({ error }) => error === null).length;
    return {
      results,
      total: images.length,
      succeeded,
      failed: results.length - succeeded,
      inference_time_ms: tenth(performance.now() - startedAt),
    };
  }

  return {
    /**
     * Runs a job's checkpoint or a pretrained model on the image of a form, or on each of several.
     * @throws UNAUTHORIZED · VALIDATION_ERROR (`file`, `training_job_id`, …) · JOB_NOT_FOUND · CHECKPOINT_NOT_FOUND ·
     *   MODEL_NOT_FOUND · RATE_LIMITED · INFERENCE_UNAVAILABLE · INFERENCE_TIMEOUT; of several files, what is wrong with one
     *   of them stands in its place of the answer
     */
    async test(principal: Principal, httpRequest: Request): Promise<Inference | InferenceBatch> {
      const form = await readInferenceForm(httpRequest);
      const parsed = InferenceFieldsSchema.safeParse(Object.fromEntries(form.fields));
      if (!parsed.success) throw validationError(parsed.error);
      const { model: choice, options } = parsed.data;
      const [image, ...others] = form.images;
      if (image === undefined) throw new AppError("VALIDATION_ERROR", "file: an image is required", { field: "file" });
      const accepted = others.length === 0 ? accept(image) : null;
      const model =
        "name" in choice ? await deps.hosted.prepare(principal, choice) : await deps.onnx.prepare(principal, choice);
      return accepted === null
        ? lookAtAll(model, form.images, options, httpRequest.signal)
        : look(model, accepted, options);
    },
  };
}
