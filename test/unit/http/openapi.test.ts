import { createConfig, lintFromString } from "@redocly/openapi-core";
import { describe, it } from "vitest";
import { z } from "zod";
import { PREFIX as BREEDING_PREFIX, createBreedingApi } from "../../../src/breeding/api.ts";
import { createTrainingApi, PREFIX } from "../../../src/training/api.ts";

/** The documents as clients get them. The Worker's bindings are not needed to make them. */
const APIS = [
  { name: "training", prefix: PREFIX, create: createTrainingApi },
  { name: "breeding", prefix: BREEDING_PREFIX, create: createBreedingApi },
];

const OperationSchema = z.looseObject({
  operationId: z.string(),
  summary: z.string().min(5),
  tags: z.array(z.string()).min(1),
  security: z.array(z.record(z.string(), z.array(z.string()))).optional(),
  requestBody: z
    .looseObject({ content: z.record(z.string(), z.looseObject({ schema: z.looseObject({}) })) })
    .optional(),
  responses: z.record(z.string(), z.looseObject({ description: z.string(), content: z.unknown().optional() })),
  parameters: z.array(z.looseObject({ name: z.string(), in: z.string() })).optional(),
});
const DocumentSchema = z.looseObject({
  openapi: z.literal("3.1.0"),
  paths: z.record(z.string(), z.record(z.string(), OperationSchema)),
  components: z.looseObject({
    schemas: z.record(z.string(), z.looseObject({})),
    securitySchemes: z.record(z.string(), z.looseObject({})),
  }),
});

async function documentOf({ create }: (typeof APIS)[number]) {
  const response = await create().request("/openapi.json");
  const text = await response.text();
  return { text, document: DocumentSchema.parse(JSON.parse(text)) };
}
const operations = (document: z.infer<typeof DocumentSchema>) =>
  Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ at: `${method.toUpperCase()} ${path}`, path, operation })),
  );

describe.each(APIS)("the OpenAPI document of the $name API", (api) => {
  it("lets null stand wherever it says so", async ({ expect }) => {
    const { document } = await documentOf(api);
    const contradictions: string[] = [];
    const walk = (node: unknown, at: string): void => {
      if (node === null || typeof node !== "object") return;
      const { allOf } = node as { allOf?: { type?: unknown }[] };
      // Null has to satisfy every member, and a plain reference is none that it satisfies.
      if (allOf?.some(({ type }) => Array.isArray(type) && type.includes("null"))) contradictions.push(at);
      for (const [key, value] of Object.entries(node)) walk(value, `${at}/${key}`);
    };
    walk(document, "");
    expect(contradictions).toEqual([]);
  });

  it("is lint-clean", async ({ expect }) => {
    const { text } = await documentOf(api);
    const config = await createConfig({
      extends: ["recommended"],
      rules: {
        // The project has no licence file to point to, and the server is where the document came from.
        "info-license": "off",
        "info-license-strict": "off",
        "no-server-example.com": "off",
        // A dataset's id is never "uploads", and an upload's id never "files".
        "no-ambiguous-paths": "off",
        "no-unused-components": "error",
        "operation-operationId-unique": "error",
        "operation-4xx-response": "error",
        "no-invalid-schema-examples": "error",
        "no-invalid-media-type-examples": "error",
        "no-invalid-parameter-examples": "error",
        "operation-tag-defined": "error",
        "tag-description": "error",
      },
    });
    const problems = await lintFromString({ source: text, absoluteRef: "/openapi.json", config });
    expect(
      problems.map(({ ruleId, message, location }) => `${ruleId}: ${message} at ${location[0]?.pointer ?? "?"}`),
    ).toEqual([]);
  });

  it("describes every operation: id, summary, tag, credentials, errors", async ({ expect }) => {
    const { document } = await documentOf(api);
    const all = operations(document);
    expect(all.length).toBeGreaterThan(20);
    const ids = all.map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { at, path, operation } of all) {
      expect(path.startsWith(`${api.prefix}/`), at).toBe(true);
      expect(operation.operationId, at).toMatch(/^[a-z][A-Za-z]+$/);
      const statuses = Object.keys(operation.responses);
      expect(
        statuses.some((status) => /^2/.test(status)),
        at,
      ).toBe(true);
      expect(statuses, at).toContain("500");
      expect(operation.security, at).toBeDefined();
      const credentials = operation.security ?? [];
      if (credentials.length > 0) expect(statuses, at).toContain("401");
      if (api.name === "breeding") {
        // Phase 2 counts every request; there, all that is wrong with an input is 400.
        expect(statuses, at).toContain("429");
        const takesInput = operation.requestBody ?? operation.parameters?.find((one) => one.in === "query");
        if (takesInput !== undefined) expect(statuses, at).toContain("400");
      }
      for (const name of credentials.flatMap((one) => Object.keys(one))) {
        expect(document.components.securitySchemes, at).toHaveProperty(name);
      }
      const named = (operation.parameters ?? []).filter((one) => one.in === "path").map((one) => one.name);
      expect(named.sort(), at).toEqual([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort());
    }
  });

  it("has an example for every JSON body that is sent", async ({ expect }) => {
    const { document } = await documentOf(api);
    for (const { at, operation } of operations(document)) {
      for (const [type, { schema, example }] of Object.entries(operation.requestBody?.content ?? {})) {
        // A machine's calls are described by the runner protocol.
        if (type !== "application/json" || operation.tags.includes("Runners")) continue;
        const name = typeof schema.$ref === "string" ? (schema.$ref.split("/").at(-1) ?? "") : "";
        const target = document.components.schemas[name] ?? schema;
        const variants = Array.isArray(target.anyOf) ? target.anyOf.length : 0;
        expect(example !== undefined || target.example !== undefined || variants > 0, at).toBe(true);
      }
    }
  });

  it("says which forms take files", async ({ expect }) => {
    const { document } = await documentOf(api);
    const forms = operations(document).filter(({ operation }) => operation.requestBody?.content["multipart/form-data"]);
    for (const { at, operation } of forms) {
      const schema = JSON.stringify(operation.requestBody?.content["multipart/form-data"]?.schema);
      expect(schema, at).toContain('"format":"binary"');
    }
    if (api.name === "training") {
      expect(forms.map(({ at }) => at)).toEqual(
        expect.arrayContaining([`POST ${PREFIX}/datasets`, `POST ${PREFIX}/test-inference`]),
      );
    }
  });

  it("gives nothing away: no secret, no real host, no account", async ({ expect }) => {
    const { text } = await documentOf(api);
    expect(text).not.toMatch(/railway\.app|cloudflarestorage|workers\.dev|account_id|[0-9a-f]{32}@/i);
    expect(text).not.toMatch(/test-only|INTERNAL_SECRET=|eyJ[\w-]{30,}\./);
  });
});
