import { beforeAll, describe, it } from "vitest";
import { call, type Person, person } from "../../support/api.ts";
import { countedDb, loadSamples, newStrainId, workerWith } from "../../support/breeding.ts";

let user: Person;
beforeAll(async () => {
  await loadSamples();
  user = await person();
  // The model is fitted and the cross has pictures: what follows is the usual case.
  await call("POST", "/api/predictions", {
    body: { maleStrainId: "TC1_022", femaleStrainId: "TC1_023", options: { generateImage: true } },
  });
});

const PHENOTYPE = {
  weight: 52.1,
  length: 43.2,
  width: 45.9,
  sugarContent: 5.6,
  firmness: 0.62,
  skinThickness: 5.1,
  shape: "round",
};

/** Statements per round trip to the database of one call; a user's token is always sent. */
async function trips(method: string, path: string, body?: unknown, variables: Record<string, unknown> = {}) {
  const { db, trips } = countedDb();
  const answer = await workerWith({ DB: db, ...variables })(method, path, { token: user.token, body });
  if (answer.status >= 300) throw new Error(`${answer.status} ${JSON.stringify(answer.body)}`);
  return trips.map((trip) => trip.length);
}

const READS = [
  "/api/strains?type=both&search=tc1",
  "/api/strains/TC1_022",
  "/api/strains/export",
  "/api/predictions?page=1&limit=10",
  "/api/predictions/existing-combinations",
  "/api/predictions/by-combination/TC1_022/TC1_023",
  "/api/predictions/by-combination/TC1_023-TC1_022",
  "/api/observations?strainId=TC1_022",
  "/api/model",
  "/api/crosses/ranking?min=sugarContent:4",
  "/api/crosses/suggestions?count=1",
  "/api/combining-ability",
  "/images/tomato/strains/TC1_022.png",
];

/** What a change of the data costs beside its own batch: reading everything for the fit, publishing the fit. */
const FIT = [3, 3];

describe("round trips to the database", () => {
  it.for(READS)("one statement reads %s, in both phases", async (path, { expect }) => {
    expect(await trips("GET", path)).toEqual([1]);
    expect(await trips("GET", path, undefined, { BREEDING_PHASE: "2" })).toEqual([1]);
  });

  it("a picture of a cross is served without the database", async ({ expect }) => {
    const created = await call("POST", "/api/predictions", {
      body: { maleStrainId: "TC1_022", femaleStrainId: "TC1_023", options: { generateImage: true } },
    });
    const [url = ""] = (created.body.data as { generatedImages: string[] }).generatedImages;
    expect(await trips("GET", url)).toEqual([]);
  });

  it("a prediction is one statement and one batch; with pictures that exist, too", async ({ expect }) => {
    const cross = { maleStrainId: "TC1_022", femaleStrainId: "TC1_023" };
    expect(await trips("POST", "/api/predictions", cross)).toEqual([1, 3]);
    expect(await trips("POST", "/api/predictions", { ...cross, options: { generateImage: true } })).toEqual([1, 3]);
  });

  it("new pictures cost one batch more, for their numbers", async ({ expect }) => {
    const cross = { maleStrainId: "TC1_026", femaleStrainId: "TC1_027", options: { generateImage: true } };
    expect(await trips("POST", "/api/predictions", cross)).toEqual([1, 3, 4]);
  });

  it("a change of a strain is one batch, then one fit", async ({ expect }) => {
    const id = newStrainId();
    expect(await trips("POST", "/api/strains", { id, phenotype: PHENOTYPE })).toEqual([4, ...FIT]);
    expect(await trips("PUT", `/api/strains/${id}`, { phenotype: PHENOTYPE })).toEqual([3, ...FIT]);
    expect(await trips("DELETE", `/api/strains/${id}`)).toEqual([3, ...FIT]);
  });

  it("an import is one batch and one fit, however many rows it has", async ({ expect }) => {
    const file = (count: number) =>
      ["id,weight", ...Array.from({ length: count }, () => `${newStrainId()},5`)].join("\n");
    expect(await trips("POST", "/api/strains/import?allowMissing=true", file(1))).toEqual([3, ...FIT]);
    expect(await trips("POST", "/api/strains/import?allowMissing=true", file(100))).toEqual([3, ...FIT]);
    expect(await trips("POST", "/api/strains/import?allowMissing=true&dryRun=true", file(100))).toEqual([1]);
  });

  it("an observation reads once for its forecast, then one batch and one fit", async ({ expect }) => {
    const observation = { femaleStrainId: "TC1_023", maleStrainId: "TC1_022", phenotype: { weight: 50 } };
    expect(await trips("POST", "/api/observations", observation)).toEqual([1, 4, ...FIT]);
    const listed = await call("GET", "/api/observations?limit=1");
    const [{ id } = { id: "" }] = listed.body.data as { id: string }[];
    expect(await trips("DELETE", `/api/observations/${id}`)).toEqual([4, ...FIT]);
    const rows = Array.from({ length: 50 }, (_, i) => `TC1_023,TC1_022,${40 + i}`);
    const file = ["female,male,weight", ...rows].join("\n");
    expect(await trips("POST", "/api/observations/import", file)).toEqual([1, 4, ...FIT]);
  });
});
