/** Builds what would be deployed to production and holds its size against a budget. Needs no account and no network. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runWrangler } from "./lib/wrangler.ts";

/** The platform takes 64 MiB; ONNX Runtime, the image codecs and the SVG rasteriser are 16.7 MiB of it (4.6 MiB compressed). */
const BUDGET_KIB = { raw: 20 * 1024, gzip: 6 * 1024 };

const folder = mkdtempSync(join(tmpdir(), "cultivar-bundle-"));
try {
  const output = await runWrangler(["deploy", "--dry-run", "--env", "production", "--outdir", folder]);
  const match = /Total Upload: ([\d.]+) KiB \/ gzip: ([\d.]+) KiB/.exec(output);
  if (match === null) throw new Error(`wrangler printed no size:\n${output}`);
  const size = { raw: Number(match[1]), gzip: Number(match[2]) };
  const fits = size.raw <= BUDGET_KIB.raw && size.gzip <= BUDGET_KIB.gzip;
  console.log(
    `bundle: ${size.raw} KiB of ${BUDGET_KIB.raw}, gzip ${size.gzip} KiB of ${BUDGET_KIB.gzip}${fits ? "" : ": too large"}`,
  );
  process.exitCode = fits ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true });
}
