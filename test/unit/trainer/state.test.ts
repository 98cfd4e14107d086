import { describe, it } from "vitest";
import { parameterCount } from "../../../runner/embedded/trainer/network.ts";
import { createRandom } from "../../../runner/embedded/trainer/random.ts";
import {
  decodeState,
  encodeState,
  networkShape,
  type TrainerState,
  whyUnfit,
} from "../../../runner/embedded/trainer/state.ts";
import { manifestOf } from "../../../runner/embedded/trainer/train.ts";
import { halvesData } from "./support.ts";

function someState(optimizerType: TrainerState["optimizerType"] = "adam"): TrainerState {
  const manifest = manifestOf({ ...halvesData(), classNames: ["왼쪽", "__proto__"] });
  const filters: [number, number] = [2, 3];
  const random = createRandom(1);
  const values = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const count = parameterCount(networkShape({ manifest, filters }));
  return {
    manifest,
    filters,
    optimizerType,
    optimizer: {
      weights: values(count),
      first: values(count),
      second: values(optimizerType === "sgd" ? 0 : count),
      step: 123,
    },
    epoch: 3,
    batch: 2,
    partial: { loss: 0.1 + 0.2, correct: 11, images: 16, trainMs: 12.5 },
    best: { value: 0.75, loss: 1 / 3, epoch: 2 },
    plateau: null,
  };
}

describe("encodeState and decodeState", () => {
  it.for(["adam", "adamw", "sgd"] as const)("lose nothing, with %s", (type, { expect }) => {
    const state = someState(type);
    expect(decodeState(encodeState(state))).toEqual({ ok: true, value: state });
  });

  it("read a state that begins anywhere in a buffer", ({ expect }) => {
    const bytes = encodeState(someState());
    const shifted = new Uint8Array(bytes.length + 3);
    shifted.set(bytes, 3);
    expect(decodeState(shifted.subarray(3))).toEqual({ ok: true, value: someState() });
  });

  it("refuse a state that is cut off at any place, or goes on", ({ expect }) => {
    const bytes = encodeState(someState());
    for (let length = 0; length < bytes.length; length += 7) {
      expect(decodeState(bytes.subarray(0, length)).ok, `${length} bytes`).toBe(false);
    }
    expect(decodeState(bytes.subarray(0, bytes.length - 1)).ok).toBe(false);
    expect(decodeState(Uint8Array.of(...bytes, 0)).ok).toBe(false);
  });

  it("refuse another file and a damaged header", ({ expect }) => {
    expect(decodeState(new TextEncoder().encode("PK\u0003\u0004 a zip, not a state"))).toEqual({
      ok: false,
      error: "not a state of this trainer",
    });
    const damaged = encodeState(someState());
    damaged[12] = 0x5b;
    expect(decodeState(damaged)).toEqual({ ok: false, error: "the state's header is damaged" });
    const long = encodeState(someState());
    new DataView(long.buffer).setUint32(8, 0xffffffff, true);
    expect(decodeState(long).ok).toBe(false);
  });
});

describe("whyUnfit", () => {
  const run = { labels: ["왼쪽", "__proto__"], size: 8, optimizerType: "adam", weightsOnly: false } as const;

  it("is null for the run that it comes from", ({ expect }) => {
    expect(whyUnfit(someState(), { ...run, labels: [...run.labels] })).toBeNull();
  });

  it.for([
    ["classes", { labels: ["왼쪽", "오른쪽"] }],
    ["classes", { labels: ["__proto__", "왼쪽"] }],
    ["classes", { labels: ["왼쪽"] }],
    ["pixels", { size: 28 }],
    ["optimizer", { optimizerType: "sgd" as const }],
  ] as const)("speaks of other %s", ([word, changes], { expect }) => {
    expect(
      whyUnfit(someState(), {
        ...run,
        ...changes,
        labels: [...((changes as { labels?: string[] }).labels ?? run.labels)],
      }),
    ).toContain(word);
  });

  it("does not mind another optimizer when only the weights are taken", ({ expect }) => {
    const other = { ...run, labels: [...run.labels], optimizerType: "sgd" as const, weightsOnly: true };
    expect(whyUnfit(someState(), other)).toBeNull();
  });
});
