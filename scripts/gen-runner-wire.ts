/**
 * Writes the JSON Schema of the runner protocol for the Python runner: `node scripts/gen-runner-wire.ts`. The Python side
 * makes its types of it: `python -m tests.wire_models` in `runner/`. Tests on both sides fail when one of the files is old.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { DEFAULT_LIMITS, DEFAULT_TIMERS, LimitsSchema, TimersSchema } from "../src/training/runners/protocol.ts";
import * as wire from "../src/training/runners/schemas.ts";

export const WIRE_FILE = join(import.meta.dirname, "../runner/cultivar_runner/wire_schema.json");

/** A runner understands a server that does not send all of them: each has its default. */
const withDefaults = <Shape extends z.ZodRawShape>(schema: z.ZodObject<Shape>, defaults: Record<string, unknown>) =>
  z.object(
    Object.fromEntries(
      Object.entries(schema.shape).map(([name, field]) => [
        name,
        z.optional(field as z.ZodType).meta({ default: defaults[name] }),
      ]),
    ),
  );
const Timers = withDefaults(TimersSchema, DEFAULT_TIMERS);
const Limits = withDefaults(LimitsSchema, DEFAULT_LIMITS);
const [Offer, Drain] = wire.ClaimResponseSchema.options;

/** Names of the Python classes. What a runner sends is written as the server reads it, with what may be left out. */
const requests = {
  RegisterRequest: wire.RegisterRequestSchema,
  ClaimRequest: wire.ClaimRequestSchema,
  AcceptRequest: wire.AcceptRequestSchema,
  HeartbeatRequest: wire.HeartbeatRequestSchema,
  OfflineRequest: wire.OfflineRequestSchema,
  ArtifactRequest: wire.ArtifactRequestSchema,
};
const answers = {
  Timers,
  Limits,
  RegistrationToken: wire.RegistrationTokenSchema,
  RegisterAnswer: wire.RegisterResponseSchema.extend({ timers: Timers, limits: Limits }),
  Offer,
  Drain,
  AcceptAnswer: wire.AcceptResponseSchema.extend({ timers: Timers, limits: Limits }),
  HeartbeatAnswer: wire.HeartbeatResponseSchema,
  CallbackAnswer: wire.CallbackResponseSchema,
  LogChunkAnswer: wire.LogChunkResponseSchema,
  DatasetManifest: wire.DatasetManifestSchema,
  ArtifactCreated: wire.ArtifactCreatedSchema,
  ArtifactState: wire.ArtifactStateSchema,
};

type Node = Record<string, unknown>;

/**
 * Takes out what says nothing to a reader of the Python types (the bounds of JavaScript's integers, OpenAPI's own notes, limits
 * of single items, which the server checks), and writes "or null" in the short form.
 */
function tidy(node: Node): void {
  if (node.maximum === Number.MAX_SAFE_INTEGER) delete node.maximum;
  if (node.minimum === Number.MIN_SAFE_INTEGER) delete node.minimum;
  if (node.additionalProperties === false) delete node.additionalProperties;
  for (const key of ["$schema", "id", "example", "propertyNames"]) delete node[key];
  for (const key of ["items", "additionalProperties"]) {
    const item = node[key] as Node | undefined;
    if (item !== undefined && typeof item.type === "string" && !["object", "array"].includes(item.type)) {
      node[key] = "enum" in item ? item : { type: item.type };
    }
  }
  if (node.prefixItems !== undefined) {
    // The only tuples are ranges of numbers.
    node.items = { type: "integer" };
    for (const key of ["prefixItems", "minItems", "maxItems"]) delete node[key];
  }
  const options = Array.isArray(node.anyOf) ? (node.anyOf as Node[]) : [];
  const [value, nothing] = options;
  if (options.length === 2 && nothing?.type === "null" && typeof value?.type === "string" && !("enum" in value)) {
    delete node.anyOf;
    Object.assign(node, value, { type: [value.type, "null"] });
  }
}

/** In answers a value that may be null may be missing: an older server does not know it. */
function letNullsBeMissing(node: Node): void {
  const properties = (node.properties ?? {}) as Record<string, Node>;
  if (Array.isArray(node.required)) {
    node.required = node.required.filter((name: string) => {
      const { type, anyOf } = properties[name] ?? {};
      const isNull = (option: unknown) => (option as Node).type === "null";
      return !(Array.isArray(type) && type.includes("null")) && !(Array.isArray(anyOf) && anyOf.some(isNull));
    });
  }
  for (const child of Object.values(node)) {
    if (typeof child === "object" && child !== null && !Array.isArray(child)) letNullsBeMissing(child as Node);
  }
}

/** The document that belongs into `WIRE_FILE`. */
export function wireSchema(): string {
  const schemaOf = (io: "input" | "output") => (schema: z.ZodType) =>
    z.toJSONSchema(schema, {
      io,
      reused: "inline",
      target: "draft-2020-12",
      unrepresentable: "any",
      override: ({ jsonSchema }) => tidy(jsonSchema as Node),
    });
  const definitions: Record<string, unknown> = {};
  for (const [name, schema] of Object.entries(requests)) definitions[name] = schemaOf("input")(schema);
  for (const [name, schema] of Object.entries(answers)) {
    const definition = schemaOf("output")(schema) as Node;
    letNullsBeMissing(definition);
    definitions[name] = definition;
  }
  for (const definition of Object.values(definitions)) delete (definition as Node).$schema;
  for (const name of ["RegisterAnswer", "AcceptAnswer"]) {
    const { properties } = definitions[name] as { properties: Node };
    properties.timers = { $ref: "#/$defs/Timers" };
    properties.limits = { $ref: "#/$defs/Limits" };
  }
  return `${JSON.stringify({ $schema: "https://json-schema.org/draft/2020-12/schema", $defs: definitions }, null, 2)}\n`;
}

if (process.argv[1] === import.meta.filename) {
  const made = wireSchema();
  let old = "";
  try {
    old = readFileSync(WIRE_FILE, "utf8");
  } catch {
    // The first time.
  }
  if (made !== old) writeFileSync(WIRE_FILE, made);
  console.log(made === old ? "up to date" : `wrote ${WIRE_FILE}`);
}
