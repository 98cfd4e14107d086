import { env } from "cloudflare:workers";
import { describe, it } from "vitest";
import { call, person } from "../../support/api.ts";

describe("a new deployment, without any data", () => {
  it("answers every read with nothing", async ({ expect }) => {
    expect((await call("GET", "/api/strains")).body).toEqual({ success: true, data: [], total: 0 });
    expect((await call("GET", "/api/predictions")).body).toEqual({
      success: true,
      data: [],
      total: 0,
      page: 1,
      limit: 10,
      hasMore: false,
    });
    expect((await call("GET", "/api/predictions/existing-combinations")).body).toEqual({
      success: true,
      data: { combinationIds: [], total: 0, hasMore: false },
    });
    expect((await call("GET", "/api/observations")).body).toMatchObject({ data: [], total: 0 });
    expect((await call("GET", "/api/crosses/ranking")).body).toMatchObject({ data: [], total: 0 });
    expect((await call("GET", "/api/crosses/suggestions")).body).toMatchObject({ data: { suggestions: [] } });
    expect((await call("GET", "/api/combining-ability")).body).toMatchObject({ data: { strains: [], crosses: [] } });
    expect((await call("GET", "/api/model")).body).toMatchObject({ data: { strains: 0, observations: 0 } });
    expect((await call<string>("GET", "/api/strains/export")).status).toBe(200);
  });

  it("predicts as soon as two strains are there", async ({ expect }) => {
    const { token } = await person();
    const phenotype = {
      weight: 50,
      length: 44,
      width: 43,
      sugarContent: 5,
      firmness: 0.5,
      skinThickness: 5,
      shape: "round",
    };
    for (const id of ["A", "B"])
      expect((await call("POST", "/api/strains", { token, body: { id, phenotype } })).status).toBe(201);
    const answer = await call("POST", "/api/predictions", { body: { maleStrainId: "A", femaleStrainId: "B" } });
    expect(answer.status).toBe(201);
    expect(await env.DB.prepare("select prediction_count from breeding_state").first()).toEqual({
      prediction_count: 1,
    });
  });
});
