import { createRoute } from "@hono/zod-openapi";
import { createRouter, jsonBody, jsonContent, problems } from "../../../http/create-api.ts";
import { idempotencyKey, keyHeader } from "../../idempotency.ts";
import { DatasetSchema } from "../schemas.ts";
import {
  CreateUploadSchema,
  PartHeadersSchema,
  PartParamsSchema,
  PartSchema,
  UploadListSchema,
  UploadParamsSchema,
  UploadSchema,
} from "./schemas.ts";

const tags = ["Datasets"];
const security = [{ bearer: [] }];

const begin = createRoute({
  method: "post",
  path: "/datasets/uploads",
  operationId: "beginDatasetUpload",
  tags,
  summary: "Begin an upload of a zip in parts, for what one request cannot hold",
  description:
    "Cut the zip into parts of `part_size` bytes, the last one shorter, send each with `PUT …/parts/{n}` in any order, several " +
    "at a time if you like, then `POST …/complete`. After a failure ask for the state and go on with what is missing.",
  security,
  request: { headers: keyHeader, body: jsonBody(CreateUploadSchema) },
  responses: { 201: jsonContent(UploadSchema, "The upload"), ...problems(400, 401, 403, 404, 409, 415, 422) },
});

const list = createRoute({
  method: "get",
  path: "/datasets/uploads",
  operationId: "listDatasetUploads",
  tags,
  summary: "The caller's uploads that have become no dataset yet, the last touched first",
  security,
  responses: { 200: jsonContent(UploadListSchema, "The uploads"), ...problems(401) },
});

const putPart = createRoute({
  method: "put",
  path: "/datasets/uploads/{upload_id}/parts/{n}",
  operationId: "putDatasetUploadPart",
  tags,
  summary: "Send one part; the same part again replaces it",
  security,
  request: { params: PartParamsSchema, headers: PartHeadersSchema },
  requestBody: {
    required: true,
    content: { "application/octet-stream": { schema: { type: "string", format: "binary" } } },
  },
  responses: { 200: jsonContent(PartSchema, "Stored"), ...problems(401, 403, 404, 409, 422, 503) },
});

const state = createRoute({
  method: "get",
  path: "/datasets/uploads/{upload_id}",
  operationId: "getDatasetUpload",
  tags,
  summary: "State of an upload and the parts that arrived",
  security,
  request: { params: UploadParamsSchema },
  responses: { 200: jsonContent(UploadSchema, "The upload"), ...problems(401, 404, 422) },
});

const complete = createRoute({
  method: "post",
  path: "/datasets/uploads/{upload_id}/complete",
  operationId: "completeDatasetUpload",
  tags,
  summary: "Make the dataset of the parts; repeated, it answers the same dataset",
  security,
  request: { params: UploadParamsSchema },
  responses: { 200: jsonContent(DatasetSchema, "The dataset"), ...problems(401, 403, 404, 422, 503) },
});

const remove = createRoute({
  method: "delete",
  path: "/datasets/uploads/{upload_id}",
  operationId: "deleteDatasetUpload",
  tags,
  summary: "Give an upload up",
  security,
  request: { params: UploadParamsSchema },
  responses: { 204: { description: "Gone" }, ...problems(401, 403, 404, 409, 422) },
});

export const uploadRoutes = createRouter()
  .openapi(begin, async (c) => {
    const { uploads } = c.get("services").datasets;
    const input = c.req.valid("json");
    const key = await idempotencyKey(c.req.valid("header")["idempotency-key"], "beginDatasetUpload", input);
    return c.json(await uploads.begin(c.get("principal"), input, key), 201);
  })
  .openapi(list, async (c) => {
    const { uploads } = c.get("services").datasets;
    return c.json(await uploads.list(c.get("principal")), 200);
  })
  .openapi(putPart, async (c) => {
    const { upload_id, n } = c.req.valid("param");
    const { uploads } = c.get("services").datasets;
    const sha256 = c.req.valid("header")["x-part-sha256"] ?? null;
    return c.json(await uploads.putPart(c.get("principal"), upload_id, n, c.req.raw, sha256), 200);
  })
  .openapi(state, async (c) => {
    const { uploads } = c.get("services").datasets;
    return c.json(await uploads.state(c.get("principal"), c.req.valid("param").upload_id), 200);
  })
  .openapi(complete, async (c) => {
    const { uploads } = c.get("services").datasets;
    const completed = uploads.complete(c.get("principal"), c.req.valid("param").upload_id);
    // A client that goes away finds the dataset finished when it asks again.
    c.executionCtx.waitUntil(completed.catch(() => undefined));
    return c.json(await completed, 200);
  })
  .openapi(remove, async (c) => {
    const { uploads } = c.get("services").datasets;
    const removed = uploads.remove(c.get("principal"), c.req.valid("param").upload_id);
    c.executionCtx.waitUntil(removed.catch(() => undefined));
    await removed;
    return c.body(null, 204);
  });
