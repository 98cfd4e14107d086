import { describe, it } from "vitest";
import { z } from "zod";
import { FILTERS, parameterCount } from "../../../runner/embedded/trainer/network.ts";
import { findModel, listModels } from "../../../src/training/models/catalogue.ts";
import { canonicalTaskType, FRAMEWORKS, ModelSchema, TASK_TYPES } from "../../../src/training/models/schemas.ts";

const all = listModels();
const framework = (name: string) => all.filter((entry) => entry.framework === name);

describe("model catalogue", () => {
  it("has the declared shape in every entry", ({ expect }) => {
    expect(z.array(ModelSchema.strict()).parse(all)).toEqual(all);
  });

  it("names each model once within its framework", ({ expect }) => {
    const keys = all.map((entry) => JSON.stringify([entry.framework, entry.model_name]));
    expect(new Set(keys).size).toBe(all.length);
  });

  it("describes each model in one line of its own", ({ expect }) => {
    expect(new Set(all.map((entry) => entry.description)).size).toBe(all.length);
    for (const { description } of all) expect(description).toMatch(/^[^\n]{20,140}$/);
  });

  it("holds no framework that nothing can run", ({ expect }) => {
    expect(new Set(all.map((entry) => entry.framework))).toEqual(new Set(FRAMEWORKS));
    expect(all.some((entry) => entry.model_name.startsWith("facebook/"))).toBe(false);
  });

  it("marks hosted models as inference only and gives every other one a starting point", ({ expect }) => {
    for (const entry of all) {
      const hosted = entry.framework === "workers-ai";
      expect(entry.trainable, entry.model_name).toBe(!hosted);
      expect(entry.recommended_batch_size === null, entry.model_name).toBe(hosted);
      expect(entry.recommended_learning_rate === null, entry.model_name).toBe(hosted);
    }
  });

  it("keeps the task of a YOLO model in step with its suffix", ({ expect }) => {
    const tasks = { "": "object_detection", seg: "instance_segmentation", pose: "pose_estimation" };
    const bySuffix: Record<string, string> = { ...tasks, cls: "image_classification" };
    for (const entry of framework("ultralytics")) {
      expect(entry.task_types, entry.model_name).toEqual([bySuffix[entry.model_name.split("-")[1] ?? ""]]);
    }
    for (const size of ["n", "s", "m", "l", "x"]) expect(findModel("ultralytics", `yolo11${size}-cls`)).toBeDefined();
  });

  it("states the parameters of the network that the embedded trainer really builds", ({ expect }) => {
    const entry = findModel("embedded", "cnn_small");
    const count = parameterCount({ size: entry?.default_image_size ?? 0, channels: 1, classes: 10, filters: FILTERS });
    expect(entry?.parameters).toBe(`${(count / 1e6).toFixed(2)}M`);
    expect(entry).toMatchObject({ pretrained: false, recommended_batch_size: 32, recommended_learning_rate: 0.001 });
  });
});

describe("findModel", () => {
  it("finds the contract's example", ({ expect }) => {
    expect(findModel("timm", "resnet50")).toMatchObject({
      model_name: "resnet50",
      framework: "timm",
      task_types: ["image_classification"],
      default_image_size: 224,
      parameters: "25.6M",
      pretrained: true,
    });
  });

  it("does not find a model under another framework, in another spelling, or through a crafted key", ({ expect }) => {
    for (const [of, name] of [
      ["ultralytics", "resnet50"],
      ["timm", "ResNet50"],
      ["timm", ""],
      ["workers-ai/microsoft", "resnet-50"],
      ["__proto__", "constructor"],
      ["huggingface", "google/vit-base-patch16-224"],
    ] as const) {
      expect(findModel(of, name), `${of} ${name}`).toBeUndefined();
    }
  });
});

describe("listModels", () => {
  it("combines both filters", ({ expect }) => {
    const listed = listModels({ framework: "ultralytics", task_type: "image_classification" });
    expect(listed.map((entry) => entry.model_name)).toEqual([
      "yolo11n-cls",
      "yolo11s-cls",
      "yolo11m-cls",
      "yolo11l-cls",
      "yolo11x-cls",
      "yolov8n-cls",
      "yolov8s-cls",
    ]);
  });

  it("splits into the frameworks without loss", ({ expect }) => {
    expect(FRAMEWORKS.flatMap((name) => listModels({ framework: name })).length).toBe(all.length);
    expect(listModels({ framework: "timm", task_type: "pose_estimation" })).toEqual([]);
  });
});

describe("canonicalTaskType", () => {
  it("maps short and hyphenated names to the contract's", ({ expect }) => {
    expect(canonicalTaskType("classification")).toBe("image_classification");
    expect(canonicalTaskType("detection")).toBe("object_detection");
    expect(canonicalTaskType("segmentation")).toBe("instance_segmentation");
    expect(canonicalTaskType("pose")).toBe("pose_estimation");
    expect(canonicalTaskType("semantic-segmentation")).toBe("semantic_segmentation");
    for (const task of TASK_TYPES) expect(canonicalTaskType(task)).toBe(task);
  });

  it("leaves anything else for the schema to refuse", ({ expect }) => {
    for (const text of ["", "constructor", "Classification", "super_resolution"]) {
      expect(canonicalTaskType(text)).toBe(text);
      expect(TASK_TYPES.some((task) => task === canonicalTaskType(text))).toBe(false);
    }
  });
});
