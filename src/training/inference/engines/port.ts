import type { ImageHeader } from "../image-header.ts";
import type { InferenceOptions, InferenceResult } from "../results.ts";

/** What runs models: each engine finds the model that a request means and hands it back ready to look at images. */

export type EngineName = "onnx" | "workers-ai";

/** An image file whose header was accepted. `bytes` lie in a buffer of their own. */
export type AcceptedImage = { bytes: Uint8Array<ArrayBuffer>; header: ImageHeader };

export type EngineAnswer = {
  result: InferenceResult;
  /** Milliseconds before the image was looked at: waiting for a turn, loading the model. */
  timings: { queueMs: number; loadMs: number };
};

/** Identity of a trained model; null for a pretrained one. */
export type CheckpointFacts = {
  artifact_id: string;
  epoch: number | null;
  role: "best" | "last" | null;
  sha256: string;
};

export type PreparedModel = {
  engine: EngineName;
  modelName: string;
  checkpoint: CheckpointFacts | null;
  /**
   * Looks at one image.
   * @throws AppError: VALIDATION_ERROR (`file`) for the image, anything else for the model or its machine
   */
  run(image: AcceptedImage, options: InferenceOptions): Promise<EngineAnswer>;
};
