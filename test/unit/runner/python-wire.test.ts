import { readFileSync } from "node:fs";
import { it } from "vitest";
import { WIRE_FILE, wireSchema } from "../../../scripts/gen-runner-wire.ts";
import { specOf } from "../../../src/training/jobs/spec.ts";

it("the Python runner has the schema of today's protocol", ({ expect }) => {
  expect(readFileSync(WIRE_FILE, "utf8"), "run: node scripts/gen-runner-wire.ts").toBe(wireSchema());
});

it("what the runner may leave out and what it may be sent is in the schema", ({ expect }) => {
  const { $defs } = JSON.parse(wireSchema());
  expect($defs.ClaimRequest.required).toEqual(["instance_id"]);
  expect($defs.Timers.properties.lease_s.default).toBe(60);
  expect($defs.AcceptAnswer.properties.timers).toEqual({ $ref: "#/$defs/Timers" });
  expect($defs.CallbackAnswer.properties.missing.items).toEqual({ type: "array", items: { type: "integer" } });
});

it("the Python trainers ask for nothing of a job that the server does not hand out", ({ expect }) => {
  const file = readFileSync(new URL("../../../runner/cultivar_runner/trainer/messages.py", import.meta.url), "utf8");
  const body = /class JobSpec\(BaseModel\):\n([\s\S]*?)\n\n\nclass /.exec(file)?.[1] ?? "";
  const asked = [...body.matchAll(/^ {4}(\w+): /gm)].map(([, name]) => name);
  const handedOut = Object.keys(specOf({} as Parameters<typeof specOf>[0]).wire);
  expect(asked.length).toBeGreaterThan(10);
  expect(asked.filter((name) => !handedOut.includes(name ?? ""))).toEqual([]);
});
