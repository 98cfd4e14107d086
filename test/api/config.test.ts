import { exports } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { ConfigReportSchema, ConfigSchemaSchema } from "../../src/training/config/schemas.ts";
import { person } from "../support/api.ts";

let token = "";
beforeAll(async () => {
  token = (await person()).token;
});

const BASE = "https://cultivar.test/api/v1/training";

const getSchema = (query: string, authorization = `Bearer ${token}`) =>
  exports.default.fetch(`${BASE}/config-schema${query}`, { headers: { authorization } });

const send = (body: string, headers: Record<string, string> = {}) =>
  exports.default.fetch(`${BASE}/config/validate`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json", ...headers },
    body,
  });

const report = async (body: unknown) =>
  ConfigReportSchema.strict().parse(await (await send(JSON.stringify(body))).json());

describe("GET /training/config-schema", () => {
  it("answers the contract's example", async ({ expect }) => {
    const response = await getSchema("?framework=timm&task_type=image_classification");
    expect(response.status).toBe(200);
    const body = ConfigSchemaSchema.strict().parse(await response.json());
    expect(body).toMatchObject({ framework: "timm", task_type: "image_classification" });
    expect(body.schema.fields[0]).toMatchObject({
      name: "optimizer.type",
      type: "select",
      label: "Optimizer",
      description: "Optimization algorithm",
      default: "adamw",
    });
    expect(body.schema.fields[0]?.options).toEqual(
      expect.arrayContaining([
        { value: "adam", label: "Adam", description: "Adaptive Moment Estimation" },
        { value: "adamw", label: "AdamW", description: "Adam with weight decay" },
        { value: "sgd", label: "SGD", description: "Stochastic Gradient Descent" },
      ]),
    );
    expect(body.schema.fields[1]).toMatchObject({
      name: "optimizer.learning_rate",
      type: "number",
      label: "Learning Rate",
      description: "Initial learning rate",
      default: 0.001,
      min: 1e-6,
      max: 1.0,
      step: 1e-5,
    });
    expect(Object.keys(body.presets)).toEqual(expect.arrayContaining(["basic", "standard", "aggressive"]));
  });

  it.for(["timm", "ultralytics", "embedded"])(
    "has a schema for %s, with a null task when none is asked for",
    async (framework, { expect }) => {
      const response = await getSchema(`?framework=${framework}`);
      expect(response.status).toBe(200);
      const body = ConfigSchemaSchema.parse(await response.json());
      expect(body).toMatchObject({ framework, task_type: null });
      expect(body.schema.fields.length).toBeGreaterThan(20);
    },
  );

  it.for([
    ["", "framework"],
    ["?task_type=image_classification", "framework"],
    ["?framework=workers-ai", "framework"],
    ["?framework=huggingface", "framework"],
    ["?framework=constructor", "framework"],
    ["?framework=timm&framework=timm", "framework"],
    ["?framework=timm&task_type=nonsense", "task_type"],
  ] as const)("refuses '%s' and names %s", async ([query, field], { expect }) => {
    const response = await getSchema(query);
    expect(response.status).toBe(422);
    expect(await response.json()).toEqual({ detail: expect.any(String), code: "VALIDATION_ERROR", field });
  });

  it("is for users only", async ({ expect }) => {
    const response = await getSchema("?framework=timm", "");
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({ code: "UNAUTHORIZED" });
  });
});

describe("POST /training/config/validate", () => {
  it("accepts every preset that the schema route hands out", async ({ expect }) => {
    for (const framework of ["timm", "ultralytics", "embedded"]) {
      const { presets } = ConfigSchemaSchema.parse(await (await getSchema(`?framework=${framework}`)).json());
      for (const [name, config] of Object.entries(presets)) {
        expect(await report({ framework, config }), name).toMatchObject({
          valid: true,
          errors: [],
          warnings: [],
          config,
        });
      }
    }
  });

  it("answers the normalised configuration, with advice", async ({ expect }) => {
    const config = { optimizer: { type: "SGD", learning_rate: 0.5 } };
    expect(await report({ framework: "ultralytics", task_type: "object_detection", config })).toEqual({
      valid: true,
      errors: [],
      warnings: ["optimizer.learning_rate 0.5 is high: training may diverge above 0.1"],
      suggestions: [],
      config: { optimizer: { type: "sgd", learning_rate: 0.5 } },
    });
  });

  it("takes timm where no framework is named, as job creation does", async ({ expect }) => {
    expect(await report({ config: { optimizer: { type: "adagrad" } } })).toMatchObject({ valid: true });
  });

  it("looks at the job's own rate where the configuration has none", async ({ expect }) => {
    const { warnings } = await report({ framework: "timm", learning_rate: 0.9, config: {} });
    expect(warnings).toEqual([expect.stringMatching(/^learning_rate 0\.9 is high/)]);
  });

  it("reports every error with its dotted field, and 200", async ({ expect }) => {
    const response = await send(
      JSON.stringify({ framework: "timm", config: { optimizer: { learning_rate: 2, lr: 1 }, scheduler: [] } }),
    );
    expect(response.status).toBe(200);
    expect(ConfigReportSchema.parse(await response.json())).toEqual({
      valid: false,
      errors: [
        { field: "config.optimizer.learning_rate", message: "must be a number above 0 and at most 1" },
        { field: "config.optimizer.lr", message: "is not a known setting" },
        { field: "config.scheduler", message: "must be an object" },
      ],
      warnings: [],
      suggestions: [],
      config: null,
    });
  });

  it.for(['{"config": {"__proto__": {"a": 1}}}', '{"config": {"optimizer": {"constructor": 1}}}'])(
    "refuses the special name in %s",
    async (body, { expect }) => {
      const answer = ConfigReportSchema.parse(await (await send(body)).json());
      expect(answer).toMatchObject({ valid: false, config: null });
      expect(answer.errors).toHaveLength(1);
      expect(({} as Record<string, unknown>).a).toBeUndefined();
    },
  );

  it("survives deep nesting", async ({ expect }) => {
    const nested = (levels: number) => `${"[".repeat(levels)}${"]".repeat(levels)}`;
    const answer = await send(`{"config": {"optimizer": {"betas": ${nested(50)}}}}`);
    expect(answer.status).toBe(200);
    expect(ConfigReportSchema.parse(await answer.json()).errors[0]?.field).toBe("config.optimizer.betas");
    expect((await send(`{"config": {"optimizer": {"betas": ${nested(20_000)}}}}`)).status).toBe(422);
  });

  it.for([
    ['{"framework": "timm"}', "config"],
    ['{"framework": "workers-ai", "config": {}}', "framework"],
    ['{"framework": null, "config": {}}', "framework"],
    ['{"config": {}, "task_type": "nonsense"}', "task_type"],
    ['{"config": {}, "learning_rate": 0}', "learning_rate"],
    ['{"config": {}, "learning_rate": "0.1"}', "learning_rate"],
    ['{"config": {}, "advanced_config": {}}', "advanced_config"],
    ["[]", null],
    ["null", null],
  ] as const)("refuses the request %s", async ([body, field], { expect }) => {
    const response = await send(body);
    expect(response.status).toBe(422);
    expect(await response.json()).toEqual({ detail: expect.any(String), code: "VALIDATION_ERROR", field });
  });

  it("refuses malformed JSON, other content types and anonymous callers", async ({ expect }) => {
    expect((await send("{")).status).toBe(400);
    expect((await send("config=1", { "content-type": "application/x-www-form-urlencoded" })).status).toBe(415);
    expect((await send("{}", { authorization: "" })).status).toBe(401);
  });
});
