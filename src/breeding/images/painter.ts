import { fail, ok, type Result } from "../../shared/result.ts";

/** Text-to-image models of Workers AI behind one small port. Ids live a year or two: which one runs is configuration. */

/** What is used of the platform's binding, see `workersAi`. */
export interface ImageModels {
  run(request: PaintRequest, signal: AbortSignal): Promise<unknown>;
}

export const PAINT_MODELS = [
  "@cf/black-forest-labs/flux-1-schnell",
  "@cf/black-forest-labs/flux-2-klein-4b",
  "@cf/black-forest-labs/flux-2-klein-9b",
] as const;
export type PaintModel = (typeof PAINT_MODELS)[number];

/** A model with the input that it publishes. */
export type PaintRequest =
  | { model: "@cf/black-forest-labs/flux-1-schnell"; inputs: { prompt: string; steps: number } }
  | {
      model: Exclude<PaintModel, "@cf/black-forest-labs/flux-1-schnell">;
      inputs: { multipart: { body: ReadableStream<Uint8Array>; contentType: string } };
    };

export type PaintFailure = "timeout" | "error";

export interface Painter {
  readonly model: PaintModel;
  /** The bytes of a JPEG or PNG. */
  paint(prompt: string): Promise<Result<Uint8Array<ArrayBuffer>, { code: PaintFailure; message: string }>>;
}

/** The most that the model takes; more is neither faster nor much better. */
const STEPS = 8;
const EDGE_PX = 768;

function requestFor(model: PaintModel, prompt: string): PaintRequest {
  if (model === "@cf/black-forest-labs/flux-1-schnell") return { model, inputs: { prompt, steps: STEPS } };
  const form = new FormData();
  form.set("prompt", prompt);
  form.set("width", String(EDGE_PX));
  form.set("height", String(EDGE_PX));
  // The binding takes a form as its encoded body and the content type with the boundary.
  const encoded = new Response(form);
  const body = encoded.body ?? new ReadableStream();
  const contentType = encoded.headers.get("content-type") ?? "multipart/form-data";
  return { model, inputs: { multipart: { body, contentType } } };
}

/** The picture of `{image: base64}`, the output that these models publish; null for anything else. */
export function paintedBytes(output: unknown): Uint8Array<ArrayBuffer> | null {
  if (typeof output !== "object" || output === null) return null;
  const image: unknown = Reflect.get(output, "image");
  if (typeof image !== "string" || image === "") return null;
  try {
    return Uint8Array.from(atob(image.replace(/^data:[^,]*,/, "")), (char) => char.charCodeAt(0));
  } catch {
    return null;
  }
}

/** @param timeoutMs after which the embedded renderer takes over */
export function createPainter(models: ImageModels, model: PaintModel, timeoutMs: number): Painter {
  return {
    model,
    async paint(prompt) {
      const signal = AbortSignal.timeout(timeoutMs);
      const tooLate = new Promise<"timeout">((resolve) => signal.addEventListener("abort", () => resolve("timeout")));
      try {
        // Raced, because a binding may not heed the signal.
        const output = await Promise.race([models.run(requestFor(model, prompt), signal), tooLate]);
        if (output === "timeout") return fail("timeout", `no picture after ${timeoutMs} ms`);
        const bytes = paintedBytes(output);
        return bytes === null ? fail("error", "the model answered without a picture") : ok(bytes);
      } catch (thrown) {
        if (signal.aborted) return fail("timeout", `no picture after ${timeoutMs} ms`);
        return fail("error", thrown instanceof Error ? thrown.message : String(thrown));
      }
    },
  };
}
