import { readFileSync } from "node:fs";
import { it } from "vitest";
import { WIRE_FILE, wireSchema } from "../../../scripts/gen-runner-wire.ts";

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
