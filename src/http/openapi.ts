import type { OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "./create-api.ts";

type DocumentInfo = { title: string; version: string; description: string };

/** Credentials of the platform, by the names that routes use in their `security`. */
const SECURITY_SCHEMES = {
  bearer: { type: "http", scheme: "bearer", bearerFormat: "JWT", description: "Access token of POST /auth/login" },
  registrationToken: { type: "http", scheme: "bearer", description: "Registration token of POST /runners/tokens" },
  runnerToken: { type: "http", scheme: "bearer", description: "Token of a registered runner" },
  jobToken: { type: "http", scheme: "bearer", description: "Token of one attempt of one job" },
  internalSecret: { type: "apiKey", in: "header", name: "X-Internal-Auth", description: "Callback secret" },
} as const;

/**
 * Adds `/openapi.json` to an API: its OpenAPI 3.1 document with the full paths, made once per isolate.
 * @param prefix where the API is mounted, for example `/api/v1`
 */
export function serveDocument(
  api: OpenAPIHono<AppEnv>,
  prefix: string,
  info: DocumentInfo,
  schemes: (keyof typeof SECURITY_SCHEMES)[],
): void {
  for (const name of schemes) api.openAPIRegistry.registerComponent("securitySchemes", name, SECURITY_SCHEMES[name]);
  let document: unknown;
  api.get("/openapi.json", (c) => {
    if (document === undefined) {
      const { paths, ...rest } = api.getOpenAPI31Document({ openapi: "3.1.0", info, servers: [{ url: "/" }] });
      const full = Object.entries(paths ?? {}).map(([path, item]) => [prefix + path, item]);
      document = { ...rest, paths: Object.fromEntries(full) };
    }
    c.header("cache-control", "public, max-age=300");
    return c.json(document as Record<string, unknown>, 200);
  });
}
