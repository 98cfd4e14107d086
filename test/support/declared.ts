import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import { PREFIX as BREEDING_PREFIX, createBreedingApi } from "../../src/breeding/api.ts";
import { createTrainingApi, PREFIX } from "../../src/training/api.ts";

/**
 * Compares answers with what the routes declare. The schemas are those of the route objects, from which the OpenAPI document
 * is made; an answer with a status or a field that no route declares is an error in the document.
 */

type Declared = { method: string; pattern: RegExp; name: string; responses: Record<string, unknown> };

const MediaSchema = z.object({
  content: z.record(z.string(), z.object({ schema: z.unknown().optional() })).optional(),
});

/** The APIs whose answers are compared. */
const APIS = [
  { prefix: PREFIX, api: createTrainingApi() },
  { prefix: BREEDING_PREFIX, api: createBreedingApi() },
];

const routes: Declared[] = APIS.flatMap(({ prefix, api }) =>
  api.openAPIRegistry.definitions.flatMap((definition) =>
    definition.type !== "route"
      ? []
      : [
          {
            method: definition.route.method.toUpperCase(),
            name: `${definition.route.method.toUpperCase()} ${prefix}${definition.route.path}`,
            pattern: new RegExp(`^${prefix}${definition.route.path.replace(/\{\w+\}/g, "[^/]+")}$`),
            responses: definition.route.responses,
          },
        ],
  ),
);

/** Routes with fixed words come before those with a parameter in their place, as in the router. */
const routeOf = (method: string, path: string) =>
  routes
    .filter((route) => route.method === method && route.pattern.test(path))
    .sort((a, b) => a.name.split("{").length - b.name.split("{").length)[0];

const isSchema = (value: unknown): value is z.ZodType => value instanceof z.ZodType;

/**
 * What is wrong with an answer, in words; null when it is as declared, or when no route has the path.
 * @param body parsed JSON, or text for everything else
 */
export function undeclared(
  method: string,
  path: string,
  answer: { status: number; body: unknown; contentType: string | null },
): string | null {
  const route = routeOf(method, path);
  if (route === undefined) return null;
  const { status, body } = answer;
  const response = MediaSchema.safeParse(route.responses[String(status)]);
  if (route.responses[String(status)] === undefined) {
    return `${route.name} does not declare ${status}: ${JSON.stringify(body).slice(0, 300)}`;
  }
  const content = response.success ? response.data.content : undefined;
  const type = answer.contentType?.split(";")[0] ?? null;
  if (content === undefined) {
    return body === "" ? null : `${route.name} declares no body for ${status}`;
  }
  if (type === null || !(type in content)) {
    // Stored files keep the type that was found in their bytes; they are declared as bytes.
    return "application/octet-stream" in content || "*/*" in content
      ? null
      : `${route.name} declares ${Object.keys(content).join(", ")} for ${status}, not ${type}`;
  }
  const schema = content[type]?.schema;
  if (type !== "application/json" || !isSchema(schema)) return null;
  // zod drops this name from every record, which is right for inputs.
  const plain: unknown = JSON.parse(JSON.stringify(body), (key, value) => (key === "__proto__" ? undefined : value));
  const parsed = schema.safeParse(plain);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    return `${route.name} ${status}: ${issue?.path.join(".")} ${issue?.message}`;
  }
  // Objects drop what they do not know: a difference is a field that is not declared.
  return status >= 400 || isDeepStrictEqual(parsed.data, plain)
    ? null
    : `${route.name} ${status} has fields that are not declared: ${JSON.stringify(body).slice(0, 500)}`;
}
