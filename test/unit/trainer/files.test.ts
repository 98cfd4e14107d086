import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, it } from "vitest";
import { type Checkpoint, CheckpointStore } from "../../../runner/embedded/trainer/files.ts";
import { manifestOf } from "../../../runner/embedded/trainer/train.ts";
import { halvesData } from "./support.ts";

let root = "";
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "trainer-files-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const manifest = manifestOf(halvesData());
const checkpoint = (role: Checkpoint["role"], epoch: number, batch = 0): Checkpoint => ({
  role,
  epoch,
  batch,
  model: { bytes: Uint8Array.of(epoch, batch), manifest },
  state: role === "last" ? Uint8Array.of(1, 2, 3) : null,
});

describe("CheckpointStore", () => {
  it("names what it wrote", async ({ expect }) => {
    const folder = join(root, "named", "deeper");
    const store = new CheckpointStore(folder, 3);
    expect(await store.save(checkpoint("last", 3, 12))).toEqual({
      type: "checkpoint",
      epoch: 3,
      role: "last",
      files: [
        { kind: "model", path: join(folder, "last-0003-0012.onnx"), name: "last.onnx", manifest },
        { kind: "checkpoint", path: join(folder, "last-0003-0012.state"), name: "last.state" },
      ],
    });
    expect((await store.save(checkpoint("best", 3))).files.map(({ name }) => name)).toEqual(["best.onnx"]);
    expect(new Uint8Array(await readFile(join(folder, "last-0003-0012.onnx")))).toEqual(Uint8Array.of(3, 12));
  });

  it("keeps the newest of each role and leaves nothing half written", async ({ expect }) => {
    const folder = join(root, "kept");
    const store = new CheckpointStore(folder, 2);
    await store.save(checkpoint("best", 1));
    for (const epoch of [1, 2, 3, 4]) await store.save(checkpoint("last", epoch));
    expect((await readdir(folder)).sort()).toEqual([
      "best-0001.onnx",
      "last-0003.onnx",
      "last-0003.state",
      "last-0004.onnx",
      "last-0004.state",
    ]);
  });

  it("counts a checkpoint that is saved twice as one", async ({ expect }) => {
    const folder = join(root, "twice");
    const store = new CheckpointStore(folder, 2);
    await store.save(checkpoint("best", 1));
    for (let i = 0; i < 3; i += 1) await store.save(checkpoint("best", 2));
    expect((await readdir(folder)).sort()).toEqual(["best-0001.onnx", "best-0002.onnx"]);
  });
});
