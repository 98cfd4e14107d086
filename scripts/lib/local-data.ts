import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zipSync } from "fflate";
import { getPlatformProxy, unstable_readConfig } from "wrangler";
import { z } from "zod";
import { readZipContent } from "../../src/training/datasets/content.ts";
import { dice } from "../../src/training/datasets/formats/dice.ts";
import { createDatasetRepository } from "../../src/training/datasets/repository.ts";
import { uploadKeys } from "../../src/training/datasets/upload.ts";
import { digits } from "./digits.ts";
import { loadLocalStrains } from "./local-strains.ts";
import { addUserSql } from "./people.ts";
import { ROOT } from "./wrangler.ts";

/**
 * What the local database starts with, so that the requests of the contracts run as they are printed: user 1, projects 1 and
 * 2, the dataset of the examples, sample strains. It exists nowhere else: a deployment begins empty.
 */
export const LOCAL_USER = {
  id: 1,
  email: "user@example.com",
  password: "password123",
  fullName: "John Doe",
  admin: true,
};

const LOCAL_DATASET_ID = "8ab5c6e4-0f92-4fff-8f4e-441c08d94cef";
const LOCAL_DATASET_PROJECT = 2;
const DIGITS_PER_SPLIT = { train: 20, val: 5 };

/** Raised when the data below change in a way that an existing local database should be made anew for. */
const VERSION = 2;
const MARK = `cultivar-local-data-${VERSION}`;

const BindingsSchema = z.object({ DB: z.custom<D1Database>(), BUCKET: z.custom<R2Bucket>() });

/** A zip in the format dice, layout A, with real digits. */
function localDatasetZip(nowMs: number): Uint8Array {
  const files: Record<string, Uint8Array> = {};
  const images: unknown[] = [];
  let from = 0;
  for (const [split, count] of Object.entries(DIGITS_PER_SPLIT)) {
    for (const { label, index, png } of digits(from, count)) {
      const file_name = `images/digit-${label}-${String(index).padStart(4, "0")}.png`;
      files[file_name] = png;
      images.push({
        id: images.length + 1,
        file_name,
        width: 28,
        height: 28,
        depth: 1,
        split,
        annotation: { class_id: label, class_name: String(label), confidence: 1 },
      });
    }
    from += count;
  }
  const annotations = {
    format_version: "1.0",
    dataset_id: LOCAL_DATASET_ID,
    dataset_name: "My Dataset",
    task_type: "image_classification",
    created_at: new Date(nowMs).toISOString(),
    version: 1,
    classes: Array.from({ length: 10 }, (_, id) => ({ id, name: String(id) })),
    images,
  };
  files["annotations.json"] = new TextEncoder().encode(JSON.stringify(annotations));
  // The pictures are compressed already.
  return zipSync(files, { level: 0 });
}

/**
 * Loads the local data into the state below `stateDir` unless they are there. Migrations must have been applied, and no
 * server may be running on it.
 */
export async function loadLocalData(stateDir: string, nowMs: number): Promise<void> {
  const mark = join(stateDir, "v3", MARK);
  if (existsSync(mark)) return;
  // Only storage is opened: the objects of the Worker have no place in this process.
  const { compatibility_date, d1_databases, r2_buckets } = unstable_readConfig({ config: join(ROOT, "wrangler.toml") });
  const folder = mkdtempSync(join(tmpdir(), "cultivar-local-"));
  const configPath = join(folder, "wrangler.json");
  writeFileSync(configPath, JSON.stringify({ name: "local-data", compatibility_date, d1_databases, r2_buckets }));
  const proxy = await getPlatformProxy({ configPath, persist: { path: join(stateDir, "v3") } });
  try {
    const { DB, BUCKET } = BindingsSchema.parse(proxy.env);
    const known = await DB.prepare("SELECT count(*) AS n FROM users").first<{ n: number }>();
    if (known?.n === 0) {
      const people = `${await addUserSql(LOCAL_USER, nowMs)}
        INSERT INTO projects (owner_id, name, is_default, created_at, updated_at) VALUES (1, 'My Project', 0, ${nowMs}, ${nowMs});
        INSERT INTO project_members (project_id, user_id, role, created_at) VALUES (2, 1, 'owner', ${nowMs});`;
      await DB.batch(
        people
          .split(";\n")
          .filter((statement) => statement.trim() !== "")
          .map((statement) => DB.prepare(statement)),
      );
      await loadDataset(DB, BUCKET, nowMs);
    }
    await loadLocalStrains(DB, BUCKET, nowMs);
  } finally {
    await proxy.dispose();
    rmSync(folder, { recursive: true });
  }
  writeFileSync(mark, "");
}

async function loadDataset(db: D1Database, bucket: R2Bucket, nowMs: number): Promise<void> {
  const zip = localDatasetZip(nowMs);
  const read = await readZipContent(
    {
      sizeBytes: zip.byteLength,
      read: async (offset, length) => zip.subarray(offset, offset + length),
      stream: async (offset) => new Blob([Uint8Array.from(zip.subarray(offset))]).stream(),
    },
    dice,
  );
  const [storageKey] = uploadKeys(LOCAL_DATASET_ID);
  if (!read.ok || storageKey === undefined)
    throw new Error(`local dataset: ${read.ok ? "no key" : read.error.message}`);
  const { summary, files, ...content } = read.value;
  await bucket.put(storageKey, zip);
  await createDatasetRepository(db).create(
    {
      id: LOCAL_DATASET_ID,
      projectId: LOCAL_DATASET_PROJECT,
      ownerId: LOCAL_USER.id,
      name: "My Dataset",
      description: "Handwritten digits (MNIST)",
      format: summary.format,
      layout: summary.layout,
      visibility: "private",
      taskType: summary.taskType,
      fileCount: files.length,
      totalSizeBytes: content.totalSizeBytes,
      numClasses: summary.numClasses,
      classNames: summary.classNames,
      classDistribution: summary.classDistribution,
      splits: summary.splits,
      warnings: content.warnings,
      contentHash: content.contentHash,
      createdAt: nowMs,
      updatedAt: nowMs,
    },
    storageKey,
    files,
    null,
  );
}
