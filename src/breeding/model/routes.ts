import { createRoute } from "@hono/zod-openapi";
import { jsonContent } from "../../http/create-api.ts";
import { callerOf, createBreedingRouter, OPEN_IN_PHASE_1, problems } from "../http.ts";
import { ModelSchema } from "./schemas.ts";

const get = createRoute({
  method: "get",
  path: "/model",
  operationId: "getModel",
  tags: ["Model"],
  summary: "예측 모형과 실측 교정",
  description: "형질마다 무엇에 근거하는지, 측정 전 예측이 실제와 얼마나 맞았는지.",
  security: OPEN_IN_PHASE_1,
  responses: { 200: jsonContent(ModelSchema, "모형"), ...problems(401, 429) },
});

export const modelRoutes = createBreedingRouter().openapi(get, async (c) => {
  const data = await c.get("services").breeding.model.describe(callerOf(c));
  return c.json({ success: true as const, data }, 200);
});
