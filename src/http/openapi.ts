import type { OpenAPIHono, RouteConfig } from "@hono/zod-openapi";
import { type AppEnv, problems } from "./create-api.ts";

type DocumentInfo = { title: string; version: string; description: string };
type DocumentTag = { name: string; description: string };

/** Credentials of the platform, by the names that routes use in their `security`. */
const SECURITY_SCHEMES = {
  bearer: {
    type: "http",
    scheme: "bearer",
    description:
      "Access token of POST /api/v1/auth/login, or a personal API token (`cvp_…`) of POST /api/v1/auth/tokens",
  },
  registrationToken: { type: "http", scheme: "bearer", description: "Registration token of POST /runners/tokens" },
  runnerToken: { type: "http", scheme: "bearer", description: "Token of a registered runner" },
  jobToken: { type: "http", scheme: "bearer", description: "Token of one attempt of one job" },
  eventTicket: {
    type: "apiKey",
    in: "query",
    name: "ticket",
    description: "Ticket of POST /training/jobs/{job_id}/events/ticket, good for one stream",
  },
  internalSecret: { type: "apiKey", in: "header", name: "X-Internal-Auth", description: "Callback secret" },
} as const;

/** Errors that come from how a route is made rather than from what it does. */
function commonErrors({ request, requestBody, security }: RouteConfig & { requestBody?: unknown }): number[] {
  const hasJson = request?.body?.content?.["application/json"] !== undefined;
  const takesInput =
    hasJson || requestBody !== undefined || request?.params !== undefined || request?.query !== undefined;
  return [
    ...(security !== undefined && security.length > 0 ? [401] : []),
    ...(takesInput ? [422] : []),
    ...(hasJson ? [400, 413, 415] : []),
    500,
  ];
}

/**
 * Completes what the routes of an API declare, so that no route can forget an error that its guards, body limits or
 * validation answer. To be called once all routes are mounted.
 */
export function declareCommonErrors(api: OpenAPIHono<AppEnv>): void {
  for (const definition of api.openAPIRegistry.definitions) {
    if (definition.type !== "route") continue;
    const { route } = definition;
    const declared = { ...problems(...commonErrors(route)), ...route.responses };
    route.responses = Object.fromEntries(Object.entries(declared).sort(([a], [b]) => a.localeCompare(b)));
  }
}

/**
 * A described reference that may be null comes out of the generator as "the schema and also an object or null", which null
 * does not satisfy; it becomes "the schema or null".
 * @param node any part of a document
 */
export function withNullableReferences(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(withNullableReferences);
  if (node === null || typeof node !== "object") return node;
  const { allOf, ...others } = node as { allOf?: unknown };
  const [reference, addition, ...more] = Array.isArray(allOf) ? (allOf as Record<string, unknown>[]) : [];
  const types = addition?.type;
  if (reference?.$ref !== undefined && more.length === 0 && Array.isArray(types) && types.includes("null")) {
    const { type: _, ...described } = addition as Record<string, unknown>;
    return { ...others, ...described, anyOf: [reference, { type: "null" }] };
  }
  return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, withNullableReferences(value)]));
}

/**
 * Adds `/openapi.json` to an API: its OpenAPI 3.1 document with the full paths, made once per isolate.
 * @param prefix where the API is mounted, for example `/api/v1`
 * @param tags the groups of its operations, in the order in which a reader should meet them
 */
export function serveDocument(
  api: OpenAPIHono<AppEnv>,
  prefix: string,
  info: DocumentInfo,
  schemes: (keyof typeof SECURITY_SCHEMES)[],
  tags: DocumentTag[] = [],
): void {
  for (const name of schemes) api.openAPIRegistry.registerComponent("securitySchemes", name, SECURITY_SCHEMES[name]);
  let document: unknown;
  api.get("/openapi.json", (c) => {
    if (document === undefined) {
      const { paths, ...rest } = api.getOpenAPI31Document({ openapi: "3.1.0", info, tags, servers: [{ url: "/" }] });
      const full = Object.entries(paths ?? {}).map(([path, item]) => [prefix + path, item]);
      document = withNullableReferences({ ...rest, paths: Object.fromEntries(full) });
    }
    c.header("cache-control", "public, max-age=300");
    return c.json(document as Record<string, unknown>, 200);
  });
}
