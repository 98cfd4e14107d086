import { createModelRepository } from "../../src/breeding/model/repository.ts";
import { createModelStore } from "../../src/breeding/model/store.ts";
import { createStrainRepository } from "../../src/breeding/strains/repository.ts";
import { SAMPLE_SOURCE, sampleStrains } from "../../src/breeding/strains/sample.ts";

/** Loads the sample strains into a database that has no strains, and fits the model that predictions start from. */
export async function loadLocalStrains(db: D1Database, bucket: R2Bucket, nowMs: number): Promise<void> {
  const known = await db.prepare("SELECT count(*) AS n FROM strains").first<{ n: number }>();
  if (known?.n !== 0) return;
  const records = sampleStrains().map((strain) => ({ ...strain, shapeKo: null }));
  await createStrainRepository(db).load(records, { source: SAMPLE_SOURCE, isSample: true }, nowMs);
  await createModelStore({ models: createModelRepository(db), bucket, now: () => nowMs }).refit();
}
