import { createRoute, z } from "@hono/zod-openapi";
import { requireUser } from "../../auth/bearer.ts";
import { readBytes } from "../../http/body.ts";
import { jsonBody, jsonContent } from "../../http/create-api.ts";
import { callerOf, createBreedingRouter, flagQuery, OPEN_IN_PHASE_1, pageOf, problems, toTheEnd } from "../http.ts";
import { BREEDING_LIMITS } from "../limits.ts";
import { csvBody } from "../strains/schemas.ts";
import {
  CreateObservationSchema,
  ObservationCreatedSchema,
  ObservationDeletedSchema,
  ObservationListQuerySchema,
  ObservationPageSchema,
  ObservationParamsSchema,
  ObservationReportSchema,
} from "./schemas.ts";

const tags = ["Observations"];
const security = [{ bearer: [] }];

const create = createRoute({
  method: "post",
  path: "/observations",
  operationId: "createObservation",
  tags,
  summary: "측정한 F1 교배 등록",
  description: "측정 전 예측을 함께 저장하고 모형을 다시 적합합니다. ratio를 생략하면 길이/너비로 계산합니다.",
  security,
  middleware: [requireUser],
  request: { body: jsonBody(CreateObservationSchema) },
  responses: { 201: jsonContent(ObservationCreatedSchema, "관측 기록"), ...problems(400, 401, 404, 429) },
});

const list = createRoute({
  method: "get",
  path: "/observations",
  operationId: "listObservations",
  tags,
  summary: "관측 기록 조회",
  security: OPEN_IN_PHASE_1,
  request: { query: ObservationListQuerySchema },
  responses: { 200: jsonContent(ObservationPageSchema, "한 페이지"), ...problems(400, 401, 429) },
});

const remove = createRoute({
  method: "delete",
  path: "/observations/{id}",
  operationId: "deleteObservation",
  tags,
  summary: "관측 기록 삭제",
  security,
  middleware: [requireUser],
  request: { params: ObservationParamsSchema },
  responses: { 200: jsonContent(ObservationDeletedSchema, "삭제한 기록"), ...problems(401, 403, 404, 429) },
});

const importCsv = createRoute({
  method: "post",
  path: "/observations/import",
  operationId: "importObservations",
  tags,
  summary: "CSV에서 관측 기록 가져오기",
  description: "열: female, male, n, season, environment와 형질 (한국어 머리글 가능). 같은 파일은 한 번만 저장합니다.",
  security,
  middleware: [requireUser],
  request: { query: z.object({ dryRun: flagQuery() }) },
  requestBody: csvBody,
  responses: { 200: jsonContent(ObservationReportSchema, "가져오기 보고서"), ...problems(400, 401, 429) },
});

export const observationRoutes = createBreedingRouter()
  .openapi(create, async (c) => {
    const { observations } = c.get("services").breeding;
    const data = await toTheEnd(c, observations.create(c.get("principal"), c.req.valid("json")));
    return c.json({ success: true as const, data, message: "관측 기록을 등록했습니다" }, 201);
  })
  .openapi(list, async (c) => {
    const query = c.req.valid("query");
    const { observations, total } = await c.get("services").breeding.observations.list(callerOf(c), query);
    return c.json({ success: true as const, data: observations, ...pageOf(query, total) }, 200);
  })
  .openapi(importCsv, async (c) => {
    const { observations } = c.get("services").breeding;
    const limit = BREEDING_LIMITS.importBytes;
    const bytes = await readBytes(c.req.raw, { bodyBytes: limit, inflatedBytes: limit });
    const data = await toTheEnd(c, observations.importCsv(c.get("principal"), bytes, c.req.valid("query")));
    const message = `${data.total}행 중 ${data.accepted}행을 ${data.dryRun ? "가져올 수 있습니다" : "가져왔습니다"}`;
    return c.json({ success: true as const, data, message }, 200);
  })
  .openapi(remove, async (c) => {
    const { observations } = c.get("services").breeding;
    const data = await toTheEnd(c, observations.remove(c.get("principal"), c.req.valid("param").id));
    return c.json({ success: true as const, data, message: "관측 기록을 삭제했습니다" }, 200);
  });
