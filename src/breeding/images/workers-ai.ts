import type { ImageModels } from "./painter.ts";

/** The platform's binding as the port; each call is checked against the model's published input type. */
export const workersAi = (ai: Ai): ImageModels => ({
  run: (request, signal) =>
    request.model === "@cf/black-forest-labs/flux-1-schnell"
      ? ai.run(request.model, request.inputs, { signal })
      : ai.run(request.model, request.inputs, { signal }),
});
