import { createRoute, z } from "@hono/zod-openapi";
import { requireUser } from "../../auth/bearer.ts";
import { readBytes } from "../../http/body.ts";
import { jsonBody, jsonContent } from "../../http/create-api.ts";
import {
  callerOf,
  createBreedingRouter,
  csvContent,
  csvHeaders,
  flagQuery,
  OPEN_IN_PHASE_1,
  problems,
  toTheEnd,
} from "../http.ts";
import { MAX_PHOTO_PIXELS } from "../images/photo.ts";
import { BREEDING_LIMITS } from "../limits.ts";
import {
  CreateStrainSchema,
  csvBody,
  ImportAnswerSchema,
  StrainAnswerSchema,
  StrainDeletedSchema,
  StrainListQuerySchema,
  StrainListSchema,
  StrainParamsSchema,
  StrainWrittenSchema,
  UpdateStrainSchema,
} from "./schemas.ts";

const tags = ["Strains"];
const security = [{ bearer: [] }];

const list = createRoute({
  method: "get",
  path: "/strains",
  operationId: "listStrains",
  tags,
  summary: "전체 계통 조회",
  security: OPEN_IN_PHASE_1,
  request: { query: StrainListQuerySchema },
  responses: { 200: jsonContent(StrainListSchema, "계통 목록"), ...problems(400, 401, 429) },
});

const exportCsv = createRoute({
  method: "get",
  path: "/strains/export",
  operationId: "exportStrains",
  tags,
  summary: "전체 계통을 CSV로 내보내기",
  description: "UTF-8 (BOM). `allowMissing=true`로 다시 가져오면 같은 데이터가 됩니다.",
  security: OPEN_IN_PHASE_1,
  responses: { 200: csvContent, ...problems(401, 429) },
});

const get = createRoute({
  method: "get",
  path: "/strains/{id}",
  operationId: "getStrain",
  tags,
  summary: "특정 계통 상세 조회",
  security: OPEN_IN_PHASE_1,
  request: { params: StrainParamsSchema },
  responses: { 200: jsonContent(StrainAnswerSchema, "계통"), ...problems(401, 404, 429) },
});

const create = createRoute({
  method: "post",
  path: "/strains",
  operationId: "createStrain",
  tags,
  summary: "계통 등록",
  security,
  middleware: [requireUser],
  request: { body: jsonBody(CreateStrainSchema) },
  responses: { 201: jsonContent(StrainWrittenSchema, "등록한 계통"), ...problems(400, 401, 429) },
});

const update = createRoute({
  method: "put",
  path: "/strains/{id}",
  operationId: "updateStrain",
  tags,
  summary: "계통 수정 (전체 교체)",
  security,
  middleware: [requireUser],
  request: { params: StrainParamsSchema, body: jsonBody(UpdateStrainSchema) },
  responses: { 200: jsonContent(StrainWrittenSchema, "수정한 계통"), ...problems(400, 401, 403, 404, 429) },
});

const remove = createRoute({
  method: "delete",
  path: "/strains/{id}",
  operationId: "deleteStrain",
  tags,
  summary: "계통 삭제",
  description: "관측 기록이 있는 계통은 삭제할 수 없습니다. 이미 만든 예측은 부모의 사본과 함께 남습니다.",
  security,
  middleware: [requireUser],
  request: { params: StrainParamsSchema },
  responses: { 200: jsonContent(StrainDeletedSchema, "삭제한 계통"), ...problems(400, 401, 403, 404, 429) },
});

const importCsv = createRoute({
  method: "post",
  path: "/strains/import",
  operationId: "importStrains",
  tags,
  summary: "CSV에서 계통 가져오기",
  description:
    "영어 또는 한국어 머리글. 이미 있는 계통은 갱신합니다. 값이 빠진 행은 `allowMissing=true`일 때만 받습니다. " +
    `최대 ${BREEDING_LIMITS.importBytes / 1024 / 1024} MiB.`,
  security,
  middleware: [requireUser],
  request: {
    query: z.object({
      allowMissing: flagQuery(),
      dryRun: flagQuery().openapi({ description: "저장하지 않고 보고서만" }),
      source: z.string().trim().min(1).max(100).optional(),
    }),
  },
  requestBody: csvBody,
  responses: { 200: jsonContent(ImportAnswerSchema, "가져오기 보고서"), ...problems(400, 401, 429) },
});

const setPicture = createRoute({
  method: "put",
  path: "/strains/{id}/image",
  operationId: "setStrainImage",
  tags,
  summary: "계통 사진 올리기",
  description:
    `PNG 또는 JPEG, 최대 ${BREEDING_LIMITS.pictureBytes / 1024 / 1024} MiB, ${MAX_PHOTO_PIXELS / 1e6}백만 화소. ` +
    "위치 등 촬영 정보는 저장하지 않습니다.",
  security,
  middleware: [requireUser],
  request: { params: StrainParamsSchema },
  requestBody: {
    required: true,
    content: {
      "image/png": { schema: { type: "string", format: "binary" } },
      "image/jpeg": { schema: { type: "string", format: "binary" } },
    },
  },
  responses: { 200: jsonContent(StrainWrittenSchema, "계통"), ...problems(400, 401, 403, 404, 429) },
});

const removePicture = createRoute({
  method: "delete",
  path: "/strains/{id}/image",
  operationId: "deleteStrainImage",
  tags,
  summary: "올린 사진을 지우고 그린 그림으로 되돌리기",
  security,
  middleware: [requireUser],
  request: { params: StrainParamsSchema },
  responses: { 200: jsonContent(StrainWrittenSchema, "계통"), ...problems(401, 403, 404, 429) },
});

/** `export` and `import` come before `{id}`; no strain can have these names. */
export const strainRoutes = createBreedingRouter()
  .openapi(list, async (c) => {
    const data = await c.get("services").breeding.strains.list(callerOf(c), c.req.valid("query"));
    return c.json({ success: true as const, data, total: data.length }, 200);
  })
  .openapi(exportCsv, async (c) =>
    c.body(await c.get("services").breeding.strains.exportCsv(callerOf(c)), 200, csvHeaders("strains.csv")),
  )
  .openapi(importCsv, async (c) => {
    const { strains } = c.get("services").breeding;
    const bytes = await readBytes(c.req.raw, {
      bodyBytes: BREEDING_LIMITS.importBytes,
      inflatedBytes: BREEDING_LIMITS.importBytes,
    });
    const data = await toTheEnd(c, strains.importCsv(c.get("principal"), bytes, c.req.valid("query")));
    const message = `${data.total}행 중 ${data.accepted}행을 ${data.dryRun ? "가져올 수 있습니다" : "가져왔습니다"}`;
    return c.json({ success: true as const, data, message }, 200);
  })
  .openapi(get, async (c) => {
    const data = await c.get("services").breeding.strains.get(callerOf(c), c.req.valid("param").id);
    return c.json({ success: true as const, data }, 200);
  })
  .openapi(create, async (c) => {
    const { strains } = c.get("services").breeding;
    const data = await toTheEnd(c, strains.create(c.get("principal"), c.req.valid("json")));
    return c.json({ success: true as const, data, message: "계통을 등록했습니다" }, 201);
  })
  .openapi(update, async (c) => {
    const { strains } = c.get("services").breeding;
    const { id } = c.req.valid("param");
    const data = await toTheEnd(c, strains.update(c.get("principal"), id, c.req.valid("json")));
    return c.json({ success: true as const, data, message: "계통을 수정했습니다" }, 200);
  })
  .openapi(remove, async (c) => {
    const { strains } = c.get("services").breeding;
    const data = await toTheEnd(c, strains.remove(c.get("principal"), c.req.valid("param").id));
    return c.json({ success: true as const, data, message: "계통을 삭제했습니다" }, 200);
  })
  .openapi(setPicture, async (c) => {
    const { strains } = c.get("services").breeding;
    const limit = BREEDING_LIMITS.pictureBytes;
    const bytes = await readBytes(c.req.raw, { bodyBytes: limit, inflatedBytes: limit });
    const data = await toTheEnd(c, strains.setPicture(c.get("principal"), c.req.valid("param").id, bytes));
    return c.json({ success: true as const, data, message: "계통 사진을 저장했습니다" }, 200);
  })
  .openapi(removePicture, async (c) => {
    const { strains } = c.get("services").breeding;
    const data = await toTheEnd(c, strains.removePicture(c.get("principal"), c.req.valid("param").id));
    return c.json({ success: true as const, data, message: "계통 사진을 지웠습니다" }, 200);
  });
