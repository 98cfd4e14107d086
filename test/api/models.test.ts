import { exports } from "cloudflare:workers";
import { beforeAll, describe, it } from "vitest";
import { ModelListSchema } from "../../src/training/models/schemas.ts";
import { person } from "../support/api.ts";

let token = "";
beforeAll(async () => {
  token = (await person()).token;
});

const get = (query: string, authorization = `Bearer ${token}`) =>
  exports.default.fetch(`https://cultivar.test/api/v1/models/list${query}`, { headers: { authorization } });

const listOf = async (response: Response) => ModelListSchema.parse(await response.json());

describe("GET /models/list", () => {
  it("answers the whole catalogue in the contract's form", async ({ expect }) => {
    const response = await get("");
    expect(response.status).toBe(200);
    const body: unknown = await response.json();
    const { models, total } = ModelListSchema.strict().parse(body);
    expect(total).toBe(models.length);
    expect(models.length).toBeGreaterThan(40);
    const resnet = models.find((model) => model.framework === "timm" && model.model_name === "resnet50");
    expect(resnet).toMatchObject({
      task_types: ["image_classification"],
      default_image_size: 224,
      parameters: "25.6M",
      pretrained: true,
      description: expect.stringContaining("ResNet-50 architecture"),
      trainable: true,
    });
  });

  it("filters by framework and by task, alone and together", async ({ expect }) => {
    const embedded = await listOf(await get("?framework=embedded"));
    expect(embedded.models.map((model) => model.model_name)).toEqual(["cnn_small"]);
    expect(embedded.total).toBe(1);

    const pose = await listOf(await get("?task_type=pose_estimation"));
    expect(pose.total).toBeGreaterThan(0);
    expect(pose.models.every((model) => model.task_types.includes("pose_estimation"))).toBe(true);

    const both = await listOf(await get("?framework=ultralytics&task_type=image_classification"));
    expect(both.models.every((model) => model.model_name.endsWith("-cls"))).toBe(true);
    expect(both.total).toBe(7);
  });

  it("answers an empty list where a framework has no such model", async ({ expect }) => {
    expect(await listOf(await get("?framework=timm&task_type=pose_estimation"))).toEqual({ models: [], total: 0 });
  });

  it("understands the short task names of older clients", async ({ expect }) => {
    const short = await listOf(await get("?task_type=classification"));
    const full = await listOf(await get("?task_type=image_classification"));
    expect(short).toEqual(full);
  });

  it.for([
    ["?framework=huggingface", "framework"],
    ["?framework=", "framework"],
    ["?framework=TIMM", "framework"],
    ["?framework=timm&framework=embedded", "framework"],
    ["?framework=__proto__", "framework"],
    ["?task_type=super_resolution", "task_type"],
    ["?task_type=", "task_type"],
    ["?framework=timm&task_type=constructor", "task_type"],
  ] as const)("refuses %s and names %s", async ([query, field], { expect }) => {
    const response = await get(query);
    expect(response.status).toBe(422);
    expect(await response.json()).toEqual({ detail: expect.any(String), code: "VALIDATION_ERROR", field });
  });

  it("is for users only", async ({ expect }) => {
    for (const authorization of ["", "Bearer nonsense", token]) {
      const response = await get("", authorization);
      expect(response.status).toBe(401);
      expect(response.headers.get("www-authenticate")).toContain("Bearer");
      expect(await response.json()).toMatchObject({ code: "UNAUTHORIZED", field: null });
    }
  });
});
