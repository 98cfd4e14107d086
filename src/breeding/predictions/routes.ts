import { createRoute } from "@hono/zod-openapi";
import { jsonBody, jsonContent } from "../../http/create-api.ts";
import { callerOf, createBreedingRouter, OPEN_IN_PHASE_1, pageOf, problems, toTheEnd } from "../http.ts";
import { MESSAGES } from "../messages.ts";
import {
  CombinationKeyParamsSchema,
  CombinationParamsSchema,
  CombinationQuerySchema,
  CombinationsSchema,
  HistoryQuerySchema,
  PredictionAnswerSchema,
  PredictionCreatedSchema,
  PredictionPageSchema,
  PredictionParamsSchema,
  PredictionRequestSchema,
} from "./schemas.ts";

const tags = ["Predictions"];

const create = createRoute({
  method: "post",
  path: "/predictions",
  operationId: "createPrediction",
  tags,
  summary: "예측 생성",
  description: "두 부모 계통 간의 새로운 교배 예측을 만듭니다.",
  security: OPEN_IN_PHASE_1,
  request: { body: jsonBody(PredictionRequestSchema) },
  responses: { 201: jsonContent(PredictionCreatedSchema, "예측"), ...problems(400, 401, 404, 429) },
});

const history = createRoute({
  method: "get",
  path: "/predictions",
  operationId: "listPredictions",
  tags,
  summary: "예측 이력 조회",
  security: OPEN_IN_PHASE_1,
  request: { query: HistoryQuerySchema },
  responses: { 200: jsonContent(PredictionPageSchema, "한 페이지"), ...problems(400, 401, 429) },
});

const combinations = createRoute({
  method: "get",
  path: "/predictions/existing-combinations",
  operationId: "listCombinations",
  tags,
  summary: "기존 조합 조회",
  security: OPEN_IN_PHASE_1,
  request: { query: CombinationQuerySchema },
  responses: { 200: jsonContent(CombinationsSchema, "조합 ID 목록"), ...problems(400, 401, 429) },
});

const byPair = createRoute({
  method: "get",
  path: "/predictions/by-combination/{maleId}/{femaleId}",
  operationId: "getPredictionByParents",
  tags,
  summary: "조합으로 예측 조회 (가장 최근 예측)",
  security: OPEN_IN_PHASE_1,
  request: { params: CombinationParamsSchema },
  responses: { 200: jsonContent(PredictionAnswerSchema, "예측"), ...problems(401, 404, 429) },
});

const byKey = createRoute({
  method: "get",
  path: "/predictions/by-combination/{combinationId}",
  operationId: "getPredictionByCombination",
  tags,
  summary: "조합 ID로 예측 조회 (가장 최근 예측)",
  security: OPEN_IN_PHASE_1,
  request: { params: CombinationKeyParamsSchema },
  responses: { 200: jsonContent(PredictionAnswerSchema, "예측"), ...problems(400, 401, 404, 429) },
});

const get = createRoute({
  method: "get",
  path: "/predictions/{id}",
  operationId: "getPrediction",
  tags,
  summary: "ID로 예측 조회",
  security: OPEN_IN_PHASE_1,
  request: { params: PredictionParamsSchema },
  responses: { 200: jsonContent(PredictionAnswerSchema, "예측"), ...problems(401, 404, 429) },
});

/** Fixed words come before `{id}`. */
export const predictionRoutes = createBreedingRouter()
  .openapi(create, async (c) => {
    const data = await toTheEnd(c, c.get("services").breeding.predictions.create(callerOf(c), c.req.valid("json")));
    return c.json({ success: true as const, data, message: MESSAGES.predictionDone }, 201);
  })
  .openapi(history, async (c) => {
    const query = c.req.valid("query");
    const { predictions, total } = await c.get("services").breeding.predictions.history(callerOf(c), query);
    return c.json({ success: true as const, data: predictions, ...pageOf(query, total) }, 200);
  })
  .openapi(combinations, async (c) => {
    const data = await c.get("services").breeding.predictions.combinations(callerOf(c), c.req.valid("query"));
    return c.json({ success: true as const, data }, 200);
  })
  .openapi(byPair, async (c) => {
    const data = await c.get("services").breeding.predictions.byPair(callerOf(c), c.req.valid("param"));
    return c.json({ success: true as const, data }, 200);
  })
  .openapi(byKey, async (c) => {
    const { combinationId } = c.req.valid("param");
    const data = await c.get("services").breeding.predictions.byKey(callerOf(c), combinationId);
    return c.json({ success: true as const, data }, 200);
  })
  .openapi(get, async (c) => {
    const data = await c.get("services").breeding.predictions.get(callerOf(c), c.req.valid("param").id);
    return c.json({ success: true as const, data }, 200);
  });
