import { createRoute, z } from "@hono/zod-openapi";
import { serveContent } from "../../http/content.ts";
import { createRouter, jsonBody, jsonContent, problems } from "../../http/create-api.ts";
import { keyHeader } from "../idempotency.ts";
import { DATASET_FORMATS } from "./formats/types.ts";
import {
  ChangeDatasetSchema,
  DatasetFileListSchema,
  DatasetFileParamsSchema,
  DatasetFilesQuerySchema,
  DatasetListQuerySchema,
  DatasetListSchema,
  DatasetParamsSchema,
  DatasetSchema,
} from "./schemas.ts";
import { uploadRoutes } from "./uploads/routes.ts";

const tags = ["Datasets"];
const security = [{ bearer: [] }];

/**
 * The form is documented here and not validated by the framework, which would read the whole body into memory; the service
 * reads it as a stream.
 */
const create = createRoute({
  method: "post",
  path: "/datasets",
  operationId: "createDataset",
  tags,
  summary: "Create a dataset from one zip or from loose files",
  description:
    "Send exactly one file whose name ends in `.zip`, or any number of files whose names carry their folders " +
    "(`train/cat/1.png`). Fields may come in any order; with the fields first, a refusal comes before the files are stored.",
  security,
  request: { headers: keyHeader },
  requestBody: {
    required: true,
    content: {
      "multipart/form-data": {
        schema: {
          type: "object",
          required: ["name", "format", "files"],
          properties: {
            name: { type: "string", minLength: 1, maxLength: 200, example: "My Dataset" },
            description: { type: "string", maxLength: 10_000, example: "Description here" },
            format: { type: "string", enum: [...DATASET_FORMATS] },
            visibility: { type: "string", enum: ["private", "public"], default: "private" },
            project_id: { type: "integer", description: "Absent: your default project", example: 2 },
            files: { type: "array", items: { type: "string", format: "binary" } },
          },
        },
      },
    },
  },
  responses: {
    201: jsonContent(DatasetSchema, "The dataset"),
    ...problems(400, 401, 403, 404, 413, 415, 422),
  },
});

const list = createRoute({
  method: "get",
  path: "/datasets",
  operationId: "listDatasets",
  tags,
  summary: "Datasets of the caller's projects and public ones, newest first",
  security,
  request: { query: DatasetListQuerySchema },
  responses: { 200: jsonContent(DatasetListSchema, "One page"), ...problems(401, 422) },
});

const get = createRoute({
  method: "get",
  path: "/datasets/{dataset_id}",
  operationId: "getDataset",
  tags,
  summary: "One dataset with its classes and warnings",
  security,
  request: { params: DatasetParamsSchema },
  responses: { 200: jsonContent(DatasetSchema, "The dataset"), ...problems(401, 404, 422) },
});

const change = createRoute({
  method: "patch",
  path: "/datasets/{dataset_id}",
  operationId: "changeDataset",
  tags,
  summary: "Change name, description or visibility",
  security,
  request: { params: DatasetParamsSchema, body: jsonBody(ChangeDatasetSchema) },
  responses: { 200: jsonContent(DatasetSchema, "The dataset"), ...problems(400, 401, 403, 404, 415, 422) },
});

const remove = createRoute({
  method: "delete",
  path: "/datasets/{dataset_id}",
  operationId: "deleteDataset",
  tags,
  summary: "Delete a dataset with all its files; not while a queued or running job uses it",
  security,
  request: { params: DatasetParamsSchema },
  responses: { 204: { description: "Deleted" }, ...problems(401, 403, 404, 409, 422) },
});

const files = createRoute({
  method: "get",
  path: "/datasets/{dataset_id}/files",
  operationId: "listDatasetFiles",
  tags,
  summary: "Files of a dataset in the order of their paths",
  security,
  request: { params: DatasetParamsSchema, query: DatasetFilesQuerySchema },
  responses: { 200: jsonContent(DatasetFileListSchema, "One page"), ...problems(401, 404, 422) },
});

const bytes = (description: string) => ({
  description,
  content: {
    "application/octet-stream": { schema: z.string().openapi({ format: "binary" }) },
    "image/*": { schema: z.string().openapi({ format: "binary" }) },
  },
});

const file = createRoute({
  method: "get",
  path: "/datasets/{dataset_id}/files/{file_id}",
  operationId: "getDatasetFile",
  tags,
  summary: "One file, whole or a range of it",
  description:
    "`Range` (one range), `If-Range` and `If-None-Match` are followed; the `ETag` is the SHA-256 of the content. Pictures " +
    "have their own content type, everything else is an attachment.",
  security,
  request: { params: DatasetFileParamsSchema },
  responses: {
    200: bytes("The file"),
    206: bytes("The range"),
    304: { description: "You have it" },
    ...problems(401, 404, 416, 422, 503),
  },
});

export const datasetRoutes = createRouter()
  // First: `uploads` is no dataset id.
  .route("/", uploadRoutes)
  .openapi(create, async (c) => {
    const key = c.req.valid("header")["idempotency-key"];
    const created = c.get("services").datasets.create(c.get("principal"), c.req.raw, key);
    // A client that goes away must not end the cleaning up after it.
    c.executionCtx.waitUntil(created.catch(() => undefined));
    return c.json(await created, 201);
  })
  .openapi(list, async (c) => {
    const { datasets } = c.get("services");
    return c.json(await datasets.list(c.get("principal"), c.req.valid("query")), 200);
  })
  .openapi(get, async (c) => {
    const { datasets } = c.get("services");
    return c.json(await datasets.get(c.get("principal"), c.req.valid("param").dataset_id), 200);
  })
  .openapi(change, async (c) => {
    const { datasets } = c.get("services");
    return c.json(await datasets.change(c.get("principal"), c.req.valid("param").dataset_id, c.req.valid("json")), 200);
  })
  .openapi(remove, async (c) => {
    const { datasets } = c.get("services");
    const removed = datasets.delete(c.get("principal"), c.req.valid("param").dataset_id, c.get("requestId"));
    // A client that goes away must not end the removing of objects.
    c.executionCtx.waitUntil(removed.catch(() => undefined));
    await removed;
    return c.body(null, 204);
  })
  .openapi(files, async (c) => {
    const { datasets } = c.get("services");
    return c.json(await datasets.files(c.get("principal"), c.req.valid("param").dataset_id, c.req.valid("query")), 200);
  })
  .openapi(file, async (c) => {
    const { dataset_id, file_id } = c.req.valid("param");
    return serveContent(
      c.req.raw,
      await c.get("services").datasets.readableFile(c.get("principal"), dataset_id, file_id),
    );
  });
