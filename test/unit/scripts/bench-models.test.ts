import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "vitest";
import { type ModelRow, modelVerdict, renderModels } from "../../../scripts/bench/models.ts";
import { openNative, versionIn } from "../../../scripts/bench/native.ts";
import { readOptions } from "../../../scripts/bench/options.ts";

const row = (changes: Partial<ModelRow> = {}): ModelRow => ({
  name: "a model",
  target: { timesNative: 7 },
  firstMs: 500.4,
  loadMs: 200.2,
  warmMs: 241,
  processorMs: 240,
  nativeMs: 120,
  nativeFloatMs: 40,
  ...changes,
});

describe("the table of models", () => {
  it("shows both files of ONNX Runtime and judges by the faster", ({ expect }) => {
    const [, , line] = renderModels([row()], true).split("\n");
    expect(line).toBe("| a model | 500 (200) | 241.0 | 240.0 | 120.0 | 2.0 | 40.0 | 6.0 | ✓ at most 7 |");
    expect(modelVerdict(row({ nativeFloatMs: 30 }))).toEqual({ met: false, text: "at most 7" });
    expect(modelVerdict(row({ nativeMs: 30 }))?.met).toBe(false);
  });

  it("has no verdict without ONNX Runtime, and none where there is no target", ({ expect }) => {
    const alone = row({ nativeMs: null, nativeFloatMs: null });
    expect(renderModels([alone], true).split("\n")[2]).toBe(
      "| a model | 500 (200) | 241.0 | 240.0 | – | – | – | – |  |",
    );
    expect([modelVerdict(alone), modelVerdict(row({ target: null }))]).toEqual([null, null]);
    expect(modelVerdict(row({ processorMs: null }))).toBeNull();
  });

  it("compares nothing with next to nothing", ({ expect }) => {
    const tiny = row({ target: { warmMs: 15 }, warmMs: 14, nativeMs: 0.2, nativeFloatMs: null });
    expect(renderModels([tiny], true).split("\n")[2]).toContain("| 0.2 | – |");
    expect(modelVerdict(tiny)).toEqual({ met: true, text: "at most 15 ms" });
    expect(modelVerdict({ ...tiny, warmMs: 16 })?.met).toBe(false);
  });
});

describe("when the table is made", () => {
  it("is at the end of a whole run, and of no quick one or of chosen scenarios", ({ expect }) => {
    expect([readOptions([]).models, readOptions(["--quick"]).models, readOptions(["--only", "job"]).models]).toEqual([
      true,
      false,
      false,
    ]);
  });

  it("can be chosen, with scenarios or alone, quick or not", ({ expect }) => {
    expect(readOptions(["--only", "models"])).toMatchObject({ models: true, only: [] });
    expect(readOptions(["--only", "job,models", "--quick", "--native", "/x"])).toMatchObject({
      models: true,
      only: ["job"],
      native: "/x",
    });
  });
});

describe("ONNX Runtime beside the Worker", () => {
  const never = (text: string) => {
    throw new Error(`said ${text}`);
  };

  it("is left out when that is asked for", async ({ expect }) => {
    expect(await openNative("none", never)).toBeNull();
  });

  it("is an error where the chosen folder lacks it, or has one that does not run", async ({ expect }) => {
    const folder = mkdtempSync(join(tmpdir(), "cultivar-native-"));
    try {
      await expect(openNative(folder, never)).rejects.toThrow(/has no onnxruntime-node/);
      const inside = join(folder, "node_modules", "onnxruntime-node");
      mkdirSync(inside, { recursive: true });
      writeFileSync(join(inside, "package.json"), JSON.stringify({ version: "1.2.3", main: "index.js" }));
      expect(versionIn(folder)).toBe("1.2.3");
      writeFileSync(join(inside, "index.js"), "process.exit(3);");
      const said: string[] = [];
      await expect(openNative(folder, (text) => said.push(text))).rejects.toThrow(/ended/);
      expect(said).toEqual([expect.stringContaining("is 1.2.3")]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
